"""Rules of operators that move, cut and repeat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .computing import elementwise
from .rules import CONSTANT, GROWING, SIZED, Call, Mixes, Picks, Rows, Undecided, Where, apply_rule, rule

__all__ = ["apply_rule"]  # to be taken from here: it knows every rule then


ENDLESS = 2**31 - 1  # what exporters write for the end of a dimension, or more


@rule("Transpose")
def transpose(call: Call) -> Where:
    """The batch goes where `perm` puts it."""
    where, rank = call.place(), call.rank
    return where.at([*call.attributes.get("perm", range(rank)[::-1])].index(where.axis))


@rule("Reshape Flatten Squeeze Unsqueeze")
def reshape(call: Call) -> Where:
    """In memory each row stays where it was, as far from the next one as before."""
    source = call.inputs[0]
    if source is None or not isinstance(source.where, Rows):
        raise Undecided("whose shape depends on the answers")
    if call.node.op_type == "Squeeze" and not call.parameter("axes", 1):
        raise Undecided("that drops the batch where it is of one row")
    found = [
        _reshaped(source.shape(index), call.outputs[0].shape(index), source.where, batch)
        for index, batch in enumerate(call.batches)
    ]
    if found[0] is None or found[0] != found[1]:
        raise Mixes("cuts the batch up in another way")
    return found[0]


def _reshaped(source: Sequence[int], target: Sequence[int], where: Rows, batch: int) -> Rows | None:
    """The dimension of `target` that holds the whole batch, by the distance between neighbouring rows."""
    distance = where.factor * math.prod(source[where.axis + 1 :])
    for axis, size in enumerate(target):
        inner = math.prod(target[axis + 1 :])
        factor, rest = divmod(distance, inner)
        if not rest and factor and not size % (batch * factor):
            return Rows(axis, factor, size // (batch * factor))
    return None


@rule("Concat")
def concat(call: Call) -> Where:
    """Any dimension but the batch."""
    if (picks := _picks(call)) is not None:
        return picks
    where = elementwise(call)
    assert isinstance(where, Rows)
    if call.axis(0, call.outputs[0].rank) == where.axis:
        raise Mixes("joins along the batch")
    return where


def _picks(call: Call) -> Picks | None:
    """Each row's own number beside what the row says, as `x[arange(n), last]` puts them together; None for others."""
    own, *others = call.inputs
    rows = {one.where for one in others if one is not None and one.where is not CONSTANT}
    if own is None or own.where is not SIZED or len(rows) != 1 or call.axis(0, own.rank) != own.rank - 1:
        return None
    (where,) = rows
    if not isinstance(where, Rows) or where != Rows(where.axis) or where.axis == own.rank - 1:
        return None
    if own.shape(0)[-1] != 1 or _each_of_its_own(call, own.values, 1).axis != where.axis:
        return None
    return Picks(f"Concat '{call.node.name}' has the numbers of rows", True, where.axis)


@rule("Split")
def split(call: Call) -> Where:
    """Any dimension but the batch."""
    where = call.place()
    if call.axis(0, call.rank) == where.axis:
        raise Mixes("cuts the batch up")
    return where


@rule("Slice")
def cut(call: Call) -> Where:
    """Of the batch nothing but the whole, in its order."""
    source = call.inputs[0]
    if source is None or not isinstance(source.where, Rows):
        raise Undecided("with bounds that depend on the answers")
    both = [_bounds(call, index, source.rank) for index in range(2)]
    for batch, bounds in zip(call.batches, both, strict=True):
        size = source.where.size(batch)
        start, end, step = bounds.get(source.where.axis, (0, size, 1))
        if step != 1 or start not in (0, -size) or (end != size and end < ENDLESS):
            raise Mixes("takes a part of the batch, or turns it round")
    first, second = ({axis: one for axis, one in bounds.items() if axis != source.where.axis} for bounds in both)
    if first != second:
        raise Mixes("computes with the size of the batch")
    return source.where


