"""Answers as a person reads them: rows for JSON, and rows of a table with its header."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slipway_client._client import Model
from slipway_client._errors import ServerError
from slipway_client._examples import read_inputs
from slipway_client._images import ImageLayout
from slipway_client._shown import Classes, shown_as
from slipway_client._texts import ask_texts
from slipway_client._types import Array, Result

Rows = list[dict[str, Any]]
Table = list[list[str]]

# What a row says beside the outputs; an output of such a name is `output NAME` in it.
RESERVED = {"file", "text", "class", "probability", "score", "model", "version"}


def answer_files(model: Model, paths: Sequence[Path], labels: Sequence[str] = ()) -> tuple[Rows, Table]:
    """Each file's outputs: the most probable class where they are probabilities, else values or a summary.

    Every file is read before the first is sent.

    Args:
        model: of any inputs that files hold.
        paths: one example each, as `read_inputs` takes them.
        labels: names of the classes, for outputs of as many numbers.

    Raises:
        InvalidInput: a file is not what the model takes.
        ServerError: an answer holds NaN where a class would be named, or nothing else.
    """
    examples = [read_inputs(path, model.spec) for path in paths]
    answers = [_one(model, model.infer(example)) for example in examples]
    names = [os.fsencode(path).decode(errors="backslashreplace") for path in paths]
    (first, *others) = model.spec.inputs
    return _rows("image" if ImageLayout.of(first) and not others else "file", model, names, answers, labels)


def answer_texts(model: Model, texts: Sequence[str], labels: Sequence[str] = ()) -> tuple[Rows, Table]:
    """Each text's outputs, as of `answer_files`; of an embedding the table has how near it is to the first text's.

    Raises:
        TritonError: as of `ask_texts`.
        ServerError: as of `answer_files`.
    """
    return _rows("text", model, texts, list(ask_texts(model, texts)), labels)


def _one(model: Model, answer: Result) -> Result:
    """The answer without the batch dimension, which is 1."""
    batched = model.spec.max_batch_size > 0
    outputs = {name: array[0, ...] if batched and len(array) == 1 else array for name, array in answer.items()}
    return Result(outputs, answer.model_name, answer.model_version)


def _rows(
    of: str, model: Model, subjects: Sequence[str], answers: Sequence[Result], labels: Sequence[str]
) -> tuple[Rows, Table]:
    """A row and a table row for each answer `of` an "image", a "file" or a "text", the outputs in the model's order."""
    kind = "text" if of == "text" else "file"
    names = [tensor.name for tensor in model.spec.outputs]
    for subject, answer in zip(subjects, answers, strict=True):
        _check_numbers(model, subject, answer)
    views = {name: shown_as([answer[name] for answer in answers], labels, of) for name in names}
    alone = sum(isinstance(view, Classes) for view in views.values()) == 1
    header = [kind]
    for name, view in views.items():
        header += view.columns(name, alone)
    rows: Rows = []
    table = [header]
    for subject, answer in zip(subjects, answers, strict=True):
        values: dict[str, Any] = {}
        cells = [subject]
        for name, view in views.items():
            try:
                values |= view.values(f"output {name}" if name in RESERVED else name, answer[name], alone)
                cells += view.cells(answer[name])
            except ValueError as error:
                raise ServerError(_nan(model, subject, name)) from error
        rows.append({kind: subject, **values, "model": answer.model_name, "version": answer.model_version})
        table.append(cells)
    return rows, table


def _check_numbers(model: Model, subject: str, answer: Mapping[str, Array]) -> None:
    """Refuse an output that is NaN throughout: it is no answer of any kind."""
    for name, array in answer.items():
        if array.dtype.kind == "f" and array.size and (array != array).all():
            raise ServerError(_nan(model, subject, name))


def _nan(model: Model, subject: str, name: str) -> str:
    return (
        f"{subject}: model '{model.name}' answers NaN in '{name}', which is no number: "
        "is NaN or infinity in the input, or is FP16 too narrow for the model?"
    )
