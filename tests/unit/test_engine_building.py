"""A plan is there whole and proven, or not at all; here a fake trtexec stands for the GPU's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from model_build.engine import EngineError, EngineFailed, NoGpu, PrecisionRefused, ToolMissing, build_engine
from tests.engine_support import LAYERS, Machine, layer, make_variants, spec_of

L4 = "NVIDIA L4, 8.9, 570.1"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return make_variants(tmp_path)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine(tmp_path / "bin", monkeypatch)
    found.nvidia_smi(L4)
    found.trtexec()
    return found


def left(workspace: Path) -> list[str]:
    """Files below build/, without the hash in their key."""
    paths = (path.relative_to(workspace / "build") for path in (workspace / "build").rglob("*") if path.is_file())
    return sorted("/".join(part.partition("-trt11.1.0.106-")[0] or part for part in path.parts) for path in paths)


def test_fake_trtexec_a_plan_has_everything_beside_it(workspace: Path, machine: Machine) -> None:
    before = sorted((workspace / "model_repository").rglob("*"))
    lines: list[str] = []
    built = build_engine(workspace, spec_of(workspace), status=lines.append)
    files = {path.name for path in built.files.folder.iterdir()}
    assert files == {"model.plan", "layers.json", "profile.json", "times.json", "build.log", "engine.json"}
    record = json.loads(built.files.record.read_text())
    assert set(record["files"]) == files - {"engine.json"}
    assert record["identity"]["compute_capability"] == "8.9"
    assert record["identity"]["tensorrt"] == "11.1.0.106"
    assert record["identity"]["shapes"]["x"] == {"min": [1, 4], "opt": [32, 4], "max": [32, 4]}
    assert record["gpu"]["name"] == "NVIDIA L4"
    assert f"--saveEngine={built.files.plan}" in record["made_by"]
    assert record["times"] == {"median_ms": 0.5, "runs": 3, "shapes": "x:32x4"}
    assert record["verdict"]["computed"]["node_linear"]["in"] == ["FP16"]
    assert str(built).endswith("model.plan built: 2 layers run in FP16 on NVIDIA L4; 0.500 ms (median of 3) at x:32x4")
    assert "Compiling" in lines
    assert "Compiling" in built.files.log.read_text()
    assert sorted((workspace / "model_repository").rglob("*")) == before
    assert built.files.folder.parent == workspace / "build" / "engines" / "digits_fp16"


def test_fake_trtexec_a_plan_that_is_there_is_not_built_again(workspace: Path, machine: Machine) -> None:
    first = build_engine(workspace, spec_of(workspace))
    second = build_engine(workspace, spec_of(workspace))
    assert (first.again, second.again, len(machine.calls)) == (False, True, 1)
    assert "is there already" in str(second)


def test_fake_trtexec_a_plan_that_is_not_the_one_that_was_built_is_built_anew(
    workspace: Path, machine: Machine
) -> None:
    first = build_engine(workspace, spec_of(workspace))
    first.files.plan.write_bytes(b"another")
    second = build_engine(workspace, spec_of(workspace))
    assert not second.again
    assert second.files == first.files
    assert second.files.plan.read_bytes() != b"another"
    assert len(machine.calls) == 2


def test_fake_trtexec_what_makes_another_plan_makes_another_key(workspace: Path, machine: Machine) -> None:
    def key(**options: Any) -> Path:
        return build_engine(workspace, spec_of(workspace, "fp16", **options)).files.folder

    keys = [key(), key(shapes=["batch=1:8:32"]), key(level=5), key(memory_mib=64)]
    machine.nvidia_smi("NVIDIA H200, 9.0, 570.1")
    keys.append(key())
    machine.trtexec(version="v110200] [b3")
    keys.append(key())
    assert len(set(keys)) == len(keys)
    assert keys[-1].name.startswith("sm90-trt11.2.0.3-")


def test_fake_trtexec_the_timing_cache_is_shared_and_taken_over_from_plans_that_succeed(
    workspace: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TRTEXEC_FAILS", "1")
    with pytest.raises(EngineFailed):
        build_engine(workspace, spec_of(workspace))
    monkeypatch.delenv("FAKE_TRTEXEC_FAILS")
    build_engine(workspace, spec_of(workspace))
    build_engine(workspace, spec_of(workspace, level=5))
    assert [call["cached"] for call in machine.calls] == ["", "", "timings"]
    assert (workspace / "build" / "engines" / "sm89-trt11.1.0.106.timing.cache").read_text() == "timings"


def test_fake_trtexec_a_plan_in_another_precision_is_refused_and_only_its_log_is_kept(
    workspace: Path, machine: Machine
) -> None:
    machine.trtexec(layers=[layer(LAYERS[0], "Half"), layer(LAYERS[1], "Float")])
    with pytest.raises(PrecisionRefused, match=r"1 of 2 layers run in FP16, not node_linear_1 \(FP32\)") as refused:
        build_engine(workspace, spec_of(workspace))
    assert refused.value.code == 3
    assert "(`slipway build digits precision.fp16.keep_fp32=[node_linear_1]`), or serve another" in str(refused.value)
    assert left(workspace) == ["engines/digits_fp16/sm89"]
    (log,) = (workspace / "build" / "engines" / "digits_fp16").iterdir()
    assert str(log) in str(refused.value)
    assert "REFUSED  node_linear_1: asked FP16, stored FP16, computed FP32" in log.read_text()


def test_fake_trtexec_a_failure_says_its_first_error_and_leaves_the_old_plan(
    workspace: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = build_engine(workspace, spec_of(workspace))
    before = left(workspace)
    monkeypatch.setenv("FAKE_TRTEXEC_FAILS", "1")
    with pytest.raises(EngineFailed, match="trtexec ended with exit code 1: Error Code 4: types differ") as failed:
        build_engine(workspace, spec_of(workspace, level=5))
    assert failed.value.code == 1
    assert left(workspace) == sorted([*before, "engines/digits_fp16/sm89"])
    assert build_engine(workspace, spec_of(workspace)).files == old.files


def test_fake_trtexec_an_interrupted_build_ends_trtexec_and_leaves_its_log(
    workspace: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TRTEXEC_SLEEP", "1")

    def interrupt(line: str) -> None:
        if line == "Compiling":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(workspace, spec_of(workspace), status=interrupt)  # returns at once: what it started was ended
    assert left(workspace) == ["engines/digits_fp16/sm89"]


def test_fake_trtexec_what_a_killed_build_left_is_removed_by_the_next(workspace: Path, machine: Machine) -> None:
    abandoned = workspace / "build" / "engines" / "digits_fp16" / ".building.99999999"
    abandoned.mkdir(parents=True)
    build_engine(workspace, spec_of(workspace))
    assert not abandoned.exists()


def test_fake_trtexec_can_be_a_command_of_several_words(workspace: Path, machine: Machine) -> None:
    program = (machine.folder / "trtexec").rename(machine.folder / "other")
    container = machine.program("docker", "import os, sys\nos.execv(sys.argv[3], sys.argv[3:])")
    built = build_engine(workspace, spec_of(workspace), trtexec_command=f"{container} run --rm {program}")
    assert built.record["made_by"].startswith(f"{container} run --rm {program} --onnx=")


def test_without_a_gpu_it_is_one_line_with_an_exit_code_of_its_own(workspace: Path, machine: Machine) -> None:
    (machine.folder / "nvidia-smi").unlink()
    with pytest.raises(NoGpu, match=r"no GPU is here .*; `slipway engine digits --explain` says how") as none:
        build_engine(workspace, spec_of(workspace))
    machine.program("nvidia-smi", "print('NVIDIA-SMI has failed')\nraise SystemExit(9)")
    with pytest.raises(NoGpu, match="NVIDIA-SMI has failed") as broken:
        build_engine(workspace, spec_of(workspace))
    assert (none.value.code, broken.value.code) == (5, 5)
    assert "\n" not in str(none.value) + str(broken.value)
    assert not (workspace / "build").exists()


def test_a_gpu_without_tensorrt_says_how_to_take_that_of_the_server(workspace: Path, machine: Machine) -> None:
    (machine.folder / "trtexec").unlink()
    with pytest.raises(ToolMissing, match="no trtexec and no Python package tensorrt") as missing:
        build_engine(workspace, spec_of(workspace))
    assert missing.value.code == 1
    assert 'export SLIPWAY_TRTEXEC="docker run --rm --init --gpus all' in str(missing.value)
    assert f"-v {workspace}:{workspace} " in str(missing.value)
    assert "nvcr.io/nvidia/tritonserver:26.08-py3" in str(missing.value)


def test_fake_trtexec_that_is_too_old_or_none_is_refused(workspace: Path, machine: Machine) -> None:
    machine.trtexec(version="v101101] [b5")
    with pytest.raises(ToolMissing, match=r"TensorRT is 10\.11\.1\.5: expected 10\.12 or newer"):
        build_engine(workspace, spec_of(workspace))
    with pytest.raises(ToolMissing, match="does not say a version of TensorRT"):
        build_engine(workspace, spec_of(workspace), trtexec_command=f"{machine.folder}/nvidia-smi")
    with pytest.raises(ToolMissing, match="cannot be run"):
        build_engine(workspace, spec_of(workspace), trtexec_command="no-such-program")


def test_the_gpu_is_the_one_that_cuda_will_take(
    workspace: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.nvidia_smi(L4, "NVIDIA H200, 9.0, 570.1")
    with pytest.raises(EngineError, match=r"which GPU\? NVIDIA L4 \(8\.9\), NVIDIA H200 \(9\.0\)") as several:
        build_engine(workspace, spec_of(workspace))
    assert several.value.code == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert build_engine(workspace, spec_of(workspace)).record["gpu"]["name"] == "NVIDIA H200"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(NoGpu, match="no GPU is visible"):
        build_engine(workspace, spec_of(workspace))
