"""`slipway build`: change the configuration if asked, then let DVC run what is stale."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dvc.dvcfile import LOCK_FILE, Lockfile
from dvc.exceptions import DvcException, ReproductionError
from dvc.repo import Repo
from dvc.rwlock import RWLockFileCorruptedError
from dvc.stage.exceptions import StageCmdFailedError
from dvc.utils.serialize import ParseError
from dvc.utils.strictyaml import YAMLValidationError
from ruamel.yaml import YAML

from model_build._errors import BuildError, ConfigurationError, DataError
from model_build.config import CONFIG_DIRECTORY, ServedConfig, load_config, read_config
from model_build.config.editing import edit, parse_overrides
from model_build.files import write_file
from model_build.precision.variants import VARIANTS
from model_build.recipe import load_export_recipe, load_recipe
from model_build.sources import PIPELINE, hashes
from model_build.stages.layout import BuildFiles

FILES_STAGE, FIRST_STAGE, LAST_STAGE = "files", "data", "repository"
NO_LOCK = b"schema: '2.0'\n"


class StageFailed(BuildError):
    """A stage ended with `code`, after it said why; one that a signal ended said nothing."""

    def __init__(self, stage: str, code: int) -> None:
        names = {one.value: one.name for one in signal.Signals if one != signal.SIGINT}  # of which a stage tells itself
        died = names.get(-code if code < 0 else code - 128)
        super().__init__(f"stage {stage} was ended by {died}" if died else f"stage {stage} failed: see above")
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
    with _restored_if_it_fails(workspace / PIPELINE):
        return _build(workspace, model, force)


def _build(workspace: Path, model: str, force: bool) -> list[str]:
    # Stages call `python`: the interpreter that runs this, whether or not its environment is activated.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    try:
        try:
            return _reproduce(workspace, model, force)
        except ReproductionError as error:
            if not isinstance(error.__cause__, RWLockFileCorruptedError):
                raise
            # Read while DVC's own guard is held: a DVC that was killed left its list of locks cut off.
            (workspace / ".dvc" / "tmp" / "rwlock").unlink(missing_ok=True)
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


@contextlib.contextmanager
def _restored_if_it_fails(path: Path) -> Iterator[None]:
    """Put the file's content back when the block raises; a model that could not be built is in no list then."""
    before = path.read_bytes() if path.is_file() else None
    try:
        yield
    except BaseException:
        if before is not None and path.read_bytes() != before:
            write_file(path, before)
        raise


def override(workspace: Path, model: str, overrides: Sequence[str]) -> None:
    """Write Hydra overrides into the model's configuration, each on its line, once the result is a valid one."""
    path = workspace / CONFIG_DIRECTORY / f"{model}.yaml"
    before = path.read_bytes().decode()
    text = before
    for change in parse_overrides(overrides):
        text = edit(text, change)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / path.name).write_bytes(text.encode())
        read_config(Path(folder), model, path)
    if text != before:
        write_file(path, text.encode())


def _reproduce(workspace: Path, model: str, force: bool) -> list[str]:
    _bring_in_line(workspace, model)
    with Repo(str(workspace)) as repo:
        _mend_lock(repo)
        stages = _stages(repo, model)
        ran = []
        hashing = [stage for stage in stages if _kind(stage) == FILES_STAGE]
        stages = [stage for stage in stages if stage not in hashing]
        if hashing:
            _hash_sources(repo, workspace, model, hashing)
        if not force and _data_changed(workspace, model):
            first = [stage for stage in stages if _kind(stage) == FIRST_STAGE]
            ran = repo.reproduce(targets=first, force=True, single_item=True)
        # In the order of dvc.yaml (DVC's own is another in each process), and the public name last: a kill before it
        # leaves the old one on the old variants, or beside the new ones.
        stages.sort(key=lambda stage: _kind(stage) == LAST_STAGE)
        ran += repo.reproduce(targets=stages, force=force, single_item=True)
        _forget_dropped(workspace, model, [*hashing, *stages])
        return [str(stage.addressing) for stage in ran]


