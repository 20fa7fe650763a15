"""`local:` runs Python models and ensembles as a server would, and every model's modules are its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from slipway_client import Client, DeadlineExceeded, InvalidInput, ModelNotFound, ServerError, TritonError

from tests.text_models import ECHO, STREAM, TEXT, write_python_model, write_text_models


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local") / "models"
    write_text_models(folder)
    return folder


@pytest.fixture(scope="module")
def client(repository: Path) -> Client:
    return Client(f"local:{repository}")


def model_code(body: str, head: str = "") -> str:
    """A model.py whose `execute(self, requests)` is `body`."""
    lines = "\n".join(f"        {line}" for line in body.strip().splitlines())
    imports = "import numpy as np\nimport triton_python_backend_utils as pb_utils\n"
    return f"{imports}{head}\nclass TritonPythonModel:\n    def execute(self, requests):\n{lines}\n"


def ask(repository: Path, code: str, tensors: str = f"{TEXT} {ECHO}", **more: Any) -> Any:
    """What a model of this code answers to one text."""
    write_python_model(repository, "made", code, tensors, **more)
    with Client(f"local:{repository}", timeout=5) as client:
        return client.model("made")(text=[["a"]])


def test_a_python_model_answers_a_batch_in_the_servers_dtypes(client: Client) -> None:
    answer = client.model("shout")(text=[["ship"], ["Größe"], [""]])
    assert [value for (value,) in answer["echo"]] == [b"SHIP", "GRÖSSE".encode(), b""]
    assert answer["length"].dtype == np.int32
    assert answer["length"].tolist() == [[4], [7], [0]]
    assert (answer.model_name, answer.model_version) == ("shout", "1")
    assert set(client.model("shout").infer({"text": [["a"]]}, outputs=["length"])) == {"length"}


def test_text_reaches_the_model_as_bytes_and_comes_back_as_bytes(tmp_path: Path) -> None:
    code = model_code("""
values = requests[0].inputs()[0].as_numpy()
assert values.dtype == object and all(type(one) is bytes for one in values.ravel()), values
out = np.array([["str \\u00fc"], [values[1, 0]], [np.bytes_(b"n")]], dtype=object)
return [pb_utils.InferenceResponse([pb_utils.Tensor("echo", out)])]
""")
    write_python_model(tmp_path, "made", code, f"{TEXT} {ECHO}")
    with Client(f"local:{tmp_path}") as client:
        echo = client.model("made")(text=np.array([["a"], [b"\x00\xff\x00"], [np.str_("c")]], dtype=object))["echo"]
    assert echo.tolist() == [["str ü".encode()], [b"\x00\xff\x00"], [b"n"]]
    assert {type(one) for one in echo.ravel()} == {bytes}


def test_modules_of_the_same_name_stay_each_models_own(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = type(sys)("decoding")
    monkeypatch.setitem(sys.modules, "decoding", ours)
    path, before = list(sys.path), set(sys.modules)
    with Client(f"local:{repository}") as client:
        for _ in range(2):  # both models are loaded when each is asked again
            assert client.model("shout")(text=[["ab"]])["echo"].item() == b"AB"
            assert client.model("embed")(text=[["ab"]])["embedding"][0, 1] == 2
    assert sys.modules["decoding"] is ours
    assert sys.path == path
    assert not {"1", "1.model", "triton_python_backend_utils"} & (set(sys.modules) - before)


def test_a_module_imported_while_a_request_runs_is_the_models_own(tmp_path: Path) -> None:
    body = """
from . import late
import decoding
decoding.ASKED.append(1)
text = f"{late.NAME} {decoding.NAME} {__name__} {pb_utils.get_model_dir()} {len(decoding.ASKED)}"
text = np.array([[text]], dtype=object)
return [pb_utils.InferenceResponse([pb_utils.Tensor("echo", text)])]
"""
    for name in ("one", "two"):
        late, decoding = (f"NAME = '{module} of {name}'\nASKED = []" for module in ("late", "decoding"))
        write_python_model(tmp_path, name, model_code(body), f"{TEXT} {ECHO}", late=late, decoding=decoding)
    with Client(f"local:{tmp_path}") as client:
        for name, asked in (("one", 1), ("two", 1), ("one", 2)):
            (echo,) = client.model(name)(text=[["a"]])["echo"].ravel()
            assert echo.decode() == f"late of {name} decoding of {name} 1.model {tmp_path / name / '1'} {asked}"


def test_asking_leaves_the_repository_as_it_was_and_prints_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    code = model_code("import decoding\nprint('hello')\nreturn [pb_utils.InferenceResponse([requests[0].inputs()[0]])]")
    ask(tmp_path, code, TEXT + ECHO.replace("echo", "text"), decoding="")
    assert not list(tmp_path.rglob("__pycache__"))
    assert not sys.dont_write_bytecode
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "hello\n")


def test_a_model_is_initialized_and_finalized_once(tmp_path: Path) -> None:
    code = model_code(
        "return [pb_utils.InferenceResponse([pb_utils.Tensor('echo', np.array([[repr(self.args)]], dtype=object))])]"
    )
    code += f"""
    def initialize(self, args):
        import json
        config = json.loads(args.pop("model_config"))
        self.args = args, config
        assert pb_utils.using_decoupled_model_transaction_policy(config) is False
        assert pb_utils.get_input_config_by_name(config, "absent") is None

    def finalize(self):
        with open({str(tmp_path / "log")!r}, "a") as log:
            log.write("finalized ")
