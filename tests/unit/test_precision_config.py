"""`precision` in a configuration: a value that cannot be meant is refused with its key."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from model_build import ConfigurationError
from model_build.config import ServedConfig, load_config
from model_build.pipeline import override
from tests.support import ROOT


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "model_build" / "conf", tmp_path / "model_build" / "conf")
    return tmp_path


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        (
            "precision.variants=[int4]",
            r"precision\.variants is \['int4'\]: expected some of \['fp16', 'int8'\], each once",
        ),
        (
            "precision.variants=[fp32]",
            r"precision\.variants is \['fp32'\]: expected some of \['fp16', 'int8'\], each once",
        ),
        ("precision.variants=[int8,int8]", r"precision\.variants is \['int8', 'int8'\]: expected some of .* each once"),
        ("precision.calibration_examples=0", r"precision\.calibration_examples is 0: expected 1 or more"),
        ("precision.int8.max_abs=0", r"precision\.\*\.max_abs is 0(\.0)?: expected more than 0"),
        ("precision.fp16.max_abs=-1", r"precision\.\*\.max_abs is -1(\.0)?: expected more than 0"),
        ("precision.fp16.min_cosine=1.1", r"precision\.\*\.min_cosine is 1\.1: expected -1 to 1"),
        ("precision.fp16.max_drop=-0.1", r"precision\.\*\.max_drop is -0\.1: expected 0 or more"),
        ("++precision.int8.min_share=1.5", r"precision\.\*\.min_share is 1\.5: expected 0 to 1"),
        ("++precision.int8.smoothing=2", r"precision\.\*\.smoothing is 2(\.0)?: expected 0 to 1"),
        ("+precision.int4={}", r"int4"),
        ("precision.int8.max_abs=much", r"precision\.int8\.max_abs"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_with_its_key_and_nothing_is_written(
    workspace: Path, setting: str, reason: str
) -> None:
    path = workspace / "model_build" / "conf" / "digits.yaml"
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=rf"digits\.yaml: .*{reason}") as refused:
        override(workspace, "digits", [setting])
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("variants", ["", "int8", "fp16", "int8,fp16"])
def test_any_of_the_variants_in_any_order_is_taken(workspace: Path, variants: str) -> None:
    override(workspace, "digits", [f"precision.variants=[{variants}]"])
    config = load_config(workspace, "digits")
    assert isinstance(config, ServedConfig)
    assert config.precision.variants == [name for name in variants.split(",") if name]


def test_a_model_that_says_nothing_of_precision_has_no_variants(workspace: Path) -> None:
    path = workspace / "model_build" / "conf" / "digits.yaml"
    path.write_text(path.read_text().partition("\nprecision:")[0] + "\n")
    config = load_config(workspace, "digits")
    assert isinstance(config, ServedConfig)
    assert config.precision.variants == []
