"""Variants of a whole model: made until they pass, with the fewest layers in FP32."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from model_build import ConfigurationError, DataError, ExportError
from model_build.config import VariantConfig
from model_build.onnx_export import open_session
from model_build.precision.graph import prepared
from model_build.precision.proof import prove
from model_build.precision.trial import make_variant
from model_build.precision.variants import FP16, INT8, Graph
from model_build.stages.layout import BuildFiles
from tests.precision_graphs import convert, exported, feeds, hand_made, stored
from tests.precision_trials import CLASSES, LINEAR, Probe, chain, fancy, strict, trial


def test_where_one_layer_is_hopeless_that_one_alone_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examined = trial(tmp_path, chain(hopeless=True), int8=strict())
    made = make_variant(examined, INT8)
    assert made.kept == (LINEAR[2],)
    for target in ("cpu", "gpu"):
        assert stored(made.graphs["model.onnx"].forms[target]) == {**dict.fromkeys(LINEAR, "INT8"), LINEAR[2]: "FLOAT"}
        assert examined.proof(INT8, target, made.graphs, made.kept)
        forms = {name: graph.forms[target] for name, graph in made.graphs.items()}
        assert examined.in_process(INT8, forms)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "int8 loses too much: looking for the fewest layers to keep in FP32"
    assert said[-1] == "int8 with 1 of 4 layers in FP32: passes"


def test_without_automatic_it_is_returned_as_it_is_and_the_loss_is_blamed_on_that_layer(tmp_path: Path) -> None:
    allowed = strict(automatic=False)
    examined = trial(tmp_path, chain(hopeless=True), int8=allowed)
    made = make_variant(examined, INT8)
    assert made.kept == ()
    assert set(stored(made.graphs["model.onnx"].cpu).values()) == {"INT8"}
    assert not examined.in_process(INT8, {"model.onnx": made.graphs["model.onnx"].cpu})
    blamed = examined.blame(made.graphs, "cpu", made.kept)
    assert re.fullmatch(rf"worst layers by themselves: {LINEAR[2]} \(products\.2\.weight\) -?\d+ dB", blamed)
    without = examined.blame(made.graphs, "cpu", (LINEAR[2],))  # what is left is fine
    assert re.fullmatch(r"no layer by itself is at fault \(the worst is node_linear\w* \(\S+\) [34]\d dB\)", without)


def test_what_a_gpu_would_answer_is_not_computed_with_the_integers_of_this_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without VNNI they overflow: TensorRT's form has all eight bits."""
    examined = trial(tmp_path, chain())
    graphs = make_variant(examined, INT8).graphs
    written: list[bool] = []

    def answer(recipe: Probe, files: BuildFiles, contents: Mapping[str, bytes]) -> Mapping[str, Any]:
        options = open_session(contents["model.onnx"]).get_session_options()
        try:
            written.append(options.get_session_config_entry("session.disable_quant_qdq") == "1")
        except RuntimeError:  # it has no such entry
            written.append(False)
        return examined.reference

    monkeypatch.setattr(Probe, "answer", answer)
    for target in ("cpu", "gpu", "cpu"):
        examined.in_process(INT8, {name: graph.forms[target] for name, graph in graphs.items()}, target)
    assert written == [False, True, False]


