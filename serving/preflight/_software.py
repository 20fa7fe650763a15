"""The system that programs meet: C library, Python, and the environment that carries Triton."""

from __future__ import annotations

from pathlib import Path

from serving._errors import InterpreterError
from serving._interpreter import REQUIRED_GLIBC, check_glibc, find_interpreter
from serving.preflight._check import Check, Status
from serving.preflight._machine import Machine

PYTHON = "3.11"  # requires-python of pyproject.toml


def system(machine: Machine) -> Check:
    """Distribution, kernel and architecture; nothing is asked of them but what the other checks ask."""
    found = f"{machine.system}, Linux {machine.kernel}, {machine.architecture}"
    return Check("system", Status.OK, found, facts={"system": machine.system, "kernel": machine.kernel})


def software_checks(machine: Machine, workspace: Path) -> list[Check]:
    """C library, Python of the tools, interpreter of the server."""
    libc = _c_library(machine)
    return [libc, _python(machine), _environment(workspace) if libc else _unasked()]


def _c_library(machine: Machine) -> Check:
    required = ".".join(map(str, REQUIRED_GLIBC))
    found = " ".join(filter(None, machine.libc)) or "a C library other than glibc"
    try:
        check_glibc(machine.libc)
    except InterpreterError as error:
        return Check("C library", Status.PROBLEM, found, f"glibc {required} or newer", str(error))
    return Check("C library", Status.OK, found, f"glibc {required} or newer")


def _python(machine: Machine) -> Check:
    fits = machine.python.split(".")[:2] == PYTHON.split(".")
    advice = "" if fits else f"make the environments with Python {PYTHON}: `make env PYTHON=/path/to/python{PYTHON}`"
    return Check("Python", Status.OK if fits else Status.PROBLEM, machine.python, PYTHON, advice)


def _environment(workspace: Path) -> Check:
    needed = "nvidia-pytriton, onnxruntime, numpy 1.26"
    try:
        interpreter = find_interpreter(workspace)
    except InterpreterError as error:
        return Check("server environment", Status.PROBLEM, "does not serve", needed, str(error))
    except (OSError, ValueError) as error:  # it cannot be started, or answers what is no JSON
        reason = " ".join(str(error).split())[:200]
        advice = f"the server's interpreter does not run ({reason}): run `make env` again"
        return Check("server environment", Status.PROBLEM, "does not run", needed, advice)
    found = f"{interpreter.executable} (Python {interpreter.python})"
    return Check("server environment", Status.OK, found, needed, facts={"python": str(interpreter.executable)})


def _unasked() -> Check:
    return Check("server environment", Status.NOTE, "not asked: Triton does not run with this C library")
