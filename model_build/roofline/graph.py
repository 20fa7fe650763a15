"""An exported graph with every size fixed: as it computes, and as ONNX Runtime fuses it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from model_build._errors import ConfigurationError, ExportError
from model_build.roofline.operators import Shape

_DOMAINS = frozenset(("", "ai.onnx"))
_CONTROL_FLOW = frozenset(("If", "Loop", "Scan", "SequenceMap"))


@dataclass(frozen=True)
class StaticGraph:
    """A graph whose tensors all have a known shape.

    Attributes:
        model: standard operators; what depends on nothing but sizes and weights is folded into constants.
        fused: the same graph as ONNX Runtime runs it on a CPU.
        shapes: of every tensor of `model`, by name.
        sizes: bytes of an element of it.
        floats: names of those that hold floating point.
        weights: names of its constants.
    """

    model: onnx.ModelProto
    fused: onnx.ModelProto
    shapes: Mapping[str, Shape]
    sizes: Mapping[str, int]
    floats: frozenset[str]
    weights: frozenset[str]

    def elements(self, name: str) -> int:
        """How many the tensor has."""
        return math.prod(self.shapes[name])


def named(path: Path, folder: Path) -> tuple[Path, str | None]:
    """The graph with a name for each first dimension of an input that is free and has none, as skl2onnx leaves them.

    That is taken for the batch.

    Args:
        path: of the file.
        folder: where a copy with names may be written, as long as it is needed.

    Returns:
        The path itself where nothing was named; the name that was given, if any.

    Raises:
        ExportError: the file is no ONNX graph.
    """
    inputs = _load(path, weights=False).graph.input
    free = [any(map(_is_nameless, value.type.tensor_type.shape.dim[:1])) for value in inputs]
    batch, others = symbols(path)
    if not any(free) or (batch is None and not free[0]):
        return path, None
    name = batch or next(one for one in ("batch", "batch_size", "batch_of_requests") if one not in others)
    model = _load(path)
    for value, nameless in zip(model.graph.input, free, strict=True):
        if nameless:
            value.type.tensor_type.shape.dim[0].dim_param = name
    copy = folder / path.name
    copy.write_bytes(model.SerializeToString())
    return copy, name


def _is_nameless(dim: onnx.TensorShapeProto.Dimension) -> bool:
    return not dim.dim_param and not dim.HasField("dim_value")


def symbols(path: Path) -> tuple[str | None, tuple[str, ...]]:
    """The name of the batch, the first dimension of the first input where that is free, and the other free names.

    Raises:
        ExportError: the file is no ONNX graph.
    """
    inputs = _load(path, weights=False).graph.input
    dims = [dim for value in inputs for dim in value.type.tensor_type.shape.dim]
    free = list(dict.fromkeys(dim.dim_param for dim in dims if dim.dim_param))
    first = inputs[0].type.tensor_type.shape.dim if inputs else []
    batch = first[0].dim_param if first and first[0].dim_param else None
    return batch, tuple(name for name in free if name != batch)


def fixed_batch(path: Path) -> int | None:
    """Size of the first dimension of the first input; None where it is free or there is none.

    Raises:
        ExportError: the file is no ONNX graph.
    """
    inputs = _load(path, weights=False).graph.input
    first = inputs[0].type.tensor_type.shape.dim if inputs else []
    return first[0].dim_value if first and first[0].HasField("dim_value") else None


def fix(path: Path, batch: int, shapes: Mapping[str, int], threads: int = 1) -> StaticGraph:
    """Open an ONNX file with this batch and these other sizes.

    Args:
        path: of the file.
        batch: size of the first dimension of the first input.
        shapes: size of each other free dimension, by name; names that the graph does not have are not looked at.
        threads: that ONNX Runtime optimises for.

    Raises:
        ConfigurationError: a size is missing, or the graph's shapes depend on its data.
        ExportError: ONNX Runtime cannot open the file.
    """
    name, others = symbols(path)
    if missing := [one for one in others if one not in shapes]:
        raise ConfigurationError(
            f"{path.name} has a free size '{missing[0]}': pass --shape {missing[0]}=N, what requests have there"
        )
    _check_supported(path)
    sizes = {one: shapes[one] for one in others} | ({name: batch} if name else {})
    basic = optimise(path, sizes, ort.GraphOptimizationLevel.ORT_ENABLE_BASIC, threads)
    fused = optimise(path, sizes, ort.GraphOptimizationLevel.ORT_ENABLE_ALL, threads)
    if found := next((node for node in basic.graph.node if node.op_type in _CONTROL_FLOW), None):
        raise ConfigurationError(
            f"{path.name}: operator {found.op_type} of node '{found.name}' repeats or chooses by its data, so its "
            "FLOPs are not known before it runs: export the body as a graph of its own"
        )
    return _with_shapes(path.name, basic, fused)


def _check_supported(path: Path) -> None:
    graph = _load(path, weights=False).graph
    for value in graph.input:
        if any(map(_is_nameless, value.type.tensor_type.shape.dim)):
            raise ConfigurationError(
                f"{path.name}: input '{value.name}' has a dimension with neither size nor name: export it with a name "
                "for each free dimension, then pass --shape NAME=N"
            )
    if found := next((node for node in graph.node if node.domain not in _DOMAINS), None):
        raise ConfigurationError(
            f"{path.name}: operator {found.domain}.{found.op_type} of node '{found.name}' is none of ONNX's own, so "
            "that the shape of what it gives is not known and --flops cannot help: export the network with standard "
            "operators in its place"
        )


def optimise(
    path: Path, sizes: Mapping[str, int], level: ort.GraphOptimizationLevel, threads: int = 1
) -> onnx.ModelProto:
    """The graph with its free sizes fixed, after ONNX Runtime's optimisations of this level on a CPU.

    Raises:
        ExportError: ONNX Runtime cannot open it.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.graph_optimization_level = level
    for name, size in sizes.items():
        options.add_free_dimension_override_by_name(name, size)
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        try:
            ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise ExportError(f"ONNX Runtime cannot open {path} with sizes {dict(sizes)}: {reason}") from error
        return onnx.load(options.optimized_model_filepath)


