"""Files as the arrays that a model takes: one example each, an image or a `.npy` array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slipway_client._errors import InvalidInput
from slipway_client._types import DTYPES, TensorSpec


def read_example(path: Path, tensor: TensorSpec) -> npt.NDArray[Any]:
    """Read one example for any input: a `.npy` array of its shape, or what `read_image` takes where it is of images.

    Args:
        path: the file.
        tensor: the input, such as `model.spec.inputs[0]`; a first dimension of any size counts examples.

    Returns:
        The array as the input takes it, `[1, ...]` where its first dimension counts examples.

    Raises:
        InvalidInput: the file cannot be read, or holds another shape or dtype.
    """
    array = read_image(path, tensor) if _is_image(tensor) else _shaped(path, tensor)
    wanted = DTYPES[tensor.datatype]
    if path.suffix == ".npy" and not np.can_cast(array.dtype, wanted, "safe"):
        raise InvalidInput(
            str(path), f"an array of {wanted}", f"{array.dtype}: save it with `array.astype(numpy.{wanted})`"
        )
    return array


def read_image(path: Path, tensor: TensorSpec) -> npt.NDArray[Any]:
    """Read one example for an input `[n, channels, height, width]`: an image file, or an array in a `.npy` file.

    Images become greyscale or RGB as the channels ask, scaled to 0..1; they are not resized. Arrays may be
    `[channels, height, width]` or `[height, width]` for one channel, and keep their dtype.

    Returns:
        Array `[1, channels, height, width]`.

    Raises:
        InvalidInput: the file cannot be read or has another size.
    """
    if not _is_image(tensor):
        raise InvalidInput(f"input '{tensor.name}'", "an image input [n, 1 or 3, height, width]", str(tensor))
    array = _read_array(path) if path.suffix == ".npy" else _read_pixels(path, int(tensor.shape[1]))
    if array.ndim == 2:
        array = array[np.newaxis]
    if array.ndim == 3:
        array = array[np.newaxis]
    want = (1, *tensor.shape[1:])
    if array.shape != want:
        expected = f"{want[2]} x {want[3]} pixels, {want[1]} channel{'s' if want[1] > 1 else ''}"
        raise InvalidInput(str(path), f"{expected} ({list(want[1:])})", str(list(array.shape[1:])))
    return array


def _is_image(tensor: TensorSpec) -> bool:
    return len(tensor.shape) == 4 and tensor.shape[1] in (1, 3)


def _shaped(path: Path, tensor: TensorSpec) -> npt.NDArray[Any]:
    """The array in a `.npy` file, as one example of the input."""
    counted = tensor.shape[:1] == (-1,)
    one = TensorSpec(tensor.name, tensor.datatype, tensor.shape[1:] if counted else tensor.shape)
    expected = f"one example of input '{tensor.name}' ({one}) in a .npy file"
    if path.suffix != ".npy":
        raise InvalidInput(str(path), expected, f"a {path.suffix} file" if path.suffix else "another file")
    array = _read_array(path)
    example = array[0] if counted and array.ndim == len(tensor.shape) and len(array) == 1 else array
    if not one.fits(example.shape) or 0 in example.shape:
        raise InvalidInput(str(path), expected, f"shape {list(array.shape)}")
    return example[np.newaxis] if counted else example


def _read_array(path: Path) -> npt.NDArray[Any]:
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise InvalidInput(str(path), "a .npy file", "no such file") from error
    except (OSError, ValueError, EOFError) as error:
        raise InvalidInput(str(path), "a NumPy array file", str(error)) from error
    if not isinstance(array, np.ndarray):
        raise InvalidInput(str(path), "one NumPy array (.npy)", "an archive of several (.npz)")
    return array


def _read_pixels(path: Path, channels: int) -> npt.NDArray[np.float32]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise InvalidInput(str(path), "an image of 8 bits a channel", f"one of mode {image.mode}: convert it")
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"), dtype=np.float32) / np.float32(255)
    except FileNotFoundError as error:
        raise InvalidInput(str(path), "an image or .npy file", "no such file") from error
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise InvalidInput(
            str(path), "an image (PNG, JPEG, ...) or a .npy file", f"something else ({error})"
        ) from error
    return pixels[np.newaxis] if channels == 1 else pixels.transpose(2, 0, 1)
