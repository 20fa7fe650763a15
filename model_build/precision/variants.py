"""The precisions in which a model is served, and the targets on which it runs: named here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FP32, FP16, INT8 = "fp32", "fp16", "int8"
VARIANTS = (FP16, INT8)  # made from FP32
CPU, GPU = "cpu", "gpu"
TARGETS = (CPU, GPU)


@dataclass(frozen=True)
class Graph:
    """One ONNX file as each target runs it; INT8 has a form of its own for TensorRT.

    Attributes:
        cpu, gpu: the file's content; the same where one form is for both.
    """

    cpu: bytes
    gpu: bytes

    @property
    def forms(self) -> Mapping[str, bytes]:
        """Content by target."""
        return {CPU: self.cpu, GPU: self.gpu}


Graphs = Mapping[str, Graph]  # by file name


def of_both(contents: Mapping[str, bytes]) -> Graphs:
    """Files that are the same on every target."""
    return {name: Graph(content, content) for name, content in contents.items()}


def file_names(name: str, graph: Graph) -> Mapping[str, bytes]:
    """`model.onnx`, and `model.tensorrt.onnx` where a GPU runs another form."""
    if graph.cpu == graph.gpu:
        return {name: graph.cpu}
    return {name: graph.cpu, tensorrt_name(name): graph.gpu}


def tensorrt_name(name: str) -> str:
    """Name of the form for TensorRT."""
    return f"{name.removesuffix('.onnx')}.tensorrt.onnx"


def served_name(model: str, variant: str) -> str:
    """Name under which Triton serves a model's variant."""
    return f"{model}_{variant}"