def _mend_lock(repo: Repo) -> None:
    """Keep a copy of dvc.lock, and put it back where a DVC that was killed left the file cut off: it writes in place.

    What was built since then runs again, or comes out of DVC's cache of runs.

    Raises:
        BuildError: the file is cut off and there is no copy yet.
    """
    lock, kept = Path(repo.root_dir) / LOCK_FILE, Path(str(repo.tmp_dir)) / f"{LOCK_FILE}.whole"
    try:
        Lockfile(repo, str(lock)).load()
        write_file(kept, lock.read_bytes() if lock.is_file() else NO_LOCK)
    except (ParseError, YAMLValidationError) as error:
        if not kept.is_file():
            raise BuildError(f"{lock} is no lock file that DVC can read: `git checkout {LOCK_FILE}`") from error
        write_file(lock, kept.read_bytes())


def _stages(repo: Repo, model: str) -> list[str]:
    """Addresses of the model's stages in dvc.yaml."""
    return [stage.addressing for stage in repo.index.stages if stage.addressing.endswith(f"@{model}")]


def _kind(stage: str) -> str:
    """`data` of `embedder-data@embedder`."""
    return stage.rpartition(":")[2].partition("@")[0].rpartition("-")[2]


def _hash_sources(repo: Repo, workspace: Path, model: str, stages: Sequence[str]) -> None:
    """Do what stage files does, where its file would be another one or is not in the lock, and lock it.

    Here, because DVC would start that stage, of seconds, in each build.
    """
    path = BuildFiles(workspace, model).sources
    content = hashes(workspace, load_config(workspace, model))
    locked = Lockfile(repo, str(workspace / LOCK_FILE)).load().get("stages", {})
    if path.is_file() and path.read_bytes() == content and all(one.rpartition(":")[2] in locked for one in stages):
        return
    write_file(path, content)
    for stage in stages:
        repo.commit(stage, force=True)


def _bring_in_line(workspace: Path, model: str) -> None:
    """Write the model into the lists of its kind in dvc.yaml, and of the variants that it has; comments are kept."""
    config = load_config(workspace, model)
    kind = load_export_recipe(config).stages
    variants = config.precision.variants if isinstance(config, ServedConfig) else []
    path = workspace / PIPELINE
    document, content = _read_yaml(path)
    stages = {name: stage for name, stage in content["stages"].items() if name.rpartition("-")[0] == kind[:-1]}
    if not stages:
        raise BuildError(f"{path} has no stages '{kind}...' for the recipe of model '{model}': add them")
    changed = False
    for name, stage in stages.items():
        models, variant = stage["matrix"]["model"], name.removeprefix(kind)
        wanted = variant not in VARIANTS or variant in variants
        if wanted and model not in models:
            models.append(model)
            changed = True
        elif not wanted and model in models:
            models.remove(model)
            changed = True
    if missing := sorted(set(variants) - {name.removeprefix(kind) for name in stages}):
        raise ConfigurationError(
            f"precision.variants of '{model}' has {', '.join(missing)}, and its recipe is not served in other "
            f"precisions: expected []"
        )
    if changed:
        _write_yaml(path, document, content)


def _forget_dropped(workspace: Path, model: str, stages: Sequence[str]) -> None:
    """Remove what the model's stages that are no more have written and locked: nothing would build it again.

    Called once the public name is routed to none of it; what a kill leaves is removed the next time.
    """
    lock = workspace / LOCK_FILE
    if not lock.is_file():
        return
    document, content = _read_yaml(lock)
    known = {stage.rpartition(":")[2] for stage in stages}  # from another folder DVC puts its dvc.yaml before each
    gone = [one for one in content["stages"] if one.endswith(f"@{model}") and one not in known]
    for stage in gone:
        outs = content["stages"].pop(stage).get("outs", [])
        for folder in {Path(out["path"]).parts[1] for out in outs if out["path"].startswith("model_repository/")}:
            shutil.rmtree(workspace / "model_repository" / folder, ignore_errors=True)
    if gone:
        _write_yaml(lock, document, content)


def _read_yaml(path: Path) -> tuple[YAML, Any]:
    document = YAML()
    document.width, document.preserve_quotes = 120, True
    if path.name == PIPELINE:  # DVC writes its lock in ruamel's own way
        document.indent(mapping=2, sequence=4, offset=2)
    return document, document.load(path.read_text())


def _write_yaml(path: Path, document: YAML, content: Any) -> None:
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
