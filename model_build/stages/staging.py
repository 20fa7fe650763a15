"""What the gate stages: folders as model_repository/ will hold them, each with its golden answer and its manifest."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx
from tritonclient.utils import np_to_triton_dtype

from model_build._errors import BuildError
from model_build.config import ServedConfig
from model_build.files import write_files
from model_build.provenance import Commit, tool_versions
from model_build.recipe import Array, Recipe, ServedModel
from model_build.stages.layout import STAGED_INDEX, BuildFiles
from model_build.target import TARGET
from model_build.triton_config import on_gpu, to_text
from serving._tensors import TensorError, to_json

SCHEMA_VERSION = 3


class Staging:
    """A folder that becomes `build/<model>/staged/` when all of it has passed."""

    def __init__(self, files: BuildFiles, recipe: Recipe[Any], metrics: Mapping[str, Any]) -> None:
        self._files, self._recipe, self._metrics = files, recipe, metrics
        self._temporary = files.folder / f".staged.{os.getpid()}"
        self.folder = self._temporary / "repository"
        self._groups: Mapping[str, Sequence[ServedModel]] = {}

    def __enter__(self) -> Staging:
        for left in self._files.folder.glob(".staged.*"):
            if not Path(f"/proc/{left.suffix[1:]}").exists():
                shutil.rmtree(left, ignore_errors=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._temporary, ignore_errors=True)

    def write(
        self, groups: Mapping[str, Sequence[ServedModel]], public: str, variants: Mapping[str, Any] | None
    ) -> None:
        """Write every served folder; the manifest of `public` says what was found of the variants."""
        self._groups = groups
        contents: dict[Path, bytes] = {}
        for model in (model for group in groups.values() for model in group):
            folder_contents = _folder(model, self._recipe.config)
            more = {"variants": variants} if variants and model.name == public else {}
            manifest = {**_manifest(self._files, self._recipe, self._metrics, folder_contents), **more}
            folder_contents["manifest.json"] = json.dumps(manifest, indent=2).encode() + b"\n"
            folder = self.folder / model.name
            contents |= {folder / name: content for name, content in folder_contents.items()}
        write_files(contents)

    def publish(self) -> None:
        """Put it in place of what was staged before."""
        index = {stage: [model.name for model in group] for stage, group in self._groups.items()}
        write_files({self._temporary / STAGED_INDEX: json.dumps(index, indent=2).encode() + b"\n"})
        shutil.rmtree(self._files.staged, ignore_errors=True)
        self._temporary.rename(self._files.staged)


def _folder(model: ServedModel, config: ServedConfig) -> dict[str, bytes]:
    """Every file of one served model but its manifest."""
    request, response = golden(model, model.atol or config.gate.golden_atol)
    return {
        "config.pbtxt": to_text(on_gpu(model, config), config.name, model.note),
        "configs/cpu.pbtxt": to_text(model.cpu, config.name, model.note),
        "golden/request.json": request,
        "golden/response.json": response,
        **model.files,
    }


def golden(model: ServedModel, atol: float) -> tuple[bytes, bytes]:
    """Bodies of a request and of its answer in the v2 inference protocol's JSON, as `serving._tensors` extends it.

    Raises:
        BuildError: an array of a type that Triton does not have, or `atol` is no tolerance.
    """
    if not 0 <= atol < math.inf:
        raise BuildError(f"model '{model.name}' has atol {atol}: expected a tolerance of 0 or more, and finite")
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
    return json.dumps(body, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _tensor(name: str, array: Array) -> dict[str, Any]:
    datatype = "BYTES" if array.dtype.kind in "SU" else str(np_to_triton_dtype(array.dtype))
    try:
        return to_json(name, datatype, array.shape, array.ravel().tolist())
    except TensorError as error:
        raise BuildError(f"no golden answer can hold tensor '{name}' ({array.dtype}): {error}") from error


def log_graphs(mlflow: Any, model: ServedModel) -> None:
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
    files: BuildFiles, recipe: Recipe[Any], metrics: Mapping[str, Any], contents: Mapping[str, bytes]
) -> dict[str, Any]:
    config = recipe.config
    commit = Commit.of(files.workspace)
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
            name: {"opset": _opset(graph), "ir_version": graph.ir_version, "nodes": len(graph.graph.node)}
            for name, graph in graphs.items()
        },
        "target": {"triton": TARGET.triton_release, "onnxruntime": TARGET.onnxruntime},
        "gate": {**metrics, "minimum": config.gate.minimum},
        "data": {"source": source, "sha256": source_sha256},
        "seed": config.seed,
        "git": {"commit": commit.sha, "dirty": commit.dirty},
        "tools": tool_versions(),
    }


def _opset(graph: onnx.ModelProto) -> int | None:
    """Version of ONNX's own operators that the file asks for; None where it has none of them, as trees have not."""
    return next((int(one.version) for one in graph.opset_import if one.domain in ("", "ai.onnx")), None)
