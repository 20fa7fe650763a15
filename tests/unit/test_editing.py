"""An override changes the line of its key in the YAML file, and nothing else of what a person has written there."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest
import yaml

from model_build import ConfigurationError
from model_build.config import SingleGraphConfig, configured_models, load_config
from model_build.config.editing import edit, parse_overrides
from model_build.pipeline import override
from tests.support import ROOT

WRITTEN = """\
name: wine # the name
data:
  path: null
train: {epochs: 2, batch_size: 32}   # flow
empty: {}
nothing:
tail: # note
  - a # first
  - b
text: |
  two
  lines
precision: # beside
    variants:
        - fp16   # half
        - int8
    # end
# last"""


def changed(text: str, *overrides: str) -> list[str]:
    """Lines that the overrides take out (`-`) and put in (`+`)."""
    edited = text
    for change in parse_overrides(overrides):
        edited = edit(edited, change)
    lines = difflib.unified_diff(text.splitlines(), edited.splitlines(), lineterm="", n=0)
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


@pytest.mark.parametrize(
    ("one", "lines"),
    [
        ("name=cellar", ["-name: wine # the name", "+name: cellar # the name"]),
        ("data.path='my #1.csv'", ["-  path: null", "+  path: 'my #1.csv'"]),
        ("data.path='1e-3'", ["-  path: null", "+  path: '1e-3'"]),
        ("data.path=${name}", ["-  path: null", '+  path: "${name}"']),
        ("train.epochs=5", ["-" + WRITTEN.splitlines()[3], "+train: {epochs: 5, batch_size: 32}   # flow"]),
        (
            "train.rate=1e-3",
            ["-" + WRITTEN.splitlines()[3], "+train: {epochs: 2, batch_size: 32, rate: 1e-3}   # flow"],
        ),
        (
            "train={epochs:5,batch_size:8}",
            ["-" + WRITTEN.splitlines()[3], "+train: {epochs: 5, batch_size: 8}   # flow"],
        ),
        ("~train.epochs", ["-" + WRITTEN.splitlines()[3], "+train: {batch_size: 32}   # flow"]),
        ("~train.batch_size", ["-" + WRITTEN.splitlines()[3], "+train: {epochs: 2}   # flow"]),
        ("~name", ["-name: wine # the name"]),
        ("empty.x=1", ["-empty: {}", "+empty: {x: 1}"]),
        ("nothing=true", ["-nothing:", "+nothing: true"]),
        ("nothing.a.b=1", ["-nothing:", "+nothing: {a: {b: 1}}"]),
        ("data.split_seed=3", ["+  split_seed: 3"]),
        ("precision.int8.max_drop=0.05", ["+    int8: {max_drop: 0.05}"]),
        ("+precision.int8.max_drop=0.05", ["+    int8: {max_drop: 0.05}"]),
        ("++data.path=x", ["-  path: null", "+  path: x"]),
        ("gate.minimum=0.5", ["+gate: {minimum: 0.5}"]),
        ("files=[a.csv,b c.csv]", ["+files: [a.csv, b c.csv]"]),
        ("tail=[a,b,c]", ["+  - c"]),
        ("tail=[a]", ["-  - b"]),
        ("tail=[b]", ["-  - a # first"]),
        ("tail=[]", ["-tail: # note", "-  - a # first", "-  - b", "+tail: [] # note"]),
        ("precision.variants=[fp16]", ["-        - int8"]),
        ("precision.variants=[fp16,fp8]", ["-        - int8", "+        - fp8"]),
        ("text=short", ["-text: |", "-  two", "-  lines", "+text: short"]),
    ],
)
def test_the_line_of_the_key_changes_and_no_other(one: str, lines: list[str]) -> None:
    assert changed(WRITTEN, one) == lines


def test_each_setting_of_each_model_can_be_taken_out_and_put_back_on_a_line_of_its_own() -> None:
    for model in configured_models(ROOT):
        text = (ROOT / "model_build" / "conf" / f"{model}.yaml").read_text()
        for group, values in yaml.safe_load(text).items():
            for key in values if isinstance(values, dict) else ():
                if isinstance(values[key], dict):
                    continue
                (line,) = changed(text, f"~{group}.{key}")
                without = edit(text, parse_overrides([f"~{group}.{key}"])[0])
                assert line.startswith(f"-  {key}: ")
                (back,) = changed(without, f"{group}.{key}=7")
                assert back == f"+  {key}: 7"


