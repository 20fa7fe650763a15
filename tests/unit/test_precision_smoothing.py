"""Smoothing: FP32's answers stay, outliers cost less, and a weight that several products share is left alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper

from model_build.precision.smoothing import smooth
from tests.precision_graphs import Attention, answer_of, convert, far, feeds, graph, hand_made, run

WIDTH = 16
Array = npt.NDArray[np.float32]


def weights(count: int, *shape: int) -> list[Array]:
    random = np.random.default_rng(1)
    return [(random.standard_normal(shape) / 4).astype(np.float32) for _ in range(count)]


def outlying() -> bytes:
    """LayerNormalization whose gain makes one channel 100 times as large, and two products of it."""
    first, second = weights(2, WIDTH, WIDTH)
    gain = np.ones(WIDTH, np.float32)
    gain[3] = 100
    for weight in (first, second):
        weight[3] /= 100
    nodes = [
        helper.make_node("LayerNormalization", ["x", "gain"], ["normal"], name="norm"),
        helper.make_node("MatMul", ["normal", "first"], ["a"], name="one"),
        helper.make_node("MatMul", ["normal", "second"], ["b"], name="two"),
        helper.make_node("Mul", ["a", "b"], ["y"], name="both"),
    ]
    return hand_made(nodes, {"gain": gain, "first": first, "second": second}, WIDTH)


@pytest.mark.parametrize("strength", [0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("name", ["attention", "outlying"])
def test_answers_of_fp32_are_the_same(name: str, strength: float) -> None:
    content = graph(Attention) if name == "attention" else outlying()
    shape = (4, WIDTH) if name == "attention" else (WIDTH,)
    asked = feeds(*shape, seed=8)[0]
    model = smooth(onnx.load_from_string(content), feeds(*shape), strength)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node].count("Mul") > [
        node.op_type for node in onnx.load_from_string(content).graph.node
    ].count("Mul")
    np.testing.assert_allclose(run(model.SerializeToString(), asked), run(content, asked), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_a_channel_that_is_a_hundred_times_as_large_costs_less(target: str) -> None:
    content, asked = outlying(), feeds(WIDTH, seed=8)[0]
    answer = run(content, asked)
    plain, smoothed = (
        far(answer, answer_of(convert(content, "int8", feeds(WIDTH), smooth=strength), target, asked))
        for strength in (0.0, 0.8)
    )
    assert plain.cosine < 0.93 < 0.98 < smoothed.cosine
    assert smoothed.max_abs < plain.max_abs


def test_products_of_one_tensor_are_smoothed_with_one_factor() -> None:
    model = smooth(onnx.load_from_string(outlying()), feeds(WIDTH), 0.8)
    constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    assert [node.name for node in model.graph.node] == ["norm", "normal_smooth", "one", "two", "both"]
    before = {one.name: numpy_helper.to_array(one) for one in onnx.load_from_string(outlying()).graph.initializer}
    for name in ("first", "second"):
        np.testing.assert_allclose(
            constants[name] * constants["normal_smoothing"][:, np.newaxis], before[name], rtol=1e-5
        )
    assert constants["normal_smoothing"].argmin() == 3  # the outlier is what is made smaller


def test_a_weight_that_two_products_share_is_left_as_it_is() -> None:
    (shared,) = weights(1, WIDTH, WIDTH)
    nodes = [
        helper.make_node("Relu", ["x"], ["positive"], name="relu"),
        helper.make_node("MatMul", ["x", "shared"], ["a"], name="one"),
        helper.make_node("MatMul", ["positive", "shared"], ["b"], name="two"),
        helper.make_node("Add", ["a", "b"], ["y"], name="both"),
    ]
    content = hand_made(nodes, {"shared": shared}, WIDTH)
    model = smooth(onnx.load_from_string(content), feeds(WIDTH), 0.8)
    assert model == onnx.load_from_string(content)


def test_a_product_of_two_activations_and_a_convolution_are_left_as_they_are() -> None:
    model = smooth(onnx.load_from_string(graph(Attention)), feeds(4, WIDTH), 0.8)
    before = onnx.load_from_string(graph(Attention))
    products = [(node.name, node.input[1]) for node in before.graph.node if node.op_type == "MatMul"]
    assert [(node.name, node.input[1]) for node in model.graph.node if node.op_type == "MatMul"] == products
    constants = {one.name for one in before.graph.initializer}
    smoothed = {node.name for node in model.graph.node if any(name.endswith("_smoothed") for name in node.input)}
    assert smoothed == {name for name, weight in products if weight in constants}


def test_a_channel_that_is_always_zero_gives_finite_weights() -> None:
    (weight,) = weights(1, WIDTH, WIDTH)
    mask = np.ones(WIDTH, np.float32)
    mask[5] = 0
    weight[7] = 0
    nodes = [
        helper.make_node("Mul", ["x", "mask"], ["masked"], name="mask"),
        helper.make_node("MatMul", ["masked", "weight"], ["y"], name="product"),
    ]
    content = hand_made(nodes, {"mask": mask, "weight": weight}, WIDTH)
    for strength in (0.5, 1.0):
        model = smooth(onnx.load_from_string(content), feeds(WIDTH), strength)
        for one in model.graph.initializer:
            assert np.isfinite(numpy_helper.to_array(one)).all(), one.name
        asked = feeds(WIDTH, seed=8)[0]
        np.testing.assert_allclose(run(model.SerializeToString(), asked), run(content, asked), atol=1e-4)
