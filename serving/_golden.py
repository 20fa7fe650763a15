"""Ready means it answered: the request a model was built with must get the answer it was built with.

Requests and answers are files in the v2 inference protocol's JSON. They are sent in its binary form, which carries what
Triton takes in no other: FP16, BF16, infinities, NaN, bytes that are no text (`_tensors.py`). For any other model
`curl -d @golden/request.json` asks the same.
"""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from serving._errors import RepositoryError
from serving._repository import ServedModel
from serving._tensors import Tensor, TensorError, Value, flat, in_json, pack, unpack, values_of

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_JSON_SIZE = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class GoldenResult:
    """Whether a server gave a model's golden answer; false with the reason in `reason`.

    Attributes:
        answered: whether it gave any answer that could be compared.
    """

    model: str
    matched: bool
    reason: str = ""
    max_abs_error: float = 0.0
    answered: bool = True

    def __bool__(self) -> bool:
        return self.matched


def ask_golden(http_url: str, model: ServedModel, timeout: float = 60.0) -> GoldenResult:
    """Send the golden request to `http_url` and compare the answer (seconds for `timeout`).

    Raises:
        RepositoryError: the golden request or its answer is none that can be sent or compared.
    """
    url = f"{http_url}/v2/models/{model.name}"
    request = _read(model, model.golden_request, _check_request)
    expected = _read(model, model.golden_response, _check_response)
    try:
        ask = _ask_stream if expected["parameters"].get("stream") else _ask
        answer = ask(url, request, expected["outputs"], timeout)
        return compare_golden(model.name, expected, answer)
    except urllib.error.HTTPError as error:
        return GoldenResult(model.name, False, f"HTTP {error.code}: {_reason(error.read())}", answered=False)
    except (OSError, HTTPException, ValueError) as error:
        return GoldenResult(model.name, False, f"no answer: {error}", answered=False)
    except (KeyError, TypeError, AttributeError) as error:  # JSON, and not that of the v2 protocol
        return GoldenResult(
            model.name, False, f"not an answer of Triton ({error!r}): look at the address", answered=False
        )


