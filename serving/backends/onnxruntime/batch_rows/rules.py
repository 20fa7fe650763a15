"""Where the batch lies in what an ONNX operator gives, by where it lies in what it takes.

A rule only has to be right for the operators that it names; an operator without a rule leaves its outputs unknown.
What each operator computes: https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx

from .sizes import OTHER


@dataclass(frozen=True)
class Rows:
    """The batch lies in dimension `axis`, and no row knows another.

    The dimension has `outer * n * factor` places: `outer` times the whole batch, each row `factor` neighbouring places.
    """

    axis: int
    factor: int = 1
    outer: int = 1

    def at(self, axis: int) -> Rows:
        """The same in another dimension."""
        return replace(self, axis=axis)

    def size(self, batch: int) -> int:
        """How many places the dimension has."""
        return self.outer * batch * self.factor


@dataclass(frozen=True)
class Unknown:
    """Where the batch lies could not be found out, or (`mixes`) a row is made of several."""

    reason: str
    mixes: bool = False


@dataclass(frozen=True)
class Picks(Unknown):
    """Indices `[..., k]`: the first is the row's own number along dimension `axis`, the others are what the row says.

    Only GatherND knows what to do with them.
    """

    axis: int = 0


@dataclass(frozen=True)
class Plain:
    """The same whatever is asked (`CONSTANT`), or dependent on the size of the batch alone (`SIZED`)."""

    name: str


CONSTANT, SIZED = Plain("constant"), Plain("sized")
Where = Rows | Unknown | Plain


@dataclass
class Tensor:
    """A tensor in a small and in a larger batch: types, shapes and values as far as they are known.

    `table` says that it is `[n, features]`, for operators whose shapes ONNX does not infer; `kinds` how each element of
    a known value follows from the size of the batch (sizes.py); `steady` whether its shape does in such a way.
    """

    types: Sequence[onnx.TypeProto | None]
    shapes: Sequence[tuple[int, ...] | None]
    values: Sequence[Any]
    where: Where
    table: bool = False
    kinds: Sequence[Any] = (None, None)
    steady: bool = True

    @property
    def exact(self) -> bool:
        """Whether what depends on the size of the batch does so in a way that is known for every size."""
        if self.where is not SIZED:
            return True
        return self.steady and all(kinds is not None and not (kinds == OTHER).any() for kinds in self.kinds)

    @property
    def rank(self) -> int:
        """How many dimensions it has.

        Raises:
            Undecided: that is not known.
        """
        return len(self.shape(0))

    def shape(self, index: int) -> tuple[int, ...]:
        """The shape in the first or in the second batch; refuses one that is not known."""
        shape = self.shapes[index]
        if shape is None:
            raise Undecided("of a shape that is not known")
        return shape

    @property
    def value(self) -> Any:
        """The constant's value; refuses one that is not known or that depends on the batch."""
        first, second = self.values
        if first is None or second is None or first.shape != second.shape or (first != second).any():
            raise Undecided("with a parameter that is not known")
        return first


class Undecided(Exception):
    """The rule cannot say."""


class Mixes(Exception):
    """The operator makes one row of several."""


@dataclass(frozen=True)
class Call:
    """A node with its tensors; `batches` are the two sizes, `fits` whether its inputs are right for it in both."""

    node: onnx.NodeProto
    version: int
    attributes: Mapping[str, Any]
    inputs: Sequence[Tensor | None]
    outputs: Sequence[Tensor]
    batches: tuple[int, int]
    fits: bool = True

    @property
    def rows(self) -> list[Tensor]:
        """The inputs that hold the batch."""
        return [tensor for tensor in self.inputs if tensor is not None and isinstance(tensor.where, Rows)]

    @property
    def rank(self) -> int:
        """How many dimensions the first input has."""
        if self.inputs[0] is None:
            raise Undecided("without its input")
        return self.inputs[0].rank

    def given(self, index: int) -> Tensor | None:
        """Input `index`, None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def only(self, *indices: int) -> None:
        """Refuse a batch, or anything of its size, in any input but these."""
        for index, tensor in enumerate(self.inputs):
            if index not in indices and tensor is not None and tensor.where is not CONSTANT:
                raise Undecided("with a parameter that depends on the batch")

    def place(self, index: int = 0) -> Rows:
        """Where the batch lies in input `index`, the only one that has it."""
        tensor = self.given(index)
        self.only(index)
        if tensor is None or not isinstance(tensor.where, Rows):
            raise Undecided("with a parameter that depends on the batch")
        return tensor.where

    def alike(self, tensor: Tensor | None, axis: int) -> None:
        """Refuse a constant with a value for each place of its dimension `axis`, along which the batch lies.

        It may have one place there, or not have the dimension at all (a negative `axis`): a request has another place
        in each batch.
        """
        if tensor is not None and tensor.where is CONSTANT and 0 <= axis < tensor.rank and tensor.shape(0)[axis] != 1:
            raise Mixes("has a constant with a value for each place of the batch")

    def single(self, tensor: Tensor | None) -> None:
        """Refuse a constant of more than one value."""
        if tensor is not None and any(size != 1 for size in tensor.shape(0)):
            raise Mixes("has a constant with a value for each place of the batch")

    def parameter(self, attribute: str, index: int, default: Any = None) -> Any:
        """A parameter that is an attribute in some versions of the operator, and an input in others."""
        if attribute in self.attributes:
            return self.attributes[attribute]
        tensor = self.given(index)
        return default if tensor is None else tensor.value.tolist()

    def axis(self, default: int, rank: int) -> int:
        """The attribute `axis`, counted from the front."""
        found = self.attributes.get("axis", default)
        return int(found) % rank if rank else 0


Rule = Callable[[Call], Where | Sequence[Where]]
OLDEST = 7  # broadcasting was another one before, and ONNX Runtime starts there
RULES: dict[tuple[str, str], Rule] = {}
GROWING: list[Rule] = []  # rules of operators whose output may have the batch where no input has it


def rule(names: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Make a function the rule of these operators, separated by spaces."""

    def register(function: Rule) -> Rule:
        RULES.update({(domain, name): function for name in names.split()})
        return function

    return register


