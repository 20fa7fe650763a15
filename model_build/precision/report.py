"""What the gate has found of a model's variants, read from the manifest of its public name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model_build._errors import DataError
from model_build.config import load_config


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
    """Header and one line for each variant and target."""
    lines = [["variant", "target", "KiB", "speed", "max abs", "cosine", found["metric"], "FP32 layers", "verdict"]]
    for variant, targets in found["found"].items():
        for target, one in targets.items():
            examination = one.get("served") or one.get("in_process") or {}
            # Text has no distance: of such a model it is that of what was compared in process.
            far = (examination.get("distance") or one.get("in_process", {}).get("distance", {})).values()
            speed = one.get("speed")
            lines.append(
                [
                    variant,
                    target,
                    f"{one['bytes'] / 1024:.0f}",
                    f"{speed['ratio']:.2f}x ({speed['low']:.2f} to {speed['high']:.2f})" if speed else "-",
                    f"{max(each['max_abs'] for each in far):.2g}" if far else "-",
                    f"{min(each['cosine_mean'] for each in far):.4f}" if far else "-",
                    f"{examination['metric']:.4f}" if examination else "-",
                    str(len(one.get("kept_fp32", ()))) if "layers" in one else "-",
                    one["verdict"],
                ]
            )
    return lines


def notes(found: Mapping[str, Any]) -> list[str]:
    """Why each verdict is what it is, and what was chosen."""
    reasons = [
        f"{variant} on {target}: {one['reason']}"
        for variant, targets in found["found"].items()
        for target, one in targets.items()
        if one["reason"]
    ]
    return [*reasons, *(f"chosen on {target}: {variant}" for target, variant in found["chosen"].items())]
