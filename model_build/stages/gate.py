"""Stage gate: nothing goes on that lost accuracy, or that is not the precision that it says.

The one part of model_build that asks a server: what would be served is put into a repository of its own, served by
the embedded Triton and asked with slipway_client.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import slipway_client

import serving
from model_build import tracking
from model_build._errors import BuildError, DataError, GateRefused
from model_build.config import ModelConfig, ServedConfig
from model_build.files import sha256
from model_build.precision.possible import keeping
from model_build.precision.proof import Proof
from model_build.precision.trial import NAMED_LAYERS, Made, Trial
from model_build.precision.variants import CPU, FP16, FP32, GPU, INT8, TARGETS, of_both, served_name
from model_build.precision.verdict import NOT_FOR_TARGET, NOT_MEASURED, PASSES, Examination, Verdict, best
from model_build.recipe import Array, Recipe, ServedModel, Variable, load_recipe
from model_build.stages import staging
from model_build.stages.layout import STAGED_BASE, BuildFiles
from model_build.stages.variants import read_variant
from model_build.triton_config import LABELS_FILE, routed

START_TIMEOUT, ANSWER_TIMEOUT = 180.0, 120.0  # seconds
Verdicts = dict[str, dict[str, Verdict]]  # by variant, by target


def run(workspace: Path, config: ModelConfig) -> str:
    """Put what passes into `build/<model>/staged/`; return a line with the scores.

    Raises:
        GateRefused: the held-out metric is below `gate.minimum`, or a variant lost more than it may, or is not in the
            precision that it is named for; nothing was written.
        BuildError: the embedded Triton does not serve it.
    """
    assert isinstance(config, ServedConfig)  # dvc.yaml has this stage for no other
    files = BuildFiles(workspace, config.name)
    recipe = load_recipe(config)
    metrics = _metrics(files)
    with tracking.resumed_run(workspace, config.name, sha256(files.weights)) as mlflow:
        _refuse_below(metrics, config)
        plan = _plan_variants(recipe, files) if isinstance(recipe, Variable) else _plan_alone(recipe, files)
        for model in plan.exported:
            staging.log_graphs(mlflow, model)
        with staging.Staging(files, recipe, metrics) as stage:
            stage.write(plan.groups, config.name, plan.to_json())
            _ask_server(workspace, recipe, stage.folder, plan)
            stage.write(plan.groups, config.name, plan.to_json())
            metric = plan.trial.recipe.variant_metric if plan.trial else ""
            for variant, targets in plan.verdicts.items():
                for one in targets[CPU].examinations:
                    way = one.way.replace(" ", "_")
                    mlflow.log_metric(f"test_{variant}_{metric}_{way}", one.metric)
            stage.publish()
    said = f"{plan.said}{plan.noted}"
    return f"held-out {metrics['metric']} {metrics['value']:.4f} (gate {config.gate.minimum:g}){said}"


@dataclass
class Plan:
    """What would be served: folders by the stage that writes them, and for variants what was found and chosen.

    `exported` are those that hold the graphs as they were exported.
    """

    exported: Sequence[ServedModel]
    groups: Mapping[str, Sequence[ServedModel]]
    verdicts: Verdicts
    chosen: Mapping[str, str]
    trial: Trial | None = None

    def to_json(self) -> dict[str, Any] | None:
        """For the manifest of the public name."""
        if self.trial is None:
            return None
        found = {variant: {t: one.to_json() for t, one in by.items()} for variant, by in self.verdicts.items()}
        return {
            "metric": self.trial.recipe.variant_metric,
            "chosen": dict(self.chosen),
            "machine": _machine(),
            "found": found,
        }

    @property
    def said(self) -> str:
        """For the stage's line."""
        if self.trial is None:
            return ""
        parts = []
        for variant in self.verdicts:
            one = self.verdicts[variant][CPU]
            speed = f" {one.speed.ratio:.1f}x" if one.speed and variant != FP32 else ""
            parts.append(f"{variant}{':' * (one.verdict == NOT_FOR_TARGET)} {one.verdict}{speed}")
        return f"; on this CPU: {', '.join(parts)}; routed to {self.chosen[CPU]}"

    @property
    def noted(self) -> str:
        """For the stage's line: what was decided of how folders are served, and why."""
        names: dict[str, list[str]] = {}
        for model in (model for group in self.groups.values() for model in group if model.note):
            names.setdefault(model.note, []).append(model.name)
        return "".join(f"; {', '.join(models)}: {note}" for note, models in names.items())


