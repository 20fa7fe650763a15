"""What the gate says of a variant on a target, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from model_build.config.schema import VariantConfig
from model_build.precision.distance import Distance
from model_build.precision.proof import Proof
from model_build.precision.variants import FP32

PASSES, REFUSED, NOT_FOR_TARGET, NOT_MEASURED = "passes", "refused", "GPUs only", "not measured"


@dataclass(frozen=True)
class Examination:
    """Answers of a variant beside FP32's, of one way to ask it; true when nothing is lost beyond what is allowed.

    Attributes:
        way: "in process" or "served".
        metric: the task's metric of the variant.
        reference: the same of FP32.
        distances: by output.
        losses: what is lost beyond what is allowed, one sentence each.
        doubts: what would be, if more examples said so, one sentence each.
    """

    way: str
    metric: float
    reference: float
    distances: Mapping[str, Distance]
    losses: tuple[str, ...]
    doubts: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return not self.losses

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        far = {name: found.to_json() for name, found in self.distances.items()}
        return {"metric": self.metric, "fp32": self.reference, "distance": far}


def examine(
    way: str,
    metric_name: str,
    metric: float,
    reference: float,
    found: Mapping[str, Distance],
    allowed: VariantConfig,
    variant: str,
    *,
    examples: int,
    span: float = 1.0,
    counts: bool = True,
) -> Examination:
    """Compare with what `precision.<variant>` allows; what is not a number is a loss.

    Args:
        way: "in process" or "served".
        metric_name: the task's, for messages.
        metric: of the variant.
        reference: of FP32.
        found: distances by output.
        allowed: what may be lost.
        variant: its name.
        examples: how many the metric was measured on.
        span: largest value of the metric less the smallest.
        counts: whether the metric is the share of examples that are right.
    """
    losses, doubts = [], []
    drop = reference - metric
    if not drop <= allowed.max_drop:
        most_drop = limit(variant, "max_drop", allowed.max_drop)
        said = f"{metric_name} is {metric:.4f} where FP32 has {reference:.4f} ({most_drop})"
        counted = counts and _are_counts(metric, reference, examples, span)
        least = least_drop(drop / span, examples, counts=counted) * span
        if least <= allowed.max_drop:
            doubts.append(f"{said}; {examples} examples make sure of a drop of {least:.2g} alone, with 95% confidence")
        else:
            losses.append(said)
    most = math.sqrt(2 - 2 * allowed.min_cosine)  # the distance of two vectors of length 1 that have this cosine
    for name, distance in found.items():
        # FP32's own rounding is a share of what it rounds, and no setting is for it.
        scale = max(1.0, distance.largest) if variant == FP32 else 1.0
        if distance.max_abs is not None and not distance.max_abs <= allowed.max_abs * scale:
            most_abs = limit(variant, "max_abs", allowed.max_abs * scale)
            losses.append(f"'{name}' is off by {distance.max_abs:.3g} ({most_abs})")
        least_cosine = limit(variant, "min_cosine", allowed.min_cosine)
        if distance.cosine is not None and not distance.cosine >= allowed.min_cosine:
            losses.append(f"'{name}' has cosine {distance.cosine:.4f} with FP32's ({least_cosine})")
        if distance.relative is not None and not distance.relative <= most:
            losses.append(
                f"'{name}' is off by {distance.relative:.0%} of its size ({least_cosine}, which is {most:.0%} for one "
                "number)"
            )
    return Examination(way, metric, reference, found, tuple(losses), tuple(doubts))


def limit(variant: str, setting: str, value: float) -> str:
    """What may be lost, by its setting; FP32 is what the others are compared with, and has none."""
    if variant == FP32:
        return f"FP32's own answers may differ by no more: {setting} {value:g}"
    return f"precision.{variant}.{setting} {value:g}"


def _are_counts(metric: float, reference: float, examples: int, span: float) -> bool:
    """Whether both are a whole number of examples: a recipe may say so of a metric that is something else."""
    numbers = [value / span * examples for value in (metric, reference)]
    return all(math.isfinite(one) and abs(one - round(one)) < 1e-6 for one in numbers)


def least_drop(drop: float, examples: int, *, counts: bool = True) -> float:
    """The drop that is certain, with 95% confidence, where so many examples show one of `drop`; a share, of 1.

    The exact one-sided bound of C. J. Clopper and E. S. Pearson, "The Use of Confidence or Fiducial Limits Illustrated
    in the Case of the Binomial", Biometrika 26 (1934), 404 to 413, for `drop * examples` that became wrong and none
    that became right. Had some become right, as many more would have become wrong, and less would be certain: this is
    the strictest reading of the drop, and it needs no answer of a single example. With more examples the bound nears
    the drop itself: where 1% may be lost, 2 of 80 examples may, and of 100,000 not many more than 1%.

    A metric that does not count examples (BLEU, a correlation, a mean of reciprocal ranks) has no such bound, and may
    vary far less than a share does: of its drop, what one example can be worth is uncertain, and no more.

    Args:
        drop: a share, of the metric's range.
        examples: how many.
        counts: whether the metric is a share of the examples.

    Returns:
        NaN where the drop is not a number.
    """
    from scipy.special import betaincinv  # takes a moment, and few variants lose so much

    if not drop > 0 or not examples:
        return drop
    if not counts:
        return 0.0 if drop <= 1 / examples else drop
    lost = min(drop, 1.0) * examples
    return float(betaincinv(lost, examples - lost + 1, 0.05))


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
            if proof.share is not None:
                content["share"] = {"weights": round(proof.share.weights, 4), "flops": round(proof.share.flops, 4)}
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
