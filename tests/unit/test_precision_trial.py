"""Variants of a whole model: made until they pass, with the fewest layers in FP32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from model_build import ConfigurationError, DataError, ExportError
from model_build.config import VariantConfig
from model_build.precision.proof import prove
from model_build.precision.trial import make_variant
from model_build.precision.variants import FP16, INT8
from tests.precision_graphs import convert, feeds, hand_made, stored
from tests.precision_trials import LINEAR, Probe, chain, fancy, strict, trial


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
    assert examined.blame(made.graphs, "cpu", made.kept).startswith(f"{LINEAR[2]} (products.2.weight) ")
    assert not examined.blame(made.graphs, "cpu", (LINEAR[2],)).startswith(f"{LINEAR[2]} ")


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


@pytest.mark.parametrize("make", [fancy, integers])
def test_a_file_with_an_operator_that_cannot_be_run_is_one_line(tmp_path: Path, make: Callable[[], bytes]) -> None:
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
