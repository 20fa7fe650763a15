"""FP16: half weights behind the same tensors, no weight lost, and what a CPU makes of it is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from model_build.config import ExportConfig
from model_build.onnx_export import export_onnx, open_session
from model_build.precision.distance import layer_errors
from model_build.precision.making import Maker
from model_build.precision.proof import prove
from model_build.precision.variants import FP16
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
    hand_made,
    run,
    stored,
    variant_of,
)

KINDS = pytest.mark.parametrize("kind", [Convolutions, Attention])
NONE: frozenset[str] = frozenset()
LAYERS = {Convolutions: CONVOLUTIONS, Attention: PRODUCTS}
LARGEST = 65504.0  # of half precision


@KINDS
def test_weights_are_half_inputs_and_outputs_stay_float_and_one_file_is_for_both_targets(kind: type[nn.Module]) -> None:
    converted = variant_of(kind, FP16)
    assert converted.cpu == converted.gpu
    assert set(stored(converted.gpu).values()) == {"FLOAT16"}
    before, after = (onnx.load_from_string(content).graph for content in (graph(kind), converted.gpu))
    assert [(one.name, one.type.tensor_type.elem_type) for one in (*after.input, *after.output)] == [
        ("x", TensorProto.FLOAT),
        ("y", TensorProto.FLOAT),
    ]
    floats = [one.name for one in after.initializer if one.data_type == TensorProto.FLOAT]
    assert floats == []
    assert len(before.initializer) == len(after.initializer)
    assert len(converted.gpu) < 0.7 * len(graph(kind))


@KINDS
def test_answers_are_those_of_fp32_to_half_precision(kind: type[nn.Module]) -> None:
    asked = feeds(*SHAPES[kind], count=1, seed=9)[0]
    distance = far(run(graph(kind), asked), run(variant_of(kind, FP16).cpu, asked))
    assert 1e-6 < distance.max_abs < 0.01
    assert distance.cosine > 0.99999


@pytest.mark.parametrize(("largest", "dtype"), [(-LARGEST, np.float16), (1e6, np.float32)])
def test_no_weight_is_clamped_and_one_that_half_precision_cannot_hold_keeps_its_layer_in_fp32(
    largest: float, dtype: type[np.floating[Any]]
) -> None:
    weights = np.diag([60000.0, largest, 1.0, 2.0]).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["y"], name="product")]
    fp32 = hand_made(nodes, {"weight": weights})
    half = convert(fp32, FP16).gpu
    (found,) = [
        numpy_helper.to_array(one) for one in onnx.load_from_string(half).graph.initializer if one.name == "weight"
    ]
    assert found.dtype == dtype
    assert np.diag(found).tolist() == [60000.0, largest, 1.0, 2.0]
    assert bool(prove(FP16, fp32, half, NONE, run=False)) == (dtype is np.float16)


@KINDS
def test_on_a_cpu_it_is_told_that_no_layer_runs_in_it_and_for_a_gpu_the_file_counts(kind: type[nn.Module]) -> None:
    content, count = variant_of(kind, FP16).cpu, len(LAYERS[kind])
    here = prove(FP16, graph(kind), content, NONE, run=True)
    assert not here
    assert (here.stored, here.running) == (count, 0)
    assert here.reason.startswith(f"0 of {count} layers run in FP16 on this CPU: ONNX Runtime has no such kernel for ")
    assert LAYERS[kind][-1] in here.reason
    there = prove(FP16, graph(kind), content, NONE, run=False)
    assert there
    assert (there.stored, there.running) == (count, None)


@KINDS
@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_an_fp32_file_under_the_name_of_fp16_is_refused_for_what_it_holds(kind: type[nn.Module], target: str) -> None:
    proof = prove(FP16, graph(kind), graph(kind), NONE, run=target == "cpu")
    count = len(LAYERS[kind])
    assert not proof
    assert proof.stored == 0
    assert proof.reason.startswith(f"the file holds 0 of {count} layers in FP16, not {min(LAYERS[kind])}, ")


@pytest.mark.parametrize(
    ("kind", "kept"), [(Convolutions, CONVOLUTIONS[1]), (Convolutions, CONVOLUTIONS[2]), (Attention, PRODUCTS[2])]
)
def test_a_kept_layer_stays_float_and_adds_no_noise(kind: type[nn.Module], kept: str) -> None:
    content = variant_of(kind, FP16, (kept,)).gpu
    assert stored(content) == {**dict.fromkeys(LAYERS[kind], "FLOAT16"), kept: "FLOAT"}
    assert prove(FP16, graph(kind), content, frozenset([kept]), run=False)
    assert not prove(FP16, graph(kind), content, NONE, run=False)
    errors = layer_errors(graph(kind), content, feeds(*SHAPES[kind], count=1))
    assert {error.layer.name for error in errors} == set(LAYERS[kind])


def test_a_constant_that_half_precision_cannot_hold_keeps_its_node_in_fp32() -> None:
    """A variance of 100,000 behind the first measurement: clamped to 65,504, every answer is off by a fifth."""
    network = nn.Sequential(nn.BatchNorm1d(4, affine=False), nn.Linear(4, 3)).eval()
    normalisation = network[0]
    assert isinstance(normalisation, nn.BatchNorm1d)
    assert normalisation.running_var is not None
    normalisation.running_var[0] = 100_000.0
    config = ExportConfig(opset=20, ir_version=10, parity_atol=1e-4)
    batch = torch.export.Dim("batch")
    inputs = torch.tensor([[900.0, 1, 2, 3], [-900.0, 0, 1, 1]])
    fp32 = export_onnx(network, (inputs,), inputs=["x"], outputs=["y"], dynamic_shapes=({0: batch},), config=config)
    maker = Maker("model.onnx", fp32, (), smoothing=0.0)
    half = maker.make(FP16, ()).cpu
    maker.close()
    expected, found = (open_session(content).run(None, {"x": inputs.numpy()})[0] for content in (fp32, half))
    np.testing.assert_allclose(found, expected, atol=0.01)
    assert prove(FP16, fp32, half, frozenset(), run=False)
