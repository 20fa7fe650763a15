"""What one run of Triton leaves on the machine, in one place, so that it can be removed: also by the next run.

A run owns a folder `slipway-triton-<pid>` under the temporary directory (the backends that Triton reads) and the
shared-memory regions whose names begin with that same name.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import tempfile
import time
from pathlib import Path

from serving._interpreter import ServerInterpreter

PREFIX = "slipway-triton-"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Triton's Python backend puts its regions
BACKENDS = Path(__file__).parent / "backends"


def compose(interpreter: ServerInterpreter) -> Path:
    """Make this process's run folder with the backend directory that Triton is to read; return the folder.

    The wheel's folder lacks the stub where Triton looks for it and may be read-only, and Triton refuses a backend
    library that is a link to another folder: so the four files are copied (7 MB).
    """
    directory = Path(tempfile.gettempdir()) / f"{PREFIX}{os.getpid()}"
    remove(directory)
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
    """Remove a run's folder, the processes that still name it, and its shared memory."""
    for pid in _processes_naming(directory.name):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    for region in SHARED_MEMORY.glob(f"{directory.name}-*"):
        region.unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)


def remove_abandoned(wait: float = 10.0) -> None:
    """Remove what runs left whose owner was killed; a server that is still shutting down gets `wait` seconds."""
    directories = [path for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*") if not _owner_lives(path)]
    deadline = time.monotonic() + wait
    for directory in directories:
        while _processes_naming(directory.name) and time.monotonic() < deadline:
            time.sleep(0.05)
        remove(directory)


def _owner_lives(directory: Path) -> bool:
    match = re.fullmatch(rf"{PREFIX}(\d+)", directory.name)
    return match is None or Path(f"/proc/{match[1]}").exists()


def _processes_naming(name: str) -> list[int]:
    """Processes (Triton and its stubs) whose command line holds this run's name; this process does not count."""
    pattern = re.compile(rb"%b(?!\d)" % re.escape(name.encode()))
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if pattern.search((entry / "cmdline").read_bytes()):
                    found.append(int(entry.name))
    return found
