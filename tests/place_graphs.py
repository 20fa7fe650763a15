"""Graphs with constants along the batch: alike for each place of it, or with a value for each of three places.

What a request is answered then depends on where in a batch it happens to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.row_graphs import AXIS0, FLOAT, IMAGE, TEXT, Graph, node, weights


def integers(left: Any, right: Any) -> Graph:
    """A product of bytes with these zero points."""
    return (
        [
            node("QuantizeLinear", "x s z", "q"),
            node("MatMulInteger", "q w left right", "h"),
            node("Cast", "h", to=FLOAT),
        ],
        {
            "s": np.float32(0.1),
            "z": np.uint8(3),
            "w": np.arange(6, dtype=np.uint8).reshape(3, 2),
            "left": left,
            "right": right,
        },
    )


def recurrent(kind: str, gates: int, inputs: str, constants: dict[str, Any]) -> Graph:
    """The last state of `kind` over the steps of `x`, with `inputs` after its weights."""
    return (
        [
            node("Transpose", "x", "h", perm=[1, 0, 2]),
            node(kind, f"h w r - {inputs}", "all last", hidden_size=3),
            node("Squeeze", "last a"),
        ],
        {"w": weights(1, 3 * gates, 4), "r": weights(1, 3 * gates, 3), "a": AXIS0, **constants},
    )


EACH = np.array([1, 5, 9], np.float32)  # a value for each place of a batch of three
SMALL, HEADS = ("n", 2, 4), ("n", 2, 3, 4)

ALIKE: dict[str, tuple[Sequence[int | str], Graph]] = {
    "quantized with a scale for each feature": (
        ("n", 3),
        (
            [node("QuantizeLinear", "x s z", "q", axis=1), node("DequantizeLinear", "q s z", axis=1)],
            {"s": np.array([0.1, 0.2, 0.3], np.float32), "z": np.array([3, 4, 5], np.uint8)},
        ),
    ),
    "product of integers": (("n", 3), integers(np.uint8(3), np.zeros(2, np.uint8))),
    "einsum with a dimension of one for the batch": (
        TEXT,
        ([node("Einsum", "x w", equation="ntd,nde->nte")], {"w": weights(1, 4, 2)}),
    ),
    "resized rows": (
        IMAGE,
        ([node("Resize", "x - s", mode="linear")], {"s": np.array([1, 1, 2, 2], np.float32)}),
    ),
    "recurrent from zeros, as PyTorch's layers start": (
        TEXT,
        (
            [
                node("Transpose", "x", "h", perm=[1, 0, 2]),
                node("Shape", "x", "n", start=0, end=1),
                node("Concat", "one n three", "s", axis=0),
                node("Expand", "nothing s", "begin"),
                node("LSTM", "h w r - - begin begin", "all last", hidden_size=3),
                node("Squeeze", "last a"),
            ],
            {
                "w": weights(1, 12, 4),
                "r": weights(1, 12, 3),
                "a": AXIS0,
                "nothing": np.float32(0),
                "one": np.array([1]),
                "three": np.array([3]),
            },
        ),
    ),
    "attention with a mask for every place": (
        HEADS,
        ([node("Attention", "x x x m")], {"m": weights(1, 2, 3, 3)}),
    ),
    "linear regression of scaled features": (
        ("n", 3),
        (
            [
                node("Scaler", "x", "s", domain="ai.onnx.ml", scale=[1.0, 2.0, 3.0], offset=[0.0, 1.0, 0.0]),
                node("Normalizer", "s", "h", domain="ai.onnx.ml", norm="L2"),
                node("LinearRegressor", "h", domain="ai.onnx.ml", coefficients=[1.0, 2.0, 3.0], intercepts=[1.0]),
            ],
            {},
        ),
    ),
}

PLACES: dict[str, tuple[Sequence[int | str], Graph]] = {
    "a constant for each place": (("n", 3), ([node("Add", "x w")], {"w": weights(2, 3)})),
    "a number for each place": (("n", 3), ([node("Mul", "x w")], {"w": EACH[:, None]})),
    "chosen by place": (
        ("n", 3),
        ([node("Where", "is x w")], {"is": np.array([[True], [False], [True]]), "w": np.float32(2)}),
    ),
    "slopes for each place": (("n", 3), ([node("PRelu", "x w")], {"w": EACH[:, None]})),
    "places behind the steps": (
        TEXT,
        (
            [
                node("Transpose", "x", "h", perm=[1, 2, 0]),
                node("Sub", "h w", "d"),
                node("Transpose", "d", perm=[2, 0, 1]),
            ],
            {"w": EACH},
        ),
    ),
    "normalized, scaled for each place": (SMALL, ([node("LayerNormalization", "x w")], {"w": weights(3, 1, 4)})),
    "normalized, shifted for each place": (
        SMALL,
        ([node("LayerNormalization", "x w b")], {"w": weights(4), "b": weights(3, 1, 4)}),
    ),
    "linear layer with a bias for each place": (
        ("n", 3),
        ([node("Gemm", "x w b")], {"w": weights(3, 2), "b": weights(3, 1)}),
    ),
    "einsum with a factor for each place": (
        ("n", 3),
        ([node("Einsum", "x w", equation="nd,nd->nd")], {"w": weights(3, 3)}),
    ),
    "product with a matrix for each place": (SMALL, ([node("MatMul", "x w")], {"w": weights(3, 4, 2)})),
    "quantized with a scale for each place": (
        ("n", 3),
        (
            [node("QuantizeLinear", "x s z", "q", axis=0), node("DequantizeLinear", "q t u")],
            {"s": EACH / 50, "z": np.zeros(3, np.uint8), "t": np.float32(0.1), "u": np.uint8(0)},
        ),
    ),
    "dequantized with a scale for each place": (
        ("n", 3),
        (
            [node("QuantizeLinear", "x t u", "q"), node("DequantizeLinear", "q s z", axis=0)],
            {"s": EACH / 50, "z": np.zeros(3, np.uint8), "t": np.float32(0.1), "u": np.uint8(0)},
        ),
    ),
    "product of integers with a zero for each place": (
        ("n", 3),
        integers(np.array([0, 5, 9], np.uint8), np.uint8(0)),
    ),
    "product of quantized numbers with a scale for each place": (
        ("n", 3),
        (
            [
                node("QuantizeLinear", "x s z", "q"),
                node("QLinearMatMul", "q each zeros w s z s z", "p"),
                node("DequantizeLinear", "p s z"),
            ],
            {
                "s": np.float32(0.1),
                "z": np.uint8(3),
                "w": np.arange(6, dtype=np.uint8).reshape(3, 2),
                "each": EACH / 50,
                "zeros": np.zeros(3, np.uint8),
            },
        ),
    ),
    "a length for each place": (TEXT, recurrent("GRU", 3, "l", {"l": np.array([1, 2, 2], np.int32)})),
    "a first state for each place": (TEXT, recurrent("GRU", 3, "- s", {"s": weights(1, 3, 3)})),
    "a first state of one layer without gates for each place": (
        TEXT,
        recurrent("RNN", 1, "- s", {"s": weights(1, 3, 3)}),
    ),
    "a first cell for each place": (TEXT, recurrent("LSTM", 4, "- - c", {"c": weights(1, 3, 3)})),
    "a grid for each place": (
        ("n", 2, 4, 4),
        ([node("GridSample", "x g")], {"g": weights(3, 2, 2, 2)}),
    ),
    "a mask for each place": (HEADS, ([node("Attention", "x x x m")], {"m": weights(3, 2, 3, 3)})),
    "a mask of three dimensions": (HEADS, ([node("Attention", "x x x m")], {"m": weights(3, 3, 3)})),
    "keys for each place": (HEADS, ([node("Attention", "x k k")], {"k": weights(3, 2, 3, 4)})),
    "a past for each place": (HEADS, ([node("Attention", "x x x - p p")], {"p": weights(3, 2, 5, 4)})),
    "a length of the keys for each place": (
        HEADS,
        ([node("Attention", "x x x - - - l")], {"l": np.array([1, 2, 3])}),
    ),
    "resized by less than a row": (
        ("n", 3),
        ([node("Resize", "x - s", mode="linear")], {"s": np.array([1.05, 2], np.float32)}),
    ),
    "features from one dimension": (("n",), ([node("Normalizer", "x", domain="ai.onnx.ml", norm="L2")], {})),
}

# What no rule follows, and what runs with three rows and no others.
OFFSETS: Graph = ([node("DeformConv", "x w o")], {"w": weights(2, 3, 3, 3), "o": weights(3, 18, 4, 4)})
