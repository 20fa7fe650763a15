"""The client checks what is asked before anything is sent, and names every error."""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slipway_client
from PIL import Image
from slipway_client import (
    Client,
    ConnectError,
    DeadlineExceeded,
    InvalidInput,
    ModelSpec,
    TensorSpec,
    TritonError,
    check_inputs,
    read_image,
)
from slipway_client._grpc import GrpcTransport

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
        ({"image": np.zeros((0, 2, 2), np.float32), "text": TEXT}, r"got FP32 \[0, 2, 2\]"),
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


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://localhost", "http://", "http://h:port", "http://h/v2", "local:", "http://[::1"]
)
def test_a_url_of_another_form_is_refused_with_the_forms_there_are(url: str) -> None:
    with pytest.raises(TritonError, match="expected http://host:port, grpc://host:port or local:path"):
        Client(url)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_server_that_is_away_is_a_connect_error(scheme: str) -> None:
    (port,) = free_ports(1)
    with (
        Client(f"{scheme}://127.0.0.1:{port}", timeout=5) as client,
        pytest.raises(ConnectError, match=rf"no server answers at {scheme}://127\.0\.0\.1:{port}.*: start it"),
    ):
        client.model("digits").infer({})


def test_images_become_scaled_arrays_and_are_not_resized(tmp_path: Path) -> None:
    tensor = TensorSpec("image", "FP32", (-1, 1, 2, 3))
    Image.new("RGB", (3, 2), (255, 255, 255)).save(tmp_path / "white.png")
    np.testing.assert_array_equal(read_image(tmp_path / "white.png", tensor), np.ones((1, 1, 2, 3), np.float32))
    np.save(tmp_path / "flat.npy", np.full((2, 3), 7, np.float32))
    assert read_image(tmp_path / "flat.npy", tensor).shape == (1, 1, 2, 3)
    colour = read_image(tmp_path / "white.png", TensorSpec("image", "FP32", (-1, 3, 2, 3)))
    assert colour.shape == (1, 3, 2, 3)
    Image.new("L", (4, 4)).save(tmp_path / "large.png")
    with pytest.raises(InvalidInput, match=r"large\.png: expected 2 x 3 pixels, 1 channel .* got \[1, 4, 4\]"):
        read_image(tmp_path / "large.png", tensor)


def test_images_whose_brightness_would_be_read_wrongly_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 3), 40000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InvalidInput, match=r"deep\.png: expected an image of 8 bits a channel, got one of mode I;16"):
        read_image(tmp_path / "deep.png", TensorSpec("image", "FP32", (-1, 1, 2, 3)))
    with (tmp_path / "archive.npy").open("wb") as file:
        np.savez(file, a=np.zeros(3))
    with pytest.raises(InvalidInput, match="an archive of several"):
        read_image(tmp_path / "archive.npy", TensorSpec("image", "FP32", (-1, 1, 2, 3)))


@pytest.mark.parametrize("name", ["text.png", "text.npy", "absent.png", "absent.npy"])
def test_a_file_that_is_no_image_and_no_array_is_refused(tmp_path: Path, name: str) -> None:
    if name.startswith("text"):
        (tmp_path / name).write_text("not an image")
    with pytest.raises(InvalidInput, match=name):
        read_image(tmp_path / name, TensorSpec("image", "FP32", (-1, 1, 2, 3)))


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