def _plan_alone(recipe: Recipe[Any], files: BuildFiles) -> Plan:
    models = recipe.serve(files)
    return Plan(models, {STAGED_BASE: models}, {}, {})


def _plan_variants(recipe: Variable[Any], files: BuildFiles) -> Plan:
    """Prove and compare each variant in this process, time it, and choose."""
    config = recipe.config
    trial = Trial(recipe, files)
    exported = recipe.graphs(files)
    fp32, size = of_both(exported), sum(map(len, exported.values()))
    verdicts: Verdicts = {
        FP32: {CPU: Verdict(PASSES, "what the others are compared with", size)}
        | {GPU: Verdict(PASSES, "what a target that was not measured is served", size)}
    }
    models, graphs = {FP32: recipe.serve(files, FP32, fp32)}, {FP32: fp32}
    for variant in config.precision.variants:
        made = read_variant(files, recipe, variant)
        verdicts[variant] = _verdicts(trial, variant, made)
        models[variant], graphs[variant] = recipe.serve(files, variant, made.graphs), made.graphs
    chosen = {target: best({name: by[target] for name, by in verdicts.items()}) for target in TARGETS}
    answering = {variant: found[-1] for variant, found in models.items()}
    labels = {LABELS_FILE: answering[FP32].files[LABELS_FILE]} if LABELS_FILE in answering[FP32].files else {}
    targets = {target: answering[variant] for target, variant in chosen.items()}
    public = recipe.public(files, {target: graphs[variant] for target, variant in chosen.items()}) or [
        routed(config.name, config.triton, targets, answering[FP32], labels)
    ]
    loss = max((config.precision.of(one).max_abs for one in chosen.values() if one != FP32), default=0.0)
    shared = {model.name for model in models[FP32]}
    groups = {
        variant: [_within(model, config.precision.of(variant).max_abs) for model in found if model.name not in shared]
        for variant, found in models.items()
        if variant != FP32
    }
    # The public name promises FP32's answer, within what the variant that gives it may be off.
    base = [*models[FP32], *(_within(model, loss) for model in public)]
    return Plan(models[FP32], {STAGED_BASE: base, **groups}, verdicts, chosen, trial)


def _within(model: ServedModel, loss: float) -> ServedModel:
    """The model, whose answer may be off by so much; text, and what is counted of it, is equal or not."""
    real = any(array.dtype.kind == "f" for array in model.outputs.values())
    return replace(model, atol=loss) if loss and real else model


def _verdicts(trial: Trial, variant: str, made: Made) -> dict[str, Verdict]:
    """By target."""
    if trial.recipe.runs_on_gpus:
        return {target: _verdict(trial, variant, target, made) for target in TARGETS}
    here = _verdict(trial, variant, CPU, made)
    reason = "a Python model computes it on the CPU of the machine with the GPU, which was not asked"
    return {CPU: here, GPU: replace(here, verdict=NOT_MEASURED, reason=reason, speed=None)}


def _verdict(trial: Trial, variant: str, target: str, made: Made) -> Verdict:
    """In this process: both forms are computed here; what only a GPU shows was not measured."""
    proof = trial.proof(variant, target, made.graphs, made.kept)
    foreign = variant == FP16 and target == CPU and proof.stored == proof.layers > 0
    if not proof and not foreign:
        raise _refused(trial, variant, [proof.reason], _keep(trial, variant, proof, made.kept), None)
    if too_little := trial.too_little(variant, proof.share):
        remedy = f"lower precision.{variant}.min_share, or {_without(variant)}"
        raise _refused(trial, variant, [too_little], remedy, None)
    forms = {name: graph.forms[target] for name, graph in made.graphs.items()}
    examination = trial.in_process(variant, forms, target)
    if not examination:
        raise _refused(
            trial, variant, examination.losses, _remedy(trial, variant), trial.blame(made.graphs, target, made.kept)
        )
    size = sum(len(content) for content in forms.values())
    if foreign and not proof:
        return Verdict(NOT_FOR_TARGET, proof.reason, size, proof, (examination,), kept=made.kept)
    if target == GPU:
        reason = "no GPU was asked: the file's precision is proven, its accuracy was computed on the CPU"
        return Verdict(NOT_MEASURED, reason, size, proof, (examination,), kept=made.kept)
    reason = "; ".join(examination.doubts)
    return Verdict(PASSES, reason, size, proof, (examination,), trial.speed(made.graphs), made.kept)


