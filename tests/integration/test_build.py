"""`slipway build`: what is stale runs, the same seed gives the same bytes, and a kill at any moment costs nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
import yaml

from serving import verified_models
from tests.support import BIN, environment, error_lines, kill_all, make_workspace, slipway, wait_for

PASSED = ["gate@digits", "fp16@digits", "int8@digits", "repository@digits"]  # what runs after another gate
STAGES = ["data@digits", "train@digits", "export@digits", "infer@digits", "variants@digits", *PASSED]
VARIANTS = ["digits_fp16", "digits_fp32", "digits_int8"]
SERVED = ["digits", *VARIANTS]
ONNX = {name: {"1/model.onnx"} for name in VARIANTS}
ONNX |= {"digits": set(), "digits_int8": {"1/model.onnx", "1/model.tensorrt.onnx"}}
IN_GIT = {"config.pbtxt", "configs/cpu.pbtxt", "labels.txt"}


def manifest(workspace: Path, served: str = "digits") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((workspace / "model_repository" / served / "manifest.json").read_text())
    return content


def hashes(workspace: Path) -> dict[str, str]:
    """Of every file of the variants: where the public name is routed follows from a measurement."""
    return {
        f"{served}/{name}": entry["sha256"]
        for served in VARIANTS
        for name, entry in manifest(workspace, served)["files"].items()
    }


def contents(workspace: Path) -> dict[str, bytes]:
    """Every file that is served, the routing included; not what a kill left of one that was being written."""
    folder = workspace / "model_repository"
    found = (path for path in folder.glob("*/**/*") if path.is_file() and path.suffix != ".tmp")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def ran(result: subprocess.CompletedProcess[str]) -> list[str]:
    assert result.returncode == 0, result.stderr
    last = result.stdout.strip().splitlines()[-1]
    return last.partition(": ran ")[2].split(", ") if ": ran " in last else []


def run(workspace: Path, *command: str) -> str:
    result = subprocess.run(command, cwd=workspace, env=environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
    return result.stdout


@pytest.mark.parametrize("served", SERVED)
def test_the_repository_holds_what_triton_serves_and_a_manifest_of_it(built_workspace: Path, served: str) -> None:
    folder = built_workspace / "model_repository" / served
    content = manifest(built_workspace, served)
    for name, entry in content["files"].items():
        data = (folder / name).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (entry["sha256"], entry["bytes"])
    of_its_own = ONNX[served] or {"1/ensemble.txt"}
    assert set(content["files"]) == {*IN_GIT, "golden/request.json", "golden/response.json", *of_its_own}
    assert set(content["onnx"]) == ONNX[served]
    for name in ONNX[served]:
        model = onnx.load(folder / name)
        assert content["onnx"][name]["ir_version"] == model.ir_version == 10
        assert content["onnx"][name]["opset"] == 20
    assert content["model"] == "digits"
    assert content["gate"]["value"] >= content["gate"]["minimum"] == 0.97
    assert content["gate"]["examples"] == 360
    head = run(built_workspace, "git", "rev-parse", "HEAD").strip()
    assert content["git"] == {"commit": head, "dirty": False}
    assert {"torch", "onnx", "onnxruntime", "python"} <= set(content["tools"])
    assert [line.strip() for line in (folder / "labels.txt").read_text().splitlines()] == list("0123456789")


def test_the_public_name_says_what_was_found_of_each_variant_and_is_routed_to_one_that_passes(
    built_workspace: Path,
) -> None:
    found = manifest(built_workspace)["variants"]
    assert {f"digits_{variant}" for variant in found["found"]} == set(VARIANTS)
    for target, config in (("cpu", "configs/cpu.pbtxt"), ("gpu", "config.pbtxt")):
        chosen = found["chosen"][target]
        assert found["found"][chosen][target]["verdict"] == "passes"
        text = (built_workspace / "model_repository" / "digits" / config).read_text()
        assert re.findall(r'model_name: "(\w+)"', text) == [f"digits_{chosen}"]


def test_git_holds_the_configuration_and_dvc_the_weights(built_workspace: Path) -> None:
    untracked = run(built_workspace, "git", "ls-files", "--others", "--exclude-standard", "model_repository").split()
    in_git = {name for name in untracked if not name.endswith(".gitignore")}
    assert in_git == {f"model_repository/{served}/{name}" for served in SERVED for name in IN_GIT}
    lock = (built_workspace / "dvc.lock").read_text()
    for served in SERVED:
        for name in (*(ONNX[served] or {"1/ensemble.txt"}), "golden", "manifest.json"):
            assert f"path: model_repository/{served}/{name}\n" in lock


def test_stages_that_are_not_stale_do_not_run_again_and_stale_ones_do(workspace: Path) -> None:
    assert ran(slipway(workspace, "build", "digits")) == []
    changed = slipway(workspace, "build", "digits", "triton.max_queue_delay_us=1000")
    assert ran(changed) == ["variants@digits", *PASSED]
    assert "max_queue_delay_microseconds: 1000" in (workspace / "model_repository/digits_fp32/config.pbtxt").read_text()
    kept = slipway(workspace, "build", "digits", "--keep-fp32", "node_conv2d")
    assert ran(kept) == ["variants@digits", *PASSED]


def test_the_same_seed_gives_the_same_weights_in_another_folder_and_another_seed_gives_others(
    built_workspace: Path, tmp_path: Path
) -> None:
    other = make_workspace(tmp_path / "elsewhere")
    assert ran(slipway(other, "build", "digits")) == STAGES
    assert hashes(other) == hashes(built_workspace)
    result = slipway(other, "build", "digits", "seed=4", "train.epochs=20", "precision.variants=[]")
    assert ran(result) == [stage for stage in STAGES[1:] if not stage.startswith(("fp16", "int8"))]
    another = manifest(other, "digits_fp32")["files"]["1/model.onnx"]["sha256"]
    assert another != hashes(built_workspace)["digits_fp32/1/model.onnx"]


def test_another_file_under_the_same_name_is_read_again(workspace: Path, tmp_path: Path) -> None:
    header = ",".join(["label", *(f"pixel{i}" for i in range(784))])
    pixels = np.random.default_rng(3).integers(0, 256, (200, 784))
    lines = [",".join(map(str, [row % 10, *values])) for row, values in enumerate(pixels)]
    path = tmp_path / "train.csv"
    path.write_text("\n".join([header, *lines]))
    quick = ["train.epochs=1", "gate.minimum=0", "precision.variants=[]", f"data.path={path}"]
    stages = [stage for stage in STAGES if not stage.startswith(("fp16", "int8"))]
    assert ran(slipway(workspace, "build", "digits", *quick)) == stages
    assert ran(slipway(workspace, "build", "digits")) == []
    path.write_text("\n".join([header, *lines[1:], lines[5]]))
    assert ran(slipway(workspace, "build", "digits")) == stages


def test_a_rebuild_of_known_weights_adds_to_the_run_that_trained_them(workspace: Path) -> None:
    database = f"file:{workspace}/build/mlflow/mlflow.db?mode=ro"

    def runs() -> list[tuple[str]]:
        with closing(sqlite3.connect(database, uri=True)) as connection:
            return connection.execute("select run_uuid from tags where key = 'slipway.weights_sha256'").fetchall()

    before = runs()
    assert len(before) == 1
    assert ran(slipway(workspace, "build", "digits", "gate.golden_atol=0.0002")) == PASSED
    moved = runs()  # the copy of the workspace has a place of its own, and so a new run
    assert ran(slipway(workspace, "build", "digits", "gate.golden_atol=0.0003")) == PASSED
    assert runs() == moved


def test_a_model_below_the_gate_is_refused_and_the_old_one_stays(workspace: Path) -> None:
    before = contents(workspace)
    result = slipway(workspace, "build", "digits", "train.epochs=1")
    assert result.returncode == 3
    (line,) = [line for line in error_lines(result) if "is below" in line]
    assert "is below gate.minimum 0.97: model_repository/ was not changed" in line
    assert contents(workspace) == before
    assert [model.name for model in verified_models(workspace / "model_repository")] == SERVED


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, of SQLAlchemy
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_mlflow_has_parameters_curves_commit_and_a_model_that_it_can_load(
    built_workspace: Path, tmp_path: Path
) -> None:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{built_workspace}/build/mlflow/mlflow.db")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("digits")
    (found,) = client.search_runs([experiment.experiment_id])
    parameters, metrics = found.data.params, found.data.metrics
    assert parameters["train.epochs"] == "30"
    assert parameters["found.parameters"] == "9098"
    assert 1 <= int(parameters["found.best_epoch"]) <= 30
    curves = [name for name in metrics if len(client.get_metric_history(found.info.run_id, name)) == 30]
    assert len(curves) >= 4
    assert metrics["test_accuracy"] == pytest.approx(manifest(built_workspace)["gate"]["value"])
    assert found.data.tags["slipway.git.commit"] == manifest(built_workspace)["git"]["commit"]
    image = np.zeros((2, 1, 28, 28), np.float32)
    (tmp_path / "request.json").write_text(json.dumps({"inputs": {"image": image.tolist()}}))
    command = ["mlflow", "models", "predict", "-m", f"runs:/{found.info.run_id}/model", "--env-manager", "local"]
    answer = subprocess.run(
        [f"{BIN}/{command[0]}", *command[1:], "-i", str(tmp_path / "request.json")],
        env=environment(MLFLOW_TRACKING_URI=f"sqlite:///{built_workspace}/build/mlflow/mlflow.db"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert np.array(json.loads(answer.stdout)["predictions"]["probabilities"]).shape == (2, 10)


def test_a_tracking_server_that_is_away_is_one_line_and_nothing_is_written(workspace: Path) -> None:
    before = contents(workspace)
    result = subprocess.run(
        [f"{BIN}/slipway", "build", "digits", "seed=9"],
        cwd=workspace,
        env=environment(MLFLOW_TRACKING_URI="http://127.0.0.1:9"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    (line,) = [line for line in error_lines(result) if "MLflow" in line]
    assert "MLflow at http://127.0.0.1:9 failed" in line
    assert "unset MLFLOW_TRACKING_URI" in line
    assert contents(workspace) == before


def test_what_one_person_pushes_another_pulls_and_can_serve(workspace: Path, tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    run(workspace, f"{BIN}/dvc", "remote", "add", "-d", "store", str(remote))
    run(workspace, f"{BIN}/dvc", "push")
    run(workspace, "git", "add", "-A")
    run(workspace, "git", "-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", "built")
    clone = tmp_path / "clone"
    run(workspace, "git", "clone", "-q", str(workspace), str(clone))
    assert not (clone / "model_repository/digits_fp32/1/model.onnx").exists()
    run(clone, f"{BIN}/dvc", "pull", "--with-deps", "repository@digits", "fp16@digits", "int8@digits")
    assert hashes(clone) == hashes(workspace)
    assert manifest(clone) == manifest(workspace)
    assert [model.name for model in verified_models(clone / "model_repository")] == SERVED
    assert ran(slipway(clone, "build", "digits")) == []


Kill = Callable[[subprocess.Popen[bytes]], None]


def everything(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the command, DVC and the stage at once."""
    kill_all(process)