def _with_shapes(name: str, model: onnx.ModelProto, fused: onnx.ModelProto) -> StaticGraph:
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes: dict[str, Shape] = {}
    types: dict[str, int] = {}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        tensor = value.type.tensor_type
        types[value.name] = tensor.elem_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            shapes[value.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
    for constant in inferred.initializer:
        shapes[constant.name], types[constant.name] = tuple(constant.dims), constant.data_type
    for node in model.graph.node:
        if unknown := [one for one in (*node.input, *node.output) if one and one not in shapes]:
            raise ConfigurationError(
                f"{name}: the shape of '{unknown[0]}', which node '{node.name}' ({node.op_type}) takes or gives, "
                "depends on the data: pass --shape for the sizes that it is made of, or export it with that size fixed"
            )
    sizes = {one: max(1, helper.tensor_dtype_to_np_dtype(kind).itemsize) for one, kind in types.items() if kind}
    floating = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
    floats = frozenset(one for one, kind in types.items() if kind in floating)
    weights = frozenset(constant.name for constant in inferred.initializer)
    return StaticGraph(model, fused, shapes, sizes, floats, weights)


def _load(path: Path, *, weights: bool = True) -> onnx.ModelProto:
    try:
        return onnx.load(path, load_external_data=weights)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ExportError(f"{path} is no ONNX graph ({reason}): build the model first") from error


def producers(nodes: Sequence[onnx.NodeProto]) -> dict[str, onnx.NodeProto]:
    """The node that gives each tensor."""
    return {output: node for node in nodes for output in node.output if output}
