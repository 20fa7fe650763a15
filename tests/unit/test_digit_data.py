"""Digits from scikit-learn, MNIST's IDX files and a Kaggle CSV: the same arrays, and clear refusals."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from model_build import DataError
from model_build.config import SingleGraphConfig, load_config
from model_build.dataset import Dataset
from model_build.models.alexnet import AlexNetDigits
from model_build.models.digit_data import read_examples
from model_build.models.digits import Digits
from tests.support import ROOT

PIXELS = np.random.default_rng(1).integers(0, 256, (40, 28, 28), dtype=np.uint8)
LABELS = np.arange(40, dtype=np.uint8) % 10


def digits(model: str = "digits", path: Path | None = None) -> Digits | AlexNetDigits:
    config = load_config(ROOT, model)
    assert isinstance(config, SingleGraphConfig)
    config.data.path = str(path) if path else None
    return Digits(config) if model == "digits" else AlexNetDigits(config)


def idx(array: npt.NDArray[np.uint8]) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write_idx(folder: Path, packed: bool = False) -> None:
    folder.mkdir(exist_ok=True)
    for name, array in (("train-images-idx3-ubyte", PIXELS), ("train-labels-idx1-ubyte", LABELS)):
        content = idx(array)
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)


def csv_text() -> str:
    header = ",".join(["label", *(f"pixel{i}" for i in range(784))])
    rows = [",".join(map(str, [y, *x.ravel()])) for x, y in zip(PIXELS, LABELS, strict=True)]
    return "\n".join([header, *rows]) + "\n"


def test_idx_plain_idx_packed_and_csv_of_the_same_digits_are_equal(tmp_path: Path) -> None:
    write_idx(tmp_path / "plain")
    write_idx(tmp_path / "packed", packed=True)
    (tmp_path / "train.csv").write_text(csv_text())
    for source in ("plain", "packed", "train.csv"):
        images, labels = read_examples(tmp_path / source).train
        assert images.dtype == np.float32
        np.testing.assert_array_equal(images, PIXELS[:, None] / np.float32(255))
        np.testing.assert_array_equal(labels, LABELS)


def test_mnists_own_test_files_become_the_held_out_part(tmp_path: Path) -> None:
    write_idx(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(PIXELS[:7]))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(LABELS[:7]))
    recipe = digits(path=tmp_path)
    recipe.config.data.validation_fraction = 0.25
    dataset = recipe.load_data()
    np.testing.assert_array_equal(dataset.test_labels, LABELS[:7])
    assert len(dataset.train_labels) + len(dataset.validation_labels) == 40


def test_the_bundled_scans_are_divided_the_same_way_each_time_and_without_overlap(tmp_path: Path) -> None:
    recipe = digits()
    first, second = recipe.load_data(), recipe.load_data()
    assert first.to_bytes() == second.to_bytes()
    parts = (first.train_inputs, first.validation_inputs, first.test_inputs)
    assert [len(part) for part in parts] == [1167, 270, 360]
    assert parts[0].shape[1:] == (1, 28, 28)
    assert 0 <= min(part.min() for part in parts) <= max(part.max() for part in parts) <= 1
    (tmp_path / "data.npz").write_bytes(first.to_bytes())
    np.testing.assert_array_equal(Dataset.from_file(tmp_path / "data.npz").test_inputs, first.test_inputs)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("label,pixel0\n1,2\n", "expected a header 'label,pixel0"),
        ("a,b\n", "train.csv"),
        (csv_text().replace("\n0,", "\n10,", 1), r"labels 0\.\.10: expected 0\.\.9"),
        (csv_text().replace("\n0,", "\nzero,", 1), "no Kaggle digit CSV"),
        ("étiquette", "no Kaggle digit CSV"),
        ("", "train.csv"),
    ],
)
def test_a_csv_of_another_format_is_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "train.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message) as refused:
        read_examples(path)
    assert "\n" not in str(refused.value)


def reordered(order: list[int]) -> list[list[str]]:
    """The CSV's cells, its columns in another order."""
    return [[row.split(",")[index] for index in order] for row in csv_text().splitlines()]


