"""The cards that people serve on: dense peaks by precision, bandwidth and memory, each with its source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from model_build._errors import ConfigurationError
from model_build.precision.variants import FP16, FP32, INT8

CPU, TF32 = "cpu", "tf32"
TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True)
class Device:
    """What a device can do at most; of a measured one, what it did.

    Attributes:
        key: what `--device` takes.
        name: as its maker writes it.
        peaks: operations a second of matrix products and convolutions by precision, dense (without sparsity, which
            doubles the figures of the data sheets), accumulated in FP32 or INT32. TF32, ten bits of each number in FP32
            tensors, is what ONNX Runtime does with FP32 on Ampere and later unless it is told not to.
        vector_peak: operations a second of everything else, FP32 outside of the tensor cores.
        bandwidth: bytes a second between memory and chip.
        memory: bytes.
        overhead: seconds that one kernel takes before it computes anything.
        view_overhead: seconds that a node takes which gives the same bytes under another shape: nothing on a card, a
            call on a CPU.
        packing: bytes a second at which a product or a convolution brings its activations into the order in which it
            multiplies and out of it again, before and after it computes; none on a card, where that overlaps.
        source: where the figures are from.
        convolution_peak: of convolutions, where it was measured apart from matrix products.
    """

    key: str
    name: str
    peaks: Mapping[str, float]
    vector_peak: float
    bandwidth: float
    memory: float
    overhead: float
    source: str
    convolution_peak: float | None = None
    view_overhead: float = 0.0
    packing: float = math.inf

    def peak(self, kind: str, precision: str) -> float:
        """Operations a second of a layer of this kind (`convolution`, `product`, `other`)."""
        if kind == "other":
            return self.vector_peak
        if kind == "convolution" and self.convolution_peak is not None:
            return self.convolution_peak
        return self.peaks[precision]


def _card(
    key: str,
    name: str,
    *,
    fp32: float,
    tf32: float | None,
    fp16: float,
    int8: float,
    bandwidth: float,
    memory: float,
    source: str,
) -> Device:
    """A card by TFLOPS (TOPS in INT8), GB/s and GB."""
    rates = {FP32: fp32, TF32: tf32, FP16: fp16, INT8: int8}
    frozen = MappingProxyType({precision: rate * TERA for precision, rate in rates.items() if rate is not None})
    return Device(key, name, frozen, fp32 * TERA, bandwidth * GIGA, memory * GIGA, _LAUNCH, source)


_LAUNCH = 3e-6  # of a kernel in a CUDA graph or a stream that is kept full: 2 to 5 us on all of these

_CARDS = (
    _card(
        "t4",
        "NVIDIA T4",
        fp32=8.1,
        tf32=None,
        fp16=65.0,
        int8=130.0,
        bandwidth=320,
        memory=16,
        source="NVIDIA Turing architecture whitepaper (WP-09183-001), appendix: Tesla T4",
    ),
    _card(
        "a10g",
        "NVIDIA A10G",
        fp32=35.0,
        tf32=35.0,
        fp16=70.0,
        int8=140.0,
        bandwidth=600,
        memory=24,
        source="NVIDIA A10G data sheet for AWS (2022), figures without sparsity; 69 in FP16 and 35 in TF32 "
        "were measured (zzc0721/torch-performance-test-data, issue 126)",
    ),
    _card(
        "l4",
        "NVIDIA L4",
        fp32=30.3,
        tf32=60.5,
        fp16=121.0,
        int8=242.5,
        bandwidth=300,
        memory=24,
        source="NVIDIA L4 data sheet (2023), halved: it gives figures with sparsity",
    ),
    _card(
        "a100",
        "NVIDIA A100 SXM 80 GB",
        fp32=19.5,
        tf32=156.0,
        fp16=312.0,
        int8=624.0,
        bandwidth=2039,
        memory=80,
        source="NVIDIA A100 data sheet (2021), figures without sparsity",
    ),
    _card(
        "h100",
        "NVIDIA H100 SXM 80 GB",
        fp32=66.9,
        tf32=494.7,
        fp16=989.4,
        int8=1978.9,
        bandwidth=3350,
        memory=80,
        source="NVIDIA H100 architecture whitepaper (2023), table 2, figures without sparsity",
    ),
    _card(
        "h200",
        "NVIDIA H200 SXM 141 GB",
        fp32=66.9,
        tf32=494.7,
        fp16=989.4,
        int8=1978.9,
        bandwidth=4800,
        memory=141,
        source="NVIDIA H200 data sheet (2024), halved: it gives figures with sparsity; the chip is the H100's",
    ),
    _card(
        "rtx3070ti",
        "NVIDIA GeForce RTX 3070 Ti",
        fp32=21.7,
        tf32=21.7,
        fp16=43.5,
        int8=174.0,
        bandwidth=608,
        memory=8,
        source="NVIDIA GA102 architecture whitepaper, the RTX 3070's figures times 48/46 SMs and 1.770/1.725 GHz; "
        "608 GB/s from the product page",
    ),
    _card(
        "rtx4090",
        "NVIDIA GeForce RTX 4090",
        fp32=82.6,
        tf32=82.6,
        fp16=165.2,
        int8=660.6,
        bandwidth=1008,
        memory=24,
        source="NVIDIA Ada architecture whitepaper (2022), appendix, FP16 with FP32 accumulation, without sparsity",
    ),
)
DEVICES: Mapping[str, Device] = MappingProxyType({card.key: card for card in _CARDS})


def key_of(written: str) -> str:
    """The key that was meant by `RTX-4090` or `CPU`."""
    return written.lower().replace("-", "").replace("_", "").replace(" ", "")


def find_device(key: str) -> Device:
    """The card of this name.

    Raises:
        ConfigurationError: there is none.
    """
    if (found := DEVICES.get(key_of(key))) is None:
        raise ConfigurationError(
            f"device '{key}' is unknown: expected one of {', '.join([*DEVICES, CPU])} ('{CPU}' measures this machine)"
        )
    return found
