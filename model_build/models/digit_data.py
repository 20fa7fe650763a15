"""Handwritten digits from three places, all as float32 `[n, 1, 28, 28]` in 0..1 with labels int64 `[n]`.

IDX is MNIST's own format (http://yann.lecun.com/exdb/mnist/): big-endian magic number, sizes, then bytes.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from model_build._errors import DataError
from model_build.labels import file_names

SIDE = 28
Examples = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]

CSV_COLUMNS = ("label", *(f"pixel{index}" for index in range(SIDE * SIDE)))
CSV_EXPECTED = "a header 'label,pixel0,...,pixel783', in any order, and rows of whole numbers 0..255"

IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@dataclass(frozen=True)
class DigitExamples:
    """Images and labels; `test` where the source brings its own held-out part."""

    train: Examples
    test: Examples | None
    source: str
    sha256: str


def read_examples(path: Path | None) -> DigitExamples:
    """Read scikit-learn's scans (None), a Kaggle CSV (a file) or MNIST's IDX files (a folder).

    Raises:
        DataError: the path does not exist, or its content is not of that format.
    """
    if path is None:
        return _scikit_learn()
    if path.is_dir():
        return _idx_folder(path)
    if path.is_file():
        return _kaggle_csv(path)
    raise DataError(f"data.path {path} does not exist: expected a Kaggle CSV file or a folder with MNIST's IDX files")


def _scikit_learn() -> DigitExamples:
    from sklearn.datasets import load_digits  # takes a second, and only stage data comes here

    digits = load_digits()
    scans = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # 8x8, 0..16
    resized = [Image.fromarray(scan).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for scan in scans]
    pixels = np.stack([np.asarray(image) for image in resized])
    digest = hashlib.sha256(digits.images.tobytes() + digits.target.tobytes()).hexdigest()
    return DigitExamples(_examples(pixels, digits.target), None, "scikit-learn load_digits", digest)


def _kaggle_csv(path: Path) -> DigitExamples:
    """Columns by their names, whatever their order, separated by commas, semicolons or tabs."""
    content = path.read_bytes()
    try:
        header, *rows = [line for line in content.decode("utf-8-sig").splitlines() if line.strip()] or [""]
        separator = max(",;\t", key=header.count)
        order = _columns(next(csv.reader([header], delimiter=separator), []))
        if not rows:
            raise ValueError("it has no rows")
        table = np.loadtxt(rows, delimiter=separator, dtype=np.int64, ndmin=2, quotechar='"', comments=None)
        if table.shape[1] != len(order):
            raise ValueError(f"its rows have {table.shape[1]} columns")
    except (UnicodeDecodeError, ValueError, csv.Error) as error:
        raise DataError(f"{path} is no Kaggle digit CSV ({error}): expected {CSV_EXPECTED}") from error
    labels, pixels = table[:, order[0]], table[:, order[1:]]
    _check_range(path, pixels, 255, "pixel")
    _check_range(path, labels, 9, "label")
    examples = _examples(pixels.reshape(-1, SIDE, SIDE), labels)
    return DigitExamples(examples, None, str(path), hashlib.sha256(content).hexdigest())


def _columns(header: Sequence[str]) -> list[int]:
    """Where each of CSV_COLUMNS stands in the header; a ValueError says what is wrong with it."""
    names = [name.strip() for name in header]
    counted = Counter(names)
    problems = {
        "no column": [name for name in CSV_COLUMNS if name not in counted],
        "twice": [name for name in CSV_COLUMNS if counted[name] > 1],
        "also": [name for name in counted if name not in CSV_COLUMNS],
    }
    told = [f"{what} {_few(columns)}" for what, columns in problems.items() if columns]
    if not told:
        return [names.index(name) for name in CSV_COLUMNS]
    if all(name.lstrip("-").replace(".", "", 1).isdigit() for name in names):
        told = ["numbers in its first line, and no header"]
    raise ValueError(f"it has {', '.join(told)}")


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"'{name:.20}'" for name in names[:3]) + more


def _idx_folder(folder: Path) -> DigitExamples:
    digest = hashlib.sha256()
    train = _idx_pair(folder, *IDX_FILES["train"], digest)
    has_test = any((folder / f"{IDX_FILES['test'][0]}{end}").is_file() for end in ("", ".gz"))
    test = _idx_pair(folder, *IDX_FILES["test"], digest) if has_test else None
    return DigitExamples(train, test, str(folder), digest.hexdigest())


def _idx_pair(folder: Path, images: str, labels: str, digest: hashlib._Hash) -> Examples:
    pixels = _idx_array(folder, images, 3, digest)
    numbers = _idx_array(folder, labels, 1, digest)
    if len(pixels) != len(numbers) or pixels.shape[1:] != (SIDE, SIDE):
        raise DataError(
            f"{folder}: {images} has shape {list(pixels.shape)} and {labels} {list(numbers.shape)}: "
            f"expected [n, {SIDE}, {SIDE}] and [n]"
        )
    _check_range(folder / labels, numbers, 9, "label")
    return _examples(pixels, numbers)


def _idx_array(folder: Path, name: str, dimensions: int, digest: hashlib._Hash) -> npt.NDArray[np.uint8]:
    plain, packed = folder / name, folder / f"{name}.gz"
    if not plain.is_file() and not packed.is_file():
        raise DataError(f"{folder} has neither {name} nor {name}.gz: expected MNIST's IDX files")
    try:
        content = plain.read_bytes() if plain.is_file() else gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{packed} cannot be unpacked ({error}): fetch it again") from error
    digest.update(content)
    head = 4 + 4 * dimensions
    sizes = np.frombuffer(content[4:head], ">u4") if len(content) >= head else np.zeros(0)
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) != head + int(np.prod(sizes)):
        raise DataError(f"{plain} is no IDX file of unsigned bytes with {dimensions} dimensions, or is cut off")
    return np.frombuffer(content[head:], np.uint8).reshape(*map(int, sizes))


def _check_range(path: Path, values: npt.NDArray[np.integer], largest: int, what: str) -> None:
    if values.size == 0 or values.min() < 0 or values.max() > largest:
        found = f"{values.min()}..{values.max()}" if values.size else "none"
        raise DataError(f"{path} has {what}s {found}: expected 0..{largest}")


def _examples(pixels: npt.NDArray[np.integer], labels: npt.NDArray[np.integer]) -> Examples:
    return (pixels[:, np.newaxis] / np.float32(255)).astype(np.float32), labels.astype(np.int64)


def png_of_each(
    images: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], names: Sequence[str]
) -> dict[str, bytes]:
    """The first image of each class as PNG: greyscale of one channel, or RGB of three."""
    files = {}
    for index, name in enumerate(file_names(names)):
        (found,) = np.nonzero(labels == index)
        if found.size:
            files[f"{name}.png"] = _png(images[found[0]])
    return files


def _png(image: npt.NDArray[np.float32]) -> bytes:
    pixels = np.rint(image * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(buffer, format="PNG")
    return buffer.getvalue()
