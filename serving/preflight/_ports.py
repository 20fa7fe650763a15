"""The three ports of `slipway serve`: free, or taken, and by whom."""

from __future__ import annotations

import contextlib
import socket

from serving._server import ServerOptions
from serving.preflight._check import Check, Status
from serving.preflight._machine import Machine

_LISTEN = "0A"  # state of a socket in /proc/net/tcp


def port_checks(options: ServerOptions, machine: Machine) -> list[Check]:
    """One finding for each endpoint, by binding its port for a moment as `slipway serve` would."""
    ports = {"http": options.http_port, "grpc": options.grpc_port, "metrics": options.metrics_port}
    found, seen = [], dict[int, str]()
    for name, port in ports.items():
        found.append(_shared(name, port, seen[port]) if port in seen else _port(name, port, options.host, machine))
        seen.setdefault(port, name)
    return found


def _shared(name: str, port: int, other: str) -> Check:
    return Check(
        f"{name} port",
        Status.PROBLEM,
        f"{port}, which is the {other} port too",
        "a port of its own",
        f"pass another --{name}-port",
        {"port": port, "free": False},
    )


def _port(name: str, port: int, host: str, machine: Machine) -> Check:
    facts = {"host": host, "port": port, "free": False}
    with socket.socket() as probe:
        # As `slipway serve` and Triton do: connections that linger from a server that ended do not hold its port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (socket.gaierror, UnicodeError):  # the second: no name at all, such as 'a..b'
            advice = f"'{host}' is no address of this machine: pass another --host"
            return Check(f"{name} port", Status.PROBLEM, f"{host}:{port} cannot be bound", "free", advice, facts)
        except PermissionError:
            advice = f"ports below 1024 are for root: pass a --{name}-port from 1024 on"
            return Check(f"{name} port", Status.PROBLEM, f"{port} is not for this user", "free", advice, facts)
        except OSError as error:
            holder = holder_of(host, port, machine)
            found = f"{port} is taken by {holder}" if holder else f"{port}: {error.strerror}"
            advice = f"stop what listens there, or pass another --{name}-port to `slipway serve` (and here)"
            return Check(f"{name} port", Status.PROBLEM, found, "free", advice, {**facts, "holder": holder})
    return Check(f"{name} port", Status.OK, f"{port} is free", "free", facts={**facts, "free": True})


def holder_of(host: str, port: int, machine: Machine) -> str | None:
    """Who listens on a port, such as `tritonserver (pid 4711)`; None where nobody is seen to."""
    sockets = [inode for table in ("tcp", "tcp6") for inode in _listening(machine, table, host, port)]
    if not sockets:
        return None
    for process in sorted((machine.root / "proc").glob("[0-9]*"), key=lambda one: int(one.name)):
        links = {f"socket:[{inode}]" for inode in sockets}
        with contextlib.suppress(OSError):  # it ended, or is another user's
            if any(str(link.readlink()) in links for link in (process / "fd").iterdir()):
                name = (process / "comm").read_text().strip()
                return f"{name} (pid {process.name})"
    return "a process that this user may not see"


def _listening(machine: Machine, table: str, host: str, port: int) -> list[str]:
    """Inodes of the sockets that listen on an IPv4 address and port, or on all addresses (proc(5), /proc/net/tcp)."""
    with contextlib.suppress(OSError):
        packed = f"{int.from_bytes(socket.inet_aton(socket.gethostbyname(host)), 'little'):08X}"
        mine = {packed, "0" * 8, "0" * 32, f"{'0' * 16}FFFF0000{packed}", f"{'0' * 16}FFFF0000{'0' * 8}"}
        rows = [line.split() for line in (machine.read(f"proc/net/{table}") or "").splitlines()[1:]]
        return [
            row[9]
            for row in rows
            if len(row) > 9
            and row[3] == _LISTEN
            and (packed == "0" * 8 or row[1].rpartition(":")[0] in mine)
            and row[1].rpartition(":")[2] == f"{port:04X}"
        ]
    return []
