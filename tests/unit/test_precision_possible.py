"""What a model cannot be is said before it costs anything, what it can be is made, no crash is without a line."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from model_build import ConfigurationError, ExportError
from model_build.config import ServedConfig, VariantConfig, load_config
from model_build.models.digits import Digits
from model_build.models.embedder import Embedder
from model_build.models.translator import Translator
from model_build.pipeline import StageFailed, build, override
from model_build.precision import possible
from model_build.precision.graph import fold_weights, layers
from model_build.precision.possible import check_survives, keeping
from model_build.precision.variants import FP16, INT8
from model_build.precision.verdict import NOT_FOR_TARGET, NOT_MEASURED
from model_build.recipe import load_export_recipe, load_recipe
from model_build.stages import export, variants
from model_build.stages.gate import _plan_variants
from tests.precision_graphs import exported, feeds, hand_made
from tests.precision_trials import CLASSES, LINEAR, Probe, chain, probe, trial
from tests.support import ROOT

LOOSE = VariantConfig(max_abs=0.2, min_cosine=0.9, max_drop=0.2)
RANDOM = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


class Recurrent(nn.Module):
    """A recurrent network alone: no layer of it is a convolution or matrix product."""

    def __init__(self, kind: type[nn.GRU | nn.LSTM | nn.RNN]) -> None:
        super().__init__()
        self.recurrent = kind(1, CLASSES, batch_first=True)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.recurrent(inputs.unsqueeze(2))[0][:, -1]
        return answer


def einsum() -> bytes:
    nodes = [helper.make_node("Einsum", ["x", "weight"], ["y"], name="einsum", equation="bi,ij->bj")]
    return hand_made(nodes, {"weight": weights(8, CLASSES)}, 8)


def rnn() -> bytes:
    nodes = [
        helper.make_node("Unsqueeze", ["x", "zero"], ["step"], name="step"),
        helper.make_node("RNN", ["step", "input", "state"], ["", "last"], name="rnn", hidden_size=CLASSES),
        helper.make_node("Squeeze", ["last", "zero"], ["y"], name="squeeze"),
    ]
    constants = {"input": weights(1, CLASSES, 8), "state": weights(1, CLASSES, CLASSES), "zero": np.array([0])}
    return hand_made(nodes, constants, 8)


@pytest.mark.parametrize("name", ["GRU", "LSTM", "RNN", "Einsum"])
def test_fp16_is_for_whatever_multiplies_and_int8_is_refused_alone(tmp_path: Path, name: str) -> None:
    content = {"RNN": rnn, "Einsum": einsum}.get(name, lambda: exported(Recurrent(getattr(nn, name)), 8))()
    examined = trial(tmp_path, content)
    assert examined.impossible(FP16) is None
    reason = examined.impossible(INT8)
    assert reason is not None
    assert re.fullmatch(
        rf"INT8 is for convolutions and matrix products with constant weights, and model\.onnx has none \(.*{name}.*\)",
        reason,
    ) or (name != "Einsum" and reason.endswith(", ...)"))
    recipe, files = probe(tmp_path / "made", content, variants=[FP16], fp16=LOOSE)
    assert variants.run(tmp_path / "made", recipe.config) == "fp16"
    found = _plan_variants(recipe, files).verdicts[FP16]
    assert {target: one.verdict for target, one in found.items()} == {"cpu": NOT_FOR_TARGET, "gpu": NOT_MEASURED}
    for one in found.values():
        assert one.proof is not None
        assert (one.proof.layers, one.proof.stored) == (1, 1)
        assert one.proof.share is not None
        assert one.proof.share.least == 1.0
    assert found["cpu"].proof is not None
    assert found["cpu"].proof.running == 0


def test_a_recurrent_layer_can_be_kept_in_fp32_by_its_name(tmp_path: Path) -> None:
    content = exported(Recurrent(nn.GRU), 8)
    (layer,) = layers(onnx.load_from_string(content), FP16)
    kept = VariantConfig(keep_fp32=[layer.name], min_share=0)
    trial(tmp_path, content, fp16=kept).check_kept(FP16)
    with pytest.raises(ConfigurationError, match=r"precision\.int8\.keep_fp32 names "):
        trial(tmp_path, content, int8=kept).check_kept(INT8)


@pytest.mark.parametrize("way", ["transposed", "cast and transposed", "reshaped"])
def test_weights_that_are_turned_at_each_run_are_quantised_too(tmp_path: Path, way: str) -> None:
    given = {"transposed": weights(CLASSES, 8), "reshaped": weights(CLASSES * 8)}
    constants = {"given": given.get(way, weights(CLASSES, 8).astype(np.float16)), "shape": np.array([8, CLASSES])}
    nodes = {
        "transposed": [helper.make_node("Transpose", ["given"], ["weight"], name="turn", perm=[1, 0])],
        "reshaped": [helper.make_node("Reshape", ["given", "shape"], ["weight"], name="reshape")],
        "cast and transposed": [
            helper.make_node("Cast", ["given"], ["cast"], name="cast", to=onnx.TensorProto.FLOAT),
            helper.make_node("Transpose", ["cast"], ["weight"], name="turn", perm=[1, 0]),
        ],
    }[way]
    content = hand_made([*nodes, helper.make_node("MatMul", ["x", "weight"], ["y"], name="product")], constants, 8)
    recipe, files = probe(
        tmp_path, content, variants=[INT8], int8=VariantConfig(max_abs=10, min_cosine=0.9, max_drop=1)
    )
    assert variants.run(tmp_path, recipe.config) == "int8"
    made = onnx.load(files.variants / INT8 / "model.onnx")
    assert "given" not in [tensor.name for tensor in made.graph.initializer]  # it would be there twice
    for one in _plan_variants(recipe, files).verdicts[INT8].values():
        assert one.proof
        assert one.proof.share is not None
        assert one.proof.share.least == 1.0


def test_what_is_computed_is_not_folded() -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["turned"], name="turn", perm=[1, 0]),
        helper.make_node("MatMul", ["weight", "turned"], ["y"], name="product"),
    ]
    model = onnx.load_from_string(hand_made(nodes, {"weight": weights(CLASSES, 8)}, 8))
    before = model.SerializeToString()
    fold_weights(model)
    assert model.SerializeToString() == before


def test_stage_export_says_what_nothing_in_the_graphs_could_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe did not know: its graphs, once there, do, before anything is measured or quantised."""
    monkeypatch.setattr(Probe, "export", lambda *_: "exported")
    content = hand_made([helper.make_node("Relu", ["x"], ["y"], name="relu")], {}, CLASSES)
    recipe, _ = probe(tmp_path, chain())
    assert export.run(tmp_path, recipe.config) == "exported"
    recipe, files = probe(tmp_path, chain())
    files.onnx.write_bytes(content)
    with pytest.raises(ConfigurationError) as refused:
        export.run(tmp_path, recipe.config)
    assert str(refused.value) == (
        "probe cannot be served in fp16 and int8: FP16 and INT8 are for convolutions and matrix products with constant "
        "weights, and model.onnx has none (Relu): `slipway build probe precision.variants=[]`"
    )
    recipe.config.precision.variants.clear()
    assert export.run(tmp_path, recipe.config) == "exported"


