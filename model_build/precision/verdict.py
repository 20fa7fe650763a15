"""What the gate says of a variant on a target, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from model_build.config.schema import VariantConfig
from model_build.precision.distance import Distance
from model_build.precision.proof import Proof
from model_build.precision.variants import FP32

PASSES, REFUSED, NOT_FOR_TARGET, NOT_MEASURED = "passes", "refused", "not for this target", "not measured"


@dataclass(frozen=True)
class Examination:
    """Answers of a variant beside FP32's, of one way to ask it; true when nothing is lost beyond what is allowed.

    Attributes:
        way: "in process" or "served".
        metric: the task's metric of the variant.
        reference: the same of FP32.
        distances: by output.
        losses: what is lost beyond what is allowed, one sentence each.
    """

    way: str
    metric: float
    reference: float
    distances: Mapping[str, Distance]
    losses: tuple[str, ...]

    def __bool__(self) -> bool:
        return not self.losses

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        far = {name: {"max_abs": found.max_abs, "cosine_mean": found.cosine} for name, found in self.distances.items()}
        return {"metric": self.metric, "fp32": self.reference, "distance": far}


def examine(
    way: str,
    metric_name: str,
    metric: float,
    reference: float,
    found: Mapping[str, Distance],
    allowed: VariantConfig,
    variant: str,
) -> Examination:
    """Compare with what `precision.<variant>` allows; what is not a number is a loss."""
    key, losses = f"precision.{variant}", []
    if not reference - metric <= allowed.max_drop:
        losses.append(
            f"{metric_name} is {metric:.4f} where FP32 has {reference:.4f} ({key}.max_drop {allowed.max_drop:g})"
        )
    for name, distance in found.items():
        if not distance.max_abs <= allowed.max_abs:
            losses.append(f"'{name}' is off by {distance.max_abs:.3g} ({key}.max_abs {allowed.max_abs:g})")
        if not distance.cosine >= allowed.min_cosine:
            losses.append(
                f"'{name}' has cosine {distance.cosine:.4f} with FP32's ({key}.min_cosine {allowed.min_cosine:g})"
            )
    return Examination(way, metric, reference, found, tuple(losses))


@dataclass(frozen=True)
class Speed:
    """How many times as fast as FP32, in alternating rounds in this process: median, smallest, largest."""

    ratio: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """For the manifest."""
        return {"ratio": round(self.ratio, 3), "low": round(self.low, 3), "high": round(self.high, 3)}


@dataclass(frozen=True)
class Verdict:
    """On one target.

    Attributes:
        verdict: PASSES, NOT_FOR_TARGET or NOT_MEASURED; a variant that is refused has none, for nothing is written.
        reason: one sentence.
        proof: what the file holds and what runs.
        examinations: by the way that was asked.
        speed: None where it was not measured.
        size: bytes of the graphs.
    """

    verdict: str
    reason: str
    size: int
    proof: Proof | None = None
    examinations: tuple[Examination, ...] = ()
    speed: Speed | None = None
    kept: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        content: dict[str, Any] = {"verdict": self.verdict, "reason": self.reason, "bytes": self.size}
        if self.proof is not None:
            proof = self.proof
            content |= {"layers": proof.layers, "stored": proof.stored, "running": proof.running}
            content |= {"operators": dict(proof.operators), "kept_fp32": [*self.kept]}
        content |= {one.way.replace(" ", "_"): one.to_json() for one in self.examinations}
        return content | ({"speed": self.speed.to_json()} if self.speed else {})


def best(verdicts: Mapping[str, Verdict], least_gain: float = 1.1) -> str:
    """The fastest variant that passes on a target; FP32 where none is clearly faster, or nothing was measured.

    Args:
        verdicts: by variant.
        least_gain: how many times as fast as FP32 a variant must be in its median round, and in none of them slower:
            one that is tied with FP32 is not worth its loss, and which of the two wins would change with each build.
    """
    faster = {
        variant: one.speed.ratio
        for variant, one in verdicts.items()
        if one.verdict == PASSES and one.speed and one.speed.ratio >= least_gain and one.speed.low > 1
    }
    return max(faster, key=lambda variant: faster[variant]) if faster else FP32
