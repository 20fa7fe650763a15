"""Graphs that compute with the size of the batch: in proportion to it, or in a way that some sizes do not show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from tests.row_graphs import AXIS0, AXIS1, FLOAT, Graph, node, weights

BOOL = TensorProto.BOOL
Table = dict[str, tuple[Sequence[int | str], Graph]]

SIZE = [node("Shape", "x", "n", start=0, end=1)]
NUMBERS = [*SIZE, node("Squeeze", "n", "number"), node("Range", "zero number one", "places")]
COUNTED: dict[str, Any] = {"zero": np.array(0), "one": np.array(1)}
# Each row's first place in `x` laid out flat, and the places of a row.
FLAT = [
    *NUMBERS,
    node("Shape", "x", "t", start=1, end=2),
    node("Squeeze", "t", "length"),
    node("Range", "zero length one", "steps"),
    node("Reshape", "x all", "flat"),
    node("Unsqueeze", "places last", "p"),
    node("Mul", "p length", "begin"),
]
# Each row's number, and where it has its largest number.
PICKED = [
    *NUMBERS,
    node("Unsqueeze", "places last", "p"),
    node("ArgMax", "x", "largest", axis=1),
    node("Concat", "p largest", "i", axis=-1),
]


def numbers(*values: int) -> Any:
    return np.array(values, np.int64)


def with_number(constants: dict[str, Any], *nodes: Any, last: str) -> Graph:
    """`x` and the number that `nodes` make of the size, as `last` computes it."""
    return [*SIZE, *nodes, node("Cast", "m", "f", to=FLOAT), node(last, "x f")], constants


# Whatever the size is, each row is made of itself alone.
IN_PROPORTION: Table = {
    "a shape whose parts are multiplied and divided": (
        ("n", 4),
        (
            [
                *SIZE,
                node("Mul", "n eight", "m"),
                node("Div", "m four", "half"),
                node("Concat", "half two", "s", axis=0),
                node("Reshape", "x s", "h"),
                node("Softmax", "h", "p", axis=1),
                node("Concat", "n four", "t", axis=0),
                node("Reshape", "p t"),
            ],
            {"eight": numbers(8), "four": numbers(4), "two": numbers(2)},
        ),
    ),
    "a shape in which minus one is replaced": (
        ("n", 3),
        (
            [
                *SIZE,
                node("Concat", "n three", "s", axis=0),
                node("Equal", "s minus", "is"),
                node("Where", "is ones s", "t"),
                node("Expand", "c t", "e"),
                node("Add", "x e"),
            ],
            {"three": numbers(3), "minus": numbers(-1, -1), "ones": numbers(1, 1), "c": np.ones((1, 3), np.float32)},
        ),
    ),
    "a size of at least one": (
        ("n", 3),
        (
            [
                *SIZE,
                node("Max", "n one", "m"),
                node("Concat", "m three", "s", axis=0),
                node("Expand", "c s", "e"),
                node("Mul", "x e"),
            ],
            {"three": numbers(3), "one": numbers(1), "c": np.full((1, 1), 2, np.float32)},
        ),
    ),
    "each row by its number, counted from the end where that is negative": (
        ("n", 3),
        (
            [
                *NUMBERS,
                node("Less", "places zero", "negative"),
                node("Add", "places number", "later"),
                node("Where", "negative later places", "i"),
                node("Gather", "x i", axis=0),
            ],
            COUNTED,
        ),
    ),
    "a mask of attention, by the number of each row and of each place": (
        ("n", "t"),
        (
            [
                *NUMBERS,
                node("Shape", "x", "t", start=1, end=2),
                node("Squeeze", "t", "length"),
                node("Range", "zero length one", "steps"),
                node("Unsqueeze", "places last", "p"),
                node("Max", "p steps", "both"),
                node("Shape", "both", "s"),
                node("Expand", "p s", "rows"),
                node("Expand", "steps s", "columns"),
                node("Unsqueeze", "rows deep", "r"),
                node("Unsqueeze", "columns deep", "c"),
                node("Concat", "r c", "i", axis=-1),
                node("GatherND", "x i"),
            ],
            {**COUNTED, "last": AXIS1, "deep": numbers(2)},
        ),
    ),
    "a mask of attention, laid out flat": (
        ("n", "t"),
        (
            [
                *FLAT,
                node("Add", "begin steps", "i"),
                node("Gather", "flat i", axis=0),
            ],
            {**COUNTED, "all": numbers(-1), "last": AXIS1},
        ),
    ),
    "what each row picks of itself": (
        ("n", 4),
        ([*PICKED, node("GatherND", "x i")], {**COUNTED, "last": AXIS1}),
    ),
    "as many rows as there are": (
        ("n", 3),
        ([*SIZE, node("Slice", "x b n b")], {"b": AXIS0}),
    ),
}

# For batches of 7 and 11, or of 4, as if each row were made of itself alone; for others it is not.
OF_SOME_SIZES: Table = {
    "the rest of the size is added": (
        ("n", 3),
        (
            [*SIZE, node("Mod", "n four", "m"), node("Cast", "m", "f", to=FLOAT), node("Add", "x f")],
            {"four": numbers(4)},
        ),
    ),
    "multiplied by at most five": (
        ("n", 3),
        (
            [*SIZE, node("Min", "n five", "m"), node("Cast", "m", "f", to=FLOAT), node("Mul", "x f")],
            {"five": numbers(5)},
        ),
    ),
    "divided by two and rounded": (
        ("n", 3),
        with_number({"two": numbers(2)}, node("Div", "n two", "m"), last="Add"),
    ),
    "another number in company": (
        ("n", 3),
        (
            [*SIZE, node("Greater", "n one", "is"), node("Where", "is two single", "s"), node("Mul", "x s")],
            {"one": numbers(1), "two": np.float32(2), "single": np.float32(1)},
        ),
    ),
    "whether there is company": (
        ("n", 3),
        with_number({"one": numbers(1)}, node("Sub", "n one", "d"), node("Cast", "d", "m", to=BOOL), last="Add"),
    ),
    "at most three columns": (
        ("n", 4),
        (
            [*SIZE, node("Min", "n three", "e"), node("Slice", "x z e a", "h"), node("ReduceSum", "h a")],
            {"three": numbers(3), "z": AXIS0, "a": AXIS1},
        ),
    ),
    "its own number and at most twelve": (
        ("n", 3),
        ([*NUMBERS, node("Min", "places last", "i"), node("Gather", "x i", axis=0)], {**COUNTED, "last": np.array(11)}),
    ),
    "its own number, from zero again at twelve": (
        ("n", 3),
        ([*NUMBERS, node("Mod", "places all", "i"), node("Gather", "x i", axis=0)], {**COUNTED, "all": np.array(12)}),
    ),
    "its own number in a table of twelve": (
        ("n", 3),
        (
            [*SIZE, node("Slice", "table z n z", "i"), node("Gather", "x i", axis=0)],
            {"z": AXIS0, "table": numbers(*range(12), *[0] * 30)},
        ),
    ),
    "laid out flat, and the next place of all": (
        ("n", "t"),
        (
            [
                *FLAT,
                node("Add", "begin steps", "here"),
                node("Add", "here one", "next"),
                node("Mul", "number length", "every"),
                node("Mod", "next every", "i"),
                node("Gather", "flat i", axis=0),
            ],
            {**COUNTED, "all": numbers(-1), "last": AXIS1},
        ),
    ),
    "laid out flat, and at most twelve times a row's places": (
        ("n", 3),
        (
            [
                *FLAT,
                node("Add", "begin steps", "here"),
                node("Min", "here most", "i"),
                node("Gather", "flat i", axis=0),
            ],
            {**COUNTED, "all": numbers(-1), "last": AXIS1, "most": np.array(35)},
        ),
    ),
    "laid out flat, from where the row says": (
        ("n", 4),
        (
            [
                *FLAT,
                node("ArgMax", "x", "largest", axis=1),
                node("Sub", "largest last", "before"),
                node("Add", "begin before", "i"),
                node("Gather", "flat i", axis=0),
            ],
            {**COUNTED, "all": numbers(-1), "last": AXIS1},
        ),
    ),
    "what each row picks of a table by its number": (
        ("n", 4),
        ([*PICKED, node("GatherND", "table i")], {**COUNTED, "last": AXIS1, "table": weights(13, 4)}),
    ),
    "what each row picks of the one before": (
        ("n", 4),
        (
            [
                *NUMBERS,
                node("Sub", "places one", "before"),
                node("Unsqueeze", "before last", "p"),
                node("ArgMax", "x", "largest", axis=1),
                node("Concat", "p largest", "i", axis=-1),
                node("GatherND", "x i"),
            ],
            {**COUNTED, "last": AXIS1},
        ),
    ),
    "a place by the number of each row": (
        ("n", 13),
        (
            [
                *NUMBERS,
                node("Unsqueeze", "places last", "p"),
                node("Concat", "p p", "i", axis=-1),
                node("GatherND", "x i"),
            ],
            {**COUNTED, "last": AXIS1},
        ),
    ),
    "the number of each row beside what it picks": (
        ("n", 4),
        ([*PICKED, node("Cast", "i", to=FLOAT)], {**COUNTED, "last": AXIS1}),
    ),
    "no more than twelve rows": (
        ("n", 3),
        ([node("Slice", "x b e b")], {"b": AXIS0, "e": numbers(12)}),
    ),
    "without the first rows, as many as a row is long": (
        ("n", "t"),
        ([node("Shape", "x", "t", start=1), node("Slice", "x z t z", "h"), node("Sub", "x h")], {"z": AXIS0}),
    ),
    "rows of thirteen numbers": (
        ("n", "t"),
        (
            [
                node("Reshape", "x k", "h"),
                node("Softmax", "h", "p", axis=1),
                node("Shape", "x", "s"),
                node("Reshape", "p s"),
            ],
            {"k": numbers(-1, 13)},
        ),
    ),
    "how many dozens there are in the size, counted": (
        ("n", 3),
        (
            [
                *SIZE,
                node("Squeeze", "n", "number"),
                node("Div", "number many", "m"),
                node("Range", "zero m one", "counted"),
                node("Shape", "counted", "k"),
                node("Cast", "k", "f", to=FLOAT),
                node("Add", "x f"),
            ],
            {**COUNTED, "many": np.array(12)},
        ),
    ),
    "repeated, at most five times": (
        ("n", 3),
        with_number(
            {"five": numbers(5)},
            node("Min", "n five", "k"),
            node("ConstantOfShape", "k", "o"),
            node("Shape", "o", "m"),
            last="Add",
        ),
    ),
}
