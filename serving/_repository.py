"""The model repository before anything is served: which models there are, and that every byte is the one built."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
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

    Raises:
        RepositoryError: there is no model, or a file is missing, changed or not built.
    """
    if not repository.is_dir():
        raise RepositoryError(f"the model repository {repository} is no folder: pass --repository, or build a model")
    folders = sorted(path for path in repository.iterdir() if path.is_dir())
    if not folders:
        raise RepositoryError(f"the model repository {repository} is empty: run `slipway build MODEL` first")
    return [_verified(folder) for folder in folders]


def _verified(folder: Path) -> ServedModel:
    name = folder.name
    remedy = f"run `slipway build {built_by(folder)}`, or `dvc pull` its stage (`dvc stage list`) where a remote has it"
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        raise RepositoryError(f"model '{name}' has no {manifest}: it was not built, or not completely; {remedy}")
    listed = _listed_files(manifest, remedy)
    _check_complete(folder, listed, remedy)
    for relative, expected in listed.items():
        path = folder / relative
        if not path.is_file():
            raise RepositoryError(f"model '{name}' lacks {path}: {remedy}")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            raise RepositoryError(
                f"model '{name}': {path} is not the file that was built (sha256 {found[:12]}…, the manifest says "
                f"{expected[:12]}…): {remedy}"
            )
    return ServedModel(name, folder)


def built_by(folder: Path) -> str:
    """The model whose build writes this folder: config.pbtxt says so in its first line."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if match := re.match(r"# Written by `slipway build ([^`\s]+)`", (folder / "config.pbtxt").read_text()):
            return match[1]
    return folder.name


def _check_complete(folder: Path, listed: dict[str, str], remedy: str) -> None:
    """Refuse a manifest that leaves out what Triton would take: any version, configuration, library or model code."""
    needed = {"config.pbtxt", "golden/request.json", "golden/response.json"}
    if missing := sorted(needed - set(listed)):
        raise RepositoryError(f"model '{folder.name}': {folder / 'manifest.json'} does not list {missing}: {remedy}")
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        ours = str(relative) in listed or str(relative) == "manifest.json" or (path.is_dir() and not path.is_symlink())
        if not ours and not path.name.startswith(".") and "__pycache__" not in relative.parts:
            raise RepositoryError(f"model '{folder.name}': {path} is in no manifest and would be served: remove it")


def _listed_files(manifest: Path, remedy: str) -> dict[str, str]:
    try:
        content: dict[str, Any] = json.loads(manifest.read_text())
        return {relative: str(entry["sha256"]) for relative, entry in content["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RepositoryError(f"{manifest} is not a manifest of Slipway ({error!r}): {remedy}") from error
