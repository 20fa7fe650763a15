"""What is done to a right HTTP request to make it a wrong one: to its JSON, its bytes, its headers."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable
from typing import Any

from tests.malformed_http import Request, as_list, right

STRANGE: tuple[Any, ...] = (
    *(None, True, False, "", "x", "x" * 3000, "\x00", "-1", "é\u0301🚢", "FP32", "INT64", "BYTES", "FP16", "TYPE_FP32"),
    *(-1, 0, 1, 2, 7, 9, 255, 256, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30),
    *(0.5, -0.0, 1e308, 1e-320, [], {}, [[]], [None], [[[1]]], {"a": 1}, [1, 2, 3], [1] * 1000),
)
FORMS = "application/x-www-form-urlencoded"
TYPES = (
    "application/json",
    "application/octet-stream",
    FORMS,
    "multipart/form-data; boundary=x",
    "text/plain",
    "",
    "é",
)
ENCODINGS = ("gzip", "deflate", "br", "identity", "gzip, gzip", "x" * 300, "GZIP", "")
LENGTHS = ("-1", "0", "1", "x", "", "99999999999999999999", "2147483648", "4294967297", "1e3", "0x10", " 12", "+5")
METHODS = ("GET", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "TRACE", "CONNECT", "post", "P", "\xff\xff", "POST" * 99)


def nodes(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON value, as container and key."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [pair for key in list(keys) for pair in ((value, key), *nodes(value[key]))]


def strange_value(rng: random.Random, request: Request) -> None:
    """Another value somewhere in the JSON."""
    container, key = rng.choice(nodes(request.told) or [({}, "")])
    container[key] = json.loads(json.dumps(rng.choice(STRANGE)))


def strange_key(rng: random.Random, request: Request) -> None:
    """A key renamed, left out or added."""
    places = [(one, key) for one, key in nodes(request.told) if isinstance(one, dict)]
    if not places:
        return
    container, key = rng.choice(places)
    value = container.pop(key)
    if rng.random() < 0.6:
        container[rng.choice([key + " ", key.upper(), "parameters", "shape", "data", "id", "outputs", ""])] = value


def strange_parameter(rng: random.Random, request: Request) -> None:
    """A parameter of the request, an input or an output that Triton gives a meaning."""
    names = (
        *("sequence_id", "sequence_start", "priority", "timeout", "classification", "binary_data", "binary_data_size"),
        *("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset", "binary_data_output", "triton_x"),
    )
    request.told.setdefault("outputs", [{"name": request.model.output}])
    one = rng.choice([request.told, *as_list(request.told.get("inputs")), *as_list(request.told["outputs"])])
    if isinstance(one, dict):
        parameters = one.setdefault("parameters", {})
        if isinstance(parameters, dict):
            parameters[rng.choice(names)] = rng.choice([*STRANGE, 1, 2, 4, 12, True])


def damaged(rng: random.Random, whole: bytes) -> bytes:
    """Bytes turned, taken out, put in, cut off or replaced by others."""
    data = bytearray(whole)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at : at + rng.randint(1, 9)] = b""
            case 2:
                data[at:at] = rng.choice(
                    [b"\x00", b"\xff\xfe", b"[" * 200, b'"', b"}" * 9, rng.randbytes(20), b"-", b"e9"]
                )
            case 3:
                del data[at:]
            case 4:
                data += rng.choice([b" ", b"{}", b"\x00" * 8, rng.randbytes(100)])
            case 5 if rng.random() < 0.1:
                data = bytearray(rng.randbytes(rng.randint(0, 500)))
    return bytes(data)


def damaged_body(rng: random.Random, request: Request) -> None:
    """The body's bytes, JSON and tensors."""
    request.seal()
    assert request.body is not None
    request.body = damaged(rng, request.body)


def wrong_sizes(rng: random.Random, request: Request) -> None:
    """Tensors that are longer or shorter than their shape and `binary_data_size` say."""
    request.binary = request.binary[: rng.randrange(len(request.binary) + 1)] + rng.randbytes(rng.choice([0, 1, 4, 30]))
    tensors = as_list(request.told.get("inputs"))
    tensor = rng.choice(tensors) if tensors else None
    if isinstance(tensor, dict) and rng.random() < 0.5:
        tensor["parameters"] = {"binary_data_size": rng.choice([*STRANGE, len(request.binary), 4])}


def header_length(rng: random.Random, request: Request) -> None:
    """Where the JSON ends, told wrongly or where there is no binary part."""
    request.seal()
    kept = [(key, value) for key, value in request.headers if not key.startswith("Inference")]
    length = rng.choice([*LENGTHS, str(len(request.body or b"")), str(len(request.body or b"") + 1)])
    request.headers = [*kept, ("Inference-Header-Content-Length", length)]


def content_type(rng: random.Random, request: Request) -> None:
    """A form, parts of one, or no type that there is."""
    request.headers.append((rng.choice(["Content-Type", "content-type", "Accept"]), rng.choice(TYPES)))
    if rng.random() < 0.2:
        request.body = rng.choice([b"a=b&" * 2000, b"&" * 4000, b"=" * 4000, b"%zz" * 999, b"a[b]=%00", b"x" * 200_000])