def _keep(trial: Trial, variant: str, proof: Proof, kept: Sequence[str]) -> str:
    """What to do about layers that are not in their precision."""
    name = trial.recipe.config.name
    if len(proof.left) == proof.layers:  # nothing would be left in it
        other_file = f"build it again (`slipway build {name} --force`), or " if not proof.stored else ""
        return other_file + _without(variant)
    names = [*kept, *proof.left] if len(proof.left) <= NAMED_LAYERS else ["LAYER"]
    return f"keep those layers in FP32 ({keeping(name, variant, names)}), or {_without(variant)}"


def _remedy(trial: Trial, variant: str) -> str:
    """What can be done about a loss, and has not been."""
    ways = []
    if variant == INT8:
        ways.append("calibrate on inputs like the held-out ones")
    if not trial.allowed(variant).automatic:
        name = trial.recipe.config.name
        ways.append(
            f"keep these layers in FP32 (`slipway build {name} precision.{variant}.keep_fp32=[LAYER]`, or "
            f"`slipway build {name} precision.{variant}.automatic=true`)"
        )
    return ", ".join([*ways, f"allow it more in precision.{variant}", f"or {_without(variant)}"])


def _without(variant: str) -> str:
    return f"take {variant} out of precision.variants"


def _refused(trial: Trial, variant: str, losses: Sequence[str], remedy: str, layers: str | None) -> GateRefused:
    worst = f"; {layers}" if layers else ""
    return GateRefused(
        f"variant {variant} of {trial.recipe.config.name} is refused: {'; '.join(losses)}{worst}: model_repository/ "
        f"was not changed; {remedy}"
    )


def _ask_server(workspace: Path, recipe: Recipe[Any], repository: Path, plan: Plan) -> None:
    """Serve the staged repository, and ask each variant for all of the recipe's requests."""
    options = serving.ServerOptions.on_free_ports(repository)
    log = workspace / "build" / recipe.config.name / "gate-triton.log"
    try:
        with serving.EmbeddedTriton(serving.find_interpreter(workspace), options, log) as server:
            server.wait_ready(START_TIMEOUT)
            if plan.trial is None:
                return
            with slipway_client.Client(options.grpc_url, timeout=ANSWER_TIMEOUT) as client:
                for variant in plan.verdicts:
                    print(f"asking {served_name(recipe.config.name, variant)}", file=sys.stderr, flush=True)
                    examination = _served(plan.trial, client, variant)
                    found = plan.verdicts[variant]
                    found[CPU] = replace(found[CPU], examinations=(*found[CPU].examinations, examination))
    except serving.GoldenMismatch as error:
        raise GateRefused(
            f"{error.found}, as this process computed it from the same files: raise gate.golden_atol where that is "
            "near enough, else look for what an answer depends on beside its inputs (chance, time, threads, "
            "packages that the server has in another version); model_repository/ was not changed"
        ) from error
    except (serving.ServingError, slipway_client.TritonError) as error:
        raise BuildError(f"{error}; model_repository/ was not changed") from error


def _served(trial: Trial, client: slipway_client.Client, variant: str) -> Examination:
    model = client.model(served_name(trial.recipe.config.name, variant))
    names = [output.name for output in model.spec.outputs if output.name in trial.reference]
    answers = [model.infer(request, outputs=names) for request in trial.recipe.requests(trial.files)]
    examination = trial.judge("served", variant, {name: joined([answer[name] for answer in answers]) for name in names})
    if not examination:
        losses = [f"served, {loss}" for loss in examination.losses]
        remedy = "in process it passed: look for what an answer depends on beside its inputs (chance, time, threads, "
        remedy += "other examples in its batch, packages that the server has in another version)"
        raise _refused(trial, variant, losses, remedy, None)
    return examination


def joined(parts: Sequence[Array]) -> Array | list[Array]:
    """Answers to requests as one array `[n, ...]`; as they are where they have no such form, or their sizes vary."""
    alike = all(part.ndim and part.shape[1:] == parts[0].shape[1:] for part in parts)
    return np.concatenate(parts) if parts and alike else list(parts)


def _machine() -> str:
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {len(names)} processors"


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def _metrics(files: BuildFiles) -> dict[str, Any]:
    try:
        metrics: dict[str, Any] = json.loads(files.metrics.read_bytes())
        return {**metrics, "metric": str(metrics["metric"]), "value": float(metrics["value"])}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{files.metrics} is not what stage infer writes ({error!r}): run `dvc repro`") from error


def _refuse_below(metrics: Mapping[str, Any], config: ServedConfig) -> None:
    if not metrics["value"] >= config.gate.minimum:
        raise GateRefused(
            f"held-out {metrics['metric']} {metrics['value']:.4f} is below gate.minimum {config.gate.minimum:g}: "
            "model_repository/ was not changed; train longer or on more data"
        )
