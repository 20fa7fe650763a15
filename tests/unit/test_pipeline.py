"""`slipway build` of a configuration that dvc.yaml does not know yet, and the models that it does know."""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from model_build import BuildError, ConfigurationError
from model_build.config import configured_models
from model_build.pipeline import _add, _stages, build
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
    _add(configure(workspace, base, "mine"), "mine")
    after = (workspace / "dvc.yaml").read_text()
    stages, old = (yaml.safe_load(text)["stages"] for text in (after, before))
    for name, stage in stages.items():
        known = old[name]["matrix"]["model"]
        joins = base in known
        assert stage == {**old[name], "matrix": {"model": [*known, "mine"] if joins else known}}, name
    assert "mine" in stages[KINDS[base]]["matrix"]["model"]
    first, second = ([line.rstrip() for line in text.splitlines()] for text in (before, after))
    removed, added = (line for line in difflib.ndiff(first, second) if line[0] in "+-")
    assert added[2:] == removed[2:].replace("]", ", mine]")


def test_comments_and_shared_lists_of_dvc_yaml_are_kept(workspace: Path) -> None:
    before = (workspace / "dvc.yaml").read_text()
    _add(configure(workspace, "digits", "mine"), "mine")
    after = (workspace / "dvc.yaml").read_text()
    for mark in ("#", "&", "*"):
        assert [line for line in after.splitlines() if mark in line] == [
            line for line in before.splitlines() if mark in line
        ]
    assert before.count("#") >= 3


def test_dvc_finds_the_stages_of_a_new_configuration_and_only_those(workspace: Path) -> None:
    digits = addresses(workspace, "digits")
    assert addresses(workspace, "my_digits") == []
    _add(configure(workspace, "digits", "my_digits"), "my_digits")
    assert addresses(workspace, "my_digits") == [stage.replace("@digits", "@my_digits") for stage in digits]
    assert addresses(workspace, "digits") == digits  # a name that another one ends with is not that one


@pytest.mark.parametrize("model", configured_models(ROOT))
def test_every_configuration_of_the_repository_has_its_stages(workspace: Path, model: str) -> None:
    names = {address.partition("@")[0].rpartition("-")[2] for address in addresses(workspace, model)}
    assert names in ({"data", "train", "export", "infer", "repository"}, {"export"})


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
        _add(workspace, "mine")
    assert (workspace / "dvc.yaml").read_bytes() == before


@pytest.mark.parametrize("recipe", ["own_recipe.Absent", "nowhere", "pathlib.Path"])
def test_a_recipe_that_is_none_is_refused_with_its_name(workspace: Path, recipe: str) -> None:
    configure(workspace, "digits", "mine", recipe)
    with pytest.raises(ConfigurationError, match=rf"recipe '{recipe}'.* model_build.recipe.ExportRecipe") as refused:
        _add(workspace, "mine")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["absent", "../digits", ""])
def test_a_model_without_a_configuration_is_refused_before_dvc_is_asked(workspace: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"no configuration for model '{name}': .* has \['alexnet', "):
        build(workspace, name)