def _bounds(call: Call, index: int, rank: int) -> dict[int, tuple[int, int, int]]:
    def numbers(name: str, place: int, default: Any = None) -> Any:
        if name in call.attributes:
            return call.attributes[name]
        tensor = call.given(place)
        if tensor is None:
            return default
        if tensor.values[index] is None:
            raise Undecided("with bounds that are not known")
        return tensor.values[index].tolist()

    starts, ends = numbers("starts", 1), numbers("ends", 2)
    axes = numbers("axes", 3, range(len(starts)))
    steps = numbers("steps", 4, [1] * len(starts))
    return {axis % rank: bounds for axis, *bounds in zip(axes, starts, ends, steps, strict=True)}  # type: ignore[misc]


@rule("Gather")
def gather(call: Call) -> Where:
    """Places of any dimension but the batch, or rows that each say which places of a constant they want."""
    data, indices = call.inputs
    if data is None or indices is None or len(call.rows) != 1:
        raise Mixes("takes rows of the batch by rows of the batch")
    axis = call.axis(0, data.rank)
    if isinstance(data.where, Rows) and indices.where is CONSTANT:
        if axis == data.where.axis:
            raise Mixes("takes rows of the batch by their number")
        return data.where.at(data.where.axis + (indices.rank - 1 if axis < data.where.axis else 0))
    if isinstance(indices.where, Rows) and data.where is CONSTANT:
        return indices.where.at(axis + indices.where.axis)
    if isinstance(data.where, Rows) and data.where == Rows(axis, data.where.factor):
        return Rows(axis + _each_of_its_own(call, indices.values, data.where.factor).axis)
    raise Mixes("computes with the size of the batch")


def _each_of_its_own(call: Call, indices: Sequence[Any], factor: int) -> Rows:
    """The dimension of the indices along which the rows take out of their own `factor` places, all the same ones."""
    if any(one is None for one in indices):
        raise Undecided("with indices that are not known")
    for axis, size in enumerate(indices[0].shape):
        if size != call.batches[0] or indices[1].shape[axis] != call.batches[1]:
            continue
        rows = [np.moveaxis(one, axis, -1) for one in indices]
        taken = [one - factor * np.arange(one.shape[-1]) for one in rows]
        if all(((one >= 0) & (one < factor) & (one == taken[0][..., :1])).all() for one in taken):
            return Rows(axis)
    raise Mixes("takes rows of the batch by their number")


def _each_its_own(call: Call, indices: Sequence[Any]) -> Rows:
    """The dimension of the indices `[..., k]` along which the rows take themselves, as `x[arange(n), ...]` does.

    What else an index names must not depend on the row, nor on how many there are.
    """
    if any(one is None for one in indices):
        raise Undecided("with indices that are not known")
    place = _each_of_its_own(call, [one[..., 0] for one in indices], 1)
    others = [np.moveaxis(one[..., 1:], place.axis, 0) for one in indices]
    if all((one == others[0][:1]).all() for one in others):
        return place
    raise Mixes("takes rows of the batch by their number")


@rule("GatherElements ScatterElements")
def gather_elements(call: Call) -> Where:
    """All inputs alike, along any dimension but the batch."""
    wheres = {tensor.where for tensor in call.inputs if tensor is not None}
    (where, *others) = wheres
    if others or not isinstance(where, Rows) or call.axis(0, call.rank) == where.axis:
        raise Mixes("takes rows of the batch by their number")
    return where


@rule("GatherND")
def gather_nd(call: Call) -> Where:
    """With the batch as one of `batch_dims`, or out of a constant."""
    data, indices = call.inputs
    if data is not None and indices is not None and isinstance(indices.where, Picks):
        if data.where == Rows(0) and not call.attributes.get("batch_dims"):
            return Rows(indices.where.axis)
    elif data is not None and indices is not None and isinstance(indices.where, Rows):
        if data.where == indices.where and indices.where.axis < call.attributes.get("batch_dims", 0):
            return indices.where
        if data.where is CONSTANT and indices.where.axis < indices.rank - 1 and not call.attributes.get("batch_dims"):
            return indices.where
    elif data is not None and indices is not None and data.where == Rows(0) and not call.attributes.get("batch_dims"):
        return _each_its_own(call, indices.values)
    raise Mixes("takes rows of the batch by their number")


@rule("OneHot")
def one_hot(call: Call) -> Where:
    """A new dimension."""
    where = call.place()
    axis = call.axis(-1, call.rank + 1)
    return where.at(where.axis + (axis <= where.axis))


