"""One pass over a graph: two inferences of each tensor, and the rules of its operators."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import defs, helper, inliner, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from .computing import is_elementwise
from .moving import apply_rule
from .rules import CONSTANT, Call, Rows, Tensor, Unknown
from .sizes import agreed, kinds_of, of_shape, shaped_by

SMALLEST_BATCH = 7
# Larger constants are weights: no operator takes a shape, axes or indices of that many numbers from one.
LARGEST_CONSTANT = 4096
LARGEST_SHAPE = 16  # nor a shape of that many: they are positions and other tables
LARGEST_VALUE = 1 << 16  # of what is computed from sizes: an attention's mask has rows x places x places
ENDLESS = 2**31 - 1  # what stands for the end of a dimension, and is no size


@dataclass(frozen=True)
class Verdict:
    """Whether rows stay apart; false with the reason.

    Attributes:
        apart: every output has one row for each row of the inputs, made of nothing else.
        known: whether that was found out: a graph with an operator that has no rule here is neither.
        reason: what mixes the rows, or could not be followed.
        carried: every output's first dimension is the batch, whatever its rows are made of; undecided graphs too.
    """

    apart: bool
    known: bool = True
    reason: str = ""
    carried: bool = False

    def __bool__(self) -> bool:
        return self.apart


def read_graph(path: Path) -> onnx.ModelProto:
    """Read a graph without its external data."""
    return onnx.load(str(path), load_external_data=False)


def examine(model: onnx.ModelProto, outputs: Iterable[str] = ()) -> Verdict:
    """Follow the batch, the first dimension of every input, to the outputs (all of them unless some are named)."""
    try:
        walk = _Walk(model)
        tensors = walk.run()
    except Exception as error:  # noqa: BLE001 - whatever a stranger's graph does to the tools, it is undecided then
        return Verdict(False, False, f"the graph could not be followed ({type(error).__name__}: {_line(error)})")
    wanted = [*outputs] or [output.name for output in model.graph.output]
    carried = all(_carried(tensors.get(name), walk.batches) for name in wanted)
    verdicts = [_output(name, tensors.get(name), carried) for name in wanted]
    return min(verdicts, key=lambda one: (one.apart, not one.known), default=Verdict(False, reason="it has no output"))


def _output(name: str, tensor: Tensor | None, carried: bool) -> Verdict:
    where = tensor.where if tensor else Unknown("it is not computed")
    if where == Rows(0):
        return Verdict(True, carried=carried)
    if isinstance(where, Unknown):
        return Verdict(False, where.mixes, f"output '{name}': {where.reason}", carried)
    if isinstance(where, Rows):
        place = f"in dimension {where.axis}" if where.axis else f"as {where.outer * where.factor} rows for each"
        return Verdict(False, True, f"output '{name}' holds the batch {place}, not as its first dimension")
    return Verdict(False, True, f"output '{name}' does not depend on the batch")


def _carried(tensor: Tensor | None, batches: tuple[int, int]) -> bool:
    return tensor is not None and all(
        shape is not None and len(shape) > 0 and shape[0] == batch
        for shape, batch in zip(tensor.shapes, batches, strict=True)
    )


@dataclass
class _Walk:
    """One pass over a graph's nodes in their order (ONNX asks for a topological one)."""

    model: onnx.ModelProto
    tensors: dict[str, Tensor] = field(default_factory=dict)
    batches: tuple[int, int] = (0, 0)

    def run(self) -> Mapping[str, Tensor]:
        graph = self.model.graph
        if self.model.functions:
            graph = inliner.inline_local_functions(self.model).graph
        for initializer in graph.initializer:
            self.tensors[initializer.name] = _constant(initializer)
        # Two batches, and a size for each free dimension, none of which any number of the graph is a multiple of: a
        # size that differs between the batches comes from the batch, and one that fits a free dimension from that.
        sizes: dict[str, int] = {}
        rest = _strangers(_numbers(graph))
        self.batches = (next(rest), next(rest))
        for value in graph.input:
            if value.name not in self.tensors:
                self.tensors[value.name] = _input(value, sizes, rest, self.batches)
        self.opsets = {"" if one.domain == "ai.onnx" else one.domain: one.version for one in self.model.opset_import}
        for node in graph.node:
            for name, tensor in zip(node.output, self._follow(node), strict=True):
                if name:
                    self.tensors[name] = tensor
        return self.tensors

    def _follow(self, node: onnx.NodeProto) -> Sequence[Tensor]:
        inputs = [self.tensors[name] if name else None for name in node.input]
        version = self.opsets.get(node.domain, self.opsets.get("", 1))
        inferred = [self._infer(node, version, index) for index in range(2)]
        types = [one or {} for one in inferred]
        values = [self._evaluate(node, index) for index in range(2)]
        outputs = []
        for number, name in enumerate(node.output):
            pair = tuple(one.get(name) for one in types)
            known = tuple(one[number] if one else None for one in values)
            shapes = tuple(_shape(kind, value) for kind, value in zip(pair, known, strict=True))
            outputs.append(Tensor(pair, shapes, known, CONSTANT))
        if not (node.op_type in ("Shape", "Size") and not node.domain):
            steady = _keeps_shape(node, inputs)
            for tensor in outputs:
                tensor.steady = steady
        self._find_kinds(node, inputs, outputs)
        call = Call(node, version, _attributes(node), inputs, outputs, self.batches, fits=None not in inferred)
        for tensor, where in zip(outputs, apply_rule(call), strict=True):
            tensor.where = where
        return outputs

    def _find_kinds(self, node: onnx.NodeProto, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> None:
        """Say of each known element how it follows from the size of the batch."""
        if not all(tensor.values[0] is not None and tensor.values[1] is not None for tensor in outputs):
            return
        if node.op_type in ("Shape", "Size") and not node.domain:
            source, attributes = inputs[0], _attributes(node)
            assert source is not None
            kinds = of_shape([source.shape(0), source.shape(1)], source.steady)
            cut = kinds[attributes.get("start", 0) : attributes.get("end")]
            outputs[0].kinds = [cut if node.op_type == "Shape" else kinds.max(initial=0).reshape(())] * 2
            return
        each = []
        for index, batch in enumerate(self.batches):
            given = [(one.values[index], one.kinds[index]) if one is not None else None for one in inputs]
            made = [tensor.values[index] for tensor in outputs]
            each.append(kinds_of(node, _attributes(node), given, made, batch, lambda found: self._run(node, found)))
        for tensor, first, second in zip(outputs, *each, strict=True):
            tensor.kinds = agreed(tensor.values, (first, second), self.batches)

    def _infer(self, node: onnx.NodeProto, version: int, index: int) -> Mapping[str, onnx.TypeProto] | None:
        """Types of the node's outputs for one of the two batches; empty where there are none, None for wrong inputs."""
        found = {name: self.tensors[name] for name in node.input if name}
        types = {name: kind for name, tensor in found.items() if (kind := tensor.types[index]) is not None}
        if not defs.has(node.op_type, node.domain) or len(types) < len(found):
            return {}
        schema = defs.get_schema(node.op_type, version, node.domain)
        data = {
            name: numpy_helper.from_array(tensor.values[index], name)
            for name, tensor in found.items()
            if tensor.values[index] is not None and tensor.values[index].dtype != np.object_
        }
        try:
            return shape_inference.infer_node_outputs(
                schema, node, types, data, opset_imports=list(self.model.opset_import)
            )
        except (shape_inference.InferenceError, ValueError, TypeError, RuntimeError):
            return None

    def _evaluate(self, node: onnx.NodeProto, index: int) -> Sequence[Any]:
        """The node's outputs where they are small and follow from shapes and constants alone."""
        if node.op_type in ("Shape", "Size"):
            source = self.tensors[node.input[0]].shapes[index]
            if source is None:
                return ()
            if node.op_type == "Size":
                return (np.array(int(np.prod(source)), np.int64),)
            attributes = _attributes(node)
            return (np.array(source[attributes.get("start", 0) : attributes.get("end")], np.int64),)
        if node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial") or _has_graph(node):
            return ()
        return self._run(node, [self.tensors[name].values[index] if name else None for name in node.input])

    def _run(self, node: onnx.NodeProto, inputs: Sequence[Any]) -> Sequence[Any]:
        """The node's outputs for these values of its inputs; nothing where one is not known or the operator is not."""
        values = {name: value for name, value in zip(node.input, inputs, strict=True) if name}
        if any(value is None for value in values.values()):
            return ()
        try:
            with np.errstate(all="ignore"):  # its warnings are nobody's
                found = ReferenceEvaluator(_with_opsets(node, self.model)).run(None, values)
        except Exception:  # noqa: BLE001 - an operator that the reference lacks has no value here, and that is all
            return ()
        return [value if isinstance(value, np.ndarray) and value.size <= LARGEST_VALUE else None for value in found]


def _keeps_shape(node: onnx.NodeProto, inputs: Sequence[Tensor | None]) -> bool:
    """Whether the shape of what a node gives follows from the size of the batch as those of what it takes do."""
    by_element, standard = is_elementwise(node), node.domain in ("", "ai.onnx")
    return all(
        tensor.steady and (tensor.exact or by_element or (standard and not shaped_by(node.op_type, index)))
        for index, tensor in enumerate(inputs)
        if tensor is not None
    )


def _with_opsets(node: onnx.NodeProto, model: onnx.ModelProto) -> onnx.ModelProto:
    values = [helper.make_empty_tensor_value_info(name) for name in node.input if name]
    answers = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
    graph = helper.make_graph([node], "node", values, answers)
    return helper.make_model(graph, opset_imports=list(model.opset_import))


def _constant(tensor: onnx.TensorProto) -> Tensor:
    kind = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
    small = np.prod(tensor.dims) <= LARGEST_CONSTANT and tensor.data_location != onnx.TensorProto.EXTERNAL
    value = numpy_helper.to_array(tensor) if small else None
    shape = tuple(tensor.dims)
    kinds = np.zeros(shape, np.uint8) if value is not None else None
    return Tensor((kind, kind), (shape, shape), (value, value), CONSTANT, kinds=(kinds, kinds))


def _numbers(graph: onnx.GraphProto) -> set[int]:
    """Sizes, shapes and the like that the graph has: fixed dimensions, small constants, attributes."""
    tensors = [*graph.initializer]
    found = {dim.dim_value for value in graph.input for dim in value.type.tensor_type.shape.dim}
    for node in graph.node:
        for one in node.attribute:
            tensors += [one.t] if one.HasField("t") else []
            found |= {one.i, *one.ints}
    for tensor in tensors:
        found |= {*tensor.dims}
        whole = tensor.data_type in (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
        if whole and np.prod(tensor.dims) <= LARGEST_SHAPE and tensor.data_location != onnx.TensorProto.EXTERNAL:
            found |= {int(one) for one in numpy_helper.to_array(tensor).flat}
    return {abs(one) for one in found if 1 < abs(one) < ENDLESS}


def _strangers(numbers: set[int]) -> Iterator[int]:
    """Primes, from `SMALLEST_BATCH` up, of which none of the numbers is a multiple."""
    for size in itertools.count(SMALLEST_BATCH, 2):
        prime = all(size % number for number in range(3, int(size**0.5) + 1, 2))
        if prime and all(number % size for number in numbers):
            yield size


def _input(value: onnx.ValueInfoProto, sizes: dict[str, int], rest: Iterable[int], batches: tuple[int, int]) -> Tensor:
    """An input whose first dimension is the batch; others that are free get a size of their own, by their name."""
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor.HasField("shape") or not tensor.shape.dim:
        without = Unknown(f"input '{value.name}' has no batch dimension", mixes=tensor.HasField("shape"))
        return Tensor((value.type, value.type), (None, None), (None, None), without)
    dims = []
    for number, dim in enumerate(tensor.shape.dim[1:], start=1):
        name = dim.dim_param or f"{value.name}/{number}"
        if not dim.HasField("dim_value") and name not in sizes:
            sizes[name] = next(iter(rest))
        dims.append(dim.dim_value if dim.HasField("dim_value") else sizes[name])
    first = tensor.shape.dim[0]
    shapes = tuple((batch, *dims) for batch in batches)
    kinds = tuple(helper.make_tensor_type_proto(tensor.elem_type, shape) for shape in shapes)
    where: Rows | Unknown = Rows(0)
    if first.HasField("dim_value"):
        where = Unknown(f"input '{value.name}' takes {first.dim_value} rows, no more and no less", mixes=True)
    return Tensor(kinds, shapes, (None, None), where)


def _shape(kind: onnx.TypeProto | None, value: Any) -> tuple[int, ...] | None:
    if value is not None:
        return tuple(value.shape)
    if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return tuple(dim.dim_value for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {one.name: helper.get_attribute_value(one) for one in node.attribute}


def _has_graph(node: onnx.NodeProto) -> bool:
    return any(one.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for one in node.attribute)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
