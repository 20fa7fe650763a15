r"""TensorRT's layer information, as trtexec and the engine inspector write it at detailed verbosity.

{"Layers": [{"Name": "node_conv2d + node_relu", "LayerType": "CaskConvolution", "TacticName": "sm80_xmma_fprop_...",
"Inputs": [{"Name": ..., "Format/Datatype": "Half"}], "Outputs": [...], "Weights": {"Type": "Half", "Count": 72},
"Metadata": "[ONNX Layer: node_conv2d]\x1f[ONNX Layer: node_relu]"}, ...]}

Seen in NVIDIA/TensorRT#4020, #3737 and #4397. Datatypes are words (`Half`) or sentences ("Channel major FP16 format
where channel % 8 == 0"), under "Format/Datatype" or, in newer ones, "Datatype"; \x1f stands in strings as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_build.engine._errors import EngineFailed

FP8, INT8, TF32, BF16, FP16, FP32 = "FP8", "INT8", "TF32", "BF16", "FP16", "FP32"
_NARROWEST = (FP8, INT8, BF16, FP16, FP32)
# Kernels' names: sm80_xmma_gemm_i8i8_i8i32_f32, ampere_h16816gemm, sm80_xmma_gemm_f32f32_tf32f32_f32. INT8 kernels
# name the FP32 that they scale in, and TF32 kernels the FP32 that they read: the first that fits counts.
_KERNELS = (
    (FP8, re.compile(r"e4m3|e5m2|fp8")),
    (INT8, re.compile(r"i8i8|i8f|i8816|i16832|imma|int8")),
    (TF32, re.compile(r"tf32")),
    (BF16, re.compile(r"bf16")),
    (FP16, re.compile(r"f16f16|h16816|h1688|h884|s16816|hmma|hgemm|fp16")),
    (FP32, re.compile(r"f32f32|sgemm|ffma|fp32")),
)
_DATATYPES = (
    (FP8, re.compile(r"fp8|float8|e4m3")),
    (INT8, re.compile(r"\bint8\b")),
    (BF16, re.compile(r"bf16|bfloat16")),
    (FP16, re.compile(r"fp16|half|float16")),
    (FP32, re.compile(r"fp32|\bfloat\b|float32")),
)
_MULTIPLIES = re.compile(r"conv|gemm|matmul|matrixmult|fullyconnected|fprop|xmma|cutlass|mma|winograd|myl_fc")
_MOVES = frozenset(("reformat", "noop", "constant", "shuffle", "signal", "wait"))
_ONNX = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_SUFFIX = re.compile(r"_myl\d+_\d+$")  # Myelin numbers its layers
_JOINTS = re.compile(r" \+ | \|\| |\+")


@dataclass(frozen=True)
class EngineLayer:
    """One layer of a plan.

    Attributes:
        name: TensorRT's.
        onnx: names of the ONNX nodes that it computes.
        tactic: name of its kernel.
        precision: what it multiplies, None where nothing says it.
        multiplies: whether its type or its kernel is that of a convolution or matrix product.
        moves: whether it only copies.
    """

    name: str
    onnx: frozenset[str]
    tactic: str
    precision: str | None
    multiplies: bool
    moves: bool


def read_layers(path: Path) -> list[EngineLayer]:
    """The layers of a plan.

    Raises:
        EngineFailed: the file is not layer information, or has names alone.
    """
    try:
        found = json.loads(path.read_text(errors="replace"), strict=False)["Layers"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineFailed(f"{path.name} is not TensorRT's layer information ({error!r}): nothing is proven") from error
    if not found or not all(isinstance(layer, dict) for layer in found):
        raise EngineFailed(f"{path.name} holds names of layers alone: it was not built with detailed verbosity")
    return [_layer(layer) for layer in found]


def _layer(layer: Mapping[str, Any]) -> EngineLayer:
    name, kind, tactic = (str(layer.get(key, "")) for key in ("Name", "LayerType", "TacticName"))
    named = _ONNX.findall(str(layer.get("Metadata", ""))) or [_SUFFIX.sub("", part) for part in _JOINTS.split(name)]
    multiplies = _MULTIPLIES.search(f"{kind} {tactic}".lower()) is not None
    return EngineLayer(name, frozenset(named), tactic, _precision(layer, tactic), multiplies, kind.lower() in _MOVES)


def _precision(layer: Mapping[str, Any], tactic: str) -> str | None:
    """What the kernel's name says, else the weights' type, else the narrowest of the inputs.

    Inputs come last: a fused layer takes what it quantises itself, and sums that stay in FP32.
    """
    weights = layer.get("Weights")
    weight = str(weights.get("Type", "")) if isinstance(weights, Mapping) else ""
    inputs = {
        _first(_DATATYPES, _datatype(tensor)) for tensor in layer.get("Inputs", ()) if isinstance(tensor, Mapping)
    }
    narrowest = next((one for one in _NARROWEST if one in inputs), None)
    return _first(_KERNELS, tactic) or _first(_DATATYPES, weight) or narrowest


def _datatype(tensor: Mapping[str, Any]) -> str:
    return next(
        (str(tensor[key]) for key in ("Format/Datatype", "Datatype", "DataType", "Format") if key in tensor), ""
    )


def _first(table: tuple[tuple[str, re.Pattern[str]], ...], text: str) -> str | None:
    return next((name for name, pattern in table if pattern.search(text.lower())), None)