@rule("Pad")
def pad(call: Call) -> Where:
    """Nothing before and nothing after the batch."""
    where, rank = call.place(), call.rank
    pads = call.parameter("pads", 1)
    axes = [axis % rank for axis in call.parameter("axes", 3, None) or range(rank)]
    if any(pads[number] or pads[number + len(axes)] for number, axis in enumerate(axes) if axis == where.axis):
        raise Mixes("adds rows to the batch")
    return where


@rule("Resize Upsample")
def resize(call: Call) -> Where:
    """The batch keeps its size, which the inferred shape says, and each row its place."""
    source = call.inputs[0]
    if source is None or not isinstance(source.where, Rows) or len(call.rows) != 1:
        raise Undecided("with a parameter that depends on the batch")
    if call.outputs[0].shape(0)[source.where.axis] != source.shape(0)[source.where.axis]:
        raise Mixes("resizes the batch")
    axis = source.where.axis
    if any(scales.get(axis, 1) != 1 for scales in _scales(call, source.rank)):
        raise Mixes("moves the rows by less than one")
    if call.attributes.get("coordinate_transformation_mode") in (b"tf_crop_and_resize", b"tf_half_pixel_for_nn"):
        raise Mixes("cuts or moves the batch with the image")
    axes = [one % source.rank for one in call.attributes.get("axes", range(source.rank))]
    if axis in axes and call.attributes.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise Mixes("resizes the batch with the image")
    return source.where


def _scales(call: Call, rank: int) -> Sequence[dict[int, float]]:
    """The factor of each dimension in both batches; empty where sizes are given instead."""
    if "scales" in call.attributes:
        return [dict(enumerate(call.attributes["scales"]))] * 2
    tensor = call.given(1 if call.node.op_type == "Upsample" or call.version < 11 else 2)
    if tensor is None or 0 in tensor.shape(0):
        return [{}, {}]
    if any(value is None for value in tensor.values):
        raise Undecided("with a scale that is not known")
    axes = [axis % rank for axis in call.attributes.get("axes", range(rank))]
    return [dict(zip(axes, value.tolist(), strict=True)) for value in tensor.values]


@rule("Trilu")
def triangle(call: Call) -> Where:
    """Of the last two dimensions."""
    where = call.place()
    if where.axis >= call.rank - 2:
        raise Mixes("keeps a part of the batch")
    return where


@rule("LSTM GRU RNN")
def recurrent(call: Call) -> Sequence[Where]:
    """`[steps, n, size]`, or `[n, steps, size]` with `layout` 1; lengths and first states have the batch too."""
    first = bool(call.attributes.get("layout"))
    expected = {0: 0 if first else 1, 4: 0, 5: 0 if first else 1, 6: 0 if first else 1}
    for index, tensor in enumerate(call.inputs):
        if tensor is None or (tensor.where is CONSTANT and index not in expected):
            continue
        if tensor.where is CONSTANT:
            raise Mixes("has a constant with a value for each place of the batch")
        if tensor.where != Rows(expected.get(index, -1)):
            raise Mixes("takes the batch for the steps of a sequence")
    last = Rows(0 if first else 1)
    return [Rows(0 if first else 2), last, last][: len(call.outputs)]


@rule("Expand Tile ConstantOfShape")
def grow(call: Call) -> Where:
    """The same for each row, as many as there are; or the rows as they are."""
    source, target = call.inputs[0], call.outputs[0]
    if source is None:
        raise Undecided("without its input")
    first, second = target.shape(0), target.shape(1)
    if len(first) != len(second):
        raise Undecided("whose shape depends on the batch in another way")
    free = [number for number, sizes in enumerate(zip(first, second, strict=True)) if sizes[0] != sizes[1]]
    if isinstance(source.where, Rows):
        axis = len(first) - source.rank + source.where.axis
        if free != [axis] or (call.node.op_type == "Tile" and first[axis] != source.shape(0)[source.where.axis]):
            raise Mixes("repeats the batch")
        return source.where.at(axis)
    if not free:
        return source.where if call.node.op_type != "ConstantOfShape" else CONSTANT
    uniform = call.node.op_type == "ConstantOfShape" or source.where is CONSTANT
    if len(free) == 1 and uniform and first[free[0]] % call.batches[0] == 0:
        return Rows(free[0], first[free[0]] // call.batches[0])
    return SIZED


GROWING.append(grow)
