"""HTTP requests to the models of malformed_models.py, right ones, in parts that can be made wrong."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.malformed_models import DTYPES, MODELS, Array, Model


@dataclass
class Request:
    """A request before it is bytes; `told` and `binary` become the body where `body` is not set."""

    model: Model
    told: dict[str, Any]
    binary: bytes = b""
    path: str = ""
    method: str = "POST"
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | None = None
    length: str | None = None
    after: bytes = b""  # on the connection, behind the body
    framed: bool = True  # whether the server can tell where the request ends
    cut: float | None = None  # the share that is sent before the connection is closed
    kinds: list[str] = field(default_factory=list)

    def seal(self) -> None:
        """Make the body, with the header that says where its JSON ends when there is a binary part."""
        if self.body is None:
            head = json.dumps(self.told).encode()
            self.body = head + self.binary
            if self.binary or any("binary_data_size" in str(one) for one in as_list(self.told.get("inputs"))):
                self.headers.append(("Inference-Header-Content-Length", str(len(head))))

    def raw(self) -> bytes:
        """What goes over the wire."""
        self.seal()
        assert self.body is not None
        lines = [f"{self.method} {self.path} HTTP/1.1", "Host: localhost", *(f"{k}: {v}" for k, v in self.headers)]
        if self.length != "":
            lines.append(f"Content-Length: {len(self.body) if self.length is None else self.length}")
        return "\r\n".join(lines).encode("utf-8", "surrogatepass") + b"\r\n\r\n" + self.body + self.after


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def right(rng: random.Random) -> Request:
    """A request that gets an answer, as JSON or with binary tensors."""
    model = rng.choice(list(MODELS.values()))
    shape = [*([rng.randint(1, model.batch)] if model.batch else []), *(d or rng.randint(1, 5) for d in model.dims)]
    binary, request = rng.random() < 0.5 or "FP16" in model.inputs.values(), Request(model, {"inputs": []})
    for name, datatype in model.inputs.items():
        array = draw(rng, datatype, shape)
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if binary:
            data = to_bytes(array)
            request.binary += data
            tensor["parameters"] = {"binary_data_size": len(data)}
        else:
            flat = array.ravel().tolist()
            tensor["data"] = [value.decode() if isinstance(value, bytes) else value for value in flat]
        request.told["inputs"].append(tensor)
    if binary or rng.random() < 0.3:
        asked = {"binary_data": binary}
        request.told["outputs"] = [{"name": model.output, "parameters": asked}]
    request.path = f"/v2/models/{model.name}{rng.choice(['', '/versions/1'])}/infer"
    return request


def draw(rng: random.Random, datatype: str, shape: list[int]) -> Array:
    """An array whose elements every protocol carries exactly."""
    count = math.prod(shape)
    if datatype == "BYTES":
        values = np.empty(count, np.object_)
        values[:] = [
            rng.choice(["", "a", "é🚢", "x" * 100, "line\n2", '"'])[: rng.randint(0, 9)].encode() for _ in range(count)
        ]
        return values.reshape(shape)
    low, high = {"BOOL": (0, 1), "UINT8": (0, 255)}.get(datatype, (-500, 500))
    return np.array([rng.randint(low, high) for _ in range(count)], DTYPES[datatype]).reshape(shape)


def to_bytes(array: Array) -> bytes:
    """The tensor as binary data of the protocol."""
    if array.dtype != np.object_:
        return array.tobytes()
    return b"".join(len(value).to_bytes(4, "little") + value for value in array.ravel())