"""
    more = 'parameters { key: "beam" value { string_value: "4" } } dynamic_batching { max_queue_delay_microseconds: 9 }'
    write_python_model(tmp_path, "made", code, f"{TEXT} {ECHO} {more}")
    with Client(f"local:{tmp_path}") as client:
        answers = {client.model("made")(text=[["a"]])["echo"].item() for _ in range(2)}
    args, config = eval(answers.pop())
    assert args == {
        "model_instance_kind": "CPU",
        "model_instance_name": "made_0_0",
        "model_instance_device_id": "0",
        "model_repository": str(tmp_path / "made"),
        "model_version": "1",
        "model_name": "made",
    }
    assert config["max_batch_size"] == 4
    assert config["input"][0]["dims"] == [1]
    assert config["input"][0]["data_type"] == "TYPE_STRING"
    assert config["input"][0]["optional"] is False  # a default, written out
    assert config["parameters"] == {"beam": {"string_value": "4"}}
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 9
    assert config["default_model_filename"] == "model.py"
    assert (tmp_path / "log").read_text() == "finalized "


def test_a_model_may_write_into_its_input_without_changing_the_callers(tmp_path: Path) -> None:
    code = model_code("""
tensor = requests[0].inputs()[0]
tensor.as_numpy()[:] = 7
return [pb_utils.InferenceResponse([pb_utils.Tensor("y", tensor.as_numpy())])]
""")
    tensors = 'input { name: "x" data_type: TYPE_FP32 dims: [1] } output { name: "y" data_type: TYPE_FP32 dims: [1] }'
    write_python_model(tmp_path, "made", code, tensors)
    mine = np.zeros((2, 1), np.float32)
    with Client(f"local:{tmp_path}") as client:
        assert client.model("made")(x=mine)["y"].tolist() == [[7], [7]]
    assert mine.tolist() == [[0], [0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!", "^model 'shout': nothing is louder than '!'$"),
        ("?", r"^model 'shout' failed: ValueError: no questions \(.*/shout/1/model\.py, line 22\)$"),
    ],
)
def test_what_a_model_refuses_or_raises_is_a_server_error_of_one_line(client: Client, text: str, message: str) -> None:
    with pytest.raises(ServerError, match=message):
        client.model("shout")(text=[[text]])
    with pytest.raises(ServerError, match=r"^in ensemble 'nested', model 'shout'"):
        client.model("nested")(text=[[text]])
    assert client.model("shout")(text=[["and goes on"]])["echo"].item() == b"AND GOES ON"


RETURN = "return [pb_utils.InferenceResponse([pb_utils.Tensor({})])]"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import nosuchmodule", "needs the Python module 'nosuchmodule', .* -m pip install nosuchmodule`"),
        ("x = 1", r"did not load: .*model\.py defines no class TritonPythonModel"),
        ("def f(:", r"did not load: SyntaxError: .*model\.py, line 1"),
        ("raise SystemExit('stop')", r"did not load: SystemExit: stop \(.*model\.py, line 1\)"),
        (model_code("import nosuchmodule"), "needs the Python module 'nosuchmodule'"),
        (model_code("return None"), "must return a list of one InferenceResponse for one request, got NoneType"),
        (model_code("return []"), "got a list of 0"),
        (model_code("return ['a']"), "must return InferenceResponse objects, got str"),
        (model_code(RETURN.format("'other', np.zeros((1, 1))")), r"no output \['echo'\]: it gave \['other'\]"),
        (model_code(RETURN.format("'echo', np.array([['a']])")), "dtype is not supported: tensor 'echo' is <U1"),
        (model_code("raise pb_utils.TritonModelException('a\\nb')"), "^model 'made' failed: a b$"),
        (model_code("return [pb_utils.InferenceResponse(error='e')]"), "must be a pb_utils.TritonError, got str"),
        (model_code("requests[0].exec()"), r"other models \(BLS\) needs a server"),
        (model_code("pb_utils.MetricFamily()"), r"triton_python_backend_utils\.MetricFamily is not there without"),
    ],
)
def test_code_that_cannot_answer_is_named_in_one_line(tmp_path: Path, code: str, message: str) -> None:
    with pytest.raises(TritonError, match=message) as raised:
        ask(tmp_path, code)
    assert "\n" not in str(raised.value)
    assert "made" in str(raised.value)


def test_a_streaming_model_that_sends_one_response_answers(client: Client) -> None:
    assert client.model("stream")(text=["one"])["echo"].item() == b"one"


@pytest.mark.parametrize(("text", "count"), [("one two three", 3), ("", 0)])
def test_a_streaming_model_that_sends_several_is_refused(client: Client, text: str, count: int) -> None:
    message = rf"model 'stream' is decoupled: it sent {count} responses, .* ask a server that serves it, over gRPC"
    with pytest.raises(ServerError, match=message):
        client.model("stream")(text=[text])


def test_a_streaming_model_that_never_ends_is_given_up(tmp_path: Path) -> None:
    code = STREAM.replace("sender.send(flags", "request.is_cancelled or sender.send(flags")
    policy = "model_transaction_policy { decoupled: true }"
    write_python_model(tmp_path, "made", code, f"{TEXT} {ECHO} {policy}", batch=0)
    with (
        Client(f"local:{tmp_path}", timeout=0.2) as client,
        pytest.raises(
            DeadlineExceeded, match=r"'made' did not send TRITONSERVER_RESPONSE_COMPLETE_FINAL within 0\.2 s"
        ),
    ):
        client.model("made")(text=["a"])


def test_a_streaming_model_that_returns_its_response_is_told_to_send_it(tmp_path: Path) -> None:
    code = model_code("return [pb_utils.InferenceResponse([requests[0].inputs()[0]])]")
    tensors = TEXT + ECHO.replace("echo", "text") + "model_transaction_policy { decoupled: true }"
    with pytest.raises(ServerError, match="a decoupled model's execute must return None and send its responses"):
        ask(tmp_path, code, tensors)


SEND = "sender = requests[0].get_response_sender()\none = pb_utils.InferenceResponse([requests[0].inputs()[0]])\n"


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ("sender.send(one)\nsender.send(one)", "Non-decoupled model must send one response"),
        ("sender.send(flags=1)", "Non-decoupled model must send one response"),
        ("sender.send()", "Inference Response object must be provided"),
        ("sender.send(one, flags=2)", "Unsupported flag"),
        ("sender.send(one, flags=1)\nsender.send(flags=1)", "Response sender has been closed"),
    ],
)
def test_a_sender_refuses_what_tritons_refuses(tmp_path: Path, sent: str, message: str) -> None:
    with pytest.raises(ServerError, match=message):
        ask(tmp_path, model_code(f"{SEND}{sent}\nreturn [None]"))


def test_a_model_that_is_not_decoupled_may_send_its_one_response(tmp_path: Path) -> None:
    code = model_code(f"{SEND}sender.send(one, flags=1)\nreturn [None]")
    assert ask(tmp_path, code, TEXT + ECHO.replace("echo", "text"))["text"].item() == b"a"


def test_text_that_utf8_cannot_hold_is_refused_before_the_model_is_asked(client: Client) -> None:
    with pytest.raises(InvalidInput, match=r"input 'text' of model 'shout': expected text that UTF-8 can hold"):
        client.model("shout")(text=[["\udcff"]])


def test_a_model_without_its_files_or_its_version_is_not_found(tmp_path: Path) -> None:
    write_text_models(tmp_path)
    (tmp_path / "shout" / "1" / "model.py").unlink()
    (tmp_path / "embed" / "1").rmdir()
    with Client(f"local:{tmp_path}") as client:
        for name, message in (
            ("shout", r"no file .*model\.py"),
            ("embed", "no folder"),
            ("nested", "no folder|no file"),
        ):
            with pytest.raises(ModelNotFound, match=message):
                client.model(name)(text=[["a"]])
        with pytest.raises(ModelNotFound, match="'embed_tokenizer' has no version 7: it serves 1"):
            client.model("embed_tokenizer", version=7)(text=[["a"]])


def test_the_newest_version_is_asked_unless_one_is_named(tmp_path: Path) -> None:
    folder = write_python_model(tmp_path, "made", "", f"{TEXT} {ECHO} version_policy {{ all {{}} }}")
    for version in ("2", "10"):
        (folder / version).mkdir()
        code = model_code(RETURN.format("'echo', np.array([[decoding.NAME]], dtype=object)"), "import decoding")
        (folder / version / "model.py").write_text(code)
        (folder / version / "decoding.py").write_text(f"NAME = 'version {version}'")
    with Client(f"local:{tmp_path}") as client:
        newest, named = client.model("made")(text=[["a"]]), client.model("made", version=2)(text=[["a"]])
    assert (newest["echo"].item(), newest.model_version) == (b"version 10", "10")
    assert (named["echo"].item(), named.model_version) == (b"version 2", "2")


def test_a_backend_that_needs_a_server_is_named(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "config.pbtxt").write_text('name: "made" backend: "tensorrt"')
    with pytest.raises(TritonError, match="has backend 'tensorrt': only onnxruntime, python, ensemble run without"):
        Client(f"local:{tmp_path}").model("made")(text=[["a"]])
