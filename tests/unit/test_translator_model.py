"""The translator behind Triton's Python backend: one answer or a stream of pieces, and each request for itself."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from slipway_client import Client, ServerError

from model_build.config import TritonConfig
from model_build.models.translator import SERVED
from model_build.recipe import as_text, read_served_code
from model_build.stages.staging import golden
from model_build.triton_config import python_model, to_text
from tests.text_support import Request, ServedCode, refusal, scripted, values

ANSWERS = {
    "корабль": "ship",
    "здравствуй": "ahoy, ship",
    "море": "Größe, 海 und 🚢 да",  # most characters are several tokens
    "где": "ship " * 50,  # beyond the model's limit
}
LIMIT = 40
BROKEN = "ahoy 🚢"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    script: dict[str, Sequence[int] | str] = {**ANSWERS, "обрыв": [], "кит": []}
    target = scripted(folder / "made", script)
    broken = target.encode(BROKEN).ids[:-2]  # an answer that ends inside of a character
    scripted(folder / "scripted", {**script, "обрыв": broken})
    graphs = {f"1/{path.name}": path.read_bytes() for path in (folder / "scripted").iterdir()}
    for name, decoupled in (("translator", False), ("translator_stream", True)):
        served = python_model(
            name,
            TritonConfig(max_batch_size=8),
            files={**graphs, **read_served_code(SERVED, "model.py", "decoding.py")},
            parameters={
                "max_source_tokens": 30,
                "max_target_tokens": LIMIT,
                "encoder": "encoder.onnx",
                "decoder": "decoder.onnx",
            },
            inputs={"text": as_text(["корабль"])},
            outputs={
                "translation": as_text(["ship"]),
                "finish_reason": as_text(["stop"]),
                "tokens": np.ones((1, 1), np.int32),
            },
            decoupled=decoupled,
        )
        request, response = golden(served, 1e-4)
        files = {"golden/request.json": request, "golden/response.json": response, **served.files}
        for file, content in {"config.pbtxt": to_text(served.cpu, name), **files}.items():
            path = folder / "models" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return folder / "models"


@pytest.fixture(scope="module")
def unary(repository: Path) -> Callable[..., list[dict[str, list[object]] | str]]:
    """Answers of the unary model to some requests of one batch; the message of those that are refused."""
    model = ServedCode(repository / "translator")

    def ask(*requests: Request) -> list[dict[str, list[object]] | str]:
        responses = model.execute(*requests)
        assert responses is not None
        return [refusal(one) if one.has_error() else values(one) for one in responses]

    return ask


@pytest.fixture(scope="module")
def stream(repository: Path) -> Callable[..., None]:
    model = ServedCode(repository / "translator_stream")

    def ask(*requests: Request) -> None:
        assert model.execute(*requests) is None
        for request in requests:
            assert request.sender.wait(0), "the stream was left open"

    return ask


Unary = Callable[..., list[dict[str, list[object]] | str]]
Stream = Callable[..., None]


def pieces(request: Request) -> list[tuple[str, str, int]]:
    """Text, finish_reason and tokens of each response of a stream."""
    columns = [values(response) for response in request.sender.responses]
    return [(one["translation"][0], one["finish_reason"][0], one["tokens"][0]) for one in columns]


def test_a_client_gets_the_translations_of_a_batch_through_the_repository(repository: Path) -> None:
    with Client(f"local:{repository}") as client:
        answer = client.model("translator")(text=[["корабль"], [""], ["море"]])
        assert [text.decode() for text in answer["translation"].ravel()] == ["ship", "", ANSWERS["море"]]
        assert answer["finish_reason"].tolist() == [[b"stop"]] * 3
        assert answer["tokens"].dtype == np.int32
        assert answer["tokens"].tolist()[:2] == [[1], [0]]
        with pytest.raises(ServerError, match="element 1 is not UTF-8"):
            client.model("translator")(text=np.array([["море"], [b"\xff"]], np.object_))


def test_requests_of_one_batch_are_answered_each_with_its_own_texts(unary: Unary) -> None:
    first, second = unary(Request(["корабль", "море"]), Request(["здравствуй"]))
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert first["translation"] == ["ship", ANSWERS["море"]]
    assert second["translation"] == ["ahoy, ship"]
    assert second["finish_reason"] == ["stop"]


@pytest.mark.parametrize("text", ["", *ANSWERS, "обрыв"])
def test_the_pieces_of_a_stream_joined_are_the_unary_answer(unary: Unary, stream: Stream, text: str) -> None:
    (answer,) = unary(Request([text]))
    request = Request([text], decoupled=True)
    stream(request)
    got = pieces(request)
    assert isinstance(answer, dict)
    assert "".join(piece for piece, _, _ in got) == answer["translation"][0]
    assert got[-1][1:] == (answer["finish_reason"][0], answer["tokens"][0])
    assert [reason for _, reason, _ in got[:-1]] == [""] * (len(got) - 1)


def test_a_stream_tells_each_piece_as_soon_as_it_is_there_and_cuts_no_character(stream: Stream) -> None:
    request = Request(["море"], decoupled=True)
    stream(request)
    got = pieces(request)
    assert not [piece for piece, _, _ in got if "\N{REPLACEMENT CHARACTER}" in piece]
    assert {"ö", "海", "🚢"} <= {piece.strip() for piece, _, _ in got}
    counts = [count for _, _, count in got]
    assert counts == sorted(counts)
    assert len(got) > 10


def test_an_answer_that_ends_inside_of_a_character_is_sent_all_the_same(stream: Stream) -> None:
    request = Request(["обрыв"], decoupled=True)
    stream(request)
    assert "".join(piece for piece, _, _ in pieces(request)) == "ahoy \N{REPLACEMENT CHARACTER}"


def test_streams_of_one_batch_go_on_when_one_of_them_has_ended(stream: Stream) -> None:
    requests = [Request([text], decoupled=True) for text in ("корабль", "море", "где")]
    stream(*requests)
    assert [pieces(request)[-1][1] for request in requests] == ["stop", "stop", "length"]
    joined = ["".join(piece for piece, _, _ in pieces(request)) for request in requests]
    assert joined[:2] == ["ship", ANSWERS["море"]]
    assert ANSWERS["где"].startswith(joined[2])


NUMBER = r"parameter max_tokens is .*: expected a whole number, 1 or more"
BAD_NUMBERS: list[object] = [0, -1, "5", 2.5, True, []]
REFUSED: dict[str, tuple[list[str | bytes], dict[str, object], str]] = {
    "not UTF-8": ([b"\xc3\x28"], {}, "input 'text', element 0 is not UTF-8 .*: send text in UTF-8"),
    "too long": (["q" * 40], {}, r"the text has 41 tokens, and the model takes 29: divide it into sentences"),
    **{f"max_tokens {bad!r}": (["море"], {"max_tokens": bad}, NUMBER) for bad in BAD_NUMBERS},
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_that_is_refused_says_why_and_leaves_its_neighbours_alone(
    unary: Unary, stream: Stream, case: str
) -> None:
    texts, parameters, message = REFUSED[case]
    before, refused, after = unary(Request(["корабль"]), Request(texts, parameters=parameters), Request(["море"]))
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    assert (before["translation"], after["translation"]) == (["ship"], [ANSWERS["море"]])
    requests = [Request(["корабль"], decoupled=True), Request(texts, decoupled=True, parameters=parameters)]
    stream(*requests)
    assert pieces(requests[0])[-1] == ("", "stop", 1)
    (streamed,) = requests[1].sender.responses
    assert refused == refusal(streamed)
    assert re.fullmatch(f"{message}.*", refusal(streamed))


def test_a_stream_takes_one_text_a_request(stream: Stream) -> None:
    request = Request(["корабль", "море"], decoupled=True)
    stream(request)
    assert refusal(request.sender.responses[0]) == (
        "2 texts in one request: a stream takes one, send a request for each"
    )


def test_max_tokens_ends_one_request_and_is_no_more_than_the_model_gives(unary: Unary) -> None:
    limited, greedy, whole = unary(
        Request(["где"], parameters={"max_tokens": 2, "other": "x"}),
        Request(["где"], parameters={"max_tokens": 10_000}),
        Request(["корабль"], parameters={}),
    )
    assert limited == {"translation": ["ship ship"], "finish_reason": ["length"], "tokens": [2]}
    assert isinstance(greedy, dict)
    assert isinstance(whole, dict)
    assert (greedy["finish_reason"], greedy["tokens"]) == (["length"], [LIMIT])
    assert whole["finish_reason"] == ["stop"]


def test_a_request_that_is_out_of_time_gets_what_there_is_and_its_neighbour_everything(
    unary: Unary, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    hurried, patient = unary(Request(["где"], timeout_us=5_000_000), Request(["где"]))
    assert isinstance(hurried, dict)
    assert isinstance(patient, dict)
    assert hurried["finish_reason"] == ["deadline"]
    assert 0 < len(str(hurried["translation"][0]).split()) <= 5
    assert patient["finish_reason"] == ["length"]
    late = Request(["где"], decoupled=True, timeout_us=5_000_000)
    stream(late)
    assert pieces(late)[-1][1] == "deadline"
    assert "".join(piece for piece, _, _ in pieces(late)) == hurried["translation"][0]


def test_a_client_that_has_gone_is_decoded_for_no_longer_and_its_neighbour_is(
    unary: Unary, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))  # each step is long enough to be asked after
    asked = iter([False, False, True])
    gone, stays = unary(Request(["где"], cancelled=lambda: next(asked)), Request(["корабль"]))
    assert gone == "the request was cancelled"
    assert isinstance(stays, dict)
    assert stays["translation"] == ["ship"]
    asked = iter([False, False, True])
    streamed = Request(["где"], decoupled=True, cancelled=lambda: next(asked))
    stream(streamed)
    assert pieces(streamed)[-1][1:] == ("cancelled", 2)


@pytest.mark.parametrize("parameter", ["max_source_tokens", "max_target_tokens", "intra_op_thread_count"])
def test_a_configuration_without_a_number_is_refused_when_the_model_loads(
    repository: Path, tmp_path: Path, parameter: str
) -> None:
    shutil.copytree(repository / "translator", tmp_path / "translator")
    config = tmp_path / "translator" / "config.pbtxt"
    text = config.read_text()
    config.write_text(re.sub(rf'(key: "{parameter}"\s+value {{\s+string_value: )"\d+"', r'\1"many"', text))
    assert config.read_text() != text
    with Client(f"local:{tmp_path}") as client, pytest.raises(ServerError, match=f"parameter {parameter} is 'many'"):
        client.model("translator")(text=[["море"]])


def test_a_configuration_that_names_no_graph_is_refused_when_the_model_loads(repository: Path, tmp_path: Path) -> None:
    shutil.copytree(repository / "translator", tmp_path / "translator")
    config = tmp_path / "translator" / "config.pbtxt"
    config.write_text(config.read_text().replace('"decoder.onnx"', '""'))
    with Client(f"local:{tmp_path}") as client, pytest.raises(ServerError, match="parameter decoder is missing"):
        client.model("translator")(text=[["море"]])


def test_the_graphs_are_those_that_the_configuration_names(repository: Path, tmp_path: Path) -> None:
    folder = tmp_path / "translator"
    shutil.copytree(repository / "translator", folder)
    for name in ("encoder", "decoder"):
        (folder / "1" / f"{name}.onnx").rename(folder / "1" / f"{name}.cpu.onnx")
    config = folder / "config.pbtxt"
    config.write_text(config.read_text().replace('coder.onnx"', 'coder.cpu.onnx"'))
    with Client(f"local:{tmp_path}") as client:
        assert client.model("translator")(text=[["море"]])["translation"].item().decode() == ANSWERS["море"]
