"""One malformed request sent to a server, and whether what came back is a 4xx or right."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import zlib
from dataclasses import dataclass
from typing import Any

from tests.malformed_answers import (
    Wrong,
    check_output,
    expected,
    is_own_server_error,
    model_of,
    read_arrays,
    read_http,
    read_raw,
    read_values,
)
from tests.malformed_http import Request

PATIENCE = 10.0  # seconds


@dataclass(frozen=True)
class Reply:
    """What a server sent back; `status` 0: it closed the connection without a word."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> str:
        return self.body.decode(errors="replace")[:300]


def send(port: int, request: Request) -> Reply | None:
    """The reply to a request, or None where it was cut off and nothing was waited for."""
    raw = request.raw()
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as wire:
        try:
            if request.cut is not None:
                wire.sendall(raw[: int(len(raw) * request.cut)])
                if request.cut < 0.5:  # by a reset instead of an orderly end
                    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return None
            wire.sendall(raw)
            if not request.framed:
                wire.shutdown(socket.SHUT_WR)
            return _receive(wire, request.method == "HEAD")
        except TimeoutError:
            raise
        except OSError:  # reset by the server
            return Reply(0, {}, b"")


def _receive(wire: socket.socket, head_only: bool) -> Reply:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := wire.recv(65536)):
            return Reply(0, {}, data)
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in lines)}
    status = int(first.split()[1])
    if status == 100:
        return _receive(wire, head_only)
    length = int(headers["content-length"]) if "content-length" in headers else None
    while not head_only and (length is None or len(body) < length):
        if not (more := wire.recv(65536)):
            break
        body += more
    return Reply(status, headers, body if length is None else body[:length])


def judge(request: Request, reply: Reply | None) -> str:
    """Why the reply is a fault; nothing where it is none."""
    if reply is None:
        return ""
    if reply.status == 0:
        return "" if not request.framed else "the connection was closed without an answer"
    if 400 <= reply.status < 500 or (reply.status >= 500 and is_own_server_error(reply.message)):
        return ""
    if reply.status != 200:
        return f"HTTP {reply.status}: {reply.message}"
    if "infer" not in request.path.rpartition("?")[0] + request.path.rpartition("/")[2] or not request.framed:
        return ""  # what a control endpoint says of itself, or the answer to a request of another length
    try:
        return _check_inference(request, reply)
    except (Wrong, AttributeError) as wrong:
        return f"200 for what means nothing ({wrong}): {reply.message}"


def _check_inference(request: Request, reply: Reply) -> str:
    model = model_of(request.path.split("/")[3])
    body, length = _body_of(request)
    if length == 0 or not body:
        right, asked = expected(model, read_raw(model, body)), list[Any]()
    else:
        told, binary = read_http(body, length)
        right, asked = expected(model, read_arrays(model, told.get("inputs"), binary)), told.get("outputs") or []
    parameters = [p for one in asked if isinstance(one, dict) and isinstance(p := one.get("parameters"), dict)]
    classes = next((c for one in parameters if (c := one.get("classification"))), None)
    answer, rest = _answer_of(reply)
    if len(answer["outputs"]) != 1:
        return f"{len(answer['outputs'])} outputs"
    tensor = answer["outputs"][0]
    size = (tensor.get("parameters") or {}).get("binary_data_size")
    values = tensor["data"] if size is None else read_values(tensor["datatype"], rest[:size])
    return check_output(model, right, tensor, values, classes)


def _body_of(request: Request) -> tuple[bytes, int | None]:
    """The body as the server must read it: unpacked, with the length of its JSON."""
    headers = {key.lower(): value.strip() for key, value in reversed(request.headers)}
    body = unpack(request.body or b"", headers.get("content-encoding", ""))
    length = headers.get("inference-header-content-length")
    digits = re.match(r"\s*([+-]?\d+)", length or "")
    return body, None if length is None else int(digits[1]) if digits else 0  # C's atoi()


def unpack(body: bytes, encoding: str) -> bytes:
    """A body as it was before its Content-Encoding; Triton takes either kind, and what was read of a damaged one."""
    if encoding not in ("gzip", "deflate"):
        return body
    reader, found = zlib.decompressobj(zlib.MAX_WBITS | 32), b""
    with contextlib.suppress(zlib.error):
        for byte in body:
            found += reader.decompress(bytes([byte]))
    return found


def _answer_of(reply: Reply) -> tuple[dict[str, Any], bytes]:
    body = unpack(reply.body, reply.headers.get("content-encoding", ""))
    length = reply.headers.get("inference-header-content-length")
    head = body if length is None else body[: int(length)]
    return json.loads(head), body[len(head) :]


def show(request: Request) -> str:
    """A request in a line."""
    return f"{'+'.join(request.kinds)}: {request.raw()[:1500]!r}"
