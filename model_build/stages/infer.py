"""Stage infer: the exported model answers the held-out part; metrics to JSON and MLflow, predictions to CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from model_build import tracking
from model_build.config import ModelConfig
from model_build.files import sha256, write_files
from model_build.recipe import load_recipe
from model_build.stages.layout import BuildFiles


def run(workspace: Path, config: ModelConfig) -> str:
    """Write `metrics.json` and `predictions.csv`; return a line with the metric."""
    files = BuildFiles(workspace, config.name)
    recipe = load_recipe(config)
    found = recipe.infer(files)
    metrics = {"metric": recipe.metric, "value": found.value, "examples": found.examples, **found.details}
    with tracking.resumed_run(workspace, config.name, sha256(files.weights)) as mlflow:
        numbers = {name: value for name, value in found.details.items() if isinstance(value, float)}
        mlflow.log_metrics({f"test_{name}": value for name, value in {recipe.metric: found.value, **numbers}.items()})
        write_files(
            {files.predictions: _csv(found.predictions), files.metrics: json.dumps(metrics, indent=2).encode() + b"\n"}
        )
        mlflow.log_artifact(str(files.predictions))
    return f"held-out {recipe.metric} {found.value:.4f} on {found.examples} examples"


def _csv(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
