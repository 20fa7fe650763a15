"""`Client` and `Model`: what is asked is checked here, before a transport sends it."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from slipway_client._errors import DeadlineExceeded, InvalidInput, ModelNotFound, TritonError
from slipway_client._transport import Transport
from slipway_client._types import DTYPES, Array, ModelSpec, Result, TensorSpec, as_bytes

LONGEST = 1e6  # seconds that a timeout may have; sockets and gRPC take no more than about 1e9


class Client:
    """Asks the models of one server. One client belongs to one thread.

    Args:
        url: `http://host:port`, `grpc://host:port`, or `local:path` of a model repository, run in this process.
        timeout: seconds that each answer may take.
        connections: HTTP connections kept; requests of more greenlets than that wait for one another here.
        transport: carries the requests instead of what `url` names.

    Raises:
        TritonError: a URL of another form, or a timeout that is none.
    """

    def __init__(
        self, url: str, *, timeout: float = 30.0, connections: int = 1, transport: Transport | None = None
    ) -> None:
        if not 0 < timeout <= LONGEST:
            raise TritonError(f"timeout {timeout:g}: expected more than 0 seconds, and at most {LONGEST:g}")
        self.url = url
        self.timeout = timeout
        self._transport = transport or _transport(url, timeout, connections)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def model(self, name: str, version: int | None = None) -> Model:
        """The model `name`, its newest version unless one is named; nothing is sent yet.

        Raises:
            ModelNotFound: no model can have this name, because no folder of a repository can.
        """
        if name in ("", ".", "..") or any(one in "/\0" or "\ud800" <= one <= "\udfff" for one in name):
            raise ModelNotFound(f"{name!a} is no name of a model: expected that of a folder in its model repository")
        return Model(self._transport, name, "" if version is None else str(version), self.timeout)

    def wait_ready(self, *models: str, timeout: float = 60.0) -> None:
        """Wait until the server and every named model are ready.

        Raises:
            DeadlineExceeded: `timeout` seconds passed; the message says what was not ready.
        """
        deadline = time.monotonic() + timeout
        while missing := self._not_ready(models):
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"{self.url}: {missing} was not ready within {timeout:g} s")
            time.sleep(0.1)

    def close(self) -> None:
        """Give connections back."""
        self._transport.close()

    def _not_ready(self, models: Sequence[str]) -> str:
        if not self._transport.server_ready(self.timeout):
            return "the server"
        missing = [name for name in models if not self._transport.model_ready(name, "", self.timeout)]
        return f"model {', '.join(missing)}" if missing else ""


class Model:
    """One model of a server: call it with its inputs by name."""

    def __init__(self, transport: Transport, name: str, version: str, timeout: float) -> None:
        self.name = name
        self._transport = transport
        self._version = version
        self._timeout = timeout

    @cached_property
    def spec(self) -> ModelSpec:
        """What the model takes and gives; fetched once.

        Raises:
            ModelNotFound: the server does not have it.
            ConnectError: no server answers.
        """
        return self._transport.spec(self.name, self._version, self._timeout)

    def __call__(self, **inputs: npt.ArrayLike) -> Result:
        """Infer with inputs given by name: `model(image=batch)["probabilities"]`."""
        return self.infer(inputs)

    def infer(self, inputs: Mapping[str, npt.ArrayLike], *, outputs: Sequence[str] | None = None) -> Result:
        """Send one request and return its answer.

        Args:
            inputs: an array for each input, with its batch dimension; text (`str`) becomes BYTES.
            outputs: names of the outputs wanted, all unless named.

        Raises:
            InvalidInput: an input is missing, unknown, or of a shape or dtype the model does not take.
            DeadlineExceeded, ConnectError, ModelNotFound, ServerError: see each.
        """
        spec = self.spec
        arrays = check_inputs(spec, inputs)
        known = [tensor.name for tensor in spec.outputs]
        wanted = known if outputs is None else list(outputs)
        if unknown := sorted(set(wanted) - set(known)):
            raise InvalidInput(f"model '{spec.name}'", f"outputs out of {known}", str(unknown))
        answer, version = self._transport.infer(spec, self._version, arrays, wanted, self._timeout)
        return Result(answer, spec.name, version)


def check_inputs(spec: ModelSpec, inputs: Mapping[str, npt.ArrayLike]) -> dict[str, Array]:
    """Return `inputs` as arrays of exactly the dtypes the model takes.

    Only casts that lose nothing are made (`numpy.can_cast(..., "safe")`).

    Raises:
        InvalidInput: a name, shape, dtype or batch size that the model does not take.
    """
    names = [tensor.name for tensor in spec.inputs]
    if not {tensor.name for tensor in spec.inputs if not tensor.optional} <= set(inputs) <= set(names):
        raise InvalidInput(f"model '{spec.name}'", f"inputs {names}", str(sorted(inputs)))
    given = [tensor for tensor in spec.inputs if tensor.name in inputs]
    arrays = {tensor.name: _checked(spec, tensor, inputs[tensor.name]) for tensor in given}
    sizes = {len(array) for array in arrays.values()} if spec.max_batch_size else set()
    if len(sizes) > 1:
        raise InvalidInput(f"model '{spec.name}'", "one batch size for all inputs", str(sorted(sizes)))
    if sizes and max(sizes) > spec.max_batch_size:
        raise InvalidInput(f"model '{spec.name}'", f"a batch of at most {spec.max_batch_size}", str(max(sizes)))
    return arrays


def _checked(spec: ModelSpec, tensor: TensorSpec, value: npt.ArrayLike) -> Array:
    subject = f"input '{tensor.name}' of model '{spec.name}'"
    if tensor.datatype not in DTYPES:
        raise InvalidInput(subject, f"a datatype out of {list(DTYPES)}", tensor.datatype)
    wanted = DTYPES[tensor.datatype]
    try:
        array: Array = np.asarray(value)
    except ValueError as error:  # NumPy's name for it is "inhomogeneous"
        raise InvalidInput(subject, str(tensor), "lists of different lengths") from error
    if array.size == 0 and not isinstance(value, np.ndarray):
        array = array.astype(wanted)  # an empty list holds no dtype
    got = f"{_datatype(array)} {list(array.shape)}"
    if not tensor.fits(array.shape):
        raise InvalidInput(subject, str(tensor), got)
    if spec.max_batch_size and len(array) == 0:  # a server refuses it, or never answers
        raise InvalidInput(subject, f"a batch of at least one, {tensor}", got)
    if tensor.datatype == "BYTES":
        if array.dtype.kind not in "OSU":
            raise InvalidInput(subject, f"text or bytes {tensor}", got)
        try:
            return as_bytes(array)
        except UnicodeEncodeError as error:
            raise InvalidInput(subject, "text that UTF-8 can hold", ascii(error.object)) from error
    if not np.can_cast(array.dtype, wanted, "safe"):
        raise InvalidInput(subject, str(tensor), got)
    return np.asarray(array, dtype=wanted, order="C")


def _datatype(array: Array) -> str:
    """The array's dtype in Triton's terms."""
    names: dict[Any, str] = {dtype: name for name, dtype in DTYPES.items() if name != "BF16"}
    return "BYTES" if array.dtype.kind in "SU" else names.get(array.dtype, str(array.dtype))


def parse_url(url: str) -> tuple[str, str]:
    """Split a URL into its scheme (`http`, `grpc` or `local`) and the `host:port` or path it names.

    Raises:
        TritonError: a URL of another form.
    """
    expected = "expected http://host:port, grpc://host:port or local:path"
    if url.startswith("local:") and (path := url.removeprefix("local:")):
        return "local", path
    url = url.strip()
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
        host.encode("ascii" if ":" in host else "idna")
    except ValueError as error:
        raise TritonError(f"'{url}' is not the URL of a server ({error}): {expected}") from error
    if re.fullmatch(r"([\w.-]+|\[[\da-f:.]+\])(:\d+)?/?", url, re.IGNORECASE):
        expected += f": write http://{url}, or grpc://{url} where that is the gRPC port"
    if parts.scheme in ("https", "grpcs"):
        expected += ": TLS is not spoken"
    more = parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None
    if parts.scheme not in ("http", "grpc") or not host or more or port == 0:
        raise TritonError(f"'{url}' is not the URL of a server: {expected}")
    port = port or (8000 if parts.scheme == "http" else 8001)
    return parts.scheme, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _transport(url: str, timeout: float, connections: int) -> Transport:
    scheme, address = parse_url(url)
    if scheme == "local":
        from slipway_client._local import LocalTransport

        return LocalTransport(Path(address))
    if scheme == "http":
        from slipway_client._http import HttpTransport

        return HttpTransport(address, timeout, connections)
    from slipway_client._grpc import GrpcTransport

    return GrpcTransport(address)
