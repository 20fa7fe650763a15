"""All four reference models, each in its fast configuration, from the build to the answer."""

from __future__ import annotations

import csv
import json
import queue
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import requests
import tritonclient.grpc as triton
from slipway_client import Client, ServerError
from tritonclient.utils import InferenceServerException

from serving import EmbeddedTriton
from tests.support import FAST, slipway

pytestmark = pytest.mark.timeout(1200)  # whichever comes first builds all four

SERVED = {
    "digits": ["digits", "digits_fp32"],
    "alexnet": ["alexnet", "alexnet_fp32"],
    "embedder": [
        "embedder",
        "embedder_fp32",
        "embedder_int8",
        "embedder_pooling",
        "embedder_tokenizer",
        "embedder_transformer_fp32",
        "embedder_transformer_int8",
    ],
    "translator": ["translator", "translator_fp32", "translator_stream"],
}
METRICS = {"digits": "accuracy", "alexnet": "accuracy", "embedder": "recall_at_1", "translator": "bleu"}
TEXTS = ["The ship is launched.", "", "word " * 2000, "🚢🙂", "Корабль спущен на воду."]


def texts(*values: str) -> npt.NDArray[np.object_]:
    return np.array(values, dtype=np.object_).reshape(-1, 1)


def embed(url: str, *values: str, model: str = "embedder") -> npt.NDArray[np.float32]:
    with Client(url) as client:
        answer: npt.NDArray[np.float32] = client.model(model)(text=texts(*values))["embedding"]
    return answer


def held_out(workspace: Path, count: int) -> list[str]:
    lines = (workspace / "build" / "translator" / "corpus" / "test.tsv").read_text().splitlines()
    return [line.split("\t")[1] for line in lines[:count]]


def translate(url: str, *values: str) -> list[str]:
    with Client(url) as client:
        answer = client.model("translator")(text=texts(*values))
    return [value.decode() for value in answer["translation"].ravel()]


def test_every_model_serves_what_belongs_to_it(four_server: EmbeddedTriton) -> None:
    assert sorted(model.name for model in four_server.models) == sorted(
        name for served in SERVED.values() for name in served
    )


def test_every_model_is_asked_in_batches(four_server: EmbeddedTriton) -> None:
    with Client(four_server.options.http_url) as client:
        alone = [model.name for model in four_server.models if not client.model(model.name).spec.max_batch_size]
    assert not alone


@pytest.mark.parametrize("model", FAST)
def test_each_leaves_metrics_predictions_and_an_mlflow_run(four_models: Path, model: str) -> None:
    build = four_models / "build" / model
    metrics = json.loads((build / "metrics.json").read_text())
    assert metrics["metric"] == METRICS[model]
    with (build / "predictions.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == metrics["examples"] + 1
    assert all(len(row) == len(rows[0]) for row in rows)
    with closing(sqlite3.connect(four_models / "build" / "mlflow" / "mlflow.db")) as database:
        query = (
            "select value from latest_metrics m join runs r using (run_uuid) join experiments e using (experiment_id) "
        )
        found = database.execute(query + "where e.name = ? and m.key = ?", (model, f"test_{METRICS[model]}")).fetchall()
        tags = database.execute(
            "select t.key from tags t join runs r using (run_uuid) join experiments e using (experiment_id) "
            "where e.name = ?",
            (model,),
        ).fetchall()
    assert found == [(metrics["value"],)]
    assert ("slipway.git.commit",) in tags
    for served in SERVED[model]:
        manifest = json.loads((four_models / "model_repository" / served / "manifest.json").read_text())
        assert manifest["model"] == model
        assert manifest["gate"]["value"] == metrics["value"]


def test_predictions_of_the_translator_are_scored_by_origin_beside_copying(four_models: Path) -> None:
    metrics = json.loads((four_models / "build" / "translator" / "metrics.json").read_text())
    assert metrics["value"] == metrics["bleu_grammar"]
    assert metrics["bleu_grammar_copying_source"] < 1
    assert metrics["signature_grammar"].startswith("nrefs:1|")


@pytest.mark.parametrize(("model", "atol"), [("embedder_fp32", 1e-4), ("embedder", 0.15)])  # precision.int8.max_abs
def test_texts_of_any_kind_become_unit_vectors_and_a_batch_equals_single_requests(
    four_server: EmbeddedTriton, model: str, atol: float
) -> None:
    together = embed(four_server.options.grpc_url, *TEXTS, model=model)
    assert together.shape == (len(TEXTS), 384)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=0, atol=1e-5)
    singles = np.concatenate([embed(four_server.options.http_url, text, model=model) for text in TEXTS])
    np.testing.assert_allclose(together, singles, rtol=0, atol=atol)


def test_like_texts_are_nearer_than_others(four_server: EmbeddedTriton) -> None:
    vectors = embed(
        four_server.options.http_url, "A cat sleeps on the sofa.", "A kitten naps on a couch.", "Taxes are due in May."
    )
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.3


