"""The model repository before anything is served: which models there are, and that every byte is the one built."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from serving._errors import RepositoryError


@dataclass(frozen=True)
class ServedModel:
    """A model folder whose files are those its manifest lists."""

    name: str
    directory: Path

    @property
    def golden_request(self) -> Path:
        """Body of an inference request (JSON of the v2 protocol)."""
        return self.directory / "golden" / "request.json"

    @property
    def golden_response(self) -> Path:
        """The answer to that request (JSON of the v2 protocol), `parameters.atol` the tolerance."""
        return self.directory / "golden" / "response.json"


def verified_models(repository: Path) -> list[ServedModel]:
    """Return the models of `repository`, each file of each compared with the sha256 in its manifest.

    What is no model is left out: files beside the models, hidden and empty folders, and what git brings of a model that
    was never built here (`unbuilt_models`).

    Raises:
        RepositoryError: there is no model, or a file is missing, changed or not built.
    """
    folders = _model_folders(repository)
    if not folders:
        raise RepositoryError(f"the model repository {repository} is empty: run `slipway build MODEL` first")
    built = [folder for folder in folders if not _is_unbuilt(folder)]
    if not built:
        models = sorted({built_by(folder) for folder in folders})
        raise RepositoryError(
            f"no model of {repository} is built here: run `slipway build {models[0]}`, or `dvc pull` its stage (`dvc "
            "stage list`) where a remote has it"
        )
    return [_verified(folder) for folder in built]


def unbuilt_models(repository: Path) -> list[str]:
    """Names of the models of which git has brought the configuration, and nobody the rest."""
    return [folder.name for folder in _model_folders(repository) if _is_unbuilt(folder)]


def _model_folders(repository: Path) -> list[Path]:
    if not repository.is_dir():
        raise RepositoryError(f"the model repository {repository} is no folder: pass --repository, or build a model")
    folders = [path for path in repository.iterdir() if path.is_dir() and not _is_passed_over(PurePath(path.name))]
    return sorted(folder for folder in folders if next(_files(folder), None))


def _is_passed_over(path: PurePath) -> bool:
    """Whether it is hidden, or what Python leaves: Triton takes none of it for a model."""
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def _files(folder: Path) -> Iterator[PurePath]:
    """Paths of what is in a model's folder, other than hidden files and what Python leaves there."""
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if not _is_passed_over(relative) and (path.is_symlink() or not path.is_dir()):
            yield relative


_FROM_GIT = ("config.pbtxt", "labels.txt", "configs/*.pbtxt", "*/*.py")
_WRITTEN_BY = re.compile(r"# Written by `slipway build ([^`\s]+)`")


def _is_unbuilt(folder: Path) -> bool:
    """Whether all that is there is what git has of a model of Slipway's: no manifest, weights or golden answer."""
    in_git = all(any(path.match(pattern) for pattern in _FROM_GIT) for path in _files(folder))
    return in_git and _builder(folder) is not None


def _verified(folder: Path) -> ServedModel:
    name = folder.name
    remedy = _remedy(folder)
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        raise RepositoryError(_without_manifest(folder, remedy))
    listed = _listed_files(manifest, remedy)
    _check_complete(folder, listed, remedy)
    for relative, expected in listed.items():
        path = folder / relative
        if not path.is_file():
            raise RepositoryError(f"model '{name}' lacks {path}: {remedy}")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            if only_line_ends_differ(path, lambda content: hashlib.sha256(content).hexdigest(), expected):
                remedy = crlf_remedy(folder.parent, ".")
            raise RepositoryError(
                f"model '{name}': {path} is not the file that was built (sha256 {found[:12]}…, the manifest says "
                f"{expected[:12]}…): {remedy}"
            )
    return ServedModel(name, folder)


def _remedy(folder: Path) -> str:
    if made_elsewhere(folder):
        return (
            "bring back what was there, or write its manifest anew (docs/reference.md, 'A repository made elsewhere')"
        )
    return f"run `slipway build {built_by(folder)}`, or `dvc pull` its stage (`dvc stage list`) where a remote has it"


def made_elsewhere(folder: Path) -> bool:
    """Whether nothing says that `slipway build` has made this folder: no advice is to build it then."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return not (_builder(folder) or json.loads((folder / "manifest.json").read_bytes())["model"])
    return _builder(folder) is None


def _without_manifest(folder: Path, remedy: str) -> str:
    if _builder(folder):
        return f"model '{folder.name}' has no {folder / 'manifest.json'}: it was not built, or not completely; {remedy}"
    needed = ("config.pbtxt", "golden/request.json", "golden/response.json")
    lacking = [*(name for name in needed if not (folder / name).is_file()), "manifest.json"]
    return (
        f"model '{folder.name}' in {folder} was not made by `slipway build`, and it lacks {', '.join(lacking)}, by "
        "which it is verified: docs/reference.md has the lines that write them in 'A repository made elsewhere'"
    )


def crlf_remedy(folder: Path, *paths: str) -> str:
    """What helps where git has written the ends of lines anew on checkout, and so the bytes that are hashed."""
    git, what = f"git -C {shlex.quote(str(folder))}", " ".join(paths)
    return (
        f"git has changed its line ends to CRLF: run `{git} config core.autocrlf false`, then `{git} rm -rq --cached "
        f"{what}` and `{git} checkout HEAD -- {what}`"
    )


def only_line_ends_differ(path: Path, digest: Callable[[bytes], str], expected: str) -> bool:
    """Whether the file would have the expected digest with line ends as Slipway writes them."""
    content = path.read_bytes()
    return b"\r\n" in content and digest(content.replace(b"\r\n", b"\n")) == expected


def built_by(folder: Path) -> str:
    """The model whose build writes this folder."""
    return _builder(folder) or folder.name


def _builder(folder: Path) -> str | None:
    """What config.pbtxt says of that in its first line."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if match := _WRITTEN_BY.match((folder / "config.pbtxt").read_text(encoding="utf-8")):
            return match[1]
    return None


def _check_complete(folder: Path, listed: dict[str, str], remedy: str) -> None:
    """Refuse a manifest that leaves out what Triton would take: any version, configuration, library or model code."""
    needed = {"config.pbtxt", "golden/request.json", "golden/response.json"}
    if missing := sorted(needed - set(listed)):
        raise RepositoryError(f"model '{folder.name}': {folder / 'manifest.json'} does not list {missing}: {remedy}")
    for path in _files(folder):
        if path.as_posix() not in {*listed, "manifest.json"}:
            raise RepositoryError(
                f"model '{folder.name}': {folder / path} is in no manifest and would be served: remove it"
            )


def _listed_files(manifest: Path, remedy: str) -> dict[str, str]:
    try:
        content: dict[str, Any] = json.loads(manifest.read_text())
        return {relative: str(entry["sha256"]) for relative, entry in content["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RepositoryError(f"{manifest} is not a manifest of Slipway ({error!r}): {remedy}") from error
