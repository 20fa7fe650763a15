"""What a model is made of beside what its stages in `dvc.yaml` name.

That is `files:` and `data.path` of its configuration, and the recipe's own modules. Their hashes are a file that each
stage depends on (`build/<model>/files.json`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from model_build._errors import ConfigurationError
from model_build.config import CONFIG_DIRECTORY, ModelConfig
from model_build.files import sha256
from model_build.imports import own_modules
from model_build.recipe import Recipe, load_export_recipe
from model_build.stages.layout import BuildFiles

PIPELINE = "dvc.yaml"


def hashes(workspace: Path, config: ModelConfig) -> bytes:
    """Return the content of `files.json`: sha256 of each file, and of each folder with all that lies in it.

    Raises:
        ConfigurationError: `files` names something that is not there, or that is neither a file nor a folder.
    """
    found = {_name(path, workspace): _hash_source(path) for path in own_sources(workspace, config)}
    for name in config.files:
        path = workspace / name
        if not path.exists():
            raise ConfigurationError(
                f"files of '{config.name}' has '{name}', and nothing is at {path}: expected files or folders, relative "
                f"to the workspace; correct {CONFIG_DIRECTORY / config.name}.yaml"
            )
        found[name] = _hash_source(path)
    return (json.dumps(found, indent=2, ensure_ascii=False, sort_keys=True) + "\n").encode()


def own_sources(workspace: Path, config: ModelConfig) -> list[Path]:
    """The recipe's own modules that no stage of the model in `dvc.yaml` names, and what lies at `data.path`.

    The latter only where the recipe's `source_sha256` does not look at it.
    """
    known = pipeline_files(workspace, config.name)
    modules = [
        path
        for path in own_modules(config.recipe, workspace.resolve())
        if not any(path.is_relative_to(one) for one in known)
    ]
    data = data_path(workspace, config)
    recipe = load_export_recipe(config)
    says = isinstance(recipe, Recipe) and type(recipe).source_sha256 is not Recipe.source_sha256
    return [*modules, *([data] if data and not says and data.exists() else [])]


def data_path(workspace: Path, config: ModelConfig) -> Path | None:
    """What `data.path` names, where the configuration has such a key and it is not null."""
    given = getattr(getattr(config, "data", None), "path", None)
    return workspace / given if given else None


def pipeline_files(workspace: Path, model: str) -> list[Path]:
    """What the model's stages in `dvc.yaml` read and write, as they are named and resolved."""
    root = workspace.resolve()
    names = {name for _, stage in _stages(workspace, model) for name in _names(stage)}
    return sorted({place for name in names for place in (root / name, (root / name).resolve())})


def watches_sources(workspace: Path, model: str, stage: str) -> bool:
    """Whether the model's `stage` in `dvc.yaml` depends on `files.json`."""
    wanted = str(BuildFiles(Path(), model).sources)
    names = [list(_names(found)) for name, found in _stages(workspace, model) if name.rpartition("-")[2] == stage]
    return all(wanted in one for one in names)


def _stages(workspace: Path, model: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The model's stages, with its name in their paths."""
    try:
        text = (workspace / PIPELINE).read_text(encoding="utf-8").replace("${item.model}", model)
        stages = yaml.safe_load(text)["stages"]
    except FileNotFoundError:
        return
    for name, stage in stages.items():
        if model in stage.get("matrix", {}).get("model", [model]):
            yield name, stage


def _names(stage: dict[str, Any]) -> Iterator[str]:
    for kind in ("deps", "outs", "metrics", "plots"):
        yield from (one if isinstance(one, str) else next(iter(one)) for one in stage.get(kind, ()))


def _name(path: Path, workspace: Path) -> str:
    """Relative to the workspace where it lies there, so that a clone elsewhere finds the same names."""
    root = workspace.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _hash_source(path: Path) -> str:
    if path.is_file():
        return sha256(path)
    if not path.is_dir():
        raise ConfigurationError(f"{path} is neither a file nor a folder: expected one of them")
    content = hashlib.sha256()
    for one in sorted(_below(path)):
        inside = sha256(one) if one.is_file() else "a folder"  # an empty one may be a class without examples
        content.update(os.fsencode(one.relative_to(path)) + b"\0" + inside.encode() + b"\n")
    return content.hexdigest()


def _below(folder: Path) -> Iterator[Path]:
    """All files and folders, through links to folders too, and through each once."""
    entered = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        entered.add(Path(here).resolve())
        folders[:] = [one for one in folders if one != "__pycache__" and (Path(here) / one).resolve() not in entered]
        yield from (path for name in names if (path := Path(here) / name).is_file())
        yield from (Path(here) / one for one in folders)