def test_line_ends_of_windows_and_a_missing_last_one_stay(tmp_path: Path) -> None:
    windows = WRITTEN.replace("\n", "\r\n")
    for one in ("name=cellar", "tail=[a,b,c]", "gate.minimum=0.5", "tail=[]"):
        assert "\n" not in edit(windows, parse_overrides([one])[0]).replace("\r\n", "")
    assert edit("a: 1", parse_overrides(["b=2"])[0]) == "a: 1\nb: 2"


@pytest.mark.parametrize(
    ("text", "one", "message"),
    [
        ("a: &x {b: 1}\nc: *x\n", "c.b=2", "c.b cannot be changed alone where the file has anchors"),
        ("a: &x 1\nc: *x\n", "a=2", "a cannot be changed alone where the file has anchors"),
        (WRITTEN, "train.epochs.x=1", "train.epochs.x: train.epochs is 2, which has no keys of its own"),
        (WRITTEN, "~train.x", "train.x is not in the file: nothing to take out"),
        (WRITTEN, "~train.epochs=3", "train.epochs is 2, not 3: nothing was taken out"),
        (WRITTEN, "epochs", "override 'epochs' cannot be read .*: expected KEY=VALUE, such as train.epochs=5"),
        (WRITTEN, "=", "override '=' names no key"),
        (WRITTEN, "train={a:", "override 'train={a:' cannot be read"),
        (WRITTEN, "data.path=a#b", "override 'data.path=a#b' cannot be read .*\"data.path='my #1.csv'\""),
        (WRITTEN, "train.epochs=1,2", "has several values: expected one, or a list in brackets"),
        (WRITTEN, "train/epochs=1", "override 'train/epochs=1' names no key"),
        (WRITTEN, "train@x=1", "override 'train@x=1' names no key"),
    ],
)
def test_what_cannot_be_written_is_one_line(text: str, one: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        changed(text, one)
    assert "\n" not in str(refused.value)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """With a model whose configuration says as little as it may."""
    folder = tmp_path / "model_build" / "conf"
    folder.mkdir(parents=True)
    page = (ROOT / "docs" / "own-model.md").read_text()
    text = page.partition("Write `model_build/conf/wine.yaml`")[2].partition("```yaml\n")[2].partition("```")[0]
    (folder / "wine.yaml").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    "one",
    ["precision.int8.keep_fp32=['conv1']", "precision.int8.max_drop=0.05", "train.threads=2", "data.split_seed=3"],
)
def test_a_key_of_the_schema_need_not_be_in_the_file(workspace: Path, one: str) -> None:
    path = workspace / "model_build" / "conf" / "wine.yaml"
    before = path.read_text().splitlines()
    override(workspace, "wine", [one])
    after = path.read_text().splitlines()
    assert len(after) == len(before) + 1
    assert isinstance(load_config(workspace, "wine"), SingleGraphConfig)


def test_the_override_that_the_message_shows_is_taken(workspace: Path) -> None:
    override(workspace, "wine", ["train.epochs=5", "data.path='my #1.csv'"])
    config = load_config(workspace, "wine")
    assert isinstance(config, SingleGraphConfig)
    assert (config.train.epochs, config.data.path) == (5, "my #1.csv")


@pytest.mark.parametrize(
    ("one", "message"),
    [
        ("train.epoch=5", r"train.epoch.* not in 'TrainConfig', which has epochs, batch_size, .*: correct that key"),
        ("precision.int9.max_drop=1", "not in 'PrecisionConfig', which has variants, calibration_examples, fp16, int8"),
        ("colour=red", "colour.* not in 'SingleGraphConfig', which has name, recipe, seed"),
        ("~export.opset", "export.opset.*: correct that key"),
    ],
)
def test_a_key_that_the_schema_has_not_is_told_which_it_has_and_nothing_is_written(
    workspace: Path, one: str, message: str
) -> None:
    path = workspace / "model_build" / "conf" / "wine.yaml"
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=message) as refused:
        override(workspace, "wine", [one])
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == before


def test_a_schema_that_there_is_not_is_told_which_there_are(workspace: Path) -> None:
    path = workspace / "model_build" / "conf" / "wine.yaml"
    path.write_text(path.read_text().replace("single_graph_schema", "tabular_schema"))
    with pytest.raises(ConfigurationError, match=r"'tabular_schema', which is no schema: expected one of \['single_gr"):
        load_config(workspace, "wine")
