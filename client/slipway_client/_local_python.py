"""A model of Triton's Python backend: `TritonPythonModel` of its version's model.py, run in this process."""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from slipway_client._errors import DeadlineExceeded, ServerError, TritonError, one_line
from slipway_client._local_backend import Logger, backend_module
from slipway_client._local_config import triton_json
from slipway_client._local_imports import ModelModules
from slipway_client._local_repository import LocalModel
from slipway_client._local_request import (
    InferenceRequest,
    InferenceResponse,
    InferenceResponseSender,
    Tensor,
    TritonModelException,
)
from slipway_client._types import Array


class PythonModel:
    """Loads the model's Python code, which may do whatever this process may.

    Raises:
        TritonError: a Python module that the code needs is not installed here.
        ServerError: the code cannot be loaded, or its `initialize` fails.
    """

    def __init__(self, model: LocalModel) -> None:
        self._name = model.name
        self._folder = model.folder.resolve()
        self._decoupled = bool(model.config.model_transaction_policy.decoupled)
        folder = model.folder.absolute() / model.version
        self._modules = ModelModules(model.folder, model.version, backend_module(folder))
        with self._running("did not load"):
            kind = getattr(self._modules.load(model.file.stem), "TritonPythonModel", None)
            if kind is None:
                raise TritonModelException(f"{model.file} defines no class TritonPythonModel")
            self._instance: Any = kind()
            if hasattr(self._instance, "initialize"):
                self._instance.initialize(_initialize_arguments(model))

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str], timeout: float) -> dict[str, Array]:
        """Execute one request; wait at most `timeout` seconds for what the model sends after `execute` returned."""
        sender = InferenceResponseSender(self._decoupled)
        with self._running("failed"):
            # A copy, as a server's is: the model may write into its inputs.
            tensors = [Tensor(name, array.copy()) for name, array in inputs.items()]
            request = InferenceRequest(inputs=tensors, requested_output_names=outputs, sender=sender)
            response = self._response(self._instance.execute([request]), sender, timeout)
        found = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
        if missing := [name for name in outputs if name not in found]:
            raise ServerError(f"model '{self._name}' gave no output {missing}: it gave {sorted(found)}")
        return {name: found[name] for name in outputs}

    def close(self) -> None:
        """Call the model's `finalize`; what goes wrong there is nobody's answer, and is logged."""
        if hasattr(self._instance, "finalize"):
            try:
                with self._running("did not end well"):
                    self._instance.finalize()
            except TritonError as error:
                Logger.log_warn(str(error))

    def _response(self, returned: Any, sender: InferenceResponseSender, timeout: float) -> InferenceResponse:
        if self._decoupled and returned is not None:
            raise TritonModelException("a decoupled model's execute must return None and send its responses")
        if not self._decoupled and not (isinstance(returned, list) and len(returned) == 1):
            raise TritonModelException(
                f"execute must return a list of one InferenceResponse for one request, got {_kind(returned)}"
            )
        if returned is None or returned[0] is None:
            return self._checked(self._sent(sender, timeout))
        return self._checked(returned[0])

    def _sent(self, sender: InferenceResponseSender, timeout: float) -> InferenceResponse:
        if not sender.wait(timeout):
            raise DeadlineExceeded(
                f"model '{self._name}' did not send TRITONSERVER_RESPONSE_COMPLETE_FINAL within {timeout:g} s"
            )
        if len(sender.responses) != 1:
            raise ServerError(
                f"model '{self._name}' is decoupled: it sent {len(sender.responses)} responses, and this request is "
                "for one answer: ask a server that serves it, over gRPC streaming"
            )
        return sender.responses[0]

    def _checked(self, response: Any) -> InferenceResponse:
        if not isinstance(response, InferenceResponse):
            raise TritonModelException(f"execute must return InferenceResponse objects, got {_kind(response)}")
        if error := response.error():
            raise ServerError(f"model '{self._name}': {one_line(error.message())}")
        return response

    @contextlib.contextmanager
    def _running(self, what: str) -> Iterator[None]:
        """The model's modules in place, and whatever its code raises as an error of this package."""
        try:
            with self._modules.visible():
                yield
        except TritonError:
            raise
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            raise TritonError(
                f"model '{self._name}' needs the Python module '{error.name}', which is neither in its folder nor "
                f"installed here: `{sys.executable} -m pip install {package}` (or the package that has it), or ask a "
                "server that serves the model"
            ) from error
        except (Exception, SystemExit) as error:
            raise ServerError(f"model '{self._name}' {what}: {self._reason(error)}") from error

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, TritonModelException):
            return one_line(str(error))
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(f"{self._folder}/")]
        where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        return f"{type(error).__name__}: {one_line(str(error))}{where}"


def _initialize_arguments(model: LocalModel) -> dict[str, str]:
    """What Triton hands to `initialize`: every value is a string."""
    config = triton_json(model)
    config["default_model_filename"] = config["default_model_filename"] or model.file.name
    return {
        "model_config": json.dumps(config),
        "model_instance_kind": "CPU",
        "model_instance_name": f"{model.name}_0_0",
        "model_instance_device_id": "0",
        "model_repository": str(model.folder.absolute()),
        "model_version": model.version,
        "model_name": model.name,
    }


def _kind(value: Any) -> str:
    return f"a list of {len(value)}" if isinstance(value, list) else type(value).__name__
