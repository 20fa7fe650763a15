"""What `dvc.lock` says of the model repository: every file, its size and its md5, DVC's own content address."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from serving._errors import LockError
from serving._repository import only_line_ends_differ

REPOSITORY = "model_repository"


@dataclass(frozen=True)
class Output:
    """A file or, where the md5 ends in `.dir`, a folder that a stage makes."""

    path: str
    md5: str
    size: int

    @property
    def is_folder(self) -> bool:
        """Whether the md5 is that of a listing."""
        return self.md5.endswith(".dir")


@dataclass(frozen=True)
class Release:
    """One dvc.lock: the revision that names it, the stages that make models, and what they make.

    Attributes:
        revision: sha256 of dvc.lock, as hexadecimal digits.
        stages: names of the stages with outputs in the model repository.
        outputs: those outputs.
    """

    revision: str
    stages: list[str]
    outputs: list[Output]

    @property
    def models(self) -> list[str]:
        """Names of the models."""
        return sorted({Path(output.path).parts[1] for output in self.outputs})

    @classmethod
    def read(cls, lock: Path) -> Release:
        """Read a dvc.lock.

        Raises:
            LockError: it is absent, is not DVC's, or has no model in it.
        """
        try:
            # A revision is not another one because git has changed the ends of lines on checkout (core.autocrlf).
            content = lock.read_bytes().replace(b"\r\n", b"\n")
            stages: dict[str, Any] = yaml.safe_load(content)["stages"]
            made = {name: list(_outputs(stage)) for name, stage in stages.items()}
        except FileNotFoundError as error:
            raise LockError(f"{lock} does not exist: build a model first, with `slipway build MODEL`") from error
        except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise LockError(f"{lock} is not a lock file of DVC ({type(error).__name__}: {error})") from error
        outputs = [output for several in made.values() for output in several]
        if not outputs:
            raise LockError(f"{lock} names no file of {REPOSITORY}/: build a model first, with `slipway build MODEL`")
        return cls(hashlib.sha256(content).hexdigest(), [name for name, several in made.items() if several], outputs)


def _outputs(stage: dict[str, Any]) -> Iterator[Output]:
    for out in stage.get("outs", []):
        if str(out["path"]).startswith(f"{REPOSITORY}/"):
            yield Output(str(out["path"]), str(out["md5"]), int(out["size"]))


def object_path(name: str) -> str:
    """Where DVC keeps an object, in a cache and in a remote."""
    return f"files/md5/{name[:2]}/{name[2:]}"


def files(output: Output, cache: Path) -> dict[str, str]:
    """The files of an output, with the md5 of each.

    A folder whose listing DVC's cache has not, or has damaged, is one entry, with the md5 of the listing.
    """
    listing = cache / object_path(output.md5)
    if not output.is_folder or not is_as_named(listing, output.md5):
        return {output.path: output.md5}
    return {f"{output.path}/{entry['relpath']}": str(entry["md5"]) for entry in json.loads(listing.read_bytes())}


def is_as_named(path: Path, name: str) -> bool:
    """Whether the file is there and has the content that an object of this name has."""
    return path.is_file() and md5(path) == name.removesuffix(".dir")


def md5(path: Path) -> str:
    """DVC's hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def folder_md5(folder: Path) -> str:
    """DVC's hash of a folder: that of its listing, sorted by path."""
    entries = [
        {"md5": md5(path), "relpath": path.relative_to(folder).as_posix()}
        for path in folder.rglob("*")
        if path.is_file()
    ]
    entries.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(entries).encode(), usedforsecurity=False).hexdigest() + ".dir"


def changed(root: Path, outputs: list[Output]) -> list[str]:
    """Paths of the outputs that are absent below `root`, or hold other bytes than the lock says."""
    return [output.path for output in outputs if not _is_as_locked(root / output.path, output)]


def has_other_line_ends(root: Path, output: Output) -> bool:
    """Whether an output that changed is text that git has written with CRLF."""
    path = root / output.path
    return path.is_file() and only_line_ends_differ(path, _md5, output.md5)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _is_as_locked(path: Path, output: Output) -> bool:
    if output.is_folder:
        return path.is_dir() and folder_md5(path) == output.md5
    return path.is_file() and path.stat().st_size == output.size and md5(path) == output.md5
