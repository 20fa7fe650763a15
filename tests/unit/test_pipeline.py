"""`slipway build` brings dvc.yaml in line with a configuration: a new model, its variants, and those that it drops."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo

from model_build import BuildError, ConfigurationError
from model_build.config import configured_models, load_config
from model_build.pipeline import _bring_in_line, _forget_dropped, _stages, build, override
from model_build.sources import pipeline_files
from tests.support import ROOT

KINDS = {
    "digits": "data",
    "alexnet_224": "untrained-export",
    "embedder": "embedder-data",
    "translator": "translator-data",
}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "model_build" / "conf", tmp_path / "model_build" / "conf")
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    return tmp_path


def configure(workspace: Path, base: str, name: str, recipe: str | None = None) -> Path:
    """A configuration `name`, a copy of `base`."""
    conf = workspace / "model_build" / "conf"
    lines = (conf / f"{base}.yaml").read_text().splitlines()
    lines = [f"name: {name}" if line.startswith("name:") else line for line in lines]
    lines = [f"recipe: {recipe}" if recipe and line.startswith("recipe:") else line for line in lines]
    (conf / f"{name}.yaml").write_text("\n".join(lines) + "\n")
    return workspace


def addresses(workspace: Path, model: str) -> list[str]:
    """The model's stages, as DVC reads dvc.yaml."""
    with Repo(str(workspace), uninitialized=True) as repo:
        return sorted(_stages(repo, model))


@pytest.mark.parametrize("base", KINDS)
def test_a_new_configuration_joins_the_list_of_its_kind_and_nothing_else_is_changed(workspace: Path, base: str) -> None:
    before = (workspace / "dvc.yaml").read_text()
    _bring_in_line(configure(workspace, base, "mine"), "mine")
    after = (workspace / "dvc.yaml").read_text()
    stages, old = (yaml.safe_load(text)["stages"] for text in (after, before))
    for name, stage in stages.items():
        known = old[name]["matrix"]["model"]
        joins = base in known
        assert stage == {**old[name], "matrix": {"model": [*known, "mine"] if joins else known}}, name
    assert "mine" in stages[KINDS[base]]["matrix"]["model"]
    first, second = ([line.rstrip() for line in text.splitlines()] for text in (before, after))
    changed = [pair for pair in zip(first, second, strict=True) if pair[0] != pair[1]]
    lists = [line for line in first if re.match(r"      model: \[", line) and base in re.findall(r"\w+", line)]
    assert [old for old, _ in changed] == lists != []
    assert all(new == old.replace("]", ", mine]") for old, new in changed)


@pytest.mark.parametrize("base", KINDS)
def test_a_second_configuration_of_a_recipe_needs_no_file_of_its_own_name(workspace: Path, base: str) -> None:
    _bring_in_line(configure(workspace, base, "mine"), "mine")
    read = [path.relative_to(workspace) for path in pipeline_files(workspace, "mine") if path.is_relative_to(workspace)]
    code = [path for path in read if path.parts[0] not in ("build", "model_repository")]
    assert len(code) > 3
    assert [path for path in code if not (ROOT / path).exists()] == []


def test_comments_and_shared_lists_of_dvc_yaml_are_kept(workspace: Path) -> None:
    before = (workspace / "dvc.yaml").read_text()
    _bring_in_line(configure(workspace, "digits", "mine"), "mine")
    after = (workspace / "dvc.yaml").read_text()
    for mark in ("#", "&", "*"):
        assert [line for line in after.splitlines() if mark in line] == [
            line for line in before.splitlines() if mark in line
        ]
    assert before.count("#") >= 3


def test_dvc_finds_the_stages_of_a_new_configuration_and_only_those(workspace: Path) -> None:
    digits = addresses(workspace, "digits")
    assert addresses(workspace, "my_digits") == []
    _bring_in_line(configure(workspace, "digits", "my_digits"), "my_digits")
    assert addresses(workspace, "my_digits") == [stage.replace("@digits", "@my_digits") for stage in digits]
    assert addresses(workspace, "digits") == digits  # a name that another one ends with is not that one


@pytest.mark.parametrize("model", configured_models(ROOT))
def test_every_configuration_of_the_repository_has_its_stages(workspace: Path, model: str) -> None:
    names = {address.partition("@")[0].rpartition("-")[2] for address in addresses(workspace, model)}
    served = {"files", "data", "train", "export", "infer", "gate", "repository"}
    assert names in (served | {"variants", "fp16", "int8"}, served, {"files", "export"})
    if names != {"files", "export"}:
        assert ("variants" in names) == bool(load_config(ROOT, model).precision.variants)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("model", "kind"), [("digits", ""), ("embedder", "embedder-")])