@pytest.mark.parametrize("variant", [FP16, INT8])
def test_what_passes_at_once_keeps_no_layer(tmp_path: Path, variant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_variant(trial(tmp_path, chain()), variant).kept == ()
    assert capsys.readouterr().err == ""


def test_what_was_asked_to_stay_in_fp32_is_kept_and_further_layers_beside_it(tmp_path: Path) -> None:
    wanted = strict([LINEAR[0]])
    assert make_variant(trial(tmp_path, chain(), int8=wanted), INT8).kept == (LINEAR[0],)
    assert make_variant(trial(tmp_path, chain(hopeless=True), int8=wanted), INT8).kept == (LINEAR[0], LINEAR[2])


@pytest.mark.parametrize("variant", [FP16, INT8])
def test_what_no_kept_layer_can_mend_is_returned_as_it_was_made_first(tmp_path: Path, variant: str) -> None:
    impossible = VariantConfig(max_abs=1e-12, min_cosine=1.0, max_drop=0.0)
    made = make_variant(trial(tmp_path, chain(), int8=impossible, fp16=impossible), variant)
    assert made.kept == ()


def test_a_layer_that_there_is_not_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    examined = trial(tmp_path, chain(), int8=VariantConfig(keep_fp32=["node_linear", "conv9", "attention"]))
    with pytest.raises(ConfigurationError) as refused:
        make_variant(examined, INT8)
    assert str(refused.value) == (
        "precision.int8.keep_fp32 names attention, conv9: expected layers of the model, which has node_linear, "
        "node_linear_1, node_linear_2, node_linear_3"
    )


def test_wrong_calibration_data_is_a_loss_and_the_share_beyond_it_is_reported(tmp_path: Path) -> None:
    examined = trial(tmp_path, chain(), calibrated=0.01, int8=strict(automatic=False))
    made = make_variant(examined, INT8)
    examination = examined.in_process(INT8, {"model.onnx": made.graphs["model.onnx"].cpu})
    assert not examination
    assert any(loss.startswith("'y' is off by ") for loss in examination.losses)
    assert "of its input beyond the calibrated range" in examined.blame(made.graphs, "cpu", ())


def test_answers_that_are_not_numbers_never_pass_and_the_metric_is_the_recipes(tmp_path: Path) -> None:
    examined = trial(tmp_path, chain())
    assert examined.judge("served", INT8, examined.reference)
    answers = {"y": np.full_like(examined.reference["y"], np.nan)}
    examination = examined.judge("served", INT8, answers)
    assert not examination
    assert examination.distances["y"].max_abs == float("inf")
    shifted = {"y": np.roll(examined.reference["y"], 1, axis=1)}
    assert examined.judge("served", INT8, shifted).metric == 0.0
    assert examined.judge("served", INT8, examined.reference).metric == examined.reference_metric == 1.0


def integers() -> bytes:
    """A product of 16-bit integers, for which ONNX Runtime has no kernel."""
    nodes = [
        helper.make_node("Cast", ["x"], ["small"], to=onnx.TensorProto.INT16),
        helper.make_node("MatMul", ["small", "weight"], ["product"], name="product"),
        helper.make_node("Cast", ["product"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    return hand_made(nodes, {"weight": np.ones((4, 4), np.int16)})


@pytest.mark.parametrize(
    ("make", "advice"), [(fancy, "): take int8"), (integers, "keep product in FP32 (precision.int8")]
)
def test_a_file_with_an_operator_that_cannot_be_run_is_one_line_that_advises_to_keep_a_layer_only_where_it_names_one(
    tmp_path: Path, make: Callable[[], bytes], advice: str
) -> None:
    examined = trial(tmp_path, chain())
    for attempt, start in (
        (lambda: prove(INT8, chain(), make(), frozenset(), run=True), "ONNX Runtime cannot open it ("),
        (lambda: examined.in_process(FP16, {"model.onnx": make()}), "variant fp16 cannot be run ("),
        (lambda: convert(make(), INT8, feeds(4)), "model.onnx cannot be converted to int8 ("),
    ):
        with pytest.raises(ExportError) as refused:
            attempt()
        assert str(refused.value).startswith(start)
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 450
    assert advice in str(refused.value)


def test_calibration_data_that_is_missing_is_said_by_the_graphs_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examined = trial(tmp_path, chain())
    monkeypatch.setattr(Probe, "calibration", lambda *_: {})
    with pytest.raises(DataError, match=r"^there is no calibration data for model\.onnx: expected real inputs"):
        make_variant(examined, INT8)


def test_speed_is_measured_on_the_cpus_form_beside_fp32(tmp_path: Path) -> None:
    examined = trial(tmp_path, chain())
    speed = examined.speed({"model.onnx": convert(chain(), INT8, feeds(8))})
    assert 0 < speed.low <= speed.ratio <= speed.high


class Recurrent(nn.Module):
    """A recurrent network of 816 or more weights, and a layer of 64."""

    def __init__(self, kind: type[nn.GRU | nn.LSTM], hidden: int) -> None:
        super().__init__()
        self.recurrent, self.head = kind(1, hidden, batch_first=True), nn.Linear(hidden, CLASSES)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.head(self.recurrent(inputs.unsqueeze(2))[0][:, -1])
        return answer


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_int8_of_a_recurrent_network_is_refused_before_it_is_made_and_its_fp16_is_not(
    tmp_path: Path, kind: type[nn.GRU | nn.LSTM]
) -> None:
    content = exported(Recurrent(kind, 16), 8)
    examined = trial(tmp_path, content, int8=strict())
    gates = {nn.GRU: 3, nn.LSTM: 4}[kind]
    (recurrent, head) = examined.products
    assert (recurrent.operator, recurrent.weights) == (kind.__name__, gates * 16 * (1 + 16))
    assert (head.weights, head.flops) == (64, 128)
    assert recurrent.flops == 8 * 2 * recurrent.weights  # eight steps of one example
    reason = examined.impossible(INT8)
    assert reason is not None
    assert re.fullmatch(
        rf"no more than [67]% of the weights and 1% of the FLOPs of its products could be in INT8 "
        rf"\(precision\.int8\.min_share 0\.5\), not \S+ \({kind.__name__}\)",
        reason,
    )
    assert examined.impossible(FP16) is None
    half = convert(content, FP16)
    proof = examined.proof(FP16, "gpu", {"model.onnx": half}, ())
    assert proof.share is not None
    assert (proof.share.weights, proof.share.flops) == (1.0, 1.0)


def test_what_is_made_is_counted_by_what_it_holds_and_runs_whatever_could_be(tmp_path: Path) -> None:
    """All layers but the recurrent part in INT8 pass for all layers; the share says how little that is."""
    content = exported(Recurrent(nn.GRU, 16), 8)
    examined = trial(tmp_path, content, int8=replace(strict(), min_share=0.005))
    assert examined.impossible(INT8) is None
    graphs = {"model.onnx": convert(content, INT8, feeds(8))}
    for target in ("cpu", "gpu"):
        proof = examined.proof(INT8, target, graphs, ())
        assert (proof.layers, proof.stored) == (1, 1)
        assert proof.share is not None
        assert proof.share.weights == pytest.approx(64 / 880)
        assert proof.share.flops == pytest.approx(128 / (128 + 13056))
        assert examined.too_little(INT8, proof.share) is None
        few = trial(tmp_path, content, int8=replace(strict(), min_share=0.05))
        assert str(few.too_little(INT8, proof.share)).startswith("no more than 7% of the weights and 1% of the FLOPs")


def test_layers_that_are_kept_in_fp32_are_no_share_of_it(tmp_path: Path) -> None:
    kept = strict([*LINEAR[:2]])
    examined = trial(tmp_path, chain(), int8=kept)
    assert str(examined.impossible(INT8)).startswith("no more than 43% of the weights and 43% of the FLOPs of its ")
    made = make_variant(examined, INT8)
    share = examined.proof(INT8, "cpu", made.graphs, made.kept).share
    assert share is not None
    assert share.weights == pytest.approx(96 / 224)
    assert [one.name for one in share.others] == [*LINEAR[:2]]


def test_products_of_activations_count_as_what_they_run_in(tmp_path: Path) -> None:
    """An attention's two, which the quantiser quantises as well."""
    nodes = [
        helper.make_node("Unsqueeze", ["x", "two"], ["column"], name="column"),
        helper.make_node("Unsqueeze", ["x", "one"], ["row"], name="row"),
        helper.make_node("MatMul", ["column", "row"], ["outer"], name="outer"),
        helper.make_node("ReduceMean", ["outer", "two"], ["mean"], name="mean", keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["y"], name="product"),
    ]
    weight = np.random.default_rng(0).standard_normal((8, CLASSES)).astype(np.float32)
    content = hand_made(nodes, {"weight": weight, "one": np.array([1]), "two": np.array([2])}, 8)
    examined = trial(tmp_path, content)
    assert [(one.name, one.weights, one.flops) for one in examined.products] == [("outer", 0, 128), ("product", 32, 64)]
    assert examined.impossible(INT8) is None
    graphs = {"model.onnx": convert(content, INT8, feeds(8))}
    share = examined.proof(INT8, "cpu", graphs, ()).share
    assert share is not None
    assert (share.weights, share.flops) == (1.0, 1.0)
    share = examined.proof(INT8, "gpu", {"model.onnx": Graph(content, content)}, ()).share
    assert share is not None
    assert (share.weights, share.flops) == (0.0, 0.0)


def test_a_graph_without_a_product_is_known_to_have_no_variant_before_one_is_made(tmp_path: Path) -> None:
    constants = {"start": np.array([0]), "end": np.array([4]), "axis": np.array([1])}
    content = hand_made([helper.make_node("Slice", ["x", *constants], ["y"], name="s")], constants, 8)
    examined = trial(tmp_path, content)
    expected = (
        "FP16 and INT8 are for convolutions and matrix products with constant weights, and model.onnx has none (Slice)"
    )
    assert (examined.impossible(FP16), examined.impossible(INT8)) == (expected, expected)


@pytest.mark.parametrize("form", ["unnamed", "constant"])
def test_files_of_other_tools_have_variants_too(tmp_path: Path, form: str) -> None:
    """Nodes without names, and weights in nodes of their own."""
    random = np.random.default_rng(0)
    first, second = (random.standard_normal(shape).astype(np.float32) for shape in ((8, 8), (8, CLASSES)))
    given = ("", "") if form == "unnamed" else ("first", "second")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name=given[0]),
        helper.make_node("MatMul", ["h", "v"], ["y"], name=given[1]),
    ]
    if form == "constant":
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(first), name="w"))
    content = hand_made(nodes, {"v": second} if form == "constant" else {"w": first, "v": second}, 8)
    examined = trial(tmp_path, content, int8=VariantConfig(max_abs=100, automatic=False))
    names = tuple(layer.name for layer in examined.layers(INT8)["model.onnx"])
    assert names == (("MatMul_0", "MatMul_1") if form == "unnamed" else ("first", "second"))
    made = make_variant(examined, INT8)
    assert examined.proof(INT8, "cpu", made.graphs, ())
    exported_file = chain()
    assert prepared(exported_file) is exported_file  # what the exporter writes stays as it is
