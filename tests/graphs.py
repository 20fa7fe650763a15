"""Small ONNX graphs for tests, made of nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Tensors = Mapping[str, tuple[Any, Any]]  # type (TensorProto.DataType) and shape (None: not declared)


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Tensors,
    outputs: Tensors,
    constants: Mapping[str, Any] | None = None,
    opset: int = 20,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model of these nodes; tensors are named with their type and shape, constants with their value."""
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    made = helper.make_graph(list(nodes), "g", _infos(inputs), _infos(outputs), initializers)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(made, opset_imports=opsets, ir_version=10)


def _infos(tensors: Tensors) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, shape) in tensors.items()]
