"""Stages variants and repository, and the report of them: what they write, and what is a line instead."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import helper
from rich.console import Console

import slipway
from model_build import ConfigurationError, DataError
from model_build.config import PrecisionConfig, ServedConfig, VariantConfig, load_config
from model_build.files import write_files
from model_build.pipeline import override
from model_build.precision.report import notes, read_found, rows
from model_build.precision.variants import FP16
from model_build.stages import repository, variants
from model_build.stages.layout import BuildFiles
from model_build.stages.staging import _manifest
from tests.precision_graphs import exported, hand_made
from tests.precision_trials import Chain, chain, probe
from tests.support import ROOT, environment


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_stage_variants_writes_a_folder_for_each_variant_and_the_same_bytes_twice(tmp_path: Path) -> None:
    recipe, files = probe(tmp_path, chain())
    assert variants.run(tmp_path, recipe.config) == "fp16, int8"
    written = contents(files.variants)
    assert set(written) == {
        "made.json",
        "fp16/model.onnx",
        "fp16/kept.json",
        "int8/model.onnx",
        "int8/model.tensorrt.onnx",
        "int8/kept.json",
    }
    assert json.loads(written["made.json"]) == ["fp16", "int8"]
    shutil.rmtree(files.variants)
    variants.run(tmp_path, recipe.config)
    assert contents(files.variants) == written


def test_stage_variants_of_a_model_without_variants_leaves_a_folder_all_the_same(tmp_path: Path) -> None:
    recipe, files = probe(tmp_path, chain(), variants=[])
    assert variants.run(tmp_path, recipe.config) == "none but FP32"
    assert contents(files.variants) == {"made.json": b"[]\n"}


def test_a_full_disk_leaves_the_old_variants_and_nothing_half_written(tmp_path: Path) -> None:
    """A limit on the size of a file stands for the disk: it is reached in the middle of one."""
    recipe, files = probe(tmp_path, chain(), variants=[FP16])
    variants.run(tmp_path, recipe.config)
    before = contents(files.variants)
    largest = max(map(len, before.values()))
    files.onnx.write_bytes(exported(Chain(hopeless=False), 8))
    code = (
        "import resource, signal, sys\nfrom pathlib import Path\nfrom dataclasses import replace\n"
        "from model_build.config import PrecisionConfig, load_config\nfrom model_build.stages import variants\n"
        "from tests.precision_trials import Probe\n"
        f"config = replace(load_config(Path({str(ROOT)!r}), 'digits'), name='probe', "
        "recipe='tests.precision_trials.Probe', precision=PrecisionConfig(variants=['fp16']))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({largest // 2}, {largest // 2}))\n"
        f"try:\n    variants.run(Path({str(tmp_path)!r}), config)\n"
        "except OSError as error:\n    sys.exit(error.strerror)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr.strip()) == (1, os.strerror(27))
    assert contents(files.variants) == before
    variants.run(tmp_path, recipe.config)
    assert contents(files.variants) != before


def config_with(*names: str) -> ServedConfig:
    config = load_config(ROOT, "digits")
    assert isinstance(config, ServedConfig)
    return replace(config, precision=PrecisionConfig(variants=list(names)))


@pytest.fixture
def staged(tmp_path: Path) -> BuildFiles:
    """What the gate would leave."""
    files = BuildFiles(tmp_path, "digits")
    folder = files.staged / "repository"
    names = ("digits_fp32", "digits", "digits_int8")
    files_of = {folder / name / file: name.encode() for name in names for file in ("manifest.json", "1/model.onnx")}
    index = {"base": ["digits_fp32", "digits"], "int8": ["digits_int8"]}
    write_files({**files_of, files.staged / "index.json": json.dumps(index).encode()})
    return files


def test_stage_repository_writes_the_folders_of_one_variant_and_removes_what_it_no_longer_serves(
    staged: BuildFiles,
) -> None:
    old = staged.repository / "digits_int8" / "1" / "model.plan"
    write_files({old: b"old", staged.repository / "digits" / "manifest.json": b"other"})
    said = repository.run(staged.workspace, config_with("int8"), "int8")
    assert said == "written to model_repository/: digits_int8"
    assert contents(staged.repository) == {
        "digits/manifest.json": b"other",
        "digits_int8/manifest.json": b"digits_int8",
        "digits_int8/1/model.onnx": b"digits_int8",
    }
    repository.run(staged.workspace, config_with("int8"))
    assert (staged.repository / "digits" / "manifest.json").read_bytes() == b"digits"
    assert (staged.repository / "digits_fp32" / "1" / "model.onnx").read_bytes() == b"digits_fp32"


def test_a_variant_that_the_configuration_dropped_is_one_line(staged: BuildFiles) -> None:
    with pytest.raises(ConfigurationError) as refused:
        repository.run(staged.workspace, config_with("fp16"), "int8")
    assert str(refused.value) == (
        "dvc.yaml asks for variant 'int8' of digits, whose precision.variants are ['fp16'] out of ['fp16', 'int8']: "
        "run `slipway build digits`, which brings dvc.yaml in line"
    )
    assert not staged.repository.exists()


def test_a_variant_that_the_gate_has_not_staged_is_one_line(staged: BuildFiles) -> None:
    with pytest.raises(
        DataError, match=r"staged/index\.json is not what stage gate writes \(.*fp16.*\): run `dvc repro"
    ):
        repository.run(staged.workspace, config_with("fp16", "int8"), "fp16")


@pytest.mark.parametrize("index", [None, b"{", b"[]"])
def test_a_gate_that_has_staged_nothing_is_one_line(staged: BuildFiles, index: bytes | None) -> None:
    path = staged.staged / "index.json"
    path.unlink()
    if index:
        path.write_bytes(index)
    with pytest.raises(DataError, match=r"staged/index\.json is not what stage gate writes \(.*\): run `dvc repro`"):
        repository.run(staged.workspace, config_with("int8"), "int8")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "model_build" / "conf", tmp_path / "model_build" / "conf")
    return tmp_path


def test_a_report_of_a_model_that_was_not_built_or_that_there_is_not_is_one_line(workspace: Path) -> None:
    with pytest.raises(
        DataError, match=r"^model 'digits' has no .*/digits/manifest\.json: run `slipway build digits`$"
    ):
        read_found(workspace, "digits")
    with pytest.raises(ConfigurationError, match=r"^no configuration for model 'absent': "):
        read_found(workspace, "absent")


@pytest.mark.parametrize("manifest", [b"{}", b"[]", b"{", b'"text"'])
def test_a_manifest_without_variants_is_one_line(workspace: Path, manifest: bytes) -> None:
    write_files({workspace / "model_repository" / "digits" / "manifest.json": manifest})
    with pytest.raises(DataError, match=r"manifest\.json says nothing of variants: .*`slipway build digits`\)$") as no:
        read_found(workspace, "digits")
    assert "\n" not in str(no.value)


def test_a_report_has_a_row_for_each_variant_and_target_with_the_served_answer_before_the_one_in_process(
    workspace: Path,
) -> None:
    far = {"y": {"max_abs": 0.02, "cosine_mean": 0.999}, "z": {"max_abs": 0.03, "cosine_mean": 0.9995}}
    served = {"metric": 0.9, "fp32": 0.91, "distance": far}
    nearer = {"metric": 0.5, "fp32": 0.91, "distance": {}}
    speed = {"ratio": 2.5, "low": 2.0, "high": 3.0}
    one = {"verdict": "passes", "reason": "", "bytes": 2048, "layers": 3, "kept_fp32": ["a"], "speed": speed}
    one["share"] = {"weights": 0.996, "flops": 0.004}
    found = {
        "metric": "accuracy",
        "found": {
            "fp32": {"cpu": {"verdict": "passes", "reason": "the others' measure", "bytes": 4096}},
            "int8": {"cpu": {**one, "served": served, "in_process": nearer}},
        },
        "chosen": {"cpu": "int8", "gpu": "fp32"},
    }
    path = workspace / "model_repository" / "digits" / "manifest.json"
    write_files({path: json.dumps({"variants": found}).encode()})
    assert rows(read_found(workspace, "digits")) == [
        ["variant", "target", "KiB", "speed", "max abs", "cosine", "accuracy", "FLOPs", "verdict"],
        ["fp32", "cpu", "4", "-", "-", "-", "-", "-", "passes"],
        ["int8", "cpu", "2", "2.50x", "0.03", "0.9990", "0.9000", "1%", "passes"],
    ]
    assert notes(read_found(workspace, "digits")) == [
        "fp32 on cpu: the others' measure",
        "int8 on cpu: 99% of the products' weights and 1% of their FLOPs are in INT8, 1 layer kept in FP32, 2.00 to "
        "3.00 times as fast as FP32",
        "chosen on cpu: int8",
        "chosen on gpu: fp32",
    ]


def test_outputs_without_a_cosine_or_a_distance_have_none_in_the_report() -> None:
    far = {"score": {"max_abs": 0.02, "relative": 0.1}, "text": {"changed": 0.5}}
    served = {"metric": 0.9, "fp32": 0.91, "distance": {"text": {"changed": 0.5}}}
    one = {"verdict": "passes", "reason": "", "bytes": 2048, "served": served, "in_process": {"distance": far}}
    found = {"metric": "bleu", "found": {"int8": {"cpu": one}}, "chosen": {}}
    assert rows(found)[1] == ["int8", "cpu", "2", "-", "0.02", "-", "0.9000", "-", "passes"]


@pytest.mark.parametrize("metric", ["accuracy", "mean_reciprocal_rank"])
def test_the_table_of_a_large_model_fits_80_columns(metric: str) -> None:
    far = {"y": {"max_abs": 0.00026, "cosine_mean": 0.9963}}
    one = {
        "verdict": "not measured",
        "reason": "",
        "bytes": 999_999 * 1024,
        "share": {"weights": 1.0, "flops": 1.0},
        "speed": {"ratio": 1.77, "low": 1.54, "high": 2.12},
        "served": {"metric": 95.2911, "fp32": 95.0, "distance": far},
    }
    found = {"metric": metric, "found": {"int8": {"cpu": one}}, "chosen": {}}
    console = Console(width=80)
    with console.capture() as printed:
        console.print(slipway._table(rows(found)))
    assert len(printed.get().splitlines()) == 2, printed.get()
    assert notes(found)[0].startswith("int8 on cpu: " if metric == "accuracy" else f"metric: {metric}")


TREE = ("TreeEnsembleRegressor", "ai.onnx.ml")


def tree() -> bytes:
    """One tree of one split for each of four answers, as skl2onnx writes forests: of no operator of ONNX itself."""
    targets = range(4)
    node = helper.make_node(
        TREE[0],
        ["x"],
        ["y"],
        domain=TREE[1],
        name="forest",
        n_targets=4,
        nodes_treeids=[0, 0, 0],
        nodes_nodeids=[0, 1, 2],
        nodes_featureids=[0, 0, 0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
        nodes_values=[0.0, 0.0, 0.0],
        nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0],
        target_treeids=[0] * 8,
        target_nodeids=[1] * 4 + [2] * 4,
        target_ids=[*targets, *targets],
        target_weights=[1.0, 0.0, 0.5, 0.2, 0.0, 1.0, 0.3, 0.1],
    )
    model = onnx.load_from_string(hand_made([node], {}, 8))
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid(TREE[1], 3))
    content: bytes = model.SerializeToString()
    return content


def test_trees_have_no_variants_and_the_line_that_says_so_has_the_command_that_builds_them(
    tmp_path: Path, workspace: Path
) -> None:
    recipe, files = probe(tmp_path, tree())
    with pytest.raises(ConfigurationError) as refused:
        variants.run(tmp_path, recipe.config)
    assert str(refused.value) == (
        "probe cannot be served in fp16 and int8: FP16 and INT8 are for convolutions and matrix products with constant "
        "weights, and model.onnx has none (TreeEnsembleRegressor): `slipway build probe precision.variants=[]`"
    )
    assert not files.variants.exists()
    override(workspace, "digits", [str(refused.value).rpartition(" ")[2].strip("`")])
    config = load_config(workspace, "digits")
    assert isinstance(config, ServedConfig)
    assert config.precision.variants == []
    recipe, files = probe(tmp_path, tree(), variants=[])
    assert variants.run(tmp_path, recipe.config) == "none but FP32"


def test_the_variants_that_can_be_are_left_in_the_command(tmp_path: Path) -> None:
    recipe, _ = probe(
        tmp_path, chain(), int8=VariantConfig(keep_fp32=[f"node_linear{one}" for one in ("", "_1", "_2")])
    )
    with pytest.raises(ConfigurationError) as refused:
        variants.run(tmp_path, recipe.config)
    assert str(refused.value).startswith("probe cannot be served in int8: no more than 14% of the weights and 14% of ")
    assert str(refused.value).endswith(
        "(precision.int8.min_share 0.5), not node_linear (Gemm), node_linear_1 (Gemm), node_linear_2 (Gemm): "
        "`slipway build probe precision.variants=[fp16]`"
    )


def test_the_manifest_names_the_opset_of_the_file_and_not_that_of_the_configuration(tmp_path: Path) -> None:
    older = onnx.load_from_string(hand_made([helper.make_node("Relu", ["x"], ["y"])], {}, 4))
    next(one for one in older.opset_import if not one.domain).version = 17
    recipe, files = probe(tmp_path, chain())
    assert recipe.config.export.opset == 20
    contents = {"1/old.onnx": older.SerializeToString(), "1/tree.onnx": tree(), "1/new.onnx": chain()}
    manifest = _manifest(files, recipe, {"metric": "accuracy", "value": 1.0}, contents)
    opsets = {name: one["opset"] for name, one in manifest["onnx"].items()}
    assert opsets == {"1/old.onnx": 17, "1/tree.onnx": None, "1/new.onnx": 20}
