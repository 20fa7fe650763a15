"""What only a real server shows of the client: empty tensors, BF16, names in URLs, a proxy in the environment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from slipway_client import Client, InvalidInput, ModelNotFound, ServerError

from serving import EmbeddedTriton, ServerInterpreter
from tests.integration.conftest import start
from tests.text_models import write_python_model

# Its outputs are its inputs, whose names they have.
MIRROR = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse(request.inputs()) for request in requests]
"""
# It has an output that it does not always give.
SHY = MIRROR.replace("request.inputs()", "request.inputs()[:1]")


def tensor(name: str, datatype: str, dims: str) -> str:
    return " ".join(
        f'{kind} {{ name: "{name}" data_type: TYPE_{datatype} dims: {dims} }}' for kind in ("input", "output")
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, interpreter: ServerInterpreter) -> Iterator[EmbeddedTriton]:
    repository = tmp_path_factory.mktemp("transports") / "models"
    write_python_model(repository, "cache", MIRROR, f"{tensor('past', 'FP32', '[-1, 2]')}")
    write_python_model(repository, "words", MIRROR, tensor("words", "STRING", "[-1]"))
    write_python_model(repository, "rows", MIRROR, tensor("rows", "FP32", "[-1, 2]"), batch=0)
    write_python_model(repository, "brain", MIRROR, tensor("x", "BF16", "[-1]"))
    write_python_model(repository, "v#1+a", MIRROR, tensor("x", "FP32", "[1]"))
    write_python_model(repository, "shy", SHY, f"{tensor('x', 'FP32', '[1]')} {tensor('y', 'FP32', '[1]')}")
    with start(interpreter, repository, repository.parent / "triton.log") as triton:
        with Client(triton.options.grpc_url) as client:
            client.wait_ready("cache", "words", "rows", "brain", "v#1+a", "shy", timeout=120)
        yield triton


@pytest.fixture(params=["http", "grpc"])
def client(server: EmbeddedTriton, request: pytest.FixtureRequest) -> Iterator[Client]:
    url = server.options.http_url if request.param == "http" else server.options.grpc_url
    with Client(url, timeout=10) as one:
        yield one


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        ("cache", {"past": np.zeros((1, 0, 2), np.float32)}),
        ("cache", {"past": np.zeros((3, 0, 2), np.float32)}),
        ("rows", {"rows": np.zeros((0, 2), np.float32)}),
        ("words", {"words": np.zeros((2, 0), np.object_)}),
    ],
)
def test_empty_tensors_go_there_and_back(client: Client, model: str, inputs: dict[str, Any]) -> None:
    ((name, sent),) = inputs.items()
    found = client.model(model).infer(inputs)[name]
    assert (found.shape, found.dtype) == (sent.shape, sent.dtype)


def test_a_batch_of_nothing_is_refused_before_a_server_could_wait_for_it_for_ever(client: Client) -> None:
    for shape in ((0, 1, 2), (0, 0, 2)):
        with pytest.raises(InvalidInput, match="expected a batch of at least one"):
            client.model("cache")(past=np.zeros(shape, np.float32))


def test_bf16_is_rounded_when_it_is_sent_and_comes_back_as_float32(client: Client) -> None:
    found = client.model("brain")(x=np.array([[1.5, 2.003, -np.inf, np.nan]], np.float32))["x"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array([[1.5, 2.0, -np.inf, np.nan]], np.float32))
    assert client.model("brain")(x=[[]])["x"].shape == (1, 0)


def test_a_name_that_http_cannot_carry_says_how_it_can_be_asked(server: EmbeddedTriton) -> None:
    with (
        Client(server.options.http_url) as client,
        pytest.raises(ModelNotFound, match=r"it takes 'v%201' for the name itself: ask for 'v 1' over gRPC"),
    ):
        _ = client.model("v 1").spec


def test_a_name_with_reserved_characters_is_asked_for_over_both(client: Client) -> None:
    assert client.model("v#1+a")(x=np.ones((1, 1), np.float32))["x"].item() == 1


def test_an_output_that_the_server_leaves_out_is_told_by_name(client: Client) -> None:
    one = np.ones((1, 1), np.float32)
    with pytest.raises(ServerError, match=r"model 'shy' left out \['y'\] of its outputs"):
        client.model("shy")(x=one, y=one)
    assert list(client.model("shy").infer({"x": one, "y": one}, outputs=["x"])) == ["x"]


def test_a_proxy_of_the_environment_is_not_asked_for_a_server_on_this_machine(
    server: EmbeddedTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0"):
        for scheme, port in (("http", server.options.http_port), ("grpc", server.options.grpc_port)):
            with Client(f"{scheme}://{host}:{port}", timeout=10) as client:
                assert client.model("rows").spec.name == "rows"