def apply_rule(call: Call) -> Sequence[Where]:
    """Where the batch lies in each output of a node."""
    named = f"{call.node.op_type}" + (f" '{call.node.name}'" if call.node.name else "")
    wheres = [tensor.where for tensor in call.inputs if tensor is not None]
    gathers = call.node.op_type == "GatherND" and bool(call.rows)
    picks = [isinstance(one, Picks) and gathers for one in wheres]
    unknowns = [one for one, known in zip(wheres, picks, strict=True) if isinstance(one, Unknown) and not known]
    for unknown in sorted(unknowns, key=lambda one: not one.mixes):
        return [Unknown(unknown.reason, unknown.mixes)] * len(call.outputs)
    graphs = any(one.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for one in call.node.attribute)
    found = RULES.get((call.node.domain.replace("ai.onnx.ml", "ml").replace("ai.onnx", ""), call.node.op_type))
    try:
        if graphs:
            raise Undecided("whose subgraphs are not followed")
        if call.node.op_type in ("Shape", "Size") and not call.node.domain:
            return [_of_value(call.outputs[0])]
        of_size = any(tensor is not None and tensor.where is SIZED for tensor in call.inputs)
        known = all(value is not None for tensor in call.outputs for value in tensor.values)
        if of_size and known and found not in GROWING:
            return [_of_value(tensor) for tensor in call.outputs]
        if not all(tensor is None or tensor.exact for tensor in call.inputs):
            if call.rows:
                raise Mixes("computes with the size of the batch")
            return [SIZED] * len(call.outputs)
        if not call.rows and found not in GROWING:
            return [_without_rows(call, tensor) for tensor in call.outputs]
        if found is None:
            raise Undecided("for which there is no rule")
        if not call.node.domain and call.version < OLDEST:
            raise Undecided("of a version that ONNX Runtime does not run")
        places = found(call)
        if not call.fits:
            raise Undecided("whose inputs do not fit together in every batch")
        each = [places] * len(call.outputs) if isinstance(places, (Rows, Unknown, Plain)) else list(places)
        return [_checked(call, tensor, where) for tensor, where in zip(call.outputs, each, strict=False)]
    except Mixes as error:
        return [Unknown(f"{named} {error}", mixes=True)] * len(call.outputs)
    except Undecided as error:
        return [Unknown(f"{named} is an operator {error}")] * len(call.outputs)


def _without_rows(call: Call, tensor: Tensor) -> Where:
    """What is made of constants is one; of what depends on the batch's size, where its value says so."""
    random = call.node.op_type.startswith("Random") or call.node.op_type in ("Bernoulli", "Multinomial")
    if random:
        raise Undecided("that gives something else each time")
    if all(value is not None for value in tensor.values):
        return _of_value(tensor)
    return SIZED if any(one is not None and one.where is SIZED for one in call.inputs) else CONSTANT


def _of_value(tensor: Tensor) -> Where:
    first, second = tensor.values
    if first is None or second is None:
        raise Undecided("of a shape that is not known")
    known = tensor.steady and all(kinds is not None and not kinds.any() for kinds in tensor.kinds)
    return CONSTANT if known and first.shape == second.shape and bool((first == second).all()) else SIZED


def _checked(call: Call, tensor: Tensor, where: Where) -> Where:
    """The place that a rule gave, if the inferred shapes say the same."""
    if not isinstance(where, Rows) or any(shape is None for shape in tensor.shapes):
        return where
    first, second = tensor.shape(0), tensor.shape(1)
    if len(first) != len(second) or where.axis >= len(first):
        raise Undecided("whose output has another shape than its rule says")
    for number, sizes in enumerate(zip(first, second, strict=True)):
        wanted = tuple(where.size(batch) for batch in call.batches)
        if (number == where.axis and sizes != wanted) or (number != where.axis and sizes[0] != sizes[1]):
            raise Undecided("whose output has another shape than its rule says")
    return where
