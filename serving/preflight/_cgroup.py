"""The limits that a container puts on processor and memory: cgroup v2, v1, and both at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from serving.preflight._machine import Machine


@dataclass(frozen=True)
class Limits:
    """What this process may use; None where no group of it is limited.

    Attributes:
        cores: CPU time in cores, such as 0.5.
        memory: bytes.
    """

    cores: float | None = None
    memory: int | None = None


def limits(machine: Machine) -> Limits:
    """The tightest limit of this process's groups and all above them."""
    groups = _groups(machine.read("proc/self/cgroup") or "")
    quotas = [
        *(_quota_v2(machine, folder) for folder in _folders(groups.get(""), "sys/fs/cgroup")),
        *(_quota_v1(machine, folder) for folder in _folders(groups.get("cpu"), "sys/fs/cgroup/cpu")),
    ]
    memories = [
        *(_number(machine.read(f"{folder}/memory.max")) for folder in _folders(groups.get(""), "sys/fs/cgroup")),
        *(
            _number(machine.read(f"{folder}/memory.limit_in_bytes"))
            for folder in _folders(groups.get("memory"), "sys/fs/cgroup/memory")
        ),
    ]
    # v1 writes "no limit" as the largest multiple of a page below 2^63.
    known = [memory for memory in memories if memory is not None and memory < 2**62]
    return Limits(min(filter(None, quotas), default=None), min(known, default=None))


def _groups(text: str) -> dict[str, str]:
    """This process's group of each controller; "" is v2's, which has them all (cgroups(7), /proc/PID/cgroup)."""
    rows = [line.split(":", 2) for line in text.splitlines() if line.count(":") >= 2]
    return {controller: path for _, controllers, path in rows for controller in controllers.split(",")}


def _folders(path: str | None, mount: str) -> Iterator[str]:
    """A group's folder and those above it, up to the mount.

    A container often sees its own group mounted at the root, under the path that it has outside: then only the mount
    exists here, which is why that is always looked at.
    """
    if path is None:
        return
    group = PurePosixPath(path.lstrip("/"))
    if ".." not in group.parts:
        yield from (f"{mount}/{one}" for one in (group, *group.parents) if one.parts)
    yield mount


def _quota_v2(machine: Machine, folder: str) -> float | None:
    quota, _, period = (machine.read(f"{folder}/cpu.max") or "").strip().partition(" ")
    return _ratio(_number(quota), _number(period))


def _quota_v1(machine: Machine, folder: str) -> float | None:
    quota, period = (machine.read(f"{folder}/cpu.cfs_{name}_us") for name in ("quota", "period"))
    return _ratio(_number(quota), _number(period))


def _ratio(quota: int | None, period: int | None) -> float | None:
    return quota / period if quota and period else None


def _number(text: str | None) -> int | None:
    """A positive number; None for `max`, `-1` and what is absent."""
    return int(text) if text is not None and text.strip().isdecimal() else None
