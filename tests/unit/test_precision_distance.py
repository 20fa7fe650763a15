"""How far a variant is from FP32, whose fault it is, and that no number which is none passes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper
from torch import nn

from model_build.config import VariantConfig
from model_build.precision.distance import Distance, distances, layer_errors
from model_build.precision.graph import layers
from model_build.precision.verdict import examine
from tests.precision_graphs import (
    CONVOLUTIONS,
    PRODUCTS,
    SHAPES,
    Attention,
    Convolutions,
    convert,
    feeds,
    graph,
    run,
    variant_of,
)

ALLOWED = VariantConfig(max_abs=0.1, min_cosine=0.99, max_drop=0.01)
SMALL = {"y": Distance(0.01, 0.999)}
ONE = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32)


@pytest.mark.parametrize("variant", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize(
    ("kind", "changed"), [(Convolutions, name) for name in CONVOLUTIONS] + [(Attention, PRODUCTS[3])]
)
def test_the_one_layer_whose_weights_were_changed_is_the_worst(
    kind: type[nn.Module], changed: str, variant: str
) -> None:
    original = onnx.load_from_string(graph(kind))
    (layer,) = [one for one in layers(original) if one.name == changed]
    (weight,) = [one for one in original.graph.initializer if one.name == layer.weight]
    array = numpy_helper.to_array(weight)
    noise = np.random.default_rng(0).standard_normal(array.shape).astype(np.float32)
    weight.CopyFrom(numpy_helper.from_array(array + noise * array.std(), weight.name))
    wrong = original.SerializeToString()
    inputs = feeds(*SHAPES[kind])
    content = wrong if variant == "fp32" else convert(wrong, variant, inputs).cpu
    distance = distances({"y": run(graph(kind), inputs[0])}, {"y": run(content, inputs[0])})["y"]
    assert distance.max_abs > 0.05
    errors = layer_errors(graph(kind), content, inputs)
    assert errors[0].layer.name == changed
    assert errors[0].sqnr_db < 10
    assert len(errors) == len(layers(original))
    assert all(error.sqnr_db > 30 for error in errors[1:])  # those behind it are given what FP32 gives them
    assert f"{errors[0]}" == f"{layer} {errors[0].sqnr_db:.0f} dB"


@pytest.mark.parametrize("kind", [Convolutions, Attention])
def test_a_copy_of_fp32_has_no_noise_and_half_precision_less_than_8_bits(kind: type[nn.Module]) -> None:
    inputs = feeds(*SHAPES[kind])
    noise = [
        {error.layer.name: error.sqnr_db for error in layer_errors(graph(kind), content, inputs)}
        for content in (graph(kind), variant_of(kind, "fp16").cpu, variant_of(kind, "int8").cpu)
    ]
    assert set(noise[0].values()) == {200.0}
    for name in noise[0]:
        assert 60 < noise[1][name] < 80, name
        assert 30 < noise[2][name] < 60, name


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (ONE, Distance(0.0, 1.0)),
        (-ONE, Distance(4.0, -1.0)),
        (ONE * 3, Distance(4.0, 1.0)),
        (ONE[::-1], Distance(2.0, 0.0)),
        (np.stack([ONE[0], ONE[0]]), Distance(2.0, 0.5)),
    ],
)
def test_a_distance_is_the_largest_difference_and_the_mean_cosine_of_the_examples(
    found: npt.NDArray[np.float32], expected: Distance
) -> None:
    assert distances({"y": ONE}, {"y": found}) == {"y": expected}


def test_two_answers_of_zeros_are_the_same_direction() -> None:
    silent = np.array([[0.0, 0.0], [0.0, 2.0]], np.float32)
    assert distances({"y": silent}, {"y": silent})["y"] == Distance(0.0, 1.0)
    assert distances({"y": silent}, {"y": ONE})["y"] == Distance(1.0, 0.5)


def test_only_outputs_of_floating_point_are_compared() -> None:
    tokens = np.array([[1, 2]])
    assert distances({"tokens": tokens, "y": ONE}, {"tokens": tokens + 1, "y": ONE}) == {"y": Distance(0.0, 1.0)}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_an_answer_that_is_not_finite_is_infinitely_far_and_a_loss(bad: float, dtype: type[np.floating]) -> None:
    found = ONE.astype(dtype)
    found[1, 1] = bad
    distance = distances({"y": ONE}, {"y": found})
    assert distance == {"y": Distance(float("inf"), -1.0)}
    examination = examine("served", "accuracy", 1.0, 1.0, distance, ALLOWED, "int8")
    assert not examination
    assert examination.losses == (
        "'y' is off by inf (precision.int8.max_abs 0.1)",
        "'y' has cosine -1.0000 with FP32's (precision.int8.min_cosine 0.99)",
    )


def test_a_reference_that_is_not_a_number_does_not_pass_either() -> None:
    reference = ONE * np.float32(np.nan)
    assert not examine("served", "accuracy", 1.0, 1.0, distances({"y": reference}, {"y": ONE}), ALLOWED, "int8")


def test_an_answer_of_another_shape_is_infinitely_far() -> None:
    assert distances({"y": ONE}, {"y": ONE[:1]}) == {"y": Distance(float("inf"), -1.0)}
    assert distances({"y": ONE}, {"y": ONE[:, :1]}) == {"y": Distance(float("inf"), -1.0)}


@pytest.mark.parametrize(
    ("metric", "reference", "sentence"),
    [
        (0.9, 0.95, "accuracy is 0.9000 where FP32 has 0.9500 (precision.fp16.max_drop 0.01)"),
        (float("nan"), 0.95, "accuracy is nan where FP32 has 0.9500 (precision.fp16.max_drop 0.01)"),
        (0.95, float("nan"), "accuracy is 0.9500 where FP32 has nan (precision.fp16.max_drop 0.01)"),
    ],
)
def test_a_metric_that_dropped_or_is_not_a_number_is_a_loss(metric: float, reference: float, sentence: str) -> None:
    examination = examine("in process", "accuracy", metric, reference, SMALL, ALLOWED, "fp16")
    assert not examination
    assert examination.losses == (sentence,)


@pytest.mark.parametrize(("metric", "reference"), [(0.94, 0.95), (0.95, 0.95), (0.99, 0.95)])
def test_what_is_within_all_three_limits_passes_and_a_better_metric_is_no_loss(metric: float, reference: float) -> None:
    allowed = VariantConfig(max_abs=0.01, min_cosine=0.999, max_drop=0.0100001)
    assert examine("in process", "accuracy", metric, reference, SMALL, allowed, "fp16")
    assert not examine("in process", "accuracy", metric, reference, {"y": Distance(0.011, 1)}, allowed, "fp16")
    assert not examine("in process", "accuracy", metric, reference, {"y": Distance(0.0, 0.998)}, allowed, "fp16")
