"""What `slipway serve` refuses before anything is started, and what counts as a golden answer."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from serving import (
    InterpreterError,
    RepositoryError,
    check_glibc,
    compare_golden,
    find_interpreter,
    verified_models,
)
from serving._golden import ask_golden
from tests.support import answering, write_manifest


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository" / "digits"
    (folder / "1").mkdir(parents=True)
    (folder / "golden").mkdir()
    (folder / "golden" / "request.json").write_text("{}")
    (folder / "golden" / "response.json").write_text("{}")
    (folder / "1" / "model.onnx").write_bytes(b"weights of a model")
    (folder / "config.pbtxt").write_text('name: "digits"\n')
    write_manifest(folder)
    return folder.parent


def test_an_intact_repository_is_listed(repository: Path) -> None:
    assert [model.name for model in verified_models(repository)] == ["digits"]


def test_one_changed_byte_is_refused_with_the_file_and_the_remedy(repository: Path) -> None:
    path = repository / "digits" / "1" / "model.onnx"
    path.write_bytes(b"weights of a mode1")
    with pytest.raises(RepositoryError, match=r"1/model.onnx is not the file that was built .*slipway build digits"):
        verified_models(repository)


def test_the_remedy_names_the_model_whose_build_writes_the_folder(repository: Path) -> None:
    (repository / "digits").rename(repository / "embedder_tokenizer")
    folder = repository / "embedder_tokenizer"
    (folder / "config.pbtxt").write_text("# Written by `slipway build embedder` from ...: change it there.\n")
    (folder / "manifest.json").unlink()
    with pytest.raises(RepositoryError, match="run `slipway build embedder`, or"):
        verified_models(repository)


def test_a_missing_weight_file_is_refused(repository: Path) -> None:
    (repository / "digits" / "1" / "model.onnx").unlink()
    with pytest.raises(RepositoryError, match=r"model 'digits' lacks .*1/model.onnx: run `slipway build digits`"):
        verified_models(repository)


@pytest.mark.parametrize("name", ["2/model.onnx", "configs/h100.pbtxt", "libtriton_onnxruntime.so", "1/model.py"])
def test_a_file_that_triton_would_take_and_no_manifest_lists_is_refused(repository: Path, name: str) -> None:
    path = repository / "digits" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"another model")
    with pytest.raises(RepositoryError, match=rf"{name} is in no manifest and would be served: remove it"):
        verified_models(repository)


def test_a_manifest_that_lists_no_golden_answer_is_refused(repository: Path) -> None:
    for name in ("request.json", "response.json"):
        (repository / "digits" / "golden" / name).unlink()
    write_manifest(repository / "digits")
    with pytest.raises(RepositoryError, match=r"does not list \['golden/request.json', 'golden/response.json'\]"):
        verified_models(repository)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"files": {"config.pbtxt": 3}}'])
def test_a_broken_manifest_is_refused(repository: Path, content: str) -> None:
    (repository / "digits" / "manifest.json").write_text(content)
    with pytest.raises(RepositoryError, match=r"manifest.json is not a manifest of Slipway"):
        verified_models(repository)


def test_a_model_that_was_not_built_an_empty_repository_and_no_repository_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="is no folder"):
        verified_models(tmp_path / "nothing")
    with pytest.raises(RepositoryError, match="is empty"):
        verified_models(tmp_path)
    (tmp_path / "digits").mkdir()
    with pytest.raises(RepositoryError, match="it was not built, or not completely; run `slipway build digits`"):
        verified_models(tmp_path)


@pytest.mark.parametrize("libc", [("glibc", "2.31"), ("glibc", "2.33"), ("musl", "1.2.4"), ("", "")])
def test_a_machine_whose_c_library_is_too_old_is_refused(libc: tuple[str, str]) -> None:
    with pytest.raises(InterpreterError, match=r"Triton needs glibc 2\.34 or newer and this machine has .*: use "):
        check_glibc(libc)


@pytest.mark.parametrize("version", ["2.34", "2.36", "2.100", "3.0"])
def test_newer_c_libraries_are_accepted(version: str) -> None:
    check_glibc(("glibc", version))


def fake_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """A stand-in that answers the launcher's question as a broken environment would."""
    path = tmp_path / "python"
    path.write_text(f"#!{sys.executable}\n{answer}\n")
    path.chmod(0o755)
    (tmp_path / "python3").symlink_to(path)
    monkeypatch.setenv("SLIPWAY_TRITON_PYTHON", str(path))


