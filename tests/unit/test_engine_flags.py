"""Every flag of trtexec is there for a reason, and so is every one that is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model_build._errors import ConfigurationError
from model_build.engine import explain
from model_build.engine.flags import Flag, find_flags
from model_build.engine.spec import Files
from model_build.engine.tools import Version
from tests.engine_support import Machine, make_variants, spec_of


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return make_variants(tmp_path)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path / "bin", monkeypatch)


def flags(workspace: Path, *version: int, **options: Any) -> dict[str, Flag]:
    found = find_flags(spec_of(workspace, **options), Version(version), Files(workspace / "out"))
    return {flag.name: flag for flag in found}


@pytest.mark.parametrize(
    ("banner", "version"),
    [
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v101201] [b36] # trtexec --help", "10.12.1.36"),
        ("=== Triton ===\n&&&& RUNNING TensorRT.trtexec [TensorRT v110100] [b106] # trtexec", "11.1.0.106"),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v11.1.0.106] [b106] # trtexec", "11.1.0.106"),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v8601] # trtexec", "8.6.1"),
    ],
)
def test_the_version_is_read_from_what_trtexec_says_first(banner: str, version: str) -> None:
    assert str(Version.from_banner(banner)) == version


def test_tensorrt_10_is_told_to_take_the_types_of_the_graph_and_11_always_does(workspace: Path) -> None:
    old, new = flags(workspace, 10, 12), flags(workspace, 11, 1)
    assert old["--stronglyTyped"].present
    assert old["--separateProfileRun"].present
    assert not new["--stronglyTyped"].present
    assert not new["--separateProfileRun"].present


@pytest.mark.parametrize("version", [(10, 12), (11,)])
@pytest.mark.parametrize("variant", ["fp32", "fp16", "int8"])
def test_no_flag_lets_the_builder_choose_a_precision(workspace: Path, variant: str, version: tuple[int, ...]) -> None:
    found = find_flags(spec_of(workspace, variant), Version(version), Files(workspace))
    there = " ".join(str(flag) for flag in found if flag.present)
    assert "--noTF32" in there
    assert not [one for one in ("--fp16", "--bf16", "--int8", "--fp8", "--best", "--calib") if one in there]
    assert all(flag.why for flag in found)


def test_level_and_workspace_are_those_that_were_asked_for(workspace: Path) -> None:
    assert str(flags(workspace, 11, level=5)["--builderOptimizationLevel"]) == "--builderOptimizationLevel=5"
    assert str(flags(workspace, 11, memory_mib=512)["--memPoolSize"]) == "--memPoolSize=workspace:512"
    assert not flags(workspace, 11)["--memPoolSize"].present
    for options in ({"level": 6}, {"memory_mib": 0}):
        with pytest.raises(ConfigurationError, match="expected"):
            flags(workspace, 11, **options)


@pytest.mark.usefixtures("machine")
def test_explain_needs_neither_a_gpu_nor_tensorrt_and_says_what_it_assumes(workspace: Path) -> None:
    found = explain(workspace, spec_of(workspace))
    said = "\n".join(found.notes)
    assert "no GPU is here" in said
    assert "11 is assumed, which Triton 26.08 carries" in said
    assert found.command.startswith("trtexec --onnx=model_repository/digits_fp16/1/model.onnx ")
    assert "--saveEngine=build/engines/digits_fp16/KEY/model.plan" in found.command
    there = [row[0] for row in found.rows if row[1] == "there"]
    assert [part.partition("=")[0] for part in found.command.split()[1:]] == there
    assert not (workspace / "build").exists()


def test_explain_with_a_fake_trtexec_is_for_what_is_here(workspace: Path, machine: Machine) -> None:
    machine.nvidia_smi("NVIDIA L4, 8.9, 570.1")
    machine.trtexec(version="v101303] [b9")
    found = explain(workspace, spec_of(workspace))
    assert found.command.startswith(f"{machine.folder}/trtexec --onnx=")
    assert "--stronglyTyped" in found.command
    assert "/sm89-trt10.13.3.9-" in found.command
    assert not machine.calls