def _read(model: ServedModel, path: Path, check: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8-sig"))
        check(content)
    except (OSError, TypeError, AttributeError, KeyError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise RepositoryError(
            f"model '{model.name}': {path} is nothing that can be asked or compared ({reason}): write it anew, in the "
            "JSON of the v2 inference protocol"
        ) from error
    return content


def _check_request(request: dict[str, Any]) -> None:
    for tensor in request["inputs"]:
        values_of(tensor)


def _check_response(response: dict[str, Any]) -> None:
    if not 0 <= float(response["parameters"]["atol"]) < math.inf:  # +inf is infinitely far from -inf and from NaN
        raise ValueError(
            f"parameters.atol is {response['parameters']['atol']}, and a tolerance is 0 or more, and finite"
        )
    if not response["outputs"]:
        raise ValueError("outputs is empty, and any answer would do")
    for tensor in response["outputs"]:
        values_of(tensor)


def _ask(url: str, request: dict[str, Any], _: Sequence[Tensor], timeout: float) -> dict[str, Any]:
    """The answer as the v2 protocol's JSON, its tensors sent and received in binary."""
    body, json_size = _to_binary(request)
    headers = {"Content-Type": "application/octet-stream", _JSON_SIZE: str(json_size)}
    answer, size = _exchange(f"{url}/infer", body, headers, timeout)
    return _from_binary(answer, size)


def _to_binary(request: Mapping[str, Any]) -> tuple[bytes, int]:
    """A request with its tensors as bytes behind the JSON, and how long the JSON is."""
    tensors, data = [], []
    for tensor in request["inputs"]:
        data.append(pack(tensor["datatype"], values_of(tensor)))
        kept = {key: value for key, value in tensor.items() if key not in ("data", "parameters")}
        more = {key: value for key, value in (tensor.get("parameters") or {}).items() if key != "encoding"}
        tensors.append({**kept, "parameters": {**more, "binary_data_size": len(data[-1])}})
    whole = {**request, "inputs": tensors}
    # Each output that is asked for by name says it for itself; where none is, the request says it for all.
    if wanted := request.get("outputs"):
        whole["outputs"] = [
            {**one, "parameters": {**(one.get("parameters") or {}), "binary_data": True}} for one in wanted
        ]
    else:
        whole["parameters"] = {**(request.get("parameters") or {}), "binary_data_output": True}
    head = json.dumps(whole).encode()
    return b"".join([head, *data]), len(head)


def _from_binary(body: bytes, json_size: int) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(body[:json_size])
    position, outputs = json_size, []
    for output in answer.get("outputs", []):
        size = (output.get("parameters") or {}).get("binary_data_size")
        data = output["data"] if size is None else unpack(output["datatype"], body[position : position + size])
        position += size or 0
        outputs.append({**output, "data": data})
    return {**answer, "outputs": outputs}


def _ask_stream(url: str, request: dict[str, Any], outputs: Sequence[Tensor], timeout: float) -> dict[str, Any]:
    """The answer of a decoupled model as one response: its pieces of text joined, its last numbers.

    Triton's generate extension, JSON alone: tensors of one dimension in, server-sent events out
    (https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_generate.md).
    """
    unfit = [one["name"] for one in request["inputs"] if not in_json(one)]
    unfit += [one["name"] for one in outputs if not in_json({**one, "data": []})]
    if unfit:
        raise ValueError(f"a stream is asked and answered in JSON, which cannot carry {', '.join(unfit)}")
    body = {one["name"]: _one_or_all(list(flat(one["data"]))) for one in request["inputs"]}
    lines = post(f"{url}/generate_stream", json.dumps(body).encode(), timeout).decode().splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    for event in events:
        if "error" in event:
            raise ValueError(event["error"])
    return {"outputs": [{**output, "data": _joined(output["name"], events)} for output in outputs]}


def _joined(name: str, events: list[dict[str, Any]]) -> list[Any]:
    """Of an output, an element at a time: its pieces of text as one text, or the last of its numbers."""
    pieces = [
        value if isinstance(value, list) else [value] for event in events if (value := event.get(name)) is not None
    ]
    if pieces and all(isinstance(value, str) for piece in pieces for value in piece):
        return ["".join(texts) for texts in zip(*pieces, strict=False)]
    return pieces[-1] if pieces else []


def _one_or_all(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values


def post(url: str, body: bytes, timeout: float) -> bytes:
    """Body of the answer to a JSON request; a proxy of the environment is for other hosts than our own server."""
    return _exchange(url, body, {"Content-Type": "application/json"}, timeout)[0]


def _exchange(url: str, body: bytes, headers: Mapping[str, str], timeout: float) -> tuple[bytes, int]:
    """Body of the answer, and how much of it is JSON."""
    request = urllib.request.Request(url, data=body, headers=dict(headers))
    # Triton takes a model's name as it stands in the path and decodes nothing: urllib would end `m#1` at its #.
    request.selector = url.partition("://")[2].partition("/")[2].join(("/", ""))
    with _DIRECT.open(request, timeout=timeout) as reply:
        answer: bytes = reply.read()
        return answer, int(reply.headers.get(_JSON_SIZE, len(answer)))


def compare_golden(model: str, expected: Mapping[str, Any], answer: Mapping[str, Any]) -> GoldenResult:
    """Compare two v2 responses: same outputs, shapes and datatypes; numbers within `parameters.atol`.

    Text and BOOL must be equal, so must infinities; NaN is equal to NaN in the same place.
    """
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
        distance = _distance(values_of(output), _answered(found[name]))
        largest = max(largest, distance)
        if not distance <= tolerance:
            return GoldenResult(
                model, False, f"'{name}' is off by {distance:.2g}, allowed {tolerance:.2g}", max_abs_error=distance
            )
    return GoldenResult(model, True, max_abs_error=largest)


def _answered(output: Mapping[str, Any]) -> list[Value] | None:
    """The values; None where they are others than its datatype's, or not as many as its shape holds."""
    try:
        return values_of(output)
    except TensorError:
        return None


def _distance(expected: list[Value], found: list[Value] | None) -> float:
    """Largest absolute difference; infinite where a number became NaN or a text is another, or there are no values."""
    if found is None or len(expected) != len(found):
        return math.inf
    return max((_difference(left, right) for left, right in zip(expected, found, strict=True)), default=0.0)


def _difference(expected: Value, found: Value) -> float:
    """Exact for integers of 64 bits too, which a float does not tell apart."""
    if expected == found:
        return 0.0
    if isinstance(expected, bytes | bool) or isinstance(found, bytes | bool):
        return math.inf
    if math.isnan(expected) or math.isnan(found):
        return 0.0 if math.isnan(expected) and math.isnan(found) else math.inf
    return float(abs(expected - found))


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:200]
