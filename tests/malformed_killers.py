"""What Triton 24.10 itself dies of, and nothing in front of it can be told to stop: left out, and supervised.

`slipway serve` starts Triton again (serving/_supervisor.py); docs/backend.md says what to do where that is not enough.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from tests.malformed_models import MODELS

# The smallest request that shows it; R is `POST /v2/models/MODEL/infer`.
KILLERS = {
    "SHAPE_OF_MORE_THAN_MEMORY": (
        'R {"inputs":[{"name":"x","datatype":"FP32","shape":[1,4294967296],"data":[1]}]}: room for the whole shape is '
        "taken before the elements are counted, and where its size overflows, [2147483648,2147483648], written beyond"
    ),
    "SHAPE_THAT_OVERFLOWS_TO_NOTHING": (
        "shape [1,4611686018427387904] of FP32 with 0 bytes of binary or raw data, HTTP and gRPC: 2^64 bytes count as "
        "0, and the model's process ends in C++, before any of our Python, with `array is too big`"
    ),
    "CLASSES_OF_TEXTS": (
        'R with "outputs":[{"name":"y","parameters":{"classification":1}}] where y is of BYTES; the same over gRPC'
    ),
    "CLASSES_OF_NOTHING": (
        'R {"inputs":[{"name":"x","datatype":"INT64","shape":[2,0],"data":[]}],"outputs":[{"name":"y","parameters":'
        '{"classification":1}}]}: an output without elements; SIGSEGV over HTTP alone'
    ),
    "LENGTH_OF_2_GIB": (
        "a body of 2 GiB to 4 GiB, or a first Content-Length of so much with another one or chunks behind it: its "
        "size becomes a negative number"
    ),
}
# Elements; what is allowed takes 128 MiB of Triton at most.
LARGEST_COUNT = 2**24


def killer_in_http(model: str, raw: bytes) -> str | None:
    """Which of them an HTTP request to `model` is."""
    head, _, body = raw.partition(b"\r\n\r\n")
    if re.search(rb"(?i)content-length: *2147483648", head):
        return "LENGTH_OF_2_GIB"
    if b'"classification"' in body and MODELS[model].datatype == "BYTES":
        return "CLASSES_OF_TEXTS"
    shapes = [
        [int(size) for size in re.findall(rb"\d+", shape)] for shape in re.findall(rb'"shape"\s*:\s*\[([^\]]*)', body)
    ]
    if b'"classification"' in body and any(0 in shape for shape in shapes):
        return "CLASSES_OF_NOTHING"
    if b'"data"' in body and any(math.prod(shape) > LARGEST_COUNT for shape in shapes):
        return "SHAPE_OF_MORE_THAN_MEMORY"
    return overflow_to_nothing(shapes)


def overflow_to_nothing(shapes: Sequence[Sequence[int]]) -> str | None:
    """The killer of that name, where the bytes of one of the shapes are a multiple of 2^64."""
    counts = [math.prod(shape) for shape in shapes]
    overflows = any(abs(n) > LARGEST_COUNT and any(n * size % 2**64 == 0 for size in (1, 2, 4, 8)) for n in counts)
    return "SHAPE_THAT_OVERFLOWS_TO_NOTHING" if overflows else None
