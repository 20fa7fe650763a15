"""A Triton that dies while it serves: said with the signal, started again, and nothing left behind."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from serving import EmbeddedTriton, StartError
from tests.serve_command import Command, alive, infer, serving
from tests.support import ROOT, free_ports, named, wait_for, write_manifest
from tests.text_models import ECHO, TEXT, write_python_model

Serve = Callable[..., EmbeddedTriton]

# Ends the server that asks it.
KILLER = """
import os, signal, time

class TritonPythonModel:
    def execute(self, requests):
        os.kill(os.getppid(), signal.SIGSEGV)
        time.sleep(60)
"""


def test_triton_that_dies_is_started_again_and_answers_until_the_fourth_time(workspace: Path) -> None:
    with serving(workspace) as command:
        for count, number in enumerate((signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL), 1):
            triton(command).send_signal(number)
            wait_back(command, count)
            assert infer(command.url, "digits", workspace) == 200
        triton(command).kill()
        assert command.process.wait(30) == 1
    lines = [line for line in command.output.read_text().splitlines() if "was ended by" in line]
    log = workspace / "build" / f"triton-{command.ports[0]}.log"
    for line, (name, count) in zip(lines, (("SIGSEGV", 1), ("SIGABRT", 2)), strict=False):
        expected = f"(its log: {log}); it is started again ({count} of 3 times within 10 minutes)"
        assert line == f"warning: Triton was ended by {name} {expected}"
    assert lines[-1].startswith("error: Triton was ended by SIGKILL, as the kernel does where memory runs out")
    assert len(lines) == 4
    assert log.read_text().count("Started HTTPService") == 4, "the log of each Triton is kept"
    assert command.leftovers() == []


def wait_back(command: Command, times: int) -> None:
    """Wait until Triton has been started again, and was ready, so many times."""
    wait_for(lambda: command.output.read_text().count("ready again") == times, "Triton is back")


def triton(command: Command) -> psutil.Process:
    return named(command.family(), "tritonserver")[0]


def test_a_model_whose_process_died_is_served_again_and_stopping_meanwhile_works(workspace: Path) -> None:
    with serving(workspace) as command:
        stub = named(triton(command).children(), "stub")[0]
        family = [*command.family()]
        stub.send_signal(signal.SIGABRT)
        wait_for(lambda: "it is started again" in command.output.read_text(), "the death is told")
        command.process.send_signal(signal.SIGINT)
        assert command.process.wait(60) == 0
    assert "was ended by SIGABRT (its log" in command.output.read_text()
    assert "warning: the process of model 'digits" in command.output.read_text()
    assert command.output.read_text().endswith("stopped before it was ready again\n")
    assert alive(family) == []
    assert command.leftovers() == []


def test_a_server_that_others_can_reach_says_in_one_line_what_it_is_not_for(workspace: Path) -> None:
    command = Command(workspace, free_ports(), "--host", "0.0.0.0")
    wait_for(lambda: "warning:" in command.output.read_text(), "the warning is printed")
    command.process.terminate()
    command.process.wait(60)
    (line,) = [line for line in command.output.read_text().splitlines() if "warning" in line]
    assert line.startswith("warning: others can reach 0.0.0.0, and one request of theirs can end this Triton 24.10")
    assert "NVIDIA's image (docs/kubernetes.md, On CPUs with NVIDIA's image)" in line
    assert "## On CPUs with NVIDIA's image\n" in (ROOT / "docs" / "kubernetes.md").read_text()


def test_a_golden_request_that_ends_triton_is_named_with_the_signal(tmp_path: Path, serve: Serve) -> None:
    write_python_model(tmp_path / "models", "plus", KILLER, f"{TEXT} {ECHO}")
    golden = tmp_path / "models" / "plus" / "golden"
    text = {"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["a"]}
    (golden / "request.json").write_text(json.dumps({"inputs": [text]}))
    answer = {"parameters": {"atol": 0}, "outputs": [{**text, "name": "echo"}]}
    (golden / "response.json").write_text(json.dumps(answer))
    write_manifest(golden.parent)
    message = (
        r"^Triton was ended by SIG(SEGV|ABRT) when 'plus' was asked its golden request \(its log: .*triton\.log\)$"
    )
    with serve(tmp_path / "models") as server, pytest.raises(StartError, match=message):
        server.wait_ready()
