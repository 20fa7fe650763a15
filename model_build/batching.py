"""Whether a graph may be asked in batches: config.pbtxt says so to both servers, and neither asks again.

NVIDIA's backend joins the requests of different clients wherever `max_batch_size` allows it, and cuts the answer up by
their order: a graph that makes one row of several then gives one client what belongs to another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

from model_build.onnx_export import open_session
from serving.backends.onnxruntime.batch_rows import examine

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]

TRIAL_ROWS = 4
LARGE_TRIAL = 16  # rows, the examples again and again: what a graph does to a row far back shows only then
# Another batch size is another order of additions: that much a row may move, beside the largest number of the answer.
RELATIVE_TOLERANCE = 1e-3
REFUSED = (Fail, InvalidArgument, RuntimeException)  # what ONNX Runtime raises where a batch does not fit the graph


def why_alone(content: bytes, outputs: Sequence[str], trial: Feed) -> str:
    """The reason for which no two requests may be joined; empty where they may.

    Args:
        content: the ONNX file.
        outputs: names of those that are served.
        trial: inputs `[n, ...]` of a few real examples.
    """
    verdict = examine(onnx.load_from_string(content), outputs)
    if verdict:
        return contradiction(content, outputs, trial)
    if verdict.known or not verdict.carried:
        return verdict.reason
    if _rows(trial) < 2:
        return f"{verdict.reason}, and there are no two examples to try it with"
    return contradiction(content, outputs, trial)


def contradiction(content: bytes, outputs: Sequence[str], trial: Feed) -> str:
    """What the examples show against it, each alone and joined in several sizes and both orders; empty without."""
    session, count = open_session(content), min(TRIAL_ROWS, _rows(trial))

    def run(rows: Sequence[int]) -> list[Array]:
        answers: list[Array] = session.run([*outputs], {name: array[[*rows]] for name, array in trial.items()})
        return answers

    try:
        alone = [run([row]) for row in range(count)]
    except REFUSED:
        return "an example cannot be run alone"
    for answers in alone:
        for name, answer in zip(outputs, answers, strict=True):
            if _rows_of(answer) != 1:
                return f"output '{name}' has {_rows_of(answer)} rows for a batch of 1"
    groups = [list(range(size)) for size in range(2, count + 1)]
    groups += [[row % count for row in range(LARGE_TRIAL)]] if count else []
    for rows in [order for group in groups for order in (group, group[::-1])]:
        try:
            answers = run(rows)
        except REFUSED:
            return f"{len(rows)} examples cannot be run at once"
        for number, (name, joined) in enumerate(zip(outputs, answers, strict=True)):
            if _rows_of(joined) != len(rows):
                return f"output '{name}' has {_rows_of(joined)} rows for a batch of {len(rows)}"
            if not _alike(joined, np.concatenate([alone[row][number] for row in rows])):
                return f"output '{name}' of an example is another one when {len(rows)} examples are asked at once"
    return ""


def _rows_of(answer: Array) -> int:
    return len(answer) if answer.ndim else 0


def _rows(feed: Feed) -> int:
    return min((len(array) for array in feed.values()), default=0)


def _alike(joined: Array, alone: Array) -> bool:
    if joined.shape != alone.shape:
        return False
    if joined.dtype.kind != "f":
        return bool((joined == alone).all())
    finite = np.abs(alone[np.isfinite(alone)])
    scale = float(finite.max()) if finite.size else 0.0
    tolerance = RELATIVE_TOLERANCE * scale
    return bool(np.allclose(joined, alone, RELATIVE_TOLERANCE, tolerance, equal_nan=True))
