"""Ready means it answered: the request a model was built with must get the answer it was built with.

Requests and answers are files in the v2 inference protocol's JSON, so `curl -d @golden/request.json` asks the same.
"""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from serving._repository import ServedModel

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class GoldenResult:
    """Whether a server gave a model's golden answer; false with the reason in `reason`."""

    model: str
    matched: bool
    reason: str = ""
    max_abs_error: float = 0.0

    def __bool__(self) -> bool:
        return self.matched


def ask_golden(http_url: str, model: ServedModel, timeout: float = 60.0) -> GoldenResult:
    """Send the golden request to `http_url` and compare the answer (seconds for `timeout`)."""
    url = f"{http_url}/v2/models/{model.name}"
    expected = json.loads(model.golden_response.read_text())
    request = model.golden_request.read_bytes()
    try:
        if expected["parameters"].get("stream"):
            answer = _ask_stream(url, json.loads(request), expected["outputs"], timeout)
        else:
            answer = json.loads(post(f"{url}/infer", request, timeout))
    except urllib.error.HTTPError as error:
        return GoldenResult(model.name, False, f"HTTP {error.code}: {_reason(error.read())}")
    except (OSError, HTTPException, ValueError) as error:
        return GoldenResult(model.name, False, f"no answer: {error}")
    return compare_golden(model.name, expected, answer)


def _ask_stream(url: str, request: dict[str, Any], outputs: list[dict[str, Any]], timeout: float) -> dict[str, Any]:
    """The answer of a decoupled model as one response: its pieces of text joined, its last numbers.

    Triton's generate extension: one text in, server-sent events out
    (https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_generate.md).
    """
    body = {tensor["name"]: tensor["data"][0] for tensor in request["inputs"]}
    events = [
        json.loads(line.removeprefix("data: "))
        for line in post(f"{url}/generate_stream", json.dumps(body).encode(), timeout).decode().splitlines()
        if line.startswith("data: ")
    ]
    for event in events:
        if "error" in event:
            raise ValueError(event["error"])
    return {"outputs": [{**output, "data": _joined(output["name"], events)} for output in outputs]}


def _joined(name: str, events: list[dict[str, Any]]) -> list[Any]:
    values = [event[name] for event in events if name in event]
    return ["".join(values)] if values and isinstance(values[0], str) else values[-1:]


def post(url: str, body: bytes, timeout: float) -> bytes:
    """Body of the answer to a JSON request; a proxy of the environment is for other hosts than our own server."""
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    with _DIRECT.open(request, timeout=timeout) as reply:
        answer: bytes = reply.read()
    return answer


def compare_golden(model: str, expected: dict[str, Any], answer: dict[str, Any]) -> GoldenResult:
    """Compare two v2 responses: same outputs, shapes and datatypes; numbers within `parameters.atol`, text equal."""
    tolerance = float(expected["parameters"]["atol"])
    found = {output["name"]: output for output in answer.get("outputs", [])}
    largest = 0.0
    for output in expected["outputs"]:
        name = output["name"]
        if name not in found:
            return GoldenResult(model, False, f"output '{name}' is missing; got {sorted(found)}")
        for key in ("datatype", "shape"):
            if found[name][key] != output[key]:
                return GoldenResult(model, False, f"{key} of '{name}': expected {output[key]}, got {found[name][key]}")
        distance = _distance(output["data"], found[name]["data"])
        largest = max(largest, distance)
        if not distance <= tolerance:
            return GoldenResult(
                model, False, f"'{name}' is off by {distance:.2g}, allowed {tolerance:.2g}", max_abs_error=distance
            )
    return GoldenResult(model, True, max_abs_error=largest)


def _distance(expected: list[Any], found: list[Any]) -> float:
    """Largest absolute difference; infinite where a number became NaN or a text is another."""
    if len(expected) != len(found):
        return math.inf
    return max((_difference(left, right) for left, right in zip(expected, found, strict=True)), default=0.0)


def _difference(expected: Any, found: Any) -> float:
    if isinstance(expected, str) or isinstance(found, str):
        return 0.0 if expected == found else math.inf
    difference = abs(expected - found)
    return math.inf if math.isnan(difference) else float(difference)


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:200]
