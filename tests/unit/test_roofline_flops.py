"""FLOPs of operators by hand, and beside PyTorch's own counter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model_build._errors import ConfigurationError
from model_build.models.digits import DigitNetwork
from model_build.roofline.graph import fix
from model_build.roofline.layers import find_layers
from model_build.roofline.operators import flops, products
from model_build.single_graph import WithProbabilities
from tests.precision_graphs import Attention, exported
from tests.precision_graphs import graph as attention_graph
from tests.roofline_graphs import node, weights, write_graph, write_network

Shape = tuple[int, ...]


@pytest.mark.parametrize(
    ("operator", "takes", "gives", "attributes", "expected"),
    [
        ("MatMul", [(3, 4), (4, 5)], (3, 5), {}, 2 * 3 * 4 * 5),
        ("MatMul", [(2, 8, 3, 4), (4, 5)], (2, 8, 3, 5), {}, 2 * 16 * 3 * 4 * 5),
        ("MatMul", [(4,), (4,)], (), {}, 2 * 4),
        ("Gemm", [(3, 4), (4, 5)], (3, 5), {}, 2 * 3 * 4 * 5),
        ("Gemm", [(3, 4), (4, 5), (5,)], (3, 5), {}, 2 * 3 * 4 * 5 + 3 * 5),
        ("Gemm", [(7, 3), (7, 5)], (3, 5), {"transA": 1}, 2 * 3 * 7 * 5),
        ("Gemm", [(3, 4), (5, 4)], (3, 5), {"transA": 0, "transB": 1}, 2 * 3 * 4 * 5),
        ("Conv", [(1, 3, 8, 8), (6, 3, 3, 3)], (1, 6, 8, 8), {}, 2 * 27 * 6 * 64),
        ("Conv", [(1, 4, 8, 8), (6, 2, 3, 3)], (1, 6, 8, 8), {"group": 2}, 2 * 18 * 6 * 64),
        ("Conv", [(2, 4, 9), (4, 1, 3), (4,)], (2, 4, 7), {"group": 4}, (2 * 3 + 1) * 2 * 4 * 7),
        ("ConvTranspose", [(1, 4, 5, 5), (4, 6, 2, 2)], (1, 6, 10, 10), {"strides": [2, 2]}, 2 * 4 * 25 * 6 * 4),
        ("ConvTranspose", [(1, 4, 5), (4, 3, 2), (6,)], (1, 6, 10), {"group": 2}, 2 * 4 * 5 * 3 * 2 + 60),
        ("Einsum", [(2, 3, 4), (2, 4, 5)], (2, 3, 5), {"equation": "bij,bjk->bik"}, 2 * 2 * 3 * 4 * 5),
        ("Einsum", [(7, 3, 4), (1, 4, 5)], (7, 3, 5), {"equation": "...ij,...jk->...ik"}, 2 * 7 * 3 * 4 * 5),
        ("Einsum", [(3, 4)], (3,), {"equation": "ij->i"}, 12),
        ("LSTM", [(6, 2, 10), (1, 80, 10), (1, 80, 20)], (6, 1, 2, 20), {}, 2 * 6 * 2 * 4 * 20 * (10 + 20)),
        ("GRU", [(6, 2, 10), (2, 60, 10), (2, 60, 20)], (6, 2, 2, 20), {}, 2 * 6 * 2 * 2 * 3 * 20 * (10 + 20)),
        ("MaxPool", [(1, 3, 8, 8)], (1, 3, 4, 4), {"kernel_shape": [2, 2]}, 4 * 48),
        ("AveragePool", [(1, 3, 8, 8)], (1, 3, 6, 6), {"kernel_shape": [3, 3]}, 9 * 108),
        ("GlobalAveragePool", [(1, 3, 8, 8)], (1, 3, 1, 1), {}, 3 * 64),
        ("ReduceMean", [(3, 4)], (3, 1), {}, 12),
        ("Sum", [(3, 4), (3, 4), (3, 4)], (3, 4), {}, 2 * 12),
        ("Add", [(3, 1), (1, 4)], (3, 4), {}, 12),
        ("Softmax", [(3, 4)], (3, 4), {}, 5 * 12),
        ("Transpose", [(3, 4)], (4, 3), {}, 0),
        ("Gather", [(9, 4), (2,)], (2, 4), {}, 0),
    ],
)
def test_flops_of_an_operator_by_hand(
    operator: str, takes: list[Shape], gives: Shape, attributes: dict[str, Any], expected: int
) -> None:
    names = [f"x{index}" for index in range(len(takes))]
    one = node(operator, " ".join(names), "y", **attributes)
    assert flops(one, dict(zip(names, takes, strict=True)) | {"y": gives}) == expected


def test_a_bias_is_no_part_of_the_product() -> None:
    shapes = {"x": (3, 4), "w": (4, 5), "b": (5,), "y": (3, 5)}
    gemm = node("Gemm", "x w b", "y")
    assert flops(gemm, shapes) - products(gemm, shapes) == 15
    assert products(node("Add", "x x", "y"), shapes) == 0


def test_what_has_no_formula_is_counted_as_the_user_says() -> None:
    shapes = {"x": (3, 4), "y": (3, 4)}
    with pytest.raises(ConfigurationError, match=r"operator Celestial of node 'node_y' .*: pass --flops Celestial=N"):
        flops(node("Celestial", "x", "y"), shapes)
    assert flops(node("Celestial", "x", "y"), shapes, {"Celestial": 7}) == 84


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("digits") / "model.onnx"
    path.write_bytes(exported(WithProbabilities(DigitNetwork()), 1, 28, 28))
    return path


def counted(network: nn.Module, *shape: int) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(torch.rand(*shape))
    return int(counter.get_total_flops())


def test_products_and_convolutions_are_what_pytorch_counts(digits: Path, tmp_path: Path) -> None:
    attention = tmp_path / "attention.onnx"
    attention.write_bytes(attention_graph(Attention))
    cases: list[tuple[Path, nn.Module, Shape]] = [
        (digits, DigitNetwork(), (1, 28, 28)),
        (attention, Attention(), (4, 16)),
    ]
    for path, network, shape in cases:
        for batch in (1, 8):
            ours = sum(layer.product_flops for layer in find_layers(fix(path, batch, {})))
            assert ours == pytest.approx(counted(network, batch, *shape), rel=0.001)


def test_layers_have_all_flops_of_the_graph_and_none_twice(digits: Path, tmp_path: Path) -> None:
    for path in (digits, write_network(tmp_path / "network.onnx")):
        graph = fix(path, 8, {})
        layers = find_layers(graph)
        of_nodes = sum(flops(one, graph.shapes) for one in graph.model.graph.node)
        assert sum(layer.flops for layer in layers) == of_nodes > 0
        fused = [name for layer in layers for name in layer.nodes]
        assert sorted(fused) == sorted(one.name for one in graph.fused.graph.node)


def test_a_node_that_is_fused_into_two_layers_is_counted_once(tmp_path: Path) -> None:
    nodes = [node("Mul", "x half", "s"), node("MatMul", "s a", "y"), node("MatMul", "s b", "z")]
    constants = {"half": np.array(0.5, np.float32), "a": weights(16, 4), "b": weights(16, 5)}
    path = write_graph(tmp_path / "g.onnx", nodes, {"x": [4, 16]}, ("y", "z"), constants)
    first, second = find_layers(fix(path, 1, {}))
    assert [first.operator, second.operator] == ["MatMul+Mul", "MatMul"]
    assert first.flops + second.flops == 2 * 4 * 16 * (4 + 5) + 4 * 16


def test_operators_without_names_are_kept_apart(tmp_path: Path) -> None:
    nodes = [node("Relu", "x", "a"), node("Softmax", "a", "b"), node("Erf", "b", "y")]
    for one in nodes:
        one.name = ""
    layers = find_layers(fix(write_graph(tmp_path / "g.onnx", nodes, {"x": [2, 10]}), 1, {}))
    assert [layer.operator for layer in layers] == ["Relu", "Softmax", "Erf"]
    assert [layer.flops for layer in layers] == [20, 100, 80]
