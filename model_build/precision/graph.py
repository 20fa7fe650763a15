"""What of an ONNX graph can be computed in fewer bits: its layers, that is products with constant weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto

OPERATORS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Layer:
    """A convolution or matrix product with constant weights.

    Attributes:
        name: of the node.
        operator: of ONNX.
        weight: name of the weights.
        input, output: names of the tensors that it takes and gives.
        datatype: of the weights as they are stored, in ONNX's terms (FLOAT, FLOAT16, INT8).
    """

    name: str
    operator: str
    weight: str
    input: str
    output: str
    datatype: str

    def __str__(self) -> str:
        named = self.weight and not self.weight.startswith("val_")  # the exporter's name for a transposed weight
        return f"{self.name} ({self.weight})" if named else self.name


def layers(model: onnx.ModelProto) -> list[Layer]:
    """The layers in the order in which they run; weights behind DequantizeLinear or Cast count as they are stored."""
    constants: dict[str, TensorProto] = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    found = []
    for node in model.graph.node:
        if node.op_type in OPERATORS and (weight := _stored(node.input[1], constants, producers)) is not None:
            datatype = TensorProto.DataType.Name(weight.data_type)
            name = weight.name.removesuffix("_quantized")
            found.append(Layer(node.name, node.op_type, name, node.input[0], node.output[0], datatype))
    return found


def _stored(
    name: str, constants: Mapping[str, TensorProto], producers: Mapping[str, onnx.NodeProto]
) -> TensorProto | None:
    while name not in constants:
        node = producers.get(name)
        if node is None or node.op_type not in ("DequantizeLinear", "Cast", "Transpose"):
            return None
        name = node.input[0]
    return constants[name]
