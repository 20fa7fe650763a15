"""A closed-loop HTTP load generator that leaves the processor to the server: N requests in flight, raw sockets, epoll.

One request's bytes are made once and sent over N kept-alive connections; each answer is read whole, its status
checked, and one in a hundred compared byte for byte in its numbers by the caller's function. About 10 us of this
process's time a request, so that two cores can carry both sides.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LoadResult:
    """What one round came to: answers, seconds, and each answer's latency in seconds."""

    answers: int
    seconds: float
    latencies: list[float] = field(repr=False)

    @property
    def per_second(self) -> float:
        """Answers per second."""
        return self.answers / self.seconds


def closed_loop(
    address: tuple[str, int], request: bytes, in_flight: int, seconds: float, check: Callable[[bytes], None]
) -> LoadResult:
    """Keep `in_flight` requests under way at `address` for `seconds`; `check(body)` raises on a wrong answer."""
    connections = {}
    epoll = select.epoll()
    for _ in range(in_flight):
        connection = socket.create_connection(address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connections[connection.fileno()] = connection
        epoll.register(connection.fileno(), select.EPOLLIN)
    latencies: list[float] = []
    clock = time.perf_counter
    begin = clock()
    sent = {}
    pending: dict[int, bytes] = {}
    for number, connection in connections.items():
        sent[number] = clock()
        connection.sendall(request)
    under_way, length = in_flight, -1
    while under_way:
        events = epoll.poll(30)
        if not events:
            raise RuntimeError(f"no answer to {under_way} requests within 30 s")
        for number, _ in events:
            connection = connections[number]
            received = connection.recv(65536)
            # Answers to one and the same request are equally long; anything else takes the careful way.
            if len(received) != length or received[:15] != b"HTTP/1.1 200 OK":
                received = pending.pop(number, b"") + received
                if _body(received) is None:
                    pending[number] = received
                    continue
                length = len(received)
            now = clock()
            latencies.append(now - sent[number])
            if len(latencies) % 100 == 1:
                check(_body(received) or b"")
            if now - begin < seconds:
                sent[number] = now
                connection.send(request)
            else:
                under_way -= 1
                epoll.unregister(number)
                connection.close()
    return LoadResult(len(latencies), clock() - begin, latencies)


def _body(received: bytes) -> bytes | None:
    """Body of a whole HTTP answer, None when more is to come; anything but 200 raises."""
    head, separator, body = received.partition(b"\r\n\r\n")
    if not separator:
        if not received:
            raise ConnectionError("the server closed a connection")
        return None
    if b" 200 " not in head[:20]:
        raise RuntimeError(f"the server answered {head[:80]!r}: {body[:200]!r}")
    start = head.lower().index(b"\r\ncontent-length:") + 17  # not Inference-Header-Content-Length
    length = int(head[start:].split(b"\r\n", 1)[0])
    return body if len(body) == length else None
