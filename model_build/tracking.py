"""MLflow: one run for each training, to which the later stages add what they find.

Without `MLFLOW_TRACKING_URI` runs go to a SQLite store in `build/mlflow/`. The id of a training's run lies beside its
weights, and names them by hash: weights that came by `dvc pull` begin a run of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from model_build._errors import BuildError
from model_build.files import write_file
from model_build.provenance import Commit

_LOCAL_STORE = Path("build/mlflow")


@contextlib.contextmanager
def training_run(workspace: Path, model: str) -> Iterator[ModuleType]:
    """Begin the MLflow run of a training; gives the mlflow module."""
    with _reported(), _started(workspace, model, None) as mlflow:
        yield mlflow


@contextlib.contextmanager
def resumed_run(workspace: Path, model: str, weights_sha256: str) -> Iterator[ModuleType]:
    """Go on with the run that trained these weights, or begin one where this store has none."""
    run_id = None
    with contextlib.suppress(OSError, ValueError, KeyError):
        note = json.loads(_note(workspace, model).read_text())
        run_id = note["run_id"] if note["weights_sha256"] == weights_sha256 else None
    with _reported(), _started(workspace, model, run_id) as mlflow:
        yield mlflow


def remember_run(workspace: Path, model: str, run_id: str, weights_sha256: str) -> None:
    """Note which run trained these weights."""
    note = {"run_id": run_id, "weights_sha256": weights_sha256}
    write_file(_note(workspace, model), json.dumps(note).encode())


def _note(workspace: Path, model: str) -> Path:
    return workspace / "build" / model / "mlflow_run.json"


@contextlib.contextmanager
def _started(workspace: Path, model: str, run_id: str | None) -> Iterator[ModuleType]:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a server that is away is said within seconds
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    import mlflow

    store = (workspace / _LOCAL_STORE).absolute()
    local = not os.environ.get("MLFLOW_TRACKING_URI")
    if local:
        store.mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(f"sqlite:///{store / 'mlflow.db'}")
    if mlflow.get_experiment_by_name(model) is None:
        mlflow.create_experiment(model, artifact_location=(store / "artifacts").as_uri() if local else None)
    mlflow.set_experiment(model)
    known = run_id is not None and _knows(mlflow, run_id)
    commit = Commit.of(workspace)
    tags = {"slipway.git.commit": commit.sha, "slipway.git.dirty": str(commit.dirty).lower()}
    with mlflow.start_run(run_id=run_id if known else None, tags=tags):
        yield mlflow


def _knows(mlflow: ModuleType, run_id: str) -> bool:
    try:
        mlflow.get_run(run_id)
    except mlflow.exceptions.MlflowException:
        return False
    return True


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    """Turn MLflow's failures into one line."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "mlflow":
            raise
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"the SQLite store in {_LOCAL_STORE}"
        reason = str(error).splitlines()[0][:200]
        raise BuildError(f"MLflow at {uri} failed ({reason}): start it, or unset MLFLOW_TRACKING_URI") from error
