"""Small models for requests that are wrong, and what each of them answers to one that is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support import write_manifest, write_model

Array = npt.NDArray[Any]

DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "BYTES": np.object_,
}
ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "BYTES": TensorProto.STRING,
}


@dataclass(frozen=True)
class Model:
    """A served model: `dims` are those of a request without the batch, None is free; `batch` 0: there is no batch."""

    name: str
    inputs: dict[str, str]
    output: str
    dims: tuple[int | None, ...]
    batch: int
    nodes: tuple[onnx.NodeProto, ...]
    constants: dict[str, Array]
    answer: Callable[[dict[str, Array]], Array]

    @property
    def datatype(self) -> str:
        """Of the output."""
        return list(self.inputs.values())[-1]

    def takes(self, arrays: dict[str, Array]) -> bool:
        """Whether these are its inputs, in shapes that it is configured for."""
        if set(arrays) != set(self.inputs) or len({array.shape for array in arrays.values()}) != 1:
            return False
        shape = next(iter(arrays.values())).shape
        if self.batch and not (shape and 1 <= shape[0] <= self.batch):
            return False
        rest = shape[1:] if self.batch else shape
        return len(rest) == len(self.dims) and all(b is None or a == b for a, b in zip(rest, self.dims, strict=True))


def _model(
    name: str, inputs: dict[str, str], dims: tuple[int | None, ...], batch: int, node: str, **constants: Any
) -> Model:
    names = [*inputs, *constants]
    answers: dict[str, Callable[..., Any]] = {
        "Add": np.add,
        "Identity": lambda array: array,
        "Where": np.where,
    }
    return Model(
        name,
        inputs,
        "y",
        dims,
        batch,
        (helper.make_node(node, names, ["y"]),),
        {key: np.asarray(value) for key, value in constants.items()},
        lambda arrays: np.asarray(answers[node](*(arrays[key] for key in inputs), *constants.values())),
    )


MODELS = {
    model.name: model
    for model in (
        _model("plus", {"x": "FP32"}, (3,), 8, "Add", one=np.float32(1)),
        _model("text", {"x": "BYTES"}, (1,), 4, "Identity"),
        _model("whole", {"x": "INT64"}, (2, None), 0, "Add", one=np.int64(1)),
        _model("half", {"x": "FP16"}, (4,), 8, "Add", one=np.float16(1)),
        _model("either", {"pick": "BOOL", "x": "UINT8"}, (2,), 8, "Where", other=np.uint8(7)),
    )
}


def write_models(repository: Path) -> None:
    """All of them as a model repository; their golden answers are asked by nobody."""
    for model in MODELS.values():
        shape = [*(["n"] if model.batch else []), *(f"d{i}" if d is None else d for i, d in enumerate(model.dims))]
        graph = helper.make_graph(
            list(model.nodes),
            "g",
            [helper.make_tensor_value_info(name, ONNX_TYPES[kind], shape) for name, kind in model.inputs.items()],
            [helper.make_tensor_value_info(model.output, ONNX_TYPES[model.datatype], shape)],
            [numpy_helper.from_array(value, name) for name, value in model.constants.items()],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        dims = [-1 if size is None else size for size in model.dims]
        tensors = [("input", name, kind) for name, kind in model.inputs.items()] + [
            ("output", model.output, model.datatype)
        ]
        config = f'name: "{model.name}" backend: "onnxruntime" max_batch_size: {model.batch} ' + " ".join(
            f'{side} {{ name: "{name}" data_type: TYPE_{kind.replace("BYTES", "STRING")} dims: {dims} }}'
            for side, name, kind in tensors
        )
        batching = " dynamic_batching { max_queue_delay_microseconds: 500 }" if model.batch else ""
        instances = " instance_group { kind: KIND_CPU count: 1 }"
        folder = write_model(repository, model.name, made, config + instances + batching)
        for golden in ("request", "response"):
            (folder / "golden" / f"{golden}.json").write_text("{}")
        write_manifest(folder)
