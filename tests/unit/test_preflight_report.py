"""The whole report: what makes it false, how it is printed, and that its requirements are what is pinned here."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from model_build.target import TARGET
from serving import ServerOptions
from serving._interpreter import ENVIRONMENT_VARIABLE
from serving.preflight import IMAGE, Check, Machine, Report, Status, examine
from serving.preflight._software import software_checks
from tests.support import ROOT, free_ports

PAGE = (ROOT / "docs" / "doctor.md").read_text()


def examined(workspace: Path, gpu: bool | None = None, path: str = "") -> Report:
    http, grpc, metrics = free_ports()
    options = ServerOptions(workspace / "model_repository", http_port=http, grpc_port=grpc, metrics_port=metrics)
    return examine(workspace, options, gpu, Machine(path=path))


def test_the_image_is_the_one_that_is_pinned_and_exported_for() -> None:
    pinned = re.search(
        r"^FROM nvcr.io/nvidia/tritonserver:([\d.]+)-py3@", (ROOT / "serving/gpu.Dockerfile").read_text(), re.M
    )
    assert pinned
    assert IMAGE.triton_release == pinned[1] == TARGET.triton_release
    assert IMAGE.onnxruntime.startswith(f"{TARGET.onnxruntime}.")


def test_only_a_problem_makes_a_report_false() -> None:
    ok, note, problem = (Check(status, status, "") for status in Status)
    assert Report((ok, note))
    assert not Report((ok, problem, note))
    assert Report((ok, problem, note)).problems == [problem]


def test_advice_is_told_problems_first() -> None:
    note, problem = Check("a", Status.NOTE, "", advice="know"), Check("b", Status.PROBLEM, "", advice="do")
    assert Report((Check("c", Status.OK, ""), note, problem)).notes() == ["b: do", "a: know"]


def test_table_and_json_hold_the_same_findings() -> None:
    report = Report((Check("disk", Status.PROBLEM, "1 GiB", "2 GiB", "free some", {"free": 2**30}),))
    assert report.rows() == [("check", "status", "found", "needed"), ("disk", "problem", "1 GiB", "2 GiB")]
    found = json.loads(json.dumps(report.as_json()))
    assert found["fits"] is False
    assert found["checks"] == [
        {
            "name": "disk",
            "status": "problem",
            "found": "1 GiB",
            "needed": "2 GiB",
            "advice": "free some",
            "facts": {"free": 2**30},
        }
    ]
    assert found["image"]["architectures"]["Turing"] == ["7.5"]


def test_this_machine_is_told_whole_and_as_json() -> None:
    report = examined(ROOT)
    names = [check.name for check in report.checks]
    assert len(set(names)) == len(names)
    assert {"C library", "server environment", "instruction sets", "disk", "shared memory", "http port", "GPU"} <= set(
        names
    )
    json.dumps(report.as_json())
    assert all("\n" not in cell for row in report.rows() for cell in row)


def test_a_gpu_that_is_asked_for_is_all_that_changes(tmp_path: Path) -> None:
    without, asked = examined(ROOT, None, str(tmp_path)), examined(ROOT, True, str(tmp_path))
    assert [check.name for check in asked.problems if check not in without.problems] == ["GPU"]


def test_a_workspace_without_the_server_environment_is_told_how_to_make_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    *_, check = software_checks(Machine(libc=("glibc", "2.36")), tmp_path)
    assert (check.name, bool(check)) == ("server environment", False)
    assert "make env" in check.advice


@pytest.mark.parametrize("script", ["#!/bin/sh\necho no JSON\n", "no program at all"])
def test_an_interpreter_that_does_not_run_is_a_finding_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    python = tmp_path / "python"
    python.write_text(script)
    python.chmod(0o755 if script.startswith("#!") else 0o644)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(python))
    *_, check = software_checks(Machine(libc=("glibc", "2.36")), tmp_path)
    assert not check
    assert "does not run" in check.advice


@pytest.mark.parametrize(
    ("libc", "found"), [(("glibc", "2.31"), "glibc 2.31"), (("", ""), "a C library other than glibc")]
)
def test_too_old_a_c_library_is_the_one_problem_that_is_told_of_the_server(libc: tuple[str, str], found: str) -> None:
    library, _, environment = software_checks(Machine(libc=libc), ROOT)
    assert (library.found, library.needed, bool(library)) == (found, "glibc 2.34 or newer", False)
    assert environment.status is Status.NOTE


@pytest.mark.parametrize(
    ("version", "fits"), [("3.11.0", True), ("3.11.14", True), ("3.12.1", False), ("3.1.1", False)]
)
def test_the_tools_python_has_to_be_the_pinned_one(version: str, fits: bool) -> None:
    _, python, _ = software_checks(Machine(python=version, libc=("glibc", "2.31")), ROOT)
    assert bool(python) is fits
    project = (ROOT / "pyproject.toml").read_text()
    assert f'requires-python = ">={python.needed},<3.12"' in project


def test_every_finding_and_every_number_of_the_image_is_in_the_page(tmp_path: Path) -> None:
    for check in examined(ROOT, path=str(tmp_path)).checks:
        assert f"| {check.name} |" in PAGE, check.name
    for name, value in dataclasses.asdict(IMAGE).items():
        for one in [value] if isinstance(value, str | int) else value if name == "forward_compatible" else []:
            assert str(one) in PAGE, name
    for architecture in IMAGE.architectures:
        assert architecture.name in PAGE
        assert all(f"{major}.{minor}" in PAGE for major, minor in architecture.capabilities)
