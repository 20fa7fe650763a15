"""How many floating point operations a node of an ONNX graph takes, from the shapes of what it takes and gives.

A multiplication and an addition are two. Products and convolutions are exact; the others are the textbook's count for
each element, so that a layer of them has an arithmetic intensity at all: their time is nearly always that of memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import onnx
from onnx import helper

from model_build._errors import ConfigurationError

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

PRODUCTS = frozenset(("MatMul", "Gemm", "Einsum", "LSTM", "GRU", "RNN", "MatMulInteger"))
CONVOLUTIONS = frozenset(("Conv", "ConvTranspose", "ConvInteger"))

# Moves or describes values, and computes none.
_MOVED = """
    Cast CastLike Compress Concat Constant ConstantOfShape DepthToSpace Dropout Expand EyeLike Flatten Gather
    GatherElements GatherND Identity NonZero OneHot Pad Range Reshape Scatter ScatterElements ScatterND Shape Size
    Slice SpaceToDepth Split Squeeze Tile Transpose Unique Unsqueeze
"""
_MOVEMENTS = frozenset(_MOVED.split())
# Give the same bytes under another shape.
VIEWS = frozenset(("Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"))
# Read as much as they give, not all that they take.
ROWS = frozenset(("Gather", "GatherElements", "GatherND", "Slice"))

# Operations for each element of the output.
_OF_OUTPUT = {
    1: "Abs Add And BitShift Ceil Clip Div Equal Floor Greater GreaterOrEqual IsInf IsNaN LeakyRelu Less LessOrEqual "
    "Max Min Mod Mul Neg Not Or PRelu Reciprocal Relu Round Sign Sqrt Sub Sum ThresholdedRelu Trilu Where Xor",
    2: "DequantizeLinear HardSigmoid QuantizeLinear",
    3: "Elu Celu Exp HardSwish Log Selu Softplus Softsign",
    4: "Erf Mish Pow Sigmoid Tanh",
    5: "BatchNormalization Cos LogSoftmax Sin Softmax",
    8: "Gelu GroupNormalization InstanceNormalization LayerNormalization RMSNormalization SimplifiedLayerNormalization",
    7: "Resize Upsample",
}
# Operations for each element of the input.
_OF_INPUT = {
    1: "ArgMax ArgMin CumSum GlobalAveragePool GlobalMaxPool ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum TopK",
    2: "LpNormalization ReduceL1 ReduceL2 ReduceSumSquare",
    4: "ReduceLogSum ReduceLogSumExp",
}
_EACH_OUTPUT = {name: count for count, names in _OF_OUTPUT.items() for name in names.split()}
_EACH_INPUT = {name: count for count, names in _OF_INPUT.items() for name in names.split()}
_BIASED = frozenset(("Gemm", "Conv", "ConvTranspose"))
_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def flops(node: onnx.NodeProto, shapes: Shapes, known: Mapping[str, float] | None = None) -> float:
    """Floating point operations of `node`.

    Args:
        node: of a graph whose tensors all have a shape.
        shapes: by tensor name.
        known: operations for each element of the output, by operator, for those that are not in the table.

    Raises:
        ConfigurationError: the operator is in neither.
    """
    operator = node.op_type
    given = sum(math.prod(shapes[name]) for name in node.output if name)
    if known and operator in known:
        return known[operator] * given
    if operator in _MOVEMENTS:
        return 0.0
    if operator in _EACH_OUTPUT:
        terms = len(node.input) - 1 if operator == "Sum" else _EACH_OUTPUT[operator]
        return float(terms * math.prod(shapes[node.output[0]]))
    if operator in _EACH_INPUT:
        return float(_EACH_INPUT[operator] * math.prod(shapes[node.input[0]]))
    if operator in _FORMULAS:
        return float(_FORMULAS[operator](node, shapes))
    raise ConfigurationError(
        f"operator {operator} of node '{node.name}' has no formula for its FLOPs: pass --flops {operator}=N, "
        "operations for each element that it gives (0 if it only moves them)"
    )


def products(node: onnx.NodeProto, shapes: Shapes) -> float:
    """Those of `flops` that are a product's or a convolution's own, without its bias: what FLOP counters count."""
    if node.op_type not in PRODUCTS | CONVOLUTIONS:
        return 0.0
    return float(_FORMULAS[node.op_type](node, shapes)) - _bias(node, shapes)


def _bias(node: onnx.NodeProto, shapes: Shapes) -> int:
    biased = node.op_type in _BIASED and len(node.input) > 2 and bool(node.input[2])
    return math.prod(shapes[node.output[0]]) if biased else 0


def _matmul(node: onnx.NodeProto, shapes: Shapes) -> int:
    return 2 * math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _gemm(node: onnx.NodeProto, shapes: Shapes) -> int:
    transposed = any(one.name == "transA" and one.i for one in node.attribute)
    inner = shapes[node.input[0]][0 if transposed else 1]
    return 2 * inner * math.prod(shapes[node.output[0]]) + _bias(node, shapes)


def _convolution(node: onnx.NodeProto, shapes: Shapes) -> int:
    kernel = math.prod(shapes[node.input[1]][1:])  # [out, in / groups, ...]
    return 2 * kernel * math.prod(shapes[node.output[0]]) + _bias(node, shapes)


def _transposed_convolution(node: onnx.NodeProto, shapes: Shapes) -> int:
    kernel = math.prod(shapes[node.input[1]][1:])  # [in, out / groups, ...]
    return 2 * kernel * math.prod(shapes[node.input[0]]) + _bias(node, shapes)


def _pool(node: onnx.NodeProto, shapes: Shapes) -> int:
    (window,) = [list(one.ints) for one in node.attribute if one.name == "kernel_shape"]
    return math.prod(window) * math.prod(shapes[node.output[0]])


def _einsum(node: onnx.NodeProto, shapes: Shapes) -> int:
    (equation,) = [helper.get_attribute_value(one).decode() for one in node.attribute if one.name == "equation"]
    terms: Sequence[str] = equation.replace(" ", "").partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    for name, term in zip(node.input, terms, strict=True):
        for label, size in _sizes(term, shapes[name]):
            sizes[label] = max(size, sizes.get(label, 1))  # a 1 is repeated
    return len(terms) * math.prod(sizes.values())


def _sizes(term: str, shape: Shape) -> list[tuple[str, int]]:
    before, dots, after = term.partition("...")
    tail = shape[len(shape) - len(after) :] if after else ()
    middle = shape[len(before) : len(shape) - len(after)] if dots else ()
    named = [*zip(before, shape, strict=False), *zip(after, tail, strict=True)]
    return [*named, *((f"...{index}", size) for index, size in enumerate(reversed(middle)))]


def _recurrent(node: onnx.NodeProto, shapes: Shapes) -> int:
    steps, batch, width = shapes[node.input[0]]
    directions, _, hidden = shapes[node.input[2]]
    return 2 * steps * batch * directions * _GATES[node.op_type] * hidden * (width + hidden)


_FORMULAS: Mapping[str, Callable[[onnx.NodeProto, Shapes], int]] = {
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "Gemm": _gemm,
    "Conv": _convolution,
    "ConvInteger": _convolution,
    "ConvTranspose": _transposed_convolution,
    "AveragePool": _pool,
    "MaxPool": _pool,
    "Einsum": _einsum,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}
