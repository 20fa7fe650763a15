"""Stage repository: measure the exported model on held-out data; write the model repository, or refuse."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from model_build import tracking
from model_build._errors import GateRefused
from model_build.config import ModelConfig
from model_build.files import sha256, write_files
from model_build.provenance import Commit, tool_versions
from model_build.recipe import Dataset, Floats, Recipe, load_recipe
from model_build.stages.layout import BuildFiles
from model_build.target import TARGET
from model_build.triton_config import LABELS_FILE, cpu_config, gpu_config

SCHEMA_VERSION = 1


def run(workspace: Path, config: ModelConfig) -> str:
    """Write the model's folder of the repository; return a line with its score.

    Raises:
        GateRefused: the held-out accuracy is below `gate.min_accuracy`; the repository stays as it was.
    """
    files = BuildFiles(workspace, config.name)
    recipe = load_recipe(config)
    dataset = Dataset.from_file(files.data)
    content = files.onnx.read_bytes()
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    accuracy = held_out_accuracy(session, dataset)
    with tracking.resumed_run(workspace, config.name, sha256(files.weights)) as mlflow:
        mlflow.log_metrics({"test_accuracy": accuracy})
        _refuse_below(accuracy, config)
        _log_model(mlflow, content, dataset.test_inputs[:1], session)
    request, response = golden(session, config, dataset.test_inputs[:1])
    contents = {
        "config.pbtxt": gpu_config(config, session),
        "configs/cpu.pbtxt": cpu_config(config, session),
        LABELS_FILE: _labels(recipe),
        "golden/request.json": request,
        "golden/response.json": response,
        "1/model.onnx": content,
    }
    manifest = _manifest(workspace, config, dataset, contents, accuracy)
    contents["manifest.json"] = json.dumps(manifest, indent=2).encode() + b"\n"
    write_files({files.repository / name: data for name, data in contents.items()})
    return f"held-out accuracy {accuracy:.4f} (gate {config.gate.min_accuracy}), written to {files.repository}"


def held_out_accuracy(session: ort.InferenceSession, dataset: Dataset) -> float:
    """Share of the test part that ONNX Runtime classifies correctly."""
    name = session.get_inputs()[0].name
    answers = [session.run(None, {name: batch})[0] for batch in _batches(dataset.test_inputs)]
    return float((np.concatenate(answers).argmax(axis=1) == dataset.test_labels).mean())


def golden(session: ort.InferenceSession, config: ModelConfig, example: Floats) -> tuple[bytes, bytes]:
    """Bodies of a request and of its answer in the v2 inference protocol's JSON; `example` float32 `[1, ...]`."""
    node, output = session.get_inputs()[0], session.get_outputs()[0]
    (answer,) = session.run([output.name], {node.name: example})
    request = {"inputs": [_tensor(node.name, example)], "outputs": [{"name": output.name}]}
    response = {
        "model_name": config.name,
        "model_version": "1",
        "parameters": {"atol": config.gate.golden_atol},
        "outputs": [_tensor(output.name, answer)],
    }
    return json.dumps(request).encode() + b"\n", json.dumps(response).encode() + b"\n"


def _tensor(name: str, array: Floats) -> dict[str, Any]:
    return {"name": name, "datatype": "FP32", "shape": list(array.shape), "data": array.ravel().tolist()}


def _batches(inputs: Floats) -> list[Floats]:
    return np.split(inputs, range(256, len(inputs), 256))


def _refuse_below(accuracy: float, config: ModelConfig) -> None:
    if accuracy < config.gate.min_accuracy:
        raise GateRefused(
            f"held-out accuracy {accuracy:.4f} is below gate.min_accuracy {config.gate.min_accuracy}: "
            f"model_repository/{config.name} was not changed; train longer or on more data"
        )


def _labels(recipe: Recipe) -> bytes:
    return "".join(f"{label}\n" for label in recipe.labels).encode()


def _log_model(mlflow: Any, content: bytes, example: Floats, session: ort.InferenceSession) -> None:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def schema(nodes: Any) -> Schema:
        return Schema([TensorSpec(np.dtype(np.float32), (-1, *node.shape[1:]), node.name) for node in nodes])

    mlflow.onnx.log_model(
        onnx.load_from_string(content),
        name="model",
        signature=ModelSignature(schema(session.get_inputs()), schema(session.get_outputs())),
        pip_requirements=[f"{tool}=={version}" for tool, version in tool_versions().items() if tool in _SERVING_TOOLS],
        save_as_external_data=False,
    )


_SERVING_TOOLS = ("onnx", "onnxruntime", "numpy")


def _manifest(
    workspace: Path, config: ModelConfig, dataset: Dataset, contents: dict[str, bytes], accuracy: float
) -> dict[str, Any]:
    commit = Commit.of(workspace)
    model = onnx.load_from_string(contents["1/model.onnx"])
    return {
        "schema": SCHEMA_VERSION,
        "model": config.name,
        "version": 1,
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in contents.items()
        },
        "onnx": {"opset": config.export.opset, "ir_version": model.ir_version, "nodes": len(model.graph.node)},
        "target": {"triton": TARGET.triton_release, "onnxruntime": TARGET.onnxruntime},
        "gate": {
            "metric": "accuracy",
            "value": accuracy,
            "minimum": config.gate.min_accuracy,
            "examples": len(dataset.test_labels),
        },
        "data": {"source": dataset.source, "sha256": dataset.source_sha256},
        "seed": config.seed,
        "git": {"commit": commit.sha, "dirty": commit.dirty},
        "tools": tool_versions(),
    }
