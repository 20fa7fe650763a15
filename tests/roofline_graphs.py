"""Small graphs of known sizes, and devices of round figures, for tests of the roofline."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from model_build.roofline.devices import Device
from model_build.roofline.graph import fix
from model_build.roofline.layers import Layer, find_layers
from tests.support import ROOT

# 1 TFLOP/s, 100 GB/s: ten FLOPs a byte are where computing takes as long as moving.
DEVICE = Device(
    key="made",
    name="Made Up",
    peaks=MappingProxyType({"fp32": 1e12, "fp16": 4e12, "int8": 8e12}),
    vector_peak=1e11,
    bandwidth=1e11,
    memory=1e9,
    overhead=0.0,
    source="this test",
)
LAYER = Layer(
    name="node",
    module="module",
    operator="MatMul",
    kind="product",
    precision="fp32",
    flops=2e6,
    product_flops=2e6,
    weight_bytes=1e6,
    activation_bytes=1e4,
    kernels=1,
)
Size = int | str


def layer(**changes: Any) -> Layer:
    """`LAYER` with changes."""
    return replace(LAYER, **changes)


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node by the names of what it takes and gives, separated by blanks; it is named after what it gives first."""
    return helper.make_node(
        operator, inputs.split(" "), outputs.split(" "), name=f"node_{outputs.split(' ')[0]}", **attributes
    )


def write_graph(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[Size | None] | onnx.ValueInfoProto],
    outputs: Sequence[str] = ("y",),
    constants: Mapping[str, npt.NDArray[Any]] | None = None,
) -> Path:
    """An ONNX file; inputs are float32 of these shapes unless they are given whole, outputs are float32 of any."""
    body = helper.make_graph(
        list(nodes),
        "made",
        [
            shape
            if isinstance(shape, onnx.ValueInfoProto)
            else helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in inputs.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    domains = [("", 20), ("com.microsoft", 1), ("com.example", 1)]
    model = helper.make_model(body, opset_imports=[helper.make_opsetid(*one) for one in domains], ir_version=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def integers(name: str, *shape: int) -> onnx.ValueInfoProto:
    """An int64 input."""
    return helper.make_tensor_value_info(name, TensorProto.INT64, shape)


def weights(*shape: int) -> npt.NDArray[np.float32]:
    """Random numbers: no constant that ONNX Runtime could fold away."""
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def layers_of(
    path: Path, precision: str = "fp32", kept: Sequence[str] = (), batch: int = 1, **shapes: int
) -> list[Layer]:
    """The layers of a written graph."""
    return find_layers(fix(path, batch, shapes), precision, kept)


def made_workspace(folder: Path) -> Path:
    """A workspace that is asked for rooflines only: its configuration, and where `digits` is built."""
    shutil.copytree(ROOT / "model_build" / "conf", folder / "model_build" / "conf")
    (folder / "dvc.yaml").touch()
    return folder


def write_network(path: Path) -> Path:
    """MatMul and bias, Relu, MatMul from `x` `[batch, 8]`: 2 * 8 * 16 + 16, 16 and 2 * 16 * 4 FLOPs an example."""
    return write_graph(
        path,
        [
            node("MatMul", "x w1", "a"),
            node("Add", "a b1", "b"),
            node("Relu", "b", "c"),
            node("MatMul", "c w2", "y"),
        ],
        {"x": ["batch", 8]},
        constants={"w1": weights(8, 16), "b1": weights(16), "w2": weights(16, 4)},
    )
