"""The Triton release that models are exported for, and what its ONNX Runtime can open."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TritonTarget:
    """A release of NVIDIA's container and the newest ONNX versions its onnxruntime backend opens."""

    triton_release: str
    onnxruntime: str
    max_opset: int
    max_ir_version: int


# Limits found by opening a one-node graph of each version with onnxruntime 1.28.0.
TARGET = TritonTarget(triton_release="26.08", onnxruntime="1.28", max_opset=26, max_ir_version=13)
