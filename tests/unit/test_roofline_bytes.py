"""Bytes of layers by hand: weights once, activations as they come and go, fused pieces as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model_build.roofline.graph import fix
from model_build.roofline.layers import Layer, live_bytes
from tests.roofline_graphs import integers, layers_of, node, weights, write_graph, write_network


def moved(layer: Layer) -> tuple[float, float]:
    return layer.weight_bytes, layer.activation_bytes


def test_a_product_with_its_addition_and_activation_is_one_layer(tmp_path: Path) -> None:
    first, second = layers_of(write_network(tmp_path / "g.onnx"), batch=4)
    assert (first.operator, first.kind, first.kernels) == ("Gemm+Relu", "product", 1)
    assert moved(first) == (4 * (8 * 16 + 16), 4 * 4 * (8 + 16))  # what is between Gemm and Relu is not moved
    assert first.flops == 4 * (2 * 8 * 16 + 16 + 16)
    assert first.product_flops == 4 * 2 * 8 * 16
    assert (second.operator, *moved(second)) == ("MatMul", 4 * 16 * 4, 4 * 4 * (16 + 4))


def test_a_convolution_with_its_relu_is_one_layer(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w b", "a", pads=[1, 1, 1, 1]), node("Relu", "a", "y")]
    constants = {"w": weights(16, 8, 3, 3), "b": weights(16)}
    path = write_graph(tmp_path / "g.onnx", nodes, {"x": ["batch", 8, 10, 10]}, constants=constants)
    (layer,) = layers_of(path, batch=2)
    assert (layer.operator, layer.kind) == ("Conv+Relu", "convolution")
    assert moved(layer) == (4 * (16 * 8 * 9 + 16), 4 * 2 * 100 * (8 + 16))
    assert layer.flops == 2 * 1600 * (2 * 72 + 1 + 1)
    assert layer.intensity == layer.flops / layer.bytes


def test_weights_are_read_once_and_activations_once_for_each_example(tmp_path: Path) -> None:
    path = write_network(tmp_path / "g.onnx")
    one, many = (layers_of(path, batch=batch) for batch in (1, 8))
    for alone, together in zip(one, many, strict=True):
        assert together.weight_bytes == alone.weight_bytes > 0
        assert together.activation_bytes == 8 * alone.activation_bytes
        assert together.flops == 8 * alone.flops


def test_a_tensor_that_is_read_twice_by_a_layer_comes_in_once(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "g.onnx", [node("Mul", "x x", "y")], {"x": [4, 25]})
    (layer,) = layers_of(path)
    assert moved(layer) == (0, 4 * (100 + 100))


def test_fp16_halves_everything_but_the_weights_of_kept_layers(tmp_path: Path) -> None:
    path = write_network(tmp_path / "g.onnx")
    full, half = layers_of(path), layers_of(path, "fp16")
    assert [moved(layer) for layer in half] == [(w / 2, a / 2) for w, a in map(moved, full)]
    assert [layer.precision for layer in half] == ["fp16", "fp16"]
    kept = layers_of(path, "fp16", kept=[full[1].name])
    assert [layer.precision for layer in kept] == ["fp16", "fp32"]
    assert [moved(layer) for layer in kept] == [moved(half[0]), (full[1].weight_bytes, half[1].activation_bytes)]


def test_int8_quarters_weights_and_inputs_of_products_with_constants(tmp_path: Path) -> None:
    # Gemm(x) + Relu -> c, which only the second product reads: an eighth of a float's 32 bits each, y stays.
    first, second = layers_of(write_network(tmp_path / "g.onnx"), "int8")
    assert moved(first) == (8 * 16 + 4 * 16, 8 + 16)  # the bias stays FP32
    assert moved(second) == (16 * 4, 16 + 4 * 4)
    assert {first.precision, second.precision} == {"int8"}
    first, second = layers_of(write_network(tmp_path / "g.onnx"), "int8", kept=[second.name])
    assert (first.precision, second.precision) == ("int8", "fp32")
    assert moved(second) == (4 * 16 * 4, 4 * (16 + 4))
    assert first.activation_bytes == 8 + 4 * 16


def test_int8_leaves_products_of_two_activations(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "g.onnx", [node("MatMul", "x z", "y")], {"x": [4, 5], "z": [5, 6]})
    (layer,) = layers_of(path, "int8")
    assert (layer.precision, *moved(layer)) == ("fp32", 0, 4 * (20 + 30 + 24))


def test_a_lookup_reads_the_rows_that_it_gives(tmp_path: Path) -> None:
    inputs = {"ids": integers("ids", 2, 5)}
    path = write_graph(tmp_path / "g.onnx", [node("Gather", "w ids", "y")], inputs, constants={"w": weights(1000, 16)})
    (layer,) = layers_of(path)
    rows = 4 * 2 * 5 * 16
    assert moved(layer) == (0, rows + rows + 8 * 2 * 5)


def test_a_lookup_in_what_is_also_read_whole_reads_no_more(tmp_path: Path) -> None:
    nodes = [node("Softmax", "x", "p"), node("Gather", "p i", "y", axis=0)]
    path = write_graph(tmp_path / "g.onnx", nodes, {"x": [50, 4]}, constants={"i": np.array([7, 9], np.int64)})
    softmax, gather = layers_of(path)
    assert moved(softmax) == (0, 2 * 4 * 200)
    assert moved(gather) == (16, 2 * 4 * 8)


def test_views_move_and_compute_nothing(tmp_path: Path) -> None:
    nodes = [node("Relu", "x", "a"), node("Reshape", "a s", "b"), node("Softmax", "b", "y")]
    constants = {"s": np.array([-1, 50], np.int64)}
    path = write_graph(tmp_path / "g.onnx", nodes, {"x": ["batch", 100]}, constants=constants)
    view = layers_of(path, batch=3)[1]
    assert (view.operator, view.flops, *moved(view), view.kernels, view.views) == ("Reshape", 0, 0, 0, 0, 1)


@pytest.mark.parametrize(("precision", "size"), [("fp32", 4), ("tf32", 4), ("fp16", 2)])
def test_live_activations_are_what_one_layer_takes_and_gives_at_most(precision: str, size: int, tmp_path: Path) -> None:
    live, constants = live_bytes(fix(write_network(tmp_path / "g.onnx"), 4, {}), precision)
    assert live == size * 4 * (8 + 16)  # x and c; x is gone when y comes
    assert constants == size * (8 * 16 + 16 + 16 * 4)


def test_an_activation_lives_until_its_last_reader(tmp_path: Path) -> None:
    nodes = [node("Relu", "x", "a"), node("Softmax", "a", "b"), node("Erf", "b", "c"), node("Mul", "a c", "y")]
    path = write_graph(tmp_path / "g.onnx", nodes, {"x": [10, 10]})
    assert live_bytes(fix(path, 1, {}))[0] == 3 * 400  # a, c and y


def test_a_layout_of_onnx_runtimes_own_frees_nothing_too_soon(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w", "a"), node("MaxPool", "a", "b", kernel_shape=[2, 2], strides=[2, 2])]
    nodes += [node("Conv", "b v", "y")]
    constants = {"w": weights(64, 8, 1, 1), "v": weights(16, 64, 1, 1)}
    path = write_graph(tmp_path / "g.onnx", nodes, {"x": ["batch", 8, 16, 16]}, constants=constants)
    graph = fix(path, 1, {})
    if not any("nchwc" in one.domain for one in graph.fused.graph.node):
        pytest.skip("ONNX Runtime has no layout of its own for this processor")
    assert live_bytes(graph)[0] == 4 * 64 * (256 + 64)  # what the pooling takes and gives
    assert [layer.kind for layer in layers_of(path)] == ["convolution", "other", "convolution"]


def test_what_is_made_of_weights_alone_is_folded_and_not_counted(tmp_path: Path) -> None:
    nodes = [node("Mul", "w w", "ww"), node("MatMul", "x ww", "y")]
    path = write_graph(tmp_path / "g.onnx", nodes, {"x": ["batch", 8]}, constants={"w": weights(8, 8)})
    (layer,) = layers_of(path)
    assert (layer.flops, layer.weight_bytes) == (2 * 64, 4 * 64)
