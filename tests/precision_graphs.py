"""Small graphs that tests of precision make variants of."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from model_build.config import ExportConfig
from model_build.onnx_export import as_written, export_onnx, open_session
from model_build.precision.distance import distances
from model_build.precision.graph import layers
from model_build.precision.making import Maker
from model_build.precision.variants import GPU, Graph

Feeds = list[Mapping[str, npt.NDArray[Any]]]
EXPORT = ExportConfig(opset=20, ir_version=10, parity_atol=1e-4)


class Convolutions(nn.Module):
    """Conv, Relu, MaxPool, Conv, Relu, Gemm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, images: Tensor) -> Tensor:
        small = torch.max_pool2d(torch.relu(self.first(images)), 2)
        answer: Tensor = self.head(torch.relu(self.second(small)).flatten(1))
        return answer


class Attention(nn.Module):
    """One layer of a transformer, so small that it has one head."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.query, self.key, self.value = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        normal = self.norm(tokens)
        weights = torch.softmax(self.query(normal) @ self.key(normal).transpose(1, 2) / 4, -1)
        attended = tokens + weights @ self.value(normal)
        answer: Tensor = attended + self.down(torch.relu(self.up(attended)))
        return answer


SHAPES: dict[type[nn.Module], tuple[int, ...]] = {Convolutions: (1, 8, 8), Attention: (4, 16)}
# Names that the exporter gives their layers, in the order in which they run.
CONVOLUTIONS = ("node_conv2d", "node_conv2d_1", "node_linear")
PRODUCTS = ("node_MatMul_1", "node_MatMul_3", "node_MatMul_6", "node_MatMul_8", "node_MatMul_10")


def exported(network: nn.Module, *shape: int) -> bytes:
    """A network as a graph from `x` `[batch, *shape]` to `y`."""
    return export_onnx(
        network.eval(),
        (torch.rand(2, *shape),),
        inputs=["x"],
        outputs=["y"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        config=EXPORT,
    )


def graph(kind: type[nn.Module]) -> bytes:
    """The exported network with fresh weights."""
    return _graph(kind.__name__)


@functools.cache
def _graph(name: str) -> bytes:
    (kind,) = [kind for kind in SHAPES if kind.__name__ == name]
    torch.manual_seed(0)
    return exported(kind(), *SHAPES[kind])


def feeds(*shape: int, count: int = 4, seed: int = 3, scale: float = 1.0) -> Feeds:
    """Inputs of normal distribution."""
    random = np.random.default_rng(seed)
    return [{"x": (scale * random.standard_normal((8, *shape))).astype(np.float32)} for _ in range(count)]


def convert(
    content: bytes,
    variant: str,
    inputs: Sequence[Mapping[str, Any]] = (),
    keep: Collection[str] = (),
    smooth: float = 0,
) -> Graph:
    """A variant of a file."""
    with closing(Maker("model.onnx", content, inputs, smooth)) as maker:
        return maker.make(variant, keep)


def variant_of(kind: type[nn.Module], variant: str, keep: tuple[str, ...] = ()) -> Graph:
    """A variant of `graph(kind)`."""
    return _variant_of(kind.__name__, variant, keep)


@functools.cache
def _variant_of(name: str, variant: str, keep: tuple[str, ...]) -> Graph:
    (kind,) = [kind for kind in SHAPES if kind.__name__ == name]
    return convert(graph(kind), variant, feeds(*SHAPES[kind]), keep)


def run(content: bytes, feed: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """The answer `y`."""
    answer: npt.NDArray[Any] = open_session(content).run(["y"], dict(feed))[0]
    return answer


class Far(NamedTuple):
    """How far two answers of several numbers are apart."""

    max_abs: float
    cosine: float


def far(reference: npt.NDArray[Any], found: npt.NDArray[Any]) -> Far:
    """Of answers that have both."""
    distance = distances({"y": reference}, {"y": found})["y"]
    assert distance.max_abs is not None
    assert distance.cosine is not None
    return Far(distance.max_abs, distance.cosine)


def answer_of(form: Graph, target: str, feed: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """The answer `y` of a variant as its target computes it."""
    with as_written() if target == GPU else contextlib.nullcontext():
        return run(form.forms[target], feed)


def hand_made(nodes: Sequence[onnx.NodeProto], constants: Mapping[str, npt.NDArray[Any]], width: int = 4) -> bytes:
    """A graph of these nodes from `x` `[batch, width]` to `y`."""
    content: bytes = helper.make_model(
        helper.make_graph(
            list(nodes),
            "hand_made",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "columns"])],
            [numpy_helper.from_array(array, name) for name, array in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)],
        ir_version=10,
    ).SerializeToString()
    return content


def stored(content: bytes) -> dict[str, str]:
    """Datatype of each layer's weights by the layer's name."""
    return {layer.name: layer.datatype for layer in layers(onnx.load_from_string(content))}
