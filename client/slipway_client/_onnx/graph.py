"""A model that is one ONNX file, opened as its config.pbtxt says and run with arrays as Triton has them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from . import config as onnx_config

Array = npt.NDArray[Any]
Bits = npt.NDArray[np.uint16]

BFLOAT16 = "tensor(bfloat16)"
_BFLOAT16 = 16  # TensorProto.DataType


class WrongInput(Exception):
    """An input that the graph cannot take."""


class OnnxGraph:
    """An ONNX Runtime session on the CPU (opened here unless one is given), and what the configuration says of it.

    Arrays of text are object arrays of `bytes`, BF16 (which NumPy does not have) is uint16 with the same bits.

    Attributes:
        path: the graph's file.
        config: the configuration as Triton's JSON, its tensors filled in.
        outputs: names in the configuration's order.
        batches: whether each first dimension is a batch.

    Raises:
        Refused: the file cannot be opened, or the configuration does not fit it.
    """

    def __init__(
        self, config: onnx_config.Config, version_directory: Path, session: ort.InferenceSession | None = None
    ) -> None:
        self.config = config
        self.path = onnx_config.model_path(config, version_directory)
        self._session = session or onnx_config.open_session(self.path, config)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        initializers = self._session.get_overridable_initializers()
        onnx_config.check(config, inputs, initializers, outputs)
        self._run_options = onnx_config.run_options(config)
        self._types = {node.name: node.type for node in (*inputs, *initializers, *outputs)}
        self._scalars = {node.name for node in (*inputs, *initializers) if not node.shape}
        # A number without dimensions is answered in the shape that the configuration gives it. ONNX Runtime gives an
        # output whose rank the graph does not say no dimensions either, so that only its answer tells the two apart.
        ranks = {node.name: len(node.shape) for node in outputs}
        self._shaped = {one["name"]: onnx_config.dims(one) for one in config["output"] if not ranks[one["name"]]}
        self.outputs = [tensor["name"] for tensor in config["output"]]
        self.batches = config["max_batch_size"] > 0

    def is_bfloat16(self, name: str) -> bool:
        """Whether a tensor is BF16."""
        return bool(self._types[name] == BFLOAT16)

    def run(self, names: Sequence[str], feed: Mapping[str, Array]) -> dict[str, Array]:
        """The named outputs for these inputs.

        Raises:
            WrongInput: BYTES that are no text.
        """
        arrays = {name: self._taken(name, array) for name, array in feed.items()}
        if any(self.is_bfloat16(name) for name in (*names, *arrays)):
            answers = self._run_values(names, arrays)
        else:
            answers = self._session.run(names, arrays, self._run_options)
        return {name: self._given(name, np.asarray(answer)) for name, answer in zip(names, answers, strict=True)}

    def _run_values(self, names: Sequence[str], arrays: Mapping[str, Array]) -> list[Array]:
        make = ort.OrtValue.ortvalue_from_numpy
        values = {
            name: to_ort_value(array) if self.is_bfloat16(name) else make(array) for name, array in arrays.items()
        }
        answers = self._session.run_with_ort_values(names, values, self._run_options)
        return [
            read_bits(answer) if self.is_bfloat16(name) else answer.numpy()
            for name, answer in zip(names, answers, strict=True)
        ]

    def _taken(self, name: str, array: Array) -> Array:
        array = array.reshape(()) if name in self._scalars else array
        if self._types[name] == "tensor(bool)":  # a client may send any byte, and ONNX Runtime computes with it
            switched: Array = array.view(np.uint8) != 0
            return switched
        if self._types[name] != "tensor(string)":
            return array
        try:
            return _each(array, lambda value: value.decode() if isinstance(value, bytes) else str(value))
        except UnicodeDecodeError as error:
            raise WrongInput(f"input '{name}': BYTES elements must be UTF-8 text: {error}") from error

    def _given(self, name: str, array: Array) -> Array:
        if array.dtype.kind in "OU":
            array = _each(array, lambda value: value.encode() if isinstance(value, str) else value)
        return array.reshape(self._shaped[name]) if name in self._shaped and not array.ndim else array


def _each(array: Array, function: Callable[[Any], Any]) -> Array:
    result: Array = np.empty(array.size, dtype=np.object_)
    for index, value in enumerate(array.ravel()):
        result[index] = function(value)
    return result.reshape(array.shape)


def read_bits(tensor: Any) -> Bits:
    """Copy a BF16 tensor of Triton's or of ONNX Runtime's (anything with `__dlpack__`) as uint16."""
    value = tensor if isinstance(tensor, ort.OrtValue) else ort.OrtValue.from_dlpack(tensor)
    shape = tuple(value.shape())
    count = int(np.prod(shape, dtype=np.int64))
    if count == 0:
        return np.empty(shape, np.uint16)
    pointer = ctypes.cast(value.data_ptr(), ctypes.POINTER(ctypes.c_uint16))
    bits: Bits = np.ctypeslib.as_array(pointer, (count,)).reshape(shape).copy()
    return bits


def to_ort_value(bits: Bits) -> ort.OrtValue:
    """The BF16 tensor for ONNX Runtime, which reads the array's memory: the array must stay."""
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(bits), _BFLOAT16)
