"""Stage repository: what passed the gate is renamed into model_repository/, where Triton serves it."""

from __future__ import annotations

import json
from pathlib import Path

from model_build._errors import ConfigurationError, DataError
from model_build.config import ModelConfig, ServedConfig
from model_build.files import write_files
from model_build.precision.variants import VARIANTS
from model_build.stages.layout import STAGED_BASE, STAGED_INDEX, BuildFiles


def run(workspace: Path, config: ModelConfig, variant: str | None = None) -> str:
    """Write the model's folders, or those of one variant; return a line that names them.

    Raises:
        ConfigurationError: the configuration has no such variant.
        DataError: the gate has staged nothing.
    """
    assert isinstance(config, ServedConfig)  # dvc.yaml has this stage for no other
    if variant is not None and variant not in config.precision.variants:
        raise ConfigurationError(
            f"dvc.yaml asks for variant '{variant}' of {config.name}, whose precision.variants are "
            f"{config.precision.variants} out of {[*VARIANTS]}: run `slipway build {config.name}`, which brings "
            "dvc.yaml in line"
        )
    files = BuildFiles(workspace, config.name)
    names = _staged(files, variant or STAGED_BASE)
    contents: dict[Path, bytes] = {}
    for name in names:
        source = files.staged / "repository" / name
        found = sorted(path for path in source.rglob("*") if path.is_file() and path.name != "manifest.json")
        for path in (*found, source / "manifest.json"):
            contents[files.repository / name / path.relative_to(source)] = path.read_bytes()
    write_files(contents)
    for name in names:
        _remove_others(files.repository / name, contents)
    return f"written to {files.repository.name}/: {', '.join(names)}"


def _staged(files: BuildFiles, stage: str) -> list[str]:
    path = files.staged / STAGED_INDEX
    try:
        names: list[str] = json.loads(path.read_text())[stage]
        return names
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not what stage gate writes ({error!r}): run `dvc repro`") from error


def _remove_others(folder: Path, contents: dict[Path, bytes]) -> None:
    """What an earlier build has served from this folder and this one does not."""
    for path in folder.rglob("*"):
        if path.is_file() and path not in contents and not path.name.startswith(".") and path.suffix != ".pyc":
            path.unlink()