def test_a_text_beyond_the_limit_is_cut_off_there(four_server: EmbeddedTriton) -> None:
    longer, other_end = embed(four_server.options.http_url, "word " * 300, "word " * 300 + "and quite another end")
    np.testing.assert_allclose(longer, other_end, rtol=0, atol=1e-5)


@pytest.mark.parametrize("ask", [embed, translate])
def test_http_grpc_and_local_give_the_same(
    four_server: EmbeddedTriton, four_models: Path, ask: Callable[..., Any]
) -> None:
    asked = held_out(four_models, 5)
    answers = [
        ask(url, *asked)
        for url in (
            four_server.options.http_url,
            four_server.options.grpc_url,
            f"local:{four_models / 'model_repository'}",
        )
    ]
    for answer in answers[1:]:
        if ask is translate:
            assert answer == answers[0]
        else:
            np.testing.assert_allclose(answer, answers[0], rtol=0, atol=1e-4)


def test_the_command_asks_every_model_with_and_without_a_server(four_server: EmbeddedTriton, four_models: Path) -> None:
    url = four_server.options.http_url
    for where in (("--url", url), ("--local",)):
        for model in ("digits", "alexnet"):
            image = next((four_models / "build" / model / "samples").glob("*.png"))
            result = slipway(four_models, "predict", model, image, "--json", *where)
            assert result.returncode == 0, result.stderr
            assert json.loads(result.stdout)[0]["class"] in "0123456789"
        for model, output in (("embedder", "embedding"), ("translator", "translation")):
            samples = four_models / "build" / model / "samples" / "texts.txt"
            result = slipway(four_models, "predict", model, "--file", samples, "--json", *where)
            assert result.returncode == 0, result.stderr
            rows = json.loads(result.stdout)
            assert [row["text"] for row in rows] == samples.read_text().splitlines()
            assert all(output in row for row in rows)


def test_texts_decoded_together_are_translated_as_each_alone(four_server: EmbeddedTriton, four_models: Path) -> None:
    asked = [*held_out(four_models, 12), "", "[END]"]
    url = four_server.options.grpc_url
    assert translate(url, *asked) == [translate(url, text)[0] for text in asked]


def test_requests_in_flight_together_share_a_decode_loop(four_server: EmbeddedTriton, four_models: Path) -> None:
    before = statistics(four_server, "translator")
    asked = held_out(four_models, 16)
    with grpc_client(four_server) as client:
        waiting = [begin(client, "translator", text) for text in asked * 8]  # a busy machine sends them slowly
        answers = [finish(one).as_numpy("translation")[0, 0].decode() for one in waiting]
    after = statistics(four_server, "translator")
    assert after["inference_count"] - before["inference_count"] == len(waiting)
    assert after["execution_count"] - before["execution_count"] < len(waiting)
    assert answers == translate(four_server.options.grpc_url, *asked) * 8


def test_a_stream_gives_pieces_that_joined_are_the_translation(four_server: EmbeddedTriton, four_models: Path) -> None:
    for text in [*held_out(four_models, 4), ""]:
        pieces = stream(four_server, text)
        assert "".join(piece for piece, _, _ in pieces) == translate(four_server.options.http_url, text)[0]
        assert [reason for _, reason, _ in pieces[:-1]] == [""] * (len(pieces) - 1)
        assert pieces[-1][1] in ("stop", "length")
        assert [count for *_, count in pieces] == sorted(count for *_, count in pieces)


def test_many_streams_at_once_do_not_mix(four_server: EmbeddedTriton, four_models: Path) -> None:
    asked = held_out(four_models, 6)
    found: queue.Queue[tuple[str, str, str]] = queue.Queue()
    with grpc_client(four_server) as client:
        client.start_stream(lambda result, error: found.put(read(result, error)))
        for number, text in enumerate(asked):
            client.async_stream_infer(
                "translator_stream", [tensor(text)], request_id=str(number), enable_empty_final_response=False
            )
        joined, open_ones = [""] * len(asked), len(asked)
        while open_ones:
            request, piece, reason = found.get(timeout=30)
            joined[int(request)] += piece
            open_ones -= bool(reason)
    assert joined == translate(four_server.options.http_url, *asked)


def test_max_tokens_of_a_request_ends_its_translation_there(four_server: EmbeddedTriton, four_models: Path) -> None:
    (text,) = held_out(four_models, 1)
    with grpc_client(four_server) as client:
        answer = client.infer("translator", [tensor(text)], parameters={"max_tokens": 2})
        assert answer.as_numpy("finish_reason")[0, 0] == b"length"
        assert answer.as_numpy("tokens")[0, 0] == 2
        with pytest.raises(InferenceServerException, match="max_tokens is 0: expected a whole number, 1 or more"):
            client.infer("translator", [tensor(text)], parameters={"max_tokens": 0})


