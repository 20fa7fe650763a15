"""What the gate has found of a model's variants, read from the manifest of its public name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model_build._errors import DataError
from model_build.config import load_config
from model_build.precision.numbers import percent

METRIC_WIDTH = 8


def read_found(workspace: Path, model: str) -> dict[str, Any]:
    """The section `variants` of the model's manifest.

    Raises:
        ConfigurationError: there is no such model.
        DataError: it was not built, or has no variants.
    """
    load_config(workspace, model)
    path = workspace / "model_repository" / model / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
        found: dict[str, Any] = manifest["variants"]
        return found
    except FileNotFoundError as error:
        raise DataError(f"model '{model}' has no {path}: run `slipway build {model}`") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} says nothing of variants: it is served in one precision, or was built before there were others "
            f"(`slipway build {model}`)"
        ) from error


def rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Header and one line for each variant and target, 80 columns wide; what takes more room is in `notes`."""
    lines = [["variant", "target", "KiB", "speed", "max abs", "cosine", _metric(found), "FLOPs", "verdict"]]
    for variant, targets in found["found"].items():
        for target, one in targets.items():
            examination = one.get("served") or one.get("in_process") or {}
            far, cosines = (_distances(one, key) for key in ("max_abs", "cosine_mean"))
            speed, share = one.get("speed"), one.get("share")
            lines.append(
                [
                    variant,
                    target,
                    f"{one['bytes'] / 1024:.0f}",
                    f"{speed['ratio']:.2f}x" if speed else "-",
                    f"{max(far):.2g}" if far else "-",
                    f"{min(cosines):.4f}" if cosines else "-",
                    f"{examination['metric']:.4f}" if examination else "-",
                    percent(share["flops"]) if share else "-",
                    one["verdict"],
                ]
            )
    return lines


def notes(found: Mapping[str, Any]) -> list[str]:
    """What each variant holds and how fast it is, why each verdict is what it is, and what was chosen."""
    lines = [] if _metric(found) == found["metric"] else [f"metric: {found['metric']}"]
    for variant, targets in found["found"].items():
        for target, one in targets.items():
            lines += [f"{variant} on {target}: {sentence}" for sentence in _sentences(variant, one)]
    return [*lines, *(f"chosen on {target}: {variant}" for target, variant in found["chosen"].items())]


def _distances(one: Mapping[str, Any], key: str) -> list[float]:
    """Of the outputs that have it; text has no distance, and of such a model it is that of what was compared here."""
    for way in ("served", "in_process"):
        if values := [each[key] for each in one.get(way, {}).get("distance", {}).values() if key in each]:
            return values
    return []


def _sentences(variant: str, one: Mapping[str, Any]) -> list[str]:
    parts = []
    if share := one.get("share"):
        weights, flops = percent(share["weights"]), percent(share["flops"])
        parts.append(f"{weights} of the products' weights and {flops} of their FLOPs are in {variant.upper()}")
    if kept := one.get("kept_fp32"):
        parts.append(f"{len(kept)} layer{'s' if len(kept) > 1 else ''} kept in FP32")
    if speed := one.get("speed"):
        parts.append(f"{speed['low']:.2f} to {speed['high']:.2f} times as fast as FP32")
    return [text for text in (", ".join(parts), one["reason"]) if text]


def _metric(found: Mapping[str, Any]) -> str:
    """The metric's name where the column has room for it."""
    name = str(found["metric"])
    return name if len(name) <= METRIC_WIDTH else "metric"
