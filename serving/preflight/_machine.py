"""Where everything about a machine is read from: one object, so that a test can be another machine."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


def free_bytes(path: Path) -> tuple[int, int]:
    """Size of the file system that `path` is on, and what an ordinary user can still write there, in bytes."""
    usage = shutil.disk_usage(path)
    return usage.total, usage.free


def _affinity() -> int | None:
    # cpusets and taskset show here; Linux alone has the call.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


@dataclass(frozen=True)
class Machine:
    """A machine as it shows itself to an ordinary process.

    Attributes:
        root: folder that /proc, /sys and /dev/shm are below.
        architecture: `uname -m`.
        libc: name and version of the C library, `platform.libc_ver()`.
        python: version of the tools' Python.
        system: distribution, in words.
        kernel: `uname -r`.
        affinity: cores that this process may be scheduled on; None where the system does not say.
        path: the PATH that nvidia-smi is looked for on.
        patience: seconds that nvidia-smi gets: with persistence mode off it first loads the driver.
        free: file system size and free bytes of a path.
    """

    root: Path = Path("/")
    architecture: str = field(default_factory=platform.machine)
    libc: tuple[str, str] = field(default_factory=platform.libc_ver)
    python: str = field(default_factory=platform.python_version)
    system: str = field(default_factory=lambda: _distribution())
    kernel: str = field(default_factory=platform.release)
    affinity: int | None = field(default_factory=_affinity)
    path: str = field(default_factory=lambda: os.environ.get("PATH", os.defpath))
    patience: float = 20.0
    free: Callable[[Path], tuple[int, int]] = free_bytes

    def read(self, relative: str) -> str | None:
        """Text of a file below `root`; None where it is absent or closed to this user."""
        with contextlib.suppress(OSError):
            return (self.root / relative).read_text(errors="replace")
        return None


def _distribution() -> str:
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    return platform.system()
