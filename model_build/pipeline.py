"""`slipway build`: change the configuration if asked, then let DVC run what is stale."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dvc.exceptions import DvcException, ReproductionError
from dvc.repo import Repo
from dvc.stage.exceptions import StageCmdFailedError
from dvc.utils.hydra import apply_overrides

from model_build._errors import BuildError, ConfigurationError
from model_build.config import CONFIG_DIRECTORY, load_config, read_config
from model_build.files import write_file

LAST_STAGE = "repository"


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
    _remove_torn_lock(workspace)
    # Stages call `python`: the interpreter that runs this, whether or not its environment is activated.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    target = f"{LAST_STAGE}@{model}"
    try:
        with Repo(str(workspace)) as repo:
            ran = repo.reproduce(targets=[target], force=force)
            return [str(stage.addressing) for stage in ran]
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


def _remove_torn_lock(workspace: Path) -> None:
    """Remove DVC's list of locks when a killed DVC left it cut off; it holds nothing of a DVC that lives."""
    path = workspace / ".dvc" / "tmp" / "rwlock"
    with contextlib.suppress(FileNotFoundError):
        try:
            json.loads(path.read_text())
        except ValueError:
            path.unlink()
