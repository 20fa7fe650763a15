"""How much of a graph's work a variant does in its precision: of the weights that are multiplied, and of the FLOPs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto

from model_build.precision.graph import constants, factors, layers, stored
from model_build.precision.numbers import percent
from model_build.precision.variants import FP16
from model_build.roofline import operators

# ONNX Runtime's own operators multiply as well.
_OWN = ("Attention", "FusedConv", "FusedGemm", "FusedMatMul")
_MULTIPLY = operators.PRODUCTS | operators.CONVOLUTIONS | frozenset(_OWN)


@dataclass(frozen=True)
class Product:
    """A node that multiplies, with constant weights or without.

    Attributes:
        graph: name of the file that it is in.
        name, operator: of the node.
        weights: how many numbers of its constants it multiplies.
        flops: of one run, a multiplication and an addition being two; 0 where only data decides whether it runs.
    """

    graph: str
    name: str
    operator: str
    weights: int
    flops: float

    def __str__(self) -> str:
        return f"{self.name} ({self.operator})"


@dataclass(frozen=True)
class Share:
    """What part of the products is in a precision; tables that are only looked up in are no products.

    Attributes:
        weights, flops: of 1.
        others: the products that are not, those with most FLOPs first.
    """

    weights: float
    flops: float
    others: tuple[Product, ...]

    @property
    def least(self) -> float:
        """The smaller of the two."""
        return min(self.weights, self.flops)

    def __str__(self) -> str:
        return f"{percent(self.weights)} of the weights and {percent(self.flops)} of the FLOPs"


def products(graph_name: str, content: bytes, feed: Mapping[str, Any]) -> list[Product]:
    """Every node that multiplies, those of branches and loops included.

    Args:
        graph_name: of the file.
        content: an ONNX file.
        feed: an input of it, for the shapes.
    """
    model = onnx.load_from_string(content)
    shapes = _shapes(model, [node for node in model.graph.node if node.op_type in _MULTIPLY], feed)
    found = []
    for graph in _graphs(model.graph):
        known = constants(graph)
        producers = {output: node for node in graph.node for output in node.output}
        for node in graph.node:
            if node.op_type in _MULTIPLY:
                tensors = [stored(name, known, producers) for name in factors(node)]
                weights = sum(int(np.prod(tensor.dims)) for tensor in tensors if tensor is not None)
                counted = graph is model.graph and node.op_type not in _OWN
                flops = operators.products(node, shapes) if counted else 0.0
                found.append(Product(graph_name, node.name, node.op_type, weights, flops))
    return found


def share(known: Sequence[Product], there: Sequence[Product]) -> Share:
    """That of some of the products; 0 where there is no product."""
    others = sorted((one for one in known if one not in there), key=lambda one: (-one.flops, -one.weights))
    weights, flops = sum(one.weights for one in known), sum(one.flops for one in known)
    by_weights = sum(one.weights for one in there) / weights if weights else 0.0
    return Share(by_weights, sum(one.flops for one in there) / flops if flops else by_weights, tuple(others))


def inside(content: bytes, variant: str) -> set[str]:
    """Names of the products that a variant's file computes in its precision, by the types of what they multiply."""
    model = onnx.load_from_string(content)
    held = {layer.name for layer in layers(model) if layer.datatype == "INT8"}
    producers = {output: node for node in model.graph.node for output in node.output}
    known = constants(model.graph)
    types = {name: tensor.data_type for name, tensor in known.items()}
    inferred = onnx.shape_inference.infer_shapes(model).graph
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        types[value.name] = value.type.tensor_type.elem_type
    found = set()
    for node in model.graph.node:
        names = factors(node) if node.op_type in _MULTIPLY else []
        if variant == FP16:
            there = bool(names) and all(types.get(name) == TensorProto.FLOAT16 for name in names)
        else:
            quantised = [name in producers and producers[name].op_type == "DequantizeLinear" for name in names]
            constant = any(stored(name, known, producers) is not None for name in names)
            there = node.name in held or (bool(names) and all(quantised) and not constant)
        if there:
            found.add(node.name)
    return found


def _graphs(graph: onnx.GraphProto) -> Iterable[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner)


def _shapes(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], feed: Mapping[str, Any]
) -> dict[str, tuple[int, ...]]:
    """Of what these nodes take and give, as one run has them: data may decide of shapes."""
    found = {name: tuple(tensor.dims) for name, tensor in constants(model.graph).items()}
    found |= {name: np.shape(array) for name, array in feed.items()}
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    there = {value.name for value in model.graph.output}
    wanted = [name for node in nodes for name in (*factors(node), *node.output[:1]) if name and name not in found]
    for name in dict.fromkeys(wanted):
        if name not in there:
            exposed.graph.output.append(onnx.ValueInfoProto(name=name))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(exposed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = list(dict.fromkeys(wanted))
    answers = session.run(names, dict(feed)) if names else []
    return found | {name: array.shape for name, array in zip(names, answers, strict=True)}
