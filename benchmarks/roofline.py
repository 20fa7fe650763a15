"""How right the roofline is: FLOPs beside torch.utils.flop_counter, predicted beside measured times.

    python benchmarks/roofline.py [--json] [--rounds 3] [--workspace .]

Four models of the workspace at batches 1, 8 and 32: digits, alexnet, embedder (64 tokens), translator (encoder and one
decoder step, 16 source and 8 past tokens), in FP32 on one thread of this CPU.

`flops_ratio` is our FLOPs of products and convolutions by the counter's, of the same PyTorch modules that were
exported; of the three batches the one farthest from 1. Exit code 1 where it is more than 2 % away.
`time_error_median` is the median over a model's layers of |predicted - measured| / measured, where the calibration saw
only the other three models; `time_error_total` the same of the whole model's time, mean of the three batches.
`time_error_flops_only` (and `_total`) predicts with FLOPs and one rate, fitted to the same other models;
`time_error_microbenchmarks` with the calibration of `slipway roofline --device cpu`, which sees no model at all.
ONNX Runtime's profile counts whole microseconds: only layers that took 5 or more are in the medians; all are in the
totals and in the calibration.
Every round measures all models in turn; each figure is the median of the rounds' own, with the smallest and largest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks._roofline_torch import counted_flops, exported_modules
from model_build import BuildError
from model_build.roofline import microbenchmarks
from model_build.roofline.analysis import cpu_name, graph_files
from model_build.roofline.calibration import Sample, fit, fit_flops_only
from model_build.roofline.devices import Device
from model_build.roofline.graph import fix, symbols
from model_build.roofline.layers import Layer, find_layers
from model_build.roofline.measure import measured, profile
from model_build.roofline.prediction import predict
from model_build.stages.layout import BuildFiles

WORKSPACE = Path(__file__).resolve().parent.parent
BATCHES = (1, 8, 32)
SHAPES: Mapping[str, Mapping[str, int]] = {
    "digits": {},
    "alexnet": {},
    "embedder": {"tokens": 64},
    "translator": {"source_tokens": 16, "past_tokens": 8},
}
TOLERANCE = 0.02
SHORTEST = 5e-6  # seconds: below, the clock's whole microseconds are more than a tenth

Measured = Mapping[int, Sequence[Sample]]  # of a model, by batch


def main() -> int:
    """Count, measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workspace", type=Path, default=WORKSPACE, help="where the models were built")
    arguments = parser.parse_args()
    try:
        result = measure(arguments.workspace, arguments.rounds)
    except (BuildError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result, indent=1) if arguments.json else _text(result))
    return 0 if all(abs(one["flops_ratio"] - 1) <= TOLERANCE for one in result["models"].values()) else 1


def measure(workspace: Path, rounds: int) -> dict[str, Any]:
    """Every figure with its spread, by model."""
    graphs = {model: {size: _graphs(workspace, model, size) for size in BATCHES} for model in SHAPES}
    ratios = {model: _ratios(workspace, model, graphs[model]) for model in SHAPES}
    rows: list[dict[str, dict[str, float]]] = []
    calibrations: list[Device] = []
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        samples = {model: {size: _timed(graphs[model][size], size) for size in BATCHES} for model in SHAPES}
        calibrations.append(fit(microbenchmarks.run(), "this machine", 0.0))
        rows.append({model: _errors(model, samples, calibrations[-1]) for model in SHAPES})
    models = {
        model: {
            "flops_ratio": max(ratios[model].values(), key=lambda ratio: abs(ratio - 1)),
            "flops_ratio_by_batch": ratios[model],
            **{name: value for key in rows[0][model] for name, value in _spread(key, [row[model] for row in rows])},
        }
        for model in SHAPES
    }
    calibration = {
        name: statistics.median(getattr(one, name) for one in calibrations)
        for name in ("vector_peak", "convolution_peak", "bandwidth", "packing", "overhead", "view_overhead")
    }
    return {"models": models, "cpu": cpu_name(), "rounds": rounds, "calibration": calibration}


def _graphs(workspace: Path, model: str, batch: int) -> dict[Path, Sequence[Layer]]:
    files = graph_files(BuildFiles(workspace, model))
    return {path: find_layers(fix(path, batch, SHAPES[model])) for path in files}


def _ratios(workspace: Path, model: str, graphs: Mapping[int, Mapping[Path, Sequence[Layer]]]) -> dict[int, float]:
    """Our FLOPs by the counter's, at each batch."""
    print(f"counting {model}", file=sys.stderr)
    modules = exported_modules(workspace, model)
    found = {}
    for batch, by_path in graphs.items():
        ours = sum(layer.product_flops for layers in by_path.values() for layer in layers)
        found[batch] = ours / sum(counted_flops(modules[path.name], path, _sizes(path, batch)) for path in by_path)
    return found


def _timed(graphs: Mapping[Path, Sequence[Layer]], batch: int) -> list[Sample]:
    found = []
    for path, layers in graphs.items():
        times = measured(layers, profile(path, _sizes(path, batch)))
        found += [Sample(layer, seconds) for layer, seconds in zip(layers, times, strict=True)]
    return found


def _sizes(path: Path, batch: int) -> dict[str, int]:
    name, others = symbols(path)
    given = {key: size for sizes in SHAPES.values() for key, size in sizes.items()}
    return {other: given[other] for other in others} | ({name: batch} if name else {})


def _errors(model: str, samples: Mapping[str, Measured], calibrated: Device) -> dict[str, float]:
    """Of one round: what predicts this model's times how well."""
    others = [one for name, by in samples.items() if name != model for batch in by.values() for one in batch]
    device, rate = fit(others, "this machine", 0.0), fit_flops_only(others)
    batches = list(samples[model].values())
    every = [one for batch in batches for one in batch]
    ways = {
        "": [_predicted(batch, device) for batch in batches],
        "_flops_only": [[one.layer.flops / rate for one in batch] for batch in batches],
        "_microbenchmarks": [_predicted(batch, calibrated) for batch in batches],
    }
    found: dict[str, float] = {}
    for way, predictions in ways.items():
        pairs = zip(every, (seconds for batch in predictions for seconds in batch), strict=True)
        errors = [abs(seconds - one.seconds) / one.seconds for one, seconds in pairs if one.seconds >= SHORTEST]
        totals = [
            abs(sum(predicted) / sum(one.seconds for one in batch) - 1)
            for batch, predicted in zip(batches, predictions, strict=True)
        ]
        found[f"time_error{way or '_median'}"] = statistics.median(errors)
        found[f"time_error{way}_total"] = statistics.mean(totals)
    found["layers"] = len(every)
    found["layers_in_median"] = sum(one.seconds >= SHORTEST for one in every)
    return found


def _predicted(samples: Sequence[Sample], device: Device) -> list[float]:
    return [one.seconds for one in predict([sample.layer for sample in samples], device, 1)]


def _spread(key: str, rows: Sequence[Mapping[str, float]]) -> list[tuple[str, Any]]:
    values = [row[key] for row in rows]
    if not key.startswith("time"):
        return [(key, round(statistics.median(values)))]
    return [(key, statistics.median(values)), (f"{key}_spread", [min(values), max(values)])]


def _text(result: dict[str, Any]) -> str:
    lines = [f"{result['cpu']}, one thread, {result['rounds']} rounds"]
    for model, figures in result["models"].items():
        lines += [model, *(f"  {name}: {value}" for name, value in figures.items())]
    return "\n".join([*lines, f"calibration: {result['calibration']}"])


if __name__ == "__main__":
    sys.exit(main())
