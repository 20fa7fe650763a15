"""Requests over gRPC, carried by tritonclient."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tritonclient.grpc as triton
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


def is_loopback(address: str) -> bool:
    """Whether `address` (`host:port`) is on this machine, whatever interface its server listens on."""
    host = address.rpartition(":")[0].strip("[]").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_loopback or ip.is_unspecified


class GrpcTransport:
    """A channel to `address` (`host:port`)."""

    def __init__(self, address: str) -> None:
        self._url = f"grpc://{address}"
        # Without them gRPC refuses answers of more than 4 MB. A proxy of the environment is for other machines.
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        if is_loopback(address):
            options.append(("grpc.enable_http_proxy", 0))
        self._client: Any = triton.InferenceServerClient(address, channel_args=options)

    def server_ready(self, timeout: float) -> bool:
        """Whether a server answers and is ready."""
        with contextlib.suppress(ConnectError, DeadlineExceeded), self._errors(timeout):
            return bool(self._client.is_server_ready(client_timeout=timeout))
        return False

    def model_ready(self, model: str, version: str, timeout: float) -> bool:
        """Whether the model is loaded."""
        with contextlib.suppress(ConnectError, DeadlineExceeded), self._errors(timeout):
            return bool(self._client.is_model_ready(model, version, client_timeout=timeout))
        return False

    def spec(self, model: str, version: str, timeout: float) -> ModelSpec:
        """What the model takes and gives."""
        with self._errors(timeout):
            metadata = self._client.get_model_metadata(model, version, client_timeout=timeout)
            config = self._client.get_model_config(model, version, client_timeout=timeout).config
        optional = {tensor.name for tensor in config.input if tensor.optional}
        return ModelSpec(
            name=metadata.name,
            version=version or max(metadata.versions, key=int),
            inputs=tuple(TensorSpec(t.name, t.datatype, tuple(t.shape), t.name in optional) for t in metadata.inputs),
            outputs=tuple(TensorSpec(t.name, t.datatype, tuple(t.shape)) for t in metadata.outputs),
            max_batch_size=config.max_batch_size,
        )

    def infer(
        self, spec: ModelSpec, version: str, inputs: Mapping[str, Array], outputs: Sequence[str], timeout: float
    ) -> tuple[Mapping[str, Array], str]:
        """Send checked inputs; return the outputs and the version that answered."""
        sent = as_sent(triton, spec, inputs)
        wanted = [triton.InferRequestedOutput(name) for name in outputs]
        with self._errors(timeout, spec.name):
            answer: Any = self._client.infer(spec.name, sent, version, wanted, client_timeout=timeout)
        return as_got(answer, spec, outputs, self._url), answer.get_response().model_version

    def close(self) -> None:
        """Close the channel, and let go of it now.

        tritonclient closes it once more when its client is collected, and gRPC can wait for ever in that when the
        interpreter is already ending (seen under gevent, in Locust).
        """
        client, self._client = self._client, None
        if client is not None:
            client.close()

    @contextlib.contextmanager
    def _errors(self, timeout: float, model: str = "") -> Iterator[None]:
        try:
            yield
        except InferenceServerException as error:
            message = one_line(error.message())
            status = str(error.status())
            if "DEADLINE_EXCEEDED" in status:
                raise DeadlineExceeded(f"no answer from {self._url} within {timeout:g} s") from error
            if "UNAVAILABLE" in status and any(one in message.lower() for one in ("connect", "socket", "resol")):
                raise ConnectError(f"no server answers at {self._url}: start it, or pass its URL") from error
            if "NOT_FOUND" in status or "unknown model" in message:
                raise ModelNotFound(f"{self._url}: {message}") from error
            if DECOUPLED in message:
                raise streams(self._url, model) from error
            raise ServerError(f"{self._url}: {message}") from error
