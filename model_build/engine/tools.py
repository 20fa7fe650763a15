"""What is here: the GPU, and the TensorRT that builds for it."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_build.engine._errors import EngineError, NoGpu, ToolMissing
from model_build.target import TARGET

IMAGE = f"nvcr.io/nvidia/tritonserver:{TARGET.triton_release}-py3"
IN_IMAGE = "/usr/src/tensorrt/bin/trtexec"  # where NVIDIA's packages and images put it, and no PATH leads


@dataclass(frozen=True)
class Version:
    """Of TensorRT: major, minor, patch and build, as far as they are known."""

    parts: tuple[int, ...]

    def __str__(self) -> str:
        return ".".join(map(str, self.parts))

    @property
    def always_typed(self) -> bool:
        """Since 11 every network is strongly typed."""
        return self.parts >= (11,)

    @classmethod
    def from_banner(cls, text: str) -> Version | None:
        """Of `[TensorRT v101201] [b36]`, which trtexec says first whatever it is asked; 8.6.1 is v8601 there."""
        match = re.search(r"\[TensorRT v([\d.]+)\](?: \[b(\d+)\])?", text)
        if match is None:
            return None
        parts = tuple(int(part) for part in match[1].split("."))
        if len(parts) == 1:
            (number,) = parts
            major = 10_000 if number >= 10_000 else 1_000
            parts = (number // major, number % major // 100, number % 100)
        return cls((*parts, int(match[2])) if match[2] and len(parts) == 3 else parts)

    @classmethod
    def from_text(cls, text: str) -> Version:
        """Of `tensorrt.__version__`."""
        return cls(tuple(int(part) for part in re.findall(r"\d+", text)[:4]))


OLDEST = Version((10, 12))  # the first that builds our typed graphs
ASSUMED = Version((11,))  # in TARGET, whose onnxruntime backend was made ready for it


@dataclass(frozen=True)
class Gpu:
    """The GPU that the plan is built on.

    Attributes:
        name: `NVIDIA H200`.
        capability: compute capability, `9.0`.
        driver: its version.
    """

    name: str
    capability: str
    driver: str


@dataclass(frozen=True)
class Trtexec:
    """The program; `command` may begin with `docker run`."""

    command: tuple[str, ...]
    version: Version


@dataclass(frozen=True)
class PythonApi:
    """The package tensorrt."""

    module: Any
    version: Version


def find_gpu(model: str, environment: Mapping[str, str] = os.environ) -> Gpu:
    """The GPU that TensorRT will take: the first that CUDA_VISIBLE_DEVICES names, else the first.

    Raises:
        EngineError: there are several kinds.
        NoGpu: there is none.
    """
    command = ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    advice = f"a plan is built on the GPU that runs it; `slipway engine {model} --explain` says how"
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        first = visible.split(",")[0].strip()
        if first in ("", "-1"):
            raise NoGpu(f"no GPU is visible (CUDA_VISIBLE_DEVICES is '{visible}'): {advice}")
        command += ["-i", first]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError:
        raise NoGpu(f"no GPU is here (there is no nvidia-smi): {advice}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoGpu(f"no GPU is here (nvidia-smi: {error}): {advice}") from error
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]
    if answer.returncode != 0 or not rows or len(rows[0]) != 3:
        said = " ".join((answer.stderr + answer.stdout).split())[:200]
        raise NoGpu(f"no GPU is here (nvidia-smi: {said or 'it lists none'}): {advice}")
    gpus = [Gpu(*row) for row in rows]
    if len({gpu.capability for gpu in gpus}) > 1:
        kinds = ", ".join(f"{gpu.name} ({gpu.capability})" for gpu in gpus)
        raise EngineError(f"which GPU? {kinds}: say it with CUDA_VISIBLE_DEVICES, a plan fits one compute capability")
    return gpus[0]


def find_tool(workspace: Path, command: str | None = None) -> Trtexec | PythonApi | None:
    """`command`, else trtexec, else the Python package, else None.

    Args:
        workspace: the folder that a container must see.
        command: how trtexec is called, as a shell would read it.

    Raises:
        ToolMissing: it cannot be called, or is too old.
    """
    tool = _trtexec(shlex.split(command)) if command else _find()
    if tool is not None and tool.version.parts < OLDEST.parts:
        raise ToolMissing(
            f"TensorRT is {tool.version}: expected {OLDEST} or newer, which takes the types of the graph: "
            f"{advice(workspace)}"
        )
    return tool


def container_command(workspace: Path) -> str:
    """How trtexec is called of the Triton release that serves, seeing the workspace under the path that it has here.

    `--init`, so that a signal ends it: trtexec as the container's first process would ignore it.
    """
    here = shlex.quote(f"{workspace}:{workspace}")
    user = f"{os.getuid()}:{os.getgid()}"
    return f"docker run --rm --init --gpus all --user {user} -v {here} --entrypoint {IN_IMAGE} {IMAGE}"


def advice(workspace: Path) -> str:
    """Where to get a TensorRT, the one that will open the plan."""
    return f"""take that of the Triton that serves: export SLIPWAY_TRTEXEC="{container_command(workspace)}\""""


def _find() -> Trtexec | PythonApi | None:
    for path in (shutil.which("trtexec"), IN_IMAGE if Path(IN_IMAGE).is_file() else None):
        if path:
            return _trtexec([path])
    try:
        module = importlib.import_module("tensorrt")
        return PythonApi(module, Version.from_text(module.__version__))
    except (ImportError, OSError, AttributeError):  # OSError: one of its libraries is missing
        return None


def _trtexec(command: list[str]) -> Trtexec:
    try:  # no timeout: a container's image may have to be pulled first
        answer = subprocess.run([*command, "--help"], capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise ToolMissing(
            f"{shlex.join(command)} cannot be run ({error}): say with --trtexec how it is called"
        ) from error
    said = answer.stdout + answer.stderr
    version = Version.from_banner(said)
    if version is None:
        line = next(iter(said.strip().splitlines()[-1:]), "nothing")
        raise ToolMissing(f"{shlex.join(command)} --help does not say a version of TensorRT, but: {line[:200]}")
    return Trtexec(tuple(command), version)
