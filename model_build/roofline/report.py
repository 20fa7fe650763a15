"""A roofline as tables, as JSON and as a page."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from model_build.roofline.analysis import AtBatch, Roofline
from model_build.roofline.devices import CPU
from model_build.roofline.prediction import Predicted

_NOTES = (
    "Layers are the exported graph's nodes as ONNX Runtime fuses them on a CPU; TensorRT fuses more (attention), so a "
    "card can be faster than this where memory is the limit. Weights are counted once, activations as they come in and "
    "go out; what stays in a cache between two layers is counted all the same."
)


def batch_rows(found: Roofline) -> list[list[str]]:
    """Header and one line for each batch."""
    measured = any(one.measured for one in found.batches)
    header = [
        "batch",
        "GFLOP",
        "MB",
        "FLOPs/byte",
        "predicted",
        *(["measured"] if measured else []),
        "examples/s",
        "bound by",
    ]
    rows = [header]
    for one in found.batches:
        flops, moved = one.total("flops"), one.total("bytes")
        rows.append(
            [
                str(one.batch),
                _figure(flops / 1e9),
                _figure(moved / 1e6),
                f"{flops / moved:.1f}" if moved else "-",
                _time(one.seconds),
                *([_time(sum(one.measured))] if measured else []),
                f"{one.batch / one.seconds:,.0f}" if one.seconds else "-",
                _bound(one),
            ]
        )
    return rows


def layer_rows(at: AtBatch, most: int | None = None) -> list[list[str]]:
    """Header and one line for each layer in the order in which they run, or for the `most` that take longest."""
    measured = list(at.measured) or [0.0] * len(at.layers)
    rows = [*zip(at.layers, measured, strict=True)]
    if most is not None and len(rows) > most:
        longest = sorted(rows, key=lambda row: -max(row[0].seconds, row[1]))[:most]
        rows = [row for row in rows if row in longest]
    header = ["layer", "operator", "bound by", "MFLOP", "KB", "FLOPs/byte", "predicted"]
    header += [*(["measured"] if at.measured else []), "by compute from"]
    lines = [header]
    for one, took in rows:
        layer = one.layer
        cells = [layer.module, layer.operator, one.bound if one.seconds else "-", _figure(layer.flops / 1e6)]
        cells += [_figure(layer.bytes / 1e3), f"{layer.intensity:.2f}", _time(one.seconds)]
        cells += [
            *([_time(took)] if at.measured else []),
            "-" if one.batch_from is None else f"batch {one.batch_from:,}",
        ]
        lines.append(cells)
    return lines


def operator_rows(at: AtBatch) -> list[list[str]]:
    """Header and one line for each operator, the longest first."""
    measured = list(at.measured) or [0.0] * len(at.layers)
    groups: dict[str, list[tuple[Predicted, float]]] = defaultdict(list)
    for one, took in zip(at.layers, measured, strict=True):
        groups[one.layer.operator].append((one, took))
    header = ["operator", "layers", "GFLOP", "MB", "FLOPs/byte", "predicted", "share"]
    rows = [header + (["measured"] if at.measured else [])]
    for operator, each in sorted(groups.items(), key=lambda item: -sum(one.seconds for one, _ in item[1])):
        flops, moved = (sum(getattr(one.layer, name) for one, _ in each) for name in ("flops", "bytes"))
        seconds = sum(one.seconds for one, _ in each)
        cells = [
            operator,
            str(len(each)),
            _figure(flops / 1e9),
            _figure(moved / 1e6),
            f"{flops / moved:.2f}" if moved else "-",
        ]
        cells += [_time(seconds), f"{seconds / at.seconds:.0%}" if at.seconds else "-"]
        rows.append(cells + ([_time(sum(took for _, took in each))] if at.measured else []))
    return rows


def verdict(found: Roofline) -> str:
    """What to take from it, in a sentence or two."""
    from_batch = found.compute_bound_from
    where = f"On {found.device.name} in {found.question.precision.upper()}"
    first = (
        f"{where} this model is bound by memory at every batch: its activations take longer to move "
        "than its FLOPs to compute."
        if from_batch is None
        else f"{where} this model is bound by computing from batch {from_batch} on."
    )
    best = found.best
    if best.largest == 0:
        return f"{first} Its weights and one example do not fit into the memory of {found.device.memory / 1e9:.0f} GB."
    return (
        f"{first} Best batch for its memory: {best.batch:,}, the smallest that reaches 95 % of the throughput of the "
        f"largest that fits ({best.largest:,} into {found.device.memory / 1e9:.0f} GB)."
    )


def about(found: Roofline) -> list[tuple[str, str]]:
    """The device and what was assumed."""
    device, asked = found.device, found.question
    peaks = ", ".join(f"{name.upper()} {_rate(value)}" for name, value in device.peaks.items())
    if device.convolution_peak is not None:
        peaks = f"products {_rate(device.peaks['fp32'])}, convolutions {_rate(device.convolution_peak)}"
    shapes = ", ".join(f"{name} {size}" for name, size in asked.shapes.items())
    return [
        ("device", device.name),
        ("peak", f"{peaks}; the rest {_rate(device.vector_peak)}"),
        (
            "bandwidth",
            f"{device.bandwidth / 1e9:,.0f} GB/s",
        ),
        (
            "a kernel",
            f"{device.overhead * 1e6:.1f} µs before it computes" + ("" if device.key == CPU else " (assumed)"),
        ),
        ("source", device.source),
        ("precision", asked.precision.upper()),
        *([("sizes", shapes)] if shapes else []),
        *([("batch", "a free first dimension has no name: taken for the batch")] if found.batch_assumed else []),
    ]


def to_json(found: Roofline) -> dict[str, Any]:
    """Everything, in FLOPs, bytes and seconds."""
    device = found.device
    return {
        "model": found.model,
        "device": {
            "key": device.key,
            "name": device.name,
            "peaks": dict(device.peaks) | {"convolution": device.peak("convolution", found.question.precision)},
            "vector_peak": device.vector_peak,
            "bandwidth": device.bandwidth,
            "memory": device.memory,
            "overhead": device.overhead,
            "view_overhead": device.view_overhead,
            "packing": device.packing if math.isfinite(device.packing) else None,
            "source": device.source,
        },
        "precision": found.question.precision,
        "shapes": dict(found.question.shapes),
        "batch_assumed": found.batch_assumed,
        "compute_bound_from_batch": found.compute_bound_from,
        "best_batch": {"batch": found.best.batch, "largest": found.best.largest},
        "batches": [_batch_json(one) for one in found.batches],
    }


def page_values(found: Roofline) -> Mapping[str, Any]:
    """What the roofline's part of a page is made of."""
    from model_build.pages import plots  # matplotlib takes a second

    last = found.batches[-1]
    return {
        "verdict": verdict(found),
        "batches": batch_rows(found),
        "batch": last.batch,
        "plot": plots.roofline(last.layers, found.device, last.measured),
        "measured": plots.predicted_against_measured(last.layers, last.measured) if last.measured else None,
        "operators": operator_rows(last),
        "layers": layer_rows(last),
        "notes": _NOTES,
    }


