"""Starting and stopping: nothing half-built is served, no running request is lost, nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from serving import EmbeddedTriton, GoldenMismatch, PortTaken, RepositoryError, ServerDied, StartError
from tests.serve_command import Command, alive, infer, serving
from tests.support import (
    error_lines,
    free_ports,
    named,
    slipway,
    wait_for,
    write_manifest,
    write_slow_model,
)

Serve = Callable[..., EmbeddedTriton]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_answers_every_running_request_and_leaves_nothing(workspace: Path, number: signal.Signals) -> None:
    write_slow_model(workspace / "model_repository")
    statuses: list[int] = []
    with serving(workspace) as command:
        family = command.family()
        assert named(family, "tritonserver")
        threads = [
            threading.Thread(target=lambda: statuses.append(infer(command.url, "slow", workspace))) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        wait_for(lambda: pending(command.ports[2], "slow") >= 2, "requests are queued behind a running one")
        assert statuses == []
        command.process.send_signal(number)
        assert command.process.wait(60) == 0
        for thread in threads:
            thread.join()
    assert statuses == [200, 200, 200]
    assert command.output.read_text().endswith("stopped: every request was answered\n")
    assert alive(family) == []
    assert command.leftovers() == []
    for port in command.ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def pending(port: int, model: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
        lines = reply.read().decode().splitlines()
    return sum(
        float(line.split()[-1])
        for line in lines
        if line.startswith(f'nv_inference_pending_request_count{{model="{model}"')
    )


def test_after_sigkill_triton_ends_by_itself_and_the_next_start_works_on_the_same_ports(workspace: Path) -> None:
    with serving(workspace) as command:
        family = command.family()
        command.process.kill()
        command.process.wait()
        wait_for(lambda: not any(process.is_running() for process in family), "Triton and its stubs end")
    with serving(workspace, command.ports) as again:
        assert infer(again.url, "digits", workspace) == 200
        assert command.leftovers() == []
    assert again.process.returncode == 0
    assert again.leftovers() == []


def test_sigkill_of_everything_at_once_leaves_nothing_that_the_next_start_does_not_remove(workspace: Path) -> None:
    with serving(workspace) as command:
        for process in [psutil.Process(command.process.pid), *command.family()]:
            process.kill()
        command.process.wait()
        assert command.leftovers() != []
    with serving(workspace, command.ports) as again:
        assert infer(again.url, "digits", workspace) == 200
        assert command.leftovers() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_stopping_while_models_load_says_so_and_leaves_nothing(workspace: Path, number: signal.Signals) -> None:
    write_slow_model(workspace / "model_repository", steps=100)  # its golden answer takes seconds
    command = Command(workspace, free_ports())
    wait_for(lambda: bool(named(command.family(), "tritonserver")), "Triton is started")
    family = command.family()
    command.process.send_signal(number)
    assert command.process.wait(60) == 0
    assert command.output.read_text().endswith("stopped before it was ready\n")
    assert alive(family) == []
    assert command.leftovers() == []


def test_a_model_that_is_named_is_served_alone_with_its_variants(workspace: Path) -> None:
    write_slow_model(workspace / "model_repository")
    with serving(workspace, None, "digits") as command:
        assert infer(command.url, "digits", workspace) == 200
        assert "digits, digits_fp16, digits_fp32, digits_int8 (each gave" in command.output.read_text()


def test_two_servers_of_one_process_do_not_touch_each_other(workspace: Path, serve: Serve) -> None:
    repository = workspace / "model_repository"
    with serve(repository) as first:
        first.wait_ready()
        with serve(repository) as second:
            second.wait_ready()
            first.check_alive()
            assert infer(second.options.http_url, "digits", workspace) == 200
        assert infer(first.options.http_url, "digits", workspace) == 200


def test_a_proxy_in_the_environment_is_not_asked_for_the_own_server(
    workspace: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with serve(workspace / "model_repository") as server:
        server.wait_ready(timeout=30)


def test_a_taken_port_is_named_and_nothing_is_started(workspace: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = slipway(workspace, "serve", "--grpc-port", str(port), "--http-port", str(free_ports(1)[0]))
    assert result.returncode == 1
    assert error_lines(result) == [
        f"error: cannot listen on 127.0.0.1:{port} for grpc (Address already in use): "
        "stop what listens there, or pass --grpc-port"
    ]


@pytest.mark.parametrize(
    ("folder", "damage", "message"),
    [
        ("digits_fp32", lambda f: (f / "1" / "model.onnx").unlink(), "lacks"),
        ("digits_int8", lambda f: cut_short(f / "1" / "model.tensorrt.onnx"), "is not the file that was built"),
        ("digits", lambda f: (f / "config.pbtxt").write_text("name: 'digits'"), "is not the file that was built"),
        ("digits_fp16", lambda f: (f / "manifest.json").unlink(), "it was not built, or not completely"),
    ],
)
def test_a_repository_that_is_not_what_was_built_is_never_served(
    workspace: Path, folder: str, damage: Callable[[Path], object], message: str
) -> None:
    damage(workspace / "model_repository" / folder)
    ports = [str(port) for port in free_ports()]
    result = slipway(workspace, "serve", "--http-port", ports[0], "--grpc-port", ports[1], "--metrics-port", ports[2])
    assert result.returncode == 1
    (line,) = error_lines(result)
    assert message in line
    assert "`slipway build digits`" in line


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def test_a_model_that_loads_and_answers_wrongly_is_refused(workspace: Path, serve: Serve) -> None:
    folder = workspace / "model_repository" / "digits_fp32"
    response = json.loads((folder / "golden" / "response.json").read_text())
    response["outputs"][0]["data"][0] += 0.01
    (folder / "golden" / "response.json").write_text(json.dumps(response))
    write_manifest(folder)
    with serve(workspace / "model_repository") as server, pytest.raises(GoldenMismatch) as refused:
        server.wait_ready()
    assert "model 'digits_fp32' does not give its golden answer: 'probabilities' is off by 0.01, allowed 0.0001" in str(
        refused.value
    )
    assert "run `slipway build digits`" in str(refused.value)


def test_a_model_that_does_not_load_is_named_with_the_reason(workspace: Path, serve: Serve) -> None:
    folder = workspace / "model_repository" / "digits_fp32"
    (folder / "1" / "model.onnx").write_bytes(b"no graph")
    write_manifest(folder)
    with serve(workspace / "model_repository") as server, pytest.raises(StartError) as refused:
        server.wait_ready()
    assert "model 'digits_fp32' did not load" in str(refused.value)
    assert "1/model.onnx" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_server_that_is_not_ready_in_time_says_so_and_is_stopped(workspace: Path, serve: Serve) -> None:
    server = serve(workspace / "model_repository")
    with server, pytest.raises(StartError, match=r"was not ready after 0\.01 s: look into .*triton\.log"):
        server.wait_ready(timeout=0.01)
    assert server.pid is None


def test_the_library_reports_ports_repository_and_a_dead_server(workspace: Path, serve: Serve) -> None:
    with pytest.raises(RepositoryError):
        serve(workspace / "nothing").start()
    with serve(workspace / "model_repository") as server:
        server.wait_ready()
        with pytest.raises(PortTaken):
            EmbeddedTriton(server.interpreter, server.options, workspace / "other.log").start()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        wait_for(lambda: server.pid is None, "Triton has ended")
        with pytest.raises(ServerDied, match="Triton was ended by SIGKILL"):
            server.check_alive()
