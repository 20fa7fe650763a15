"""The translator in INT8: made, judged by BLEU in process and through the server, and routed to by files of its own."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from model_build.config import load_config
from model_build.models.translator import Translator, _answer
from model_build.precision.variants import CPU, GPU, of_both
from model_build.recipe import load_recipe
from model_build.stages.layout import BuildFiles
from model_build.stages.variants import read_variant
from serving import verified_models
from tests.support import BIN, environment, error_lines, slipway
from tests.text_support import with_weights_mixed_up

pytestmark = pytest.mark.timeout(1200)  # whichever comes first builds all four

INT8 = ("precision.variants=[int8]", "precision.int8.max_drop=100")


@pytest.fixture(scope="module")
def built(four_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fast translator with an INT8 variant that may lose any BLEU: it has learned next to nothing."""
    workspace = tmp_path_factory.mktemp("translator") / "workspace"
    shutil.copytree(four_models, workspace, symlinks=True)
    result = slipway(workspace, "build", "translator", *INT8)
    assert result.returncode == 0, result.stderr
    return workspace


def found(workspace: Path) -> dict[str, Any]:
    manifest = json.loads((workspace / "model_repository" / "translator" / "manifest.json").read_text())
    variants: dict[str, Any] = manifest["variants"]
    return variants


def test_int8_is_judged_by_bleu_in_process_and_through_the_server(built: Path) -> None:
    assert found(built)["metric"] == "bleu"
    one = found(built)["found"]["int8"]["cpu"]
    assert (one["verdict"], one["stored"]) == ("passes", one["layers"])
    assert one["running"] == one["layers"] > 10
    for way in ("in_process", "served"):
        assert one[way]["fp32"] == found(built)["found"]["fp32"]["cpu"]["served"]["fp32"]
    assert list(one["in_process"]["distance"]) == ["translation", "encoded"]
    changed = one["served"]["distance"]["translation"]  # text is equal to FP32's or not
    assert list(one["served"]["distance"]) == ["translation"]
    assert list(changed) == ["changed"]
    assert 0 <= changed["changed"] <= 1
    assert found(built)["found"]["int8"]["gpu"]["reason"].startswith("a Python model computes it on the CPU")


def test_each_served_folder_holds_the_graphs_that_it_is_named_for(built: Path) -> None:
    names = {model.name for model in verified_models(built / "model_repository")}
    assert names >= {"translator", "translator_fp32", "translator_int8", "translator_stream"}
    files = BuildFiles(built, "translator")
    made = {"fp32": files.graphs, "int8": files.variants / "int8"}
    for name in ("encoder", "decoder"):
        for variant, folder in made.items():
            served = built / "model_repository" / f"translator_{variant}" / "1" / f"{name}.onnx"
            assert served.read_bytes() == (folder / f"{name}.onnx").read_bytes()
        for public in ("translator", "translator_stream"):
            folder, chosen = built / "model_repository" / public / "1", found(built)["chosen"]
            assert (folder / f"{name}.onnx").read_bytes() == (made[chosen["gpu"]] / f"{name}.onnx").read_bytes()
            assert (folder / f"{name}.cpu.onnx").read_bytes() == (made[chosen["cpu"]] / f"{name}.onnx").read_bytes()
    assert (made["int8"] / "encoder.onnx").read_bytes() != (made["fp32"] / "encoder.onnx").read_bytes()


def test_a_target_of_its_own_choice_has_files_and_a_golden_answer_that_both_choices_give(built: Path) -> None:
    files = BuildFiles(built, "translator")
    recipe = load_recipe(load_config(built, "translator"))
    assert isinstance(recipe, Translator)
    fp32, int8 = of_both(recipe.graphs(files)), read_variant(files, recipe, "int8").graphs
    stream, unary = recipe.public(files, {GPU: fp32, CPU: int8})
    assert (stream.name, unary.name) == ("translator_stream", "translator")
    for model in (stream, unary):
        for name in ("encoder", "decoder"):
            for config, graphs in ((model.gpu, fp32), (model.cpu, int8)):
                assert model.files[f"1/{config.parameters[name].string_value}"] == graphs[f"{name}.onnx"].cpu
        (text,), answer = model.inputs["text"].ravel(), [array.item() for array in model.outputs.values()]
        assert text
        for graphs in (fp32, int8):
            decoding = recipe._decoding(files, {name: graph.cpu for name, graph in graphs.items()})
            assert [*_answer(decoding, text)] == answer


def test_int8_that_is_off_is_refused_with_its_layers_and_nothing_that_is_served_changes(
    built: Path, tmp_path: Path
) -> None:
    workspace = tmp_path / "workspace"
    shutil.copytree(built, workspace, symlinks=True)
    served = {path: path.read_bytes() for path in (workspace / "model_repository").rglob("*") if path.is_file()}
    encoder = BuildFiles(workspace, "translator").variants / "int8" / "encoder.onnx"
    encoder.chmod(0o644)
    encoder.write_bytes(with_weights_mixed_up(encoder.read_bytes()))
    result = subprocess.run(
        [f"{BIN}/python", "-m", "model_build", "gate", "translator"],
        cwd=workspace,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 3, result.stderr
    line = error_lines(result)[-1]
    assert re.search(r"variant int8 of translator is refused: .*'encoded' has cosine -?0\.\d+ with FP32's", line)
    assert "worst layers by themselves: node_" in line
    assert {path: path.read_bytes() for path in served} == served
