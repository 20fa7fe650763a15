"""The Python environment that carries Triton: found, asked about itself, and refused when it cannot serve."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from serving._errors import InterpreterError

ENVIRONMENT_VARIABLE = "SLIPWAY_TRITON_PYTHON"

_SLIPWAY = Path(__file__).parent.parent

# The newest symbol version that nvidia-pytriton 0.7.0's binaries ask of the C library (objdump -T).
REQUIRED_GLIBC = (2, 34)

# What the server's interpreter says of itself: nothing here is guessed from a path.
_QUESTION = """
import importlib.metadata as metadata, json, sysconfig
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
print(json.dumps({
    "python": sysconfig.get_python_version(),
    "library_directory": sysconfig.get_config_var("LIBDIR"),
    "library": sysconfig.get_config_var("INSTSONAME"),
    "site_packages": sysconfig.get_path("platlib"),
    "pytriton": version("nvidia-pytriton"),
    "numpy": version("numpy"),
    "onnxruntime": version("onnxruntime"),
}))
"""


@dataclass(frozen=True)
class ServerInterpreter:
    """The interpreter that runs Triton's Python stubs, and where its parts lie."""

    executable: Path
    python: str
    library_directory: Path
    site_packages: Path

    @property
    def tritonserver(self) -> Path:
        """Triton's folder in the wheel: `bin/`, `backends/`, `caches/`, `python_backend_stubs/`."""
        return self.site_packages / "pytriton" / "tritonserver"

    @property
    def bundled_libraries(self) -> Path:
        """The shared libraries that the wheel brings along."""
        return self.site_packages / "nvidia_pytriton.libs"

    @property
    def stub(self) -> Path:
        """The Python backend's stub for this interpreter's Python."""
        return self.tritonserver / "python_backend_stubs" / self.python / "triton_python_backend_stub"


def find_interpreter(workspace: Path) -> ServerInterpreter:
    """Return the server's interpreter: `$SLIPWAY_TRITON_PYTHON`, else `.venv-triton` of the workspace.

    Raises:
        InterpreterError: it is absent, lacks a package, or this machine's C library is too old for Triton.
    """
    check_glibc(platform.libc_ver())
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    executable = Path(named) if named else workspace / ".venv-triton" / "bin" / "python"
    if not executable.is_file():
        hint = f"correct {ENVIRONMENT_VARIABLE}" if named else _how_to_make_it(workspace)
        raise InterpreterError(f"the server's interpreter {executable} does not exist: {hint}")
    return _check(executable, _ask(executable))


def _how_to_make_it(workspace: Path) -> str:
    if (workspace / "Makefile").is_file():
        return "run `make env`, which makes it"
    own = _SLIPWAY / ".venv-triton" / "bin" / "python"
    take = f"`export {ENVIRONMENT_VARIABLE}={shlex.quote(str(own))}`"
    if own.is_file():
        return f"run {take}, which names the one that `make env` has made for Slipway itself"
    if (_SLIPWAY / "Makefile").is_file():
        return f"run `make -C {shlex.quote(str(_SLIPWAY))} env`, and then {take}"
    return f"set {ENVIRONMENT_VARIABLE} to the python of an environment with nvidia-pytriton, onnxruntime and numpy"


def check_glibc(libc: tuple[str, str]) -> None:
    """Refuse a C library that Triton's binaries cannot run on; `libc` is `platform.libc_ver()`."""
    name, version = libc
    required = ".".join(map(str, REQUIRED_GLIBC))
    numbers = tuple(int(part) for part in version.split(".") if part.isdecimal())
    if name != "glibc" or numbers < REQUIRED_GLIBC:
        found = f"{name} {version}".strip() or "a C library other than glibc"
        raise InterpreterError(
            f"Triton needs glibc {required} or newer and this machine has {found}: use Debian 12, Ubuntu 22.04 or newer"
        )


def _ask(executable: Path) -> dict[str, str | None]:
    answer = subprocess.run([executable, "-c", _QUESTION], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        reason = (answer.stderr.strip().splitlines() or ["no output"])[-1]
        raise InterpreterError(f"the server's interpreter {executable} does not run ({reason}): run `make env` again")
    facts: dict[str, str | None] = json.loads(answer.stdout)
    return facts


def _check(executable: Path, facts: dict[str, str | None]) -> ServerInterpreter:
    for package, key in (("nvidia-pytriton", "pytriton"), ("onnxruntime", "onnxruntime"), ("numpy", "numpy")):
        if facts[key] is None:
            raise InterpreterError(
                f"{executable} lacks {package}: run `make env` (or install serving/requirements.txt)"
            )
    beside = executable.parent / "python3"
    if not beside.exists() or beside.resolve() != executable.resolve():
        raise InterpreterError(
            f"Triton's models would not run in {executable} but in the python3 that comes first on the PATH: "
            f"name an environment whose {beside} is that interpreter"
        )
    if not str(facts["numpy"]).startswith("1."):
        raise InterpreterError(
            f"{executable} has numpy {facts['numpy']}, which silently corrupts the tensors of Triton's Python models: "
            "install numpy 1.26.4 there (serving/requirements.txt)"
        )
    interpreter = ServerInterpreter(
        executable=executable.absolute(),
        python=str(facts["python"]),
        library_directory=Path(str(facts["library_directory"])),
        site_packages=Path(str(facts["site_packages"])),
    )
    library = interpreter.library_directory / str(facts["library"])
    if not library.is_file():
        raise InterpreterError(
            f"{library} does not exist, and Triton's Python stub needs it: use a Python built with --enable-shared "
            "(Debian's python3.11 with libpython3.11)"
        )
    if not interpreter.stub.is_file():
        raise InterpreterError(
            f"nvidia-pytriton has no stub for Python {interpreter.python}: make its environment with 3.11"
        )
    return interpreter