def test_a_variant_that_is_dropped_leaves_dvc_yaml_the_lock_and_the_repository(
    workspace: Path, model: str, kind: str
) -> None:
    """And nothing else does; asked for again, it is where it was."""
    stages = addresses(workspace, model)
    before, lock = sorted_lists(workspace / "dvc.yaml"), built(workspace, stages, model)
    override(workspace, model, ["precision.variants=[fp16]"])
    _bring_in_line(workspace, model)
    dropped = f"{kind}int8@{model}"
    assert addresses(workspace, model) == [stage for stage in stages if stage != dropped]
    assert yaml.safe_load((workspace / "dvc.lock").read_text()) == lock  # it is served until the build has ended
    _forget_dropped(workspace, model, addresses(workspace, model))
    assert addresses(workspace, "alexnet")
    found = yaml.safe_load((workspace / "dvc.lock").read_text())
    assert found == {**lock, "stages": {name: one for name, one in lock["stages"].items() if name != dropped}}
    assert [path.name for path in (workspace / "model_repository").iterdir() if "int8" in path.name] == []
    kept = {path.name for path in (workspace / "model_repository").iterdir()}
    assert kept == {folder(stage, model) for stage in stages if stage != dropped}
    override(workspace, model, ["precision.variants=[fp16,int8]"])
    _bring_in_line(workspace, model)
    assert addresses(workspace, model) == stages
    assert sorted_lists(workspace / "dvc.yaml") == before  # it may stand last in its list now


def sorted_lists(path: Path) -> dict[str, Any]:
    """The content of a dvc.yaml, the models of each stage in order."""
    stages: dict[str, Any] = yaml.safe_load(path.read_text())["stages"]
    return {name: {**stage, "matrix": sorted(stage["matrix"]["model"])} for name, stage in stages.items()}


def built(workspace: Path, stages: list[str], model: str) -> dict[str, Any]:
    """A dvc.lock in which each stage has written a folder, and those folders."""
    lock: dict[str, Any] = {"schema": "2.0", "stages": {}}
    for stage in stages:
        path = workspace / "model_repository" / folder(stage, model) / "manifest.json"
        path.parent.mkdir(parents=True)
        path.touch()
        out = {"path": str(path.relative_to(workspace)), "hash": "md5", "md5": "0" * 32, "size": 0}
        lock["stages"][stage] = {"cmd": "true", "outs": [out]}
    (workspace / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))
    return lock


def folder(stage: str, model: str) -> str:
    """A folder of the model repository that the stage might write."""
    return f"{model}_{stage.partition('@')[0].rpartition('-')[2]}"


def test_a_model_without_a_lock_or_with_all_variants_dropped_is_brought_in_line(workspace: Path) -> None:
    override(workspace, "digits", ["precision.variants=[]"])
    _bring_in_line(workspace, "digits")
    stages = addresses(workspace, "digits")
    _forget_dropped(workspace, "digits", stages)
    assert [stage for stage in stages if stage.startswith(("fp16", "int8"))] == []
    assert not (workspace / "dvc.lock").exists()


def test_variants_of_a_kind_that_has_none_are_refused_and_nothing_is_written(workspace: Path) -> None:
    content = yaml.safe_load((workspace / "dvc.yaml").read_text())
    del content["stages"]["translator-int8"]
    (workspace / "dvc.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    before = (workspace / "dvc.yaml").read_bytes()
    with pytest.raises(ConfigurationError, match=r"precision.variants of 'translator' has int8, .*: expected \[\]"):
        _bring_in_line(workspace, "translator")
    assert (workspace / "dvc.yaml").read_bytes() == before


def test_a_kind_that_dvc_yaml_has_no_stages_for_is_refused_and_nothing_is_written(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / "own_recipe.py").write_text(
        "from model_build.models.digits import Digits\n\n\nclass Own(Digits):\n    stages = 'own-'\n"
    )
    monkeypatch.syspath_prepend(str(workspace))
    before = (workspace / "dvc.yaml").read_bytes()
    configure(workspace, "digits", "mine", "own_recipe.Own")
    expected = r"dvc.yaml has no stages 'own-...' for the recipe of model 'mine': add them"
    with pytest.raises(BuildError, match=expected):
        _bring_in_line(workspace, "mine")
    assert (workspace / "dvc.yaml").read_bytes() == before


@pytest.mark.parametrize("recipe", ["own_recipe.Absent", "nowhere", "pathlib.Path"])
def test_a_recipe_that_is_none_is_refused_with_its_name(workspace: Path, recipe: str) -> None:
    configure(workspace, "digits", "mine", recipe)
    with pytest.raises(ConfigurationError, match=rf"recipe '{recipe}'.* model_build.recipe.ExportRecipe") as refused:
        _bring_in_line(workspace, "mine")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["absent", "../digits", ""])
def test_a_model_without_a_configuration_is_refused_before_dvc_is_asked(workspace: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"no configuration for model '{name}': .* has \['alexnet', "):
        build(workspace, name)
