"""Proof of precision on a GPU: in what each layer of the typed graph is computed by the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from model_build.engine.layers import FP16, FP32, INT8, EngineLayer
from model_build.precision.graph import layers

_STORED = {"FLOAT16": FP16, "INT8": INT8, "FLOAT": FP32}


@dataclass(frozen=True)
class Row:
    """One convolution or matrix product with constant weights.

    Attributes:
        layer: name of the ONNX node.
        wanted: the precision asked for.
        stored: that of its weights in the ONNX file.
        found: what the plan computes it in; empty where TensorRT does not say.
        by: names of the plan's layers that compute it.
        kernels: their kernels.
    """

    layer: str
    wanted: str
    stored: str
    found: tuple[str, ...]
    by: tuple[str, ...]
    kernels: tuple[str, ...]

    def __bool__(self) -> bool:
        return self.stored == self.wanted and set(self.found) == {self.wanted}

    def __str__(self) -> str:
        if self.stored != self.wanted:
            return f"{self.layer} (stored in {self.stored})"
        return f"{self.layer} ({' and '.join(self.found)})" if self.found else f"{self.layer} (not named in the plan)"


@dataclass(frozen=True)
class Proof:
    """True when the plan computes every layer in the precision that was asked for.

    Attributes:
        variant: what was asked for.
        rows: every layer.
        kept: names of those that were asked to stay in FP32.
    """

    variant: str
    rows: tuple[Row, ...]
    kept: frozenset[str]

    def __bool__(self) -> bool:
        return any(row.layer not in self.kept for row in self.rows) and all(self.rows)

    def __str__(self) -> str:
        wanted = [row for row in self.rows if row.layer not in self.kept]
        kept = len(self.rows) - len(wanted)
        more = f", {kept} kept in FP32" if kept else ""
        return f"{sum(map(bool, wanted))} of {len(wanted)} layers run in {self.variant.upper()}{more}"

    @property
    def reason(self) -> str:
        """Why it is false: the first layers, and what they are in."""
        if not self.rows:
            return (
                "the graph has no convolution or matrix product with constant weights, and of others nothing is proven"
            )
        if not any(row.layer not in self.kept for row in self.rows):
            return f"no layer is left in {self.variant.upper()}: all of them are kept in FP32"
        wrong = [str(row) for row in self.rows if not row]
        return f"{self}, not {', '.join(wrong[:3])}{', ...' if len(wrong) > 3 else ''}"

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        return {
            "precision": self.variant,
            "layers": len(self.rows),
            "kept_fp32": sorted(self.kept & {row.layer for row in self.rows}),
            "computed": {row.layer: {"in": list(row.found), "by": list(row.kernels)} for row in self.rows},
        }

    @property
    def lines(self) -> list[str]:
        """A line for each layer, for the log."""
        return [
            f"{'as asked' if row else 'REFUSED '} {row.layer}: asked {row.wanted}, stored {row.stored}, computed "
            f"{'/'.join(row.found) or 'nobody says'} by {'; '.join(row.by) or 'no layer'} ({'; '.join(row.kernels)})"
            for row in self.rows
        ]


def prove(variant: str, graph: onnx.ModelProto, kept: frozenset[str], plan: Sequence[EngineLayer]) -> Proof:
    """Compare a plan with the typed graph that it was built of.

    A layer that TensorRT does not name is not proven: whoever cannot see refuses.

    Args:
        variant: fp32, fp16 or int8.
        graph: what was built.
        kept: names of layers that were asked to stay in FP32.
        plan: the plan's layers.
    """
    rows = []
    for layer in layers(graph):
        wanted = FP32 if layer.name in kept else variant.upper()
        named = [one for one in plan if layer.name in one.onnx and not one.moves]
        # A node is named by whatever it was fused with; what multiplies is the node itself.
        by = [one for one in named if one.multiplies] or named
        found = dict.fromkeys(one.precision for one in by if one.precision is not None)
        stored = _STORED.get(layer.datatype, layer.datatype)
        names, kernels = tuple(one.name for one in by), tuple(one.tactic for one in by)
        rows.append(Row(layer.name, wanted, stored, tuple(found), names, kernels))
    return Proof(variant, tuple(rows), kept)
