"""A model that is one ONNX file, run by ONNX Runtime on the CPU of this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from slipway_client._errors import ServerError, TritonError, one_line
from slipway_client._local_repository import LocalModel
from slipway_client._types import Array, as_bytes


class OnnxModel:
    """An ONNX Runtime session on the model's file.

    Raises:
        TritonError: ONNX Runtime is not installed here.
        ServerError: ONNX Runtime cannot open the file.
    """

    def __init__(self, model: LocalModel) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise TritonError(
                f"model '{model.name}' needs ONNX Runtime, which is not installed here: "
                "`pip install slipway-client[local]`"
            ) from error
        self._name = model.name
        try:
            self._session: Any = onnxruntime.InferenceSession(str(model.file), providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ServerError(f"ONNX Runtime cannot open {model.file}: {one_line(str(error))}") from error

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str], timeout: float) -> dict[str, Array]:
        """Run the graph; ONNX Runtime knows no timeout."""
        try:
            arrays = self._session.run(list(outputs), {name: _texts(array) for name, array in inputs.items()})
        except Exception as error:
            raise ServerError(f"ONNX Runtime cannot run model '{self._name}': {one_line(str(error))}") from error
        return dict(zip(outputs, map(_bytes, arrays), strict=True))

    def close(self) -> None:
        """Nothing to give back: the session goes with this object."""


def _texts(array: Array) -> Array:
    """ONNX Runtime takes text as `str`; BYTES are `bytes`, as a server takes them."""
    if array.dtype != np.object_:
        return array
    values = [value.decode() if isinstance(value, bytes) else str(value) for value in array.ravel()]
    return np.array(values, dtype=np.object_).reshape(array.shape)


def _bytes(array: Any) -> Array:
    """ONNX Runtime gives text as `str`; a server's BYTES are `bytes`."""
    found: Array = np.asarray(array)
    return as_bytes(found) if found.dtype.kind in "OU" else found
