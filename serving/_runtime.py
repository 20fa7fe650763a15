"""What one run of Triton leaves on the machine, in one place, so that it can be removed: also by the next run.

A run owns a folder `slipway-triton-<pid>-<number>` under the temporary directory (the backends that Triton reads, links
to the models and to the server's environment) and the shared-memory regions whose names begin with that same name.

The links are there because Triton hands its paths to its Python stub through a shell and an interpreter that knows no
encoding but ASCII: a space, a quotation mark or an umlaut above a repository would be the end of the stub.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from serving._errors import StartError
from serving._interpreter import ServerInterpreter
from serving._repository import ServedModel

PREFIX = "slipway-triton-"
PROGRAMS = (b"tritonserver", b"triton_python_backend_stub")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Triton's Python backend puts its regions
BACKENDS = Path(__file__).parent / "backends"
SHARED = "_onnx"

# What a run's folder holds.
BACKEND_DIRECTORY, MODELS = "backends", "models"
ENVIRONMENT, TRITON, LIBRARIES, PYTHON_LIBRARY = "environment", "triton", "libraries", "python-library"

_PLAIN = re.compile(r"[A-Za-z0-9/._+-]+")
_numbers = itertools.count()


def compose(interpreter: ServerInterpreter, models: Sequence[ServedModel]) -> Path:
    """Make a new run's folder with all that Triton is to read; return the folder.

    The wheel's folder lacks the stub where Triton looks for it and may be read-only, and Triton refuses a backend
    library that is a link to another folder: so the few files are copied (3 MB). The models are those that were
    verified, and nothing else that lies beside them.

    Raises:
        StartError: there is no temporary folder with a path that Triton's stub can take.
    """
    directory = temporary_folder() / f"{PREFIX}{os.getpid()}-{next(_numbers)}"
    python = directory / BACKEND_DIRECTORY / "python"
    python.mkdir(parents=True)
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        shutil.copy(interpreter.tritonserver / "backends" / "python" / name, python)
    shutil.copy(interpreter.stub, python)
    ours = shutil.ignore_patterns("__pycache__")
    for backend in sorted(path.parent for path in BACKENDS.glob("*/model.py")):
        target = directory / BACKEND_DIRECTORY / backend.name
        shutil.copytree(backend, target, ignore=ours)
        shutil.copytree(_shared_with_client(), target / SHARED, ignore=ours)
    links = {
        **{f"{MODELS}/{model.name}": model.directory for model in models},
        ENVIRONMENT: interpreter.executable.parent.parent,
        TRITON: interpreter.tritonserver,
        LIBRARIES: interpreter.bundled_libraries,
        PYTHON_LIBRARY: interpreter.library_directory,
    }
    for name, target in links.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).symlink_to(target.absolute())
    return directory


def _shared_with_client() -> Path:
    """The part of the client that reads config.pbtxt for `local:`, and here for the backend: one meaning for both."""
    client = importlib.util.find_spec("slipway_client")
    assert client is not None  # what starts a server asks it with the client
    assert client.origin is not None
    return Path(client.origin).with_name(SHARED)


def temporary_folder() -> Path:
    """The folder for temporary files, or another one where programs may run and whose path Triton's stub can take.

    Raises:
        StartError: there is none.
    """
    given = tempfile.gettempdir()
    for folder in (given, "/tmp", "/var/tmp"):  # noqa: S108 - a folder of its own is made there
        usable = _PLAIN.fullmatch(folder) and os.access(folder, os.W_OK | os.X_OK)
        if usable and not os.statvfs(folder).f_flag & os.ST_NOEXEC:
            return Path(folder)
    raise StartError(
        f"the temporary folder {given} is none that Triton can run in: set TMPDIR to a folder that can be written to, "
        "whose programs may run, and whose path is of ASCII letters, digits and /._+-"
    )


def crashed_stubs(server: int) -> dict[int, str]:
    """How Python stubs of the server with this process id ended that did so other than in order, by process id.

    Triton waits for such a stub as long as it waits for one that loads its model, and leaves it a zombie. One that it
    has ended itself is one for a moment, and then gone.
    """
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, ValueError):
                # proc(5): the name is in parentheses, and may hold some itself.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                state, parent, status = fields[0], int(fields[1]), int(fields[-1])
                code = os.waitstatus_to_exitcode(status)
                if (state, parent) == ("Z", server) and code not in (0, 1):  # 1: it was told to end
                    found[int(entry.name)] = f"exit code {code}" if code > 0 else signal.Signals(-code).name
    return found


def remove(directory: Path) -> None:
    """Remove a run's folder, what is left of its Triton, and its shared memory."""
    for pid in processes_of(directory.name):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    for region in SHARED_MEMORY.glob(f"{directory.name}-*"):
        with contextlib.suppress(OSError):
            region.unlink()
    shutil.rmtree(directory, ignore_errors=True)


def remove_abandoned(wait: float = 10.0) -> None:
    """Remove what this user's runs left whose owner was killed; a server that still shuts down gets `wait` seconds."""
    deadline = time.monotonic() + wait
    for directory in temporary_folder().glob(f"{PREFIX}*"):
        if _is_abandoned(directory):
            while processes_of(directory.name) and time.monotonic() < deadline:
                time.sleep(0.05)
            remove(directory)


def _is_abandoned(directory: Path) -> bool:
    match = re.fullmatch(rf"{PREFIX}(\d+)-\d+", directory.name)
    with contextlib.suppress(FileNotFoundError):
        return match is not None and directory.stat().st_uid == os.getuid() and not Path(f"/proc/{match[1]}").exists()
    return False


def processes_of(name: str) -> list[int]:
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
