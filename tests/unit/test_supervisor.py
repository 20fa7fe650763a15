"""A server that died is started again, at most three times in ten minutes; nothing here starts one."""

from __future__ import annotations

import signal
from collections.abc import Callable
from threading import Event

import pytest

from serving import GoldenMismatch, ServerDied, StartError, is_loopback
from serving._ending import how_it_ended
from serving._supervisor import keep_serving


class Server:
    """A server that is dead at the looks that `deaths` numbers, and starts as `starts` says."""

    def __init__(
        self, ended: Event, looks: int, deaths: set[int], starts: list[Exception | None] | None = None
    ) -> None:
        self.ended, self.looks, self.deaths, self.starts = ended, looks, deaths, starts or []
        self.look = self.restarts = 0

    def check_alive(self, patience: float = 0.0) -> None:
        self.look += 1
        if self.look >= self.looks:
            self.ended.set()
        if self.look in self.deaths:
            raise ServerDied("Triton was ended by SIGSEGV")

    def restart(self) -> None:
        self.restarts += 1

    def wait_ready(self, timeout: float, cancelled: Callable[[], bool]) -> None:
        outcome = self.starts.pop(0) if self.starts else None
        if outcome is not None:
            raise outcome


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving._supervisor.PAUSE", 0.0)


def supervise(server: Server, clock: Callable[[], float] = lambda: 0.0) -> tuple[bool, list[str]]:
    said: list[str] = []
    return keep_serving(server, server.ended, said.append, clock=clock), said


def test_a_death_is_told_with_its_signal_and_so_is_readiness() -> None:
    server = Server(Event(), 4, {2})
    assert supervise(server) == (
        True,
        [
            "Triton was ended by SIGSEGV; it is started again (1 of 3 times within 10 minutes)",
            "Triton is ready again: each model gave its golden answer",
        ],
    )
    assert server.restarts == 1


def test_the_fourth_death_within_ten_minutes_ends_the_server_with_the_reason() -> None:
    server = Server(Event(), 99, set(range(99)))
    with pytest.raises(
        ServerDied, match="SIGSEGV; it was started again 3 times within 10 minutes: look for the request"
    ):
        supervise(server)
    assert server.restarts == 3


def test_deaths_of_more_than_ten_minutes_ago_are_forgotten() -> None:
    times = iter(range(0, 10**6, 301))
    server = Server(Event(), 12, {1, 3, 5, 7, 9})
    assert supervise(server, lambda: float(next(times)))[0]
    assert server.restarts == 5


@pytest.mark.parametrize("error", [StartError("Triton was ended while starting"), GoldenMismatch("no answer", "look")])
def test_a_server_that_dies_again_while_it_starts_is_started_again(error: Exception) -> None:
    server = Server(Event(), 5, {1, 2, 3}, [error])
    ready, said = supervise(server)
    assert ready
    assert server.restarts == 2
    assert [line.endswith("golden answer") for line in said] == [False, False, True]


def test_a_server_that_lives_and_is_not_ready_ends_with_its_reason() -> None:
    with pytest.raises(GoldenMismatch, match="off by 1"):
        supervise(Server(Event(), 99, {1}, [GoldenMismatch("off by 1", "build it")]))


def test_stopping_during_a_restart_is_no_readiness() -> None:
    server = Server(Event(), 1, {1})
    assert supervise(server) == (
        False,
        ["Triton was ended by SIGSEGV; it is started again (1 of 3 times within 10 minutes)"],
    )


def test_a_death_at_the_very_end_is_not_called_an_orderly_stop() -> None:
    with pytest.raises(ServerDied):
        supervise(Server(Event(), 2, {3}))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-signal.SIGSEGV, "Triton was ended by SIGSEGV"),
        (-signal.SIGKILL, "Triton was ended by SIGKILL, as the kernel does where memory runs out"),
        (-40, "Triton was ended by signal 40"),
        (1, "Triton ended by itself with exit code 1"),
    ],
)
def test_an_end_is_told_by_the_signals_name(code: int, words: str) -> None:
    assert how_it_ended("Triton", code) == words


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        ("127.0.0.1", True),
        ("127.0.0.9", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("no.such.host.invalid", False),
    ],
)
def test_only_loopback_is_for_this_machine_alone(host: str, alone: bool) -> None:
    assert is_loopback(host) is alone
