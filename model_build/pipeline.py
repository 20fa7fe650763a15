"""`slipway build`: change the configuration if asked, then let DVC run what is stale."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dvc.exceptions import DvcException, ReproductionError
from dvc.repo import Repo
from dvc.rwlock import RWLockFileCorruptedError
from dvc.stage.exceptions import StageCmdFailedError
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from model_build._errors import BuildError, ConfigurationError, DataError
from model_build.config import CONFIG_DIRECTORY, load_config, read_config
from model_build.files import write_file
from model_build.recipe import load_export_recipe, load_recipe
from model_build.stages.layout import BuildFiles

FIRST_STAGE = "data"
PIPELINE = "dvc.yaml"


class StageFailed(BuildError):
    """A stage ended with `code`, after it said why."""

    def __init__(self, stage: str, code: int) -> None:
        super().__init__(f"stage {stage} failed: see above")
        self.code = code


def build(workspace: Path, model: str, overrides: Sequence[str] = (), force: bool = False) -> list[str]:
    """Bring the model's folder of the repository up to date; return the stages that ran.

    Args:
        workspace: folder with `dvc.yaml`.
        model: a name in `model_build/conf/`.
        overrides: Hydra overrides (`train.epochs=5`), written into the model's configuration before the build.
        force: run every stage, stale or not.

    Raises:
        ConfigurationError: an override that the configuration does not take; nothing was changed.
        StageFailed: a stage failed, after it printed its reason.
        BuildError: DVC failed.
    """
    load_config(workspace, model)
    if overrides:
        override(workspace, model, overrides)
    # Stages call `python`: the interpreter that runs this, whether or not its environment is activated.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    try:
        try:
            return _reproduce(workspace, model, force)
        except RWLockFileCorruptedError:
            # Raised while DVC's own guard is held: a DVC that was killed left its list of locks cut off.
            (workspace / ".dvc" / "tmp" / "rwlock").unlink()
            return _reproduce(workspace, model, force)
    except ReproductionError as error:
        cause = error.__cause__
        # DVC keeps the stage's name and exit status in its messages only.
        status = re.search(r"exited with (-?\d+)$", str(cause)) if isinstance(cause, StageCmdFailedError) else None
        if status:
            raise StageFailed(str(error).rpartition(" ")[2].strip("'"), int(status[1])) from error
        raise BuildError(f"DVC: {cause or error}") from error
    except DvcException as error:
        raise BuildError(f"DVC: {error}") from error


def override(workspace: Path, model: str, overrides: Sequence[str]) -> None:
    """Write Hydra overrides into the model's configuration, comments kept, once the result is a valid one."""
    path = workspace / CONFIG_DIRECTORY / f"{model}.yaml"
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / path.name
        shutil.copy(path, trial)
        try:
            apply_overrides(str(trial), list(overrides))
        except DvcException as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0].rstrip(".")
            raise ConfigurationError(
                f"{' '.join(overrides)}: {reason}: expected key=value with a key of {path}"
            ) from error
        read_config(Path(folder), model, path)
        if trial.read_bytes() != path.read_bytes():
            write_file(path, trial.read_bytes())


def _reproduce(workspace: Path, model: str, force: bool) -> list[str]:
    with Repo(str(workspace)) as repo:
        known = bool(_stages(repo, model))
    if not known:
        _add(workspace, model)
    with Repo(str(workspace)) as repo:  # opened again: it keeps the dvc.yaml that it has read
        stages = _stages(repo, model)
        ran = []
        if not force and _data_changed(workspace, model):
            first = [stage for stage in stages if stage.partition("@")[0].endswith(FIRST_STAGE)]
            ran = repo.reproduce(targets=first, force=True, single_item=True)
        ran += repo.reproduce(targets=stages, force=force)
        return [str(stage.addressing) for stage in ran]


def _stages(repo: Repo, model: str) -> list[str]:
    """Addresses of the model's stages in dvc.yaml."""
    return [stage.addressing for stage in repo.index.stages if stage.addressing.endswith(f"@{model}")]


def _add(workspace: Path, model: str) -> None:
    """Write a model that dvc.yaml does not know into the list of its kind, comments kept."""
    kind = load_export_recipe(load_config(workspace, model)).stages
    path = workspace / PIPELINE
    document = YAML()
    document.width, document.preserve_quotes = 120, True
    document.indent(mapping=2, sequence=4, offset=2)
    content = document.load(path.read_text())
    lists = [
        stage["matrix"]["model"] for name, stage in content["stages"].items() if name.rpartition("-")[0] == kind[:-1]
    ]
    if not lists:
        raise BuildError(f"{path} has no stages '{kind}...' for the recipe of model '{model}': add them")
    lists[0].append(model)
    text = io.StringIO()
    document.dump(content, text)
    write_file(path, text.getvalue().encode())


def _data_changed(workspace: Path, model: str) -> bool:
    """Whether the file or folder that `data.path` names is another than the one the data set was made of.

    DVC knows the path from the configuration, and not what lies there.
    """
    config = load_config(workspace, model)
    if not getattr(getattr(config, "data", None), "path", None):
        return False
    recipe, files = load_recipe(config), BuildFiles(workspace, model)
    try:
        made_of = recipe.made_of_sha256(files)
    except (DataError, FileNotFoundError):
        return False  # stage data has not run, or its files are not whole: DVC knows
    with contextlib.chdir(workspace), contextlib.suppress(DataError):  # where stages read a relative path from
        return made_of != recipe.source_sha256()
    return True
