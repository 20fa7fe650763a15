"""The Python-based `onnxruntime` backend: what it takes over from NVIDIA's, on hand-made graphs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper
from slipway_client import Client, ServerError

from serving import EmbeddedTriton, ServerInterpreter, StartError
from tests.integration.conftest import start
from tests.support import write_model

Serve = Callable[..., EmbeddedTriton]


def graph(
    nodes: Sequence[onnx.NodeProto], inputs: dict[str, Any], outputs: dict[str, Any], constants: dict[str, Any]
) -> onnx.ModelProto:
    def values(tensors: dict[str, Any]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, shape) in tensors.items()]

    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    made = helper.make_graph(list(nodes), "g", values(inputs), values(outputs), initializers)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def gather_model() -> onnx.ModelProto:
    """`picked = table[index]`, `twice = 2 * picked`: an index above 9 is an error that only the run finds."""
    return graph(
        [
            helper.make_node("Gather", ["table", "index"], ["picked"]),
            helper.make_node("Add", ["picked"] * 2, ["twice"]),
        ],
        {"index": (TensorProto.INT64, ["n", 1])},
        {"picked": (TensorProto.FLOAT, ["n", 1]), "twice": (TensorProto.FLOAT, ["n", 1])},
        {"table": np.arange(10, dtype=np.float32)},
    )


def text_model() -> onnx.ModelProto:
    """`echo` repeats a text, `same` says whether two texts are equal."""
    return graph(
        [helper.make_node("Identity", ["a"], ["echo"]), helper.make_node("StringConcat", ["a", "b"], ["both"])],
        {"a": (TensorProto.STRING, ["n", 1]), "b": (TensorProto.STRING, ["n", 1])},
        {"echo": (TensorProto.STRING, ["n", 1]), "both": (TensorProto.STRING, ["n", 1])},
        {},
    )


def sum_model() -> onnx.ModelProto:
    """`total [1, 1]` over the whole batch: an output without a batch dimension."""
    return graph(
        [helper.make_node("ReduceSum", ["x"], ["total"], keepdims=1)],
        {"x": (TensorProto.FLOAT, ["n", 1])},
        {"total": (TensorProto.FLOAT, ["m", 1])},
        {},
    )


def config(name: str, batch: int = 0, rest: str = "") -> str:
    head = f'name: "{name}" backend: "onnxruntime" max_batch_size: {batch}'
    return f"{head} instance_group {{ kind: KIND_CPU count: 1 }} {rest}"


INDEX = {"index": np.array([[3]], np.int64)}
SUMMED = {"x": np.array([[3]], np.float32)}
TEXT_TENSORS = """
input { name: "a" data_type: TYPE_STRING dims: [1] } input { name: "b" data_type: TYPE_STRING dims: [1] }
output { name: "echo" data_type: TYPE_STRING dims: [1] } output { name: "both" data_type: TYPE_STRING dims: [1] }
"""
TEXT = {"a": np.array([["x"]], np.object_), "b": np.array([["y"]], np.object_)}
BATCHING = "dynamic_batching { max_queue_delay_microseconds: 200000 }"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, interpreter: ServerInterpreter) -> Iterator[EmbeddedTriton]:
    repository = tmp_path_factory.mktemp("backend") / "models"
    write_model(repository, "batched", gather_model(), config("batched", 8, BATCHING), INDEX)
    write_model(repository, "completed", gather_model(), 'backend: "onnxruntime"', INDEX)
    write_model(repository, "text", text_model(), config("text", 4, BATCHING + TEXT_TENSORS), TEXT)
    several = config("several", 8).replace("count: 1", "count: 3")
    write_model(repository, "several", gather_model(), several, INDEX)
    write_model(repository, "summed", sum_model(), config("summed", 8, BATCHING), SUMMED)
    with start(interpreter, repository, repository.parent / "triton.log") as server:
        server.wait_ready()
        yield server


def together(server: EmbeddedTriton, model: str, requests: Sequence[dict[str, npt.NDArray[Any]]]) -> list[Any]:
    """Send the requests at once; return each one's answer or error."""
    answers: list[Any] = [None] * len(requests)

    def ask(number: int) -> None:
        with Client(server.options.http_url) as client:
            try:
                answers[number] = client.model(model).infer(requests[number])
            except ServerError as error:
                answers[number] = error

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_one_bad_request_of_a_batch_fails_alone_with_onnx_runtimes_reason(models: EmbeddedTriton) -> None:
    indices = [1, 2, 99, 4]
    answers = together(models, "batched", [{"index": np.array([[i]], np.int64)} for i in indices])
    assert isinstance(answers[2], ServerError)
    assert "indices element out of data bounds" in str(answers[2])
    assert [answers[i]["picked"].item() for i in (0, 1, 3)] == [1, 2, 4]


