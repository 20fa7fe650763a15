"""Requests over HTTP with binary tensors, carried by tritonclient."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPException
from typing import Any

import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from slipway_client._errors import (
    DECOUPLED,
    ConnectError,
    DeadlineExceeded,
    ModelNotFound,
    ServerError,
    one_line,
    streams,
)
from slipway_client._types import Array, ModelSpec, TensorSpec


class HttpTransport:
    """Kept-alive connections to `address` (`host:port`); `timeout` in seconds holds for each answer."""

    def __init__(self, address: str, timeout: float, connections: int) -> None:
        self._url = f"http://{address}"
        self._client = triton.InferenceServerClient(
            address, concurrency=connections, connection_timeout=timeout, network_timeout=timeout
        )
        self._timeout = timeout

    def server_ready(self, timeout: float) -> bool:
        """Whether a server answers and is ready."""
        with contextlib.suppress(ConnectError, DeadlineExceeded), self._errors():
            return bool(self._client.is_server_ready())
        return False

    def model_ready(self, model: str, version: str, timeout: float) -> bool:
        """Whether the model is loaded."""
        with contextlib.suppress(ConnectError, DeadlineExceeded), self._errors():
            return bool(self._client.is_model_ready(model, version))
        return False

    def spec(self, model: str, version: str, timeout: float) -> ModelSpec:
        """What the model takes and gives."""
        with self._errors():
            metadata: Any = self._client.get_model_metadata(model, version)
            config: Any = self._client.get_model_config(model, version)
            return ModelSpec(
                name=metadata["name"],
                version=version or max(metadata["versions"], key=int),
                inputs=tuple(TensorSpec(t["name"], t["datatype"], tuple(t["shape"])) for t in metadata["inputs"]),
                outputs=tuple(TensorSpec(t["name"], t["datatype"], tuple(t["shape"])) for t in metadata["outputs"]),
                max_batch_size=int(config.get("max_batch_size", 0)),
            )

    def infer(
        self, spec: ModelSpec, version: str, inputs: Mapping[str, Array], outputs: Sequence[str], timeout: float
    ) -> tuple[Mapping[str, Array], str]:
        """Send checked inputs; return the outputs and the version that answered."""
        datatypes = {tensor.name: tensor.datatype for tensor in spec.inputs}
        tensors = []
        for name, array in inputs.items():
            tensor = triton.InferInput(name, list(array.shape), datatypes[name])
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        wanted = [triton.InferRequestedOutput(name) for name in outputs]
        with self._errors(spec.name):
            answer: Any = self._client.infer(spec.name, tensors, version, wanted)
        return {name: answer.as_numpy(name) for name in outputs}, answer.get_response()["model_version"]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @contextlib.contextmanager
    def _errors(self, model: str = "") -> Iterator[None]:
        try:
            yield
        except InferenceServerException as error:
            message = one_line(error.message())
            if "unknown model" in message or "is not found" in message:
                raise ModelNotFound(f"{self._url}: {message}") from error
            if DECOUPLED in message:
                raise streams(self._url, model) from error
            raise ServerError(f"{self._url}: {message}") from error
        except HTTPException as error:
            raise ConnectError(
                f"{self._url} does not speak HTTP ({error}): is it the gRPC port? That is grpc://"
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            raise ServerError(f"{self._url} answers, and not as a Triton does ({error!r}): pass its URL") from error
        except TimeoutError as error:
            raise DeadlineExceeded(f"no answer from {self._url} within {self._timeout:g} s") from error
        except OSError as error:
            raise ConnectError(f"no server answers at {self._url} ({error}): start it, or pass its URL") from error
