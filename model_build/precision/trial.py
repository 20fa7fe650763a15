"""A variant of a whole model: made, proven and compared in this process; layers are kept in FP32 until it passes."""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx
import onnxruntime as ort

from model_build._errors import ConfigurationError, ExportError
from model_build.config.schema import VariantConfig
from model_build.onnx_export import as_written
from model_build.precision.distance import BEYOND, LayerError, distances, layer_errors
from model_build.precision.graph import Layer, layers, prepared, without_layers
from model_build.precision.making import Maker
from model_build.precision.possible import check_survives
from model_build.precision.proof import Proof, no_kernel, prove
from model_build.precision.share import Share, inside, products, share
from model_build.precision.variants import CPU, FP16, FP32, INT8, TARGETS, Graphs, of_both
from model_build.precision.verdict import Examination, Speed, examine
from model_build.recipe import Answers, Variable
from model_build.stages.layout import BuildFiles

NAMED_LAYERS = 5  # of the worst, in a message
GOOD_DB = 30.0  # a layer with less noise than this is not what loses an answer
ROUNDS, ROUND_SECONDS = 9, 0.1
AS_FP32 = VariantConfig(max_abs=0.001, min_cosine=0.9999, max_drop=0.001)  # what batches of another size may change


class Trial:
    """Everything that is measured in process of one model's variants; FP32's answers are computed once."""

    def __init__(self, recipe: Variable[Any], files: BuildFiles) -> None:
        self.recipe, self.files = recipe, files
        self.fp32 = {name: prepared(content) for name, content in recipe.graphs(files).items()}
        self.evaluation = recipe.evaluation(files)
        self.reference = recipe.answer(files, self.fp32)
        self.reference_metric = recipe.judge(files, self.reference, self.reference)
        self.models = {name: onnx.load_from_string(content) for name, content in self.fp32.items()}
        self.products = [
            one for name, content in self.fp32.items() for one in products(name, content, self.evaluation[name][0])
        ]
        self.examples = sum(len(next(iter(request.values()))) for request in recipe.requests(files))

    def allowed(self, variant: str) -> VariantConfig:
        """What the configuration lets it lose."""
        if variant == FP32:
            low, high = self.recipe.metric_range
            return replace(AS_FP32, max_drop=AS_FP32.max_drop * (high - low))
        allowed: VariantConfig = self.recipe.config.precision.of(variant)
        return allowed

    def layers(self, variant: str) -> dict[str, list[Layer]]:
        """Of each graph, what could be in `variant`."""
        return {name: layers(model, variant) for name, model in self.models.items()}

    def check_kept(self, variant: str) -> None:
        """Raise a ConfigurationError where `keep_fp32` names a layer that there is not."""
        known = [layer.name for found in self.layers(variant).values() for layer in found]
        if unknown := sorted(set(self.allowed(variant).keep_fp32) - set(known)):
            raise ConfigurationError(
                f"precision.{variant}.keep_fp32 names {', '.join(unknown)}: expected layers of the model, which has "
                f"{', '.join(known)}"
            )

    def impossible(self, variant: str) -> str | None:
        """Why no file of this model can be the variant, before one is made; None where one can."""
        if reason := without_layers(self.models, variant):
            return reason
        named = {(graph, layer.name) for graph, found in self.layers(variant).items() for layer in found}
        able = [
            one
            for one in self.products
            if one.name not in self.allowed(variant).keep_fp32
            and (variant == FP16 or (one.graph, one.name) in named or (one.operator == "MatMul" and not one.weights))
        ]
        return self.too_little(variant, share(self.products, able), "could be")

    def too_little(self, variant: str, found: Share | None, verb: str = "are") -> str | None:
        """That less than `min_share` is in the variant's precision; None where enough is."""
        least = self.allowed(variant).min_share
        if found is None or found.least >= least:
            return None
        others = ", ".join(map(str, found.others[:3])) + (", ..." if len(found.others) > 3 else "")
        return (
            f"no more than {found} of its products {verb} in {variant.upper()} (precision.{variant}.min_share "
            f"{least:g}), not {others}"
        )

    def judge(self, way: str, variant: str, answers: Answers) -> Examination:
        """Compare answers to the recipe's requests with FP32's."""
        metric = self.recipe.judge(self.files, answers, self.reference)
        found = distances({output: self.reference[output] for output in answers}, answers)
        low, high = self.recipe.metric_range
        return examine(
            way,
            self.recipe.variant_metric,
            metric,
            self.reference_metric,
            found,
            self.allowed(variant),
            variant,
            examples=self.examples,
            span=high - low,
            counts=self.recipe.counts_examples,
        )

    def in_process(self, variant: str, contents: Mapping[str, bytes], target: str = CPU) -> Examination:
        """Answer the recipe's requests here as `target` would: for a GPU not by this CPU's integer operators."""
        try:
            with as_written() if target != CPU else contextlib.nullcontext():
                answers = self.recipe.answer(self.files, contents)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise ExportError(f"variant {variant} cannot be run ({reason}): {no_kernel(variant)}") from error
        return self.judge("in process", variant, answers)

    def check_survives(self, variant: str, made: Made) -> None:
        """Raise an ExportError where ONNX Runtime dies of a graph that was made."""
        config = self.recipe.config
        for name, graph in made.graphs.items():
            for content in {graph.cpu, graph.gpu}:
                feed = self.evaluation[name][0]
                check_survives(config.name, config.precision.variants, variant, name, content, feed)

    def proof(self, variant: str, target: str, graphs: Graphs, kept: Collection[str]) -> Proof:
        """Of the graphs together."""
        proofs, names = [], set()
        for name, graph in graphs.items():
            content = graph.forms[target]
            proof = prove(variant, self.fp32[name], content, frozenset(kept), run=target == CPU)
            proofs.append(proof)
            names |= {(name, one) for one in inside(content, variant) - proof.in_float}
        there = [one for one in self.products if (one.graph, one.name) in names]
        together = proofs[0] if len(proofs) == 1 else _together(proofs)
        return replace(together, share=share(self.products, there))

    def worst_layers(self, name: str, content: bytes, kept: Collection[str]) -> list[LayerError]:
        """Of one graph, those that are kept left out."""
        found = layer_errors(self.fp32[name], content, self.evaluation[name])
        return [error for error in found if error.layer.name not in kept]

    def blame(self, graphs: Graphs, target: str, kept: Collection[str]) -> str:
        """The worst layers in words; where none of them is noisy, that."""
        errors = [
            error for name, graph in graphs.items() for error in self.worst_layers(name, graph.forms[target], kept)
        ]
        errors.sort(key=lambda error: error.sqnr_db)
        worst = [error for error in errors if error.sqnr_db < GOOD_DB or error.beyond > BEYOND][:NAMED_LAYERS]
        if worst:
            return f"worst layers by themselves: {'; '.join(map(str, worst))}"
        return "no layer by itself is at fault" + (f" (the worst is {errors[0]})" if errors else "")

    def speed(self, graphs: Graphs) -> Speed:
        """Of the CPU's form, with the threads that a server gives it, on the recipe's held-out inputs.

        Within a round the two take turns as well: what else the machine does for a moment troubles both.
        """
        threads = self.recipe.config.triton.cpu_threads
        fp32 = {name: _session(content, threads) for name, content in self.fp32.items()}
        other = {name: _session(graph.cpu, threads) for name, graph in graphs.items()}
        once = max(self._seconds(fp32), self._seconds(other), 1e-6)
        turns = max(1, int(ROUND_SECONDS / once))
        ratios = []
        for _ in range(ROUNDS):
            times = [(self._seconds(fp32), self._seconds(other)) for _ in range(turns)]
            ratios.append(sum(one for one, _ in times) / sum(one for _, one in times))
        return Speed(statistics.median(ratios), min(ratios), max(ratios))

    def _seconds(self, sessions: Mapping[str, Any]) -> float:
        feeds = [(session, dict(feed)) for name, session in sessions.items() for feed in self.evaluation[name]]
        start = time.perf_counter()
        for session, feed in feeds:
            session.run(None, feed)
        return time.perf_counter() - start


