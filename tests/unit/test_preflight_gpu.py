"""GPUs and drivers against the pinned image, each told before it fails. No GPU is here: nvidia-smi is a fake script."""

from __future__ import annotations

import json
import os
import select
import shlex
from pathlib import Path

import pytest

from serving.preflight import IMAGE, Check, Machine, Status
from serving.preflight._gpu import data_centre, gpu_checks, judge_driver
from serving.preflight._nvidia import Answer, Gpu, ask, parse

L4 = "NVIDIA L4, 615.61, 23034, 8.9"


def machine(tmp_path: Path, patience: float = 10) -> Machine:
    """A machine of its own, with nothing on its PATH but what a test puts there."""
    return Machine(root=tmp_path / "root", path=str(tmp_path / "bin"), patience=patience)


def fake_nvidia_smi(tmp_path: Path, script: str) -> Machine:
    """A machine whose nvidia-smi is `script`, a body in sh."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return machine(tmp_path)


def saying(tmp_path: Path, *lines: str, code: int = 0) -> Machine:
    return fake_nvidia_smi(tmp_path, f"printf '%s\\n' {shlex.join(lines)}; exit {code}")


def checks(tmp_path: Path, *lines: str, wanted: bool | None = None) -> list[Check]:
    return gpu_checks(ask(saying(tmp_path, *lines)), IMAGE, wanted)


def test_fake_nvidia_smi_is_asked_for_every_field_without_header_and_units(tmp_path: Path) -> None:
    fake = fake_nvidia_smi(tmp_path, f'echo "$@" > {tmp_path}/asked; echo "{L4}"')
    assert ask(fake) == Answer(gpus=(Gpu("NVIDIA L4", "615.61", 23034, (8, 9)),))
    asked = (tmp_path / "asked").read_text().split()
    assert asked == ["--query-gpu=name,driver_version,memory.total,compute_cap", "--format=csv,noheader,nounits"]


def test_fake_nvidia_smi_a_gpu_that_fits_is_named_with_what_the_image_needs(tmp_path: Path) -> None:
    gpu, driver = checks(tmp_path, L4)
    assert (gpu.status, driver.status) == (Status.OK, Status.OK)
    assert (gpu.name, gpu.found) == ("GPU", "NVIDIA L4, compute capability 8.9 (Ada Lovelace), 22.5 GiB")
    assert gpu.needed == "compute capability 7.5 to 12.1 (Triton 26.08)"
    assert (driver.found, driver.needed) == ("615.61", "580 or newer (CUDA 13.4.1)")
    assert gpu.facts == {"gpu": "NVIDIA L4", "memory_mib": 23034, "compute_capability": "8.9"}
    assert "slipway serve` runs on CPUs all the same" in gpu.advice


def test_fake_nvidia_smi_too_old_a_gpu_is_told_error_209_before_it_happens(tmp_path: Path) -> None:
    gpu, driver = checks(tmp_path, "Tesla V100-SXM2-16GB, 580.95.05, 16384, 7.0")
    assert not gpu
    assert "209: no kernel image is available for execution on the device" in gpu.advice
    assert "no code for so old a GPU" in gpu.advice
    assert "a GPU of compute capability 7.5 or higher" in gpu.advice
    assert driver


def test_fake_nvidia_smi_a_gpu_newer_than_the_release_is_told_error_209_too(tmp_path: Path) -> None:
    gpu, _ = checks(tmp_path, "NVIDIA R200, 700.10, 294912, 14.0")
    assert not gpu
    assert "209" in gpu.advice
    assert "do not name this GPU" in gpu.advice
    assert "take a newer Triton release" in gpu.advice


def test_the_smallest_and_the_largest_capability_fit_and_those_beside_them_do_not() -> None:
    assert (IMAGE.smallest, IMAGE.largest) == ((7, 5), (12, 1))
    assert all(IMAGE.architecture(one) for one in ((7, 5), (8, 0), (8, 9), (9, 0), (10, 0), (12, 0), (12, 1)))
    assert not any(IMAGE.architecture(one) for one in ((6, 1), (7, 0), (7, 2), (9, 9), (12, 2)))


def test_fake_nvidia_smi_each_of_several_gpus_is_judged(tmp_path: Path) -> None:
    first, second, driver = checks(tmp_path, "Tesla P4, 580.95.05, 7680, 6.1", "Tesla T4, 580.95.05, 15360, 7.5")
    assert (first.name, bool(first)) == ("GPU 0", False)
    assert (second.name, bool(second)) == ("GPU 1", True)
    assert driver.name == "driver"


def test_fake_nvidia_smi_what_does_not_fit_is_only_a_note_where_cpus_serve(tmp_path: Path) -> None:
    found = checks(tmp_path, "NVIDIA GeForce GTX 1060, 470.256.02, 6144, 6.1", wanted=False)
    assert [check.status for check in found] == [Status.NOTE, Status.NOTE]
    assert found[0].needed.startswith("if it serves: ")


@pytest.mark.parametrize(
    ("branch", "forward", "status", "words"),
    [
        (616, False, Status.OK, ""),
        (615, False, Status.OK, ""),
        (610, False, Status.NOTE, "222: the provided PTX was compiled with an unsupported toolchain"),
        (580, False, Status.NOTE, "minor version compatibility"),
        (579, False, Status.PROBLEM, "35: CUDA driver version is insufficient for CUDA runtime version"),
        (575, True, Status.NOTE, "forward-compatibility package"),
        (535, True, Status.NOTE, "forward-compatibility package"),
        (535, False, Status.PROBLEM, "804 (forward compatibility was attempted on non supported HW)"),
        (545, True, Status.PROBLEM, "install driver 580 or newer"),
        (470, True, Status.PROBLEM, "35: CUDA driver version is insufficient for CUDA runtime version"),
    ],
)
def test_a_driver_is_judged_by_its_branch_and_by_the_kind_of_gpu(
    branch: int, forward: bool, status: Status, words: str
) -> None:
    found, advice = judge_driver(branch, forward, IMAGE)
    assert found is status
    assert words in advice
    assert bool(advice) == (status is not Status.OK)
    assert ("804" in advice) == (status is Status.PROBLEM and not forward)


def test_fake_nvidia_smi_one_gpu_without_forward_compatibility_makes_an_old_driver_a_problem(tmp_path: Path) -> None:
    old = "535.183.01"
    *_, both = checks(tmp_path, f"NVIDIA H100 PCIe, {old}, 81559, 9.0", f"NVIDIA A10, {old}, 23028, 8.6")
    *_, mixed = checks(tmp_path, f"NVIDIA H100 PCIe, {old}, 81559, 9.0", f"NVIDIA GeForce RTX 3090, {old}, 24576, 8.6")
    assert both
    assert not mixed


def test_data_centre_gpus_are_told_from_workstation_and_consumer_cards() -> None:
    names = ("Tesla T4", "Tesla V100-SXM2-16GB", "NVIDIA A100-SXM4-40GB", "NVIDIA A10G", "NVIDIA L4", "NVIDIA L40S")
    assert all(map(data_centre, (*names, "NVIDIA H200", "NVIDIA B200", "NVIDIA GB200", "NVIDIA GH200 480GB")))
    others = ("NVIDIA GeForce RTX 4090", "NVIDIA RTX A4000", "NVIDIA T1000", "NVIDIA TITAN V", "NVIDIA GB10")
    assert not any(map(data_centre, (*others, "Quadro RTX 6000", "NVIDIA A1000", "Orin (nvgpu)")))


@pytest.mark.parametrize("wanted", [None, False])
def test_without_a_gpu_it_is_told_what_runs_instead(tmp_path: Path, wanted: bool | None) -> None:
    (gpu,) = gpu_checks(ask(machine(tmp_path)), IMAGE, wanted)
    assert gpu.status is Status.NOTE
    assert gpu.found == "none (no nvidia-smi on the PATH)"
    assert "run each model's configs/cpu.pbtxt with ONNX Runtime on CPUs" in gpu.advice
    assert "7.5" in gpu.needed
    assert "580" in gpu.needed


def test_a_gpu_that_was_asked_for_and_is_not_there_is_a_problem(tmp_path: Path) -> None:
    (gpu,) = gpu_checks(ask(machine(tmp_path)), IMAGE, wanted=True)
    assert not gpu
    assert "--gpu" in gpu.advice


def test_a_gpu_on_the_bus_without_a_driver_is_seen(tmp_path: Path) -> None:
    devices = tmp_path / "root" / "sys" / "bus" / "pci" / "devices"
    for name, vendor, kind in (("0000:00:01.0", "0x8086", "0x030000"), ("0000:00:02.0", "0x10de", "0x040300")):
        (devices / name).mkdir(parents=True)
        (devices / name / "vendor").write_text(f"{vendor}\n")
        (devices / name / "class").write_text(f"{kind}\n")
    assert "on the bus" not in ask(machine(tmp_path)).failure  # another maker's display, NVIDIA's audio function
    (devices / "0000:00:02.0" / "class").write_text("0x030200\n")
    assert ask(machine(tmp_path)) == Answer(
        (), "an NVIDIA GPU is on the bus, without a driver", "install NVIDIA's driver"
    )


def test_a_loaded_driver_whose_nvidia_smi_is_not_on_the_path_is_seen(tmp_path: Path) -> None:
    version = tmp_path / "root" / "proc" / "driver" / "nvidia" / "version"
    version.parent.mkdir(parents=True)
    version.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n")
    assert ask(machine(tmp_path)).failure == "driver 580.95.05 is loaded, and no nvidia-smi is on the PATH"


@pytest.mark.parametrize(
    ("line", "code", "remedy"),
    [
        ("Failed to initialize NVML: Driver/library version mismatch", 18, "restart the machine"),
        (
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that ...",
            9,
            "kernel module is not loaded",
        ),
        ("No devices were found", 6, "--gpus all"),
        ("No devices were found", 0, "--gpus all"),
        ("Failed to initialize NVML: Insufficient Permissions", 4, "/dev/nvidia*"),
        ("Unable to determine the device handle for GPU0000:01:00.0: GPU is lost.", 15, "fell off the bus"),
        ("Unable to determine the device handle for GPU0: 0000:01:00.0: Unknown Error", 255, "does not answer"),
        ("something nobody has seen yet", 99, "run `nvidia-smi`"),
    ],
)
@pytest.mark.parametrize("wanted", [None, True])
def test_fake_nvidia_smi_a_failure_is_one_line_with_what_helps(
    tmp_path: Path, line: str, code: int, remedy: str, wanted: bool | None
) -> None:
    (gpu,) = gpu_checks(ask(saying(tmp_path, "", line, "NVML library version: 580.95", code=code)), IMAGE, wanted)
    assert gpu.status is (Status.PROBLEM if wanted else Status.NOTE)
    assert gpu.found == f"nvidia-smi fails with exit code {code}: {line}"
    assert remedy in gpu.advice


def test_fake_nvidia_smi_that_fails_silently_is_told(tmp_path: Path) -> None:
    assert ask(fake_nvidia_smi(tmp_path, "exit 3")).failure == "nvidia-smi fails with exit code 3: it printed nothing"


def test_fake_nvidia_smi_that_hangs_is_given_up_and_killed_with_its_children(tmp_path: Path) -> None:
    os.mkfifo(held := tmp_path / "held")
    reader = os.open(held, os.O_RDONLY | os.O_NONBLOCK)  # ends when the last process that writes to it has
    try:
        fake_nvidia_smi(tmp_path, f"exec 9>{held}; echo started >&9; /bin/sleep 600; echo never")
        answer = ask(machine(tmp_path, patience=0.4))
        assert answer.failure == "nvidia-smi did not answer within 0.4 s"
        assert os.read(reader, 100) == b"started\n"
        assert select.select([reader], [], [], 5)[0] == [reader]
        assert os.read(reader, 100) == b""
    finally:
        os.close(reader)


def test_fake_nvidia_smi_that_is_no_program_is_told(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_bytes(b"\x7fELF broken")
    program.chmod(0o755)
    assert ask(machine(tmp_path)).failure == f"{program} cannot be run (Exec format error)"


def test_fake_nvidia_smi_too_old_to_know_compute_cap_still_names_the_gpu_and_the_driver(tmp_path: Path) -> None:
    script = 'case "$1" in *compute_cap*) echo \'Field "compute_cap" is not a valid field to query.\'; exit 2;; esac'
    fake = fake_nvidia_smi(tmp_path, f"{script}\necho 'Tesla P4, 470.256.02, 7611'")
    gpu, driver = gpu_checks(ask(fake), IMAGE, None)
    assert gpu.found == "Tesla P4, compute capability unknown, 7.4 GiB"
    assert gpu.status is Status.NOTE
    assert (driver.found, bool(driver)) == ("470.256.02", False)


@pytest.mark.parametrize("missing", ["[N/A]", "N/A", "[Not Supported]", "[Unknown Error]", "[GPU requires reset]", ""])
def test_a_value_that_nvidia_smi_does_not_know_is_unknown_and_no_error(missing: str) -> None:
    answer = parse(f"NVIDIA L4, {missing}, {missing}, {missing}\n")
    assert answer.gpus == (Gpu("NVIDIA L4", None, None, None),)
    gpu, driver = gpu_checks(answer, IMAGE, wanted=True)
    assert (gpu.status, driver.status) == (Status.NOTE, Status.NOTE)
    assert gpu.found == "NVIDIA L4, compute capability unknown"
    json.dumps([dict(gpu.facts), dict(driver.facts)])


@pytest.mark.parametrize(
    ("output", "failure"),
    [
        ("", "nvidia-smi lists no GPU"),
        ("\n\n", "nvidia-smi lists no GPU"),
        ("gibberish", "nvidia-smi answers what is no GPU: 'gibberish'"),
        (f"{L4}\nWARNING: infoROM is corrupted at gpu 0000:00:1E.0", "nvidia-smi answers what is no GPU: 'WARNING"),
        ("a, b, c, d, e", "nvidia-smi answers what is no GPU: 'a, b, c, d, e'"),
    ],
)
def test_what_is_no_row_of_a_gpu_is_told_as_it_is(output: str, failure: str) -> None:
    answer = parse(output)
    assert not answer
    assert answer.failure.startswith(failure)
    assert answer.remedy