def test_a_recipe_that_says_what_it_cannot_be_is_refused_by_every_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, _ = probe(tmp_path, chain())
    load_recipe(recipe.config)
    assert recipe.impossible_variants == {}
    monkeypatch.setattr(Probe, "impossible_variants", MappingProxyType({INT8: "its graph is a forest"}))
    for load in (load_recipe, load_export_recipe):
        with pytest.raises(ConfigurationError) as refused:
            load(recipe.config)
        assert str(refused.value) == (
            "probe cannot be served in int8: its graph is a forest: `slipway build probe precision.variants=[fp16]`"
        )
    recipe.config.precision.variants.remove(INT8)
    load_recipe(recipe.config)


def test_a_recipe_that_says_what_it_cannot_be_is_refused_before_the_pipeline_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "model_build" / "conf", tmp_path / "model_build" / "conf")
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    monkeypatch.setattr(Digits, "impossible_variants", {INT8: "trees have no products", FP16: "trees have none"})
    override(tmp_path, "digits", ["precision.variants=[int8]"])
    before = (tmp_path / "dvc.yaml").read_bytes()
    with pytest.raises(ConfigurationError) as refused:
        build(tmp_path, "digits")
    assert str(refused.value) == (
        "digits cannot be served in int8: trees have no products: `slipway build digits precision.variants=[]`"
    )
    assert (tmp_path / "dvc.yaml").read_bytes() == before
    override(tmp_path, "digits", ["precision.variants=[]"])
    load_recipe(load_config(tmp_path, "digits"))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (1, "failed: see above"),
        (3, "failed: see above"),
        (130, "failed: see above"),
        (-11, "was ended by SIGSEGV"),
        (137, "was ended by SIGKILL"),
        (255, "failed: see above"),
    ],
)
def test_a_stage_that_a_signal_ended_has_said_nothing_and_the_signal_is_named(code: int, said: str) -> None:
    assert str(StageFailed("variants@digits", code)) == f"stage variants@digits {said}"


