"""Calibration data: what is not what the graph takes is one line, and what is unlike the real inputs is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from torch import nn

from model_build import DataError
from model_build.precision.distance import layer_errors
from tests.precision_graphs import (
    CONVOLUTIONS,
    SHAPES,
    Attention,
    Convolutions,
    answer_of,
    convert,
    far,
    feeds,
    graph,
    run,
)

GOOD = np.zeros((2, 1, 8, 8), np.float32)
BAD = GOOD.copy()
BAD[1, 0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ([], "there is no calibration data for model.onnx: expected real inputs, none of them evaluated on"),
        ([{}], "calibration input 0 of model.onnx has tensors []: expected ['x']"),
        ([{"image": GOOD}], "calibration input 0 of model.onnx has tensors ['image']: expected ['x']"),
        ([{"x": GOOD, "z": GOOD}], "calibration input 0 of model.onnx has tensors ['x', 'z']: expected ['x']"),
        (
            [{"x": GOOD}, {"x": GOOD[:, :, :4]}],
            "calibration input 1 of model.onnx: 'x' is float32 [2, 1, 4, 8], expected float32 ['batch', 1, 8, 8]: "
            "calibrate with inputs like those that the model is asked with",
        ),
        (
            [{"x": GOOD[0]}],
            "calibration input 0 of model.onnx: 'x' is float32 [1, 8, 8], expected float32 ['batch', 1, 8, 8]: "
            "calibrate with inputs like those that the model is asked with",
        ),
        (
            [{"x": GOOD.astype(np.float64)}],
            "calibration input 0 of model.onnx: 'x' is float64 [2, 1, 8, 8], expected float32 ['batch', 1, 8, 8]: "
            "calibrate with inputs like those that the model is asked with",
        ),
        ([{"x": GOOD}, {"x": BAD}], "calibration input 1 of model.onnx: 'x' holds NaN or infinity: remove it"),
        ([{"x": GOOD + np.inf}], "calibration input 0 of model.onnx: 'x' holds NaN or infinity: remove it"),
        (
            [{"x": GOOD[:0]}],
            "calibration input 0 of model.onnx: 'x' is float32 [0, 1, 8, 8], expected float32 ['batch', 1, 8, 8]: "
            "calibrate with inputs like those that the model is asked with",
        ),
    ],
)
def test_calibration_data_that_the_graph_does_not_take_is_one_line(
    inputs: Sequence[Mapping[str, Any]], sentence: str
) -> None:
    with pytest.raises(DataError) as refused:
        convert(graph(Convolutions), "int8", inputs)
    assert str(refused.value) == sentence


def test_fp16_needs_no_calibration() -> None:
    assert convert(graph(Convolutions), "fp16", []).cpu == convert(graph(Convolutions), "fp16", [{"x": BAD}]).cpu


@pytest.mark.parametrize("kind", [Convolutions, Attention])
def test_inputs_a_hundred_times_too_small_lose_the_answer_and_the_share_beyond_their_range_is_said(
    kind: type[nn.Module],
) -> None:
    real = feeds(*SHAPES[kind], count=2, seed=11)
    answer = run(graph(kind), real[0])
    right, wrong = (
        convert(graph(kind), "int8", feeds(*SHAPES[kind], scale=scale), keep=_normalised(kind)) for scale in (1.0, 0.01)
    )
    for target in ("cpu", "gpu"):
        near, off = (far(answer, answer_of(one, target, real[0])) for one in (right, wrong))
        assert off.max_abs > 10 * near.max_abs
        assert off.cosine < 0.97 < 0.999 < near.cosine
        before, after = (
            {error.layer.name: error for error in layer_errors(graph(kind), one.forms[target], real)}
            for one in (right, wrong)
        )
        name, least = (CONVOLUTIONS[0], 0.9) if kind is Convolutions else ("node_MatMul_8", 0.2)
        assert before[name].beyond < 0.01
        assert after[name].beyond > least
        assert "of its input beyond the calibrated range" in str(after[name])
        assert "of its input beyond the calibrated range" not in str(before[name])


def _normalised(kind: type[nn.Module]) -> tuple[str, ...]:
    """Layers behind LayerNorm see no scale of the inputs."""
    return () if kind is Convolutions else ("node_MatMul_1", "node_MatMul_3", "node_MatMul_6")
