"""Names of classes are lines and file names: what cannot be either is refused before anything is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from model_build import DataError
from model_build.config import ExamplesConfig, SingleGraphConfig, load_config
from model_build.dataset import Dataset, divide
from model_build.labels import check_labels, file_names
from model_build.single_graph import SingleGraph
from model_build.stages.layout import BuildFiles
from tests.support import ROOT

CLASSES = np.arange(60) % 3


class Points(SingleGraph):
    """Three classes of two numbers, whose names and logits a test sets."""

    input_name = "point"
    labels: tuple[str, ...] = ("a", "b", "c")
    logits = 3

    def load_data(self) -> Dataset:
        inputs = np.random.default_rng(0).random((60, 2), dtype=np.float32)
        return divide((inputs, CLASSES), self.config.data, source="numbers", sha256="0")

    def network(self) -> nn.Module:
        return nn.Linear(2, self.logits)


@pytest.fixture
def recipe() -> Points:
    config = load_config(ROOT, "digits")
    assert isinstance(config, SingleGraphConfig)
    return Points(config)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((), "labels is empty"),
        ("abc", "labels is 'abc': expected a tuple of names"),
        ((0, 1, 2), r"label 0, 0, is no text: .* tuple\(map\(str, names\)\)"),
        (("a", "", "c"), "label 1, '', is empty"),
        (("a", " \t", "c"), "label 1, .* is empty"),
        (("a", "b", "a"), "label 2, 'a', is the name of class 0 too"),
        (("a\nb", "b", "c"), r"label 0, 'a\\nb', is no single line"),
        (("a", "b\r", "c"), "label 1, .* is no single line"),
        (("a", "b\u2028b", "c"), "label 1, .* is no single line"),
        (("a", "b\x85b", "c"), "label 1, .* is no single line"),
        (("a", "b\0", "c"), "label 1, .* is no single line"),
        (("a", "b ", "c"), "label 1, 'b ', is no single line"),
        (("a", "b" * 201, "c"), "label 1, .* has 201 characters: expected 200 at most"),
    ],
)
def test_names_that_are_no_lines_or_the_same_are_refused_and_nothing_is_written(
    recipe: Points, tmp_path: Path, labels: tuple[str, ...], message: str
) -> None:
    recipe.labels = labels
    with pytest.raises(DataError, match=message) as refused:
        recipe.prepare(BuildFiles(tmp_path, "points"))
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("labels", [("0", "1"), ("only",)])
def test_examples_of_a_class_without_a_name_are_refused_before_the_training(
    recipe: Points, tmp_path: Path, labels: tuple[str, ...]
) -> None:
    recipe.labels = labels
    with pytest.raises(DataError, match=rf"of classes 0 to 2 and labels names {len(labels)}: .*; name each class"):
        recipe.prepare(BuildFiles(tmp_path, "points"))
    assert list(tmp_path.iterdir()) == []


def test_a_class_may_have_no_example(recipe: Points, tmp_path: Path) -> None:
    recipe.labels, files = ("a", "b", "c", "d"), BuildFiles(tmp_path, "points")
    recipe.prepare(files)
    assert sorted(path.name for path in files.samples.iterdir()) == ["a.npy", "b.npy", "c.npy"]


@pytest.mark.parametrize("logits", [2, 4])
def test_a_network_of_another_number_of_classes_is_refused_before_the_training(
    recipe: Points, tmp_path: Path, logits: int
) -> None:
    files = BuildFiles(tmp_path, "points")
    recipe.prepare(files)
    recipe.logits = logits
    with pytest.raises(DataError, match=rf"gives \[2, {logits}\] for 2 examples: expected logits \[2, 3\]"):
        recipe.train(files)
    assert not files.weights.exists()


def test_samples_are_written_below_their_folder_whatever_a_class_is_called(recipe: Points, tmp_path: Path) -> None:
    recipe.labels, files = ("n/a", "../../nine", "plain"), BuildFiles(tmp_path, "points")
    recipe.prepare(files)
    assert sorted(path.name for path in files.samples.iterdir()) == ["0-n_a.npy", "1-nine.npy", "plain.npy"]
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {files.data, *files.samples.iterdir()}


@pytest.mark.parametrize("name", ["../nine.npy", "/tmp/nine.npy", "a/../../nine.npy"])
def test_a_recipe_whose_own_samples_lie_elsewhere_is_refused(recipe: Points, tmp_path: Path, name: str) -> None:
    recipe.sample_files = lambda dataset: {name: b""}  # type: ignore[method-assign]
    with pytest.raises(DataError, match=rf"sample_files names '{name}': expected files of .*/build/points/samples/"):
        recipe.prepare(BuildFiles(tmp_path, "points"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (("class_0", "Iris setosa", "-1", "3.5", "кот", "a+b"), ["class_0", "Iris setosa", "2-1", "3.5", "кот", "a+b"]),
        (("Cat", "cat", "dog"), ["0-Cat", "1-cat", "dog"]),  # one file where names have no case
        (("..", ".", "/", "?"), ["0", "1", "2", "3"]),
        ((".hidden", "ends.", "a:b*"), ["0-hidden", "1-ends", "2-a_b"]),
        (("n/a", "0-n_a"), ["0-n_a_", "0-n_a"]),
        (("ж" * 100, "b"), ["0-" + "ж" * 40, "b"]),
    ],
)
def test_each_label_has_a_file_name_of_its_own_that_every_system_takes(
    labels: tuple[str, ...], names: list[str]
) -> None:
    check_labels(labels)
    assert file_names(labels) == names


def test_labels_may_come_as_an_array() -> None:
    check_labels(np.array(["a", "b"]))


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64])
def test_labels_of_any_whole_number_are_divided_alike(kind: type) -> None:
    inputs = np.zeros((60, 2), np.float32)
    dataset = divide((inputs, CLASSES.astype(kind)), ExamplesConfig(), source="", sha256="")
    assert dataset.train_labels.dtype == np.int64
    np.testing.assert_array_equal(np.bincount(dataset.test_labels), [4, 4, 4])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.linspace(0, 1, 60), r"labels are float64, of 60 values in 60 examples: .* a regression is no classifier"),
        (CLASSES == 0, "labels are bool, of 2 values in 60 examples"),
        (np.array(["cat", "dog"] * 30), "labels are <U3, of 2 values in 60 examples"),
        (CLASSES[:, None], r"labels \[60, 1\]: expected \[n, ...\] and \[n\]"),
        (CLASSES[:59], r"inputs are \[60, 2\] and labels \[59\]"),
        (np.arange(60), r"60 of 60 classes have one alone: 0, 1, 2, \.\.\.\): give more of each class"),
    ],
)
def test_labels_that_are_no_classes_are_one_short_line(labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message) as refused:
        divide((np.zeros((60, 2), np.float32), labels), ExamplesConfig(), source="", sha256="")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300
