"""The gate: what lost accuracy, or is not the precision it says, is refused with its reason; the old stays served."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import numpy_helper
from slipway_client import Client

from model_build.dataset import Dataset
from model_build.precision.making import Maker
from model_build.precision.variants import INT8
from serving import EmbeddedTriton, ask_golden, verified_models
from tests.support import BIN, ROOT, environment, error_lines, kill_all, named, slipway, wait_for

Damage = Callable[[Path], None]  # of build/digits


def contents(repository: Path) -> dict[str, str]:
    """Hash of every file that is served."""
    return {
        str(path.relative_to(repository)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(repository.rglob("*"))
        if path.is_file()
    }


def gate(workspace: Path) -> subprocess.CompletedProcess[str]:
    """Stage gate alone, on whatever lies in build/."""
    command = [f"{BIN}/python", "-m", "model_build", "gate", "digits"]
    return subprocess.run(command, cwd=workspace, env=environment(), capture_output=True, text=True, check=False)


def edit_int8(build: Path, edit: Callable[[onnx.ModelProto], None]) -> None:
    """Change both forms of the INT8 variant."""
    for name in ("model.onnx", "model.tensorrt.onnx"):
        path = build / "variants" / "int8" / name
        model = onnx.load(path)
        edit(model)
        path.write_bytes(model.SerializeToString())


def perturb_weights(build: Path) -> None:
    """Other numbers in the last layer."""

    def edit(model: onnx.ModelProto) -> None:
        (weight,) = [one for one in model.graph.initializer if one.name == "classifier.layers.8.weight_quantized"]
        shuffled = np.random.default_rng(5).permutation(numpy_helper.to_array(weight).ravel())
        weight.CopyFrom(numpy_helper.from_array(shuffled.reshape(tuple(weight.dims)), weight.name))

    edit_int8(build, edit)


def calibrate_on_something_else(build: Path) -> None:
    """Images fifty times too dark."""
    inputs = Dataset.from_file(build / "data.npz").validation_inputs[:64] / 50
    maker = Maker("model.onnx", (build / "model.onnx").read_bytes(), [{"image": inputs}], smoothing=0.0)
    graph = maker.make(INT8, ())
    maker.close()
    (build / "variants" / "int8" / "model.onnx").write_bytes(graph.cpu)
    (build / "variants" / "int8" / "model.tensorrt.onnx").write_bytes(graph.gpu)


def put_fp32_under_its_name(build: Path) -> None:
    """The FP32 file."""
    for name in ("model.onnx", "model.tensorrt.onnx"):
        (build / "variants" / "int8" / name).write_bytes((build / "model.onnx").read_bytes())


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            perturb_weights,
            r"accuracy is 0\.\d+ where FP32 has 0\.98\d+ \(precision\.int8\.max_drop 0\.01\); 'probabilities' is off "
            r"by .*; worst layers by themselves: node_linear \(classifier\.layers\.8\.weight\) -?\d+ dB: model",
        ),
        (
            calibrate_on_something_else,
            r"accuracy is 0\.\d+ where FP32 has .*worst layers by themselves: .* of its input beyond the calibrated "
            r"range",
        ),
        (
            put_fp32_under_its_name,
            r"the file holds 0 of 3 layers in INT8, not node_conv2d, node_conv2d_1, node_linear: model_repository/ was",
        ),
    ],
)
def test_a_broken_int8_variant_is_refused_with_what_is_wrong_and_nothing_is_written(
    workspace: Path, damage: Damage, reason: str
) -> None:
    before = contents(workspace / "model_repository")
    damage(workspace / "build" / "digits")
    staged = contents(workspace / "build" / "digits" / "staged")
    result = gate(workspace)
    assert result.returncode == 3
    (line,) = [line for line in error_lines(result) if line.startswith("error: ")]
    assert line.startswith("error: gate@digits: variant int8 of digits is refused: ")
    assert re.search(reason, line), line
    assert "model_repository/ was not changed" in line
    assert contents(workspace / "model_repository") == before
    assert contents(workspace / "build" / "digits" / "staged") == staged
    assert not list((workspace / "build" / "digits").glob(".staged.*"))


def test_the_server_that_is_asked_is_the_one_whose_answers_count(workspace: Path) -> None:
    """What only the server is asked for is wrong, as an input that it reads in another way would be."""
    recipe = workspace / "model_build" / "models" / "digits.py"
    text = recipe.read_text()
    other = (
        "\n\n    def requests(self, files):\n"
        "        return [{'image': 1 - one['image']} for one in super().requests(files)]\n"
        "\n    def answer(self, files, graphs):\n"
        "        self.requests = super().requests\n"
        "        try:\n"
        "            return super().answer(files, graphs)\n"
        "        finally:\n"
        "            del self.requests\n"
    )
    marker = "class Digits(SingleGraph):"
    head, _, tail = text.partition(marker)
    first, rest = tail.split("\n\n", 1)
    recipe.write_text(head + marker + first + other + "\n" + rest)
    before = contents(workspace / "model_repository")
    result = gate(workspace)
    assert result.returncode == 3, result.stderr
    (line,) = [line for line in error_lines(result) if line.startswith("error: ")]
    assert "variant fp32 of digits is refused: served, accuracy is 0." in line
    assert contents(workspace / "model_repository") == before


def test_a_gate_that_is_killed_while_it_asks_leaves_the_old_repository_serving_and_no_server_behind(
    workspace: Path, serve: Callable[..., EmbeddedTriton]
) -> None:
    before = contents(workspace / "model_repository")
    with serve(workspace / "model_repository") as old:
        old.wait_ready()
        process = subprocess.Popen(
            [f"{BIN}/slipway", "build", "digits", "triton.max_queue_delay_us=500"],
            cwd=workspace,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        servers: list[psutil.Process] = []

        def asks() -> bool:
            assert process.poll() is None
            children = psutil.Process(process.pid).children(recursive=True)
            servers[:] = named(children, "tritonserver")
            return bool(servers)

        wait_for(asks, "the gate has started its server")
        kill_all(process, but=servers)
        process.wait(30)
        wait_for(lambda: not any(one.is_running() for one in servers), "the gate's server has ended")
        assert contents(workspace / "model_repository") == before
        for model in old.models:
            assert ask_golden(old.options.http_url, model)
    assert verified_models(workspace / "model_repository")
    again = slipway(workspace, "build", "digits")
    assert again.returncode == 0, again.stderr
    assert "max_queue_delay_microseconds: 500" in (workspace / "model_repository/digits_int8/config.pbtxt").read_text()
    assert not list((workspace / "build" / "digits").glob(".staged.*"))


def test_without_the_embedded_triton_the_gate_says_what_is_missing(workspace: Path) -> None:
    (workspace / ".venv-triton").unlink()
    shutil.copy(ROOT / "Makefile", workspace)
    before = contents(workspace / "model_repository")
    result = gate(workspace)
    assert result.returncode == 1
    assert "error: gate@digits: " in error_lines(result)[-1]
    assert "make env" in error_lines(result)[-1]
    assert contents(workspace / "model_repository") == before


def test_the_public_name_answers_as_the_variant_that_was_chosen(built_workspace: Path, server: EmbeddedTriton) -> None:
    manifest = json.loads((built_workspace / "model_repository" / "digits" / "manifest.json").read_text())
    found = manifest["variants"]
    assert set(found["found"]) == {"fp32", "fp16", "int8"}
    assert found["chosen"]["gpu"] == "fp32"
    assert found["found"]["fp16"]["cpu"]["verdict"] == "GPUs only"
    assert found["found"]["int8"]["gpu"]["verdict"] == "not measured"
    served = found["found"]["int8"]["cpu"]
    assert (served["verdict"], served["running"]) == ("passes", 3)
    assert served["served"]["metric"] >= served["served"]["fp32"] - 0.01
    image = Dataset.from_file(built_workspace / "build" / "digits" / "data.npz").test_inputs[:4]
    with Client(server.options.http_url) as client:
        public = client.model("digits")(image=image)["probabilities"]
        chosen = client.model(f"digits_{found['chosen']['cpu']}")(image=image)["probabilities"]
    np.testing.assert_array_equal(public, chosen)


def test_a_variant_that_is_dropped_goes_from_pipeline_lock_and_repository_and_comes_back(workspace: Path) -> None:
    repository = workspace / "model_repository"
    dropped = slipway(workspace, "build", "digits", "precision.variants=[int8]")
    assert dropped.returncode == 0, dropped.stderr
    assert not (repository / "digits_fp16").exists()
    assert "fp16@digits" not in (workspace / "dvc.lock").read_text()
    assert [one.name for one in verified_models(repository)] == ["digits", "digits_fp32", "digits_int8"]
    back = slipway(workspace, "build", "digits", "precision.variants=[fp16,int8]")
    assert back.returncode == 0, back.stderr
    assert (repository / "digits_fp16" / "1" / "model.onnx").is_file()


def test_layers_are_kept_in_fp32_when_asked(workspace: Path) -> None:
    result = slipway(workspace, "build", "digits", "--keep-fp32", "node_conv2d")
    assert result.returncode == 0, result.stderr
    table = json.loads(slipway(workspace, "variants", "digits", "--json").stdout)
    one = table["found"]["int8"]["cpu"]
    assert (one["kept_fp32"], one["layers"], one["running"]) == (["node_conv2d"], 2, 2)
    unknown = slipway(workspace, "build", "digits", "--keep-fp32", "conv9")
    assert unknown.returncode == 1
    (line,) = [line for line in error_lines(unknown) if "conv9" in line and line.startswith("error: variants@")]
    assert "expected layers of the model, which has node_conv2d, node_conv2d_1, node_linear" in line