def page(found: Roofline) -> str:
    """One self-contained HTML file."""
    from model_build.pages import render

    title = f"{found.model} on {found.device.name}"
    return render("roofline", title=f"Roofline: {title}", about=about(found), found=page_values(found))


def _batch_json(at: AtBatch) -> dict[str, Any]:
    measured: Sequence[float | None] = list(at.measured) or [None] * len(at.layers)
    return {
        "batch": at.batch,
        "flops": at.total("flops"),
        "product_flops": at.total("product_flops"),
        "bytes": at.total("bytes"),
        "predicted_s": at.seconds,
        "measured_s": sum(at.measured) if at.measured else None,
        "layers": [
            {
                "name": one.layer.name,
                "module": one.layer.module,
                "operator": one.layer.operator,
                "kind": one.layer.kind,
                "precision": one.layer.precision,
                "flops": one.layer.flops,
                "weight_bytes": one.layer.weight_bytes,
                "activation_bytes": one.layer.activation_bytes,
                "intensity": one.layer.intensity,
                "bound": one.bound,
                "predicted_s": one.seconds,
                "measured_s": took,
                "compute_bound_from_batch": one.batch_from,
            }
            for one, took in zip(at.layers, measured, strict=True)
        ],
    }


def _bound(at: AtBatch) -> str:
    shares: dict[str, float] = defaultdict(float)
    for one in at.layers:
        shares[one.bound] += one.seconds / at.seconds if at.seconds else 0.0
    return ", ".join(f"{name} {share:.0%}" for name, share in sorted(shares.items(), key=lambda item: -item[1]))


def _figure(value: float) -> str:
    """Three digits of it, all before the point: 0.0123, 12.3, 12,345."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def _rate(value: float) -> str:
    return f"{value / 1e12:.4g} TFLOP/s" if value >= 1e12 else f"{value / 1e9:.4g} GFLOP/s"
