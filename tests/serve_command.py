"""`slipway serve` as a process that tests start, ask and stop."""

from __future__ import annotations

import json
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.support import BIN, environment, free_ports, wait_for


class Command:
    """`slipway serve` as a process, with what it printed."""

    def __init__(self, workspace: Path, ports: list[int], *more: str) -> None:
        self.ports = ports
        self.output = workspace / "serve.out"
        names = ("--http-port", "--grpc-port", "--metrics-port")
        options = [str(word) for pair in zip(names, ports, strict=True) for word in pair]
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [str(BIN / "slipway"), "serve", *options, *more],
                cwd=workspace,
                env=environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    def wait_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.output.read_text()
            return "\nready" in self.output.read_text()

        wait_for(ready, "slipway serve is ready")

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def leftovers(self) -> list[str]:
        """Files that a run of this process's name has in /dev/shm and in the temporary folder."""
        name = f"slipway-triton-{self.process.pid}"
        return [str(p) for folder in ("/dev/shm", tempfile.gettempdir()) for p in Path(folder).glob(f"{name}*")]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended; one that only waits for its parent to read its exit status has."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found += [process] if process.status() != psutil.STATUS_ZOMBIE else []
    return found


@contextmanager
def serving(workspace: Path, ports: list[int] | None = None, *more: str) -> Iterator[Command]:
    command = Command(workspace, ports or free_ports(), *more)
    try:
        command.wait_ready()
        yield command
    finally:
        if command.process.poll() is None:
            command.process.terminate()
        command.process.wait(60)


def infer(url: str, model: str, workspace: Path) -> int:
    """Send the golden request; return the HTTP status."""
    body = (workspace / "model_repository" / model / "golden" / "request.json").read_bytes()
    with urllib.request.urlopen(f"{url}/v2/models/{model}/infer", data=body, timeout=60) as reply:
        json.load(reply)
        return int(reply.status)
