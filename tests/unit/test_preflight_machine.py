"""Processor, memory, disk and /dev/shm, read from the /proc and /sys of made-up machines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from serving.preflight import Machine, Status
from serving.preflight._cgroup import Limits, limits
from serving.preflight._check import size
from serving.preflight._cpu import cores, flags, instruction_sets, judge_int8, model_name
from serving.preflight._resources import disk, instances, instances_of, memory, processor, shared_memory

MIB, GIB = 2**20, 2**30
MEMINFO = "MemTotal:        8388608 kB\nMemFree:          100 kB\nMemAvailable:    4194304 kB\n"
X86 = "processor\t: {0}\nmodel name\t: Intel(R) Xeon(R) CPU @ 2.00GHz\nflags\t\t: fpu sse4_1 avx2 avx512f {1}\n\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp sve i8mm\nCPU implementer\t: 0x41\n\n"


def machine(
    root: Path,
    files: dict[str, str] | None = None,
    free: Callable[[Path], tuple[int, int]] = lambda _: (0, 0),
    architecture: str = "x86_64",
    affinity: int | None = None,
) -> Machine:
    for name, content in (files or {}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return Machine(root=root, architecture=architecture, affinity=affinity, free=free)


def cpuinfo(*more: str) -> str:
    return "".join(X86.format(number, text) for number, text in enumerate(more))


@pytest.mark.parametrize(
    ("architecture", "has", "status", "words"),
    [
        ("x86_64", {"avx2"}, Status.NOTE, "can saturate (VPMADDUBSW)"),
        ("x86_64", {"avx2", "avx512f", "avx512bw"}, Status.NOTE, "can saturate (VPMADDUBSW)"),
        ("x86_64", {"sse4_1"}, Status.NOTE, "little faster than FP32"),
        ("x86_64", {"avx2", "avx512f", "avx512_vnni"}, Status.OK, "1.8 to 3.1 times FP32's speed"),
        ("x86_64", {"avx2", "avx_vnni"}, Status.OK, "AVX-VNNI is not measured"),
        ("x86_64", {"avx2", "avx512_vnni", "amx_int8", "amx_tile"}, Status.OK, "tiles (AMX)"),
        ("x86_64", {"avx2", "amx_bf16"}, Status.NOTE, "can saturate"),
        ("aarch64", {"asimd", "asimddp"}, Status.OK, "does not saturate"),
        ("aarch64", {"asimd", "i8mm"}, Status.OK, "does not saturate"),
        ("aarch64", {"asimd"}, Status.NOTE, "without dot product instructions"),
        ("riscv64", {"rv64imafdc"}, Status.NOTE, "unknown to Slipway"),
        ("x86_64", set(), Status.NOTE, "cannot be read"),
    ],
)
def test_the_flags_say_what_int8_gains(architecture: str, has: set[str], status: Status, words: str) -> None:
    found, advice = judge_int8(architecture, has)
    assert found is status
    assert words in advice


def test_instruction_sets_are_named_as_their_makers_name_them(tmp_path: Path) -> None:
    everything = cpuinfo("avx512_vnni avx_vnni amx_int8 amx_bf16 amx_tile")
    check = instruction_sets(machine(tmp_path, {"proc/cpuinfo": everything}))
    assert check.found == "AVX2, AVX-512, AVX512-VNNI, AVX-VNNI, AMX-INT8, AMX-BF16"
    check = instruction_sets(machine(tmp_path, {"proc/cpuinfo": ARM}, architecture="aarch64"))
    assert check.found == "NEON, dot product, I8MM, SVE"
    assert check.status is Status.OK


def test_a_flag_counts_only_where_every_core_has_it() -> None:
    text = cpuinfo("avx_vnni", "")
    assert "avx2" in flags(text)
    assert "avx_vnni" not in flags(text)
    assert (cores(text), model_name(text)) == (2, "Intel(R) Xeon(R) CPU @ 2.00GHz")
    assert (cores(ARM), model_name(ARM)) == (1, None)


def test_a_machine_without_proc_is_told_as_unknown(tmp_path: Path) -> None:
    nothing = machine(tmp_path)
    found = [processor(nothing, Limits()), instruction_sets(nothing), memory(nothing, limits(nothing))]
    assert [check.status for check in found] == [Status.OK, Status.NOTE, Status.NOTE]
    assert found[0].found == "x86_64, unknown number of cores"
    assert limits(nothing) == Limits(None, None)


def test_a_limit_of_cgroup_v2_is_found_in_the_group_and_in_those_above(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/kubepods/pod1/container\n",
        "sys/fs/cgroup/kubepods/cpu.max": "800000 100000\n",
        "sys/fs/cgroup/kubepods/pod1/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/kubepods/pod1/container/cpu.max": "max 100000\n",
        "sys/fs/cgroup/kubepods/pod1/container/memory.max": f"{3 * GIB}\n",
        "sys/fs/cgroup/kubepods/memory.max": f"{6 * GIB}\n",
        "sys/fs/cgroup/memory.max": "max\n",
    }
    assert limits(machine(tmp_path, files)) == Limits(1.5, 3 * GIB)


def test_a_limit_of_cgroup_v1_is_found_also_under_the_path_that_the_host_sees(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n0::/\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}\n",
    }
    assert limits(machine(tmp_path, files)) == Limits(0.5, GIB)


def test_what_means_no_limit_is_none(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/\n1:cpu:/../..\n0::/\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/cpu.max": "max 100000\n",
    }
    assert limits(machine(tmp_path, files)) == Limits(None, None)


@pytest.mark.parametrize(
    ("affinity", "quota", "found", "threads"),
    [
        (None, None, "2 cores", None),
        (2, 2.0, "2 cores", None),
        (2, 1.5, "1.5 usable", "at 1"),
        (1, None, "1 usable", "at 1"),
    ],
)
def test_cores_that_may_not_be_used_are_told(
    tmp_path: Path, affinity: int | None, quota: float | None, found: str, threads: str | None
) -> None:
    check = processor(machine(tmp_path, {"proc/cpuinfo": cpuinfo("", "")}, affinity=affinity), Limits(cores=quota))
    assert check.found.endswith(found)
    assert check.status is (Status.NOTE if threads else Status.OK)
    assert (threads or "") in check.advice
    assert check.facts["cores"] == 2


def test_a_containers_memory_limit_counts_where_it_is_the_smaller_one(tmp_path: Path) -> None:
    this = machine(tmp_path, {"proc/meminfo": MEMINFO})
    wide, tight, none = (memory(this, Limits(memory=number)) for number in (16 * GIB, GIB, None))
    assert wide.found == none.found == "4 GiB of 8 GiB available"
    assert tight.found == "4 GiB of 8 GiB available, limited to 1 GiB"
    assert (wide.status, tight.status) == (Status.OK, Status.NOTE)
    assert "exit code 137" in tight.advice


def test_disk_is_needed_for_the_environments_that_are_not_made_yet_and_for_a_build(tmp_path: Path) -> None:
    def of(free: int) -> bool:
        return bool(disk(machine(tmp_path, free=lambda _: (100 * GIB, free)), tmp_path))

    assert (of(4 * GIB + GIB // 2), of(4 * GIB + GIB // 2 - 1)) == (True, False)
    for name in (".venv", ".venv-triton"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".complete").touch()
    assert (of(GIB), of(GIB - 1)) == (True, False)
    (tmp_path / ".venv-triton" / ".complete").unlink()  # an install that was interrupted is begun anew
    check = disk(machine(tmp_path, free=lambda _: (100 * GIB, GIB)), tmp_path)
    assert check.needed == "1.5 GiB for a build and .venv-triton"
    assert "free 512 MiB" in check.advice


def test_shared_memory_is_needed_for_each_instance_of_a_python_model(tmp_path: Path) -> None:
    def of(free: int) -> Status:
        below = {tmp_path / "dev" / "shm": (GIB, free)}
        return shared_memory(machine(tmp_path, free=below.__getitem__), tmp_path).status

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").write_text('backend: "python"\n')
    assert of(128 * MIB) is Status.OK
    assert of(128 * MIB - 1) is Status.NOTE
    assert of(2 * MIB) is Status.NOTE
    assert of(2 * MIB - 1) is Status.PROBLEM


def test_a_machine_without_dev_shm_is_a_problem_and_no_traceback(tmp_path: Path) -> None:
    check = shared_memory(Machine(root=tmp_path), tmp_path)
    assert not check
    assert "cannot be read (No such file or directory)" in check.advice


@pytest.mark.parametrize(
    ("config", "count"),
    [
        ('platform: "ensemble"\nensemble_scheduling {\n}\n', 0),
        ('backend: "onnxruntime"\n', 1),
        ("instance_group {\n  count: 3\n  kind: KIND_CPU\n}\ndynamic_batching {\n}\n", 3),
        ("instance_group {\n  kind: KIND_CPU\n}\n", 1),
        ("instance_group {\n  count: 2\n}\ninstance_group {\n  count: 5\n}\n", 7),
        ("instance_group [ { count: 4, kind: KIND_CPU } ]\n", 4),
    ],
)
def test_instances_are_counted_as_triton_makes_them(config: str, count: int) -> None:
    assert instances_of(config) == count


def test_the_configuration_for_cpus_is_the_one_that_counts(tmp_path: Path) -> None:
    (tmp_path / "model" / "configs").mkdir(parents=True)
    (tmp_path / "model" / "config.pbtxt").write_text("instance_group {\n  count: 8\n  kind: KIND_GPU\n}\n")
    assert instances(tmp_path) == 8
    (tmp_path / "model" / "configs" / "cpu.pbtxt").write_text("instance_group {\n  count: 2\n}\n")
    assert instances(tmp_path) == 2
    assert instances(tmp_path / "absent") == 0


def test_sizes_are_told_in_binary_units() -> None:
    assert [size(number) for number in (5, 64 * MIB, 2.5 * GIB, 3 * 2**40)] == ["5 B", "64 MiB", "2.5 GiB", "3 TiB"]
