"""The Python-based `onnxruntime` backend: what it takes over from NVIDIA's, on hand-made graphs."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import psutil
import pytest
import requests
import tritonclient.http as triton
from onnx import TensorProto, helper
from slipway_client import Client, ServerError

from serving import EmbeddedTriton, ServerInterpreter
from tests.backend_cases import REFUSED, SERVED, Served, equal, write_case
from tests.graphs import graph
from tests.integration.conftest import start
from tests.support import write_model

OWN = ("batched", "bare", "text", "several", "ranked", "filter", "sequence")


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


def ranked_model() -> onnx.ModelProto:
    """Each row less the largest of the whole batch: the shapes say nothing of that."""
    nodes = [helper.make_node("ReduceMax", ["x", "zero"], ["most"]), helper.make_node("Sub", ["x", "most"], ["less"])]
    tensors = {"x": (TensorProto.FLOAT, ["n", 1])}
    return graph(nodes, tensors, {"less": (TensorProto.FLOAT, ["n", 1])}, {"zero": np.array([0])})


def filter_model() -> onnx.ModelProto:
    """The rows above zero, which declare that they are the batch."""
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["is"]),
        helper.make_node("Squeeze", ["is", "one"], ["which"]),
        helper.make_node("Compress", ["x", "which"], ["kept"], axis=0),
    ]
    constants = {"zero": np.float32(0), "one": np.array([1])}
    tensors = {"x": (TensorProto.FLOAT, ["n", 1])}
    return graph(nodes, tensors, {"kept": (TensorProto.FLOAT, ["n", 1])}, constants)


def counting_model() -> onnx.ModelProto:
    """`y = x + 10 * START`."""
    nodes = [
        helper.make_node("Cast", ["START"], ["start"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["start", "ten"], ["more"]),
        helper.make_node("Add", ["x", "more"], ["y"]),
    ]
    tensors = {"x": (TensorProto.FLOAT, ["n", 1]), "START": (TensorProto.INT32, ["n", 1])}
    return graph(nodes, tensors, {"y": (TensorProto.FLOAT, ["n", 1])}, {"ten": np.float32(10)})


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
SEQUENCE = """
input { name: "x" data_type: TYPE_FP32 dims: [1] } output { name: "y" data_type: TYPE_FP32 dims: [1] }
sequence_batching { control_input { name: "START" control { kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] } } }
"""
BATCHING = "dynamic_batching { max_queue_delay_microseconds: 200000 }"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, interpreter: ServerInterpreter) -> Iterator[EmbeddedTriton]:
    repository = tmp_path_factory.mktemp("backend") / "models"
    write_model(repository, "batched", gather_model(), config("batched", 8, BATCHING), INDEX)
    write_model(repository, "bare", gather_model(), 'backend: "onnxruntime"', INDEX)
    write_model(repository, "text", text_model(), config("text", 4, BATCHING + TEXT_TENSORS), TEXT)
    several = config("several", 8).replace("count: 1", "count: 3")
    write_model(repository, "several", gather_model(), several, INDEX)
    write_model(repository, "ranked", ranked_model(), config("ranked", 8, BATCHING), SUMMED)
    write_model(repository, "filter", filter_model(), config("filter", 8, BATCHING), SUMMED)
    write_case(repository, "sequence", Served(f"max_batch_size: 8 {SEQUENCE}", counting_model(), {}, {}))
    for name, case in (SERVED | REFUSED).items():
        write_case(repository, name, case)
    log = repository.parent / "triton.log"
    with start(interpreter, repository, log, "--strict-readiness=false") as server:
        with Client(server.options.http_url) as client:
            client.wait_ready(*OWN, *SERVED, timeout=180)
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


def test_requests_to_a_graph_that_mixes_its_batch_are_run_alone_and_the_log_says_why(models: EmbeddedTriton) -> None:
    requests = [{"x": np.array([[value]], np.float32)} for value in (1, 2, 4)]
    answers = together(models, "ranked", requests)
    assert [answer["less"].item() for answer in answers] == [0, 0, 0]
    log = models.log.read_text()
    assert "model 'ranked' mixes the rows of a batch (output 'less': ReduceMax reduces the batch)" in log
    assert "model 'batched'" not in log


def test_a_client_never_gets_rows_of_another_where_the_number_of_rows_lies(models: EmbeddedTriton) -> None:
    values = [[[1], [2]], [[-1], [3]], [[5], [-2]]]
    answers = together(models, "filter", [{"x": np.array(value, np.float32)} for value in values])
    assert answers[0]["kept"].tolist() == [[1], [2]]
    for answer in answers[1:]:  # joined they would be four rows, and the first two of each another's
        assert isinstance(answer, ServerError)
        assert "has the shape [1, 1] for a batch of 2: the graph does not answer row by row" in str(answer)
    assert (
        "model 'filter' may mix the rows of a batch (output 'kept': Compress is an operator for which there is no rule)"
        in models.log.read_text()
    )


def test_a_sequences_control_tensors_reach_the_graph(models: EmbeddedTriton) -> None:
    tensor = triton.InferInput("x", [1, 1], "FP32")
    tensor.set_data_from_numpy(np.array([[1]], np.float32))
    with triton.InferenceServerClient(models.options.http_url.removeprefix("http://")) as client:
        answers = [
            client.infer("sequence", [tensor], sequence_id=7, sequence_start=step == 0, sequence_end=step == 2)
            for step in range(3)
        ]
    assert [answer.as_numpy("y").item() for answer in answers] == [11, 1, 1]


@pytest.mark.parametrize("name", SERVED)
def test_a_model_answers_as_the_table_of_the_backend_says(models: EmbeddedTriton, name: str) -> None:
    for url in (models.options.http_url, models.options.grpc_url):
        with Client(url) as client:
            answer = client.model(name).infer(SERVED[name].feed)
        assert equal(answer, SERVED[name].answer), {key: array.tolist() for key, array in answer.items()}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_is_refused_as_the_table_of_the_backend_says(models: EmbeddedTriton, name: str) -> None:
    (entry,) = [one for one in index_of(models) if one["name"] == name]
    assert entry.get("state") == "UNAVAILABLE"
    assert re.search(REFUSED[name].reason, " ".join(entry["reason"].split())), entry["reason"]


@pytest.mark.parametrize("wanted", [["a", "b"], ["b", "a"], []])
def test_outputs_come_in_the_configurations_order_however_they_are_asked_for(
    models: EmbeddedTriton, wanted: list[str]
) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 5, -2]}
    body: Any = {"inputs": [tensor], "outputs": [{"name": name} for name in wanted]}
    for _ in range(5):
        answer = requests.post(f"{models.options.http_url}/v2/models/configured_order/infer", json=body, timeout=30)
        assert [output["name"] for output in answer.json()["outputs"]] == ["b", "a"]


def index_of(server: EmbeddedTriton) -> list[dict[str, Any]]:
    answer = requests.post(f"{server.options.http_url}/v2/repository/index", timeout=30)
    found: list[dict[str, Any]] = answer.json()
    return found


def test_only_the_requested_outputs_are_sent(models: EmbeddedTriton) -> None:
    with Client(models.options.grpc_url) as client:
        answer = client.model("batched").infer(INDEX, outputs=["twice"])
    assert dict(answer) == {"twice": np.array([[6]], np.float32)}


def test_a_configuration_without_tensors_is_completed_from_the_graph(models: EmbeddedTriton) -> None:
    with Client(models.options.grpc_url) as client:
        spec = client.model("bare").spec
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
