"""What a model takes and gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# Triton's datatypes (v2 inference protocol) in NumPy's, which has no BF16: its tensors are float32 here, and rounded
# when they are sent.
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
    "BF16": np.dtype(np.float32),
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


def bfloat16_bits(array: Array) -> Array:
    """float32 rounded to BF16 (to the nearest, ties to even), as uint16 with the same bits."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(array), 0x7FC0, rounded).astype(np.uint16)


def from_bfloat16(bits: Array) -> Array:
    """The float32 of BF16 bits."""
    result: Array = (bits.astype(np.uint32) << 16).view(np.float32)
    return result


@dataclass(frozen=True)
class TensorSpec:
    """A tensor as the server names it.

    Attributes:
        name: the tensor's.
        datatype: in Triton's terms.
        shape: -1 where any size goes.
        optional: whether a request may leave it out.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False

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
