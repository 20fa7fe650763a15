"""The golden request of a model and the check of an answer against it.

The files' JSON is that of the v2 inference protocol, and what `serving/_tensors.py` says of values that JSON has not:
read here with NumPy, because the image of the load test has it and nothing of the server.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from slipway_client import DTYPES, Result

_BF16 = np.dtype(np.float32)  # what tritonclient makes of BF16, and takes for it


class WrongAnswerError(Exception):
    """The server answered, and not what the model was built with."""


@dataclass(frozen=True)
class Golden:
    """Inputs, and the outputs that they must give within `atol`."""

    inputs: Mapping[str, npt.NDArray[Any]]
    outputs: Mapping[str, npt.NDArray[Any]]
    atol: float

    @classmethod
    def read(cls, folder: Path) -> Golden:
        """Read `request.json` and `response.json` of a model's golden folder (v2 inference protocol).

        Raises:
            ValueError: `parameters.atol` is no tolerance: infinities and NaN would be equal to anything.
        """
        request = json.loads((folder / "request.json").read_text(encoding="utf-8-sig"))
        response = json.loads((folder / "response.json").read_text(encoding="utf-8-sig"))
        atol = float(response["parameters"]["atol"])
        if not 0 <= atol < np.inf:
            raise ValueError(f"{folder / 'response.json'}: parameters.atol is {atol}: expected 0 or more, and finite")
        return cls(_arrays(request["inputs"]), _arrays(response["outputs"]), atol)

    def check(self, answer: Result) -> None:
        """Raise WrongAnswerError unless `answer` is the golden one, as `serving.compare_golden` has it."""
        for name, expected in self.outputs.items():
            if name not in answer:
                raise WrongAnswerError(f"output '{name}' is missing; got {sorted(answer)}")
            found = answer[name]
            if found.shape != expected.shape:
                raise WrongAnswerError(f"'{name}' has shape {list(found.shape)}, expected {list(expected.shape)}")
            if found.dtype != expected.dtype:
                raise WrongAnswerError(f"'{name}' is {found.dtype}, expected {expected.dtype}")
            if expected.dtype.kind in "Ob":
                if not np.array_equal(found, expected):
                    raise WrongAnswerError(f"'{name}' is another {'text' if expected.dtype.kind == 'O' else 'answer'}")
            elif not (distance := _distance(expected, found)) <= self.atol:
                raise WrongAnswerError(f"'{name}' is off by {distance:.2g}, allowed {self.atol:.2g}")


def _distance(expected: npt.NDArray[Any], found: npt.NDArray[Any]) -> float:
    """Largest absolute difference: 0 for equal infinities and for NaN in the same place, exact for integers."""
    if expected.dtype.kind in "iu":
        other = expected != found
        return float(max((abs(int(a) - int(b)) for a, b in zip(expected[other], found[other], strict=True)), default=0))
    wide, answered = expected.astype(np.float64), found.astype(np.float64)
    other = ~((wide == answered) | (np.isnan(wide) & np.isnan(answered)))
    differences = np.abs(wide[other] - answered[other])
    return float(np.where(np.isnan(differences), np.inf, differences).max(initial=0))


def _arrays(tensors: list[dict[str, Any]]) -> dict[str, npt.NDArray[Any]]:
    return {t["name"]: _array(t) for t in tensors}


def _array(tensor: dict[str, Any]) -> npt.NDArray[Any]:
    """BYTES are `bytes`, as they come from a server."""
    values = tensor["data"]
    if tensor["datatype"] == "BYTES":
        encoded = (tensor.get("parameters") or {}).get("encoding") == "base64"
        values = [base64.b64decode(value) if encoded else value.encode() for value in np.ravel(values).tolist()]
    return np.array(values, dtype=DTYPES.get(tensor["datatype"], _BF16)).reshape(tensor["shape"])
