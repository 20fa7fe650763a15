"""The golden request of a model and the check of an answer against it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from slipway_client import DTYPES, Result


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
        """Read `request.json` and `response.json` of a model's golden folder (v2 inference protocol)."""
        request = json.loads((folder / "request.json").read_text())
        response = json.loads((folder / "response.json").read_text())
        return cls(_arrays(request["inputs"]), _arrays(response["outputs"]), float(response["parameters"]["atol"]))

    def check(self, answer: Result) -> None:
        """Raise WrongAnswerError unless `answer` is the golden one."""
        for name, expected in self.outputs.items():
            found = answer[name]
            if found.shape != expected.shape:
                raise WrongAnswerError(f"'{name}' has shape {list(found.shape)}, expected {list(expected.shape)}")
            if expected.dtype == np.object_:
                if not np.array_equal(found, expected):
                    raise WrongAnswerError(f"'{name}' is another text")
            elif not np.allclose(found, expected, rtol=0, atol=self.atol):
                raise WrongAnswerError(
                    f"'{name}' is off by {np.abs(found - expected).max():.2g}, allowed {self.atol:.2g}"
                )


def _arrays(tensors: list[dict[str, Any]]) -> dict[str, npt.NDArray[Any]]:
    return {t["name"]: _array(t) for t in tensors}


def _array(tensor: dict[str, Any]) -> npt.NDArray[Any]:
    """BYTES are `bytes`, as they come from a server."""
    text = tensor["datatype"] == "BYTES"
    values = [value.encode() for value in tensor["data"]] if text else tensor["data"]
    return np.array(values, dtype=DTYPES[tensor["datatype"]]).reshape(tensor["shape"])
