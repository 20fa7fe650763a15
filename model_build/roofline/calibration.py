"""A machine as a device: peaks, bandwidth and the price of a kernel, fitted to layers that were timed on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from model_build.precision.variants import FP32
from model_build.roofline.devices import CPU, Device
from model_build.roofline.layers import Layer

_LARGEST = 46.0  # logarithm of 1e20: what the samples do not tell wanders off
KINDS = ("product", "convolution", "other")


@dataclass(frozen=True)
class Sample:
    """A layer and the seconds that it took."""

    layer: Layer
    seconds: float


def fit(samples: Sequence[Sample], name: str, memory: float) -> Device:
    """The device whose roofline is nearest to what was measured, in the logarithm of each layer's time.

    Time is the longer of computing and moving, and an overhead for each kernel. A product also packs its activations,
    which small ones feel: few multiplications for each number. A node that only gives the same bytes another shape has
    an overhead of its own. A loss that grows slowly far out (soft L1) lets a few layers be wrong. What was not among
    the samples is taken from what was: the peak of a kind of layer from products.

    Args:
        samples: layers that took no time are left out.
        name: of the machine.
        memory: bytes of it.
    """
    used = [sample for sample in samples if sample.seconds > 0]
    kinds = np.array([KINDS.index(sample.layer.kind) for sample in used])
    layers = [sample.layer for sample in used]
    rows = [(one.flops, one.bytes, one.kernels, one.views) for one in layers]
    flops, moved, kernels, views = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    packed = np.array([0.0 if one.kind == "other" else one.activation_bytes for one in layers], np.float64)
    seconds = np.array([sample.seconds for sample in used], np.float64)

    def predicted(logs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        peaks, (bandwidth, overhead, view, packing) = np.exp(logs[: len(KINDS)]), np.exp(logs[len(KINDS) :])
        working = np.maximum(flops / peaks[kinds] + packed / packing, moved / bandwidth)
        times: npt.NDArray[np.float64] = working + kernels * overhead + views * view
        return times

    def errors(logs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        distances: npt.NDArray[np.float64] = np.log(predicted(logs) / seconds)
        return distances

    best_rates = [_rate(flops[kinds == index], seconds[kinds == index]) for index in range(len(KINDS))]
    product = best_rates[0] or max(best_rates) or 1e9
    rates = [rate or product for rate in best_rates]
    bandwidth, shortest = _rate(moved, seconds) or 1e9, float(seconds.min())
    start = np.log([*rates, bandwidth, shortest, shortest, 10 * bandwidth])
    found = np.exp(least_squares(errors, start, bounds=(-_LARGEST, _LARGEST), loss="soft_l1", f_scale=0.3).x)
    there = [index for index in range(len(KINDS)) if index in kinds]
    products, convolutions, others = (
        float(found[index if index in there else there[0]]) for index in range(len(KINDS))
    )
    bandwidth, overhead, view, packing = map(float, found[len(KINDS) :])
    return Device(
        key=CPU,
        name=name,
        peaks=MappingProxyType({FP32: products}),
        vector_peak=others,
        bandwidth=bandwidth,
        memory=memory,
        overhead=overhead,
        source=f"fitted to {len(used)} layers that were timed on it",
        convolution_peak=convolutions,
        view_overhead=view if views.any() else overhead,
        packing=packing if packed.any() else math.inf,
    )


def fit_flops_only(samples: Sequence[Sample]) -> float:
    """Operations a second over all samples together: how a count of FLOPs alone would be made a time."""
    return sum(one.layer.flops for one in samples) / sum(one.seconds for one in samples)


def _rate(amount: npt.NDArray[np.float64], seconds: npt.NDArray[np.float64]) -> float:
    return float(np.quantile(amount / seconds, 0.9)) if len(amount) else 0.0
