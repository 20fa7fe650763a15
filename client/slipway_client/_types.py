"""What a model takes and gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# Triton's datatypes (v2 inference protocol) in NumPy's.
DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}


def as_bytes(array: Array) -> Array:
    """Text as the BYTES of either side of a server: an object array of `bytes`, `str` encoded as UTF-8.

    Raises:
        UnicodeEncodeError: a `str` that UTF-8 cannot hold (a lone surrogate).
    """
    result: Array = np.empty(array.size, dtype=np.object_)
    for index, value in enumerate(array.ravel()):
        result[index] = bytes(value) if isinstance(value, bytes) else str(value).encode()
    return result.reshape(array.shape)


@dataclass(frozen=True)
class TensorSpec:
    """A tensor as the server names it: `datatype` in Triton's terms, -1 in `shape` where any size goes."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of `shape` is one of this tensor's."""
        return len(shape) == len(self.shape) and all(
            want in (-1, have) for want, have in zip(self.shape, shape, strict=True)
        )

    def __str__(self) -> str:
        sizes = ", ".join("n" if size < 0 else str(size) for size in self.shape)
        return f"{self.datatype} [{sizes}]"


@dataclass(frozen=True)
class ModelSpec:
    """A model's inputs and outputs, shapes with their batch dimension; `max_batch_size` 0 means no batching."""

    name: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int

    @property
    def takes_text(self) -> bool:
        """Whether its only input is text (BYTES)."""
        return len(self.inputs) == 1 and self.inputs[0].datatype == "BYTES"


class Result(Mapping[str, Array]):
    """Output arrays by name, and which model gave them."""

    def __init__(self, outputs: Mapping[str, Array], model_name: str, model_version: str) -> None:
        self._outputs = dict(outputs)
        self.model_name = model_name
        self.model_version = model_version

    def __getitem__(self, name: str) -> Array:
        return self._outputs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __len__(self) -> int:
        return len(self._outputs)

    def __repr__(self) -> str:
        arrays = ", ".join(f"{name}: {array.dtype} {list(array.shape)}" for name, array in self._outputs.items())
        return f"<Result of {self.model_name} version {self.model_version}: {arrays}>"
