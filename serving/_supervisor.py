"""A Triton that died is started again: one client's request must not end the server for all others."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from threading import Event
from typing import Protocol

from serving._errors import GoldenMismatch, ServerDied, StartError

RESTARTS = 3
WINDOW = 600.0  # seconds
PAUSE = 0.2  # seconds between two looks


class Server(Protocol):
    """What of `EmbeddedTriton` is needed to keep it up."""

    def check_alive(self, patience: float = 0.0) -> None:
        """Raise ServerDied when it, or what runs a model, has ended; for the server `patience` seconds are waited."""

    def restart(self) -> None:
        """End what is left of it and start it anew; returns before it is ready."""

    def wait_ready(self, timeout: float, cancelled: Callable[[], bool]) -> None:
        """Wait until every model has given its golden answer, or `cancelled()` is true."""


def keep_serving(
    server: Server,
    ended: Event,
    tell: Callable[[str], object],
    timeout: float = 120.0,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Serve until `ended` is set, and say whether the server was ready then.

    A server that dies is started again, at most three times in ten minutes; each time, and when it is ready again,
    `tell` gets a line. `timeout` (seconds) is what a start may take, `clock` gives seconds.

    Raises:
        ServerDied: it died a fourth time in ten minutes.
        StartError, GoldenMismatch, RepositoryError, PortTaken: it could not be started again.
    """
    starts: list[float] = []
    ready = True
    while not ended.wait(PAUSE):
        try:
            server.check_alive()
        except ServerDied as died:
            starts = [start for start in starts if clock() - start < WINDOW]
            if len(starts) == RESTARTS:
                raise ServerDied(
                    f"{died}; it was started again {RESTARTS} times within {WINDOW / 60:g} minutes: "
                    "look for the request that ends it"
                ) from died
            starts.append(clock())
            tell(f"{died}; it is started again ({len(starts)} of {RESTARTS} times within {WINDOW / 60:g} minutes)")
            ready = _start_again(server, ended, timeout)
            if ready:
                tell("Triton is ready again: each model gave its golden answer")
    if ready:
        server.check_alive()
    return ready


def _start_again(server: Server, ended: Event, timeout: float) -> bool:
    """Whether it is ready: not where `ended` was set meanwhile, or it has died again."""
    try:
        server.restart()
        server.wait_ready(timeout, ended.is_set)
    except (StartError, GoldenMismatch):
        with contextlib.suppress(ServerDied):
            server.check_alive(patience=1.0)  # a connection breaks before the process is gone
            raise
        return False
    return not ended.is_set()
