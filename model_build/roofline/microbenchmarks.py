"""Single layers of many sizes, timed on this machine: what a calibration is fitted to."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model_build.roofline.calibration import Sample
from model_build.roofline.graph import fix
from model_build.roofline.layers import find_layers
from model_build.roofline.measure import measured, profile

# Rows, inner and columns of products; channels in and out, image and kernel of convolutions; elements of the others.
_PRODUCTS = ((1, 384, 384), (1, 1024, 4096), (16, 192, 768), (64, 384, 1536), (256, 384, 384), (512, 768, 768))
_CONVOLUTIONS = ((1, 8, 28, 3), (8, 16, 14, 3), (16, 48, 32, 3), (64, 64, 28, 3), (96, 128, 14, 5))
_ELEMENTS = (1_000, 30_000, 300_000, 3_000_000)
_OTHERS = ("Relu", "Softmax", "Gelu", "Add", "Transpose")
_BATCH = 4  # of the convolutions


def run(threads: int = 1) -> list[Sample]:
    """Time all of them, each a graph of one branch."""
    samples = []
    with tempfile.TemporaryDirectory() as folder:
        for index, model in enumerate(_graphs()):
            path = Path(folder) / f"{index}.onnx"
            path.write_bytes(model.SerializeToString())
            layers = find_layers(fix(path, 1, {}, threads))
            times = measured(layers, profile(path, {}, threads=threads, seconds=0.1))
            samples += [Sample(layer, seconds) for layer, seconds in zip(layers, times, strict=True)]
    return samples


def _graphs() -> list[onnx.ModelProto]:
    graphs = []
    for rows, inner, columns in _PRODUCTS:
        graphs.append(_graph("MatMul", [rows, inner], [rows, columns], weight=[inner, columns]))
    for come, gone, side, kernel in _CONVOLUTIONS:
        before, after = [_BATCH, come, side, side], [_BATCH, gone, side, side]
        graphs.append(_graph("Conv", before, after, weight=[gone, come, kernel, kernel], pads=[kernel // 2] * 4))
    graphs += [_views(elements) for elements in _ELEMENTS]
    for elements in _ELEMENTS:
        for operator in _OTHERS:
            before = [elements // 100, 100]
            after = before[::-1] if operator == "Transpose" else before
            graphs.append(_graph(operator, before, after, weight=before if operator == "Add" else None))
    return graphs


def _views(elements: int) -> onnx.ModelProto:
    """A reshape between two operators, as networks have it."""
    nodes = [
        helper.make_node("Relu", ["x"], ["before"], name="first"),
        helper.make_node("Reshape", ["before", "shape"], ["after"], name="view"),
        helper.make_node("Neg", ["after"], ["y"], name="last"),
    ]
    rows = elements // 100
    shape = numpy_helper.from_array(np.array([rows, 10, 10], np.int64), "shape")
    return _model(nodes, [rows, 100], [rows, 10, 10], [shape])


def _graph(
    operator: str,
    before: Sequence[int],
    after: Sequence[int],
    weight: Sequence[int] | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """A graph of one node."""
    random = np.random.default_rng(0)
    weights = [] if weight is None else [numpy_helper.from_array(random.standard_normal(weight).astype("f4"), "w")]
    inputs = ["x", "w"] if weights else ["x"]
    node = helper.make_node(operator, inputs, ["y"], name=operator, **attributes)
    return _model([node], before, after, weights)


def _model(
    nodes: Sequence[onnx.NodeProto], before: Sequence[int], after: Sequence[int], weights: Sequence[onnx.TensorProto]
) -> onnx.ModelProto:
    body = helper.make_graph(
        list(nodes),
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, before)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, after)],
        list(weights),
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