def test_the_timeout_of_a_request_ends_its_translation_with_what_there_is(
    four_server: EmbeddedTriton, four_models: Path
) -> None:
    with grpc_client(four_server) as client:
        answer = client.infer("translator", [tensor(held_out(four_models, 1)[0])], timeout=1)  # microseconds
    assert answer.as_numpy("finish_reason")[0, 0] == b"deadline"
    assert answer.as_numpy("tokens")[0, 0] <= 1


def test_a_cancelled_stream_disturbs_nobody(four_server: EmbeddedTriton, four_models: Path) -> None:
    asked = held_out(four_models, 8)
    with grpc_client(four_server) as client:
        client.start_stream(lambda result, error: None)
        for text in asked:
            client.async_stream_infer("translator_stream", [tensor(text)])
        client.stop_stream(cancel_requests=True)
    assert (
        "".join(piece for piece, _, _ in stream(four_server, asked[0]))
        == translate(four_server.options.http_url, asked[0])[0]
    )


@pytest.mark.parametrize("model", ["embedder", "translator"])
def test_text_that_is_not_utf8_is_refused_and_its_neighbours_are_answered(
    four_server: EmbeddedTriton, model: str
) -> None:
    with grpc_client(four_server) as client:
        good, bad = begin(client, model, "Да."), begin(client, model, b"\xff\xfe")
        with pytest.raises(InferenceServerException, match=r"element 0 is not UTF-8 .*: send text in UTF-8"):
            finish(bad)
        assert finish(good).get_response().outputs


def test_a_text_that_is_too_long_to_translate_is_refused(four_server: EmbeddedTriton) -> None:
    with Client(four_server.options.http_url) as client, pytest.raises(ServerError) as caught:
        client.model("translator")(text=texts("слово " * 500))
    assert "the model takes 127: divide it into sentences" in str(caught.value)


def test_a_streaming_model_asked_as_a_unary_one_says_how_to_ask(four_server: EmbeddedTriton, four_models: Path) -> None:
    result = slipway(four_models, "predict", "translator_stream", "Да.", "--url", four_server.options.http_url)
    assert result.returncode == 1
    assert "model 'translator_stream' streams" in result.stderr


def test_server_sent_events_carry_the_same_stream(four_server: EmbeddedTriton, four_models: Path) -> None:
    (text,) = held_out(four_models, 1)
    url = f"{four_server.options.http_url}/v2/models/translator_stream/generate_stream"
    reply = requests.post(url, json={"text": text}, timeout=30)
    events = [json.loads(line.removeprefix(b"data: ")) for line in reply.content.splitlines() if line]
    assert "".join(event["translation"] for event in events) == translate(four_server.options.http_url, text)[0]


def tensor(text: str | bytes) -> Any:
    value = triton.InferInput("text", [1, 1], "BYTES")
    value.set_data_from_numpy(np.array([[text.encode() if isinstance(text, str) else text]], dtype=np.object_))
    return value


Answer = queue.Queue[tuple[Any, Any]]


def begin(client: Any, model: str, text: str | bytes) -> Answer:
    """Send a request; its answer comes into the queue."""
    answer: Answer = queue.Queue()
    client.async_infer(model, [tensor(text)], lambda result, error: answer.put((result, error)))
    return answer


def finish(answer: Answer) -> Any:
    result, error = answer.get(timeout=30)
    if error is not None:
        raise error
    return result


@contextmanager
def grpc_client(server: EmbeddedTriton) -> Iterator[Any]:
    client = triton.InferenceServerClient(server.options.grpc_url.removeprefix("grpc://"))
    try:
        yield client
    finally:
        client.close()


def read(result: Any, error: Any) -> tuple[str, str, str]:
    """Request id, piece of text, finish reason."""
    assert error is None, error
    texts = [result.as_numpy(name)[0, 0].decode() for name in ("translation", "finish_reason")]
    return result.get_response().id, texts[0], texts[1]


def stream(server: EmbeddedTriton, text: str) -> list[tuple[str, str, int]]:
    """Piece, finish reason and number of tokens of each response."""
    found: queue.Queue[tuple[str, str, int]] = queue.Queue()
    pieces: list[tuple[str, str, int]] = []
    with grpc_client(server) as client:
        client.start_stream(
            lambda result, error: found.put((*read(result, error)[1:], int(result.as_numpy("tokens")[0, 0])))
        )
        client.async_stream_infer("translator_stream", [tensor(text)])
        while not pieces or not pieces[-1][1]:
            pieces.append(found.get(timeout=30))
    return pieces


def statistics(server: EmbeddedTriton, model: str) -> dict[str, int]:
    with grpc_client(server) as client:
        (found,) = client.get_inference_statistics(model, as_json=True)["model_stats"]
    return {name: int(found.get(name, 0)) for name in ("inference_count", "execution_count")}
