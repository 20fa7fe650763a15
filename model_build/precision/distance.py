"""How far a variant's answers are from FP32's, and which layers take them there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper

from model_build.precision.graph import Layer, layers

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]


@dataclass(frozen=True)
class Distance:
    """Of one output from FP32's.

    Attributes:
        max_abs: largest absolute difference; infinite where a number is not finite.
        cosine: mean over the examples of the cosine between the two answers; 1 is the same direction.
    """

    max_abs: float
    cosine: float


def distances(reference: Mapping[str, Array], found: Mapping[str, Array]) -> dict[str, Distance]:
    """By output, from arrays `[n, ...]` of floating point; others are not compared."""
    return {name: _distance(array, found[name]) for name, array in reference.items() if array.dtype.kind == "f"}


def _distance(reference: Array, found: Array) -> Distance:
    left, right = (array.reshape(len(array), -1).astype(np.float64) for array in (reference, found))
    if left.shape != right.shape or not np.isfinite(right).all():
        return Distance(float("inf"), -1.0)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    same = (left == right).all(axis=1).astype(np.float64)  # two answers of zeros have no direction, and differ in none
    cosines = np.divide((left * right).sum(axis=1), lengths, out=same, where=lengths > 0)
    return Distance(float(np.abs(left - right).max(initial=0.0)), float(cosines.mean()))


@dataclass(frozen=True)
class LayerError:
    """What one layer adds, given exactly what FP32 gives it.

    Attributes:
        layer: which.
        sqnr_db: signal to quantisation noise of its output, in decibels; less is worse.
        beyond: share of its inputs outside of the range that calibration found, of 1.
    """

    layer: Layer
    sqnr_db: float
    beyond: float

    def __str__(self) -> str:
        text = f"{self.layer} {self.sqnr_db:.0f} dB"
        return f"{text}, {self.beyond:.0%} of its input beyond the calibrated range" if self.beyond > 0.01 else text


def layer_errors(fp32: bytes, variant: bytes, feeds: Sequence[Feed]) -> list[LayerError]:
    """Every layer of the graph, worst first.

    Each is run by itself on the activations of the FP32 graph, so that no layer is blamed for those before it.
    """
    reference = onnx.load_from_string(fp32)
    known = layers(reference)
    activations = _activations(reference, known, feeds)
    model = onnx.load_from_string(variant)
    names = {layer.name for layer in layers(model)}
    types = _types(model)
    found = []
    for layer in known:
        if layer.name in names:
            noise = signal = 0.0
            session, quantised = _alone(model, layer, types)
            outside: list[float] = []
            for given in activations:
                array = given[layer.input].astype(types.get(layer.input, np.float32))
                output, *inner = session.run(None, {layer.input: array})
                expected = given[layer.output].astype(np.float64)
                difference = np.nan_to_num(output.astype(np.float64), nan=1e30, posinf=1e30, neginf=-1e30) - expected
                noise, signal = noise + float((difference**2).sum()), signal + float((expected**2).sum())
                if quantised:
                    low, high = quantised.limits
                    value = inner[0] if inner else array
                    outside.append(float(((value < low) | (value > high)).mean()))
            ratio = 200.0 if noise == 0 else 10 * float(np.log10(max(signal, 1e-300) / noise))
            found.append(LayerError(layer, ratio, float(np.mean(outside)) if outside else 0.0))
    return sorted(found, key=lambda error: error.sqnr_db)


def _activations(model: onnx.ModelProto, known: Sequence[Layer], feeds: Sequence[Feed]) -> list[dict[str, Array]]:
    """What goes into each layer and comes out of it, for each feed."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    there = {tensor.name for tensor in [*model.graph.output, *model.graph.input]}
    for name in dict.fromkeys(name for layer in known for name in (layer.input, layer.output)):
        if name not in there:
            exposed.graph.output.append(onnx.ValueInfoProto(name=name))
    session = _open(exposed)
    outputs = [node.name for node in session.get_outputs()]
    return [{**feed, **dict(zip(outputs, session.run(outputs, dict(feed)), strict=True))} for feed in feeds]


def _types(model: onnx.ModelProto) -> dict[str, Any]:
    """NumPy's types of the graph's tensors."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        for value in [*inferred.value_info, *inferred.input, *inferred.output]
        if value.type.tensor_type.elem_type
    }


@dataclass(frozen=True)
class _Quantised:
    """Where a layer's input becomes 8-bit, and the range that is held there."""

    tensor: str
    limits: tuple[float, float]


def _alone(
    model: onnx.ModelProto, layer: Layer, types: Mapping[str, Any]
) -> tuple[ort.InferenceSession, _Quantised | None]:
    """The part of the graph between a layer's input and its output; what is quantised is its second output."""
    producers = {output: node for node in model.graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: dict[int, onnx.NodeProto] = {}
    result = next(node for node in model.graph.node if node.name == layer.name).output[0]
    waiting, seen, needed = [result], {layer.input}, []
    quantised = None
    while waiting:
        name = waiting.pop()
        if name in seen or not name:
            continue
        seen.add(name)
        if name in constants:
            needed.append(constants[name])
        elif name in producers:
            node = producers[name]
            nodes[id(node)] = node
            waiting += node.input
            if node.op_type == "QuantizeLinear" and node.input[0] not in constants:
                quantised = _Quantised(node.input[0], _limits(node, constants))
    elements = helper.np_dtype_to_tensor_dtype(np.dtype(types.get(layer.input, np.float32)))
    outputs = [result] if quantised is None or quantised.tensor == layer.input else [result, quantised.tensor]
    graph = helper.make_graph(
        [node for node in model.graph.node if id(node) in nodes],
        layer.name,
        [helper.make_tensor_value_info(layer.input, elements, None)],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        needed,
    )
    part = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return _open(part), quantised


def _limits(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> tuple[float, float]:
    """What QuantizeLinear can hold: (lowest - zero point) * scale to (highest - zero point) * scale."""
    scale, zero = (onnx.numpy_helper.to_array(constants[name]) for name in node.input[1:3])
    limits = np.iinfo(zero.dtype)
    low, high = ((limit - int(zero)) * float(scale) for limit in (limits.min, limits.max))
    return low, high


def _open(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