@dataclass(frozen=True)
class Made:
    """A variant as it will be examined: its graphs, and the layers that stayed in FP32."""

    graphs: Graphs
    kept: tuple[str, ...]


def make_variant(trial: Trial, variant: str) -> Made:
    """Make a variant; where it loses too much and `automatic` is set, keep the fewest layers in FP32 that it takes.

    Layers go in the order of the noise that each adds by itself, and the fewest are found by bisection; the one that
    loses too much with all but one layer kept is returned as it was made first, for the gate to refuse.
    """
    trial.check_kept(variant)
    allowed = trial.allowed(variant)
    calibration = trial.recipe.calibration(trial.files) if variant == INT8 else {}
    makers = {
        name: Maker(name, content, calibration.get(name, ()), allowed.smoothing) for name, content in trial.fp32.items()
    }
    try:
        first = _make(makers, variant, allowed.keep_fp32, trial.recipe.runs_on_gpus)
        trial.check_survives(variant, first)
        if not allowed.automatic or _passes(trial, variant, first):
            return first
        order = _by_noise(trial, first)
        print(f"{variant} loses too much: looking for the fewest layers to keep in FP32", file=sys.stderr, flush=True)
        best: Made | None = None
        low, high = 0, len(order)  # `low` of them are too few; with all of them nothing is left to gain
        while high - low > 1:
            count = (low + high) // 2
            made = _make(makers, variant, [*allowed.keep_fp32, *order[:count]], trial.recipe.runs_on_gpus)
            passed = _passes(trial, variant, made)
            print(
                f"{variant} with {len(made.kept)} of {sum(map(len, trial.layers(variant).values()))} layers in FP32: "
                f"{'passes' if passed else 'loses too much'}",
                file=sys.stderr,
                flush=True,
            )
            low, high, best = (low, count, made) if passed else (count, high, best)
        return best or first
    finally:
        for maker in makers.values():
            maker.close()


