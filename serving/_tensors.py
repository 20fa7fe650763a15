"""A tensor of a golden file: JSON of the v2 inference protocol that a person reads, and the bytes that a server takes.

JSON holds every type of Triton's here: FP16 and BF16 as numbers, what is no number of JSON's as "NaN", "Infinity" and
"-Infinity", BYTES as text, or as base64 where they are no UTF-8 and the tensor's parameters say `"encoding": "base64"`.
The bytes are those of the binary tensor data extension, little-endian
(https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md).
Standard library only: the image that asks in the cluster has no NumPy.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Value = bool | int | float | bytes
Tensor = Mapping[str, Any]

BASE64 = {"encoding": "base64"}

# Triton's datatypes in those of `struct`; BF16, which it lacks, is the upper half of an FP32.
_FORMATS = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
_HALF = "BF16"
FLOATS = frozenset({"FP16", _HALF, "FP32", "FP64"})
DATATYPES = frozenset({*_FORMATS, _HALF, "BYTES"})


class TensorError(ValueError):
    """A tensor whose data is not what its datatype and shape say."""


def to_json(name: str, datatype: str, shape: Sequence[int], values: Sequence[Any]) -> dict[str, Any]:
    """A tensor as strict JSON holds it; text among the values is `str` or `bytes`.

    Raises:
        TensorError: Triton has no such datatype, or the datatype no such value.
    """
    known = _typed(datatype, values)
    pack(datatype, known)  # an error now and not when a server is asked
    tensor = {"name": name, "datatype": datatype, "shape": list(shape)}
    if datatype != "BYTES":
        return {**tensor, "data": [_written(value) for value in known]}
    texts = [value for value in known if isinstance(value, bytes)]
    try:
        return {**tensor, "data": [text.decode() for text in texts]}
    except UnicodeDecodeError:
        return {**tensor, "parameters": BASE64, "data": [base64.b64encode(text).decode() for text in texts]}


def values_of(tensor: Tensor) -> list[Value]:
    """The values of a tensor from JSON, each as its datatype holds it (0.1 as FP32 is 0.10000000149...).

    Raises:
        TensorError: they are not those of its datatype, or not as many as its shape holds.
    """
    name, datatype = str(tensor.get("name")), str(tensor.get("datatype"))
    try:
        values, size = _listed(tensor["data"]), _size(tensor["shape"])
        if is_encoded(tensor):
            values = [base64.b64decode(value, validate=True) for value in values]
        found = unpack(datatype, pack(datatype, _typed(datatype, values)))
    except (KeyError, TypeError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise TensorError(f"'{name}' is no tensor of {datatype}: {reason}") from error
    if len(found) != size:
        raise TensorError(f"'{name}' has {len(found)} values, and {size} in its shape {tensor['shape']}")
    return found


def _listed(data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise TensorError(f"its data {data!r:.60} is no list")
    return list(flat(data))


def _size(shape: Any) -> int:
    """How many elements there are."""
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):  # True is an int too
        raise TensorError(f"its shape {shape!r:.60} is no list of sizes, whole numbers of 0 or more")
    return math.prod(shape)


def is_encoded(tensor: Tensor) -> bool:
    """Whether the data is base64: bytes that are no text."""
    return dict(tensor.get("parameters") or {}).get("encoding") == BASE64["encoding"]


def in_json(tensor: Tensor) -> bool:
    """Whether Triton reads this tensor from a JSON request as it is: `curl -d @golden/request.json` asks the same."""
    if tensor["datatype"] in {"FP16", _HALF} or is_encoded(tensor):
        return False
    return tensor["datatype"] not in FLOATS or all(math.isfinite(float(value)) for value in flat(tensor["data"]))


def pack(datatype: str, values: Sequence[Value]) -> bytes:
    """The values as Triton takes them in binary.

    Raises:
        TensorError: Triton has no such datatype, or the datatype no such value.
    """
    try:
        if datatype == "BYTES":
            return b"".join(struct.pack("<I", len(value)) + value for value in values if isinstance(value, bytes))
        if datatype == _HALF:
            return struct.pack(f"<{len(values)}H", *(_upper_half(float(value)) for value in values))
        return struct.pack(f"<{len(values)}{_format(datatype)}", *values)
    except (struct.error, OverflowError) as error:
        raise TensorError(f"not every value fits {datatype}: {error}") from error


def unpack(datatype: str, data: bytes) -> list[Value]:
    """The values in the binary data of a tensor.

    Raises:
        TensorError: the data is not that of whole values.
    """
    if datatype == "BYTES":
        return _texts(data)
    if datatype == _HALF:
        # Two bytes of zero below each make an FP32 of it.
        wide = b"".join(b"\0\0" + data[index : index + 2] for index in range(0, len(data), 2))
        return unpack("FP32", wide)
    kind = _format(datatype)
    size = struct.calcsize(f"<{kind}")
    if len(data) % size:
        raise TensorError(f"{len(data)} bytes are no whole number of {datatype} values of {size} bytes")
    return list(struct.unpack(f"<{len(data) // size}{kind}", data))


def _texts(data: bytes) -> list[Value]:
    found: list[Value] = []
    position = 0
    while position < len(data):
        try:
            (length,) = struct.unpack_from("<I", data, position)
        except struct.error as error:
            raise TensorError("the BYTES end within a length") from error
        found.append(data[position + 4 : position + 4 + length])
        position += 4 + length
    if position != len(data):
        raise TensorError("the BYTES end within a value")
    return found


def _typed(datatype: str, values: Iterable[Any]) -> list[Value]:
    """The values in the types that `pack` takes: no number for a text, no 0.5 for an integer, no "no" for a BOOL."""
    if datatype not in DATATYPES:
        raise TensorError(_unknown(datatype))
    return [_as(datatype, value) for value in values]


def _as(datatype: str, value: Any) -> Value:
    if datatype == "BYTES" and isinstance(value, str | bytes):
        return _encoded(value) if isinstance(value, str) else bytes(value)
    if datatype == "BOOL" and value in (0, 1) and not isinstance(value, str):
        return bool(value)
    if datatype in FLOATS and (isinstance(value, int | float) or value in _NOT_IN_JSON):
        return float(value)
    if datatype not in FLOATS | {"BYTES", "BOOL"} and isinstance(value, int):
        return int(value)
    raise TensorError(f"{value!r} is no {datatype}")


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise TensorError(f"{text!r} is no text that UTF-8 can hold") from error


_NOT_IN_JSON = ("NaN", "Infinity", "-Infinity")


def _written(value: Value) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _upper_half(value: float) -> int:
    """BF16 as an integer: the nearest, of two as near the even one; NaN stays NaN."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    if math.isnan(value):
        return int(bits >> 16 | 0x40)
    return int((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)


def _format(datatype: str) -> str:
    if datatype not in _FORMATS:
        raise TensorError(_unknown(datatype))
    return _FORMATS[datatype]


def _unknown(datatype: str) -> str:
    return f"Triton has no datatype {datatype}: expected one of {', '.join(sorted(DATATYPES))}"


def flat(data: Any) -> Iterable[Any]:
    """The protocol allows data in nested lists as well as in one."""
    for value in data:
        if isinstance(value, list):
            yield from flat(value)
        else:
            yield value
