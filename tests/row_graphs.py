"""Graphs with one input `x` and one output `y`: those that keep the rows of a batch apart, and those that do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from tests.graphs import graph

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
Node = onnx.NodeProto
Graph = tuple[Sequence[Node], dict[str, Any]]

OPSETS = {"Attention": 24, "DeformConv": 22}  # where they are newer than the others
_values = np.random.default_rng(5)


def node(kind: str, inputs: str, output: str = "y", domain: str = "", **attributes: Any) -> Node:
    names = [name.strip("-") for name in inputs.split()]
    return helper.make_node(kind, names, output.split(), domain=domain, **attributes)


def weights(*shape: int) -> npt.NDArray[np.float32]:
    return _values.normal(size=shape).astype(np.float32)


def model(made: Graph, shape: Sequence[int | str], dtype: int = FLOAT, opset: int = 20) -> onnx.ModelProto:
    """Input `x`, output `y`, which declares what it should have: that must not matter."""
    nodes, constants = made
    kinds = {"ArgMax": INT}
    declared = {"y": (kinds.get(nodes[-1].op_type, FLOAT), None)}
    opset = max([opset, *(OPSETS.get(one.op_type, 0) for one in nodes)])
    return graph(nodes, {"x": (dtype, shape)}, declared, constants, opset, ["ai.onnx.ml", "com.microsoft"])


IMAGE = ("n", 3, 6, 6)
TEXT = ("n", "t", 4)
AXIS0, AXIS1 = np.array([0], np.int64), np.array([1], np.int64)

APART: dict[str, tuple[Sequence[int | str], Graph]] = {
    "elementwise": (("n", 3), ([node("Mul", "x w", "h"), node("Relu", "h")], {"w": weights(3)})),
    "a constant with a dimension of one for the batch": (("n", 3), ([node("Add", "x w")], {"w": weights(1, 3)})),
    "reduction of a row": (("n", 3), ([node("ReduceMean", "x a")], {"a": AXIS1})),
    "reduction without its dimension": (IMAGE, ([node("ReduceMax", "x a", keepdims=0)], {"a": np.array([2, -1])})),
    "softmax of a row": (("n", 3), ([node("Softmax", "x", axis=-1)], {})),
    "linear layer": (("n", 3), ([node("Gemm", "x w b", transB=1)], {"w": weights(5, 3), "b": weights(5)})),
    "matrix product": (TEXT, ([node("MatMul", "x w")], {"w": weights(4, 2)})),
    "product with a vector": (TEXT, ([node("MatMul", "x w")], {"w": weights(4)})),
    "attention within a row": (
        TEXT,
        (
            [
                node("Transpose", "x", "k", perm=[0, 2, 1]),
                node("MatMul", "x k", "s"),
                node("Softmax", "s", "p", axis=-1),
                node("MatMul", "p x"),
            ],
            {},
        ),
    ),
    "convolution": (IMAGE, ([node("Conv", "x w", pads=[1] * 4)], {"w": weights(2, 3, 3, 3)})),
    "pooling, flattened": (IMAGE, ([node("MaxPool", "x", "h", kernel_shape=[2, 2]), node("Flatten", "h")], {})),
    "layer normalization": (TEXT, ([node("LayerNormalization", "x w")], {"w": weights(4)})),
    "batch normalization as it is served": (
        IMAGE,
        (
            [node("BatchNormalization", "x w b m v")],
            {"w": weights(3), "b": weights(3), "m": weights(3), "v": np.ones(3, np.float32)},
        ),
    ),
    "reshape by the tensor's own shape": (
        TEXT,
        (
            [
                node("Shape", "x", "s", start=0, end=2),
                node("Concat", "s two two", "t", axis=0),
                node("Reshape", "x t", "h"),
                node("Transpose", "h", perm=[0, 2, 1, 3]),
            ],
            {"two": np.array([2], np.int64)},
        ),
    ),
    "reshape to minus one and back": (
        ("n", 4, 3),
        (
            [node("Reshape", "x a", "h"), node("MatMul", "h w", "m"), node("Reshape", "m b")],
            {"a": np.array([-1, 3]), "b": np.array([-1, 4, 2]), "w": weights(3, 2)},
        ),
    ),
    "transposed to the front and back": (
        TEXT,
        (
            [
                node("Transpose", "x", "h", perm=[1, 0, 2]),
                node("Abs", "h", "a"),
                node("Transpose", "a", perm=[1, 0, 2]),
            ],
            {},
        ),
    ),
    "steps and batch in one dimension, as PyTorch's attention has them": (
        ("n", 5, 4),
        (
            [
                node("Transpose", "x", "h", perm=[1, 0, 2]),
                node("Reshape", "h flat", "f"),
                node("Gemm", "f w", "g"),
                node("Reshape", "g back", "b"),
                node("Transpose", "b", perm=[1, 0, 2]),
            ],
            {"flat": np.array([-1, 4]), "back": np.array([5, -1, 2]), "w": weights(4, 2)},
        ),
    ),
    "recurrent over the steps": (
        TEXT,
        (
            [
                node("Transpose", "x", "h", perm=[1, 0, 2]),
                node("GRU", "h w r", "all last", hidden_size=3),
                node("Squeeze", "last a"),
            ],
            {"w": weights(1, 9, 4), "r": weights(1, 9, 3), "a": AXIS0},
        ),
    ),
    "a token in front of each row": (
        TEXT,
        (
            [
                node("Shape", "x", "n", start=0, end=1),
                node("Concat", "n one four", "s", axis=0),
                node("Expand", "token s", "front"),
                node("Concat", "front x", axis=1),
            ],
            {"token": weights(1, 1, 4), "one": np.array([1]), "four": np.array([4])},
        ),
    ),
    "positions counted by the tensor's length": (
        TEXT,
        (
            [
                node("Shape", "x", "t", start=1, end=2),
                node("Slice", "table zero t zero", "places"),
                node("Add", "x places"),
            ],
            {"table": weights(100, 4), "zero": AXIS0},
        ),
    ),
    "each row found by its own number": (
        ("n", 3),
        (
            [
                node("Shape", "x", "s", start=0, end=1),
                node("Squeeze", "s", "n"),
                node("Range", "zero n one", "numbers"),
                node("Gather", "x numbers", axis=0),
            ],
            {"zero": np.array(0), "one": np.array(1)},
        ),
    ),
    "whole slice of the batch": (
        ("n", 3),
        ([node("Slice", "x b e a")], {"b": AXIS0, "e": np.array([2**62]), "a": AXIS0}),
    ),
    "einsum": (TEXT, ([node("Einsum", "x w", equation="ntd,de->nte")], {"w": weights(4, 2)})),
    "largest of a row": (("n", 3), ([node("ArgMax", "x", axis=1, keepdims=0)], {})),
    "quantized": (
        ("n", 3),
        (
            [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z")],
            {"s": np.float32(0.1), "z": np.uint8(3)},
        ),
    ),
    "padded rows": (TEXT, ([node("Pad", "x p")], {"p": np.array([0, 1, 0, 0, 2, 0])})),
    "a tree's regression": (
        ("n", 3),
        (
            [
                node(
                    "TreeEnsembleRegressor",
                    "x",
                    domain="ai.onnx.ml",
                    n_targets=1,
                    nodes_treeids=[0, 0, 0],
                    nodes_nodeids=[0, 1, 2],
                    nodes_featureids=[1, 0, 0],
                    nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
                    nodes_values=[0.0, 0.0, 0.0],
                    nodes_truenodeids=[1, 0, 0],
                    nodes_falsenodeids=[2, 0, 0],
                    target_treeids=[0, 0],
                    target_nodeids=[1, 2],
                    target_ids=[0, 0],
                    target_weights=[1.0, 2.0],
                )
            ],
            {},
        ),
    ),
}

MIXED: dict[str, tuple[Sequence[int | str], Graph]] = {
    "sum of the batch": (("n", 3), ([node("ReduceSum", "x a")], {"a": AXIS0})),
    "reduction of everything": (("n", 3), ([node("ReduceMax", "x")], {})),
    "batch standardized by its own mean": (
        ("n", 3),
        ([node("ReduceMean", "x a", "m"), node("Sub", "x m")], {"a": AXIS0}),
    ),
    "softmax over the batch": (("n", 3), ([node("Softmax", "x", axis=0)], {})),
    "batch turned round": (
        ("n", 3),
        (
            [node("Slice", "x b e a s")],
            {"b": np.array([-1]), "e": np.array([-(2**62)]), "a": AXIS0, "s": np.array([-1])},
        ),
    ),
    "batch without its first row": (
        ("n", 3),
        ([node("Slice", "x b e a")], {"b": AXIS1, "e": np.array([2**62]), "a": AXIS0}),
    ),
    "two statistics": (
        ("n", 1),
        (
            [node("ReduceSum", "x", "s"), node("ReduceMax", "x", "m"), node("Concat", "s m", axis=0)],
            {},
        ),
    ),
    "running sum of the batch": (("n", 3), ([node("CumSum", "x a")], {"a": np.array(0)})),
    "attention between rows": (
        ("n", 3),
        (
            [node("Transpose", "x", "k"), node("MatMul", "x k", "s"), node("Softmax", "s", "p"), node("MatMul", "p x")],
            {},
        ),
    ),
    "batch taken for the steps": (
        TEXT,
        (
            [node("GRU", "x w r", "all", hidden_size=3), node("Squeeze", "all a")],
            {"w": weights(1, 9, 4), "r": weights(1, 9, 3), "a": AXIS1},
        ),
    ),
    "divided by the size of the batch": (
        ("n", 3),
        (
            [node("Shape", "x", "s", start=0, end=1), node("Cast", "s", "f", to=FLOAT), node("Div", "x f")],
            {},
        ),
    ),
    "the size of the batch, in the type of its numbers": (
        ("n", 3),
        (
            [node("Shape", "x", "s", start=0, end=1), node("CastLike", "s x", "f"), node("Add", "x f")],
            {},
        ),
    ),
    "as many columns as rows": (
        ("n", 3),
        ([node("Shape", "x", "n", start=0, end=1), node("Slice", "x b n a")], {"b": AXIS0, "a": AXIS1}),
    ),
    "numbered rows": (
        ("n", 1),
        (
            [
                node("Shape", "x", "s", start=0, end=1),
                node("Squeeze", "s", "n"),
                node("Range", "zero n one", "numbers"),
                node("Cast", "numbers", "f", to=FLOAT),
                node("Unsqueeze", "f a", "column"),
                node("Add", "x column"),
            ],
            {"zero": np.array(0), "one": np.array(1), "a": AXIS1},
        ),
    ),
    "cut up across rows": (("n", 4), ([node("Reshape", "x a", "h"), node("Transpose", "h")], {"a": np.array([2, -1])})),
    "normalized over the batch too": (("n", 3), ([node("LayerNormalization", "x w", axis=0)], {"w": weights(1, 3)})),
    "doubled batch": (("n", 3), ([node("Concat", "x x", axis=0)], {})),
    "answers without the batch": (("n", 3), ([node("Shape", "x", "s", start=1), node("Cast", "s", to=FLOAT)], {})),
    "channels for a batch": (("n", 3), ([node("Transpose", "x")], {})),
}

UNDECIDED: dict[str, tuple[Sequence[int | str], Graph]] = {
    "rows above zero": (
        ("n", 1),
        (
            [
                node("Greater", "x zero", "is"),
                node("Squeeze", "is a", "which"),
                node("Compress", "x which", axis=0),
            ],
            {"zero": np.float32(0), "a": AXIS1},
        ),
    ),
    "where it is not zero": (("n", 3), ([node("NonZero", "x", "i"), node("Cast", "i", to=FLOAT)], {})),
    "an operator of Microsoft's": (("n", 3), ([node("BiasGelu", "x b", domain="com.microsoft")], {"b": weights(3)})),
    "squeezed, of one row too": (("n", 1, 3), ([node("Squeeze", "x")], {})),
    "noise": (("n", 3), ([node("RandomNormalLike", "x", "r"), node("Add", "x r")], {})),
}
