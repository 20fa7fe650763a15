"""What one run of Triton leaves on the machine, in one place, so that it can be removed: also by the next run.

A run owns a folder `slipway-triton-<pid>-<number>` under the temporary directory (the backends that Triton reads) and
the shared-memory regions whose names begin with that same name.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import tempfile
import time
from pathlib import Path

from serving._interpreter import ServerInterpreter

PREFIX = "slipway-triton-"
PROGRAMS = (b"tritonserver", b"triton_python_backend_stub")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Triton's Python backend puts its regions
BACKENDS = Path(__file__).parent / "backends"

_numbers = itertools.count()


def compose(interpreter: ServerInterpreter) -> Path:
    """Make a new run's folder with the backend directory that Triton is to read; return the folder.

    The wheel's folder lacks the stub where Triton looks for it and may be read-only, and Triton refuses a backend
    library that is a link to another folder: so the few files are copied (3 MB).
    """
    directory = Path(tempfile.gettempdir()) / f"{PREFIX}{os.getpid()}-{next(_numbers)}"
    python = directory / "backends" / "python"
    python.mkdir(parents=True)
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        shutil.copy(interpreter.tritonserver / "backends" / "python" / name, python)
    shutil.copy(interpreter.stub, python)
    for model in BACKENDS.glob("*/model.py"):
        (directory / "backends" / model.parent.name).mkdir()
        shutil.copy(model, directory / "backends" / model.parent.name)
    return directory


def remove(directory: Path) -> None:
    """Remove a run's folder, what is left of its Triton, and its shared memory."""
    for pid in _processes_of(directory.name):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    for region in SHARED_MEMORY.glob(f"{directory.name}-*"):
        with contextlib.suppress(OSError):
            region.unlink()
    shutil.rmtree(directory, ignore_errors=True)


def remove_abandoned(wait: float = 10.0) -> None:
    """Remove what this user's runs left whose owner was killed; a server that still shuts down gets `wait` seconds."""
    deadline = time.monotonic() + wait
    for directory in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if _is_abandoned(directory):
            while _processes_of(directory.name) and time.monotonic() < deadline:
                time.sleep(0.05)
            remove(directory)


def _is_abandoned(directory: Path) -> bool:
    match = re.fullmatch(rf"{PREFIX}(\d+)-\d+", directory.name)
    with contextlib.suppress(FileNotFoundError):
        return match is not None and directory.stat().st_uid == os.getuid() and not Path(f"/proc/{match[1]}").exists()
    return False


def _processes_of(name: str) -> list[int]:
    """Processes of Triton and its stubs whose command line holds this run's name."""
    pattern = re.compile(rb"%b(?!\d)" % re.escape(name.encode()))
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                program = command.partition(b"\0")[0].rpartition(b"/")[2]
                if program in PROGRAMS and pattern.search(command):
                    found.append(int(entry.name))
    return found
