"""Image files as arrays: the one contract of `slipway predict`, `read_image` and recipes that read photos.

The section "Images" of client/README.md is its text.
"""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slipway_client._errors import InvalidInput, TritonError
from slipway_client._types import DTYPES, Array, TensorSpec

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
HIDDEN = (255, 255, 255, 255)  # what lies behind transparent pixels: a page is white

NOT_CLEAR = "an image, which is [n, channels, height, width] or [n, height, width, channels] of 1, 3 or 4 channels"

# What Pillow's decoders raise of files that are damaged, or are no images.
_DAMAGED = (OSError, ValueError, SyntaxError, EOFError, struct.error)


@dataclass(frozen=True)
class ImageLayout:
    """How an input holds one image; -1 for any `height` or `width`."""

    channels: int
    height: int
    width: int
    channels_last: bool

    @classmethod
    def of(cls, tensor: TensorSpec) -> ImageLayout | None:
        """The layout of `[c, h, w]` or `[h, w, c]`, alone or behind a dimension -1 or 1; None of anything else.

        Channels are 1 or 3, or 4 where neither end is 1 or 3; where both ends could be, it is no image.
        """
        shape = tensor.shape[1:] if len(tensor.shape) == 4 and tensor.shape[0] in (-1, 1) else tensor.shape
        if len(shape) != 3 or (len(tensor.shape) == 3 and shape[0] == -1):  # -1 could count examples
            return None
        first, last = (any(size == channels for channels in (1, 3)) for size in (shape[0], shape[2]))
        if not first and not last:
            first, last = shape[0] == 4, shape[2] == 4
        if first == last:
            return None
        return cls(shape[2], shape[0], shape[1], True) if last else cls(*shape, channels_last=False)

    def __str__(self) -> str:
        height, width = ("any" if size < 0 else str(size) for size in (self.height, self.width))
        return f"{width} x {height} pixels (width x height)"


def read_pixels(path: Path, tensor: TensorSpec) -> Array:
    """Decode an image file for an input of images.

    Returns:
        The image as displayed, as `tensor` takes it: raw 0..255 for UINT8, 0..1 for floating point.

    Raises:
        InvalidInput: the input is none of images, the file no image of 8 bits, or of another size.
    """
    dtype = DTYPES.get(tensor.datatype, np.dtype(object))
    layout = ImageLayout.of(tensor)
    if layout is None or not (dtype.kind == "f" or dtype == np.uint8):
        found = f"an image: it would be UINT8 or floating point, and not {tensor.datatype}" if layout else NOT_CLEAR
        raise InvalidInput(str(path), f"one example of input '{tensor.name}' ({tensor}) in a .npy file", found)
    pixels = np.asarray(_decode(path, layout))
    height, width = pixels.shape[:2]
    if layout.height not in (-1, height) or layout.width not in (-1, width):
        raise InvalidInput(str(path), f"{layout} for {tensor}", f"{width} x {height}: nothing is resized here")
    pixels = pixels.reshape(height, width, layout.channels)
    pixels = pixels if layout.channels_last else pixels.transpose(2, 0, 1)
    if dtype.kind == "f":
        pixels = (pixels.astype(np.float32) / np.float32(255)).astype(dtype)
    return np.ascontiguousarray(pixels[np.newaxis] if len(tensor.shape) == 4 else pixels)


def _decode(path: Path, layout: ImageLayout) -> Any:
    """The first picture of the file, turned as its EXIF orientation says, in the mode that the channels ask for."""
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError as error:
        raise TritonError(
            f"{path}: images need Pillow, which is not installed here: `pip install slipway-client[images]`"
        ) from error
    try:
        with warnings.catch_warnings(), Image.open(path) as file:
            warnings.simplefilter("ignore")  # of damaged EXIF data, where viewers show the picture as it is
            if file.mode.startswith(("I", "F")):
                raise InvalidInput(str(path), "an image of 8 bits a channel", f"one of mode {file.mode}: convert it")
            image = ImageOps.exif_transpose(file)
            if image.has_transparency_data and layout.channels != 4:
                above = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", above.size, HIDDEN), above)
            return image.convert(MODES[layout.channels])
    except InvalidInput:
        raise
    except FileNotFoundError as error:
        raise InvalidInput(str(path), "an image or .npy file", "no such file") from error
    except (*_DAMAGED, Image.DecompressionBombError) as error:
        raise InvalidInput(
            str(path), "an image (PNG, JPEG, ...) or a .npy file", f"something else ({error})"
        ) from error
