"""The roofline: what bounds each layer on a device, how long it takes, and from which batch on that changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from model_build.roofline.devices import CPU, Device
from model_build.roofline.layers import Layer

COMPUTE, MEMORY, OVERHEAD = "compute", "memory", "launch"
NEAR_BEST = 0.95


@dataclass(frozen=True)
class Predicted:
    """One layer on one device.

    Attributes:
        compute, memory, overhead: seconds that computing, moving and launching take.
        batch_from: the batch from which it is bound by compute; None where it never is.
    """

    layer: Layer
    compute: float
    memory: float
    overhead: float
    batch_from: int | None

    @property
    def seconds(self) -> float:
        """Computing and moving overlap, launching does not."""
        return max(self.compute, self.memory) + self.overhead

    @property
    def bound(self) -> str:
        """What takes longest: `compute`, `memory` or `launch`."""
        if self.overhead > max(self.compute, self.memory):
            return OVERHEAD
        return COMPUTE if self.compute >= self.memory else MEMORY


def predict(layers: Sequence[Layer], device: Device, batch: int) -> list[Predicted]:
    """Each layer on `device`; the layers are of a graph at this batch."""
    return [
        Predicted(
            layer,
            _computing(layer, device),
            layer.bytes / device.bandwidth,
            _launching(layer, device),
            _batch_from([layer], device, batch),
        )
        for layer in layers
    ]


def _computing(layer: Layer, device: Device) -> float:
    packing = 0.0 if layer.kind == "other" else layer.activation_bytes / device.packing
    return layer.flops / device.peak(layer.kind, layer.precision) + packing


def _launching(layer: Layer, device: Device) -> float:
    # What ONNX Runtime inserts around a layer for a CPU's layout is not there on a card.
    kernels = layer.kernels if device.key == CPU else min(layer.kernels, 1)
    return kernels * device.overhead + layer.views * device.view_overhead


def batch_from(layers: Sequence[Layer], device: Device, batch: int) -> int | None:
    """The batch from which the whole model computes longer than it moves; None where it never does."""
    return _batch_from(layers, device, batch)


def _batch_from(layers: Sequence[Layer], device: Device, batch: int) -> int | None:
    # Weights are read once for a batch; FLOPs and activations grow with it.
    compute = sum(_computing(layer, device) for layer in layers) / batch
    moving = sum(layer.activation_bytes for layer in layers) / device.bandwidth / batch
    weights = sum(layer.weight_bytes for layer in layers) / device.bandwidth
    if compute <= moving:
        return None
    return max(1, math.ceil(weights / (compute - moving) - 1e-9))


def seconds_at(layers: Sequence[Layer], device: Device, batch: int, wanted: int) -> float:
    """Predicted time of the model at batch `wanted`, from its layers at `batch`."""
    scale = wanted / batch
    return sum(
        max(
            scale * _computing(layer, device),
            (layer.weight_bytes + scale * layer.activation_bytes) / device.bandwidth,
        )
        + _launching(layer, device)
        for layer in layers
    )


@dataclass(frozen=True)
class BestBatch:
    """What to serve with.

    Attributes:
        batch: the smallest power of two within 5 % of the throughput that the largest one gives.
        largest: the largest power of two whose weights and live activations the device holds; 0 where none is.
    """

    batch: int
    largest: int


def best_batch(layers: Sequence[Layer], device: Device, batch: int, live: float, weights: float) -> BestBatch:
    """The batch to serve with.

    Args:
        layers: of the graph at `batch`.
        device: on which it is to run.
        batch: of those layers.
        live: bytes of activations that are needed at one time, at `batch`.
        weights: bytes of all constants.
    """
    room = device.memory - weights
    fits = int(room / (live / batch)) if live else 1 << 20
    if fits < 1:
        return BestBatch(0, 0)
    largest = 1 << min(20, fits.bit_length() - 1)
    powers = [1 << power for power in range(largest.bit_length())]
    rates = {one: one / seconds_at(layers, device, batch, one) for one in powers}
    enough = NEAR_BEST * rates[largest]
    return BestBatch(next(one for one in powers if rates[one] >= enough), largest)
