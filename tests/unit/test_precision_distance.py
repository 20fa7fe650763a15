"""How far a variant is from FP32, whose fault it is, and that no number which is none passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper
from scipy.stats import binom
from torch import nn

from model_build.config import VariantConfig
from model_build.precision.distance import Distance, distances, layer_errors
from model_build.precision.graph import layers
from model_build.precision.trial import AS_FP32
from model_build.precision.verdict import Examination, examine, least_drop
from tests.precision_graphs import (
    CONVOLUTIONS,
    PRODUCTS,
    SHAPES,
    Attention,
    Convolutions,
    convert,
    far,
    feeds,
    graph,
    run,
    variant_of,
)

ALLOWED = VariantConfig(max_abs=0.1, min_cosine=0.99, max_drop=0.01)
SMALL = {"y": Distance(0.01, 0.999)}
ONE = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32)


def judged(
    found: Mapping[str, Distance],
    metric: float = 1.0,
    reference: float = 1.0,
    allowed: VariantConfig = ALLOWED,
    variant: str = "int8",
    examples: int = 1000,
) -> Examination:
    return examine("served", "accuracy", metric, reference, found, allowed, variant, examples=examples)


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
    assert far(run(graph(kind), inputs[0]), run(content, inputs[0])).max_abs > 0.05
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


@pytest.mark.parametrize(
    ("reference", "found", "changed"),
    [
        (np.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 5]]), 0.5),
        (np.array([True, False]), np.array([True, False]), 0.0),
        (np.array([["a"], ["b"]], object), np.array([[b"a"], [b"c"]], object), 0.5),  # a server gives bytes
        (np.array(["a", "b"]), np.array([b"a", b"c"]), 0.5),
        (np.array([["a"], ["é"]]), np.array([[b"a"], ["é".encode()]], object), 0.0),
        (np.array([b"a", b"b"]), np.array(["a", "b"], object), 0.0),
        (np.array([b"a\0", b"b"], object), np.array([b"a", b"b"], object), 0.5),  # NumPy's own text ends at a NUL
        (np.array([["a\0"], ["b"]], object), np.array([["a"], ["b"]], object), 0.5),
        (np.array([1.0, 2.0]), np.array(["1.0", "2.0"]), 1.0),
        (np.array("a"), np.array(b"a"), 0.0),
        (np.array([1, 2, 3]), np.array([1, 2]), 1.0),
        (np.array([2**53, 0]), np.array([2**53 + 1, 0]), 0.5),
    ],
)
def test_text_and_whole_numbers_are_equal_or_not_and_no_distance_apart(
    reference: npt.NDArray[Any], found: npt.NDArray[Any], changed: float
) -> None:
    distance = distances({"y": reference}, {"y": found})["y"]
    assert distance == Distance(None, changed=changed)
    assert distance.to_json() == {"changed": changed}
    assert judged({"y": distance})


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16])
def test_infinities_and_nan_in_the_same_places_are_equal(dtype: Any) -> None:
    masked = np.array([[1.0, -np.inf, np.nan], [np.inf, 2.0, 0.0]]).astype(dtype)
    assert distances({"y": masked}, {"y": masked.copy()}) == {"y": Distance(0.0, 1.0)}
    moved = masked.copy()
    moved[0, 0] = 1.5
    assert distances({"y": masked}, {"y": moved}) == {"y": Distance(0.5, 1.0)}
    for other in (np.nan, np.inf, 3.0):  # where FP32 has minus infinity
        moved = masked.copy()
        moved[0, 1] = other
        assert distances({"y": masked}, {"y": moved}) == {"y": Distance(float("inf"), -1.0)}, other


@pytest.mark.parametrize("shape", [(1000,), (1000, 1), (1000, 1, 1)])
def test_one_number_an_example_has_no_direction_and_is_judged_by_the_size_of_all(shape: tuple[int, ...]) -> None:
    scores = np.linspace(0.0, 1.0, 1000)
    scores[:20] = 1e-9
    nearly = scores.copy()
    nearly[:20] = 0.0
    found = distances({"y": scores.reshape(shape)}, {"y": nearly.reshape(shape)})["y"]
    assert found.cosine is None
    assert found.max_abs == pytest.approx(1e-9)
    assert judged({"y": found})
    tiny = (scores / 1000).reshape(shape)  # any answer is within max_abs of these
    lost = judged({"y": distances({"y": tiny}, {"y": np.zeros(shape)})["y"]})
    assert lost.losses == (
        "'y' is off by 100% of its size (precision.int8.min_cosine 0.99, which is 14% for one number)",
    )
    assert judged({"y": distances({"y": tiny}, {"y": tiny * 1.1})["y"]})
    nothing = np.zeros(shape)
    assert judged({"y": distances({"y": nothing}, {"y": nothing + 1e-9})["y"]})  # without a size, max_abs alone says it


def test_an_answer_that_is_nothing_beside_the_others_has_no_direction_that_counts() -> None:
    rows = np.array([[1.0, 0.0], [1e-9, 0.0]])
    assert distances({"y": rows}, {"y": np.array([[1.0, 0.0], [0.0, 1e-9]])})["y"].cosine == 1.0
    assert distances({"y": rows}, {"y": np.array([[1.0, 0.0], [0.0, 0.5]])})["y"].cosine == 0.5


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,), (2, 0, 4)])
def test_answers_without_a_number_are_equal(shape: tuple[int, ...]) -> None:
    assert distances({"y": np.zeros(shape)}, {"y": np.zeros(shape)}) == {"y": Distance(0.0)}
    assert judged(distances({"y": np.zeros(shape)}, {"y": np.zeros(shape)}))
    assert not judged(distances({"y": np.zeros(shape)}, {"y": np.zeros((1, 1))}))


def test_numbers_whose_squares_are_beyond_floating_point_have_a_direction() -> None:
    huge = np.array([[1e200, -1e200]])
    assert list(far(huge, huge)) == pytest.approx([0.0, 1.0])
    assert list(far(huge, -huge)) == pytest.approx([2e200, -1.0])


def test_answers_of_varying_size_are_compared_example_by_example() -> None:
    """A list has an array for each request; a server's requests may hold other numbers of examples than FP32's here."""
    masks = [np.ones((2, 3, 4)), 2 * np.ones((1, 5, 2))]
    alone = [np.ones((1, 3, 4)), np.ones((1, 3, 4)), 2 * np.ones((1, 5, 2))]
    assert distances({"y": masks}, {"y": alone})["y"].to_json() == {"max_abs": 0.0, "cosine_mean": pytest.approx(1.0)}
    alone[2] = alone[2] + 0.5
    assert distances({"y": masks}, {"y": alone})["y"].to_json() == {"max_abs": 0.5, "cosine_mean": pytest.approx(1.0)}
    for wrong in (alone[:2], [*alone[:2], np.ones((1, 2, 5))]):
        assert distances({"y": masks}, {"y": wrong})["y"] == Distance(float("inf"), -1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_an_answer_that_is_not_finite_is_infinitely_far_and_a_loss(bad: float, dtype: type[np.floating]) -> None:
    found = ONE.astype(dtype)
    found[1, 1] = bad
    distance = distances({"y": ONE}, {"y": found})
    assert distance == {"y": Distance(float("inf"), -1.0)}
    examination = judged(distance)
    assert not examination
    assert examination.losses == (
        "'y' is off by inf (precision.int8.max_abs 0.1)",
        "'y' has cosine -1.0000 with FP32's (precision.int8.min_cosine 0.99)",
    )


def test_a_reference_that_is_not_a_number_does_not_pass_either() -> None:
    reference = ONE * np.float32(np.nan)
    assert not judged(distances({"y": reference}, {"y": ONE}))


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
    examination = judged(SMALL, metric, reference, variant="fp16")
    assert not examination
    assert examination.losses == (sentence,)


@pytest.mark.parametrize(("metric", "reference"), [(0.94, 0.95), (0.95, 0.95), (0.99, 0.95)])
def test_what_is_within_all_three_limits_passes_and_a_better_metric_is_no_loss(metric: float, reference: float) -> None:
    allowed = VariantConfig(max_abs=0.01, min_cosine=0.999, max_drop=0.0100001)
    assert judged(SMALL, metric, reference, allowed)
    assert not judged({"y": Distance(0.011, 1)}, metric, reference, allowed)
    assert not judged({"y": Distance(0.0, 0.998)}, metric, reference, allowed)


@pytest.mark.parametrize(
    ("lost", "examples", "passes"),
    [(1, 80, True), (2, 80, True), (3, 80, False), (4, 360, True), (8, 360, False), (20, 1000, False), (2, 10, False)],
)
def test_a_drop_counts_where_the_held_out_part_is_large_enough_to_show_it(
    lost: int, examples: int, passes: bool
) -> None:
    """`max_drop` is 0.01, and each of these lost more."""
    examination = judged(SMALL, 0.9 - lost / examples, 0.9, examples=examples)
    assert bool(examination) == passes
    (sentence,) = examination.doubts if passes else examination.losses
    assert sentence.startswith(
        f"accuracy is {0.9 - lost / examples:.4f} where FP32 has 0.9000 (precision.int8.max_drop"
    )
    assert (f"; {examples} examples make sure of a drop of 0.00" in sentence) == passes


def test_a_drop_of_a_metric_of_another_range_is_judged_by_its_share_of_the_range() -> None:
    allowed = VariantConfig(max_drop=0.5)
    for drop, examples, passes in ((0.8, 100, True), (0.8, 100_000, False), (3.0, 1000, False)):
        found = examine("served", "bleu", 90 - drop, 90, {}, allowed, "int8", examples=examples, span=100.0)
        assert bool(found) == passes, drop


@pytest.mark.parametrize(("drop", "examples"), [(0.0125, 80), (0.025, 360), (0.5, 10), (1.0, 4), (0.011, 100_000)])
def test_the_certain_drop_is_the_one_that_would_show_so_much_once_in_twenty(drop: float, examples: int) -> None:
    """Against SciPy's binomial distribution."""
    least = least_drop(drop, examples)
    assert binom.sf(drop * examples - 1, examples, least) == pytest.approx(0.05, rel=1e-6)
    assert least < drop


