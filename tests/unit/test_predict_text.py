"""`slipway predict` with models of texts: arguments, files, batches, tables, JSON, and bad input in one line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from onnx import TensorProto, helper
from slipway_client import Client, InvalidInput, ask_texts, read_texts

from tests.graphs import graph
from tests.support import BIN, environment, error_lines, write_model
from tests.text_models import ECHO, TEXT, VECTOR, write_python_model, write_text_models

NO_BATCH = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        values = requests[0].inputs()[0].as_numpy()
        return [pb_utils.InferenceResponse([pb_utils.Tensor("echo", values)])]
"""


# A text "3 4" becomes the vector of this direction with the length 1.
UNIT = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        (texts,) = [request.inputs()[0].as_numpy().ravel() for request in requests]
        vectors = np.array([[float(one) for one in text.split()] for text in texts], np.float32)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("unit", vectors)])]
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is a workspace to `slipway predict --local`."""
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "dvc.yaml").touch()
    (folder / "model_build" / "conf").mkdir(parents=True)
    write_text_models(folder / "model_repository")
    write_python_model(folder / "model_repository", "single", NO_BATCH, f"{TEXT} {ECHO}", batch=0)
    nodes = [helper.make_node("Flatten", ["image"], ["probabilities"])]
    tensors = {"image": (TensorProto.FLOAT, ["n", 1, 28, 28])}
    images = graph(nodes, tensors, {"probabilities": (TensorProto.FLOAT, ["n", 784])})
    write_model(folder / "model_repository", "images", images, 'backend: "onnxruntime"')
    return folder


def predict(
    workspace: Path, *arguments: str | bytes | Path, stdin: bytes = b"", local: bool = True
) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "slipway"), "predict", *(["--local"] if local else []), *arguments]
    result = subprocess.run(
        command, cwd=workspace, env=environment(), input=stdin, capture_output=True, timeout=60, check=False
    )
    return subprocess.CompletedProcess(result.args, result.returncode, result.stdout.decode(), result.stderr.decode())


def test_texts_get_a_table_of_their_answers(workspace: Path) -> None:
    result = predict(workspace, "shout", "ship ahoy", "")
    assert result.returncode == 0, result.stderr
    head, first, second = result.stdout.splitlines()
    assert head.split() == ["text", "echo", "length"]
    assert first.split() == ["ship", "ahoy", "SHIP", "AHOY", "9"]
    assert second.split() == ["0"]


def test_vectors_of_length_one_get_a_table_of_their_nearness_and_json_has_them_whole(workspace: Path) -> None:
    vector = VECTOR.replace("embedding", "unit")
    write_python_model(workspace / "model_repository", "unit", UNIT, f"{TEXT} {vector}", batch=4)
    result = predict(workspace, "unit", "3 4", "4 3", "0 0")
    assert result.returncode == 0, result.stderr
    head, *rows = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert head == "text dimension cosine similarity to the first text"
    assert rows == ["3 4 2 1.0000", "4 3 2 0.9600", "0 0 2 undefined"]
    answers = json.loads(predict(workspace, "unit", "3 4", "0 0", "--json").stdout)
    assert answers == [
        {"text": "3 4", "unit": pytest.approx([0.6, 0.8]), "model": "unit", "version": "1"},
        {"text": "0 0", "unit": [0, 0], "model": "unit", "version": "1"},
    ]


def test_texts_of_a_model_that_answers_each_alone_are_answered_as_of_one_with_batches(workspace: Path) -> None:
    tensors = [one.replace("dims: [", "dims: [-1, ") for one in (TEXT, VECTOR.replace("embedding", "unit"))]
    write_python_model(workspace / "model_repository", "alone", UNIT, " ".join(tensors), batch=0)
    result = predict(workspace, "alone", "3 4", "4 3", "--json")
    assert result.returncode == 0, result.stderr
    assert [row["unit"] for row in json.loads(result.stdout)] == [pytest.approx([0.6, 0.8]), pytest.approx([0.8, 0.6])]


def test_other_vectors_are_shown_as_they_are(workspace: Path) -> None:
    result = predict(workspace, "embed", "ab")
    assert [line.split() for line in result.stdout.splitlines()] == [["text", "embedding"], ["ab", "[195,", "2]"]]


def test_a_file_follows_the_arguments_and_more_texts_than_a_batch_are_all_answered(workspace: Path) -> None:
    # A byte order mark, Windows' line ends, an empty line, and separators that end no line.
    content = "\ufeffone\r\n\r\nzwölf\u2028\x0cthirteen\nlast\n".encode()
    (workspace / "texts.txt").write_bytes(content)
    expected = ["first", "second", "one", "", "zwölf\u2028\x0cthirteen", "last"]
    for file, stdin in (("texts.txt", b""), ("-", content)):
        result = predict(workspace, "shout", "first", "second", "--file", file, "--json", stdin=stdin)
        assert result.returncode == 0, result.stderr
        rows = json.loads(result.stdout)
        assert [row["text"] for row in rows] == expected
        assert [row["echo"] for row in rows] == [text.upper() for text in expected]
        assert [row["length"] for row in rows] == [len(text.upper().encode()) for text in expected]


def test_a_model_without_batches_gets_one_text_a_request(workspace: Path) -> None:
    rows = json.loads(predict(workspace, "single", "a", "b", "--json").stdout)
    assert [(row["text"], row["echo"]) for row in rows] == [("a", "a"), ("b", "b")]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["shout"],
            2,
            "nothing to ask: pass image, .npy or .npz files, or texts (or --file FILE) for a model of texts",
        ),
        (["images"], 2, "nothing to ask"),
        (["images", "--file", "x.txt"], 2, "takes FP32 [n, 1, 28, 28]: pass image, .npy or .npz files"),
        (["shout", "--file", "absent.txt"], 1, "absent.txt: expected UTF-8 text, one a line, got no such file"),
        (["shout", "--file", "."], 1, ".: expected UTF-8 text, one a line, got is a directory"),
        (["shout", "--file", "-"], 1, "standard input: expected UTF-8 text, one a line, got nothing: write a text"),
        (
            ["shout", "--file", "latin1.txt"],
            1,
            "latin1.txt: expected UTF-8 text, one a line, got byte 0xfc in line 2, at its byte 3: save it as UTF-8",
        ),
        (
            ["shout", "ok", b"gr\xfcn"],
            1,
            "text 2 of 2: expected UTF-8 text, got byte 0xfc after 2 bytes ('gr\\udcfcn'): save it as UTF-8",
        ),
        (["stream", "several words"], 1, "model 'stream' is decoupled: it sent 2 responses"),
        (["shout", "!"], 1, "model 'shout': nothing is louder than '!'"),
        (["embed_pooling", "a"], 1, "a: expected the 2 inputs of model 'embed_pooling' (input_ids INT64 [n, n], "),
        (["nope", "a"], 1, "no model 'nope' in"),
    ],
)
def test_bad_input_is_one_line_that_says_what_was_expected(
    workspace: Path, arguments: list[str | bytes], code: int, message: str
) -> None:
    (workspace / "latin1.txt").write_bytes("ok\ngrün\n".encode("latin1"))
    result = predict(workspace, *arguments)
    (line,) = error_lines(result)
    assert line.startswith("error: ")
    assert message in line
    assert result.returncode == code
    assert not result.stdout


def test_nothing_to_ask_is_said_before_any_server_is_asked(workspace: Path) -> None:
    result = predict(workspace, "shout", "--url", "http://127.0.0.1:9", local=False)
    assert result.returncode == 2
    assert "nothing to ask" in error_lines(result)[0]


def test_what_a_model_prints_stays_out_of_the_json(workspace: Path) -> None:
    code = NO_BATCH.replace("        values", "        print('loading')\n        values")
    write_python_model(workspace / "model_repository", "talker", code, f"{TEXT} {ECHO}", batch=0)
    result = predict(workspace, "talker", "a", "--json")
    assert json.loads(result.stdout)[0]["echo"] == "a"
    assert "loading" in result.stderr


def test_every_text_is_checked_before_the_first_is_sent(workspace: Path) -> None:
    with Client(f"local:{workspace / 'model_repository'}") as client:
        answers = ask_texts(client.model("shout"), ["!", *["a"] * 5, "\ud800"])
        with pytest.raises(InvalidInput, match=r"text 7 of 7: expected UTF-8 text, got U\+D800 after 0 bytes"):
            next(answers)
        with pytest.raises(InvalidInput, match=r"expected one text as its only input .* got input_ids INT64"):
            next(ask_texts(client.model("embed_pooling"), ["a"]))


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:  # root may read every file, and CI is root
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(InvalidInput, match=r"secret\.txt: .* got permission denied"):
        read_texts(tmp_path / "secret.txt")
