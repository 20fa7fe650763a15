"""The client checks what is asked before anything is sent, and names every error."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slipway_client
from slipway_client import (
    DTYPES,
    Client,
    ConnectError,
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    ModelSpec,
    TensorSpec,
    TritonError,
    check_inputs,
    parse_url,
)
from slipway_client._grpc import GrpcTransport, is_loopback

from tests.support import free_ports

SPEC = ModelSpec(
    name="both",
    version="3",
    inputs=(TensorSpec("image", "FP32", (-1, 2, 2)), TensorSpec("text", "BYTES", (-1, 1))),
    outputs=(TensorSpec("sum", "FP32", (-1, 1)), TensorSpec("echo", "BYTES", (-1, 1))),
    max_batch_size=4,
)
IMAGE = np.zeros((2, 2, 2), np.float32)
TEXT = [["a"], ["b"]]


class RecordingTransport:
    """Answers every request with zeros and keeps what it was sent."""

    def __init__(self) -> None:
        self.sent: list[Mapping[str, Any]] = []

    def server_ready(self, timeout: float) -> bool:
        return True

    def model_ready(self, model: str, version: str, timeout: float) -> bool:
        return model == "both"

    def spec(self, model: str, version: str, timeout: float) -> ModelSpec:
        return SPEC

    def infer(
        self, spec: ModelSpec, version: str, inputs: Mapping[str, Any], outputs: Sequence[str], timeout: float
    ) -> tuple[Mapping[str, Any], str]:
        self.sent.append(inputs)
        return {name: np.zeros((2, 1)) for name in outputs}, spec.version

    def close(self) -> None:
        pass


def test_inputs_become_the_models_dtypes_and_the_result_names_its_version() -> None:
    transport = RecordingTransport()
    model = Client("http://unused", transport=transport).model("both")
    result = model(image=np.ones((2, 2, 2), np.float16), text=TEXT)
    (sent,) = transport.sent
    assert sent["image"].dtype == np.float32
    assert sent["text"].dtype == np.object_
    assert set(result) == {"sum", "echo"}
    assert result.model_version == "3"
    assert set(model.infer({"image": IMAGE, "text": TEXT}, outputs=["sum"])) == {"sum"}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"image": IMAGE}, r"model 'both': expected inputs \['image', 'text'\], got \['image'\]"),
        ({"image": IMAGE, "text": TEXT, "more": 1}, r"got \['image', 'more', 'text'\]"),
        ({"image": IMAGE[0], "text": TEXT}, r"expected FP32 \[n, 2, 2\], got FP32 \[2, 2\]"),
        ({"image": np.zeros((2, 3, 2), np.float32), "text": TEXT}, r"expected FP32 \[n, 2, 2\], got FP32 \[2, 3, 2\]"),
        ({"image": IMAGE.astype(np.float64), "text": TEXT}, r"expected FP32 \[n, 2, 2\], got FP64 \[2, 2, 2\]"),
        ({"image": IMAGE.astype(np.complex64), "text": TEXT}, "got complex64"),
        ({"image": IMAGE, "text": np.zeros((2, 1))}, r"expected text or bytes BYTES \[n, 1\], got FP64 \[2, 1\]"),
        ({"image": IMAGE, "text": [["a"]]}, r"expected one batch size for all inputs, got \[1, 2\]"),
        ({"image": np.zeros((5, 2, 2), np.float32), "text": [["a"]] * 5}, "expected a batch of at most 4, got 5"),
        (
            {"image": np.zeros((0, 2, 2), np.float32), "text": TEXT},
            r"expected a batch of at least one, FP32 \[n, 2, 2\], got FP32 \[0, 2, 2\]",
        ),
        ({"image": np.zeros((2, 0, 2), np.float32), "text": TEXT}, r"expected FP32 \[n, 2, 2\], got FP32 \[2, 0, 2\]"),
        ({"image": [[[1]], [[1, 2]]], "text": TEXT}, r"expected FP32 \[n, 2, 2\], got lists of different lengths"),
    ],
)
def test_an_input_that_the_model_does_not_take_is_refused_with_expected_and_got(
    inputs: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        check_inputs(SPEC, inputs)


def test_an_unknown_output_is_refused() -> None:
    model = Client("http://unused", transport=RecordingTransport()).model("both")
    with pytest.raises(InvalidInput, match=r"expected outputs out of \['sum', 'echo'\], got \['mean'\]"):
        model.infer({"image": IMAGE, "text": TEXT}, outputs=["mean"])


def test_waiting_says_what_was_not_ready() -> None:
    client = Client("http://unused", transport=RecordingTransport())
    client.wait_ready("both", timeout=1)
    with pytest.raises(DeadlineExceeded, match=r"model other was not ready within 0\.2 s"):
        client.wait_ready("both", "other", timeout=0.2)


def one_input(datatype: str, *shape: int, batch: int = 4) -> ModelSpec:
    return ModelSpec("one", "1", (TensorSpec("x", datatype, shape),), (), batch)


def test_nothing_is_given_where_a_dimension_is_free_and_it_is_not_the_batch() -> None:
    cache = check_inputs(one_input("FP32", -1, -1, 2), {"x": np.zeros((1, 0, 2), np.float32)})["x"]
    assert cache.shape == (1, 0, 2)
    assert check_inputs(one_input("FP32", -1, 2, batch=0), {"x": np.zeros((0, 2), np.float32)})["x"].shape == (0, 2)
    for datatype in ("BYTES", "INT64", "BF16"):  # an empty list says nothing of its datatype
        empty = check_inputs(one_input(datatype, -1, -1), {"x": [[], []]})["x"]
        assert (empty.shape, empty.dtype) == ((2, 0), DTYPES[datatype])


def test_bf16_is_float32_to_numpy_and_an_unknown_datatype_is_refused() -> None:
    half = check_inputs(one_input("BF16", -1, 2), {"x": np.ones((1, 2), np.float16)})["x"]
    assert half.dtype == np.float32
    with pytest.raises(InvalidInput, match=r"expected BF16 \[n, 2\], got FP64 \[1, 2\]"):
        check_inputs(one_input("BF16", -1, 2), {"x": np.ones((1, 2))})
    with pytest.raises(InvalidInput, match=r"input 'x' of model 'one': expected a datatype out of \['BOOL', .*got FP8"):
        check_inputs(one_input("FP8", -1, 2), {"x": np.ones((1, 2))})


def test_a_scalar_stays_one() -> None:
    assert check_inputs(one_input("FP32", batch=0), {"x": np.float32(1)})["x"].shape == ()


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://localhost", "http://", "http://h:port", "http://h/v2", "local:", "http://[::1", "", "http://:8000"),
        *("http://h:0", "http://user:word@h", "http://h?x=1", "http://::1:8000", f"http://{'a' * 70}", "http:/h:8000"),
    ],
)
def test_a_url_of_another_form_is_refused_with_the_forms_there_are(url: str) -> None:
    with pytest.raises(TritonError, match="expected http://host:port, grpc://host:port or local:path"):
        Client(url)


@pytest.mark.parametrize("address", ["localhost:8000", "localhost", "127.0.0.1:8000", "[::1]:8000"])
def test_an_address_without_a_scheme_is_answered_with_the_url_to_write(address: str) -> None:
    with pytest.raises(TritonError, match=rf": write (http://{re.escape(address)}), or ") as refused:
        parse_url(address)
    found = re.search(r"write (\S+),", str(refused.value))
    assert found
    assert parse_url(found[1])[0] == "http"


def test_tls_is_refused_by_name() -> None:
    with pytest.raises(TritonError, match="TLS is not spoken"):
        Client("https://localhost:8000")


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://localhost:8000/", ("http", "localhost:8000")),
        ("HTTP://localhost", ("http", "localhost:8000")),
        (" http://h:9 ", ("http", "h:9")),
        ("http://h:", ("http", "h:8000")),
        ("grpc://[::1]", ("grpc", "[::1]:8001")),
        ("http://[::1]:9/", ("http", "[::1]:9")),
        ("local:some/path", ("local", "some/path")),
    ],
)
def test_a_url_is_taken_as_people_type_it(url: str, parts: tuple[str, str]) -> None:
    assert parse_url(url) == parts


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e9])
def test_a_timeout_that_is_none_is_refused(timeout: float) -> None:
    with pytest.raises(TritonError, match=r"timeout .*: expected more than 0 seconds, and at most 1e\+06"):
        Client("http://h", timeout=timeout)


@pytest.mark.parametrize("name", ["", ".", "..", "../other", "/etc", "a/b", "a\0b", "gr\udcfcn"])
def test_a_name_that_no_folder_has_is_no_model(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelNotFound, match="is no name of a model"):
        Client(f"local:{tmp_path}").model(name)


@pytest.mark.parametrize(
    ("address", "here"),
    [
        *((f"{host}:8001", True) for host in ("localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "0.0.0.0")),
        *((f"[{host}]:8001", True) for host in ("::1", "::", "::ffff:127.0.0.1")),
        *((f"{host}:8001", False) for host in ("example.com", "10.0.0.1", "localhost.example.com", "[fe80::1]")),
    ],
)
def test_an_address_is_this_machine_or_another(address: str, here: bool) -> None:
    assert is_loopback(address) is here


def test_a_proxy_of_the_environment_is_asked_for_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(20)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name in ("no_proxy", "no_grpc_proxy", "grpc_proxy", "https_proxy"):
            monkeypatch.delenv(name, raising=False)
        with Client("grpc://another.invalid:9", timeout=20) as client:
            asking = threading.Thread(target=client._transport.server_ready, args=(20,))
            asking.start()
            connection, _ = proxy.accept()
            with connection:
                assert connection.recv(100).startswith(b"CONNECT another.invalid:9 ")
            asking.join()


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_host_that_no_name_server_has_is_a_connect_error(scheme: str) -> None:
    with (
        Client(f"{scheme}://nowhere.invalid:9", timeout=5) as client,
        pytest.raises(ConnectError, match=rf"no server answers at {scheme}://nowhere\.invalid:9"),
    ):
        client.model("digits").infer({})


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_server_that_is_away_is_a_connect_error(scheme: str) -> None:
    (port,) = free_ports(1)
    with (
        Client(f"{scheme}://127.0.0.1:{port}", timeout=5) as client,
        pytest.raises(ConnectError, match=rf"no server answers at {scheme}://127\.0\.0\.1:{port}.*: start it"),
    ):
        client.model("digits").infer({})


def test_everything_exported_is_listed_and_every_error_is_a_triton_error() -> None:
    public = {name for name in vars(slipway_client) if not name.startswith("_")}
    assert public == set(slipway_client.__all__)
    errors = [
        value for value in vars(slipway_client).values() if isinstance(value, type) and issubclass(value, Exception)
    ]
    assert errors
    assert all(issubclass(error, TritonError) for error in errors)


def test_the_client_needs_neither_torch_nor_onnx_runtime_nor_this_projects_server() -> None:
    code = (
        "import sys, slipway_client\n"
        "slipway_client.Client('http://h')\n"
        "print([m for m in ('torch', 'onnxruntime', 'PIL', 'serving', 'model_build', 'grpc') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_a_closed_grpc_client_leaves_nothing_to_be_closed_while_the_interpreter_ends() -> None:
    with Client(f"grpc://127.0.0.1:{free_ports(1)[0]}") as client:
        assert isinstance(client._transport, GrpcTransport)
        inner = weakref.ref(client._transport._client)
        assert inner() is not None
    assert inner() is None
    client.close()
