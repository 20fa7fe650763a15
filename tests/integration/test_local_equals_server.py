"""One repository of Python models and ensembles: the embedded Triton and `local:` give the same answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from slipway_client import Client, ServerError, ask_texts

from serving import EmbeddedTriton, ServerInterpreter
from tests.integration.conftest import start
from tests.support import error_lines, slipway
from tests.text_models import ECHO, TEXT, write_python_model, write_text_models

TEXTS = ["ship", "Größe 🚢", "", "two\nlines", "a", "b", "c"]

# What a model is told and given, as text.
WITNESS = """
import json
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args.pop("model_config"))
        kept = ("name", "backend", "max_batch_size", "input", "output", "parameters", "default_model_filename")
        self.seen = {"config": {key: config[key] for key in kept}, "args": {**args, "model_repository": ""}}
        self.seen["decoupled"] = pb_utils.using_decoupled_model_transaction_policy(config)
        self.seen["module"] = __name__
        self.seen["model_dir"] = pb_utils.get_model_dir() == args["model_repository"] + "/" + args["model_version"]

    def execute(self, requests):
        (request,) = requests
        (tensor,) = request.inputs()
        values = tensor.as_numpy()
        seen = {
            **self.seen,
            "request": [request.request_id(), request.correlation_id(), request.parameters(), request.timeout()],
            "flags": request.flags(),
            "cancelled": request.is_cancelled(),
            "wanted": repr(request.requested_output_names()),
            "tensor": [tensor.name(), list(tensor.shape()), tensor.is_cpu(), str(values.dtype)],
            "types": [type(value).__name__ for value in values.ravel()],
            "sent": [list(pb_utils.Tensor("t", np.zeros((1, 2), np.float32)).shape())],
            "code": int(pb_utils.TritonError("m").code()) == int(pb_utils.TritonError.INTERNAL),
        }
        echo = np.array([[json.dumps(seen)]], dtype=object)
        pb_utils.Logger.log_info("seen")
        pb_utils.Logger.log("seen", pb_utils.Logger.VERBOSE)
        return [pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("echo", echo)])]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, interpreter: ServerInterpreter) -> Iterator[EmbeddedTriton]:
    repository = tmp_path_factory.mktemp("equal") / "models"
    write_text_models(repository)
    parameters = 'parameters { key: "beam" value { string_value: "4" } }'
    write_python_model(repository, "witness", WITNESS, f"{TEXT} {ECHO} {parameters}")
    with start(interpreter, repository, repository.parent / "triton.log") as triton:
        with Client(triton.options.http_url) as client:
            client.wait_ready("shout", "embed", "nested", "stream", "witness", timeout=120)
        yield triton


def urls(server: EmbeddedTriton) -> list[str]:
    return [server.options.http_url, server.options.grpc_url, f"local:{server.options.repository}"]


@pytest.mark.parametrize("model", ["shout", "embed", "nested"])
def test_http_grpc_and_local_give_the_same_answers(server: EmbeddedTriton, model: str) -> None:
    answers, specs = [], []
    for url in urls(server):
        with Client(url) as client:
            specs.append(client.model(model).spec)
            answers.append(list(ask_texts(client.model(model), [text for text in TEXTS if text or model == "shout"])))
    assert specs[0] == specs[1] == specs[2]
    for http, grpc, local in zip(*answers, strict=True):
        assert set(http) == set(grpc) == set(local)
        for name, array in local.items():
            for other in (http[name], grpc[name]):
                assert (other.dtype, other.shape) == (array.dtype, array.shape)
                np.testing.assert_array_equal(other, array)
                assert {type(one) for one in other.flat} == {type(one) for one in array.flat}


def test_a_model_is_told_and_given_the_same(server: EmbeddedTriton) -> None:
    seen = []
    for url in urls(server):
        with Client(url) as client:
            seen.append(json.loads(client.model("witness")(text=[["a"]])["echo"].item()))
    assert seen[0] == seen[1] == seen[2]


def test_what_a_model_refuses_is_one_line_on_every_way(server: EmbeddedTriton) -> None:
    for url in urls(server):
        with Client(url) as client:
            for text, message in (("!", "nothing is louder than '!'"), ("?", "ValueError: no questions")):
                for model in ("shout", "nested"):
                    with pytest.raises(ServerError, match=message) as raised:
                        client.model(model)(text=[[text]])
                    assert "\n" not in str(raised.value)
            assert client.model("shout")(text=[["and goes on"]])["echo"].item() == b"AND GOES ON"


def test_a_streaming_model_says_how_to_ask_it(server: EmbeddedTriton, tmp_path: Path) -> None:
    for url in urls(server)[:2]:
        with Client(url) as client, pytest.raises(ServerError, match=r"model 'stream' streams: .* over gRPC streaming"):
            client.model("stream")(text=["two words"])
        result = slipway(tmp_path, "predict", "stream", "two words", "--url", url)
        (line,) = error_lines(result)
        assert line.startswith(f"error: {url}: model 'stream' streams: ")
        assert result.returncode == 1


def test_predict_asks_a_server_for_texts(server: EmbeddedTriton, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS[1:]), encoding="utf-8")
    for url in urls(server)[:2]:
        result = slipway(tmp_path, "predict", "shout", TEXTS[0], "--file", "texts.txt", "--url", url, "--json")
        assert result.returncode == 0, result.stderr
        texts = "\n".join(TEXTS).split("\n")
        assert [row["echo"] for row in json.loads(result.stdout)] == [text.upper() for text in texts]
