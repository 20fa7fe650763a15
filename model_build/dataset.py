"""Examples as arrays, in three parts."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model_build._errors import DataError
from model_build.config import ExamplesConfig

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Examples = tuple[Floats, Labels]


@dataclass(frozen=True)
class Dataset:
    """Examples in three parts: inputs float32 `[n, ...]`, labels int64 `[n]`, and what they were read from."""

    train_inputs: Floats
    train_labels: Labels
    validation_inputs: Floats
    validation_labels: Labels
    test_inputs: Floats
    test_labels: Labels
    source: str
    source_sha256: str

    def to_bytes(self) -> bytes:
        """NumPy archive; the same examples give the same bytes."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)}
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_file(cls, path: Path) -> Dataset:
        """Read what `to_bytes` made."""
        try:
            with np.load(path) as archive:
                values: dict[str, Any] = {f.name: archive[f.name] for f in fields(cls)}
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is no data set of Slipway ({error}): run `dvc repro`") from error
        return cls(**{**values, "source": str(values["source"]), "source_sha256": str(values["source_sha256"])})


def divide(
    examples: Examples, config: ExamplesConfig, *, source: str, sha256: str, test: Examples | None = None
) -> Dataset:
    """Divide by label, the same for the same `split_seed`; `test` is a held-out part that the source brings itself.

    Raises:
        DataError: a label is no whole number, there is not one for each example, or a class has too few examples.
    """
    examples, test = _checked(examples), _checked(test) if test is not None else None
    share = config.validation_fraction
    if test is None:
        examples, test = _divide(examples, config.test_fraction, config.split_seed)
        share = config.validation_fraction / (1 - config.test_fraction)
    train, validation = _divide(examples, share, config.split_seed)
    return Dataset(*train, *validation, *test, source=source, source_sha256=sha256)


def _checked(part: Examples) -> Examples:
    """The examples, labels int64, once there is a class for each."""
    inputs, labels = part[0], np.asarray(part[1])
    if labels.ndim != 1 or len(inputs) != len(labels):
        raise DataError(
            f"inputs are {list(np.shape(inputs))} and labels {list(labels.shape)}: expected [n, ...] and [n], "
            "a label for each example"
        )
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"labels are {labels.dtype}, of {len(np.unique(labels))} values in {len(labels)} examples: expected a "
            "class for each example, as whole numbers from 0 (labels.astype(np.int64)); a regression is no classifier: "
            "subclass model_build.recipe.Recipe"
        )
    return inputs, labels.astype(np.int64)


def _divide(part: Examples, fraction: float, seed: int) -> tuple[Examples, Examples]:
    from sklearn.model_selection import train_test_split  # takes a second, and only stage data comes here

    inputs, labels = part
    classes, counts = np.unique(labels, return_counts=True)
    rare = classes[counts < 2].tolist()
    try:
        if rare:
            few = ", ".join(map(str, rare[:3]))
            raise ValueError(f"{len(rare)} of {len(classes)} classes have one alone: {few}{', ...' * (len(rare) > 3)}")
        rest, held, rest_labels, held_labels = train_test_split(
            inputs, labels, test_size=fraction, random_state=seed, stratify=labels
        )
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{len(labels)} examples cannot be divided by label ({reason}): give more of each class"
        ) from error
    return (rest, rest_labels), (held, held_labels)
