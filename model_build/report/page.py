"""The report as one HTML file."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model_build.files import write_file
from model_build.pages import plots, render
from model_build.precision.report import notes, rows
from model_build.report.facts import Facts, machine, read_facts
from model_build.roofline.analysis import Roofline
from model_build.roofline.report import batch_rows, page_values, verdict

REPORT = "report.html"
_NAMES = {"loss": "Loss", "accuracy": "Accuracy"}


def write_report(
    workspace: Path, model: str, latency: Mapping[str, Any] | None, here: Roofline, cards: Sequence[Roofline] = ()
) -> Path:
    """Write `build/<model>/report.html`.

    Args:
        workspace: with the built model.
        model: its name.
        latency: of a request, in seconds: `requests`, `p50`, `p95`, `mean`, `stages` by name, and `models`, each with
            `model`, `requests`, `total` and `stages`; None for a model that was not asked.
        here: on this machine, measured.
        cards: on other devices.

    Raises:
        DataError: the model is not built.
    """
    facts = read_facts(workspace, model)
    path = facts.files.folder / REPORT
    write_file(path, _page(facts, latency, here, cards).encode())
    return path


def _page(facts: Facts, latency: Mapping[str, Any] | None, here: Roofline, cards: Sequence[Roofline]) -> str:
    found = facts.manifest.get("variants")
    return render(
        "report",
        title=f"{facts.files.model}: what was built",
        summary=_summary(facts),
        built=_built(facts),
        machine=machine(facts.files.model),
        variants=rows(found) if found else None,
        why=notes(found) if found else [],
        curves=[
            (_NAMES.get(name, name), plots.curves(parts, _NAMES.get(name, name)))
            for name, parts in facts.curves().items()
        ],
        training=_training(facts),
        latency=_latency(latency) if latency else None,
        roofline=page_values(here),
        cards=[(card.device.name, card.question.precision.upper(), verdict(card), batch_rows(card)) for card in cards],
        sizes=", ".join(f"{name} {size}" for name, size in here.question.shapes.items()),
        images=_images(facts),
        predictions=facts.predictions,
        examples=facts.metrics["examples"],
    )


def _summary(facts: Facts) -> str:
    gate = facts.manifest["gate"]
    chosen = facts.manifest.get("variants", {}).get("chosen", {})
    served = f"; served as {chosen['cpu'].upper()} on CPUs and {chosen['gpu'].upper()} on GPUs" if chosen else ""
    measured = f"{_metric(gate['metric'])} {gate['value']:.4g} on {gate['examples']:,} held-out examples"
    return f"{measured} (the gate asks for {gate['minimum']:g}){served}."


def _built(facts: Facts) -> list[tuple[str, str]]:
    manifest = facts.manifest
    git, data, target = manifest["git"], manifest["data"], manifest["target"]
    about = [
        ("commit", f"{git['commit'][:12]}{' with changes' if git['dirty'] else ''}"),
        ("data", f"{data['source']}, sha256 {data['sha256'][:12]}…"),
        ("seed", manifest["seed"]),
        ("for", f"Triton {target['triton']}, ONNX Runtime {target['onnxruntime']}"),
        ("made with", ", ".join(f"{tool} {version}" for tool, version in manifest["tools"].items())),
        ("page written", datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")),
    ]
    more = {name: value for name, value in facts.metrics.items() if name not in ("metric", "value", "examples")}
    measures = [
        (_metric(name), f"{value:.4g}" if isinstance(value, float) else str(value)) for name, value in more.items()
    ]
    return [(name, str(value)) for name, value in about] + measures


def _training(facts: Facts) -> str:
    training = facts.training
    if "best_epoch" not in training:
        known = ", ".join(
            f"{name.replace('_', ' ')} {value}" for name, value in training.items() if isinstance(value, str)
        )
        return f"Not trained here: {known}."
    return (
        f"{training['parameters']:,} parameters; the weights are those of epoch {training['best_epoch']} of "
        f"{len(training['curves'])}, the best on the validation part."
    )


def _latency(found: Mapping[str, Any]) -> dict[str, Any]:
    stages: Mapping[str, float] = found["stages"]
    header = ["model", "requests", "in the server, µs", *(f"{stage}, µs" for stage in found["models"][0]["stages"])]
    lines = [
        [one["model"], str(one["requests"]), _micro(one["total"]), *map(_micro, one["stages"].values())]
        for one in found["models"]
    ]
    return {
        "says": f"{found['requests']:,} golden requests one after the other over HTTP, on this machine: "
        f"half within {_milli(found['p50'])}, 95 % within {_milli(found['p95'])}.",
        "plot": plots.bars({name: seconds * 1e6 for name, seconds in stages.items()}, "µs"),
        "rows": [header, *lines],
    }


def _images(facts: Facts) -> list[tuple[str, str, str]]:
    """Name, image as a data URL, and what the model says of it, where the file's name is its class."""
    return [
        (Path(name).stem, f"data:image/png;base64,{base64.b64encode(content).decode()}", name)
        for name, content in facts.images.items()
    ]


def _metric(name: str) -> str:
    return {"bleu": "BLEU"}.get(name, name.replace("_", " "))


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:,.0f}"


def _milli(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
