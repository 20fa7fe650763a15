"""Stage repository: gate on the held-out metric; write what Triton serves, or refuse."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from tritonclient.utils import np_to_triton_dtype

from model_build import tracking
from model_build._errors import DataError, GateRefused
from model_build.config import ModelConfig, ServedConfig
from model_build.files import sha256, write_files
from model_build.provenance import Commit, tool_versions
from model_build.recipe import Array, Recipe, ServedModel, load_recipe
from model_build.stages.layout import BuildFiles
from model_build.target import TARGET
from model_build.triton_config import to_text

SCHEMA_VERSION = 2


def run(workspace: Path, config: ModelConfig) -> str:
    """Write the model's folders of the repository; return a line with its score.

    Raises:
        GateRefused: the held-out metric is below `gate.minimum`; the repository stays as it was.
    """
    assert isinstance(config, ServedConfig)  # dvc.yaml has this stage for no other
    files = BuildFiles(workspace, config.name)
    recipe = load_recipe(config)
    metrics = _metrics(files)
    served = recipe.serve(files)
    with tracking.resumed_run(workspace, config.name, sha256(files.weights)) as mlflow:
        _refuse_below(metrics, config)
        for model in served:
            _log_graphs(mlflow, model)
    contents: dict[Path, bytes] = {}
    for model in served:
        folder = files.repository / model.name
        folder_contents = _folder(model, config)
        manifest = _manifest(workspace, config, recipe, files, metrics, folder_contents)
        folder_contents["manifest.json"] = json.dumps(manifest, indent=2).encode() + b"\n"
        contents |= {folder / name: content for name, content in folder_contents.items()}
    write_files(contents)
    names = ", ".join(model.name for model in served)
    measured = f"held-out {metrics['metric']} {metrics['value']:.4f} (gate {config.gate.minimum:g})"
    return f"{measured}, written to {files.repository.name}/: {names}"


def _metrics(files: BuildFiles) -> dict[str, Any]:
    try:
        metrics: dict[str, Any] = json.loads(files.metrics.read_bytes())
        return {**metrics, "metric": str(metrics["metric"]), "value": float(metrics["value"])}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{files.metrics} is not what stage infer writes ({error!r}): run `dvc repro`") from error


def _refuse_below(metrics: Mapping[str, Any], config: ServedConfig) -> None:
    if not metrics["value"] >= config.gate.minimum:
        raise GateRefused(
            f"held-out {metrics['metric']} {metrics['value']:.4f} is below gate.minimum {config.gate.minimum:g}: "
            "model_repository/ was not changed; train longer or on more data"
        )


def _folder(model: ServedModel, config: ServedConfig) -> dict[str, bytes]:
    """Every file of one served model but its manifest."""
    request, response = golden(model, config.gate.golden_atol)
    return {
        "config.pbtxt": to_text(model.gpu, config.name),
        "configs/cpu.pbtxt": to_text(model.cpu, config.name),
        "golden/request.json": request,
        "golden/response.json": response,
        **model.files,
    }


def golden(model: ServedModel, atol: float) -> tuple[bytes, bytes]:
    """Bodies of a request and of its answer in the v2 inference protocol's JSON."""
    request = {
        "inputs": [_tensor(name, array) for name, array in model.inputs.items()],
        "outputs": [{"name": name} for name in model.outputs],
    }
    parameters = {"atol": atol}
    if model.cpu.model_transaction_policy.decoupled:
        parameters["stream"] = True  # text is the pieces joined, a number the last one
    response = {
        "model_name": model.name,
        "model_version": "1",
        "parameters": parameters,
        "outputs": [_tensor(name, array) for name, array in model.outputs.items()],
    }
    return _json(request), _json(response)


def _json(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode() + b"\n"


def _tensor(name: str, array: Array) -> dict[str, Any]:
    datatype = np_to_triton_dtype(array.dtype)
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": array.ravel().tolist()}


def _log_graphs(mlflow: Any, model: ServedModel) -> None:
    """The ONNX files as MLflow models: `model` where it is the only one, else by the names of their files."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def schema(tensors: Any) -> Schema:
        return Schema(
            [TensorSpec(np.dtype(_onnx_dtype(one)), _onnx_shape(one), one.name) for one in tensors],
        )

    graphs = {Path(name).stem: content for name, content in model.files.items() if name.endswith(".onnx")}
    for name, content in graphs.items():
        graph = onnx.load_from_string(content)
        mlflow.onnx.log_model(
            graph,
            name=name if len(graphs) > 1 else "model",
            signature=ModelSignature(schema(graph.graph.input), schema(graph.graph.output)),
            pip_requirements=[f"{tool}=={version}" for tool, version in tool_versions().items() if tool in _RUNTIME],
            save_as_external_data=False,
        )


_RUNTIME = ("onnx", "onnxruntime", "numpy")


def _onnx_dtype(tensor: Any) -> Any:
    return onnx.helper.tensor_dtype_to_np_dtype(tensor.type.tensor_type.elem_type)


def _onnx_shape(tensor: Any) -> tuple[int, ...]:
    """-1 where it is dynamic."""
    return tuple(one.dim_value or -1 for one in tensor.type.tensor_type.shape.dim)


def _manifest(
    workspace: Path,
    config: ServedConfig,
    recipe: Recipe[Any],
    files: BuildFiles,
    metrics: Mapping[str, Any],
    contents: Mapping[str, bytes],
) -> dict[str, Any]:
    commit = Commit.of(workspace)
    graphs = {name: onnx.load_from_string(data) for name, data in contents.items() if name.endswith(".onnx")}
    source, source_sha256 = recipe.source(files)
    return {
        "schema": SCHEMA_VERSION,
        "model": config.name,
        "version": 1,
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in contents.items()
        },
        "onnx": {
            name: {"opset": config.export.opset, "ir_version": graph.ir_version, "nodes": len(graph.graph.node)}
            for name, graph in graphs.items()
        },
        "target": {"triton": TARGET.triton_release, "onnxruntime": TARGET.onnxruntime},
        "gate": {**metrics, "minimum": config.gate.minimum},
        "data": {"source": source, "sha256": source_sha256},
        "seed": config.seed,
        "git": {"commit": commit.sha, "dirty": commit.dirty},
        "tools": tool_versions(),
    }
