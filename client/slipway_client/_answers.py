"""Answers as a person reads them: rows for JSON, and rows of a table with its header."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slipway_client._client import Model
from slipway_client._errors import TritonError
from slipway_client._images import read_example
from slipway_client._texts import ask_texts
from slipway_client._types import Array

Rows = list[dict[str, Any]]
Table = list[list[str]]


def classify(model: Model, paths: Sequence[Path], labels: Sequence[str] = ()) -> tuple[Rows, Table]:
    """The most probable class of each image or `.npy` array; every file is read before the first is sent.

    Args:
        model: one array in, a vector of probabilities out.
        paths: one example each.
        labels: names of the classes; a class without one is its number.

    Raises:
        TritonError: the model is another one.
        InvalidInput: a file is not what the model takes.
    """
    (tensor, *others), output = model.spec.inputs, model.spec.outputs[0]
    if others or len(output.shape) > 2 or not output.datatype.startswith("FP"):
        raise TritonError(f"model '{model.name}' is no classifier of one array or one text: ask it from Python")
    examples = [read_example(path, tensor) for path in paths]
    rows: Rows = []
    table: Table = [["file", "class", "probability"]]
    for path, example in zip(paths, examples, strict=True):
        answer = model.infer({tensor.name: example})
        probabilities = answer[output.name].ravel()
        index = int(probabilities.argmax())
        label, probability = labels[index] if index < len(labels) else str(index), float(probabilities[index])
        version = {"model": answer.model_name, "version": answer.model_version}
        rows.append({"file": str(path), "class": label, "probability": probability, **version})
        table.append([str(path), label, f"{probability:.4f}"])
    return rows, table


def answer_texts(model: Model, texts: Sequence[str]) -> tuple[Rows, Table]:
    """Each text's outputs; of a vector the table has its dimension and how near it is to the first text's.

    Raises:
        TritonError: as of `ask_texts`.
    """
    answers = list(ask_texts(model, texts))
    header = ["text"]
    for name, array in answers[0].items():
        vector = array.dtype.kind == "f" and array.size > 1
        header += ["dimension", "cosine similarity to the first text"] if vector else [name]
    rows: Rows = []
    table = [header]
    for text, answer in zip(texts, answers, strict=True):
        values = {name: _value(array) for name, array in answer.items()}
        rows.append({"text": text, **values, "model": answer.model_name, "version": answer.model_version})
        table.append([text, *(cell for name in answer for cell in _cells(answer[name], answers[0][name]))])
    return rows, table


def _value(array: Array) -> Any:
    """One text's output for JSON: text for BYTES, the bare value where there is one, lists otherwise."""
    values = array.tolist() if array.dtype != object else [one.decode(errors="backslashreplace") for one in array.flat]
    return values[0] if array.shape == (1,) else values


def _cells(array: Array, first: Array) -> list[str]:
    """One text's output for the table."""
    if array.dtype.kind != "f" or array.size == 1:
        return [str(_value(array))]
    left, right = array.ravel().astype(float), first.ravel().astype(float)
    length = math.sqrt((left @ left) * (right @ right)) if left.shape == right.shape else 0.0
    return [" x ".join(map(str, array.shape)), f"{left @ right / length:.4f}" if length else "undefined"]