@pytest.mark.parametrize("names", [["node_linear"], ["/layers.0/MatMul", "b"], ["it's", "a b", "c:d", "e,f", "[g]"]])
def test_the_command_that_keeps_layers_is_one_that_a_shell_and_the_configuration_take(
    tmp_path: Path, names: list[str]
) -> None:
    shutil.copytree(ROOT / "model_build" / "conf", tmp_path / "model_build" / "conf")
    program, command, model, *overrides = shlex.split(keeping("digits", FP16, names).strip("`"))
    assert (program, command, model) == ("slipway", "build", "digits")
    override(tmp_path, model, overrides)
    config = load_config(tmp_path, "digits")
    assert isinstance(config, ServedConfig)
    assert config.precision.fp16.keep_fp32 == names


def test_a_graph_that_onnx_runtime_dies_of_is_one_line_with_the_command_that_builds_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(possible, "_RUN", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    recipe, files = probe(tmp_path, chain())
    with pytest.raises(ExportError) as refused:
        variants.run(tmp_path, recipe.config)
    assert re.fullmatch(
        r"ONNX Runtime \S+ ends with SIGSEGV when it opens or runs model\.onnx of probe in fp16 on this CPU, which "
        r"is a fault of its own: `slipway build probe precision\.variants=\[int8\]`",
        str(refused.value),
    )
    assert not files.variants.exists()


def test_what_goes_wrong_without_a_signal_is_left_to_whoever_opens_the_graph() -> None:
    check_survives("probe", [FP16], FP16, "model.onnx", b"no graph", {"x": np.zeros(1)})
    check_survives("probe", [FP16], FP16, "model.onnx", chain(), {"file": np.array(["a"], object)})
    check_survives("probe", [FP16], FP16, "model.onnx", chain(), feeds(8)[0])


def test_an_unrolled_recurrent_network_in_fp16_is_made_or_refused_in_one_line(tmp_path: Path) -> None:
    """ONNX Runtime 1.31.1 ends with SIGSEGV where it opens this graph."""
    recipe, _ = probe(tmp_path, exported(Recurrent(nn.RNN), 8), variants=[FP16], fp16=LOOSE)
    try:
        said = variants.run(tmp_path, recipe.config)
    except ExportError as error:
        said = str(error)
    assert said == "fp16" or re.fullmatch(r"ONNX Runtime \S+ ends with SIGSEGV when it opens .*", said)


def test_only_recipes_that_count_examples_say_so() -> None:
    class F1(Digits):
        def score(self, answers: object, labels: object) -> float:
            return 1.0

    class Counted(F1):
        counts_examples = True

        def score(self, answers: object, labels: object) -> float:
            return 0.5

    found = {kind.__name__: kind.counts_examples for kind in (Digits, Probe, F1, Counted, Embedder, Translator)}
    assert found == {
        "Digits": True,
        "Probe": True,
        "F1": False,
        "Counted": True,
        "Embedder": False,
        "Translator": False,
    }


def test_the_layers_of_int8_are_layers_of_fp16_too() -> None:
    model = onnx.load_from_string(chain())
    assert [one.name for one in layers(model, FP16)] == [one.name for one in layers(model, INT8)] == [*LINEAR]
