"""How Triton's processes ended, in words: a signal by its name."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path

_REASONS = {signal.SIGKILL: ", as the kernel does where memory runs out"}


def how_it_ended(who: str, code: int) -> str:
    """The start of a line from what `subprocess` says of an ended process: its exit code, or less than 0: a signal."""
    if code >= 0:
        return f"{who} ended by itself with exit code {code}"
    with contextlib.suppress(ValueError):
        number = signal.Signals(-code)
        return f"{who} was ended by {number.name}{_REASONS.get(number, '')}"
    return f"{who} was ended by signal {-code}"


def stubs_of(server: int, processes: list[int]) -> dict[int, str]:
    """Those of a run's `processes` that `server`, a process id, has started for its models, with each one's model."""
    found = {}
    for pid in processes:
        with contextlib.suppress(OSError):
            path = (Path("/proc") / str(pid) / "cmdline").read_bytes().split(b"\0")[1].decode(errors="replace")
            # .../models/digits/1/model.onnx, as Triton's Python backend names the version that a stub is to run
            if pid != server and (match := re.search(r"([^/]+)/\d+/[^/]+$", path)):
                found[pid] = match[1]
    return found


def ended_stub(stubs: dict[int, str]) -> str | None:
    """How the first of these stubs that has ended did so: Triton neither notices nor starts another in its place."""
    for pid, model in stubs.items():
        try:
            fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            fields = ["X", "0"]
        if fields[0] in "ZX":  # proc(5): state is the third field, exit_code the last
            code = os.waitstatus_to_exitcode(int(fields[-1]))
            return how_it_ended(f"the process of model '{model}'", code)
    return None