def test_where_nothing_may_be_lost_one_example_is_too_much_and_no_example_says_nothing() -> None:
    assert not judged(SMALL, 0.99, 1.0, VariantConfig(max_drop=0.0), examples=100)
    assert least_drop(0.5, 0) == 0.5
    assert np.isnan(least_drop(float("nan"), 100))


@pytest.mark.parametrize("shape", [(1000,), (1000, 1), (1000, 4)])
@pytest.mark.parametrize("size", [1.0, 5e4, 1e9])
def test_the_rounding_of_large_fp32_numbers_is_no_loss_of_fp32s_own(shape: tuple[int, ...], size: float) -> None:
    """Another size of the batch changes the last bit; of a price that is more than any fixed difference."""
    prices = (size * np.random.default_rng(0).random(shape)).astype(np.float32)
    rounded = np.nextafter(prices, np.float32(np.inf))
    found = distances({"y": prices}, {"y": rounded})
    assert examine("served", "error", 1.0, 1.0, found, AS_FP32, "fp32", examples=1000)
    wrong = distances({"y": prices}, {"y": prices * np.float32(1.01)})
    assert not examine("served", "error", 1.0, 1.0, wrong, AS_FP32, "fp32", examples=1000)
    as_set = examine("served", "error", 1.0, 1.0, found, VariantConfig(max_abs=1e-5), "int8", examples=1000)
    assert bool(as_set) == (size == 1.0)  # what a setting is for is as it says


