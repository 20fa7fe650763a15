"""One built workspace and one server for the whole session; each test that changes something takes a copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving import EmbeddedTriton, ServerInterpreter, ServerOptions, find_interpreter
from tests.support import ROOT, build_fast, free_ports, make_workspace, slipway


@pytest.fixture(scope="session")
def interpreter() -> ServerInterpreter:
    """The server's environment, which `make test` has made."""
    return find_interpreter(ROOT)


@pytest.fixture(scope="session")
def built_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which `slipway build digits` has run, with the configuration as it is in git; read only."""
    workspace = make_workspace(tmp_path_factory.mktemp("workspace"))
    result = slipway(workspace, "build", "digits")
    assert result.returncode == 0, result.stderr
    return workspace


@pytest.fixture
def workspace(built_workspace: Path, tmp_path: Path) -> Path:
    """A copy of the built workspace that a test may change."""
    copy = tmp_path / "workspace"
    shutil.copytree(built_workspace, copy, symlinks=True)
    return copy


@pytest.fixture(scope="session")
def four_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with all four models in their fast configurations; read only."""
    workspace = make_workspace(tmp_path_factory.mktemp("four"))
    build_fast(workspace)
    return workspace


@pytest.fixture(scope="session")
def four_server(four_models: Path, interpreter: ServerInterpreter) -> Iterator[EmbeddedTriton]:
    """All four behind the embedded Triton, each having given its golden answer."""
    with start(interpreter, four_models / "model_repository", four_models / "triton.log") as triton:
        triton.wait_ready()
        yield triton


@pytest.fixture(scope="session")
def server(built_workspace: Path, interpreter: ServerInterpreter) -> Iterator[EmbeddedTriton]:
    """The built model behind the embedded Triton."""
    with start(interpreter, built_workspace / "model_repository", built_workspace / "triton.log") as triton:
        triton.wait_ready()
        yield triton


def start(interpreter: ServerInterpreter, repository: Path, log: Path, *arguments: str) -> EmbeddedTriton:
    """A server on `repository` at free ports, not yet started."""
    http, grpc, metrics = free_ports()
    options = ServerOptions(repository, http_port=http, grpc_port=grpc, metrics_port=metrics, arguments=arguments)
    return EmbeddedTriton(interpreter, options, log)


@pytest.fixture
def serve(interpreter: ServerInterpreter, tmp_path: Path) -> Callable[..., EmbeddedTriton]:
    """Make a server on a repository of the test's own."""
    return lambda repository, *arguments: start(interpreter, repository, tmp_path / "triton.log", *arguments)
