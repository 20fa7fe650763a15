"""Open-loop users: requests are sent when they are due, whether or not the server has answered the ones before.

One user is one Poisson stream; independent Poisson streams add up, so `users x rate` is the offered rate, also with
`--processes` and workers. Latency counts from the instant a request was due: a stalled server cannot hide behind
users that wait for it (coordinated omission, https://www.youtube.com/watch?v=lJ8ydIuPFeU).
"""

from __future__ import annotations

import random
import time
from abc import abstractmethod
from typing import Any

import gevent
from gevent.pool import Pool
from locust import User, task

MAX_IN_FLIGHT = 256
ANSWER_TIMEOUT = 20.0  # seconds


class DroppedError(Exception):
    """A request was due while MAX_IN_FLIGHT others of the same user had no answer: it was not sent."""


class UnansweredError(Exception):
    """A request had no answer when the run ended."""


class OpenLoopUser(User):
    """Sends requests at `rate` per second on average, at exponentially distributed intervals."""

    abstract = True
    rate = 1.0
    request_type = ""
    request_name = ""

    def on_start(self) -> None:
        """Begin the schedule."""
        self._pool = Pool(MAX_IN_FLIGHT)
        self._random = random.Random()  # noqa: S311 - arrival times, no secret
        self._due = time.perf_counter()

    def on_stop(self) -> None:
        """Wait for what is under way; what has no answer by then has failed. Give the connections back."""
        self._pool.join(timeout=ANSWER_TIMEOUT + 5)
        for request in list(self._pool):
            request.kill()
        self.close()

    @task
    def send_when_due(self) -> None:
        """Sleep until the next request is due, then send it without waiting for its answer."""
        self._due += self._random.expovariate(self.rate)
        gevent.sleep(max(0.0, self._due - time.perf_counter()))
        if self._pool.full():
            self._report(self._due, 0, DroppedError(f"{MAX_IN_FLIGHT} requests had no answer: the server is saturated"))
        else:
            self._pool.spawn(self._send, self._due)

    @abstractmethod
    def ask(self) -> int:
        """Send one request, check its answer, return its size in bytes; raises when anything is wrong."""

    @abstractmethod
    def close(self) -> None:
        """Close the client: a gRPC channel that stays open keeps the process from ending."""

    def _send(self, due: float) -> None:
        size = 0
        error: Exception | None = None
        try:
            size = self.ask()
        except gevent.GreenletExit:
            error = UnansweredError(f"no answer when the run ended, {ANSWER_TIMEOUT:g} s or more after it was sent")
        except Exception as caught:  # noqa: BLE001 - whatever it is, it is a failed request
            error = caught
        self._report(due, size, error)

    def _report(self, due: float, size: int, error: Exception | None) -> None:
        event: dict[str, Any] = {
            "request_type": self.request_type,
            "name": self.request_name,
            "response_time": (time.perf_counter() - due) * 1000,
            "response_length": size,
            "exception": error,
        }
        self.environment.events.request.fire(**event)