def facts(**changed: Any) -> str:
    healthy = {"python": "3.11", "library_directory": "/nowhere", "library": "libpython3.11.so.1.0"}
    versions = {"site_packages": "/nowhere", "pytriton": "0.7.0", "numpy": "1.26.4", "onnxruntime": "1.31.1"}
    return f"print({json.dumps(json.dumps({**healthy, **versions, **changed}))})"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (facts(numpy="2.1.0"), r"numpy 2\.1\.0, which silently corrupts .*: install numpy 1\.26\.4"),
        (facts(pytriton=None), "lacks nvidia-pytriton: run `make env`"),
        (facts(onnxruntime=None), "lacks onnxruntime: run `make env`"),
        (facts(), r"/nowhere/libpython3\.11\.so\.1\.0 does not exist.*--enable-shared"),
        ("raise SystemExit('broken')", r"does not run \(broken\): run `make env` again"),
    ],
)
def test_an_environment_that_cannot_run_triton_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, message: str
) -> None:
    fake_interpreter(tmp_path, monkeypatch, answer)
    with pytest.raises(InterpreterError, match=message):
        find_interpreter(tmp_path)


def test_an_interpreter_that_triton_would_not_take_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_interpreter(tmp_path, monkeypatch, facts())
    (tmp_path / "python3").unlink()
    with pytest.raises(InterpreterError, match=r"python3 that comes first on the PATH: name an environment"):
        find_interpreter(tmp_path)


def test_no_environment_says_how_to_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLIPWAY_TRITON_PYTHON", raising=False)
    with pytest.raises(InterpreterError, match=r"\.venv-triton/bin/python does not exist: run `make env`"):
        find_interpreter(tmp_path)


EXPECTED = {
    "parameters": {"atol": 0.01},
    "outputs": [{"name": "p", "datatype": "FP32", "shape": [2], "data": [0.25, 0.75]}],
}


def answer(**changed: Any) -> dict[str, Any]:
    return {"outputs": [{"name": "p", "datatype": "FP32", "shape": [2], "data": [0.25, 0.75], **changed}]}


def test_an_answer_within_the_tolerance_is_golden() -> None:
    result = compare_golden("m", EXPECTED, answer(data=[0.255, 0.745]))
    assert result
    assert result.max_abs_error == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (answer(data=[0.3, 0.7]), "'p' is off by 0.05, allowed 0.01"),
        (answer(data=[float("nan"), 0.75]), "'p' is off by inf"),
        (answer(data=[0.25]), "'p' is off by inf"),
        (answer(shape=[1, 2]), r"shape of 'p': expected \[2\], got \[1, 2\]"),
        (answer(datatype="FP64"), "datatype of 'p': expected FP32, got FP64"),
        (answer(name="q"), r"output 'p' is missing; got \['q'\]"),
        ({}, "output 'p' is missing"),
    ],
)
def test_any_other_answer_is_not_golden_and_says_why(found: dict[str, Any], reason: str) -> None:
    result = compare_golden("m", EXPECTED, found)
    assert not result
    assert re.search(reason, result.reason)


def test_text_must_be_equal() -> None:
    output = {"name": "t", "datatype": "BYTES", "shape": [1], "data": ["cat"]}
    expected = {"parameters": {"atol": 0}, "outputs": [output]}
    assert compare_golden("m", expected, expected)
    assert not compare_golden("m", expected, {"outputs": [{**output, "data": ["hat"]}]})


def streaming(repository: Path) -> None:
    """Make the repository's model a decoupled one: its golden answer is the pieces joined, and the last number."""
    request = {
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["Да."]}],
        "outputs": [{"name": "translation"}, {"name": "tokens"}],
    }
    outputs = [
        {"name": "translation", "datatype": "BYTES", "shape": [1, 1], "data": ["Yes."]},
        {"name": "tokens", "datatype": "INT32", "shape": [1, 1], "data": [2]},
    ]
    response = {"parameters": {"atol": 1e-4, "stream": True}, "outputs": outputs}
    folder = repository / "digits" / "golden"
    (folder / "request.json").write_text(json.dumps(request))
    (folder / "response.json").write_text(json.dumps(response))
    write_manifest(repository / "digits")


def events(*bodies: dict[str, Any]) -> bytes:
    return "".join(f"data: {json.dumps(body)}\n\n" for body in bodies).encode()


def test_the_golden_answer_of_a_stream_is_its_pieces_joined_and_its_last_number(repository: Path) -> None:
    streaming(repository)
    (model,) = verified_models(repository)
    with answering(events({"translation": "Ye", "tokens": 1}, {"translation": "s.", "tokens": 2})) as url:
        assert ask_golden(url, model)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (events({"translation": "Yes", "tokens": 2}), "'translation' is off"),
        (events({"translation": "Yes.", "tokens": 3}), "'tokens' is off by 1"),
        (events({"translation": "Yes."}), "'tokens' is off"),
        (events({"error": "no such text"}), "no such text"),
        (b"", "'translation' is off"),
    ],
)
def test_another_stream_is_not_the_golden_one(repository: Path, body: bytes, reason: str) -> None:
    streaming(repository)
    (model,) = verified_models(repository)
    with answering(body) as url:
        result = ask_golden(url, model)
    assert not result
    assert reason in result.reason
