"""`local:` runs an ensemble's steps in the order of their tensors, and says which steps do not fit together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from slipway_client import Client, DeadlineExceeded, InvalidInput, ServerError, TritonError

from tests.text_models import (
    CODES,
    ECHO,
    TEXT,
    TOKENIZER,
    VECTOR,
    step,
    write_ensemble,
    write_python_model,
    write_text_models,
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local") / "models"
    write_text_models(folder)
    return folder


@pytest.fixture(scope="module")
def client(repository: Path) -> Client:
    return Client(f"local:{repository}")


def test_an_ensemble_runs_its_steps_in_the_order_of_their_tensors(client: Client) -> None:
    texts = ["ab", "a"]
    answer = client.model("embed")(text=[[text] for text in texts])
    np.testing.assert_array_equal(answer["embedding"], [[sum(map(ord, text)), len(text)] for text in texts])
    assert answer["embedding"].dtype == np.float32


def test_an_ensemble_may_be_a_step_of_another(client: Client) -> None:
    np.testing.assert_array_equal(client.model("nested")(text=[["ab"]])["embedding"], [[ord("A") + ord("B"), 2]])


def test_a_batch_beyond_the_models_is_refused_also_inside_an_ensemble(client: Client, repository: Path) -> None:
    with pytest.raises(InvalidInput, match="expected a batch of at most 4, got 5"):
        client.model("shout")(text=[["a"]] * 5)
    through = step("shout", {"text": "text"}, {"echo": "echo"})
    write_ensemble(repository, "wide", f"{TEXT} {ECHO}", through, batch=9)
    with pytest.raises(ServerError, match="in ensemble 'wide', model 'shout': expected a batch of at most 4, got 5"):
        client.model("wide")(text=[["a"]] * 5)


SHOUT_STEP = step("shout", {"text": "text"}, {"echo": "echo"})


def test_a_model_is_routed_as_a_server_on_a_cpu_routes_it(client: Client, repository: Path) -> None:
    routed = write_ensemble(repository, "routed", f"{TEXT} {ECHO}", step("only_on_a_gpu", {"a": "text"}, {"b": "echo"}))
    on_cpu = write_ensemble(repository, "on_cpu", f"{TEXT} {ECHO}", SHOUT_STEP).joinpath("config.pbtxt").read_text()
    (routed / "configs").mkdir()
    (routed / "configs" / "cpu.pbtxt").write_text(on_cpu.replace("on_cpu", "routed"))
    assert client.model("routed")(text=[["a"]])["echo"].item() == b"A"


WRONG_ENSEMBLES = {
    "missing": (
        [step("shout", {"text": "absent"}, {"echo": "echo"})],
        "the step of model 'shout' needs tensor 'absent', which is no input of the ensemble and no output of a step",
    ),
    "cycle": (
        [step("shout", {"text": "b"}, {"echo": "echo"}), step("shout", {"text": "echo"}, {"echo": "b"})],
        "the steps of models 'shout', 'shout' wait for one another",
    ),
    "twice": ([SHOUT_STEP, SHOUT_STEP], "tensor 'echo' is given more than once"),
    "nothing": ([step("shout", {"text": "text"}, {"echo": "other"})], "no step gives its output 'echo'"),
    "unmapped": (
        [step("shout", {"words": "text"}, {"echo": "echo"})],
        r"takes \['text'\] and its step maps \['words'\]",
    ),
    "unknown": ([step("shout", {"text": "text"}, {"voice": "echo"})], "model 'shout' has no output 'voice'"),
    "itself": ([step("itself", {"text": "text"}, {"echo": "echo"})], "contains itself .itself → itself."),
    "absent": ([step("nope", {"text": "text"}, {"echo": "echo"})], "no model 'nope' in "),
}


@pytest.mark.parametrize("name", WRONG_ENSEMBLES)
def test_an_ensemble_whose_steps_do_not_fit_together_is_refused_with_the_tensor(tmp_path: Path, name: str) -> None:
    steps, message = WRONG_ENSEMBLES[name]
    write_text_models(tmp_path)
    write_ensemble(tmp_path, name, f"{TEXT} {ECHO}", *steps)
    with Client(f"local:{tmp_path}", timeout=1) as client:
        with pytest.raises(TritonError, match=message):
            client.model(name)(text=[["a"]])
        with pytest.raises(DeadlineExceeded, match=f"model {name} was not ready"):
            client.wait_ready(name, timeout=0)
        client.wait_ready("shout", "embed", "nested", timeout=0)


def test_a_step_gets_exactly_the_dtype_and_shape_that_it_takes(repository: Path, client: Client) -> None:
    code = TOKENIZER.replace("(ids > 0).astype(np.int64)", "ids.astype(np.int32)")
    mask = 'output { name: "attention_mask" data_type: TYPE_INT64 dims: [-1] }'
    write_python_model(repository, "narrow", code, f"{TEXT} {mask}", decoding=CODES)
    both = {"input_ids": "mask", "attention_mask": "mask"}
    first = step("narrow", {"text": "text"}, {"attention_mask": "mask"})
    steps = [first, step("embed_pooling", both, {"embedding": "embedding"})]
    write_ensemble(repository, "unfit", f"{TEXT} {VECTOR}", *steps)
    message = r"in ensemble 'unfit', model 'embed_pooling': .* expected INT64 \[n, n\], got int32 \[1, 1\]"
    with pytest.raises(ServerError, match=message):
        client.model("unfit")(text=[["a"]])
