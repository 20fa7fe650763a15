"""What a Python model takes and gives: tensors, requests, responses and their sender, as in Triton's Python backend.

Signatures and refusals are those of Triton 2.51 (https://github.com/triton-inference-server/python_backend, r24.10).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from slipway_client._types import DTYPES, Array, as_bytes

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1


class TritonModelException(Exception):
    """What a model raises, and what the backend raises in it."""


class TritonError:
    """An error as a value, for `InferenceResponse(error=...)`."""

    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        self._message = message
        self._code = code

    def message(self) -> str:
        """What went wrong."""
        return self._message

    def code(self) -> int:
        """Which of this class's constants."""
        return self._code


class Tensor:
    """A named array. Text is an object array of `bytes`; `str` in it becomes UTF-8, as Triton serializes it."""

    def __init__(self, name: str, numpy_array: Array) -> None:
        if not name:
            raise TritonModelException("Tensor name cannot be an empty string.")
        if not isinstance(numpy_array, np.ndarray):
            raise TypeError(f"Tensor '{name}' takes a NumPy array, got {type(numpy_array).__name__}")
        self._name = name
        self._array = _as_triton_holds_it(name, numpy_array)

    def name(self) -> str:
        """The tensor's name."""
        return self._name

    def as_numpy(self) -> Array:
        """The array, C-contiguous."""
        return self._array

    def shape(self) -> list[int]:
        """The array's shape."""
        return list(self._array.shape)

    def is_cpu(self) -> bool:
        """Always: nothing here is in a GPU's memory."""
        return True


def _as_triton_holds_it(name: str, array: Array) -> Array:
    if array.dtype.kind in "OS":
        return as_bytes(array)
    if array.dtype not in DTYPES.values():
        raise TritonModelException(f"NumPy dtype is not supported: tensor '{name}' is {array.dtype}")
    return np.ascontiguousarray(array)


class InferenceResponse:
    """What a model answers: tensors, or an error."""

    def __init__(self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None) -> None:
        if not all(isinstance(tensor, Tensor) for tensor in output_tensors):
            raise TypeError("InferenceResponse takes a list of pb_utils.Tensor")
        if error is not None and not isinstance(error, TritonError):
            raise TypeError(f"error of InferenceResponse must be a pb_utils.TritonError, got {type(error).__name__}")
        self._tensors = list(output_tensors)
        self._error = error

    def output_tensors(self) -> list[Tensor]:
        """The tensors."""
        return self._tensors

    def has_error(self) -> bool:
        """Whether this is an error."""
        return self._error is not None

    def error(self) -> TritonError | None:
        """The error, if this is one."""
        return self._error


class InferenceResponseSender:
    """Collects what a model sends for one request; `send` may be called from any thread of the model's."""

    def __init__(self, decoupled: bool) -> None:
        self._decoupled = decoupled
        self._lock = threading.Lock()
        self._final = threading.Event()
        self._cancelled = False
        self.responses: list[InferenceResponse] = []

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        """Send a response, the final flag, or both.

        Raises:
            TritonModelException: nothing is sent; the final flag was sent before; a model that is not decoupled
                sends a second response.
        """
        if flags not in (0, TRITONSERVER_RESPONSE_COMPLETE_FINAL):
            raise TritonModelException("Unable to send response. Unsupported flag provided.")
        if response is None and flags == 0:
            raise TritonModelException(
                "Inference Response object must be provided when the response flags is set to zero."
            )
        with self._lock:
            if self._final.is_set():
                raise TritonModelException("Unable to send response. Response sender has been closed.")
            if not self._decoupled and len(self.responses) + (response is not None) != 1:
                raise TritonModelException("Unable to send response. Non-decoupled model must send one response.")
            if response is not None:
                self.responses.append(response)
            if flags:
                self._final.set()

    def is_cancelled(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._cancelled

    def wait(self, timeout: float) -> bool:
        """Whether the final flag came within `timeout` seconds; if not, the request is cancelled."""
        self._cancelled = not self._final.wait(timeout)
        return not self._cancelled


class InferenceRequest:
    """One request, as `execute` gets it; without parameters, sequence, priority or timeout of its own."""

    def __init__(
        self,
        request_id: str = "",
        correlation_id: int | str = 0,
        inputs: Sequence[Tensor] = (),
        requested_output_names: Sequence[str] = (),
        *,
        sender: InferenceResponseSender | None = None,
        **_: Any,
    ) -> None:
        self._id = request_id
        self._correlation_id = correlation_id
        self._inputs = list(inputs)
        self._outputs = set(requested_output_names)
        self._sender = sender

    def inputs(self) -> list[Tensor]:
        """The input tensors."""
        return self._inputs

    def requested_output_names(self) -> set[str]:
        """The outputs that the client wants."""
        return self._outputs

    def request_id(self) -> str:
        """The client's name for the request: none here."""
        return self._id

    def correlation_id(self) -> int | str:
        """The sequence that the request belongs to: none, 0."""
        return self._correlation_id

    def flags(self) -> int:
        """Start and end of a sequence: neither."""
        return 0

    def parameters(self) -> str:
        """Custom parameters as JSON: none."""
        return "{}"

    def timeout(self) -> int:
        """Microseconds that the client allows: 0, no limit."""
        return 0

    def is_cancelled(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._sender is not None and self._sender.is_cancelled()

    def get_response_sender(self) -> InferenceResponseSender:
        """The sender for this request's responses."""
        if self._sender is None:
            raise TritonModelException("a request that the model made itself has no response sender")
        return self._sender

    def exec(self, *_: Any, **__: Any) -> InferenceResponse:
        """Refused: business logic scripting asks other models of a server."""
        raise TritonModelException("a model that asks other models (BLS) needs a server: `local:` cannot run it")

    async_exec = exec
