"""Requests over HTTP with binary tensors, carried by tritonclient."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, unquote

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
from slipway_client._wire import as_got, as_sent


class _Client(triton.InferenceServerClient):  # type: ignore[misc]  # tritonclient has no types
    """Asks for a model by its name: tritonclient quotes `m#1`, and Triton takes `m%231` for another one."""

    def _get(self, request_uri: str, headers: Any, query_params: Any) -> Any:
        return super()._get(_unquoted(request_uri), headers, query_params)

    def _post(self, request_uri: str, request_body: Any, headers: Any, query_params: Any) -> Any:
        return super()._post(_unquoted(request_uri), request_body, headers, query_params)


def _unquoted(path: str) -> str:
    """The path as Triton reads it, unless no request line could hold it."""
    plain = unquote(path)
    return plain if plain.isascii() and plain.isprintable() and not set(plain) & set(" ?") else path


class HttpTransport:
    """Kept-alive connections to `address` (`host:port`); `timeout` in seconds holds for each answer."""

    def __init__(self, address: str, timeout: float, connections: int) -> None:
        self._url = f"http://{address}"
        self._client = _Client(address, concurrency=connections, connection_timeout=timeout, network_timeout=timeout)
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
        with self._errors(model):
            metadata: Any = self._client.get_model_metadata(model, version)
            config: Any = self._client.get_model_config(model, version)
            optional = {tensor["name"] for tensor in config.get("input", ()) if tensor.get("optional")}
            return ModelSpec(
                name=metadata["name"],
                version=version or max(metadata["versions"], key=int),
                inputs=tuple(
                    TensorSpec(t["name"], t["datatype"], tuple(t["shape"]), t["name"] in optional)
                    for t in metadata["inputs"]
                ),
                outputs=tuple(TensorSpec(t["name"], t["datatype"], tuple(t["shape"])) for t in metadata["outputs"]),
                max_batch_size=int(config.get("max_batch_size", 0)),
            )

    def infer(
        self, spec: ModelSpec, version: str, inputs: Mapping[str, Array], outputs: Sequence[str], timeout: float
    ) -> tuple[Mapping[str, Array], str]:
        """Send checked inputs; return the outputs and the version that answered."""
        sent = as_sent(triton, spec, inputs)
        wanted = [triton.InferRequestedOutput(name) for name in outputs]
        with self._errors(spec.name):
            answer: Any = self._client.infer(spec.name, sent, version, wanted)
        return as_got(answer, spec, outputs, self._url), answer.get_response()["model_version"]

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
                if (written := quote(model)) != model and written in message:
                    message += f": it takes '{written}' for the name itself: ask for '{model}' over gRPC"
                raise ModelNotFound(f"{self._url}: {message}") from error
            if DECOUPLED in message:
                raise streams(self._url, model) from error
            raise ServerError(f"{self._url}: {message}") from error
        except HTTPException as error:
            raise ConnectError(
                f"{self._url} does not speak HTTP ({error}): is it the gRPC port? That is grpc://"
            ) from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ServerError(f"{self._url} answers, and not as a Triton does ({error!r}): pass its URL") from error
        except TimeoutError as error:
            raise DeadlineExceeded(f"no answer from {self._url} within {self._timeout:g} s") from error
        except OSError as error:
            raise ConnectError(f"no server answers at {self._url} ({error}): start it, or pass its URL") from error
