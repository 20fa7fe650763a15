"""A plan by trtexec: its output goes to the log, its last line to whoever waits."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable

from model_build.engine._errors import EngineFailed
from model_build.engine.flags import find_flags
from model_build.engine.spec import Files, Spec
from model_build.engine.tools import Trtexec

_STAMP = re.compile(r"^\[\d\d/\d\d/\d{4}-[\d:]+\] (\[[VIWEF]\] )?(\[TRT\] )?")
END_TIMEOUT = 15  # seconds that trtexec gets to end when it is interrupted


def command_line(tool: Trtexec, spec: Spec, files: Files) -> list[str]:
    """The command with all of its flags."""
    return [*tool.command, *(str(flag) for flag in find_flags(spec, tool.version, files) if flag.present)]


def build(tool: Trtexec, spec: Spec, files: Files, status: Callable[[str], None]) -> str:
    """Build and time a plan; return the command.

    Args:
        tool: trtexec.
        spec: what is built.
        files: where everything is written; the folder is there.
        status: gets each line that trtexec prints, without its time stamp.

    Raises:
        EngineFailed: trtexec ended with an error, or without a plan.
    """
    command = command_line(tool, spec, files)
    # nvidia-smi, which was asked for the GPU, counts as the bus does.
    environment = {**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    errors: list[str] = []
    with files.log.open("w") as log:
        print("$", shlex.join(command), file=log, flush=True)
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            errors="replace",
        ) as process:
            try:
                assert process.stdout is not None  # it is a pipe
                for line in process.stdout:
                    log.write(line)
                    said = _STAMP.sub("", line).strip()
                    if "[E]" in line[:40]:
                        errors.append(said)
                    if said:
                        status(said)
            except BaseException:
                _end(process)
                raise
    if process.returncode != 0 or not files.plan.is_file():
        reason = " ".join((errors or ["it wrote no plan"])[0].split())[:300]
        raise EngineFailed(f"trtexec ended with exit code {process.returncode}: {reason}")
    return shlex.join(command)


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(END_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