def test_requests_of_different_sizes_in_one_batch_get_their_own_rows(models: EmbeddedTriton) -> None:
    requests = [{"index": np.arange(size, dtype=np.int64)[:, None]} for size in (1, 3, 2)]
    for request, answer in zip(requests, together(models, "batched", requests), strict=True):
        np.testing.assert_array_equal(answer["picked"], request["index"])
        np.testing.assert_array_equal(answer["twice"], 2 * request["index"])


def test_requests_to_a_graph_that_mixes_its_batch_are_run_alone(models: EmbeddedTriton) -> None:
    requests = [{"x": np.array([[value]], np.float32)} for value in (1, 2, 4)]
    answers = together(models, "summed", requests)
    assert [answer["total"].item() for answer in answers] == [1, 2, 4]


def test_only_the_requested_outputs_are_sent(models: EmbeddedTriton) -> None:
    with Client(models.options.grpc_url) as client:
        answer = client.model("batched").infer(INDEX, outputs=["twice"])
    assert dict(answer) == {"twice": np.array([[6]], np.float32)}


def test_a_configuration_without_tensors_is_completed_from_the_graph(models: EmbeddedTriton) -> None:
    with Client(models.options.grpc_url) as client:
        spec = client.model("completed").spec
    assert [str(tensor) for tensor in spec.inputs] == ["INT64 [n, 1]"]
    assert {tensor.name: str(tensor) for tensor in spec.outputs} == {"picked": "FP32 [n, 1]", "twice": "FP32 [n, 1]"}
    assert spec.max_batch_size == 4


def test_text_goes_in_and_comes_out_as_utf8(models: EmbeddedTriton) -> None:
    texts = np.array([["Привет"], [""], ["🚢 line\n2"]], np.object_)
    for url in (models.options.http_url, models.options.grpc_url, f"local:{models.options.repository}"):
        with Client(url) as client:
            answer = client.model("text")(a=texts, b=np.array([["!"]] * 3))
        assert [value.decode() for value in answer["both"].ravel()] == ["Привет!", "!", "🚢 line\n2!"]
        assert [value.decode() for value in answer["echo"].ravel()] == [value for (value,) in texts]


def test_bytes_that_are_no_text_are_refused_and_the_server_goes_on(models: EmbeddedTriton) -> None:
    with Client(models.options.http_url) as client:
        model = client.model("text")
        with pytest.raises(ServerError, match="input 'a': BYTES elements must be UTF-8 text"):
            model(a=np.array([[b"\xff"]], np.object_), b=[["y"]])
        assert model(a=[["x"]], b=[["y"]])["both"].item() == b"xy"


def test_each_instance_is_a_process(models: EmbeddedTriton) -> None:
    stubs = psutil.Process(models.pid).children(recursive=True)
    assert sum("models/several/" in " ".join(stub.cmdline()) for stub in stubs) == 3
    answers = together(models, "several", [INDEX] * 6)
    assert [answer["picked"].item() for answer in answers] == [3] * 6


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        (
            "input { name: 'x' data_type: TYPE_INT64 dims: [1] }",
            r"names input 'x', which the graph does not have: .*index",
        ),
        (
            "input { name: 'index' data_type: TYPE_INT32 dims: [1] }",
            "'index' is TYPE_INT64 in the graph and TYPE_INT32",
        ),
        (
            "parameters { key: 'intra_op_thread_count' value { string_value: 'two' } }",
            "is 'two': expected a whole number",
        ),
        ("optimization { graph { level: 5 } }", r"optimization\.graph\.level is 5: expected one of \[0, 1, -1, 2\]"),
        ("default_model_filename: 'other.onnx'", r"no such file: .*other\.onnx"),
    ],
)
def test_a_configuration_that_does_not_fit_the_graph_is_refused(
    tmp_path: Path, serve: Serve, rest: str, message: str
) -> None:
    write_model(tmp_path / "models", "broken", gather_model(), config("broken", 8, rest), INDEX)
    with serve(tmp_path / "models") as server, pytest.raises(StartError, match=message) as refused:
        server.wait_ready()
    assert "model 'broken' did not load" in str(refused.value)


def test_a_gpu_instance_group_says_what_a_cpu_machine_needs(tmp_path: Path, serve: Serve) -> None:
    text = config("broken", 8).replace("KIND_CPU", "KIND_GPU")
    write_model(tmp_path / "models", "broken", gather_model(), text, INDEX)
    with serve(tmp_path / "models") as server, pytest.raises(StartError, match="model 'broken' did not load"):
        server.wait_ready()


@pytest.mark.parametrize("level", [0, 1, -1, 2])
def test_every_graph_level_of_nvidias_backend_is_taken(tmp_path: Path, serve: Serve, level: int) -> None:
    text = config("levels", 8, f"optimization {{ graph {{ level: {level} }} }}")
    write_model(tmp_path / "models", "levels", gather_model(), text, INDEX)
    with serve(tmp_path / "models") as server:
        server.wait_ready()