def _make(makers: Mapping[str, Maker], variant: str, keep: Sequence[str], for_gpus: bool) -> Made:
    made = {name: maker.make(variant, keep) for name, maker in makers.items()}
    return Made(made if for_gpus else of_both({name: graph.cpu for name, graph in made.items()}), tuple(keep))


def _passes(trial: Trial, variant: str, made: Made) -> bool:
    """In every form: the one for a GPU is computed here too, only slower."""
    forms = {tuple(graph.forms[target] for graph in made.graphs.values()): target for target in reversed(TARGETS)}
    return all(
        trial.in_process(variant, {name: graph.forms[target] for name, graph in made.graphs.items()}, target)
        for target in forms.values()
    )


def _by_noise(trial: Trial, made: Made) -> list[str]:
    errors = [error for name, graph in made.graphs.items() for error in trial.worst_layers(name, graph.cpu, made.kept)]
    return [error.layer.name for error in sorted(errors, key=lambda error: error.sqnr_db)]


def _together(proofs: Sequence[Proof]) -> Proof:
    operators: dict[str, int] = {}
    for proof in proofs:
        for name, count in proof.operators.items():
            operators[name] = operators.get(name, 0) + count
    running = [proof.running for proof in proofs if proof.running is not None]
    return Proof(
        proofs[0].variant,
        sum(proof.layers for proof in proofs),
        sum(proof.stored for proof in proofs),
        sum(running) if len(running) == len(proofs) else None,
        operators,
        tuple(name for proof in proofs for name in proof.left),
    )


def _session(content: bytes, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
