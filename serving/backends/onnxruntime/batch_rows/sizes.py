"""How each element of a small tensor follows from the size n of the batch.

Two batches alone cannot say it: `n mod 4` and `min(n, 5)` are the same for 7 and for 11. So each element has a kind,
and only operators that are known to keep it do: a shape that is cut up and put together again stays in proportion to n.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

CONST = 0  # the same for every n
SIZE = 1  # c * n, with the same c for every n
PLACE = 2  # one of 0, 1, ... n - 1: as many as there are rows
PLACED = 3  # a place times a number, plus a number, both the same for every n
OTHER = 4  # anything else

Value = Any  # np.ndarray, or None where it is not known
Kinds = Any  # of each element, uint8 in the same shape; or None
Evaluate = Callable[[Sequence[Any]], Sequence[Any]]

# Which inputs are copied to the output; the others say what goes where.
_COPIED: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(["Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Tile", "Transpose", "Unsqueeze"], (0,)),
    **dict.fromkeys(["Gather", "GatherElements", "GatherND", "Slice", "Split"], (0,)),
    "Concat": None,  # all of them
    "Where": (1, 2),
}
_COPIES_ALL = ("Expand", "Reshape", "Tile")  # into a shape that may be of n: no element is left out
_COMPARES = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")


def kinds_of(
    node: onnx.NodeProto,
    attributes: Mapping[str, Any],
    given: Sequence[tuple[Value, Kinds] | None],
    made: Sequence[Value],
    batch: int,
    evaluate: Evaluate,
) -> list[Kinds]:
    """Return the kinds of a node's outputs in a batch of one size.

    Args:
        node: of another operator than Shape and Size.
        attributes: the node's.
        given: value and kinds of each input, None for one that is left out.
        made: values of the outputs.
        batch: n.
        evaluate: runs the node on other inputs, for operators that copy.
    """
    kinds = [one[1] for one in given if one is not None]
    if any(value is None for value in made) or any(one is None for one in kinds):
        return [None] * len(made)
    if not any(one.any() for one in kinds):
        return [np.zeros(value.shape, np.uint8) for value in made]
    if node.domain in ("", "ai.onnx"):
        if node.op_type in _COPIED and (copied := _copied(node, given, evaluate)) is not None:
            return copied
        if (computed := _computed(node.op_type, attributes, given, made[0], batch)) is not None:
            return [computed]
    return [np.full(value.shape, OTHER, np.uint8) for value in made]


def agreed(values: Sequence[Value], kinds: Sequence[Kinds], batches: Sequence[int]) -> list[Kinds]:
    """Return the kinds in both batches, where they and the values bear each other out; else `OTHER`."""
    first, second = kinds
    if first is None or second is None or first.shape != second.shape:
        return [first, second]
    small, large = (np.asarray(value) for value in values)
    both = np.where(first == second, first, OTHER).astype(np.uint8)
    if small.dtype.kind in "iuf":
        in_proportion = small.astype(np.float64) * batches[1] == large.astype(np.float64) * batches[0]
        both[(both == SIZE) & ~in_proportion] = OTHER
    both[(both == CONST) & (small != large)] = OTHER
    return [both, both]


def shaped_by(name: str, index: int) -> bool:
    """Return whether the elements of input `index` may say which shape an operator's output has."""
    copied = _COPIED.get(name, ())
    return copied is not None and index not in copied


def of_shape(shapes: Sequence[Sequence[int]], steady: bool) -> np.ndarray:
    """Return the kinds of a tensor's shape: what differs between the batches is in proportion, if it is `steady`."""
    if not steady or len(shapes[0]) != len(shapes[1]):
        return np.full(len(shapes[0]), OTHER, np.uint8)
    return np.array([SIZE if one != other else CONST for one, other in zip(*shapes, strict=True)], np.uint8)


def _copied(
    node: onnx.NodeProto, given: Sequence[tuple[Value, Kinds] | None], evaluate: Evaluate
) -> list[Kinds] | None:
    copied = _COPIED[node.op_type]
    inputs: list[Any] = []
    for index, one in enumerate(given):
        if one is None:
            inputs.append(None)
        elif copied is None or index in copied:
            inputs.append(one[1].astype(np.int64))
        elif one[1].max(initial=CONST) <= (SIZE if node.op_type in _COPIES_ALL else CONST):
            inputs.append(one[0])
        else:
            return None
    found = evaluate(inputs)
    return [one.astype(np.uint8) for one in found] if found and all(one is not None for one in found) else None


