"""What each layer takes on this machine: ONNX Runtime's own profile, by node."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from model_build.roofline.layers import Layer

_TYPES = {"tensor(float)": "f4", "tensor(float16)": "f2", "tensor(double)": "f8", "tensor(bool)": "?"}
_ENDING = "_kernel_time"
RUNS, SECONDS = 300, 1.0  # a graph of 0.1 ms runs as long as it takes the clock of a core to settle


def profile(
    path: Path, sizes: Mapping[str, int], *, threads: int = 1, runs: int = RUNS, seconds: float = SECONDS
) -> dict[str, float]:
    """Median time of each node of ONNX Runtime's optimised graph on the CPU, in seconds by its name.

    Inputs are ones where they are integers, and normally distributed where they are not: times of dense layers do not
    depend on them.

    Args:
        path: of the ONNX file.
        sizes: of its free dimensions.
        threads: that ONNX Runtime may use.
        runs: at most.
        seconds: after which no further run begins; five are made in any case.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    for name, size in sizes.items():
        options.add_free_dimension_override_by_name(name, size)
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        feed = {one.name: _values(one.type, one.shape) for one in session.get_inputs()}
        begun = time.monotonic()
        for run in range(runs):
            if run >= 5 and time.monotonic() - begun > seconds:
                break
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    times = defaultdict(list)
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(_ENDING):
            times[event["name"].removesuffix(_ENDING)].append(event["dur"] / 1e6)
    # The first run allocates: it is not counted.
    return {name: statistics.median(found[1:] or found) for name, found in times.items()}


def measured(layers: Sequence[Layer], times: Mapping[str, float]) -> list[float]:
    """Seconds of each layer: the sum over the nodes that ONNX Runtime runs for it."""
    return [sum(times.get(name, 0.0) for name in layer.nodes) for layer in layers]


def _values(kind: str, shape: Sequence[int]) -> npt.NDArray[np.generic]:
    if kind in _TYPES:
        random = np.random.default_rng(0).standard_normal(shape)
        return np.ones(shape, bool) if _TYPES[kind] == "?" else random.astype(_TYPES[kind])
    return np.ones(shape, "i4" if kind == "tensor(int32)" else "i8")
