"""Ten thousand malformed requests: each gets a 4xx or the right answer, and the server stays as it was."""

from __future__ import annotations

import itertools
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import grpc
import psutil
import pytest

from serving import EmbeddedTriton, ServerInterpreter, ServerOptions
from tests import malformed_exchange, malformed_grpc, malformed_mutations
from tests.malformed_answers import is_own_server_error
from tests.malformed_http import Request
from tests.malformed_killers import killer_in_http
from tests.malformed_models import MODELS, write_models
from tests.support import wait_for

SEED = 20261126
# Numbers of requests over HTTP and gRPC; the first thousand of each only warm the server up.
WARM_UP, HTTP, GRPC = 1000, 8000, 5000
# MiB. Triton's allocator and gRPC's pools keep what a burst of large requests took; 20,000 more took 15.
GROWTH = 64


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, interpreter: ServerInterpreter) -> Iterator[EmbeddedTriton]:
    repository = tmp_path_factory.mktemp("malformed") / "models"
    write_models(repository)
    options = replace(ServerOptions.on_free_ports(repository), exit_timeout=3)  # Triton keeps one of them for running
    with EmbeddedTriton(interpreter, options, repository.parent / "triton.log") as triton:
        wait_for(lambda: is_ready(triton), "every model is loaded")
        yield triton


def is_ready(server: EmbeddedTriton) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"{server.options.http_url}/v2/health/ready", timeout=10) as reply:
        return bool(reply.status == 200)
    return False


def family(server: EmbeddedTriton) -> list[psutil.Process]:
    """Triton and the process of each model that has not ended."""
    processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    return [one for one in processes if one.status() != psutil.STATUS_ZOMBIE]


def memory(server: EmbeddedTriton) -> float:
    """MiB that they occupy."""
    return sum(one.memory_info().rss for one in family(server)) / 2**20


class Volley:
    """Requests by number, from several threads; what came back wrong is in `faults`, with what replays it."""

    def __init__(self, server: EmbeddedTriton) -> None:
        self.server = server
        self.faults: list[str] = []
        self.left_out = 0
        self.running: dict[int, str] = {}

    def http(self, number: int) -> str:
        request = malformed_mutations.request(SEED, number)
        if killer_in_http(request.model.name, request.raw()):
            self.left_out += 1
            return ""
        fault = malformed_exchange.judge(request, malformed_exchange.send(self.server.options.http_port, request))
        return fault and f"{fault}\n    {malformed_exchange.show(request)}"

    def grpc(self, channel: grpc.Channel) -> Callable[[int], str]:
        def ask(number: int) -> str:
            call = malformed_grpc.call(SEED, number)
            if malformed_grpc.killer_in_grpc(call):
                self.left_out += 1
                return ""
            fault = malformed_grpc.ask(channel, call)
            return fault and f"{fault}\n    {call}"

        return ask

    def send(self, http: range, grpc_numbers: range) -> None:
        """Send all of them, two at a time over HTTP and two over gRPC; stop when the server is gone."""
        with grpc.insecure_channel(self.server.options.grpc_url.removeprefix("grpc://")) as channel:
            over_http = ("http", self.http, itertools.count(http.start), http.stop)
            over_grpc = ("grpc", self.grpc(channel), itertools.count(grpc_numbers.start), grpc_numbers.stop)
            threads = [threading.Thread(target=self._work, args=work) for work in [over_http, over_grpc] * 2]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def _work(self, kind: str, ask: Callable[[int], str], numbers: Iterator[int], stop: int) -> None:
        for number in numbers:
            if number >= stop or self.server.pid is None:
                return
            self.running[threading.get_ident()] = f"{kind} {number}"
            try:
                fault = ask(number)
            except Exception as error:  # noqa: BLE001 - the server, or the test, failed at this very request
                fault = f"{error!r}"
            if fault:
                self.faults.append(f"{kind}(seed {SEED}, number {number}): {fault}")


def test_ten_thousand_malformed_requests_get_a_refusal_or_the_right_answer(server: EmbeddedTriton) -> None:
    volley = Volley(server)
    volley.send(range(WARM_UP), range(WARM_UP))
    processes, before = {one.pid for one in family(server)}, memory(server)
    volley.send(range(WARM_UP, HTTP), range(WARM_UP, GRPC))
    assert server.pid is not None, f"Triton died of one of {list(volley.running.values())}; {volley.faults[:3]}"
    assert volley.faults == [], "\n".join([f"{len(volley.faults)} faults", *volley.faults[:10]])
    assert HTTP + GRPC - 2 * WARM_UP - volley.left_out >= 10_000
    assert {one.pid for one in family(server)} == processes, "a model's process died"
    assert is_ready(server)
    assert memory(server) - before < GROWTH


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/x-www-form-urlencoded", b'{"inputs": "' + b"1" * 40_000_000 + b'"}'),
        ("application/x-www-form-urlencoded", b"a=b&" * 200_000),
        ("application/json", b"[" * 1_000_000),
        ("application/json", b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":' + b"[" * 500_000),
        ("application/json", b'{"a":' * 500_000 + b"1" + b"}" * 500_000),
        (
            "application/json",
            b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":%b1,2,3%b}]}'
            % (b"[" * 200_000, b"]" * 200_000),
        ),
    ],
    ids=["form", "pairs", "open", "data", "objects", "nested"],
)
def test_requests_that_take_much_of_the_stack_are_refused_or_answered(
    server: EmbeddedTriton, kind: str, body: bytes
) -> None:
    request = Request(MODELS["plus"], {}, path="/v2/models/plus/infer", headers=[("Content-Type", kind)], body=body)
    reply = malformed_exchange.send(server.options.http_port, request)
    assert reply is not None
    assert reply.status in (200, 400) or is_own_server_error(reply.message), reply
    assert is_ready(server)
