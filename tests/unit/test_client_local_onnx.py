"""`local:` reads config.pbtxt of an ONNX file as the server does: tests/backend_cases.py is the table of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from slipway_client import Client, InvalidInput, ModelNotFound, ServerError, TritonError

from tests.backend_cases import BATCHES, ONES, REFUSED, SERVED, TWICE, X, Y, equal, write_case
from tests.backend_graphs import doubled
from tests.support import write_model


@pytest.mark.parametrize("name", SERVED)
def test_a_model_that_the_server_serves_answers_the_same_here(tmp_path: Path, name: str) -> None:
    case = SERVED[name]
    write_case(tmp_path, name, case)
    with Client(f"local:{tmp_path}") as client:
        answer = client.model(name).infer(case.feed)
    assert equal(answer, case.answer), {name: array.tolist() for name, array in answer.items()}


@pytest.mark.parametrize("name", [name for name, case in REFUSED.items() if case.local])
def test_a_model_that_the_server_refuses_is_refused_here_for_the_same_reason(tmp_path: Path, name: str) -> None:
    case = REFUSED[name]
    write_case(tmp_path, name, case)
    with Client(f"local:{tmp_path}") as client, pytest.raises(TritonError, match=case.reason) as refused:
        client.model(name).infer(ONES)
    assert not isinstance(refused.value, InvalidInput)
    assert "\n" not in str(refused.value)


def with_versions(repository: Path, policy: str) -> str:
    """A model with the versions 1, 2, 10 and a folder 07 that is none; each multiplies by two in its own way."""
    folder = write_model(repository, "made", doubled(), f'backend: "onnxruntime" {BATCHES}{X}{Y}{policy}')
    for version in ("2", "10", "07"):
        (folder / version).mkdir()
        (folder / version / "model.onnx").write_bytes(doubled().SerializeToString())
    return f"local:{repository}"


@pytest.mark.parametrize(
    ("policy", "answers", "served"),
    [
        ("", "10", ["10"]),
        ("version_policy { latest { num_versions: 2 } }", "10", ["2", "10"]),
        ("version_policy { all {} }", "10", ["1", "2", "10"]),
        ("version_policy { specific { versions: [1, 2] } }", "2", ["1", "2"]),
    ],
)
def test_the_version_policy_decides_which_versions_answer(
    tmp_path: Path, policy: str, answers: str, served: list[str]
) -> None:
    with Client(with_versions(tmp_path, policy)) as client:
        assert client.model("made").infer(ONES).model_version == answers
        for version in ("1", "2", "10"):
            if version in served:
                assert equal(client.model("made", version=int(version)).infer(ONES), TWICE)
            else:
                with pytest.raises(ModelNotFound, match=f"has no version {version}: it serves {', '.join(served)}"):
                    client.model("made", version=int(version)).infer(ONES)


def test_bytes_that_are_no_text_are_refused_with_the_inputs_name(tmp_path: Path) -> None:
    write_case(tmp_path, "texts", SERVED["texts"])
    with Client(f"local:{tmp_path}") as client, pytest.raises(ServerError, match="'x': BYTES elements must be UTF-8"):
        client.model("texts")(x=np.array([[b"\xff"]], np.object_))


@pytest.mark.parametrize("file", ["config.pbtxt", "configs/cpu.pbtxt"])
def test_a_configuration_that_names_another_model_than_its_folder_is_refused(tmp_path: Path, file: str) -> None:
    folder = write_model(tmp_path, "made", doubled(), f'name: "made" backend: "onnxruntime" {BATCHES}{X}{Y}')
    with Client(f"local:{tmp_path}") as client:
        assert equal(client.model("made").infer(ONES), TWICE)
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(f'name: "other" backend: "onnxruntime" {BATCHES}{X}{Y}')
        with pytest.raises(TritonError, match=rf"{file} names model 'other', and its folder is made"):
            client.model("made").infer(ONES)
