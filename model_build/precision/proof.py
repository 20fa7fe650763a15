"""Proof of precision: which layers really run in the precision that a file's name claims."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime as ort

from model_build._errors import ExportError
from model_build.precision.graph import HALVED, OPERATORS, factors, layers
from model_build.precision.share import Share
from model_build.precision.variants import FP16, INT8

_STORED = {FP16: "FLOAT16", INT8: "INT8"}
# ONNX Runtime's operators that multiply 8-bit integers (docs/ContribOperators.md), and its fused ones that do not.
INTEGER_OPERATORS = frozenset(
    ("QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat", "MatMulInteger", "ConvInteger")
)
_FLOAT_OPERATORS = frozenset((*OPERATORS, "FusedConv", "FusedGemm", "FusedMatMul", "NhwcFusedConv", "MatMulNBits"))


@dataclass(frozen=True)
class Proof:
    """What a file holds and what runs of it; true when every layer that should is in the claimed precision.

    Attributes:
        variant: the precision that is claimed.
        layers: how many there are, those kept in FP32 not counted.
        stored: of how many of them the file holds the weights in that precision.
        running: how many ONNX Runtime runs in it on this CPU; None where it was not asked.
        operators: what runs, by name of ONNX Runtime's operator; empty where it was not asked.
        left: names of those that are, or run, in another precision.
        in_float: names of products, those without such weights included, that ONNX Runtime runs in floating point here
            although the file says INT8.
        share: of all products, those without such weights included, what is in it; None where it was not counted.
    """

    variant: str
    layers: int
    stored: int
    running: int | None
    operators: Mapping[str, int]
    left: tuple[str, ...]
    in_float: frozenset[str] = frozenset()
    share: Share | None = None

    def __bool__(self) -> bool:
        return 0 < self.layers == self.stored and self.running in (None, self.layers)

    @property
    def reason(self) -> str:
        """Why it is false."""
        claimed = self.variant.upper()
        if self.layers == 0:
            return f"no layer is left in {claimed}: all of them are kept in FP32"
        names = ", ".join(self.left[:3]) + (", ..." if len(self.left) > 3 else "")
        if self.stored != self.layers:
            return f"the file holds {self.stored} of {self.layers} layers in {claimed}, not {names}"
        return (
            f"{self.running} of {self.layers} layers run in {claimed} on this CPU: ONNX Runtime has no such kernel for "
            f"{names}"
        )


def prove(variant: str, fp32: bytes, content: bytes, kept: frozenset[str], *, run: bool) -> Proof:
    """Compare a variant's file with the FP32 file that it was made of.

    Args:
        variant: fp16 or int8.
        fp32: the FP32 file.
        content: the variant's.
        kept: names of layers that were asked to stay in FP32.
        run: whether this machine is the target: then what ONNX Runtime makes of the file counts too.

    Raises:
        ExportError: ONNX Runtime cannot open the file.
    """
    known = frozenset(layer.name for layer in layers(onnx.load_from_string(fp32), variant))
    wanted, kept = known - kept, known & kept  # a model of several graphs keeps layers of any of them
    held = {layer.name: layer.datatype for layer in layers(onnx.load_from_string(content), variant)}
    unlike = sorted(name for name in wanted if held.get(name) != _STORED[variant])
    stored = len(wanted) - len(unlike)
    if not run:
        return Proof(variant, len(wanted), stored, None, {}, tuple(unlike))
    try:
        optimised = optimise(content)
    except ExportError as error:
        raise ExportError(f"{error}: {no_kernel(variant)}") from error
    operators = Counter(node.op_type for node in optimised.graph.node)
    others = [name for name, half in _float_layers(optimised, variant) if not (variant == FP16 and half)]
    running = min(len(wanted), max(0, len(wanted) + len(kept) - len(others)))  # fused layers lose their names
    if variant == INT8:
        running = min(running, sum(operators[name] for name in INTEGER_OPERATORS))
    names = unlike or ([] if running == len(wanted) else sorted(wanted & set(others)) or sorted(wanted))
    floats = (node.name for node in optimised.graph.node if node.op_type in _FLOAT_OPERATORS)
    in_float = frozenset(floats if variant == INT8 else ())
    return Proof(variant, len(wanted), stored, running, dict(sorted(operators.items())), tuple(names), in_float)


def optimise(content: bytes) -> onnx.ModelProto:
    """The graph as ONNX Runtime runs it on this CPU.

    Raises:
        ExportError: it cannot open the file.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        try:
            ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise ExportError(f"ONNX Runtime cannot open it ({reason})") from error
        return onnx.load(options.optimized_model_filepath)


def no_kernel(variant: str) -> str:
    """What to do about an operator that cannot be run in a precision."""
    return (
        f"an operator has no kernel in this precision; keep its layer in FP32 (precision.{variant}.keep_fp32), or take "
        f"{variant} out of precision.variants"
    )


def _float_layers(model: onnx.ModelProto, variant: str) -> list[tuple[str, bool]]:
    """Name of each layer that runs in floating point, and whether in half precision.

    Where a CPU has no kernel for half precision, ONNX Runtime casts to float, weights beforehand.
    """
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    dequantised = {
        node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in types
    }
    found = []
    operators = _FLOAT_OPERATORS | frozenset(HALVED if variant == FP16 else ())
    for node in model.graph.node:
        names = (factors(node) if variant == FP16 else node.input[1:2]) if node.op_type in operators else ()
        if weights := [name for name in names if name in types or name in dequantised]:
            found.append((node.name, all(types.get(name) == onnx.TensorProto.FLOAT16 for name in weights)))
    return found
