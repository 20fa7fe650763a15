"""Load for a served model over HTTP and gRPC: `locust -f loadtest/ --headless -u 10 -t 30s`.

Every user is a Poisson stream of `--rate` requests a second (see `_open_loop.py`) that sends the model's golden
request; one answer in `--check-every` is compared with the golden answer. Name a user class to use one protocol only:
`locust -f loadtest/ HttpModelUser ...`. The exit code is 1 when any request failed and when none was sent.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import grpc.experimental.gevent as grpc_gevent
from locust import events
from locust.runners import WorkerRunner
from slipway_client import Client, Model, TritonError, parse_url

from loadtest._golden import Golden
from loadtest._open_loop import ANSWER_TIMEOUT, MAX_IN_FLIGHT, OpenLoopUser

grpc_gevent.init_gevent()  # without it one gRPC call blocks every other user, and latency looks fine

REPOSITORY = Path(__file__).parent.parent / "model_repository"


@events.init_command_line_parser.add_listener
def _(parser: Any) -> None:
    parser.add_argument("--model", default="digits", env_var="SLIPWAY_MODEL", help="Model to ask")
    parser.add_argument("--rate", type=float, default=10.0, help="Requests per second of each user, on average")
    parser.add_argument("--check-every", type=int, default=10, help="Compare one answer in this many")
    parser.add_argument("--http-url", default="http://127.0.0.1:8000", env_var="SLIPWAY_HTTP_URL", help="HTTP endpoint")
    parser.add_argument("--grpc-url", default="grpc://127.0.0.1:8001", env_var="SLIPWAY_GRPC_URL", help="gRPC endpoint")
    parser.add_argument("--repository", default=str(REPOSITORY), help="Model repository with the golden answers")


@events.init.add_listener
def _(environment: Any, **_: Any) -> None:
    options = environment.parsed_options
    if options.rate <= 0:
        sys.exit(f"error: --rate is {options.rate}: expected more than 0 requests per second")
    for url in (options.http_url, options.grpc_url):
        try:
            parse_url(url)  # a gRPC channel that no user closes would keep this process from ending
        except TritonError as error:
            sys.exit(f"error: {error}")
    if not golden_folder(options).is_dir():
        sys.exit(
            f"error: no golden answer in {golden_folder(options)}: build the model, or correct --model or --repository"
        )


@events.quitting.add_listener
def _(environment: Any, **_: Any) -> None:
    if isinstance(environment.runner, WorkerRunner):
        return  # the master counts
    options, stats = environment.parsed_options, environment.stats
    idle = [one.request_type for one in environment.user_classes if not _sent(stats, options.model, one.request_type)]
    for kind in idle:
        print(f"error: no request was sent over {kind}: raise -u, --rate or -t")
    broken = environment.runner is not None and environment.runner.exceptions
    environment.process_exit_code = 1 if idle or broken or stats.total.num_failures else 0


def _sent(stats: Any, model: str, request_type: str) -> int:
    return int(stats.get(model, request_type).num_requests)


def golden_folder(options: Any) -> Path:
    """Where the golden request and its answer lie."""
    return Path(options.repository) / str(options.model) / "golden"


class ModelUser(OpenLoopUser):
    """Sends the golden request of `--model`."""

    abstract = True

    def on_start(self) -> None:
        """Connect, and learn what the model takes."""
        options = self.environment.parsed_options
        self.rate = options.rate
        self.request_name = options.model
        self._check_every = max(1, options.check_every)
        self._asked = 0
        self._golden = Golden.read(golden_folder(options))
        self._client = Client(self.url(options), timeout=ANSWER_TIMEOUT, connections=MAX_IN_FLIGHT)
        self._model: Model = self._client.model(options.model)
        super().on_start()

    def url(self, options: Any) -> str:
        """The endpoint among Locust's options."""
        raise NotImplementedError

    def ask(self) -> int:
        """Infer; compare one answer in `--check-every`."""
        answer = self._model.infer(self._golden.inputs)
        self._asked += 1
        if self._asked % self._check_every == 1 or self._check_every == 1:
            self._golden.check(answer)
        return sum(array.nbytes for array in answer.values())

    def close(self) -> None:
        """Close the client."""
        self._client.close()


class HttpModelUser(ModelUser):
    """Asks over HTTP."""

    request_type = "http"

    def url(self, options: Any) -> str:
        """The HTTP endpoint."""
        return str(options.http_url)


class GrpcModelUser(ModelUser):
    """Asks over gRPC."""

    request_type = "grpc"

    def url(self, options: Any) -> str:
        """The gRPC endpoint."""
        return str(options.grpc_url)