def _computed(
    name: str,
    attributes: Mapping[str, Any],
    given: Sequence[tuple[Value, Kinds] | None],
    made: Value,
    batch: int,
) -> Kinds | None:
    """The kinds of what arithmetic gives, None for operators that are not known here."""
    if name == "Range":
        return _range(given, made)
    if name in ("Cast", "Neg") and given[0] is not None:
        return _one(name, attributes, *given[0], batch)
    if name not in ("Add", "Div", "Max", "Min", "Mod", "Mul", "Sub", *_COMPARES) or len(given) != 2:
        return None
    left, right = given
    if left is None or right is None or left[0].dtype.kind not in "iuf":
        return None
    values = np.broadcast_arrays(left[0], right[0])
    kinds = np.broadcast_arrays(left[1], right[1])
    found = np.full(made.shape, OTHER, np.uint8)
    found[(kinds[0] == CONST) & (kinds[1] == CONST)] = CONST
    with np.errstate(all="ignore"):
        for where, kind in _pairs(name, values, kinds, batch):
            found[np.asarray(where) & (found == OTHER)] = kind
    return found


def _range(given: Sequence[tuple[Value, Kinds] | None], made: Value) -> Kinds:
    """Places, where it counts from 0 to n by ones."""
    (first, fixed), (_, last), (step, steady) = (one for one in given if one is not None)
    counts = first == 0 and step == 1 and not fixed.any() and not steady.any() and bool((last == SIZE).all())
    return np.full(made.shape, PLACE if counts else OTHER, np.uint8)


def _one(name: str, attributes: Mapping[str, Any], value: Value, kinds: Kinds, batch: int) -> Kinds:
    found = kinds.copy()
    if name == "Neg":
        found[(kinds == PLACE) | (kinds == PLACED)] = OTHER
    elif attributes["to"] == TensorProto.BOOL:
        found[kinds != CONST] = OTHER
    elif value.dtype.kind == "f":  # to whole numbers, perhaps: c must be one
        with np.errstate(all="ignore"):
            found[(kinds == SIZE) & (value % batch != 0)] = OTHER
    return found


def _pairs(name: str, values: Sequence[Value], kinds: Sequence[Kinds], batch: int) -> list[tuple[Value, int]]:
    """Where two operands give something of a kind: `(mask, kind)`."""
    (a, b), (ka, kb) = values, kinds
    size_const, const_size = (ka == SIZE) & (kb == CONST), (ka == CONST) & (kb == SIZE)
    sizes = (ka == SIZE) & (kb == SIZE)
    whole = (a % batch == 0) & (b % batch == 0)
    placed, const_placed = ((k == PLACE) | (k == PLACED) for k in (ka, kb))
    placed, const_placed = placed & (kb == CONST), const_placed & (ka == CONST)
    if name in ("Add", "Sub"):
        kept = (kb == CONST) & (b == 0)
        pairs = [(sizes | (size_const & (b == 0)) | (const_size & (a == 0)), SIZE), (kept & (ka == PLACE), PLACE)]
        pairs += [((ka == CONST) & (a == 0) & (kb == PLACE), PLACE), (const_placed, PLACED)] if name == "Add" else []
        return [*pairs, (placed, PLACED)]
    if name == "Mul":
        one = ((ka == PLACE) & (kb == CONST) & (b == 1)) | ((kb == PLACE) & (ka == CONST) & (a == 1))
        return [(size_const | const_size, SIZE), (one, PLACE), (placed | const_placed, PLACED)]
    if name in ("Div", "Mod"):
        divides = (b != 0) & (a % np.where(b == 0, 1, b * batch) == 0)
        if name == "Mod":
            return [(size_const & divides, CONST)]
        exact = np.ones_like(divides) if a.dtype.kind == "f" else divides
        return [(size_const & exact & (b != 0), SIZE), ((ka == PLACE) & (kb == CONST) & (b == 1), PLACE)]
    if name in ("Min", "Max"):
        below = (size_const & (a % batch == 0) & (b * batch <= a)) | (const_size & (b % batch == 0) & (a * batch <= b))
        return [(below & ((a > 0) | (b > 0)), SIZE if name == "Max" else CONST), (sizes & whole, SIZE)]
    # c * n against k, for every n from 1: certain where it is so for n = 1 and only more so after it
    left = size_const & (a % batch == 0) & (((a > 0) & (b * batch < a)) | ((a < 0) & (b * batch > a)))
    right = const_size & (b % batch == 0) & (((b > 0) & (a * batch < b)) | ((b < 0) & (a * batch > b)))
    places = ((ka == PLACE) & (kb == CONST) & (b < 0)) | ((kb == PLACE) & (ka == CONST) & (a < 0))
    if name in ("Less", "GreaterOrEqual"):
        places |= (ka == PLACE) & (kb == CONST) & (b == 0)
    if name in ("Greater", "LessOrEqual"):
        places |= (kb == PLACE) & (ka == CONST) & (a == 0)
    return [(left | right | (sizes & whole) | places, CONST)]
