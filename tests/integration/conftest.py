"""Workspaces that are built once, and servers on them; each test that changes something takes a copy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from serving import EmbeddedTriton, ServerInterpreter, ServerOptions, find_interpreter
from tests.support import ROOT, build_fast, make_workspace, slipway


@pytest.fixture(scope="session")
def interpreter() -> ServerInterpreter:
    """The server's environment, which `make test` has made."""
    return find_interpreter(ROOT)


def once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], None]) -> Path:
    """A workspace in which `build` has run, once for all of pytest-xdist's workers; read only."""
    shared = factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()
    folder, failed = shared / name, shared / f"{name}.failed"
    with FileLock(shared / f"{name}.lock"):
        assert not failed.exists(), failed.read_text()
        if not folder.exists():
            failed.write_text(f"{folder} was not built: see the first test that needed it")
            build(make_workspace(folder))
            failed.unlink()
    return folder


def build_digits(workspace: Path) -> None:
    """As its configuration is in git."""
    result = slipway(workspace, "build", "digits")
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="session")
def built_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which `slipway build digits` has run; read only."""
    return once(tmp_path_factory, "digits", build_digits)


@pytest.fixture
def workspace(built_workspace: Path, tmp_path: Path) -> Path:
    """A copy of the built workspace that a test may change."""
    copy = tmp_path / "workspace"
    shutil.copytree(built_workspace, copy, symlinks=True)
    return copy


@pytest.fixture(scope="session")
def four_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with all four models in their fast configurations; read only."""
    return once(tmp_path_factory, "four", build_fast)


@pytest.fixture(scope="session")
def four_server(
    four_models: Path, interpreter: ServerInterpreter, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedTriton]:
    """All four behind the embedded Triton, each having given its golden answer."""
    log = tmp_path_factory.mktemp("four-server") / "triton.log"
    with start(interpreter, four_models / "model_repository", log) as triton:
        triton.wait_ready()
        yield triton


@pytest.fixture(scope="session")
def server(
    built_workspace: Path, interpreter: ServerInterpreter, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedTriton]:
    """The built model behind the embedded Triton."""
    log = tmp_path_factory.mktemp("server") / "triton.log"
    with start(interpreter, built_workspace / "model_repository", log) as triton:
        triton.wait_ready()
        yield triton


def start(interpreter: ServerInterpreter, repository: Path, log: Path, *arguments: str) -> EmbeddedTriton:
    """A server on `repository` at free ports, not yet started."""
    return EmbeddedTriton(interpreter, ServerOptions.on_free_ports(repository, arguments), log)


@pytest.fixture
def serve(interpreter: ServerInterpreter, tmp_path: Path) -> Callable[..., EmbeddedTriton]:
    """Make a server on a repository of the test's own."""
    return lambda repository, *arguments: start(interpreter, repository, tmp_path / "triton.log", *arguments)
