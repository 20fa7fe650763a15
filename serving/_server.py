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

from serving import _diagnosis, _limits, _runtime
from serving._ending import ended_stub, how_it_ended, stubs_of
from serving._errors import GoldenMismatch, PortTaken, ServerDied, StartError
from serving._golden import ask_golden, post
from serving._interpreter import ServerInterpreter
from serving._repository import ServedModel, unbuilt_models, verified_models

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1  # prctl(2)

CRASH_REPORT = 3.0  # seconds in which Triton itself says why a model's process ended, where it does at all


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
        self.unbuilt: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._run: Path | None = None
        self._stubs: dict[int, str] = {}  # process id and model of each instance
        self._log_start: int | None = None  # bytes of the log that are of the Tritons before this one

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
        self.unbuilt = unbuilt_models(self.options.repository)
        _diagnosis.check_names(self.models)
        _runtime.remove_abandoned()
        self._check_ports()
        self._run = _runtime.compose(self.interpreter, self.models)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        stack = _limits.stack_size()
        with self.log.open("wb" if self._log_start is None else "ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                self._command(self._run),
                env=self._environment(self._run),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then stops Triton in order
                preexec_fn=lambda: _before_triton(stack),
            )

    def wait_ready(self, timeout: float = 120.0, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Wait until every model is loaded and has given its golden answer, or `cancelled()` is true.

        Raises:
            StartError: Triton ended, a model failed to load, or `timeout` seconds passed.
            GoldenMismatch: a model answers, and not what it was built with.
        """
        deadline = time.monotonic() + timeout
        crashed: dict[int, float] = {}
        while not cancelled():
            index = self._index()
            if index is not None:
                self._check_loaded(index)
                self._check_golden(deadline, timeout, cancelled)
                if self._process is not None and self._run is not None:
                    self._stubs = stubs_of(self._process.pid, _runtime.processes_of(self._run.name))
                return
            if self.pid is None:
                raise StartError(self._ending(" while starting"))
            for stub, ending in _runtime.crashed_stubs(self.pid).items():
                if time.monotonic() > crashed.setdefault(stub, time.monotonic()) + CRASH_REPORT:
                    missing = ", ".join(_diagnosis.not_loaded(self.log, self.models, self._log_start or 0))
                    raise StartError(
                        f"the Python process of a model ended by {ending} while it loaded (not loaded: {missing}): "
                        f"{self._last_error()} (all of it: {self.log})"
                    )
            if time.monotonic() > deadline:
                raise StartError(f"Triton was not ready after {timeout:g} s: look into {self.log}, or pass --timeout")
            time.sleep(0.02)

    def check_alive(self, patience: float = 0.0) -> None:
        """Raise ServerDied when Triton, or what runs a model, has ended; for Triton `patience` seconds are waited."""
        if self._ends_within(patience):
            raise ServerDied(self._ending())
        if ended := ended_stub(self._stubs):
            raise ServerDied(f"{ended} (its log: {self.log})")

    def restart(self) -> None:
        """Start Triton in place of one that is to go, and write after that one's log; otherwise as `start`."""
        self.stop(patience=5.0)  # of Triton that has lost a model's process: its requests hang, those of others end
        self.start()

    def stop(self, patience: float | None = None) -> int:
        """Let running requests finish, end Triton, remove what it left; return its exit code (0: all finished).

        They get `patience` seconds; without it, `exit_timeout`.
        """
        code, self._stubs = 0, {}
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            try:
                code = self._process.wait(self.options.exit_timeout + 10 if patience is None else patience)
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
        options, triton = self.options, run / _runtime.TRITON
        return [
            str(triton / "bin" / "tritonserver"),
            f"--model-repository={run / _runtime.MODELS}",
            f"--model-config-name={options.config_name}",
            f"--backend-directory={run / _runtime.BACKEND_DIRECTORY}",
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

    def _environment(self, run: Path) -> dict[str, str]:
        libraries = [run / _runtime.LIBRARIES, run / _runtime.PYTHON_LIBRARY, os.environ.get("LD_LIBRARY_PATH")]
        programs = run / _runtime.ENVIRONMENT / self.interpreter.executable.parent.name
        return {
            **os.environ,
            "LD_LIBRARY_PATH": os.pathsep.join(str(path) for path in libraries if path),
            # Triton's stub takes the first python3 on the PATH as the interpreter of its models.
            "PATH": os.pathsep.join([str(programs), os.environ.get("PATH", os.defpath)]),
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
        if reason := self._why_not_loaded(index):
            raise StartError(f"{reason} (all of it: {self.log})")

    def _why_not_loaded(self, index: list[dict[str, Any]]) -> str | None:
        said = _diagnosis.said(self.log, self._log_start or 0)
        return _diagnosis.why_not_loaded(index, self.models, self.options.config_name, self._links, said)

    def _check_golden(self, deadline: float, timeout: float, cancelled: Callable[[], bool]) -> None:
        for model in self.models:
            if cancelled():
                return
            result = ask_golden(self.options.http_url, model, max(0.1, deadline - time.monotonic()))
            if not result and self._ends_within(1.0):  # a connection breaks before the process is gone
                raise StartError(self._ending(f" when '{model.name}' was asked its golden request"))
            if not result and time.monotonic() >= deadline:
                raise StartError(
                    f"model '{model.name}' did not give its golden answer within {timeout:g} s: raise --timeout"
                )
            if not result:
                raise GoldenMismatch(
                    f"model '{model.name}' does not give its golden answer: {result.reason}",
                    _diagnosis.remedy(model, self.log, result.answered),
                )

    def _ends_within(self, patience: float) -> bool:
        """Whether Triton has ended by itself, or does within `patience` seconds."""
        deadline = time.monotonic() + patience
        while self.pid is not None and time.monotonic() < deadline:
            time.sleep(0.02)
        return self._process is not None and self.pid is None

    def _ending(self, when: str = "") -> str:
        """How Triton ended, in words: with its last error, or by a signal, which leaves no time to write one."""
        code = self._process.wait() if self._process else 0
        return (
            how_it_ended("Triton", code)
            + when
            + ("" if code < 0 else f": {self._last_error()}")
            + f" (its log: {self.log})"
        )

    @property
    def _links(self) -> Path:
        """Where Triton finds the models."""
        return (self._run or Path()) / _runtime.MODELS

    def _last_error(self) -> str:
        return _diagnosis.in_users_terms(
            _diagnosis.last_error(self.log, self._log_start or 0), self.models, self._links
        )


def _before_triton(stack: int | None) -> None:
    """Between fork and exec: room on the stack, and SIGTERM, so that it finishes, when this process is killed."""
    _limits.raise_stack_limit(stack)
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
