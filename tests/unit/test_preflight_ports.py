"""The three ports of a server: free, or taken and by whom."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import ServerOptions
from serving.preflight import Check, Machine
from serving.preflight._ports import holder_of, port_checks
from tests.support import free_ports

HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one


def ports(*numbers: int, host: str = "127.0.0.1") -> list[Check]:
    http, grpc, metrics = numbers
    options = ServerOptions(Path(), host=host, http_port=http, grpc_port=grpc, metrics_port=metrics)
    return port_checks(options, Machine())


def table(address: str, port: int, inode: int, state: str = "0A") -> str:
    """A row of /proc/net/tcp, as proc(5) gives it."""
    return f"   0: {address}:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  0  0 {inode} 1\n"


def test_free_ports_are_free_and_stay_so() -> None:
    numbers = free_ports()
    for _ in range(2):
        found = ports(*numbers)
        assert [check.name for check in found] == ["http port", "grpc port", "metrics port"]
        assert all(found)
        assert [check.facts["free"] for check in found] == [True] * 3


def test_a_taken_port_names_the_process_and_the_option(listener: socket.socket) -> None:
    taken, (free, other) = listener.getsockname()[1], free_ports(2)
    http, grpc, metrics = ports(free, taken, other)
    assert (bool(http), bool(grpc), bool(metrics)) == (True, False, True)
    comm = Path("/proc/self/comm").read_text().strip()
    assert grpc.found == f"{taken} is taken by {comm} (pid {os.getpid()})"
    assert "--grpc-port" in grpc.advice


@pytest.mark.parametrize("everywhere", ["0.0.0.0", "::"])
def test_a_port_taken_on_all_addresses_is_taken_on_loopback(everywhere: str) -> None:
    family = socket.AF_INET6 if ":" in everywhere else socket.AF_INET
    try:
        server = socket.create_server((everywhere, 0), family=family, dualstack_ipv6=family == socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    with server:
        http, *_ = ports(server.getsockname()[1], *free_ports(2))
        assert f"(pid {os.getpid()})" in http.found


def test_connections_that_linger_do_not_hold_a_port(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)):
        accepted, _ = listener.accept()
        accepted.close()  # first: so this side is the one in TIME_WAIT
    listener.close()
    http, *_ = ports(port, *free_ports(2))
    assert http, http.found


def test_one_port_for_two_endpoints_is_a_problem() -> None:
    one, two = free_ports(2)
    http, grpc, metrics = ports(one, two, one)
    assert http
    assert grpc
    assert not metrics
    assert metrics.found == f"{one}, which is the http port too"


def test_an_address_of_another_machine_is_told() -> None:
    http, *_ = ports(*free_ports(), host="192.0.2.1")
    assert not http
    assert "Cannot assign requested address" in http.found


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), "is no address of this machine"),
        (UnicodeError("label empty or too long"), "is no address of this machine"),
        (PermissionError(13, "Permission denied"), "from 1024 on"),
    ],
)
def test_an_address_or_port_that_cannot_be_had_is_told(
    monkeypatch: pytest.MonkeyPatch, reason: Exception, words: str
) -> None:
    def refused(self: socket.socket, address: object) -> None:
        raise reason

    monkeypatch.setattr("serving.preflight._ports.socket.socket.bind", refused, raising=False)
    http, *_ = ports(80, 81, 82)
    assert not http
    assert words in http.advice


def test_a_process_of_another_user_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "proc" / "net").mkdir(parents=True)
    (tmp_path / "proc" / "net" / "tcp").write_text(HEADER + table("0100007F", 8000, 42))
    assert holder_of("127.0.0.1", 8000, Machine(root=tmp_path)) == "a process that this user may not see"


@pytest.mark.parametrize(
    ("name", "address", "state", "held"),
    [
        ("tcp", "0100007F", "0A", True),
        ("tcp", "00000000", "0A", True),
        ("tcp6", "0" * 32, "0A", True),
        ("tcp6", f"{'0' * 16}FFFF00000100007F", "0A", True),
        ("tcp", "0200000A", "0A", False),  # 10.0.0.2
        ("tcp", "0100007F", "01", False),  # a connection, not a listener
    ],
)
def test_only_who_listens_on_the_address_holds_the_port(
    tmp_path: Path, name: str, address: str, state: str, held: bool
) -> None:
    process = tmp_path / "proc" / "4711"
    (process / "fd").mkdir(parents=True)
    (process / "comm").write_text("tritonserver\n")
    (process / "fd" / "7").symlink_to("socket:[42]")
    (tmp_path / "proc" / "net").mkdir()
    (tmp_path / "proc" / "net" / name).write_text(HEADER + table(address, 8000, 42, state) + "odd\n")
    expected = "tritonserver (pid 4711)" if held else None
    assert holder_of("127.0.0.1", 8000, Machine(root=tmp_path)) == expected
    assert holder_of("127.0.0.1", 8001, Machine(root=tmp_path)) is None
