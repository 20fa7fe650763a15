"""Handwritten digits from three places, all as float32 `[n, 1, 28, 28]` in 0..1 with labels int64 `[n]`.

IDX is MNIST's own format (http://yann.lecun.com/exdb/mnist/): big-endian magic number, sizes, then bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from model_build._errors import DataError

SIDE = 28
Examples = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]

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
    content = path.read_bytes()
    expected = "a header 'label,pixel0,...,pixel783' and rows of whole numbers 0..255"
    try:
        header, _, body = content.decode("ascii").partition("\n")
        columns = header.strip().split(",")
        if not body.strip():
            raise ValueError("it has no rows")
        table = np.loadtxt(io.StringIO(body), delimiter=",", dtype=np.int64, ndmin=2)
    except (UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{path} is no Kaggle digit CSV ({error}): expected {expected}") from error
    if columns[0] != "label" or table.shape[1:] != (SIDE * SIDE + 1,):
        raise DataError(f"{path} begins '{header[:40]}' and has rows of {table.shape[1]} columns: expected {expected}")
    labels, pixels = table[:, 0], table[:, 1:]
    _check_range(path, pixels, 255, "pixel")
    examples = _examples(pixels.reshape(-1, SIDE, SIDE), labels)
    _check_range(path, labels, 9, "label")
    return DigitExamples(examples, None, str(path), hashlib.sha256(content).hexdigest())


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
    for index, name in enumerate(names):
        (found,) = np.nonzero(labels == index)
        if found.size:
            files[f"{name}.png"] = _png(images[found[0]])
    return files


def _png(image: npt.NDArray[np.float32]) -> bytes:
    pixels = np.rint(image * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(buffer, format="PNG")
    return buffer.getvalue()
