"""What quantisation does to the neighbours of a layer that stays in FP32, put right.

ONNX Runtime's tool gives every user of a tensor its 8-bit form, and ONNX Runtime itself fuses what it finds side by
side: a layer that was to stay in FP32 is given rounded inputs or even 8-bit weights, or the one before it runs in FP32.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

# Through these ONNX Runtime moves DequantizeLinear.
_MOVES = ("MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze")


def release(model: onnx.ModelProto, keep: Collection[str], *, symmetric: bool) -> None:
    """Change a quantised graph so that the layers in `keep`, and no others, are computed in FP32.

    A kept layer takes the tensor that was quantised. Only after a convolution on a CPU is there none: its result is
    there in 8 bits alone (and its Relu is the lower end of them). There ONNX Runtime would take DequantizeLinear,
    Conv, QuantizeLinear for one INT8 layer, and quantise the weights; Max with the least number keeps them apart.

    Args:
        model: is changed.
        keep: names of layers.
        symmetric: the form for TensorRT, which quantises the inputs of layers and nothing else.
    """
    producers = {output: node for node in model.graph.node for output in node.output}
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        if node.name in keep:
            node.input[0] = _before_rounding(node.input[0], producers, symmetric=symmetric)
            if _is_rounded(node.input[0], producers):
                maximum = _maximum(model, f"{node.name}_apart", node.input[0], float(np.finfo(np.float32).min))
                model.graph.node.append(maximum)
                node.input[0] = maximum.output[0]
        model.graph.node.append(node)
    _remove_unused(model)
    if not symmetric:
        _keep_relus_apart(model, producers, keep)


def _before_rounding(name: str, producers: Mapping[str, onnx.NodeProto], *, symmetric: bool) -> str:
    """The tensor of which this is the 8-bit form; itself where it is none, or where a convolution gives no other."""
    if name not in producers or producers[name].op_type != "DequantizeLinear":
        return name
    if producers[name].input[0] not in producers:  # a constant
        return name
    original = str(producers[producers[name].input[0]].input[0])
    convolution = original in producers and producers[original].op_type == "Conv"
    return name if convolution and not symmetric else original


def _is_rounded(name: str, producers: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether a tensor has been in 8 bits, and has the same numbers since."""
    while name in producers and producers[name].op_type in _MOVES:
        name = producers[name].input[0]
    return name in producers and producers[name].op_type == "DequantizeLinear"


def _keep_relus_apart(model: onnx.ModelProto, producers: Mapping[str, onnx.NodeProto], keep: Collection[str]) -> None:
    """ONNX Runtime fuses Gemm and Relu in FP32 unless the result is quantised; Max with 0 is the same and not fused."""
    users: dict[str, list[str]] = {value.name: ["the model"] for value in model.graph.output}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node.op_type)
    for node in model.graph.node:
        layer = producers.get(node.input[0]) if node.op_type == "Relu" else None
        in_8_bits = layer is not None and layer.op_type == "Gemm" and layer.name not in keep
        if in_8_bits and users.get(node.output[0]) != ["QuantizeLinear"]:
            maximum = _maximum(model, f"{node.name}_apart", node.input[0], 0.0)
            maximum.output[0] = node.output[0]
            node.CopyFrom(maximum)


def _maximum(model: onnx.ModelProto, name: str, tensor: str, least: float) -> onnx.NodeProto:
    model.graph.initializer.append(numpy_helper.from_array(np.array(least, np.float32), f"{name}_least"))
    return helper.make_node("Max", [tensor, f"{name}_least"], [name], name=name)


def _remove_unused(model: onnx.ModelProto) -> None:
    """QuantizeLinear and DequantizeLinear whose results nobody takes."""
    outputs = {value.name for value in model.graph.output}
    while True:
        used = outputs | {name for node in model.graph.node for name in node.input}
        unused = [
            node
            for node in model.graph.node
            if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.output[0] not in used
        ]
        if not unused:
            return
        for node in unused:
            model.graph.node.remove(node)
