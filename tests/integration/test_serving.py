"""The embedded Triton on the built model: the same answers over every transport, from the library and the command."""

from __future__ import annotations

import http.server
import json
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from slipway_client import Client, ConnectError, InvalidInput, ModelNotFound, ServerError

from serving import EmbeddedTriton
from tests.support import error_lines, slipway


def held_out(workspace: Path, count: int = 32) -> npt.NDArray[np.float32]:
    with np.load(workspace / "build" / "digits" / "data.npz") as archive:
        images: npt.NDArray[np.float32] = archive["test_inputs"][:count]
    return images


def ask(url: str, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    with Client(url) as client:
        answer: npt.NDArray[np.float32] = client.model("digits")(image=images)["probabilities"]
    return answer


def test_http_grpc_and_local_agree(server: EmbeddedTriton, built_workspace: Path) -> None:
    images = held_out(built_workspace)
    http, grpc = ask(server.options.http_url, images), ask(server.options.grpc_url, images)
    local = ask(f"local:{built_workspace / 'model_repository'}", images)
    assert http.shape == (32, 10)
    np.testing.assert_allclose(http, local, rtol=0, atol=1e-5)
    np.testing.assert_allclose(grpc, local, rtol=0, atol=1e-5)


def test_a_batch_of_32_equals_32_single_requests(server: EmbeddedTriton, built_workspace: Path) -> None:
    images = held_out(built_workspace)
    with Client(server.options.grpc_url) as client:
        model = client.model("digits")
        singles = np.concatenate([model(image=image[np.newaxis])["probabilities"] for image in images])
        batch = model(image=images)["probabilities"]
    np.testing.assert_allclose(batch, singles, rtol=0, atol=1e-5)


def test_requests_in_flight_together_share_a_run_and_each_gets_its_own_answer(
    server: EmbeddedTriton, built_workspace: Path
) -> None:
    images = held_out(built_workspace)
    expected = ask(f"local:{built_workspace / 'model_repository'}", images)
    before, shared = variant_statistics(server), False
    answers: dict[int, npt.NDArray[np.float32]] = {}

    def ask_one(number: int) -> None:
        with Client(server.options.http_url) as client:
            model = client.model("digits")
            for index in range(number, 32, 8):
                answers[index] = model(image=images[index : index + 1])["probabilities"][0]

    for rounds in range(1, 21):  # a busy machine may send one request after the other
        answers.clear()
        in_threads(ask_one, 8)
        np.testing.assert_allclose(np.stack([answers[i] for i in range(32)]), expected, rtol=0, atol=1e-5)
        after = variant_statistics(server)
        assert after["inference_count"] - before["inference_count"] == 32 * rounds
        shared = after["execution_count"] - before["execution_count"] < 32 * rounds
        if shared:
            break
    assert shared


def variant_statistics(server: EmbeddedTriton) -> dict[str, int]:
    """Of the variant that `digits` is routed to: it is there that requests are batched."""
    manifest = json.loads((server.options.repository / "digits" / "manifest.json").read_text())
    variant = f"digits_{manifest['variants']['chosen']['cpu']}"
    with urllib.request.urlopen(f"{server.options.http_url}/v2/models/{variant}/stats") as reply:
        statistics: dict[str, int] = json.load(reply)["model_stats"][0]
    return statistics


def in_threads(function: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=function, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_what_the_server_refuses_is_an_error_of_its_own_class(server: EmbeddedTriton, scheme: str) -> None:
    url = server.options.http_url if scheme == "http" else server.options.grpc_url
    with Client(url) as client:
        client.wait_ready("digits", timeout=5)
        with pytest.raises(ModelNotFound, match="'nope' is not found"):
            client.model("nope")(image=0)
        with pytest.raises(ModelNotFound, match="version 7"):
            client.model("digits", version=7)(image=0)
        with pytest.raises(InvalidInput, match=r"expected FP32 \[n, 1, 28, 28\], got FP32 \[1, 1, 32, 32\]"):
            client.model("digits")(image=np.zeros((1, 1, 32, 32), np.float32))


def test_http_to_the_grpc_port_says_so(server: EmbeddedTriton) -> None:
    with (
        Client(f"http://127.0.0.1:{server.options.grpc_port}") as client,
        pytest.raises(ConnectError, match=r"does not speak HTTP .* is it the gRPC port"),
    ):
        client.model("digits")(image=0)


@pytest.mark.parametrize("body", [b"<html></html>", b"[]", b"{}"])
def test_a_web_server_that_is_no_triton_is_a_server_error(body: bytes) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        with (
            Client(f"http://127.0.0.1:{web.server_port}") as client,
            pytest.raises(ServerError, match="answers, and not as a Triton does"),
        ):
            client.model("digits")(image=0)
        web.shutdown()


def test_metrics_count_the_inferences(server: EmbeddedTriton, built_workspace: Path) -> None:
    def count() -> float:
        with urllib.request.urlopen(server.options.metrics_url) as reply:
            lines = reply.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith('nv_inference_count{model="digits"'))

    before = count()
    ask(server.options.http_url, held_out(built_workspace, 5))
    assert count() - before == 5


def samples(workspace: Path) -> list[Path]:
    return sorted((workspace / "build" / "digits" / "samples").glob("*.png"))


@pytest.mark.parametrize("how", ["http", "grpc", "local"])
def test_predict_prints_the_class_of_several_files(server: EmbeddedTriton, built_workspace: Path, how: str) -> None:
    urls = {"http": server.options.http_url, "grpc": server.options.grpc_url}
    where = ["--local"] if how == "local" else ["--url", urls[how]]
    result = slipway(built_workspace, "predict", "digits", *samples(built_workspace), *where, "--json")
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)
    assert len(rows) == 10
    assert sum(row["class"] == Path(row["file"]).stem for row in rows) >= 9
    assert all(0 < row["probability"] <= 1 for row in rows)
    assert {(row["model"], row["version"]) for row in rows} == {("digits", "1")}


def test_predict_takes_arrays_and_prints_a_table(server: EmbeddedTriton, built_workspace: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "seven.npy", held_out(built_workspace, 1)[0])
    result = slipway(built_workspace, "predict", "digits", tmp_path / "seven.npy", "--url", server.options.http_url)
    assert result.returncode == 0, result.stderr
    head, row = result.stdout.splitlines()
    assert head.split() == ["file", "class", "probability"]
    assert row.startswith(str(tmp_path / "seven.npy"))


def test_predict_refuses_bad_input_with_expected_and_got(
    server: EmbeddedTriton, built_workspace: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "large.npy", np.zeros((1, 32, 32), np.float32))
    np.save(tmp_path / "double.npy", np.zeros((1, 28, 28)))
    sample = samples(built_workspace)[0]
    url = ["--url", server.options.http_url]
    cases: list[tuple[list[str | Path], str]] = [
        (["digits", tmp_path / "large.npy", *url], "(FP32 [1, 28, 28]) in a .npy file, got shape [1, 32, 32]"),
        (["digits", tmp_path / "double.npy", *url], "expected an array of float32, got float64: save it with"),
        (["nope", sample, *url], "unknown model: 'nope'"),
        (["nope", sample, "--local"], "no model 'nope'"),
        (["digits", tmp_path / "absent.png", *url], "no such file"),
        (["digits", sample, "--url", "grpc://127.0.0.1:9"], "no server answers at grpc://127.0.0.1:9: start it"),
    ]
    for arguments, message in cases:
        result = slipway(built_workspace, "predict", *arguments)
        assert result.returncode == 1
        (line,) = error_lines(result)
        assert line.startswith("error: ")
        assert message in line
