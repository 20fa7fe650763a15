"""INT8: integers are multiplied, each form is what its target takes, and what is something else is refused."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from model_build.precision.distance import layer_errors
from model_build.precision.proof import INTEGER_OPERATORS, prove
from model_build.precision.variants import INT8, TARGETS
from tests.precision_graphs import (
    CONVOLUTIONS,
    PRODUCTS,
    SHAPES,
    Attention,
    Convolutions,
    answer_of,
    convert,
    exported,
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


def zero_points(content: bytes) -> dict[str, npt.NDArray[np.int8 | np.uint8]]:
    """Of every QuantizeLinear of an activation, by the tensor's name."""
    model = onnx.load_from_string(content)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {node.input[0]: constants[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"}


def weights(content: bytes) -> dict[str, tuple[npt.NDArray[np.int8], npt.NDArray[np.float32], npt.NDArray[np.int8]]]:
    """Integers, scales and zero points of the layers' weights, by name."""
    model = onnx.load_from_string(content)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in constants]
    named = [[constants[name] for name in node.input] for node in nodes if constants[node.input[0]].dtype == np.int8]
    names = [node.input[0] for node in nodes if constants[node.input[0]].dtype == np.int8]
    return {name: (one[0], one[1], one[2]) for name, one in zip(names, named, strict=True)}


@KINDS
def test_the_cpus_form_is_unsigned_activations_by_signed_weights_and_runs_operators_of_integers(
    kind: type[nn.Module],
) -> None:
    proof = prove(INT8, graph(kind), variant_of(kind, INT8).cpu, NONE, run=True)
    assert proof
    assert proof.layers == proof.stored == proof.running == len(LAYERS[kind])
    expected = {"QLinearConv": 2, "QGemm": 1} if kind is Convolutions else {"MatMulIntegerToFloat": 7}
    assert {name: count for name, count in proof.operators.items() if name in INTEGER_OPERATORS} == expected
    assert not {"Conv", "Gemm", "MatMul", "FusedConv"} & set(proof.operators)
    assert proof.left == ()
    found = zero_points(variant_of(kind, INT8).cpu)
    assert {array.dtype for array in found.values()} == {np.dtype(np.uint8)}
    assert (
        found["x"] != 0 if kind is Convolutions else found["layer_norm"] != 0
    )  # signed numbers have their zero inside


@KINDS
def test_no_pair_of_products_of_the_cpus_form_overflows_sixteen_bits_where_there_is_no_vnni(
    kind: type[nn.Module],
) -> None:
    found = weights(variant_of(kind, INT8).cpu)
    assert len(found) == len(LAYERS[kind])
    assert max(2 * 255 * int(np.abs(array.astype(np.int32)).max()) for array, _, _ in found.values()) < 2**15


@KINDS
def test_tensorrts_form_is_symmetric_signed_on_both_sides_and_every_zero_point_is_zero(kind: type[nn.Module]) -> None:
    content = variant_of(kind, INT8).gpu
    found = zero_points(content)
    assert len(found) >= 3
    for name, zero in found.items():
        assert (str(zero.dtype), zero.max(), zero.min()) == ("int8", 0, 0), name
    for name, (_, _, zero) in weights(content).items():
        assert zero.dtype == np.int8, name
        assert not zero.any(), name
    integers = [one.name for one in onnx.load_from_string(content).graph.initializer if one.data_type == 6]
    assert integers == []  # TensorRT takes biases in floating point
    assert prove(INT8, graph(kind), content, NONE, run=False)


@KINDS
@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_each_channel_of_the_weights_has_a_scale_of_its_own_and_uses_all_of_it(
    kind: type[nn.Module], target: str
) -> None:
    found = weights(variant_of(kind, INT8).forms[target])
    assert len(found) == len(LAYERS[kind])
    outputs = {"first.weight_quantized": 8, "second.weight_quantized": 8, "head.weight_quantized": 5}
    for name, (integers, scales, _) in found.items():
        channels = outputs[name] if kind is Convolutions else integers.shape[1]
        axis = 0 if kind is Convolutions else 1
        assert scales.shape == (channels,), name
        assert len(set(scales.tolist())) == channels, name
        largest = np.abs(np.moveaxis(integers, axis, 0).astype(np.int32)).reshape(channels, -1).max(axis=1)
        assert (largest >= (63 if target == "cpu" else 126)).all(), name


@KINDS
def test_both_forms_answer_as_fp32_does_but_not_the_same(kind: type[nn.Module]) -> None:
    asked = feeds(*SHAPES[kind], count=1, seed=9)[0]
    for target in TARGETS:
        distance = far(run(graph(kind), asked), answer_of(variant_of(kind, INT8), target, asked))
        assert 1e-5 < distance.max_abs < 0.1
        assert distance.cosine > 0.999


@pytest.mark.parametrize(
    ("kind", "kept"),
    [(Convolutions, name) for name in CONVOLUTIONS] + [(Attention, name) for name in PRODUCTS],
)
def test_a_kept_layer_stays_float_and_the_proof_counts_the_others(kind: type[nn.Module], kept: str) -> None:
    converted = variant_of(kind, INT8, (kept,))
    others = [name for name in LAYERS[kind] if name != kept]
    for content in converted.forms.values():
        onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
        assert stored(content) == {**dict.fromkeys(LAYERS[kind], "INT8"), kept: "FLOAT"}
    proof = prove(INT8, graph(kind), converted.cpu, frozenset([kept]), run=True)
    assert proof
    assert (proof.layers, proof.stored, proof.running) == (len(others),) * 3
    assert sum(proof.operators.get(name, 0) for name in ("Conv", "FusedConv", "Gemm", "MatMul")) == 1
    untold = prove(INT8, graph(kind), converted.cpu, NONE, run=True)
    assert not untold
    assert (untold.layers, untold.stored, untold.running) == (len(others) + 1, len(others), len(others))
    assert untold.reason == f"the file holds {len(others)} of {len(others) + 1} layers in INT8, not {kept}"


@pytest.mark.parametrize(
    ("kind", "kept"),
    [(Convolutions, name) for name in CONVOLUTIONS] + [(Attention, name) for name in PRODUCTS],
)
def test_a_kept_layer_adds_no_noise_of_its_own_though_its_neighbours_take_its_input_in_8_bits(
    kind: type[nn.Module], kept: str
) -> None:
    for content in variant_of(kind, INT8, (kept,)).forms.values():
        errors = layer_errors(graph(kind), content, feeds(*SHAPES[kind], count=1))
        assert {error.layer.name for error in errors if error.sqnr_db > 100} == {kept}


@KINDS
def test_a_kept_layer_of_another_graph_does_not_excuse_one_that_runs_in_fp32_here(kind: type[nn.Module]) -> None:
    """Two of a model's graphs are proven with one list of what is kept."""
    content = integers_that_run_in_float(kind)
    assert not prove(INT8, graph(kind), content, NONE, run=True)
    assert not prove(INT8, graph(kind), content, frozenset(["elsewhere"]), run=True)


@KINDS
def test_a_file_whose_integers_are_multiplied_as_floats_is_no_int8(kind: type[nn.Module]) -> None:
    proof = prove(INT8, graph(kind), integers_that_run_in_float(kind), NONE, run=True)
    count = len(LAYERS[kind])
    assert not proof
    assert (proof.stored, proof.running) == (count, count - 1)
    reason = (
        f"{count - 1} of {count} layers run in INT8 on this CPU: ONNX Runtime has no such kernel for {LAYERS[kind][-1]}"
    )
    assert proof.reason == reason


def integers_that_run_in_float(kind: type[nn.Module]) -> bytes:
    """INT8 weights everywhere, and a last layer that takes its input as it is."""
    model = onnx.load_from_string(variant_of(kind, INT8).cpu)
    (last,) = [node for node in model.graph.node if node.name == LAYERS[kind][-1]]
    (dequantise,) = [node for node in model.graph.node if node.output[0] == last.input[0]]
    (quantise,) = [node for node in model.graph.node if node.output[0] == dequantise.input[0]]
    last.input[0] = quantise.input[0]
    content: bytes = model.SerializeToString()
    return content


@KINDS
@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_an_fp32_file_under_the_name_of_int8_is_refused(kind: type[nn.Module], target: str) -> None:
    proof = prove(INT8, graph(kind), graph(kind), NONE, run=target == "cpu")
    count, names = len(LAYERS[kind]), ", ".join(sorted(LAYERS[kind])[:3])
    more = ", ..." if count > 3 else ""
    assert not proof
    assert proof.reason == f"the file holds 0 of {count} layers in INT8, not {names}{more}"


def test_a_variant_of_which_every_layer_is_kept_is_none() -> None:
    proof = prove(INT8, graph(Convolutions), graph(Convolutions), frozenset(CONVOLUTIONS), run=True)
    assert not proof
    assert proof.reason == "no layer is left in INT8: all of them are kept in FP32"


@KINDS
@pytest.mark.parametrize("variant", ["fp16", "int8"])
def test_the_same_calibration_gives_the_same_bytes(kind: type[nn.Module], variant: str) -> None:
    first, second = (convert(graph(kind), variant, feeds(*SHAPES[kind]), (), 0.5) for _ in range(2))
    assert first == second
    assert (first.cpu == first.gpu) == (variant == "fp16")


def test_a_product_before_a_relu_that_is_not_quantised_still_multiplies_integers() -> None:
    """ONNX Runtime would fuse the two in FP32."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gemm", ["x", "first"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Mul", ["b", "b"], ["y"], name="square"),
    ]
    content = hand_made(nodes, {"first": random.standard_normal((8, 8)).astype(np.float32)}, 8)
    converted, asked = convert(content, INT8, feeds(8)), feeds(8, seed=9)[0]
    proof = prove(INT8, content, converted.cpu, NONE, run=True)
    assert proof, proof.reason
    assert proof.operators["QGemm"] == 1
    assert far(run(content, asked), run(converted.cpu, asked)).cosine > 0.999


@pytest.mark.parametrize("kept", range(6))
def test_each_layer_of_a_deeper_network_is_computed_in_fp32_when_it_is_kept_and_its_neighbours_are_not(
    kept: int,
) -> None:
    """ONNX Runtime would quantise it again between two INT8 layers, and fuse the one before it in FP32."""
    names, content = deeper()
    converted = convert(content, INT8, feeds(1, 8, 8), (names[kept],))
    proof = prove(INT8, content, converted.cpu, frozenset([names[kept]]), run=True)
    assert proof, proof.reason
    floats = sum(proof.operators.get(name, 0) for name in ("Conv", "FusedConv", "Gemm", "FusedGemm"))
    integers = sum(proof.operators.get(name, 0) for name in ("QLinearConv", "QGemm"))
    assert (floats, integers) == (1, 5)
    asked = feeds(1, 8, 8, seed=9)[0]
    for model in map(onnx.load_from_string, converted.forms.values()):
        used = {name for node in model.graph.node for name in node.input} | {"y"}
        assert [node.name for node in model.graph.node if node.output[0] not in used] == []
    assert "Max" not in {node.op_type for node in onnx.load_from_string(converted.gpu).graph.node}
    for target in TARGETS:
        assert far(run(content, asked), answer_of(converted, target, asked)).cosine > 0.999


@functools.cache
def deeper() -> tuple[list[str], bytes]:
    """Three convolutions and three products, Relu between all of them."""
    torch.manual_seed(1)
    network = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 5)),
    )
    content = exported(network, 1, 8, 8)
    return list(stored(content)), content
