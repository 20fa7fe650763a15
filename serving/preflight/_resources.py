"""Cores, memory, disk and /dev/shm: what there is, and what a build and a server take of it."""

from __future__ import annotations

import re
from pathlib import Path

from serving.preflight import _cpu
from serving.preflight._cgroup import Limits
from serving.preflight._check import Check, Status, size
from serving.preflight._machine import Machine

MIB, GIB = 2**20, 2**30

# What a server with the four reference models is given by the chart (server.resources.limits.memory).
SERVER_MEMORY = 2 * GIB

# `du -sh` on x86-64, rounded up: .venv 2.8 GiB, .venv-triton 0.33 GiB, build/ and .dvc/cache after all models 0.85 GiB.
ENVIRONMENTS = {".venv": 3 * GIB, ".venv-triton": GIB // 2}
BUILD = GIB

# Of each instance of a Python model, which under the embedded Triton every ONNX model is too. Triton makes a region of
# 1 MiB at start ("Each Python backend model instance requires at least 1 MB of shared memory", seen on a /dev/shm of
# 2 MiB); it grows with the tensors in flight, and the chart counts with 64 MiB (server.sharedMemory).
SHARED_AT_START, SHARED_UNDER_LOAD = MIB, 64 * MIB


def processor(machine: Machine, limits: Limits) -> Check:
    """Name, cores of the machine, and how many of them this process may use."""
    cpuinfo = machine.read("proc/cpuinfo") or ""
    total = _cpu.cores(cpuinfo)
    usable = min([number for number in (total or None, machine.affinity, limits.cores) if number], default=0)
    found = f"{_cpu.model_name(cpuinfo) or machine.architecture}, {total or 'unknown number of'} cores"
    facts = {"cores": total or None, "usable_cores": usable or None}
    if not usable or usable >= total:
        return Check("processor", Status.OK, found, facts=facts)
    advice = (
        f"only {usable:g} of the {total} cores may be used here (container or cpuset), and libraries that see {total} "
        f"start that many threads: keep triton.cpu_instances x triton.cpu_threads at {max(1, int(usable))} or below"
    )
    return Check("processor", Status.NOTE, f"{found}, {usable:g} usable", "", advice, facts)


def memory(machine: Machine, limits: Limits) -> Check:
    """Memory that is available, and the container's limit."""
    told = dict(re.findall(r"^(\w+):\s+(\d+) kB", machine.read("proc/meminfo") or "", re.MULTILINE))
    total, available = (int(told[key]) * 1024 if key in told else None for key in ("MemTotal", "MemAvailable"))
    limit = limits.memory if limits.memory is not None and limits.memory < (total or limits.memory + 1) else None
    facts = {"total": total, "available": available, "limit": limit}
    needed = f"{size(SERVER_MEMORY)} for a server with all reference models"
    if total is None or available is None:
        return Check("memory", Status.NOTE, "unknown", needed, "/proc/meminfo cannot be read", facts)
    found = f"{size(available)} of {size(total)} available" + (f", limited to {size(limit)}" if limit else "")
    if min(available, limit or available) >= SERVER_MEMORY:
        return Check("memory", Status.OK, found, needed, facts=facts)
    advice = "the kernel may kill a build or a server (exit code 137): serve fewer models, or raise the limit"
    return Check("memory", Status.NOTE, found, needed, advice, facts)


def disk(machine: Machine, workspace: Path) -> Check:
    """Free disk of the workspace against the environments that are not made yet, and a build."""
    missing = [name for name in ENVIRONMENTS if not (workspace / name / ".complete").is_file()]
    needed = BUILD + sum(ENVIRONMENTS[name] for name in missing)
    what = f"{size(needed)} for " + " and ".join(["a build", *missing])
    total, free = machine.free(workspace)
    facts = {"free": free, "total": total, "needed": needed}
    found = f"{size(free)} free of {size(total)}"
    if free >= needed:
        return Check("disk", Status.OK, found, what, facts=facts)
    advice = f"a build would end with a full disk: free {size(needed - free)} where {workspace} is"
    return Check("disk", Status.PROBLEM, found, what, advice, facts)


def shared_memory(machine: Machine, repository: Path) -> Check:
    """What is free below /dev/shm against the instances that the repository's configurations ask for on a CPU."""
    folder, count = machine.root / "dev" / "shm", max(1, instances(repository))
    least, needed = count * SHARED_AT_START, count * SHARED_UNDER_LOAD
    what = f"{size(least)} to start, {size(needed)} under load ({count} instance{'s' if count > 1 else ''})"
    try:
        total, free = machine.free(folder)
    except OSError as error:
        advice = f"{folder} cannot be read ({error.strerror}): mount a tmpfs there for Triton's Python models"
        return Check("shared memory", Status.PROBLEM, "none", what, advice, {"instances": count})
    facts = {"free": free, "total": total, "instances": count, "needed": needed, "needed_to_start": least}
    found = f"{size(free)} free of {size(total)} (/dev/shm)"
    more = "raise it (`docker run --shm-size`, the chart's server.sharedMemory, `mount -o remount,size=1g /dev/shm`)"
    if free < least:
        advice = f"models would not load (Unable to initialize shared memory key: No space left on device): {more}"
        return Check("shared memory", Status.PROBLEM, found, what, advice, facts)
    if free < needed:
        advice = f"models load; requests with large tensors or many at once may fail: {more}"
        return Check("shared memory", Status.NOTE, found, what, advice, facts)
    return Check("shared memory", Status.OK, found, what, facts=facts)


def instances(repository: Path) -> int:
    """Instances of Python models that the embedded Triton makes of a model repository; 0 where nothing is built."""
    on_cpu = ((path, path.parent / "configs" / "cpu.pbtxt") for path in repository.glob("*/config.pbtxt"))
    chosen = (cpu if cpu.is_file() else general for general, cpu in on_cpu)
    return sum(instances_of(path.read_text(errors="replace")) for path in chosen)


def instances_of(config: str) -> int:
    """Instances of one configuration (text format): an ensemble has none, a model without a group has one."""
    if re.search(r'^platform:\s*"ensemble"', config, re.MULTILINE):
        return 0
    groups = re.findall(r"^instance_group\s*:?\s*\[?\s*\{([^}]*)\}", config, re.MULTILINE)
    counts = [re.search(r"\bcount:\s*(\d+)", group) for group in groups]
    return sum(int(count[1]) if count else 1 for count in counts) or 1
