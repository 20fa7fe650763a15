"""The module `triton_python_backend_utils`, made for one model of this process.

What needs a server (calling other models, GPU memory, custom metrics) is left out and says so.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

from slipway_client import _local_request as request
from slipway_client._local_request import InferenceRequest, InferenceResponse, Tensor
from slipway_client._types import DTYPES

MODULE = "triton_python_backend_utils"

_LOG = logging.getLogger("slipway_client.local")

TRITON_STRING_TO_NUMPY = {
    f"TYPE_{'STRING' if name == 'BYTES' else name}": dtype.type for name, dtype in DTYPES.items() if name != "BF16"
}


def backend_module(model_dir: Path) -> ModuleType:
    """The module as a model imports it, whose `get_model_dir()` is `model_dir`."""
    module = ModuleType(MODULE, __doc__)
    contents: dict[str, Any] = {
        "TRITONSERVER_REQUEST_FLAG_SEQUENCE_START": 1,
        "TRITONSERVER_REQUEST_FLAG_SEQUENCE_END": 2,
        "TRITONSERVER_RESPONSE_COMPLETE_FINAL": request.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
        "TRITON_STRING_TO_NUMPY": TRITON_STRING_TO_NUMPY,
        "InferenceRequest": InferenceRequest,
        "InferenceResponse": InferenceResponse,
        "InferenceResponseSender": request.InferenceResponseSender,
        "LogLevel": LogLevel,
        "Logger": Logger,
        "Tensor": Tensor,
        "TritonError": request.TritonError,
        "TritonModelException": request.TritonModelException,
        "get_input_config_by_name": get_input_config_by_name,
        "get_input_tensor_by_name": get_input_tensor_by_name,
        "get_model_dir": lambda: str(model_dir),
        "get_output_config_by_name": get_output_config_by_name,
        "get_output_tensor_by_name": get_output_tensor_by_name,
        "triton_string_to_numpy": triton_string_to_numpy,
        "using_decoupled_model_transaction_policy": using_decoupled_model_transaction_policy,
        "__getattr__": _absent,
    }
    vars(module).update(contents)
    return module


def _absent(name: str) -> Any:
    raise AttributeError(f"{MODULE}.{name} is not there without a server: ask one that serves the model")


class LogLevel(Enum):
    """Triton's levels in Python's."""

    INFO = logging.INFO
    WARNING = logging.WARNING
    ERROR = logging.ERROR
    VERBOSE = logging.DEBUG


class Logger:
    """Goes to Python's logger `slipway_client.local`: warnings and errors are shown, the rest on demand."""

    INFO, WARNING, ERROR, VERBOSE = LogLevel

    @staticmethod
    def log(message: str, level: LogLevel = LogLevel.INFO) -> None:
        """Log at any level."""
        _LOG.log(level.value, "%s", message)

    @staticmethod
    def log_info(message: str) -> None:
        """Log what goes on."""
        Logger.log(message, LogLevel.INFO)

    @staticmethod
    def log_warn(message: str) -> None:
        """Log what is odd."""
        Logger.log(message, LogLevel.WARNING)

    @staticmethod
    def log_error(message: str) -> None:
        """Log what failed."""
        Logger.log(message, LogLevel.ERROR)

    @staticmethod
    def log_verbose(message: str) -> None:
        """Log details."""
        Logger.log(message, LogLevel.VERBOSE)


def _by_name(entries: Sequence[Tensor], name: str) -> Tensor | None:
    return next((tensor for tensor in entries if tensor.name() == name), None)


def get_input_tensor_by_name(inference_request: InferenceRequest, name: str) -> Tensor | None:
    """The input `name`, None without it."""
    return _by_name(inference_request.inputs(), name)


def get_output_tensor_by_name(inference_response: InferenceResponse, name: str) -> Tensor | None:
    """The output `name`, None without it."""
    return _by_name(inference_response.output_tensors(), name)


def _entry(model_config: Mapping[str, Any], kind: str, name: str) -> Mapping[str, Any] | None:
    return next((entry for entry in model_config.get(kind, []) if entry["name"] == name), None)


def get_input_config_by_name(model_config: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """What config.pbtxt says of the input `name`, None without it."""
    return _entry(model_config, "input", name)


def get_output_config_by_name(model_config: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """What config.pbtxt says of the output `name`, None without it."""
    return _entry(model_config, "output", name)


def using_decoupled_model_transaction_policy(model_config: Mapping[str, Any]) -> bool:
    """Whether the model may send several responses a request."""
    return bool(model_config.get("model_transaction_policy", {}).get("decoupled", False))


def triton_string_to_numpy(triton_type_string: str) -> type[Any]:
    """The NumPy type of `TYPE_FP32` and so on; `numpy.object_` for TYPE_STRING."""
    return TRITON_STRING_TO_NUMPY[triton_type_string]
