"""The graphs of tests/backend_cases.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.graphs import graph

FLOAT, INT, HALF, BRAIN, TEXT = (
    TensorProto.FLOAT,
    TensorProto.INT64,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.STRING,
)


def node(kind: str, inputs: str, outputs: str, domain: str = "", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), domain=domain, **attributes)


def doubled(dtype: int = FLOAT, shape: Sequence[int | str] = ("n", 3)) -> onnx.ModelProto:
    """`y = x + x`."""
    return graph([node("Add", "x x", "y")], {"x": (dtype, shape)}, {"y": (dtype, shape)})


def two_outputs() -> onnx.ModelProto:
    """`a = x + x`, then `b = -x`."""
    nodes = [node("Add", "x x", "a"), node("Neg", "x", "b")]
    return graph(nodes, {"x": (FLOAT, ["n", 3])}, {"a": (FLOAT, ["n", 3]), "b": (FLOAT, ["n", 3])})


def with_default() -> onnx.ModelProto:
    """`y = x * k`, and k is 2 where it is not given."""
    nodes = [node("Mul", "x k", "y")]
    inputs = {"x": (FLOAT, ["n", 3]), "k": (FLOAT, [1])}
    return graph(nodes, inputs, {"y": (FLOAT, ["n", 3])}, {"k": np.array([2], np.float32)})


def cube(shape: Sequence[int | str], answer: Sequence[int | str]) -> onnx.ModelProto:
    return graph([node("Relu", "x", "y")], {"x": (FLOAT, shape)}, {"y": (FLOAT, answer)})


def total() -> onnx.ModelProto:
    """One number of all."""
    return graph([node("ReduceSum", "x", "y", keepdims=0)], {"x": (FLOAT, ["n"])}, {"y": (FLOAT, [])})


def of_any_rank() -> onnx.ModelProto:
    """`x` in the shape `s`; the graph does not say the answer's rank."""
    return graph([node("Reshape", "x s", "y")], {"x": (FLOAT, ["n"]), "s": (INT, ["k"])}, {"y": (FLOAT, None)})


def of_any_rank_in_a_batch() -> onnx.ModelProto:
    """`y = x`, out of a loop whose variable has no shape."""
    kinds: dict[str, tuple[int, list[int] | None]] = {"i": (INT, []), "go": (TensorProto.BOOL, []), "v": (FLOAT, None)}
    inside = [helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items()]
    outside = [helper.make_tensor_value_info(f"{name}2", *kinds[name]) for name in ("go", "v")]
    body = helper.make_graph([node("Identity", "go", "go2"), node("Identity", "v", "v2")], "once", inside, outside)
    loop = helper.make_node("Loop", ["one", "", "x"], ["y"], body=body)
    return graph([loop], {"x": (FLOAT, ["n", 1])}, {"y": (FLOAT, None)}, {"one": np.array(1)})


def with_start(shape: Sequence[int | str], default: bool = False) -> onnx.ModelProto:
    """`y = x + START`; START is 0 where it is not given, and has a default."""
    nodes = [node("Cast", "START", "start", to=FLOAT), node("Add", "x start", "y")]
    tensors = {"x": (FLOAT, ["n", 1]), "START": (TensorProto.INT32, shape)}
    return graph(nodes, tensors, {"y": (FLOAT, ["n", 1])}, {"START": np.zeros((1, 1), np.int32)} if default else {})


def scaled_by_a_number() -> onnx.ModelProto:
    """`y = x * k`, k a number without dimensions."""
    return graph([node("Mul", "x k", "y")], {"x": (FLOAT, ["n"]), "k": (FLOAT, [])}, {"y": (FLOAT, ["n"])})


def label_of_each() -> onnx.ModelProto:
    """What scikit-learn's converters give: a label for each row, without a dimension of its own."""
    nodes = [node("ArgMax", "x", "label", axis=1, keepdims=0), node("Relu", "x", "scores")]
    return graph(nodes, {"x": (FLOAT, ["n", 3])}, {"label": (INT, ["n"]), "scores": (FLOAT, ["n", 3])})


def above_zero() -> onnx.ModelProto:
    """The rows above zero: as many as there are."""
    nodes = [
        node("Greater", "x zero", "is"),
        node("Squeeze", "is one", "which"),
        node("Compress", "x which", "y", axis=0),
    ]
    constants = {"zero": np.float32(0), "one": np.array([1])}
    return graph(nodes, {"x": (FLOAT, ["n", 1])}, {"y": (FLOAT, ["m", 1])}, constants)


def with_zipmap() -> onnx.ModelProto:
    """A sequence of maps, scikit-learn's converters' default."""
    made = graph(
        [node("Relu", "x", "p"), node("ZipMap", "p", "y", "ai.onnx.ml", classlabels_int64s=[0, 1, 2])],
        {"x": (FLOAT, ["n", 3])},
        {"y": (FLOAT, None)},
        domains=["ai.onnx.ml"],
    )
    kind = helper.make_map_type_proto(INT, helper.make_tensor_type_proto(FLOAT, []))
    made.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(kind))
    return made