def the_stage(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the stage alone."""
    psutil.Process(process.pid).children(recursive=True)[-1].kill()


def ctrl_c(process: subprocess.Popen[bytes]) -> None:
    """SIGINT to the whole process group, as a terminal sends it."""
    os.killpg(process.pid, signal.SIGINT)


@pytest.mark.parametrize(
    ("stage", "kill", "code"),
    [
        ("train@digits", everything, -9),
        ("train@digits", the_stage, 137),
        ("train@digits", ctrl_c, 130),
        ("export@digits", everything, -9),
        ("variants@digits", everything, -9),
        ("gate@digits", ctrl_c, 130),
        ("gate@digits", everything, -9),
        ("int8@digits", everything, -9),
        ("repository@digits", everything, -9),
    ],
)
def test_a_build_killed_in_any_stage_changes_nothing_served_and_ends_the_same_when_run_again(
    workspace: Path, built_workspace: Path, stage: str, kill: Kill, code: int
) -> None:
    before = contents(workspace)
    forget(workspace, stage)
    process = subprocess.Popen(
        [f"{BIN}/slipway", "build", "digits"],
        cwd=workspace,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    wait_for(lambda: at_work(process, stage), f"stage {stage} is at work", 150)
    kill(process)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors.decode()
    assert b"Traceback" not in errors
    assert contents(workspace) == before
    assert [model.name for model in verified_models(workspace / "model_repository")] == SERVED
    assert stage in ran(slipway(workspace, "build", "digits"))
    assert hashes(workspace) == hashes(built_workspace)
    assert list(workspace.rglob("*.tmp")) == []
    assert list((workspace / "build" / "digits").glob(".staged.*")) == []


def test_a_list_of_locks_that_a_killed_dvc_left_cut_off_is_made_anew(workspace: Path) -> None:
    (workspace / ".dvc" / "tmp" / "rwlock").write_text("")
    assert ran(slipway(workspace, "build", "digits", "gate.golden_atol=0.0002")) == PASSED


@pytest.mark.parametrize("left", [10, -5])
def test_a_lock_file_that_a_killed_dvc_left_cut_off_is_the_one_of_the_build_before(workspace: Path, left: int) -> None:
    whole = (workspace / "dvc.lock").read_bytes()
    assert ran(slipway(workspace, "build", "digits")) == []
    (workspace / "dvc.lock").write_bytes(whole[:left])
    assert ran(slipway(workspace, "build", "digits")) == []
    assert (workspace / "dvc.lock").read_bytes() == whole


def test_a_lock_file_cut_off_in_the_first_build_is_begun_again_out_of_the_cache(workspace: Path) -> None:
    whole = (workspace / "dvc.lock").read_bytes()
    (workspace / "dvc.lock").write_bytes(b"")
    result = slipway(workspace, "build", "digits")
    assert ran(result) == STAGES
    assert "Stage 'train@digits' is cached" in result.stdout
    assert yaml.safe_load((workspace / "dvc.lock").read_text()) == yaml.safe_load(whole)


def test_a_lock_file_that_no_build_has_seen_whole_is_one_line_that_says_what_to_do(workspace: Path) -> None:
    (workspace / "dvc.lock").write_text("stages: {")
    (workspace / ".dvc" / "tmp" / "dvc.lock.whole").unlink()
    result = slipway(workspace, "build", "digits")
    assert result.returncode == 1
    (line,) = error_lines(result)
    assert line.endswith("dvc.lock is no lock file that DVC can read: `git checkout dvc.lock`")
    assert (workspace / "dvc.lock").read_text() == "stages: {"


def forget(workspace: Path, stage: str) -> None:
    """Let DVC not know that the stage has run: the next build begins with it."""
    lock = workspace / "dvc.lock"
    known = yaml.safe_load(lock.read_text())
    del known["stages"][stage]
    lock.write_text(yaml.safe_dump(known, sort_keys=False))
    shutil.rmtree(workspace / ".dvc" / "cache" / "runs")


def test_ctrl_c_while_a_stage_still_imports_ends_it_without_a_traceback(built_workspace: Path) -> None:
    process = subprocess.Popen(
        [f"{BIN}/python", "-m", "model_build", "train", "digits"],
        cwd=built_workspace,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    wait_for(lambda: has_loaded(process.pid, "/yaml/_yaml"), "the stage imports")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (-signal.SIGINT, b"")


def at_work(process: subprocess.Popen[bytes], stage: str) -> bool:
    """Whether this stage runs below the process, past its imports: those that only copy are waited for."""
    assert process.poll() is None
    commands = {"repository@digits": "repository digits", "int8@digits": "repository digits int8"}
    library = "/yaml/_yaml" if stage in commands else "libtorch"
    command = f"-m model_build {commands.get(stage, stage.replace('@', ' '))}".split()
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.Error, FileNotFoundError, ProcessLookupError):
            while child.cmdline()[1:] == command:
                if has_loaded(child.pid, library) and answers_ctrl_c(child.pid):
                    return True
    return False


def has_loaded(pid: int, library: str) -> bool:
    """Whether the process has mapped a library with this in its path."""
    return library in Path(f"/proc/{pid}/maps").read_text()


def answers_ctrl_c(pid: int) -> bool:
    """Whether the process catches SIGINT, by the bit mask that Linux shows of it."""
    caught = Path(f"/proc/{pid}/status").read_text().partition("SigCgt:\t")[2].split()[0]
    return bool(int(caught, 16) & 1 << signal.SIGINT - 1)
