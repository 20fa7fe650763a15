"""Which variant answers to the public name on each target: the fastest that passes, FP32 where nothing was measured."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from model_build import DataError, ExportError, GateRefused
from model_build.config import SingleGraphConfig, VariantConfig
from model_build.files import write_files
from model_build.precision.trial import Trial
from model_build.precision.variants import FP16, GPU, INT8, TARGETS, Graphs
from model_build.precision.verdict import NOT_FOR_TARGET, NOT_MEASURED, PASSES, REFUSED, Speed, Verdict, best
from model_build.recipe import Recipe, ServedModel, as_text
from model_build.stages import variants
from model_build.stages.gate import _plan_alone, _plan_variants, _within, joined
from model_build.stages.layout import BuildFiles
from tests.precision_graphs import hand_made
from tests.precision_trials import LINEAR, Probe, chain, fancy, probe, strict

NOTHING: dict[str, Verdict] = {"fp32": Verdict(PASSES, "what the others are compared with", 9)}


def found(verdict: str, ratio: float | None = None, low: float | None = None) -> Verdict:
    speed = None if ratio is None else Speed(ratio, ratio if low is None else low, ratio)
    return Verdict(verdict, "", 9, speed=speed)


@pytest.mark.parametrize(
    ("verdicts", "chosen"),
    [
        ({}, "fp32"),
        ({"int8": found(PASSES, 2.0)}, "int8"),
        ({"fp16": found(PASSES, 3.0), "int8": found(PASSES, 2.0)}, "fp16"),
        ({"fp16": found(PASSES, 2.0), "int8": found(PASSES, 3.0)}, "int8"),
        ({"fp16": found(NOT_FOR_TARGET, 9.0), "int8": found(PASSES, 1.5)}, "int8"),
        ({"fp16": found(NOT_FOR_TARGET, 9.0)}, "fp32"),
        ({"int8": found(NOT_MEASURED, 9.0)}, "fp32"),
        ({"int8": found(REFUSED, 9.0)}, "fp32"),
        ({"int8": found(PASSES)}, "fp32"),  # passes, and was not timed
        ({"int8": found(PASSES, 0.5)}, "fp32"),
        ({"int8": found(PASSES, 1.0)}, "fp32"),
        ({"int8": found(PASSES, 1.4, low=0.99)}, "fp32"),  # slower than FP32 in one of its rounds
        ({"int8": found(PASSES, 1.09, low=1.05)}, "fp32"),  # always faster, and not worth its loss
        ({"int8": found(PASSES, 1.3, low=1.05)}, "int8"),
        ({"fp16": found(PASSES, 4.0, low=1.0), "int8": found(PASSES, 1.3, low=1.2)}, "int8"),
        ({"int8": found(PASSES, 1.1)}, "int8"),
    ],
)
def test_the_fastest_that_passes_and_is_clearly_faster_than_fp32_is_chosen(
    verdicts: dict[str, Verdict], chosen: str
) -> None:
    assert best({**NOTHING, **verdicts}) == chosen


LOOSE = VariantConfig(max_abs=0.2, min_cosine=0.9, max_drop=0.2)


def made(folder: Path, content: bytes, **precision: Any) -> tuple[Probe, BuildFiles]:
    """A recipe with what stage variants writes of it."""
    recipe, files = probe(folder, content, **precision)
    variants.run(folder, recipe.config)
    return recipe, files


def test_a_variant_is_examined_on_each_target_and_one_that_was_not_measured_is_routed_to_fp32(tmp_path: Path) -> None:
    recipe, files = made(tmp_path, chain(), int8=LOOSE, fp16=LOOSE)
    plan = _plan_variants(recipe, files)
    verdicts = {(name, target): one for name, by in plan.verdicts.items() for target, one in by.items()}
    assert {key: one.verdict for key, one in verdicts.items()} == {
        ("fp32", "cpu"): PASSES,
        ("fp32", "gpu"): PASSES,
        ("fp16", "cpu"): NOT_FOR_TARGET,
        ("fp16", "gpu"): NOT_MEASURED,
        ("int8", "cpu"): PASSES,
        ("int8", "gpu"): NOT_MEASURED,
    }
    assert {key for key, one in verdicts.items() if one.speed} == {("int8", "cpu")}
    assert verdicts["fp16", "cpu"].reason.startswith("0 of 4 layers run in FP16 on this CPU: ")
    assert verdicts["fp16", "gpu"].reason.startswith("no GPU was asked: the file's precision is proven")
    assert plan.said.startswith("; on this CPU: fp32 passes, fp16: GPUs only, int8 passes ")
    assert plan.chosen["gpu"] == "fp32"
    assert plan.chosen["cpu"] in ("fp32", "int8")
    assert {name: [model.name for model in group] for name, group in plan.groups.items()} == {
        "base": ["probe_fp32", "probe"],
        "fp16": ["probe_fp16"],
        "int8": ["probe_int8"],
    }
    public = plan.groups["base"][-1]
    assert [step.model_name for step in public.gpu.ensemble_scheduling.step] == ["probe_fp32"]
    assert [step.model_name for step in public.cpu.ensemble_scheduling.step] == [f"probe_{plan.chosen['cpu']}"]
    (int8,) = plan.groups["int8"]
    assert int8.gpu.default_model_filename == "model.tensorrt.onnx"
    assert int8.cpu.default_model_filename == ""
    assert {"1/model.onnx", "1/model.tensorrt.onnx"} < set(int8.files)
    content = plan.to_json()
    assert content is not None
    assert content["found"]["int8"]["cpu"]["running"] == 4
    assert content["found"]["int8"]["cpu"]["share"] == {"weights": 1.0, "flops": 1.0}
    assert content["chosen"] == dict(plan.chosen)


@pytest.mark.parametrize("variant", [FP16, INT8])
def test_an_fp32_file_under_another_name_is_refused_by_the_gate(tmp_path: Path, variant: str) -> None:
    recipe, files = made(tmp_path, chain(), int8=LOOSE, fp16=LOOSE, variants=[variant])
    for name in ("model.onnx", "model.tensorrt.onnx"):
        (files.variants / variant / name).write_bytes(files.onnx.read_bytes())
    expected = (
        f"variant {variant} of probe is refused: the file holds 0 of 4 layers in {variant.upper()}, not {LINEAR[0]}, "
        f"{LINEAR[1]}, {LINEAR[2]}, ...: model_repository/ was not changed; build it again (`slipway build probe "
        f"--force`), or take {variant} out of precision.variants"
    )
    with pytest.raises(GateRefused, match=f"^{re.escape(expected)}$"):
        _plan_variants(recipe, files)


def test_a_variant_that_loses_too_much_is_refused_with_its_losses_and_its_worst_layers(tmp_path: Path) -> None:
    recipe, files = made(tmp_path, chain(hopeless=True), variants=[INT8], int8=strict(automatic=False))
    with pytest.raises(GateRefused) as refused:
        _plan_variants(recipe, files)
    text = str(refused.value)
    assert text.startswith("variant int8 of probe is refused: ")
    assert re.search(r"'y' is off by \S+ \(precision\.int8\.max_abs 0\.05\)", text)
    assert f"; worst layers by themselves: {LINEAR[2]} (products.2.weight) " in text
    assert text.endswith(
        "model_repository/ was not changed; calibrate on inputs like the held-out ones, keep these layers in FP32 "
        "(`slipway build probe precision.int8.keep_fp32=[LAYER]`, or `slipway build probe "
        "precision.int8.automatic=true`), allow it more in precision.int8, or take int8 out of precision.variants"
    )
    assert "\n" not in text


@pytest.mark.parametrize(("variant", "calibrated"), [(FP16, False), (INT8, True)])
def test_nothing_is_advised_that_is_done_already_or_does_nothing_for_the_variant(
    tmp_path: Path, variant: str, calibrated: bool
) -> None:
    impossible = VariantConfig(max_abs=1e-12, min_cosine=-1, max_drop=1)
    recipe, files = made(tmp_path, chain(), variants=[variant], fp16=impossible, int8=impossible)
    with pytest.raises(GateRefused) as refused:
        _plan_variants(recipe, files)
    assert "automatic" not in str(refused.value)
    assert "keep_fp32" not in str(refused.value)  # automatic has tried it
    assert "no layer by itself is at fault (the worst is node_linear" in str(refused.value)
    assert ("calibrate on inputs" in str(refused.value)) == calibrated


def test_a_variant_that_is_hardly_in_its_precision_is_refused_with_what_is_not(tmp_path: Path) -> None:
    """All the layers that are left are in INT8, and that is too little: three of four were kept to be accurate."""
    kept = replace(LOOSE, keep_fp32=[*LINEAR[:3]], min_share=0.1)
    recipe, files = made(tmp_path, chain(), variants=[INT8], int8=kept)
    recipe.config.precision.int8 = replace(kept, min_share=0.2)
    with pytest.raises(GateRefused) as refused:
        _plan_variants(recipe, files)
    assert str(refused.value) == (
        "variant int8 of probe is refused: no more than 14% of the weights and 14% of the FLOPs of its products are in "
        f"INT8 (precision.int8.min_share 0.2), not {LINEAR[0]} (Gemm), {LINEAR[1]} (Gemm), {LINEAR[2]} (Gemm): "
        "model_repository/ was not changed; lower precision.int8.min_share, or take int8 out of precision.variants"
    )


def test_a_drop_that_so_few_examples_do_not_prove_passes_and_is_said(tmp_path: Path) -> None:
    trial = Trial(*probe(tmp_path, chain(), int8=VariantConfig(max_abs=10, min_cosine=0.5, max_drop=0.01)))
    assert trial.examples == 64
    answers = {"y": trial.reference["y"].copy()}
    best_class = answers["y"][0].argmax()
    answers["y"][0, best_class - 1] = answers["y"][0, best_class] + 1e-3  # one example is another class
    found = trial.judge("in process", INT8, answers)
    assert found.metric == 63 / 64
    assert found
    assert found.doubts == (
        "accuracy is 0.9844 where FP32 has 1.0000 (precision.int8.max_drop 0.01); 64 examples make sure of a drop of "
        "0.0008 alone, with 95% confidence",
    )


@pytest.mark.parametrize(
    ("parts", "shapes"),
    [
        ([np.ones((2, 3)), np.ones((1, 3))], (3, 3)),
        ([np.ones((2, 3, 4)), np.ones((1, 5, 4))], [(2, 3, 4), (1, 5, 4)]),
        ([np.float32(1), np.float32(2)], [(), ()]),
        ([], []),
    ],
)
def test_a_servers_answers_are_one_array_where_they_fit_together(parts: list[Any], shapes: Any) -> None:
    found = joined([np.asarray(part) for part in parts])
    assert (found.shape if isinstance(found, np.ndarray) else [part.shape for part in found]) == shapes


def test_a_file_that_cannot_be_opened_is_one_line_of_the_gate(tmp_path: Path) -> None:
    recipe, files = made(tmp_path, chain(), variants=[INT8], int8=LOOSE)
    (files.variants / INT8 / "model.onnx").write_bytes(fancy())
    with pytest.raises((ExportError, GateRefused)) as refused:
        _plan_variants(recipe, files)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("missing", ["model.onnx", "kept.json"])
def test_a_variant_that_stage_variants_has_not_written_is_one_line(tmp_path: Path, missing: str) -> None:
    recipe, files = made(tmp_path, chain(), variants=[INT8], int8=LOOSE)
    (files.variants / INT8 / missing).unlink()
    with pytest.raises(DataError, match=r"variants/int8 is not what stage variants writes \(.*\): run `dvc repro`"):
        _plan_variants(recipe, files)


def test_layers_that_were_kept_when_it_was_made_are_the_ones_that_the_gate_expects(tmp_path: Path) -> None:
    recipe, files = made(tmp_path, chain(), variants=[INT8], int8=strict([LINEAR[1]]))
    one = _plan_variants(recipe, files).verdicts[INT8]["cpu"]
    assert one.kept == (LINEAR[1],)
    assert one.proof is not None
    assert (one.proof.layers, one.proof.running) == (3, 3)
    write_files({files.variants / INT8 / "kept.json": b"[]\n"})
    with pytest.raises(GateRefused, match=rf"the file holds 3 of 4 layers in INT8, not {LINEAR[1]}: ") as refused:
        _plan_variants(recipe, files)
    assert (
        f"keep those layers in FP32 (`slipway build probe precision.int8.keep_fp32=[{LINEAR[1]}]`), or take int8"
        in str(refused.value)
    )


def test_int8_weights_that_are_multiplied_as_floats_here_are_refused_and_not_passed_over(tmp_path: Path) -> None:
    recipe, files = made(tmp_path, chain(), variants=[INT8], int8=LOOSE)
    path = files.variants / INT8 / "model.onnx"
    model = onnx.load(path)
    producers = {node.output[0]: node for node in model.graph.node}
    (last,) = [node for node in model.graph.node if node.name == LINEAR[-1]]
    last.input[0] = producers[producers[last.input[0]].input[0]].input[0]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(
        GateRefused, match=r"^variant int8 of probe is refused: 3 of 4 layers run in INT8 on this CPU: "
    ):
        _plan_variants(recipe, files)


def test_of_a_model_whose_graphs_no_gpu_computes_nothing_is_made_for_tensorrt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Probe, "runs_on_gpus", False)
    recipe, files = made(tmp_path, chain(), int8=LOOSE, variants=[INT8])
    assert [path.name for path in (files.variants / INT8).glob("*.onnx")] == ["model.onnx"]
    here, there = (_plan_variants(recipe, files).verdicts[INT8][target] for target in TARGETS)
    assert (here.verdict, there.verdict) == (PASSES, NOT_MEASURED)
    assert there.reason.startswith("a Python model computes it on the CPU")
    assert (there.speed, there.examinations) == (None, here.examinations)


def test_the_public_name_is_what_a_recipe_makes_of_the_chosen_graphs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, files = made(tmp_path, chain(), int8=LOOSE, variants=[INT8])

    def public(self: Probe, files: BuildFiles, chosen: Mapping[str, Graphs]) -> list[ServedModel]:
        assert set(chosen) == set(TARGETS)
        assert chosen[GPU]["model.onnx"].gpu == files.onnx.read_bytes()
        return [replace(self.serve(files)[-1], name=name) for name in ("probe_twin", "probe")]

    monkeypatch.setattr(Probe, "public", public)
    plan = _plan_variants(recipe, files)
    assert [model.name for model in plan.groups["base"]] == ["probe_fp32", "probe_twin", "probe"]
    assert [model.name for model in plan.exported] == ["probe_fp32"]


def test_only_numbers_may_be_off_by_what_a_variant_may_lose(tmp_path: Path) -> None:
    recipe, files = probe(tmp_path, chain())
    (model,) = recipe.serve(files)
    assert _within(model, 0.2).atol == 0.2
    assert _within(model, 0.0).atol is None
    assert _within(replace(model, outputs={"text": as_text(["a"]), "tokens": np.array([[1]])}), 0.2).atol is None


class Alone(Recipe[SingleGraphConfig]):
    """A recipe that is served in one precision."""

    metric = "accuracy"
    source = prepare = train = export = infer = None  # type: ignore[assignment] # the gate asks none of them

    def serve(self, files: BuildFiles, variant: str = "fp32", graphs: Graphs | None = None) -> list[ServedModel]:
        assert (variant, graphs) == ("fp32", None)
        return [replace(Probe(self.config).serve(files)[-1], name="alone")]


def test_a_recipe_without_variants_is_staged_under_its_own_name_and_says_nothing_of_them(tmp_path: Path) -> None:
    recipe, files = probe(tmp_path, chain())
    plan = _plan_alone(Alone(recipe.config), files)
    assert {name: [model.name for model in group] for name, group in plan.groups.items()} == {"base": ["alone"]}
    assert (list(plan.exported), plan.to_json(), plan.said) == (plan.groups["base"], None, "")


def test_why_a_model_is_not_batched_is_in_the_gates_line_once_with_the_folders_that_it_is_about(tmp_path: Path) -> None:
    """Each answer is less the mean of the batch: rows do not stay apart."""
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"], name="product"),
        helper.make_node("ReduceMean", ["product", "batch"], ["mean"], name="mean"),
        helper.make_node("Sub", ["product", "mean"], ["y"], name="less"),
    ]
    weight = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    recipe, files = made(
        tmp_path, hand_made(nodes, {"weight": weight, "batch": np.array([0])}, 8), variants=[FP16], fp16=LOOSE
    )
    plan = _plan_variants(recipe, files)
    (first, *_) = plan.groups["base"]
    assert first.note.startswith("max_batch_size is 0, each request runs alone: output 'y'")
    assert plan.noted == f"; probe_fp32, probe_fp16: {first.note}"
    assert "\n" not in plan.noted
    batched, files = probe(tmp_path / "batched", chain(), variants=[])
    assert _plan_variants(batched, files).noted == ""
