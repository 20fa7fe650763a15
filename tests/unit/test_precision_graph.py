"""Layers that can be computed in fewer bits."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from torch import nn

from model_build.precision.graph import layers
from tests.precision_graphs import CONVOLUTIONS, PRODUCTS, Attention, Convolutions, graph, hand_made, stored, variant_of


@pytest.mark.parametrize(("kind", "names"), [(Convolutions, CONVOLUTIONS), (Attention, PRODUCTS)])
def test_layers_are_the_products_with_constant_weights_in_their_order_and_no_others(
    kind: type[nn.Module], names: tuple[str, ...]
) -> None:
    products = [node for node in onnx.load_from_string(graph(kind)).graph.node if node.op_type == "MatMul"]
    assert stored(graph(kind)) == dict.fromkeys(names, "FLOAT")
    if kind is Attention:  # the two products of activations are no layers
        assert len(products) == len(names) + 2


@pytest.mark.parametrize("kind", [Convolutions, Attention])
@pytest.mark.parametrize(("variant", "datatype"), [("fp16", "FLOAT16"), ("int8", "INT8")])
def test_a_layers_datatype_is_that_of_the_stored_weights_its_names_stay_and_the_file_is_valid_onnx(
    kind: type[nn.Module], variant: str, datatype: str
) -> None:
    converted = variant_of(kind, variant)
    before = layers(onnx.load_from_string(graph(kind)))
    for content in converted.forms.values():
        onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
        found = layers(onnx.load_from_string(content))
        assert [(one.name, one.operator, one.weight) for one in found] == [
            (one.name, one.operator, one.weight) for one in before
        ]
        assert {one.datatype for one in found} == {datatype}


def test_weights_behind_a_cast_and_a_transposition_count_as_they_are_stored() -> None:
    nodes = [
        helper.make_node("Cast", ["half"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["weight"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "weight"], ["y"], name="product"),
    ]
    content = hand_made(nodes, {"half": np.ones((3, 4), np.float16)})
    assert stored(content) == {"product": "FLOAT16"}


def test_a_layer_is_said_with_its_weight_and_without_a_name_that_the_exporter_made_up() -> None:
    assert [str(layer) for layer in layers(onnx.load_from_string(graph(Convolutions)))] == [
        "node_conv2d (first.weight)",
        "node_conv2d_1 (second.weight)",
        "node_linear (head.weight)",
    ]
    assert [str(layer) for layer in layers(onnx.load_from_string(graph(Attention)))] == list(PRODUCTS)
