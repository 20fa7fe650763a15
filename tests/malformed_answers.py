"""What a request says, read without Triton, and whether an answer to it is the right one."""

from __future__ import annotations

import json
import math
import re
import struct
from typing import Any

import numpy as np

from tests.malformed_models import DTYPES, MODELS, Array, Model

# The answers of Triton 24.10 itself to wrong requests that are no 4xx, each with its reason. A 5xx of any other wording
# is a fault: the server's, or of Slipway's backend.
OWN_SERVER_ERRORS = {
    r"failed to parse the request JSON buffer": "no JSON: its reader's errors are of Triton's kind INTERNAL",
    r"[Uu]nable to (parse|set) '": "JSON of another type than the protocol's: the same reader",
    r"attempt to access (JSON |non-)": "the same, of the control endpoints",
    r"attempt to get members for non-object": "the same",
    r"Unsupported compression type": "UNSUPPORTED (501): a Content-Encoding other than gzip and deflate",
    r"invalid argument for --log_format": "UNAVAILABLE (503), of the logging endpoint",
    r"unexpected error on creating Triton parameter": "a parameter's name that is empty",
    r"string correlation ID cannot be longer": "UNSUPPORTED (501)",
    r"Unable to open shared memory region": "a region that is not there",
    r"explicit model load / unload is not allowed": "UNAVAILABLE (503): models are loaded at the start alone",
    r"(log|trace) file location can not be updated": "UNSUPPORTED (501)",
}

Tensor = tuple[str, str, list[int], list[Any]]  # name, datatype, shape, elements


class Wrong(Exception):
    """The request means nothing: only a refusal is right."""


def is_own_server_error(message: str) -> bool:
    """Whether this is one of Triton's own words for a wrong request."""
    return any(re.search(pattern, message) for pattern in OWN_SERVER_ERRORS)


