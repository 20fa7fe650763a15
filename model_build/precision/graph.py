"""What of an ONNX graph can be computed in fewer bits: its layers, that is products with constant weights."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from model_build.precision.variants import FP16, INT8

OPERATORS = ("Conv", "Gemm", "MatMul")  # that are quantised
RECURRENT = ("GRU", "LSTM", "RNN")
HALVED = (*OPERATORS, "ConvTranspose", "Einsum", *RECURRENT)
NAMED_OPERATORS = 5  # in a message
# A constant behind these is one still: the same numbers, in another shape or type.
_SAME_NUMBERS = ("Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


@dataclass(frozen=True)
class Layer:
    """A convolution, matrix product or recurrent layer with constant weights.

    Attributes:
        name: of the node.
        operator: of ONNX.
        weight: name of the weights, of the first of several.
        input, output: names of the tensors that it takes and gives.
        datatype: of the weights as they are stored, in ONNX's terms (FLOAT, FLOAT16, INT8); "FLOAT and FLOAT16" where
            there are several.
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


def layers(model: onnx.ModelProto, variant: str = INT8) -> list[Layer]:
    """What of a graph could be in `variant`, in the order in which it runs.

    Weights behind DequantizeLinear or Cast count as they are stored. INT8 is for convolutions and matrix products
    alone, FP16 for whatever multiplies.
    """
    known = constants(model.graph)
    producers = {output: node for node in model.graph.node for output in node.output}
    found = []
    for node in model.graph.node:
        if node.op_type not in (HALVED if variant == FP16 else OPERATORS):
            continue
        places = factors(node) if variant == FP16 else node.input[1:2]
        if weights := [one for one in (stored(name, known, producers) for name in places) if one is not None]:
            datatypes = dict.fromkeys(TensorProto.DataType.Name(one.data_type) for one in weights)
            name = weights[0].name.removesuffix("_quantized")
            found.append(Layer(node.name, node.op_type, name, node.input[0], node.output[0], " and ".join(datatypes)))
    return found


def factors(node: onnx.NodeProto) -> list[str]:
    """Names of what a product multiplies, weights included and biases not."""
    if node.op_type in RECURRENT:
        return [name for name in node.input[:3] if name]
    return [name for name in (node.input if node.op_type == "Einsum" else node.input[:2]) if name]


def without_layers(graphs: Mapping[str, onnx.ModelProto], variant: str) -> str | None:
    """Why no file of these graphs can be `variant`: nothing in them could be in it; None where something could."""
    if any(layers(model, variant) for model in graphs.values()):
        return None
    operators = dict.fromkeys(node.op_type for model in graphs.values() for node in model.graph.node)
    named = ", ".join([*operators][:NAMED_OPERATORS]) + (", ..." if len(operators) > NAMED_OPERATORS else "")
    only = variant == INT8 and any(layers(model, FP16) for model in graphs.values())
    return (
        f"{'INT8 is' if only else 'FP16 and INT8 are'} for convolutions and matrix products with constant weights, and "
        f"{' and '.join(graphs)} has none ({named})"
    )


def constants(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    """Its constants by name."""
    return {tensor.name: tensor for tensor in graph.initializer}


def stored(name: str, known: Mapping[str, TensorProto], producers: Mapping[str, onnx.NodeProto]) -> TensorProto | None:
    """The constant that a tensor is, as it lies in the file; None where it is computed."""
    while name not in known:
        node = producers.get(name)
        if node is None or node.op_type not in ("DequantizeLinear", *_SAME_NUMBERS):
            return None
        if any(other and other not in known for other in node.input[1:]):
            return None
        name = node.input[0]
    return known[name]


def fold_weights(model: onnx.ModelProto) -> None:
    """Change a graph so that weights which it turns or casts at each run lie in it as they are multiplied.

    No tool quantises `MatMul(x, Transpose(weight))`: to it the weights are computed.
    """
    known = constants(model.graph)
    multiplied = {name for node in model.graph.node if node.op_type in OPERATORS for name in node.input[1:2]}
    wanted: set[int] = set()
    for node in reversed(model.graph.node):
        if node.op_type in _SAME_NUMBERS and node.output[0] in multiplied:
            wanted.add(id(node))
            multiplied.add(node.input[0])
    left: set[str] = set()
    for node in [one for one in model.graph.node if id(one) in wanted]:
        if all(name in known for name in node.input if name):
            folded = _computed(node, [known[name] for name in node.input if name], model)
            known[folded.name] = folded
            left.update(node.input)
            model.graph.initializer.append(folded)
            model.graph.node.remove(node)
    users = {name for node in model.graph.node for name in node.input} | {one.name for one in model.graph.output}
    inner = any(one.type in (one.GRAPH, one.GRAPHS) for node in model.graph.node for one in node.attribute)
    for index in reversed(range(len(model.graph.initializer))):
        if not inner and model.graph.initializer[index].name in left - users:  # branches may use any of them
            del model.graph.initializer[index]


def _computed(node: onnx.NodeProto, inputs: list[TensorProto], model: onnx.ModelProto) -> TensorProto:
    """What a node gives that takes constants alone."""
    graph = helper.make_graph([node], "folded", [], [onnx.ValueInfoProto(name=node.output[0])], inputs)
    alone = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    session = ort.InferenceSession(alone.SerializeToString(), providers=["CPUExecutionProvider"])
    return numpy_helper.from_array(session.run(None, {})[0], node.output[0])


def prepared(content: bytes) -> bytes:
    """A file as variants are made of it: each node has a name, and weights are initialisers.

    The exporter's files are so already, and come back as they are; those of other tools may leave nodes without a name,
    or hold weights in nodes of their own (Constant), which no tool quantises.
    """
    model = onnx.load_from_string(content)
    names = {node.name for node in model.graph.node}
    multiplied = {name for node in model.graph.node if node.op_type in OPERATORS for name in node.input}
    weights = [node for node in model.graph.node if _is_tensor(node) and node.output[0] in multiplied]
    if "" not in names and not weights:
        return content
    for node in weights:
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(next(one.t for one in node.attribute if one.name == "value"))
        tensor.name = node.output[0]
        model.graph.node.remove(node)
    for index, node in enumerate(model.graph.node):
        if not node.name:
            free = (f"{node.op_type}_{number}" for number in itertools.count(index))
            node.name = next(name for name in free if name not in names)
            names.add(node.name)
    named: bytes = model.SerializeToString(deterministic=True)
    return named


def _is_tensor(node: onnx.NodeProto) -> bool:
    return node.op_type == "Constant" and any(one.name == "value" for one in node.attribute)
