"""How an output is shown: as a class, as an embedding beside the first one, or as what it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from slipway_client._types import Array

FEW = 10  # numbers, texts or classes that a table shows one by one


class View(Protocol):
    """Shows one output of every answer; `alone` says that it alone holds classes."""

    def columns(self, name: str, alone: bool) -> list[str]:
        """Headers of its columns in the table."""
        ...

    def cells(self, array: Array) -> list[str]:
        """One answer's cells in these columns."""
        ...

    def values(self, name: str, array: Array, alone: bool) -> dict[str, Any]:
        """One answer for JSON, without NaN and infinity: null stands for them."""
        ...


def shown_as(arrays: Sequence[Array], labels: Sequence[str], of: str) -> View:
    """The view of an output, by what all of its answers are, `of` an "image", a "text" or anything else.

    They are classes where each is a vector of probabilities (not negative, with the sum 1), has as many numbers as
    there are labels, or says of an image numbers from 0 to 1; embeddings of texts where each is a vector of the
    length 1, or of zeros.
    """
    vectors = [array.ravel() for array in arrays if array.dtype.kind == "f" and 1 < array.size == array.shape[-1]]
    if len(vectors) < len(arrays):
        return Values()
    finite = [vector.astype(float) for vector in vectors if np.isfinite(vector).all()]
    labelled = all(vector.size == len(labels) for vector in vectors)
    if finite and all(vector.min() >= 0 and abs(vector.sum() - 1) <= 0.01 for vector in finite):
        return Classes("probability", labels if labelled else ())
    if labelled:
        return Classes("score", labels)
    if of == "image" and finite and all(vector.min() >= 0 and vector.max() <= 1 for vector in finite):
        return Classes("score", ())
    lengths = [float(np.linalg.norm(vector)) for vector in finite]
    directions = any(lengths) and all(not length or abs(length - 1) <= 0.01 for length in lengths)
    return Nearness(finite[0]) if of == "text" and directions and len(finite) == len(vectors) else Values()


@dataclass(frozen=True)
class Classes:
    """The class of the largest number; `word` is what that number is called."""

    word: str
    labels: Sequence[str]

    def columns(self, name: str, alone: bool) -> list[str]:
        """`class` and the word, with the output's name where there are several such outputs."""
        return ["class", self.word] if alone else [f"{name}: class", self.word]

    def cells(self, array: Array) -> list[str]:
        """The class's name and its number."""
        label, number = self._best(array)
        return [label, f"{number:.4f}"]

    def values(self, name: str, array: Array, alone: bool) -> dict[str, Any]:
        """Class and number, below the output's name where there are several such outputs."""
        label, number = self._best(array)
        found = {"class": label, self.word: number if np.isfinite(number) else None}
        return found if alone else {name: found}

    def _best(self, array: Array) -> tuple[str, float]:
        """Name and number of the class.

        Raises:
            ValueError: a number is NaN.
        """
        vector = array.ravel()
        index = int(vector.argmax())
        if np.isnan(vector[index]):  # NaN is the largest to NumPy
            raise ValueError("NaN has no order")
        return self.labels[index] if self.labels else str(index), float(vector[index])


@dataclass(frozen=True)
class Nearness:
    """How near an embedding is to the first text's."""

    first: Array

    def columns(self, name: str, alone: bool) -> list[str]:
        """The dimension, and the cosine."""
        return ["dimension", "cosine similarity to the first text"]

    def cells(self, array: Array) -> list[str]:
        """The numbers of both columns; a vector of zeros has no direction."""
        left, right = array.ravel().astype(float), self.first
        length = float(np.linalg.norm(left) * np.linalg.norm(right)) if left.size == right.size else 0.0
        return [" x ".join(map(str, array.shape)), f"{left @ right / length:.4f}" if length else "undefined"]

    def values(self, name: str, array: Array, alone: bool) -> dict[str, Any]:
        """The whole vector."""
        return {name: as_json(array)}


@dataclass(frozen=True)
class Values:
    """The output as it is, or what it comes to where it is large."""

    def columns(self, name: str, alone: bool) -> list[str]:
        """The output's name."""
        return [name]

    def cells(self, array: Array) -> list[str]:
        """One cell: the value, a few of them, or shape and range of many."""
        if array.size == 1:
            return [_text(array.ravel()[0])]
        shape = " x ".join(map(str, array.shape))
        if array.size == 0:
            return [f"{shape}, empty"]
        if array.size <= FEW:
            return [f"[{', '.join(map(_text, array.ravel()))}]" + (f" ({shape})" if array.ndim > 1 else "")]
        return [f"{shape}, {_summary(array)}"]

    def values(self, name: str, array: Array, alone: bool) -> dict[str, Any]:
        """All of it."""
        return {name: as_json(array)}


def as_json(array: Array) -> Any:
    """One answer's output for JSON: the bare value where there is one, text of BYTES, null of NaN and infinity."""
    if array.dtype == object:
        values: Any = np.array([_text(one) for one in array.flat], object).reshape(array.shape).tolist()
    elif array.dtype.kind == "f" and not np.isfinite(array).all():
        numbers = array.astype(object)
        numbers[~np.isfinite(array)] = None
        values = numbers.tolist()
    else:
        values = array.tolist()
    return values[0] if array.shape == (1,) else values


def _text(value: Any) -> str:
    """One value of an output, as a table shows it."""
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)


def _summary(array: Array) -> str:
    """What many values come to: how often each is there, of a few whole ones such as a mask's; else their range."""
    if array.dtype == object:
        return "text"
    if array.dtype.kind != "f":
        found, counts = np.unique(array, return_counts=True)
        if found.size <= FEW:
            shares = counts / array.size
            return ", ".join(f"{_text(one)}: {share:.1%}" for one, share in zip(found, shares, strict=True))
    numbers = array[np.isfinite(array)].astype(float)
    others = array.size - numbers.size
    if not numbers.size:
        return "no finite number"
    spread = f"{numbers.min():.6g} to {numbers.max():.6g}, mean {numbers.mean():.6g}"
    if others:
        return f"{spread}, {others} NaN or infinite"
    return f"{spread}, the largest at {array.argmax()}" if array.size == array.shape[-1] else spread
