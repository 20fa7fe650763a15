"""What the fuzz test leaves out, because Triton 24.10 dies of it, is told from what it sends."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.malformed_killers import killer_in_http


@pytest.mark.parametrize(
    ("model", "shape", "data", "parameters", "killer"),
    [
        ("whole", [2, 0], [], {"classification": 1}, "CLASSES_OF_NOTHING"),
        ("whole", [2, 0], [], {}, None),
        ("whole", [2, 1], [1, 2], {"classification": 1}, None),
        ("text", [1, 1], ["a"], {"classification": 1}, "CLASSES_OF_TEXTS"),
        ("plus", [1, 2**32], [1], {}, "SHAPE_OF_MORE_THAN_MEMORY"),
    ],
)
def test_a_request_that_ends_triton_is_known_by_its_name(
    model: str, shape: list[int], data: list[Any], parameters: dict[str, int], killer: str | None
) -> None:
    body = {
        "inputs": [{"name": "x", "datatype": "any", "shape": shape, "data": data}],
        "outputs": [{"name": "y", "parameters": parameters}],
    }
    raw = b"POST /v2/models/m/infer HTTP/1.1\r\n\r\n" + json.dumps(body).encode()
    assert killer_in_http(model, raw) == killer
