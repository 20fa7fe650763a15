"""Texts for models whose input is text: read from a file, sent in as many requests as the model's batches need."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from slipway_client._client import Model
from slipway_client._errors import InvalidInput, ServerError
from slipway_client._types import Array, Result

_CONVERT = "save it as UTF-8 (`iconv -f LATIN1 -t UTF-8`)"


def read_texts(path: Path) -> list[str]:
    r"""Read a UTF-8 file with one text a line (`\n` or `\r\n`); `-` is standard input. An empty line is an empty text.

    Raises:
        InvalidInput: the file cannot be read, is not UTF-8, or holds no line.
    """
    name, expected = ("standard input" if str(path) == "-" else str(path)), "UTF-8 text, one a line"
    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise InvalidInput(name, expected, (error.strerror or str(error)).lower()) from error
    try:
        text = content.decode("utf-8-sig")  # a byte order mark is no part of the first text
    except UnicodeDecodeError as error:
        line, start = content.count(b"\n", 0, error.start) + 1, content.rfind(b"\n", 0, error.start) + 1
        found = f"byte 0x{content[error.start]:02x} in line {line}, at its byte {error.start - start + 1}: {_CONVERT}"
        raise InvalidInput(name, expected, found) from error
    if not text:
        raise InvalidInput(name, expected, "nothing: write a text into it")
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def ask_texts(model: Model, texts: Sequence[str]) -> Iterator[Result]:
    """Ask a model whose only input is one text (`BYTES [n, 1]`), at most its `max_batch_size` texts a request.

    Every text is checked before the first request is sent.

    Yields:
        For each text, in order, its answer: the outputs without their batch dimension, also where the model has one
        although it takes no batches (`max_batch_size` 0).

    Raises:
        InvalidInput: a text that UTF-8 cannot hold, or a model that takes something else.
        ServerError: an output has not one row for each text.
        TritonError: as `Model.infer`.
    """
    spec = model.spec
    if not spec.takes_text or spec.inputs[0].shape[-1:] not in ((1,), (-1,)) or len(spec.inputs[0].shape) > 2:
        inputs = ", ".join(f"{tensor.name} {tensor}" for tensor in spec.inputs)
        raise InvalidInput(f"model '{spec.name}'", "one text as its only input (BYTES [n, 1])", inputs)
    for number, text in enumerate(texts, 1):
        _check(text, f"text {number} of {len(texts)}")
    size = spec.max_batch_size or 1
    for start in range(0, len(texts), size):
        yield from _ask(model, texts[start : start + size])


def _check(text: str, subject: str) -> None:
    """Refuse what is no UTF-8: Python hands over a byte of the command line that is none as a lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        found = f"byte 0x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"U+{code:04X}"
        place = f"after {len(text[: error.start].encode())} bytes ({text[:40]!a})"
        raise InvalidInput(subject, "UTF-8 text", f"{found} {place}: {_CONVERT}") from error


def _ask(model: Model, texts: Sequence[str]) -> Iterator[Result]:
    spec = model.spec
    batch: Array = np.empty((len(texts), 1)[: len(spec.inputs[0].shape)], dtype=np.object_)
    batch.ravel()[:] = texts
    answer = model.infer({spec.inputs[0].name: batch})
    if not spec.max_batch_size:
        rows = {one.name for one in spec.outputs if batch.ndim == 2 and one.shape[:1] == (-1,)}
        outputs = {name: array[0, ...] if name in rows and len(array) == 1 else array for name, array in answer.items()}
        yield Result(outputs, answer.model_name, answer.model_version)
        return
    for name, array in answer.items():
        if len(array) != len(texts):
            raise ServerError(f"model '{model.name}' gave {len(array)} rows of '{name}' for {len(texts)} texts")
    for row in range(len(texts)):
        yield Result({name: array[row, ...] for name, array in answer.items()}, answer.model_name, answer.model_version)
