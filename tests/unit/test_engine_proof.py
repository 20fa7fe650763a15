"""A plan is what it says only when TensorRT's layer information shows it of every layer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest

from model_build.engine import EngineFailed
from model_build.engine.layers import read_layers
from model_build.engine.proof import Proof, prove
from tests.engine_support import KERNELS, LAYERS, WORDS, layer, typed_graph


def proof(folder: Path, variant: str, plan: Sequence[Any], kept: Sequence[str] = ()) -> Proof:
    path = folder / "layers.json"
    # TensorRT writes the separator of its metadata as it is, which strict JSON does not allow.
    path.write_text(json.dumps({"Layers": [*plan], "Bindings": []}).replace("\\u001f", "\x1f"))
    return prove(variant, typed_graph(variant, kept), frozenset(kept), read_layers(path))


@pytest.mark.parametrize("variant", ["fp32", "fp16", "int8"])
def test_a_plan_in_the_precision_that_was_asked_for_is_proven(tmp_path: Path, variant: str) -> None:
    found = proof(tmp_path, variant, [layer(name, WORDS[variant]) for name in LAYERS])
    assert found
    assert str(found) == f"2 of 2 layers run in {variant.upper()}"


@pytest.mark.parametrize(
    ("variant", "word"), [("fp16", "Float"), ("int8", "Half"), ("int8", "Float"), ("fp32", "Half")]
)
def test_one_layer_in_another_precision_refuses_the_plan_by_name(tmp_path: Path, variant: str, word: str) -> None:
    found = proof(tmp_path, variant, [layer(LAYERS[0], WORDS[variant]), layer(LAYERS[1], word)])
    assert not found
    other = {"Float": "FP32", "Half": "FP16"}[word]
    assert found.reason == f"1 of 2 layers run in {variant.upper()}, not node_linear_1 ({other})"


def test_fp32_by_a_kernel_that_rounds_to_tf32_is_not_fp32(tmp_path: Path) -> None:
    rounding = layer(LAYERS[1], "Float", TacticName="sm80_xmma_gemm_f32f32_tf32f32_f32_nn_n")
    found = proof(tmp_path, "fp32", [layer(LAYERS[0], "Float"), rounding])
    assert found.reason.endswith("not node_linear_1 (TF32)")


def test_a_layer_that_is_cut_into_products_of_two_precisions_is_in_neither(tmp_path: Path) -> None:
    found = proof(tmp_path, "fp16", [layer(LAYERS[0], "Half"), layer(LAYERS[1], "Half"), layer(LAYERS[1], "Float")])
    assert not found
    assert found.reason.endswith("not node_linear_1 (FP16 and FP32)")


def test_a_layer_that_the_plan_does_not_name_is_not_proven(tmp_path: Path) -> None:
    found = proof(tmp_path, "fp16", [layer(LAYERS[0], "Half")])
    assert found.reason.endswith("not node_linear_1 (not named in the plan)")


def test_layers_kept_in_fp32_must_be_in_fp32_and_do_not_count(tmp_path: Path) -> None:
    kept = [LAYERS[1]]
    found = proof(tmp_path, "int8", [layer(LAYERS[0], "Int8"), layer(LAYERS[1], "Float")], kept)
    assert found
    assert str(found) == "1 of 1 layers run in INT8, 1 kept in FP32"
    assert not proof(tmp_path, "int8", [layer(LAYERS[0], "Int8"), layer(LAYERS[1], "Half")], kept)


def test_a_plan_all_of_whose_layers_are_kept_in_fp32_is_none_of_its_variant(tmp_path: Path) -> None:
    found = proof(tmp_path, "int8", [layer(name, "Float") for name in LAYERS], LAYERS)
    assert not found
    assert found.reason == "no layer is left in INT8: all of them are kept in FP32"


def test_fused_layers_are_found_by_the_nodes_in_their_metadata(tmp_path: Path) -> None:
    both = "\x1f".join(f"[ONNX Layer: {name}]" for name in ("node_cast", *LAYERS))
    assert proof(tmp_path, "fp16", [layer("__myl_FcMulFc", "Half", Metadata=both)])


def test_a_name_that_begins_another_name_is_not_that_layer(tmp_path: Path) -> None:
    """node_linear is the beginning of node_linear_1."""
    found = proof(tmp_path, "fp16", [layer("any", "Half", Metadata="", Name="node_linear_1 + node_relu")])
    assert found.reason.endswith("not node_linear (not named in the plan)")


def test_copies_and_sums_around_a_product_do_not_speak_for_it(tmp_path: Path) -> None:
    """TensorRT notes the node in whatever it was cut into, in the types that this has."""
    around = [
        layer(LAYERS[0], "Float", LayerType="Reformat", TacticName=""),
        layer(LAYERS[0], "Float", LayerType="kgen", TacticName="__myl_MulAddCast_0x1f"),
    ]
    assert proof(tmp_path, "fp16", [*around, *(layer(name, "Half") for name in LAYERS)])
    right = [layer(LAYERS[0], "Half", LayerType="kgen", TacticName="__myl_Cast"), layer(LAYERS[0], "Float")]
    assert not proof(tmp_path, "fp16", [*right, layer(LAYERS[1], "Half")])


@pytest.mark.parametrize(
    ("variant", "more"),
    [
        ("fp16", {"Inputs": [{"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}]}),
        ("int8", {"Inputs": [{"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}]}),
        ("fp32", {"Inputs": [{"Format/Datatype": "Row major linear FP32"}]}),
        ("fp16", {"Inputs": [{"Datatype": "Half"}]}),
        ("int8", {"Inputs": [{"Datatype": "Float"}], "Weights": {"Type": "Int8", "Count": 16}}),
        ("int8", {"Inputs": [{"Datatype": "Half"}], "TacticName": "sm80_xmma_gemm_i8f32_i8i32_f32_tn"}),
        ("int8", {"Inputs": [{"Datatype": "Float"}, {"Datatype": "Int8"}]}),
        ("fp16", {"Inputs": [{"Datatype": "Half"}], "TacticName": "0x00000000000003e8"}),
    ],
)
def test_datatypes_are_understood_as_tensorrts_releases_write_them(
    tmp_path: Path, variant: str, more: dict[str, Any]
) -> None:
    plan = [layer(name, "", LayerType="CaskConvolution", **{"TacticName": "", **more}) for name in LAYERS]
    assert proof(tmp_path, variant, plan)


def test_the_kernel_counts_before_the_datatypes(tmp_path: Path) -> None:
    half = [layer(name, "Int8", TacticName=KERNELS["Half"]) for name in LAYERS]
    assert not proof(tmp_path, "int8", half)


@pytest.mark.parametrize("content", ['{"Layers": ["node_linear"]}', '{"Layers": []}', "{}", "not JSON"])
def test_layer_information_that_shows_nothing_proves_nothing(tmp_path: Path, content: str) -> None:
    path = tmp_path / "layers.json"
    path.write_text(content)
    with pytest.raises(EngineFailed, match=r"layers\.json"):
        read_layers(path)


def test_a_graph_of_recurrent_layers_alone_is_not_proven_and_not_said_to_be_kept() -> None:
    graph = onnx.helper.make_graph([], "nothing", [], [])
    found = prove("fp16", onnx.helper.make_model(graph), frozenset(), [])
    assert not found
    assert found.reason.startswith("the graph has no convolution or matrix product with constant weights")