COLUMNS = list(range(785))
BY_NAME = sorted(COLUMNS, key=lambda index: "label" if index == 0 else f"pixel{index - 1}")


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(map(",".join, reordered(BY_NAME))),
        "\n".join(map(",".join, reordered([*COLUMNS[1:], 0]))),
        "\ufeff" + csv_text(),
        csv_text().replace("\n", "\r\n") + "\r\n",
        csv_text().replace(",", ";"),
        csv_text().replace(",", "\t"),
        "\n".join(",".join(f'"{cell}"' for cell in row) for row in reordered(COLUMNS)),
    ],
    ids=["sorted", "label-last", "mark", "crlf", "semicolons", "tabs", "quotes"],
)
def test_columns_of_a_csv_are_found_by_their_names_however_it_was_written(tmp_path: Path, text: str) -> None:
    path = tmp_path / "train.csv"
    path.write_bytes(text.encode())
    images, labels = read_examples(path).train
    np.testing.assert_array_equal(images, PIXELS[:, None] / np.float32(255))
    np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize(
    ("order", "rename", "message"),
    [
        (COLUMNS[:-1], {}, "it has no column 'pixel783'"),
        ([*COLUMNS, 5], {}, "it has twice 'pixel4'"),
        (COLUMNS, {"pixel3": "pixel4"}, "it has no column 'pixel3', twice 'pixel4'"),
        ([*COLUMNS, 5], {"pixel4": "id"}, "it has no column 'pixel4', also 'id'"),
        (COLUMNS, {"label": "Label"}, "it has no column 'label', also 'Label'"),
        (COLUMNS, {f"pixel{i}": f"{i}x" for i in range(784)}, "'pixel0', 'pixel1', 'pixel2' and 781 more, also"),
    ],
)
def test_columns_that_are_missing_twice_or_unknown_are_named(
    tmp_path: Path, order: list[int], rename: dict[str, str], message: str
) -> None:
    header, *rows = reordered(order)
    path = tmp_path / "train.csv"
    path.write_text("\n".join(map(",".join, [[rename.get(name, name) for name in header], *rows])))
    with pytest.raises(DataError, match=message) as refused:
        read_examples(path)
    assert len(str(refused.value)) < 400


def test_a_csv_without_a_header_is_refused_and_its_first_digit_is_not_dropped(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text(csv_text().partition("\n")[2])
    with pytest.raises(DataError, match=r"numbers in its first line, and no header\): expected a header 'label,pixel0"):
        read_examples(path)


def test_a_row_that_is_longer_than_the_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("\n".join([csv_text().splitlines()[0], *(line + ",1" for line in csv_text().splitlines()[1:])]))
    with pytest.raises(DataError, match="its rows have 786 columns"):
        read_examples(path)


def test_idx_files_that_are_missing_cut_off_or_of_different_lengths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither train-images-idx3-ubyte nor"):
        read_examples(tmp_path)
    write_idx(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(PIXELS)[:-1])
    with pytest.raises(DataError, match=r"is no IDX file .* or is cut off"):
        read_examples(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(PIXELS[:3]))
    with pytest.raises(DataError, match=r"\[3, 28, 28\] and .* \[40\]"):
        read_examples(tmp_path)


def test_too_few_digits_to_divide_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("\n".join(csv_text().splitlines()[:4]))
    with pytest.raises(DataError, match=r"3 examples cannot be divided by label .* give more of each class"):
        digits(path=tmp_path / "train.csv").load_data()


def test_a_packed_file_that_is_damaged_is_refused(tmp_path: Path) -> None:
    write_idx(tmp_path, packed=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:30] + b"damage" + path.read_bytes()[36:])
    with pytest.raises(DataError, match="cannot be unpacked"):
        read_examples(tmp_path)


def test_a_path_that_does_not_exist_is_refused() -> None:
    with pytest.raises(DataError, match="does not exist: expected a Kaggle CSV file or a folder"):
        read_examples(Path("/nowhere/train.csv"))


def test_alexnet_has_the_same_digits_enlarged_in_three_equal_channels_and_the_same_division() -> None:
    small, large = digits().load_data(), digits("alexnet").load_data()
    np.testing.assert_array_equal(large.test_labels, small.test_labels)
    assert large.test_inputs.shape == (360, 3, 32, 32)
    assert large.test_inputs.dtype == np.float32
    np.testing.assert_array_equal(large.test_inputs[:, 0], large.test_inputs[:, 2])
    assert 0 <= large.test_inputs.min() <= large.test_inputs.max() <= 1
    assert large.source_sha256 == small.source_sha256


@pytest.mark.parametrize("model", ["digits", "alexnet"])
def test_the_hash_of_the_source_follows_what_lies_at_data_path(tmp_path: Path, model: str) -> None:
    assert digits(model).source_sha256() is None
    path = tmp_path / "train.csv"
    path.write_text(csv_text())
    before = digits(model, path).source_sha256()
    assert before == read_examples(path).sha256
    path.write_text(csv_text().replace("\n0,", "\n1,", 1))
    assert digits(model, path).source_sha256() != before


def test_a_sample_of_each_digit_is_a_picture_of_the_held_out_part() -> None:
    for model, mode in (("digits", "L"), ("alexnet", "RGB")):
        recipe = digits(model)
        dataset = recipe.load_data()
        samples = recipe.sample_files(dataset)
        assert sorted(samples) == [f"{digit}.png" for digit in range(10)]
        image = Image.open(io.BytesIO(samples["3.png"]))
        assert image.mode == mode
        first = dataset.test_inputs[np.flatnonzero(dataset.test_labels == 3)[0], 0]
        np.testing.assert_array_equal(np.asarray(image.convert("L")), np.rint(first * 255))


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_a_data_set_that_stage_data_did_not_write_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"data.npz is no data set of Slipway .*: run `dvc repro`"):
        Dataset.from_file(tmp_path / "data.npz")
