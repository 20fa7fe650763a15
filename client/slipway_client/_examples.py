"""Files as the arrays that a model takes: one example each, an image, a `.npy` array or the arrays of a `.npz`."""

from __future__ import annotations

import keyword
import zipfile
import zlib
from pathlib import Path

import numpy as np

from slipway_client._errors import InvalidInput
from slipway_client._images import ImageLayout, read_pixels
from slipway_client._types import DTYPES, Array, ModelSpec, TensorSpec

# What NumPy raises of files that are damaged, or are none of its own.
_DAMAGED = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


def read_inputs(path: Path, spec: ModelSpec) -> dict[str, Array]:
    """Read one request for a model: a `.npz` file with each input by its name, or what `read_example` takes.

    Returns:
        Arrays by name as the inputs take them, one example.

    Raises:
        InvalidInput: as of `read_example`; or the model has several inputs and the file does not hold just them.
    """
    batched = spec.max_batch_size > 0
    if path.suffix.lower() == ".npz":
        arrays = _arrays(path, spec)
        return {one.name: _as_example(f"{path}, '{one.name}'", one, arrays[one.name], batched) for one in spec.inputs}
    if len(spec.inputs) != 1:
        listed = ", ".join(f"{tensor.name} {tensor}" for tensor in spec.inputs)
        raise InvalidInput(
            str(path),
            f"the {len(spec.inputs)} inputs of model '{spec.name}' ({listed}) in a .npz file{_recipe(spec)}",
            _kind(path),
        )
    (tensor,) = spec.inputs
    return {tensor.name: read_example(path, tensor, batched=batched)}


def read_example(path: Path, tensor: TensorSpec, *, batched: bool = True) -> Array:
    """Read one example for any input: a `.npy` array of its shape, or an image file where it is of images.

    Args:
        path: the file.
        tensor: the input, such as `model.spec.inputs[0]`.
        batched: a first dimension of any size counts examples (`model.spec.max_batch_size > 0`).

    Returns:
        The array as the input takes it, `[1, ...]` where its first dimension counts examples.

    Raises:
        InvalidInput: the file cannot be read, or holds another shape or dtype.
    """
    if path.suffix.lower() == ".npy":
        return _as_example(str(path), tensor, _read_array(path), batched)
    if len(tensor.shape) < 3:  # of any more, `read_pixels` says why it takes no image
        raise InvalidInput(str(path), f"{_expected(tensor)} in a .npy file", _kind(path))
    return read_pixels(path, tensor)


def read_image(path: Path, tensor: TensorSpec) -> Array:
    """Read one example for an input of images, as `read_example` does: an image file, or an array in a `.npy` file.

    Image files are given as displayed, and never resized; arrays may leave out a first dimension, and one channel.

    Returns:
        Array `[1, channels, height, width]`, or in the input's other layout; the section "Images" of the README.

    Raises:
        InvalidInput: the input is none of images, the file cannot be read or has another size.
    """
    if ImageLayout.of(tensor) is None:
        raise InvalidInput(f"input '{tensor.name}'", "an image input [n, 1 or 3, height, width]", str(tensor))
    return read_example(path, tensor)


def _kind(path: Path) -> str:
    return f"a {path.suffix} file" if path.suffix else "another file"


def _counts(tensor: TensorSpec) -> bool:
    """Whether the first dimension may be left out of a file with one example."""
    return tensor.shape[:1] == (-1,) or (len(tensor.shape) > 1 and tensor.shape[0] == 1)


def _one(tensor: TensorSpec) -> TensorSpec:
    """One example of the input."""
    return TensorSpec(tensor.name, tensor.datatype, tensor.shape[1:] if _counts(tensor) else tensor.shape)


def _expected(tensor: TensorSpec) -> str:
    return f"one example of input '{tensor.name}' ({_one(tensor)})"


def _as_example(subject: str, tensor: TensorSpec, array: Array, batched: bool) -> Array:
    """The array of a file as the input takes it."""
    shape, layout = array.shape, ImageLayout.of(tensor)
    if layout and layout.channels == 1 and array.ndim == 2:  # a grey picture without its only channel
        array = array[..., np.newaxis] if layout.channels_last else array[np.newaxis]
    whole = tensor.fits(array.shape) and (not batched or tensor.shape[:1] != (-1,) or len(array) == 1)
    if not whole and not (_counts(tensor) and _one(tensor).fits(array.shape)):
        raise InvalidInput(subject, f"{_expected(tensor)} in a .npy file", f"shape {list(shape)}")
    wanted = DTYPES.get(tensor.datatype, array.dtype)
    if not np.can_cast(array.dtype, wanted, "safe"):
        remedy = f"{array.dtype}: save it with `array.astype(numpy.{wanted})`"
        raise InvalidInput(subject, f"an array of {wanted}", remedy)
    return array if whole else array[np.newaxis]


def _arrays(path: Path, spec: ModelSpec) -> dict[str, Array]:
    """The arrays of a `.npz` file, which has just the model's inputs."""
    names = sorted(tensor.name for tensor in spec.inputs)
    expected = f"a .npz file with the inputs {names}"
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            raise InvalidInput(str(path), expected, "one array without a name: write the file with `numpy.savez`")
        with found as archive:
            if sorted(archive.files) != names:
                raise InvalidInput(str(path), expected, str(sorted(archive.files)))
            return {name: archive[name] for name in names}
    except InvalidInput:
        raise
    except FileNotFoundError as error:
        raise InvalidInput(str(path), expected, "no such file") from error
    except _DAMAGED as error:
        raise InvalidInput(str(path), expected, f"something else ({error})") from error


def _recipe(spec: ModelSpec) -> str:
    """How to write a file with every input of the model, of zeros and of one text."""
    made = {tensor.name: _made(tensor) for tensor in spec.inputs}
    if {"file", "allow_pickle"} & {*made}:  # parameters of `numpy.savez`, which then cannot write the file
        return ""
    named = ", ".join(f"{name}={one}" for name, one in made.items())
    if not all(name.isidentifier() and not keyword.iskeyword(name) for name in made):
        named = f"**{{{', '.join(f'{name!r}: {one}' for name, one in made.items())}}}"
    return f", which `numpy.savez('example.npz', {named})` writes"


def _made(tensor: TensorSpec) -> str:
    shape = tuple(1 if size < 0 else size for size in tensor.shape)
    if tensor.datatype == "BYTES":
        return f"numpy.full({shape}, 'text')"
    return f"numpy.zeros({shape}, '{DTYPES.get(tensor.datatype, tensor.datatype)}')"


def _read_array(path: Path) -> Array:
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise InvalidInput(str(path), "a .npy file", "no such file") from error
    except _DAMAGED as error:
        raise InvalidInput(str(path), "a NumPy array file", str(error)) from error
    if not isinstance(array, np.ndarray):
        raise InvalidInput(str(path), "one NumPy array (.npy)", "an archive of several (.npz)")
    return array