def read_http(body: bytes, header_length: int | None) -> tuple[dict[str, Any], bytes]:
    """JSON and binary part of a body of the v2 protocol as Triton reads it: a NUL ends the JSON, keys are bytes."""
    cut = len(body) if header_length is None else header_length
    try:
        told = json.loads(body[:cut].partition(b"\0")[0].decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise Wrong(f"no JSON: {error}") from error
    if not isinstance(told, dict):
        raise Wrong("no JSON object")
    return told, body[cut:]


def read_raw(model: Model, body: bytes) -> dict[str, Array]:
    """Raw binary request: a body without JSON is the one input, of one example; one element where it is a text."""
    (name, datatype), *more = model.inputs.items()
    if more:
        raise Wrong("raw tensors are for models of one input")
    try:
        values = [body] if datatype == "BYTES" else read_values(datatype, body)
        known = math.prod(size for size in model.dims if size is not None)
        dims = [len(values) // known if size is None else size for size in model.dims]
        return {name: as_array(datatype, [1, *dims] if model.batch else dims, values)}
    except ValueError as error:
        raise Wrong(str(error)) from error


def read_arrays(model: Model, inputs: Any, binary: bytes) -> dict[str, Array]:
    """The tensors of a JSON request, from its `data` or, in their order, from the binary part."""
    found: list[Tensor] = []
    if not isinstance(inputs, list):
        raise Wrong("inputs are no list")
    for tensor in inputs:
        try:
            name, datatype, shape = tensor["name"], tensor["datatype"], [int(size) for size in tensor["shape"]]
            parameters = tensor.get("parameters")
            size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
            if size is None:
                values = _flat(tensor["data"]) if math.prod(shape) else []  # of nothing, Triton reads no data
            else:
                values, binary = read_values(datatype, binary[: int(size)]), binary[int(size) :]
            found.append((name, datatype, shape, values))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise Wrong(repr(error)) from error
    return as_arrays(model, found)


def as_arrays(model: Model, tensors: list[Tensor]) -> dict[str, Array]:
    """The inputs as Triton takes them: of a batch's size it keeps 32 bits, and 0 is that of the other inputs."""
    sizes = {shape[0] % 2**32 for _, _, shape, _ in tensors if shape} - {0}
    found = {}
    for name, datatype, shape, values in tensors:
        if model.batch and len(sizes) == 1:
            shape = [*sizes, *shape[1:]]
        try:
            found[name] = as_array(datatype, shape, values)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise Wrong(repr(error)) from error
    return found


def read_values(datatype: str, data: bytes) -> list[Any]:
    """The elements of a tensor's bytes; a BYTES element has its length before it, of four bytes."""
    if datatype != "BYTES":
        return list(np.frombuffer(data, DTYPES[datatype]))
    values = []
    while data:
        if len(data) < 4 or len(data) < 4 + struct.unpack("<I", data[:4])[0]:
            raise ValueError("an element is cut off")
        size = struct.unpack("<I", data[:4])[0]
        values.append(data[4 : 4 + size])
        data = data[4 + size :]
    return values


def as_array(datatype: str, shape: list[int], values: list[Any]) -> Array:
    """Elements in a shape that they fill, or ValueError."""
    if any(size < 0 for size in shape) or math.prod(shape) != len(values):
        raise ValueError(f"{len(values)} elements, shape {shape}")
    if datatype == "BYTES":
        raw = [value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value for value in values]
        for value in raw:
            value.decode()  # to ONNX a text, which must be UTF-8
        array = np.empty(len(raw), np.object_)
        array[:] = raw
        return array.reshape(shape)
    if datatype == "UINT8":
        values = [value % 256 if type(value) is int else value for value in values]  # Triton keeps the lowest byte
    with np.errstate(over="ignore"):
        return np.array(values, DTYPES[datatype]).reshape(shape)


def _flat(data: Any) -> list[Any]:
    return [value for one in data for value in _flat(one)] if isinstance(data, list) else [data]


def expected(model: Model, arrays: dict[str, Array]) -> Array:
    """The output that this request must get."""
    for name, array in arrays.items():
        if name in model.inputs and array.dtype != np.dtype(DTYPES[model.inputs[name]]):
            raise Wrong(f"'{name}' is of {array.dtype}")
    if not model.takes(arrays):
        raise Wrong(f"the model takes other inputs: { ({name: array.shape for name, array in arrays.items()}) }")
    with np.errstate(over="ignore", invalid="ignore"):
        return model.answer(arrays)


def check_output(model: Model, right: Array, tensor: dict[str, Any], values: list[Any], classes: Any = None) -> str:
    """Why this output tensor is not `right`; nothing where it is. `classes`: how many were asked for."""
    if tensor["name"] != model.output:
        return f"output '{tensor['name']}'"
    if classes and not int(classes) % 2**32 and not values:
        return ""  # to Triton, none
    if classes and int(classes) % 2**32:
        return _check_classes(right, values, int(classes) % 2**32, bool(model.batch))
    if tensor["datatype"] != model.datatype or [int(size) for size in tensor["shape"]] != list(right.shape):
        return f"{tensor['datatype']} {tensor['shape']}, expected {model.datatype} {list(right.shape)}"
    got = as_array(model.datatype, list(right.shape), values)
    same = (
        np.array_equal(got, right)
        if right.dtype == np.object_
        else np.array_equal(got, right, equal_nan=_floats(right))
    )
    return "" if same else f"{got.tolist()!r:.200}, expected {right.tolist()!r:.200}"


def _floats(array: Array) -> bool:
    return bool(array.dtype.kind == "f")


def _check_classes(right: Array, values: list[Any], count: int, batch: bool) -> str:
    """Classification extension: `value:index` of the largest `count` elements of each example, largest first."""
    rows = right.reshape(right.shape[0] if batch and right.ndim else 1, -1)
    best = [[row[i] for i in np.argsort(-row.astype(np.float64), kind="stable")[:count]] for row in rows]
    said = [value.decode() if isinstance(value, bytes) else str(value) for value in values]
    wanted = [float(value) for row in best for value in row]
    try:
        got = [float(one.partition(":")[0]) for one in said]
    except ValueError:
        return f"no classes: {said}"
    fits = len(got) == len(wanted) and np.allclose(got, wanted, rtol=1e-5, atol=1e-5, equal_nan=True)
    return "" if fits else f"classes {said}, expected {wanted}"


def model_of(name: Any) -> Model:
    """The model of this name, or Wrong."""
    if name not in MODELS:
        raise Wrong(f"no model '{name}'")
    return MODELS[name]
