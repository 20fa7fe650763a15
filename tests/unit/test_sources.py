"""What a recipe reads is declared and hashed, so that a change makes the model stale; the rest is refused."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors
import safetensors.torch
import torch
import yaml
from dvc.repo import Repo
from onnx import helper

from model_build import BuildError, ConfigurationError
from model_build.config import ModelConfig, load_config
from model_build.imports import own_modules
from model_build.pipeline import build
from model_build.places import is_users
from model_build.sources import hashes
from model_build.watching import watching
from tests.graphs import graph
from tests.support import ROOT, environment

RECIPE = """
import numpy as np
from model_build.recipe import ExportRecipe
from {module}_helpers import scale


class Exported(ExportRecipe):
    stages = "untrained-"

    def export(self, files):
        files.folder.mkdir(parents=True, exist_ok=True)
        read = b"".join(path.read_bytes() for path in sorted(files.workspace.glob("weights/*")))
        files.onnx.write_bytes(read * scale())
        return "copied"
"""
CONF = """
defaults:
  - untrained_schema
  - _self_
name: mine
recipe: {module}.Exported
seed: 1
export:
  opset: 20
  ir_version: 10
  parity_atol: 0.0001
"""
PIPELINE = """
stages:
  untrained-files:
    matrix: &untrained
      model: [other]
    cmd: python -m model_build files ${item.model}
    always_changed: true
    outs:
      - build/${item.model}/files.json:
          cache: false
  untrained-export:
    matrix: *untrained
    cmd: python -m model_build export ${item.model}
    deps:
      - build/${item.model}/files.json
    outs:
      - build/${item.model}/model.onnx:
          cache: false
"""


@pytest.fixture
def module(tmp_path: Path) -> str:
    """A name that no other test's recipe has in this process."""
    return f"recipe_{abs(hash(tmp_path))}"


