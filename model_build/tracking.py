"""MLflow: one run for each training, to which the later stages add what they find.

Without `MLFLOW_TRACKING_URI` runs go to a SQLite store in `build/mlflow/`. A training's run is found by the hash of its
weights (tag `slipway.weights_sha256`): weights that came by `dvc pull` begin a run of their own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from model_build._errors import BuildError
from model_build.provenance import Commit

WEIGHTS_TAG = "slipway.weights_sha256"
_LOCAL_STORE = Path("build/mlflow")


@contextlib.contextmanager
def training_run(workspace: Path, model: str) -> Iterator[ModuleType]:
    """Begin the MLflow run of a training; gives the mlflow module."""
    with _reported():
        mlflow = _connected(workspace, model)
        with mlflow.start_run(tags=_commit_tags(workspace)):
            yield mlflow


@contextlib.contextmanager
def resumed_run(workspace: Path, model: str, weights_sha256: str) -> Iterator[ModuleType]:
    """Go on with the run that trained these weights, or begin one where this store has none."""
    with _reported():
        mlflow = _connected(workspace, model)
        known = mlflow.search_runs(
            filter_string=f"tags.`{WEIGHTS_TAG}` = '{weights_sha256}'", max_results=1, output_format="list"
        )
        if known:
            with mlflow.start_run(run_id=known[0].info.run_id):
                yield mlflow
        else:
            with mlflow.start_run(tags={**_commit_tags(workspace), WEIGHTS_TAG: weights_sha256}):
                yield mlflow


def _commit_tags(workspace: Path) -> dict[str, str]:
    commit = Commit.of(workspace)
    return {"slipway.git.commit": commit.sha, "slipway.git.dirty": str(commit.dirty).lower()}


def _connected(workspace: Path, model: str) -> ModuleType:
    """The mlflow module, with the experiment of `model` as its own."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a server that is away is said within seconds
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    import mlflow

    location = None
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        store = (workspace / _LOCAL_STORE).absolute()
        store.mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(f"sqlite:///{store / 'mlflow.db'}")
        location = (store / "artifacts").as_uri()
    experiment = mlflow.get_experiment_by_name(model)
    if experiment is not None and location and experiment.artifact_location != location:
        # The workspace was moved or copied: what was logged before stays where it was, under its old place's name.
        mlflow.MlflowClient().rename_experiment(experiment.experiment_id, f"{model}, {experiment.artifact_location}")
        experiment = None
    if experiment is None:
        mlflow.create_experiment(model, artifact_location=location)
    mlflow.set_experiment(model)
    module: ModuleType = mlflow
    return module


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    """Turn the failures of MLflow and of its artifact store into one line."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("mlflow", "botocore", "boto3", "requests", "sqlalchemy"):
            raise
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"the SQLite store in {_LOCAL_STORE}"
        reason = str(error).splitlines()[0][:200]
        raise BuildError(f"MLflow at {uri} failed ({reason}): start it, or unset MLFLOW_TRACKING_URI") from error
