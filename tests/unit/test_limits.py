"""The stack that Triton's threads get: as large as the largest request needs, where the machine grants it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from serving import _limits

GIB = 2**30
NONE = resource.RLIM_INFINITY


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, object]:
    """What the limits are made of; a test changes it."""
    told: dict[str, object] = {"memory": 64 * GIB, "stack": (8 << 20, NONE), "space": (NONE, NONE), "overcommit": "0\n"}
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": lambda: int(str(told["memory"])) // 4096}
    monkeypatch.setattr(_limits, "OVERCOMMIT", tmp_path / "overcommit")
    monkeypatch.setattr(os, "sysconf", lambda name: one() if callable(one := pages[name]) else one)
    asked = {resource.RLIMIT_STACK: "stack", resource.RLIMIT_AS: "space"}
    monkeypatch.setattr(resource, "getrlimit", lambda which: told[asked[which]])
    return told


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, 4 * GIB + (64 << 20)),
        ({"memory": 6 * GIB}, 3 * GIB),
        ({"stack": (8 << 20, GIB)}, GIB),
        ({"stack": (NONE, NONE)}, 4 * GIB + (64 << 20)),
        ({"stack": (16 * GIB, NONE)}, None),
        ({"stack": (8 << 20, 8 << 20)}, None),
        ({"overcommit": "2\n"}, None),
        ({"space": (32 * GIB, NONE)}, None),
    ],
)
def test_the_stack_is_what_a_form_of_2_gib_needs_or_half_of_memory_or_what_is_allowed(
    machine: dict[str, object], changes: dict[str, object], size: int | None
) -> None:
    machine.update(changes)
    _limits.OVERCOMMIT.write_text(str(machine["overcommit"]))
    assert _limits.stack_size() == size


def test_a_program_of_the_cpu_image_starts_with_that_stack() -> None:
    command = [sys.executable, _limits.__file__, "sh", "-c", "ulimit -s"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    size = _limits.stack_size()
    assert result.stdout.strip() == (str(size // 1024) if size else subprocess.getoutput("ulimit -s"))