@pytest.mark.parametrize(
    ("metric", "reference", "examples", "span", "passes"),
    [
        (79 / 80, 1.0, 80, 1.0, True),
        (0.99 - 0.5 / 80, 0.9917, 80, 1.0, True),  # a mean of reciprocal ranks: half an example
        (0.9917 - 1.5 / 80, 0.9917, 80, 1.0, False),
        (0.98513, 0.99997, 600, 1.0, False),  # a correlation over 600 texts: no sample of right and wrong ones
        (94.51, 95.2311, 1500, 100.0, False),  # BLEU
        (95.1911, 95.2311, 1500, 100.0, True),
    ],
)
def test_only_a_metric_that_counts_examples_is_excused_for_how_few_they_are(
    metric: float, reference: float, examples: int, span: float, passes: bool
) -> None:
    allowed = VariantConfig(max_drop=0.01 if span == 1 else 0.5)
    assert bool(examine("served", "it", metric, reference, {}, allowed, "int8", examples=examples, span=span)) == passes


def test_a_metric_that_counts_no_examples_is_not_excused_where_its_values_look_like_counts() -> None:
    """78 of 80: an F1 or a correlation of 0.975 is no such number."""
    for counts in (True, False):
        found = examine("served", "f1", 78 / 80, 1.0, {}, ALLOWED, "int8", examples=80, counts=counts)
        assert bool(found) == counts


def test_what_fp32_may_differ_by_is_no_setting_and_no_setting_is_named() -> None:
    far_off = {"y": Distance(0.5, 0.9), "z": Distance(0.5, relative=0.9)}
    losses = "; ".join(judged(far_off, 0.5, 1.0, AS_FP32, "fp32").losses)
    assert "precision." not in losses
    assert losses.startswith("accuracy is 0.5000 where FP32 has 1.0000 (FP32's own answers may differ by no more: max")
    assert "'y' is off by 0.5 (FP32's own answers may differ by no more: max_abs 0.001)" in losses
