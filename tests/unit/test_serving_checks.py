"""What `slipway serve` refuses before anything is started, and what counts as a golden answer."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from serving import (
    InterpreterError,
    RepositoryError,
    ServedModel,
    StartError,
    check_glibc,
    compare_golden,
    find_interpreter,
    verified_models,
)
from serving._diagnosis import check_names, last_error, remedy, why_not_loaded
from serving._golden import ask_golden
from serving._repository import made_elsewhere, unbuilt_models
from serving._runtime import temporary_folder
from tests.support import ROOT, answering, write_manifest


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository" / "digits"
    (folder / "1").mkdir(parents=True)
    (folder / "golden").mkdir()
    (folder / "golden" / "request.json").write_text("{}")
    (folder / "golden" / "response.json").write_text("{}")
    (folder / "1" / "model.onnx").write_bytes(b"weights of a model")
    (folder / "config.pbtxt").write_text("# Written by `slipway build digits` from ...: change it there.\n")
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
    from_git(tmp_path / "digits")
    with pytest.raises(RepositoryError, match=r"no model of .* is built here: run `slipway build digits`, or `dvc"):
        verified_models(tmp_path)


def from_git(folder: Path) -> None:
    """What a clone has of a model that nobody has built in it."""
    (folder / "configs").mkdir(parents=True)
    (folder / "1").mkdir()
    for name in ("config.pbtxt", "configs/cpu.pbtxt"):
        (folder / name).write_text(f"# Written by `slipway build {folder.name}` from ...: change it there.\n")
    (folder / "labels.txt").write_text("zero\n")
    (folder / "1" / ".gitignore").write_text("/model.onnx\n")
    (folder / "1" / "model.py").write_text("pass\n")


def test_what_is_no_model_is_passed_over(repository: Path) -> None:
    for name in (".ipynb_checkpoints", ".git", "__pycache__", "digits/.ipynb_checkpoints"):
        (repository / name).mkdir()
        (repository / name / "config.pbtxt").write_text("")
    (repository / "never_built" / "1").mkdir(parents=True)  # as a partial `dvc pull` leaves it
    (repository / "only_hidden").mkdir()
    (repository / "only_hidden" / ".gitignore").write_text("/golden\n")
    (repository / "README.md").write_text("What this is.\n")
    (repository / "gone").symlink_to("nowhere")
    from_git(repository / "alexnet")
    assert [model.name for model in verified_models(repository)] == ["digits"]
    assert unbuilt_models(repository) == ["alexnet"]


@pytest.mark.parametrize("left", ["golden/request.json", "1/model.onnx", "1/notes.txt"])
def test_a_model_of_which_anything_but_gits_part_is_there_is_damaged_and_not_passed_over(
    repository: Path, left: str
) -> None:
    from_git(repository / "alexnet")
    path = repository / "alexnet" / left
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    with pytest.raises(RepositoryError, match=r"'alexnet' has no .*manifest\.json: .*run `slipway build alexnet`"):
        verified_models(repository)


def test_a_model_made_elsewhere_is_told_what_it_lacks_and_not_to_be_built(repository: Path) -> None:
    (repository / "yolo" / "1").mkdir(parents=True)
    (repository / "yolo" / "1" / "model.onnx").write_bytes(b"weights")
    (repository / "yolo" / "config.pbtxt").write_text('backend: "onnxruntime"\n')
    with pytest.raises(RepositoryError) as refused:
        verified_models(repository)
    assert "model 'yolo'" in str(refused.value)
    assert "it lacks golden/request.json, golden/response.json, manifest.json, by which" in str(refused.value)
    assert "slipway build yolo" not in str(refused.value)


def test_a_damaged_model_made_elsewhere_is_not_to_be_built(repository: Path) -> None:
    folder = repository / "digits"
    (folder / "config.pbtxt").write_text('backend: "onnxruntime"\n')
    write_manifest(folder)
    assert made_elsewhere(folder)
    assert "correct " in remedy(ServedModel("digits", folder), Path("log"), answered=True)
    (folder / "1" / "model.onnx").unlink()
    with pytest.raises(RepositoryError, match=r"lacks .*1/model\.onnx: bring back what was there, or write its man"):
        verified_models(repository)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "model": "digits"}))
    with pytest.raises(RepositoryError, match=r"lacks .*1/model\.onnx: run `slipway build digits`"):
        verified_models(repository)


def test_a_model_made_elsewhere_is_taken_after_the_lines_of_the_reference(repository: Path) -> None:
    folder = repository / "yolo"
    for name in ("config.pbtxt", "1/model.onnx", "golden/request.json", "golden/response.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    page = (ROOT / "docs" / "reference.md").read_text().partition("### A repository made elsewhere\n")[2]
    script = page.partition("```python\n")[2].partition("```")[0]
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True)
    assert [model.name for model in verified_models(repository)] == ["digits", "yolo"]


@pytest.mark.parametrize(
    "name",
    ["my model", "modèle", "日本", "a\tb", "a\nb", *(f"a{one}b" for one in "$`\"'\\|&;<>(){}*?[]"), "\udcff"],
)
def test_a_name_that_triton_cannot_serve_is_refused_before_a_start(name: str) -> None:
    with pytest.raises(RepositoryError, match="rename its folder") as refused:
        check_names([ServedModel("digits", Path()), ServedModel(name, Path())])
    assert f"model '{name}' has " in str(refused.value)


def test_names_that_a_url_reserves_are_none_of_those() -> None:
    check_names([ServedModel(name, Path()) for name in ("m#1", "per%41", "a@b:c=d,e+f~g!", "-x", "a.b_c-d")])


def index(**states: str) -> list[dict[str, str]]:
    found = ({"name": name, "reason": reason} for name, reason in states.items())
    return [{**one, "state": "UNAVAILABLE" if one["reason"] else "READY"} for one in found]


def ensemble(repository: Path, *steps: str) -> list[ServedModel]:
    """`flowers` as an ensemble on a CPU, beside whatever is there."""
    text = "".join(f'step [ {{ model_name: "{step}" model_version: -1 }} ]\n' for step in steps)
    (repository / "flowers" / "configs").mkdir(parents=True)
    (repository / "flowers" / "config.pbtxt").write_text('step { model_name: "flowers_of_a_gpu" }')
    (repository / "flowers" / "configs" / "cpu.pbtxt").write_text(f'# model_name: "no_step"\n{text}')
    return [ServedModel("flowers", repository / "flowers"), ServedModel("digits", repository / "digits")]


def test_a_step_that_is_not_in_the_repository_is_named(repository: Path) -> None:
    models = ensemble(repository, "flowers_fp32")
    reason = why_not_loaded(index(digits=""), models, "cpu", Path("/links"))
    assert reason == (
        f"model 'flowers' did not load: it needs flowers_fp32, which is not in {repository}: put its folder there too"
    )


def test_a_step_that_is_not_built_is_named_with_the_build(repository: Path) -> None:
    models = ensemble(repository, "flowers_fp32")
    from_git(repository / "flowers_fp32")
    reason = why_not_loaded(index(digits=""), models, "cpu", Path("/links"))
    assert str(reason).endswith("it needs flowers_fp32, which is not built here: run `slipway build flowers_fp32`")


def test_the_reason_of_a_step_comes_before_what_depends_on_it_and_names_the_users_folder(repository: Path) -> None:
    models = ensemble(repository, "digits")
    states = index(flowers="depends on 'digits'", digits="no such\nfile: /links/digits/1/model.onnx")
    reason = why_not_loaded(states, models, "cpu", Path("/links"))
    assert reason == f"model 'digits' did not load: no such file: {repository}/digits/1/model.onnx"
    assert why_not_loaded(index(flowers="", digits=""), models, "cpu", Path("/links")) is None


def test_a_model_that_triton_does_not_list_has_the_reason_of_its_log(repository: Path) -> None:
    line = "E1126 1 model.cc:1] \"Poll failed for model directory 'digits': unexpected name 'other'\""
    log = f"{line}\nE1126 1 model.cc:1] \"of 'digits_fp32'\"\nI1126 1 a.cc:1] \"'digits'\"\n"
    models = [ServedModel("digits", repository / "digits")]
    reason = why_not_loaded([], models, "cpu", Path("/links"), log)
    assert str(reason).endswith("Poll failed for model directory 'digits': unexpected name 'other'\"")
    assert str(why_not_loaded([], models, "cpu", Path("/links"))).endswith("Triton gives no reason")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (['W1126 1 metrics.cc:1] "DCGM unable to start"'], "it wrote no reason"),
        (['E1126 1 server.cc:241] "CudaDriverHelper has not been initialized."'], "it wrote no reason"),
        (["E1126 1 a.cc:1] first", "E1126 1 b.cc:1] second", 'I1126 1 "no error"'], "E1126 1 b.cc:1] second"),
        (["terminate called after throwing", "  what():  stol", 'W1 "CUDA"'], "what():  stol"),
        (["Signal (11) received.", ' 0# 0x1 in "tritonserver"'], "Signal (11) received."),
        ([], "it wrote no reason"),
    ],
)
def test_the_last_error_of_a_log_is_one_that_says_something(lines: list[str], expected: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("\n".join(lines))
    assert last_error(tmp_path / "log") == expected


@pytest.mark.parametrize("name", ["with space", "modèles", "a:b", "a'b$c"])
def test_a_temporary_folder_that_triton_cannot_take_is_not_used(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
    assert temporary_folder() == Path("/tmp")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert temporary_folder() == tmp_path
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(StartError, match=r"set TMPDIR to a folder that can be written to"):
        temporary_folder()


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
    (tmp_path / "Makefile").touch()
    with pytest.raises(InterpreterError, match=r"\.venv-triton/bin/python does not exist: run `make env`"):
        find_interpreter(tmp_path)


def test_a_workspace_without_a_makefile_is_told_a_command_that_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLIPWAY_TRITON_PYTHON", raising=False)
    with pytest.raises(InterpreterError, match=r"\.venv-triton/bin/python does not exist: run `export ") as refused:
        find_interpreter(tmp_path)
    command = str(refused.value).split("`")[1]
    printed = subprocess.check_output(["bash", "-c", f'{command}; printf %s "$SLIPWAY_TRITON_PYTHON"'], text=True)
    monkeypatch.setenv("SLIPWAY_TRITON_PYTHON", printed)
    assert find_interpreter(tmp_path).python == "3.11"


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
