"""What bounds a layer, from which batch on, and the batch to serve with: computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from model_build.roofline.devices import CPU
from model_build.roofline.prediction import BestBatch, batch_from, best_batch, predict, seconds_at
from tests.roofline_graphs import DEVICE, layer


def test_the_longer_of_computing_and_moving_bounds_a_layer() -> None:
    # 1e12 FLOP/s and 1e11 B/s: 9.9 FLOPs a byte are too few, 10.1 enough.
    cases = [(0.99e7, 0.0, "memory", 1e-5), (1.01e7, 0.0, "compute", 1.01e-5), (1e7, 2e-5, "launch", 3e-5)]
    for flops, overhead, bound, seconds in cases:
        one = layer(flops=flops, weight_bytes=1e6, activation_bytes=0.0)
        (found,) = predict([one], replace(DEVICE, overhead=overhead), 1)
        assert found.bound == bound
        assert found.seconds == pytest.approx(seconds)


def test_each_kernel_and_each_view_has_its_own_overhead() -> None:
    device = replace(DEVICE, key=CPU, overhead=5e-6, view_overhead=1e-6)
    (found,) = predict([layer(flops=0, weight_bytes=0, activation_bytes=0, kernels=3, views=2)], device, 1)
    assert found.seconds == pytest.approx(17e-6)


def test_a_card_starts_one_kernel_for_a_layer_and_none_for_a_view() -> None:
    card = replace(DEVICE, overhead=5e-6)
    nothing = layer(flops=0, weight_bytes=0, activation_bytes=0)
    layers = [replace(nothing, kernels=3, views=1), replace(nothing, kernels=0, views=2)]
    assert [one.seconds for one in predict(layers, card, 1)] == [5e-6, 0]


def test_products_pack_their_activations_where_that_was_measured() -> None:
    device = replace(DEVICE, packing=1e10)
    one = {"flops": 2e6, "weight_bytes": 1e6, "activation_bytes": 1e4}
    kinds = [layer(kind=kind, **one) for kind in ("product", "convolution", "other")]
    assert [found.compute for found in predict(kinds, device, 1)] == pytest.approx([3e-6, 3e-6, 2e-5])
    assert predict(kinds, DEVICE, 1)[0].compute == pytest.approx(2e-6)
    assert seconds_at(kinds[:1], device, 1, 100) == pytest.approx(3e-4)
    assert batch_from(kinds[:1], device, 1) == 4  # 10 us of weights / (2 + 1 - 0.1 us)


def test_a_layer_computes_at_the_peak_of_its_kind_and_precision() -> None:
    device = replace(DEVICE, convolution_peak=2e12)
    kinds = [
        layer(kind="product", precision="fp32"),
        layer(kind="product", precision="fp16"),
        layer(kind="convolution"),
        layer(kind="other", precision="int8"),
    ]
    assert [one.compute for one in predict(kinds, device, 1)] == pytest.approx([2e-6, 5e-7, 1e-6, 2e-5])
    assert predict([layer(kind="convolution")], DEVICE, 1)[0].compute == pytest.approx(2e-6)


def test_the_crossing_batch_is_where_computing_overtakes_moving() -> None:
    # An example takes 2 us to compute and 0.1 us to move, the weights 10 us: 10 / 1.9 = 5.3.
    one = layer(flops=2e6, weight_bytes=1e6, activation_bytes=1e4)
    (found,) = predict([one], DEVICE, 1)
    assert (found.bound, found.batch_from) == ("memory", 6)
    for batch, expected in ((5, "memory"), (6, "compute")):
        grown = layer(flops=2e6 * batch, weight_bytes=1e6, activation_bytes=1e4 * batch)
        (there,) = predict([grown], DEVICE, batch)
        assert there.bound == expected
        assert there.batch_from == 6  # whatever batch it is found from


def test_a_layer_that_moves_more_than_it_computes_is_never_bound_by_computing() -> None:
    (found,) = predict([layer(flops=1e4, weight_bytes=0, activation_bytes=1e4)], DEVICE, 1)
    assert found.batch_from is None
    (always,) = predict([layer(flops=1e6, weight_bytes=0, activation_bytes=1e4)], DEVICE, 1)
    assert always.batch_from == 1


def test_the_models_crossing_batch_is_that_of_its_sums() -> None:
    layers = [
        layer(flops=2e6, weight_bytes=1e6, activation_bytes=0),
        layer(flops=0, weight_bytes=0, activation_bytes=1e5),
    ]
    assert batch_from(layers, DEVICE, 1) == 10  # 10 us of weights / (2 - 1 us)


def test_time_at_another_batch_grows_with_everything_but_the_weights() -> None:
    one = layer(flops=2e6, weight_bytes=1e6, activation_bytes=1e4)
    assert seconds_at([one], DEVICE, 1, 1) == pytest.approx(1.01e-5)
    assert seconds_at([one], DEVICE, 1, 100) == pytest.approx(2e-4)
    four = layer(flops=8e6, weight_bytes=1e6, activation_bytes=4e4)
    assert seconds_at([four], DEVICE, 4, 100) == pytest.approx(2e-4)
    slow = replace(DEVICE, overhead=1e-3)
    assert seconds_at([one], slow, 1, 100) == pytest.approx(1.2e-3)


def test_the_best_batch_is_the_smallest_that_is_nearly_as_fast_as_the_largest() -> None:
    # Bound by computing from 6 on, exactly the same throughput then: 8.
    one = layer(flops=2e6, weight_bytes=1e6, activation_bytes=1e4)
    assert best_batch([one], DEVICE, 1, live=1e4, weights=1e6) == BestBatch(8, 1 << 16)
    # With 20 us a run, 95 % need 2 * b / (2 * b + 20) near enough to that of the largest: b = 256, as 128 gives 93 %.
    slow = replace(DEVICE, overhead=2e-5)
    assert best_batch([one], slow, 1, live=1e4, weights=1e6) == BestBatch(256, 1 << 16)


def test_memory_limits_the_batch() -> None:
    one = layer(flops=2e6, weight_bytes=1e6, activation_bytes=1e4)
    # 1 GB less 0.9 GB of weights is room for 10 examples of 10 MB: the power of two below is 8.
    assert best_batch([one], DEVICE, 1, live=1e7, weights=9e8).largest == 8
    # Four examples that live in 40 MB together are the same.
    four = layer(flops=8e6, weight_bytes=1e6, activation_bytes=4e4)
    assert best_batch([four], DEVICE, 4, live=4e7, weights=9e8).largest == 8
    assert best_batch([one], DEVICE, 1, live=1e8, weights=9e8) == BestBatch(1, 1)


@pytest.mark.parametrize(("live", "weights"), [(1.1e8, 9e8), (1e4, 1.1e9), (1.1e9, 0)])
def test_a_model_that_does_not_fit_has_no_batch(live: float, weights: float) -> None:
    assert best_batch([layer()], DEVICE, 1, live=live, weights=weights) == BestBatch(0, 0)
