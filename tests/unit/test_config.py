"""Configuration: what can be built is accepted, everything else is one line that names the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_build import ConfigurationError
from model_build.config import configured_models, load_config
from model_build.pipeline import override
from tests.support import ROOT


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "model_build" / "conf"
    folder.mkdir(parents=True)
    (folder / "digits.yaml").write_text((ROOT / "model_build" / "conf" / "digits.yaml").read_text())
    return tmp_path


def edit(workspace: Path, old: str, new: str) -> None:
    path = workspace / "model_build" / "conf" / "digits.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("model", configured_models(ROOT))
def test_every_configuration_in_the_repository_is_valid_and_named_like_its_file(model: str) -> None:
    assert load_config(ROOT, model).name == model


def test_an_unknown_model_is_refused_with_the_names_there_are(workspace: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no configuration for model 'digit': .* has \['digits'\]"):
        load_config(workspace, "digit")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed: 17", "sead: 17", "sead"),
        ("epochs: 30", "epochs: many", "train.epochs.*Integer"),
        ("epochs: 30", "epochs: 0", "train.epochs is 0: expected 1 or more"),
        ("opset: 20", "opset: 27", "export.opset is 27: expected 7 to 26, that Triton 26.08"),
        ("ir_version: 10", "ir_version: 14", "export.ir_version is 14: expected 4 to 13"),
        ("min_accuracy: 0.97", "min_accuracy: 97", "gate.min_accuracy is 97.0: expected 0 to 1"),
        ("test_fraction: 0.2", "test_fraction: 0.9", "less than 1"),
        ("name: digits", "name: [digits", "digits.yaml"),
        ("name: digits", "name: numbers", "name is numbers: expected digits, the name of the file"),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_key(workspace: Path, old: str, new: str, message: str) -> None:
    edit(workspace, old, new)
    with pytest.raises(ConfigurationError, match=message) as refused:
        load_config(workspace, "digits")
    assert "\n" not in str(refused.value)
    assert str(workspace / "model_build" / "conf" / "digits.yaml") in str(refused.value)


def test_an_override_is_written_into_the_configuration_and_keeps_its_comments(workspace: Path) -> None:
    override(workspace, "digits", ["train.epochs=5", "seed=7"])
    config = load_config(workspace, "digits")
    assert (config.train.epochs, config.seed) == (5, 7)
    assert "# initial weights and the order of the batches" in (workspace / "model_build/conf/digits.yaml").read_text()


@pytest.mark.parametrize("bad", ["train.epoch=5", "train.epochs=0", "train.epochs=x", "epochs", "=", "train={a:"])
def test_a_bad_override_is_refused_and_changes_nothing(workspace: Path, bad: str) -> None:
    path = workspace / "model_build" / "conf" / "digits.yaml"
    before = path.read_bytes()
    with pytest.raises(ConfigurationError) as refused:
        override(workspace, "digits", [bad])
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == before
