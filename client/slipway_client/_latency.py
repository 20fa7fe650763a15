"""Where a request's time goes: the client's own clock, and what Triton says of its stages."""

from __future__ import annotations

import http.client
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import tritonclient.http as triton

from slipway_client._client import Client, check_inputs, parse_url
from slipway_client._errors import ConnectError, ServerError, TritonError
from slipway_client._types import Array, ModelSpec
from slipway_client._wire import as_sent

# Triton's statistics extension, by the names that perf_analyzer gives them.
STAGES = {"queue": "queue", "input": "compute_input", "infer": "compute_infer", "output": "compute_output"}


@dataclass(frozen=True)
class ServerTime:
    """Mean time of a request in one model of the server, in seconds.

    Attributes:
        model: whose.
        requests: how many it answered.
        total: from the request's arrival to its answer.
        stages: `queue`, `input`, `infer` and `output`; an ensemble's are the sums of its steps'.
    """

    model: str
    requests: int
    total: float
    stages: Mapping[str, float]


@dataclass(frozen=True)
class Latency:
    """Of requests that were sent one after the other over HTTP, in seconds.

    Attributes:
        requests: how many were measured.
        p50, p95: from the call to the answer's arrays.
        mean: of the same; `stages` add up to it.
        stages: means of `client send` (tensors to bytes, bytes to the socket), `network and server` (what no other
            stage has: HTTP on both sides, the way there and back), Triton's `queue`, `input`, `infer` and `output`
            summed over the models that answer together, and `client receive` (the answer read, bytes to tensors).
        models: each model that took part.
    """

    requests: int
    p50: float
    p95: float
    mean: float
    stages: Mapping[str, float]
    models: Sequence[ServerTime]


def measure_latency(
    url: str,
    model: str,
    inputs: Mapping[str, Any],
    *,
    requests: int = 200,
    seconds: float = 10.0,
    timeout: float = 30.0,
) -> Latency:
    """Ask `model` again and again over one connection, one request at a time.

    Args:
        url: `http://host:port`.
        model: one that answers once (not a decoupled one).
        inputs: of one request.
        requests: at most; the first ten are not counted.
        seconds: after which no further request is sent.
        timeout: seconds that an answer may take.

    Raises:
        InvalidInput: the model does not take `inputs`.
        TritonError: another URL, or the server does not answer.
    """
    scheme, address = parse_url(url)
    if scheme != "http":
        raise TritonError(f"{url}: latency is measured over HTTP: expected http://host:port")
    with Client(url, timeout=timeout) as client:
        spec = client.model(model).spec
        arrays = check_inputs(spec, inputs)
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=timeout)
    try:
        for _ in range(10):
            _ask(connection, url, spec, arrays)
        before = _statistics(connection, url)
        begun = time.perf_counter()
        times: list[tuple[float, float, float]] = []
        while len(times) < requests and (not times or time.perf_counter() - begun < seconds):
            times.append(_ask(connection, url, spec, arrays))
        found = [_difference(name, before.get(name, {}), one) for name, one in _statistics(connection, url).items()]
        took_part = [one for one in found if one.requests]
        ensembles = {one.model for one in took_part if _is_ensemble(connection, one.model)}
    except (OSError, http.client.HTTPException) as error:
        raise ConnectError(f"{url} stopped answering ({error!r})") from error
    finally:
        connection.close()
    # A model that calls others by itself has their time within its own; an ensemble has no time but theirs.
    working = [one for one in took_part if one.model not in ensembles and (ensembles or one.model == model)]
    return _latency(times, sorted(took_part, key=lambda one: (one.model != model, one.model)), working)


def _ask(
    connection: http.client.HTTPConnection, url: str, spec: ModelSpec, arrays: Mapping[str, Array]
) -> tuple[float, float, float]:
    """Seconds of sending, waiting and receiving."""
    begun = time.perf_counter()
    tensors = as_sent(triton, spec, arrays)
    wanted = [triton.InferRequestedOutput(tensor.name) for tensor in spec.outputs]
    body, header = triton.InferenceServerClient.generate_request_body(tensors, outputs=wanted)
    headers = {} if header is None else {"Inference-Header-Content-Length": str(header)}
    connection.request("POST", f"/v2/models/{quote(spec.name)}/infer", body, headers)
    sent = time.perf_counter()
    response = connection.getresponse()
    arrived = time.perf_counter()
    content = response.read()
    if response.status != http.client.OK:
        raise ServerError(
            f"{url}: model '{spec.name}': HTTP {response.status}: {content.decode(errors='replace')[:200]}"
        )
    length = response.getheader("Inference-Header-Content-Length")
    answer: Any = triton.InferenceServerClient.parse_response_body(
        content, header_length=int(length) if length else None
    )
    for tensor in spec.outputs:
        answer.as_numpy(tensor.name)
    return sent - begun, arrived - sent, time.perf_counter() - arrived


def _statistics(connection: http.client.HTTPConnection, url: str) -> dict[str, Any]:
    connection.request("GET", "/v2/models/stats")
    response = connection.getresponse()
    content = response.read()
    if response.status != http.client.OK:
        raise ServerError(f"{url} gives no statistics: HTTP {response.status}")
    return {one["name"]: one["inference_stats"] for one in json.loads(content)["model_stats"]}


def _difference(model: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> ServerTime:
    def mean(name: str) -> float:
        return (after[name]["ns"] - before.get(name, {"ns": 0})["ns"]) / 1e9 / count if count else 0.0

    count = after["success"]["count"] - before.get("success", {"count": 0})["count"]
    return ServerTime(model, count, mean("success"), {stage: mean(name) for stage, name in STAGES.items()})


def _is_ensemble(connection: http.client.HTTPConnection, model: str) -> bool:
    connection.request("GET", f"/v2/models/{quote(model)}/config")
    return bool(json.loads(connection.getresponse().read()).get("platform") == "ensemble")


def _latency(
    times: Sequence[tuple[float, float, float]], models: Sequence[ServerTime], working: Sequence[ServerTime]
) -> Latency:
    sending, waiting, receiving = (statistics.fmean(column) for column in zip(*times, strict=True))
    # A model that an ensemble calls twice for a request counts twice.
    inside = {stage: sum(one.stages[stage] * one.requests / len(times) for one in working) for stage in STAGES}
    rest = max(0.0, waiting - sum(inside.values()))
    totals = sorted(sum(one) for one in times)
    return Latency(
        requests=len(times),
        p50=statistics.median(totals),
        p95=totals[min(len(totals) - 1, round(0.95 * len(totals)))],
        mean=statistics.fmean(totals),
        stages={"client send": sending, "network and server": rest, **inside, "client receive": receiving},
        models=models,
    )
