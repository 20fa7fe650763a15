"""How far a variant's answers are from FP32's, and which layers take them there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper

from model_build.precision.graph import Layer, layers
from model_build.precision.numbers import furthest, is_real, is_text, same

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]
Answer = Array | Sequence[Array]
BEYOND = 0.01  # share of a layer's input that may be outside of what calibration found, before it is worth a word


# An answer so much shorter than FP32's are in the mean has no direction that counts: 1e-9 beside 0.1 is noise.
_NOTHING = 1e-3


@dataclass(frozen=True)
class Distance:
    """Of one output from FP32's.

    Attributes:
        max_abs: largest absolute difference; infinite where one alone is not finite, or they differ in shape. None of
            text and whole numbers, which are equal or not.
        cosine: mean over the examples of the cosine between the two answers; 1 is the same direction. None where an
            example is one number, which has no direction, and where there is nothing to compare.
        relative: of an output of one number an example, the root mean square of the differences by that of FP32's
            answers. None for others, and where all of FP32's are 0.
        changed: of text and whole numbers, the share of examples that are not equal, of 1.
        largest: absolute value of FP32's largest number.
    """

    max_abs: float | None
    cosine: float | None = None
    relative: float | None = None
    changed: float | None = None
    largest: float = field(default=0.0, compare=False)

    def to_json(self) -> dict[str, float]:
        """For the manifest, without what this output does not have."""
        found = {"max_abs": self.max_abs, "cosine_mean": self.cosine}
        found |= {"relative": self.relative, "changed": self.changed}
        return {name: value for name, value in found.items() if value is not None}


def distances(reference: Mapping[str, Answer], found: Mapping[str, Answer]) -> dict[str, Distance]:
    """By output, from arrays `[n, ...]`; of answers of varying size, lists of such arrays, one for each request."""
    return {name: _distance(_examples(answer), _examples(found[name])) for name, answer in reference.items()}


def _examples(answer: Answer) -> list[Array]:
    """Each example's answer as an array `[1, ...]`; a number alone is one.

    Cut from the array, and not taken out of it: NumPy's own types of text end at the last byte that is no zero.
    """
    parts = [answer] if isinstance(answer, np.ndarray) else [np.asarray(part) for part in answer]
    rows = [part if part.ndim else part[np.newaxis] for part in parts]
    return [part[index : index + 1] for part in rows for index in range(len(part))]


def _distance(reference: list[Array], found: list[Array]) -> Distance:
    pairs = list(zip(reference, found, strict=False))
    fits = len(reference) == len(found) and all(left.shape == right.shape for left, right in pairs)
    if pairs and (not is_real(pairs[0][0]) or is_text(pairs[0][1])):
        unequal = sum(left.shape != right.shape or not bool(same(left, right).all()) for left, right in pairs)
        return Distance(None, changed=unequal / len(pairs) if len(reference) == len(found) else 1.0)
    one_number = all(left.size == 1 for left, _ in pairs)
    if not fits:
        return Distance(float("inf"), None if one_number and pairs else -1.0)
    if not any(left.size for left, _ in pairs):
        return Distance(0.0)
    max_abs = float(np.max([furthest(left, right) for left, right in pairs]))
    if not np.isfinite(max_abs):
        return Distance(float("inf"), None if one_number else -1.0)
    finite = (np.abs(one[np.isfinite(one)]) for one in (left.astype(np.float64) for left, _ in pairs))
    largest = max(float(one.max(initial=0.0)) for one in finite)
    left, right = _rows(pairs)
    if one_number:
        return Distance(max_abs, relative=_relative(left, right), largest=largest)
    return Distance(max_abs, _cosine(left, right), largest=largest)


def _rows(pairs: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Both as float64 `[n, values]`, at most 1; 0 behind those that are shorter, and where neither is finite."""
    left, right = np.zeros((2, len(pairs), max(one.size for one, _ in pairs)))
    for row, (one, other) in enumerate(pairs):
        left[row, : one.size], right[row, : one.size] = one.ravel(), other.ravel()
    left[~np.isfinite(left)] = right[~np.isfinite(right)] = 0  # they are equal there
    largest = max(np.abs(left).max(), np.abs(right).max()) or 1.0
    return left / largest, right / largest


def _relative(left: Array, right: Array) -> float | None:
    size = float(np.linalg.norm(left))
    return float(np.linalg.norm(left - right)) / size if size else None


def _cosine(left: Array, right: Array) -> float | None:
    """Mean cosine of the rows; those that are nothing beside the others, on both sides, differ in none."""
    lengths, others = np.linalg.norm(left, axis=1), np.linalg.norm(right, axis=1)
    size = float(np.sqrt((lengths**2).mean()))
    if not size:
        return 1.0 if not right.any() else None
    nothing = np.maximum(lengths, others) <= _NOTHING * size
    both = lengths * others
    cosines = np.divide((left * right).sum(axis=1), both, out=np.zeros_like(both), where=both > 0)
    return float(np.where(nothing, 1.0, cosines).mean())


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
        return f"{text}, {self.beyond:.0%} of its input beyond the calibrated range" if self.beyond > BEYOND else text


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