@pytest.fixture
def workspace(tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace of the user's, with a recipe that reads what lies in weights/ and imports a module beside it."""
    conf = tmp_path / "model_build" / "conf"
    conf.mkdir(parents=True)
    (conf / "mine.yaml").write_text(CONF.format(module=module))
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    (tmp_path / f"{module}.py").write_text(RECIPE.format(module=module))
    (tmp_path / f"{module}_helpers.py").write_text("def scale():\n    return 1\n")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.onnx").write_bytes(b"no graph")
    _wait_until_old()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def _wait_until_old() -> None:
    """Until what was written here was there before any stage that begins now."""
    time.sleep(0.05)


def declare(workspace: Path, *names: str) -> ModelConfig:
    path = workspace / "model_build" / "conf" / "mine.yaml"
    text = path.read_text().partition("files:")[0]
    path.write_text(text + (f"files: {json.dumps(names)}\n" if names else ""))
    return load_config(workspace, "mine")


def test_what_a_recipe_is_made_of_makes_it_stale_and_a_build_that_fails_leaves_dvc_yaml(
    workspace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Through DVC: another file in a declared folder does, what the recipe does not read does not."""
    with contextlib.closing(Repo.init(str(workspace), no_scm=True)):
        before = (workspace / "dvc.yaml").read_bytes()
        with pytest.raises(BuildError, match="stage untrained-export@mine failed"):
            build(workspace, "mine")
    assert "lists the folder weights, which is not declared" in capfd.readouterr().err
    assert (workspace / "dvc.yaml").read_bytes() == before
    export = ["untrained-export@mine"]
    assert build(workspace, "mine", ["files=[weights]"]) == export  # the key is new
    assert "files: [weights]\n" in (workspace / "model_build" / "conf" / "mine.yaml").read_text()
    assert build(workspace, "mine") == []
    (workspace / "weights" / "more.bin").write_bytes(b"more")
    assert build(workspace, "mine") == export
    assert (workspace / "build" / "mine" / "model.onnx").read_bytes().endswith(b"more")
    (workspace / "unrelated.py").write_text("1")
    assert build(workspace, "mine") == []
    shutil.rmtree(workspace / "weights")
    with pytest.raises(ConfigurationError, match=r"files of 'mine' has 'weights', and nothing is at .*: expected"):
        build(workspace, "mine")


def _in_thread(read: Callable[[], Any]) -> None:
    found: list[ConfigurationError] = []

    def run() -> None:
        try:
            read()
        except ConfigurationError as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if found:
        raise found[0]


def _in_fork(path: Path) -> None:
    """And nobody asks how it ended."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads in this process
        process = multiprocessing.get_context("fork").Process(target=_caught, args=(path,))
        process.start()
    process.join()


def _caught(path: Path) -> None:
    with contextlib.suppress(Exception):
        path.read_bytes()


READINGS: dict[str, Callable[[Path], Any]] = {
    "open": lambda path: path.open().close(),
    "os.open": lambda path: os.open(path, os.O_RDONLY),
    "for reading and writing": lambda path: path.open("r+b").close(),
    "bytes as a path": lambda path: Path(os.fsdecode(os.fsencode(path))).read_bytes(),
    "relative": lambda path: Path(os.path.relpath(path)).read_bytes(),
    "numpy.load": lambda path: np.load(path, allow_pickle=True),
    "numpy.fromfile": lambda path: np.fromfile(path, np.uint8),
    "numpy.memmap": lambda path: np.memmap(path, np.uint8, "r"),
    "torch.load": lambda path: torch.load(path),
    "torch.jit.load": lambda path: torch.jit.load(str(path)),
    "torch.export.load": lambda path: torch.export.load(path),
    "torch.UntypedStorage": lambda path: torch.UntypedStorage.from_file(str(path), False, 8),
    "safe_open": lambda path: safetensors.safe_open(str(path), "pt"),
    "safetensors.load_file": lambda path: safetensors.torch.load_file(path),
    "onnx.load": lambda path: onnx.load(path),
    "onnxruntime": lambda path: onnxruntime.InferenceSession(str(path)),
    "onnxruntime by name": lambda path: onnxruntime.InferenceSession(path_or_bytes=path),
    "sqlite3": lambda path: sqlite3.connect(path),
    "sqlite3 by a URI": lambda path: sqlite3.connect(f"file:{path}?mode=ro", uri=True),
    "a process that is forked": lambda path: _in_fork(path),
    "copy": lambda path: shutil.copy2(path, path.with_name("copy")),
    "a process": lambda path: subprocess.run(["cat", path], check=True, stdout=subprocess.DEVNULL),
    "an option of a process": lambda path: subprocess.run(["true", f"--model={path}"], check=True),
    "a process elsewhere": lambda path: subprocess.run(["cat", path.name], cwd=path.parent, stdout=subprocess.DEVNULL),
    "a shell": lambda path: subprocess.run(f"cat {path} > /dev/null", shell=True, check=True),
    "a shell's input": lambda path: subprocess.run(f"cat <{path} >/dev/null", shell=True, check=True),
    "os.system": lambda path: os.system(f"cat {path} > /dev/null"),
    "a thread": lambda path: _in_thread(path.read_bytes),
    "an error that the recipe catches": _caught,
    "a folder that is listed": lambda path: os.listdir(path.parent),  # noqa: PTH208
    "a pattern": lambda path: list(path.parent.glob("*.onnx")),
    "walked": lambda path: list(os.walk(path.parent)),
}


@pytest.mark.parametrize("way", READINGS)
def test_a_file_that_nobody_watches_is_refused_however_it_is_read(workspace: Path, way: str) -> None:
    path = workspace / "weights" / "model.onnx"
    with (
        pytest.raises(ConfigurationError, match=r"(reads|lists the folder) weights.*: files: \[weights") as refused,
        watching(workspace, declare(workspace), "export"),
    ):
        READINGS[way](path)
    assert "\n" not in str(refused.value)
    with watching(workspace, declare(workspace, "weights"), "export"), _its_own_errors():
        READINGS[way](path)


@contextlib.contextmanager
def _its_own_errors() -> Iterator[None]:
    """What a reader says of a file of another kind, as long as it is not a refusal."""
    try:
        yield
    except ConfigurationError:
        raise
    except Exception:  # noqa: BLE001
        return


def test_a_file_is_refused_when_it_is_read_and_not_after_hours(workspace: Path) -> None:
    reached = []

    def recipe() -> None:
        (workspace / "weights" / "model.onnx").read_bytes()
        reached.append(1)

    with pytest.raises(ConfigurationError), watching(workspace, declare(workspace), "export"):
        recipe()
    assert reached == []


def test_the_advice_keeps_what_was_declared_already(workspace: Path) -> None:
    names = ["other.bin", "a name, with: all.bin"]
    for name in names:
        (workspace / name).write_bytes(b"1")
    _wait_until_old()
    with (
        pytest.raises(ConfigurationError, match=r"mine.yaml: files: ") as refused,
        watching(workspace, declare(workspace, "other.bin"), "export"),
    ):
        b"".join((workspace / one).read_bytes() for one in names)
    assert yaml.safe_load(str(refused.value).rpartition("files: ")[2]) == names


def test_what_is_installed_made_by_the_stage_or_known_to_dvc_is_read_freely(workspace: Path, module: str) -> None:
    (workspace / "dvc.yaml").write_text((workspace / "dvc.yaml").read_text().replace("[other]", "[mine]"))
    (workspace / "build" / "mine").mkdir(parents=True)
    (workspace / "build" / "mine" / "model.onnx").write_bytes(b"a stage's")
    (workspace / ".dvc").mkdir()
    (workspace / ".dvc" / "config").touch()
    _wait_until_old()
    with watching(workspace, declare(workspace, "weights/model.onnx"), "export"):
        for path in (np.__file__, "/etc/hostname", "build/mine/model.onnx", ".dvc/config", f"{module}_helpers.py"):
            Path(path).read_bytes()
        (workspace / "weights" / "model.onnx").read_bytes()
        (workspace / "made.bin").write_bytes(b"1")
        (workspace / "made.bin").read_bytes()
        subprocess.run([sys.executable, "-c", "open('by_a_process.bin', 'w')"], check=True)
        (workspace / "by_a_process.bin").read_bytes()
        assert list(workspace.glob("*.absent")) == []
        assert not (workspace / "absent.bin").exists()
    (workspace / "made.bin").read_bytes()  # nobody watches outside


def test_a_link_to_what_nobody_watches_is_refused_and_one_that_is_declared_is_not(
    workspace: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "weights.bin"
    elsewhere.write_bytes(b"1")
    (workspace / "link.bin").symlink_to(elsewhere)
    _wait_until_old()
    with pytest.raises(ConfigurationError, match=r"link\.bin, "), watching(workspace, declare(workspace), "export"):
        (workspace / "link.bin").read_bytes()
    with watching(workspace, declare(workspace, "link.bin"), "export"):
        (workspace / "link.bin").read_bytes()


def test_a_module_that_is_imported_by_a_computed_name_is_refused_until_it_is_declared(workspace: Path) -> None:
    name = f"computed_{abs(hash(workspace))}"
    (workspace / f"{name}.py").write_text("x = 1\n")
    _wait_until_old()
    with (
        pytest.raises(ConfigurationError, match=rf"reads {name}.py"),
        watching(workspace, declare(workspace), "export"),
    ):
        __import__(name)
    with watching(workspace, declare(workspace, f"{name}.py"), "export"):
        assert __import__(name).x == 1


@pytest.mark.parametrize(
    "reading",
    [
        "READ = open('weights/model.onnx').read()",
        # The library's own function, by the name that was imported before anything was read.
        "import contextlib\nfrom safetensors import safe_open\n"
        "with contextlib.suppress(Exception):\n    safe_open('weights/model.onnx', 'np')",
    ],
)
def test_what_a_recipe_reads_when_it_is_imported_is_refused_too(workspace: Path, module: str, reading: str) -> None:
    (workspace / "dvc.yaml").write_text(PIPELINE.replace("[other]", "[mine]"))
    recipe = workspace / f"{module}.py"
    recipe.write_text(f"{recipe.read_text()}\n{reading}\n")
    command = [sys.executable, "-m", "model_build", "export", "mine"]
    result = subprocess.run(command, cwd=workspace, env=environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "error: export@mine: the recipe reads weights/model.onnx, which is not declared" in result.stderr


def test_weights_beside_a_declared_onnx_file_are_to_be_declared_as_well(workspace: Path) -> None:
    made = graph([helper.make_node("Add", ["x", "w"], ["y"])], {"x": (1, [64])}, {"y": (1, [64])}, {"w": np.ones(64)})
    onnx.save(made, "weights/big.onnx", save_as_external_data=True, location="big.bin", size_threshold=0)
    _wait_until_old()
    read = {"reads weights/big.bin, ": ["weights/big.onnx"], "": ["weights/big.onnx", "weights/big.bin"]}
    for expected, declared in read.items():
        refused = pytest.raises(ConfigurationError, match=expected) if expected else contextlib.nullcontext()
        with refused, watching(workspace, declare(workspace, *declared), "export"), _its_own_errors():
            onnxruntime.InferenceSession("weights/big.onnx")


def test_a_copy_of_what_is_declared_is_the_stages_own(
    workspace: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("copy") / "weights"
    with watching(workspace, declare(workspace, "weights"), "export"):
        shutil.copytree(workspace / "weights", elsewhere)
        assert [path.read_bytes() for path in elsewhere.iterdir()] == [b"no graph"]


def test_a_workspace_among_the_systems_files_is_the_users_and_the_rest_is_not() -> None:
    workspace = Path("/usr/src/app")
    assert is_users(workspace / "weights.bin", workspace)
    assert not is_users(Path("/usr/share/zoneinfo/UTC"), workspace)
    assert not is_users(workspace / ".git" / "HEAD", workspace)


def test_hashes_follow_content_names_and_links_of_what_is_declared(workspace: Path, module: str) -> None:
    config = declare(workspace, "weights", f"{module}.py")
    first = hashes(workspace, config)
    assert sorted(json.loads(first)) == sorted([f"{module}.py", f"{module}_helpers.py", "weights"])
    os.utime(workspace / "weights" / "model.onnx")
    assert hashes(workspace, config) == first
    (workspace / "weights" / "model.onnx").rename(workspace / "weights" / "renamed.onnx")
    second = hashes(workspace, config)
    (workspace / f"{module}_helpers.py").write_text("def scale():\n    return 2\n")
    third = hashes(workspace, config)
    (workspace / "weights" / "deep").mkdir()
    (workspace / "weights" / "deep" / "link.py").symlink_to(workspace / f"{module}.py")
    (workspace / "weights" / "deep" / "round").symlink_to(workspace / "weights")
    fourth = hashes(workspace, config)
    (workspace / "weights" / "a class without examples").mkdir()
    assert len({first, second, third, fourth, hashes(workspace, config)}) == 5


@pytest.mark.parametrize("files", [[""], ["."], ["a", "./a"], ["a", "b", "a"]])
def test_files_that_name_nothing_all_or_one_twice_are_refused(workspace: Path, files: list[str]) -> None:
    with pytest.raises(ConfigurationError, match=r"mine.yaml: files is \[.*\]: expected files or folders"):
        declare(workspace, *files)


def test_a_stage_that_does_not_depend_on_the_hashes_is_refused(workspace: Path) -> None:
    text = (workspace / "dvc.yaml").read_text().replace("      - build/${item.model}/files.json\n    outs", "    outs")
    (workspace / "dvc.yaml").write_text(text.replace("[other]", "[mine]").replace("    deps:\n", ""))
    with (
        pytest.raises(ConfigurationError, match=r"stage export in dvc.yaml does not depend on build/\$\{item.model\}/"),
        watching(workspace, declare(workspace), "export"),
    ):
        pass


def test_every_stage_that_asks_a_recipe_depends_on_the_hashes_of_what_it_is_made_of() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    asking = {"data", "train", "export", "infer", "variants", "gate"}
    found = {name for name in stages if name.rpartition("-")[2] in asking}
    assert len(found) == 3 * len(asking) + 1
    assert [name for name in sorted(found) if "build/${item.model}/files.json" not in stages[name]["deps"]] == []


def test_own_modules_are_those_that_a_recipe_imports_wherever_it_does(tmp_path: Path, monkeypatch: Any) -> None:
    package = f"package_{abs(hash(tmp_path))}"
    sources = {
        "__init__.py": "",
        "recipe.py": "import numpy, json\nfrom . import first\nfrom .second import name\nimport model_build.files\n",
        "first.py": f"def late():\n    import {package}.inner.third\n",
        "second.py": "from .recipe import anything\nname = 1\n",
        "inner/__init__.py": "from ..fourth import nothing as something\n",
        "inner/third.py": "import absent\n",
        "fourth.py": "this is no Python\n",
        "unused.py": "",
    }
    for name, text in sources.items():
        path = tmp_path / package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = {
        path.relative_to(tmp_path / package).as_posix() for path in own_modules(f"{package}.recipe.Recipe", tmp_path)
    }
    assert found == set(sources) - {"unused.py"}
