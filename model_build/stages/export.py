"""Stage export: the trained network as one ONNX file with a dynamic batch dimension, compared with PyTorch."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnxscript import ir
from safetensors.torch import load_file
from torch import nn

from model_build._errors import ExportError
from model_build.config import ExportConfig, ModelConfig
from model_build.files import write_file
from model_build.recipe import Dataset, Floats, Recipe, load_recipe
from model_build.stages.layout import BuildFiles

PARITY_BATCHES = (1, 2, 7, 32)


def run(workspace: Path, config: ModelConfig) -> str:
    """Write `model.onnx`; return a line with its versions and its distance from PyTorch."""
    files = BuildFiles(workspace, config.name)
    recipe = load_recipe(config)
    network = recipe.network()
    network.load_state_dict(load_file(files.weights))
    serving = recipe.serving_network(network).eval()
    inputs = Dataset.from_file(files.data).test_inputs
    content = export_onnx(serving, recipe, inputs[:2], config.export)
    distance = parity(serving, content, inputs, config.export.parity_atol)
    write_file(files.onnx, content)
    return f"opset {config.export.opset}, IR {config.export.ir_version}, within {distance:.1e} of PyTorch"


def export_onnx(network: nn.Module, recipe: Recipe, example: Floats, config: ExportConfig) -> bytes:
    """Export `network` to ONNX bytes of exactly the asked versions; `example` float32 `[2, ...]` gives the shapes.

    What the exporter notes of this machine (paths, stack traces) is removed: the same weights give the same bytes.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = _export(
            network,
            (torch.from_numpy(example),),
            input_names=[recipe.input_name],
            output_names=[recipe.output_name],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=config.opset,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    model = ir.to_proto(program.model)
    _forget_machine(model)
    model.ir_version = config.ir_version
    found = {entry.domain: entry.version for entry in model.opset_import}.get("")
    if found != config.opset:
        raise ExportError(f"PyTorch exported opset {found} where export.opset asks for {config.opset}: ask for {found}")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ExportError(
            f"the exported graph is not valid ONNX of IR version {config.ir_version}: {reason}"
        ) from error
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _export(*arguments: Any, **options: Any) -> torch.onnx.ONNXProgram:
    try:
        program = torch.onnx.export(*arguments, **options)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ExportError(
            f"PyTorch cannot export the network ({reason}): change what it names in the network"
        ) from error
    assert program is not None
    return program


def parity(network: nn.Module, content: bytes, inputs: Floats, allowed: float) -> float:
    """Largest absolute difference between ONNX Runtime and PyTorch over several batch sizes.

    Raises:
        ExportError: it is more than `allowed`.
    """
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    largest = 0.0
    for size in PARITY_BATCHES:
        batch = inputs[:size]
        with torch.no_grad():
            expected = network(torch.from_numpy(batch)).numpy()
        (found,) = session.run(None, {name: batch})
        largest = max(largest, float(np.abs(expected - found).max()))
    if not largest <= allowed:
        raise ExportError(
            f"ONNX Runtime differs from PyTorch by {largest:.2g}, export.parity_atol allows {allowed:.2g}: "
            "the exported graph computes something else; nothing was written"
        )
    return largest


def _forget_machine(model: onnx.ModelProto) -> None:
    graph = model.graph
    holders: list[Any] = [model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer]
    for holder in [*holders, *model.functions]:
        del holder.metadata_props[:]
        holder.doc_string = ""
