"""PyTorch modules as ONNX bytes of exactly the asked versions, and how far ONNX Runtime is from PyTorch."""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from model_build._errors import ExportError
from model_build.config import ExportConfig
from model_build.precision.numbers import furthest

Array = npt.NDArray[Any]

_AS_WRITTEN = contextvars.ContextVar("as_written", default=False)


def export_onnx(
    network: nn.Module,
    example: tuple[Any, ...],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic_shapes: tuple[Any, ...],
    config: ExportConfig,
) -> bytes:
    """Export `network` to ONNX bytes.

    What the exporter notes of this machine (paths, stack traces) is removed: the same weights give the same bytes.

    Args:
        network: in evaluation mode.
        example: its positional arguments; sizes that are dynamic must be 2 or more in it.
        inputs: names of the input tensors.
        outputs: names of the output tensors.
        dynamic_shapes: as torch.export takes them.
        config: the versions.

    Raises:
        ExportError: PyTorch cannot export it, or gives something else than was asked for.
    """
    names = [*inputs, *outputs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ExportError(f"inputs {list(inputs)} and outputs {list(outputs)} have '{twice}' twice: name each once")
    from onnxscript import ir  # most stages import this module to open a session

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = _export(
            network,
            example,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=dynamic_shapes,
            opset_version=config.opset,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    _keep_names_apart(program.model.graph, names)
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


def open_session(content: bytes) -> ort.InferenceSession:
    """ONNX Runtime on the CPU."""
    options = ort.SessionOptions()
    if _AS_WRITTEN.get():
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@contextlib.contextmanager
def as_written() -> Iterator[None]:
    """Open sessions that compute a quantised graph in floats, as it is written: not by this CPU's integer operators.

    Those may overflow where another device does not.
    """
    before = _AS_WRITTEN.set(True)
    try:
        yield
    finally:
        _AS_WRITTEN.reset(before)


def parity(
    network: nn.Module, session: ort.InferenceSession, batches: Sequence[Mapping[str, Array]], allowed: float
) -> float:
    """Largest absolute difference of any output between ONNX Runtime and PyTorch over `batches` of inputs by name.

    Raises:
        ExportError: it is more than `allowed`, or the two do not answer alike: in number, shape or type.
    """
    distances = [0.0]
    outputs = [node.name for node in session.get_outputs()]
    for batch in batches:
        with torch.no_grad():
            found = network(*(torch.from_numpy(array) for array in batch.values()))
        expected = [one for one in tree_leaves(found) if isinstance(one, torch.Tensor)]  # as torch.export has them
        if len(expected) != len(outputs):
            raise ExportError(
                f"PyTorch gives {len(expected)} tensors where the exported graph has {len(outputs)}, {outputs}: "
                "return from the network what the recipe names; nothing was written"
            )
        arrays = [_array(name, one) for name, one in zip(outputs, expected, strict=True)]
        for array, other, name in zip(arrays, session.run(None, dict(batch)), outputs, strict=True):
            if array.shape != other.shape:
                raise ExportError(
                    f"ONNX Runtime gives '{name}' {list(other.shape)} where PyTorch gives {list(array.shape)}: "
                    "the exported graph computes something else; nothing was written"
                )
            distances.append(furthest(array, other))
    return allowed_distance(float(np.max(distances)), allowed)  # np.max, because Python's max hides a NaN


def _array(name: str, tensor: torch.Tensor) -> Array:
    """A copy for NumPy, which has no BF16, of any tensor: a parameter too."""
    try:
        found: Array = (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy(force=True)
    except TypeError as error:
        raise ExportError(
            f"output '{name}' is {tensor.dtype} ({tensor.layout}), which cannot be compared or served: return a "
            "dense tensor of float32 from the network; nothing was written"
        ) from error
    return found


def allowed_distance(distance: float, allowed: float) -> float:
    """Return `distance` from PyTorch, or raise an ExportError where it is more than `allowed`."""
    if not distance <= allowed:
        raise ExportError(
            f"ONNX Runtime differs from PyTorch by {distance:.2g}, export.parity_atol allows {allowed:.2g}: "
            "the exported graph computes something else; nothing was written"
        )
    return distance


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


def _keep_names_apart(graph: Any, taken: Sequence[str]) -> None:
    """Rename what the exporter has named as the model's own inputs and outputs are: a graph has each name once."""
    own = {id(value) for value in (*graph.inputs, *graph.outputs)}
    values = [*graph.initializers.values(), *(value for node in graph.all_nodes() for value in node.outputs)]
    known = {*taken, *(value.name for value in values)}
    for value in values:
        if value.name in taken and id(value) not in own:
            number = next(number for number in itertools.count(1) if f"{value.name}_{number}" not in known)
            known.add(f"{value.name}_{number}")
            value.name = f"{value.name}_{number}"


def _forget_machine(model: onnx.ModelProto) -> None:
    graph = model.graph
    holders: list[Any] = [model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer]
    for holder in [*holders, *model.functions]:
        del holder.metadata_props[:]
        holder.doc_string = ""
