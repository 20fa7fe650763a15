"""How far two arrays are apart, whatever they hold: infinities, NaN, integers, text, or nothing at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def is_real(array: Array) -> bool:
    """Whether it holds floating point; ml_dtypes' BF16 and FP8 are of NumPy's kind V."""
    return array.dtype.kind == "f" or (array.dtype.kind == "V" and array.dtype.names is None)


def is_text(array: Array) -> bool:
    """Whether it holds text, in NumPy's own types or as Python's objects."""
    return array.dtype.kind in "OUS"


def same(left: Array, right: Array) -> npt.NDArray[np.bool_]:
    """Where two arrays of one shape are equal: infinities of one sign are, and so is NaN to NaN."""
    if is_text(left) or is_text(right):  # a server gives text as bytes
        pairs = zip(left.ravel(), right.ravel(), strict=True)
        return np.array([_text(one) == _text(other) for one, other in pairs], np.bool_).reshape(left.shape)
    equal = np.asarray(left == right, dtype=np.bool_)
    if is_real(left) and is_real(right):
        equal |= np.isnan(left.astype(np.float64)) & np.isnan(right.astype(np.float64))
    return equal


def furthest(left: Array, right: Array) -> float:
    """Largest absolute difference of two arrays of numbers, of one shape.

    Returns:
        0 where they are equal or have no elements; NaN where one alone holds NaN somewhere; infinite where one alone
        is infinite. Integers that differ are at least 1 apart, however large they are.
    """
    apart = ~same(left, right)
    if not apart.any():
        return 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(left[apart].astype(np.float64) - right[apart].astype(np.float64))
    least = 0.0 if is_real(left) or is_real(right) else 1.0  # float64 holds integers exactly up to 2^53
    return float(np.maximum(difference, least).max())


def percent(part: float) -> str:
    """Whole percents, none of them rounded up to all or down to nothing."""
    return f"{min(max(round(100 * part), int(part > 0)), 100 - int(part < 1))}%"


def _text(value: object) -> object:
    return value.encode() if isinstance(value, str) else value