def encoding(rng: random.Random, request: Request) -> None:
    """A compressed body, and one that only says so."""
    request.seal()
    assert request.body is not None
    packed = rng.choice([gzip.compress(request.body), zlib.compress(request.body), request.body, b""])
    request.body = packed if rng.random() < 0.6 else damaged(rng, packed)
    request.headers.append(("Content-Encoding", rng.choice(ENCODINGS)))
    if rng.random() < 0.3:
        request.headers.append(("Accept-Encoding", rng.choice(ENCODINGS)))


def framing(rng: random.Random, request: Request) -> None:
    """Where the request ends, told wrongly, twice or not at all; requests behind one another."""
    request.seal()
    request.framed = False
    match rng.randrange(5):
        case 0:
            request.length = rng.choice(LENGTHS)
        case 1:
            request.length = str(max(0, len(request.body or b"") + rng.choice([-40, -1, 1, 40, 10**6])))
        case 2:
            request.headers.append(
                ("Transfer-Encoding", rng.choice(["chunked", "gzip, chunked", "x", "chunked\r\n x"]))
            )
            chunks = [
                b"5\r\nabcde\r\n0\r\n\r\n",
                b"-1\r\n",
                b"ffffffffffffffff\r\nx",
                b"zz\r\n",
                b"5;" + b"x" * 9999 + b"\r\n",
            ]
            request.body, request.length = rng.choice(chunks), ""
        case 3:
            request.headers += [("Content-Length", rng.choice(LENGTHS)), ("Expect", "100-continue")]
        case 4:
            request.after = rng.choice(
                [b"\r\n\r\n", rng.randbytes(300), b"GET /v2 HTTP/1.1\r\n\r\n" * 20, b"PRI * HTTP/2.0\r\n\r\n"]
            )


def head_line(rng: random.Random, request: Request) -> None:
    """Method, path and headers of no known kind; as many as fit."""
    request.framed = False
    name = request.model.name
    paths = (
        *(
            f"/v2/models/{name}%00/infer",
            f"/v2/models/%2e%2e/{name}/infer",
            "//",
            "*",
            "",
            "http://[::1",
            f"/v2/{'a/' * 999}",
        ),
        *(
            f"/v2/models/{name}/infer?" + "a=%zz&" * 500,
            f"/v2/models/{name}/versions/{9**30}/infer",
            "/v2/models//infer",
        ),
        *(
            f"/v2/models/{'x' * 70_000}/infer",
            f"/v2/models/{name}/versions/-1/infer",
            "/v2/models/é🚢/infer",
            "/v2/\x01",
        ),
    )
    match rng.randrange(4):
        case 0:
            request.method = rng.choice(METHODS)
        case 1:
            request.path = rng.choice(paths)
        case 2:
            request.headers += [(f"X-{i}", "y" * rng.choice([0, 10, 100])) for i in range(rng.choice([1, 100, 800]))]
        case 3:
            request.headers += [
                rng.choice([("", ""), ("a b", "c"), ("X", "y" * 90_000), ("Host", "\x00"), ("x\r\n\r\n", "")])
            ]


def cut_short(rng: random.Random, request: Request) -> None:
    """The connection closes in the middle."""
    request.cut = rng.random()


CONTROL = (
    *(
        "repository/index",
        "repository/models/plus/load",
        "repository/models/plus/unload",
        "repository/models/nope/load",
    ),
    *("systemsharedmemory/region/r/register", "systemsharedmemory/region/r/unregister", "systemsharedmemory/status"),
    *(
        "cudasharedmemory/region/r/register",
        "cudasharedmemory/region/r/unregister",
        "models/plus/stats",
        "models/stats",
    ),
    *(
        "models/plus/generate",
        "models/text/generate_stream",
        "models/plus/trace/setting",
        "models/nope/config",
        "logging",
    ),
    *("trace/setting", "models/plus", "models/plus/ready", "health/ready", "", "models/plus/versions/x/stats"),
)
FIELDS = (
    *(
        "key",
        "offset",
        "byte_size",
        "raw_handle",
        "device_id",
        "parameters",
        "ready",
        "x",
        "unload_dependents",
        "config",
    ),
    *("trace_rate", "trace_count", "log_frequency", "log_format", "text_input"),
)


def control(rng: random.Random, request: Request) -> None:
    """An endpoint that infers nothing, with fields of some other one."""
    request.path = f"/v2/{rng.choice(CONTROL)}"
    request.method = rng.choice(["POST", "POST", "POST", "GET"])
    request.told = {rng.choice(FIELDS): rng.choice(STRANGE) for _ in range(rng.randint(0, 4))}
    request.binary = b""
    if rng.random() < 0.3:
        damaged_body(rng, request)


MUTATIONS: dict[Callable[[random.Random, Request], None], int] = {
    strange_value: 5,
    strange_key: 2,
    strange_parameter: 3,
    damaged_body: 3,
    wrong_sizes: 2,
    header_length: 1,
    content_type: 1,
    encoding: 2,
    framing: 1,
    head_line: 1,
    cut_short: 1,
    control: 2,
}


def request(seed: int, number: int) -> Request:
    """The request of this number, always the same."""
    rng = random.Random(f"http {seed} {number}")
    made = right(rng)
    first, *more = rng.choices(list(MUTATIONS), list(MUTATIONS.values()), k=rng.choice([1, 1, 2]))
    for mutation in [first, *more]:
        if made.body is None or mutation in (damaged_body, encoding, framing, head_line, cut_short, header_length):
            mutation(rng, made)
            made.kinds.append(mutation.__name__)
    made.seal()
    return made
