"""A real Triton as a child of this process: started, waited for, asked, stopped, and nothing left behind."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any

from serving import _runtime
from serving._errors import GoldenMismatch, PortTaken, ServerDied, StartError
from serving._golden import ask_golden, post
from serving._interpreter import ServerInterpreter
from serving._repository import ServedModel, built_by, verified_models

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1  # prctl(2)


@dataclass(frozen=True)
class ServerOptions:
    """Where a server listens, what it serves and how long it may take.

    Attributes:
        repository: the model repository.
        host: address that all three endpoints bind to.
        http_port, grpc_port, metrics_port: TCP ports.
        config_name: Triton's `--model-config-name`: `cpu` takes `configs/cpu.pbtxt` where a model has one.
        exit_timeout: seconds that running requests get after SIGTERM.
        arguments: further command-line arguments of tritonserver.
    """

    repository: Path
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    config_name: str = "cpu"
    exit_timeout: int = 30
    arguments: tuple[str, ...] = field(default=())

    @classmethod
    def on_free_ports(cls, repository: Path, arguments: tuple[str, ...] = ()) -> ServerOptions:
        """On loopback, at ports that nothing listens on now."""
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        http, grpc, metrics = (int(one.getsockname()[1]) for one in sockets)
        for one in sockets:
            one.close()
        return cls(repository, http_port=http, grpc_port=grpc, metrics_port=metrics, arguments=arguments)

    @property
    def http_url(self) -> str:
        """Base URL of the HTTP endpoint."""
        return f"http://{self.host}:{self.http_port}"

    @property
    def grpc_url(self) -> str:
        """URL of the gRPC endpoint."""
        return f"grpc://{self.host}:{self.grpc_port}"

    @property
    def metrics_url(self) -> str:
        """URL that Prometheus scrapes."""
        return f"http://{self.host}:{self.metrics_port}/metrics"


class EmbeddedTriton:
    """Triton from the wheel on a verified repository; a context manager, started on entry, stopped on exit.

    Args:
        interpreter: the environment that carries Triton (`find_interpreter`).
        options: what to serve and where.
        log: file that Triton's output is written to.
    """

    def __init__(self, interpreter: ServerInterpreter, options: ServerOptions, log: Path) -> None:
        self.interpreter = interpreter
        self.options = options
        self.log = log
        self.models: list[ServedModel] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._run: Path | None = None

    def __enter__(self) -> EmbeddedTriton:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """Process id of tritonserver while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Verify the repository, then start Triton; returns before it is ready.

        Raises:
            RepositoryError: a file is missing or is not the one built.
            PortTaken: one of the three ports is in use.
        """
        self.models = verified_models(self.options.repository)
        _runtime.remove_abandoned()
        self._check_ports()
        self._run = _runtime.compose(self.interpreter)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command(self._run),
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then stops Triton in order
                preexec_fn=_die_with_parent,
            )

    def wait_ready(self, timeout: float = 120.0, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Wait until every model is loaded and has given its golden answer, or `cancelled()` is true.

        Raises:
            StartError: Triton ended, a model failed to load, or `timeout` seconds passed.
            GoldenMismatch: a model answers, and not what it was built with.
        """
        deadline = time.monotonic() + timeout
        while not cancelled():
            index = self._index()
            if index is not None:
                self._check_loaded(index)
                self._check_golden(deadline, timeout, cancelled)
                return
            if self.pid is None:
                raise StartError(f"Triton ended while starting: {self._last_error()} (all of it: {self.log})")
            if time.monotonic() > deadline:
                raise StartError(f"Triton was not ready after {timeout:g} s: look into {self.log}, or pass --timeout")
            time.sleep(0.02)

    def check_alive(self) -> None:
        """Raise ServerDied when Triton has ended by itself."""
        if self._process is not None and (code := self._process.poll()) is not None:
            raise ServerDied(
                f"Triton ended by itself with exit code {code}: {self._last_error()} (all of it: {self.log})"
            )

    def stop(self) -> int:
        """Let running requests finish, end Triton, remove what it left; return its exit code (0: all finished)."""
        code = 0
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            try:
                code = self._process.wait(self.options.exit_timeout + 10)
            except subprocess.TimeoutExpired:
                code = -signal.SIGKILL
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # a stub that outlived its server ignores SIGTERM
            self._process.wait()
            self._process = None
        if self._run is not None:
            _runtime.remove(self._run)
            self._run = None
        return code

    def kill(self) -> None:
        """End Triton at once; running requests are lost."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self.stop()

    def _command(self, run: Path) -> list[str]:
        options, triton = self.options, self.interpreter.tritonserver
        return [
            str(triton / "bin" / "tritonserver"),
            f"--model-repository={options.repository.absolute()}",
            f"--model-config-name={options.config_name}",
            f"--backend-directory={run / 'backends'}",
            f"--cache-directory={triton / 'caches'}",
            f"--backend-config=python,shm-region-prefix-name={run.name}-",
            f"--http-address={options.host}",
            f"--http-port={options.http_port}",
            f"--grpc-address={options.host}",
            f"--grpc-port={options.grpc_port}",
            f"--metrics-address={options.host}",
            f"--metrics-port={options.metrics_port}",
            f"--exit-timeout-secs={options.exit_timeout}",
            # More threads than that only take the processor from the models: on two cores, 64 requests in flight, one
            # thread answers 1.1 times what Triton's default of eight does (benchmarks/backend.py's conditions).
            f"--http-thread-count={max(1, (os.cpu_count() or 1) // 2)}",
            "--exit-on-error=false",  # a model that fails is asked for its reason, then reported by name
            *options.arguments,
        ]

    def _environment(self) -> dict[str, str]:
        interpreter = self.interpreter
        libraries = [interpreter.bundled_libraries, interpreter.library_directory, os.environ.get("LD_LIBRARY_PATH")]
        return {
            **os.environ,
            "LD_LIBRARY_PATH": os.pathsep.join(str(path) for path in libraries if path),
            # Triton's stub takes the first python3 on the PATH as the interpreter of its models.
            "PATH": os.pathsep.join([str(interpreter.executable.parent), os.environ.get("PATH", os.defpath)]),
        }

    def _check_ports(self) -> None:
        options = self.options
        ports = {"http": options.http_port, "grpc": options.grpc_port, "metrics": options.metrics_port}
        for name, port in ports.items():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((options.host, port))
                except socket.gaierror as error:
                    raise PortTaken(f"'{options.host}' is no address of this machine: pass another --host") from error
                except OSError as error:
                    raise PortTaken(
                        f"cannot listen on {options.host}:{port} for {name} ({error.strerror}): "
                        f"stop what listens there, or pass --{name}-port"
                    ) from error

    def _index(self) -> list[dict[str, Any]] | None:
        """Triton's repository index (model repository extension), or None while nothing listens."""
        try:
            index: list[dict[str, Any]] = json.loads(post(f"{self.options.http_url}/v2/repository/index", b"{}", 5))
            return index
        except (OSError, HTTPException, ValueError):
            return None

    def _check_loaded(self, index: list[dict[str, Any]]) -> None:
        states = {entry["name"]: entry for entry in index}
        found = [(model.name, states.get(model.name, {})) for model in self.models]
        if failed := [(name, entry) for name, entry in found if entry.get("state") != "READY"]:
            # Of an ensemble with a step that did not load Triton says nothing, or only that: the step's reason is it.
            name, entry = max(failed, key=lambda one: "reason" in one[1] and "depends on" not in one[1]["reason"])
            reason = " ".join(str(entry.get("reason", "Triton does not list it")).split())
            raise StartError(f"model '{name}' did not load: {reason} (all of it: {self.log})")

    def _check_golden(self, deadline: float, timeout: float, cancelled: Callable[[], bool]) -> None:
        for model in self.models:
            if cancelled():
                return
            result = ask_golden(self.options.http_url, model, max(0.1, deadline - time.monotonic()))
            if not result and time.monotonic() >= deadline:
                raise StartError(
                    f"model '{model.name}' did not give its golden answer within {timeout:g} s: raise --timeout"
                )
            if not result:
                raise GoldenMismatch(
                    f"model '{model.name}' does not give its golden answer: {result.reason}; it was not built for this "
                    f"server or its files were changed: run `slipway build {built_by(model.directory)}`"
                )

    def _last_error(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("E") or "error" in line.lower()]
        return (errors or lines or ["it wrote nothing"])[-1].strip()


def _die_with_parent() -> None:
    """Between fork and exec: Triton gets SIGTERM, and so finishes in order, when this process is killed."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
