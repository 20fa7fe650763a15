"""What `slipway predict` makes of an answer: classes only where there are some, else values; never NaN as a class."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from slipway_client import Client, Model, ModelSpec, ServerError, TensorSpec, answer_files, answer_texts

ARRAY = TensorSpec("x", "FP32", (-1, 1))
IMAGE = TensorSpec("x", "FP32", (-1, 1, -1, -1))
TEXT = TensorSpec("x", "BYTES", (-1, 1))
NAN = float("nan")


class Canned:
    """Gives the same outputs again and again."""

    def __init__(self, tensor: TensorSpec, outputs: Mapping[str, Any], batch: int) -> None:
        self._outputs = outputs
        specs = tuple(TensorSpec(name, "FP32", (-1,)) for name in outputs)
        self._spec = ModelSpec("canned", "1", (tensor,), specs, batch)

    def server_ready(self, timeout: float) -> bool:
        return True

    def model_ready(self, model: str, version: str, timeout: float) -> bool:
        return True

    def spec(self, model: str, version: str, timeout: float) -> ModelSpec:
        return self._spec

    def infer(
        self, spec: ModelSpec, version: str, inputs: Mapping[str, Any], outputs: Sequence[str], timeout: float
    ) -> tuple[Mapping[str, Any], str]:
        (asked,) = inputs.values()
        backwards = reversed(list(self._outputs.items()))  # a server's order is not the model's
        return {name: np.concatenate([value] * len(asked)) for name, value in backwards}, "1"

    def close(self) -> None:
        pass


def model(tensor: TensorSpec, outputs: Mapping[str, Any], batch: int = 4) -> Model:
    return Client("http://unused", transport=Canned(tensor, outputs, batch)).model("canned")


@pytest.fixture
def ask(tmp_path: Path) -> Any:
    """Ask with one file; the row without what every row has, and the cells."""
    np.save(tmp_path / "one.npy", np.zeros((1, 1), np.float32))

    def ask(outputs: Mapping[str, Any], labels: Sequence[str] = (), tensor: TensorSpec = ARRAY, batch: int = 4) -> Any:
        (row,), (header, cells) = answer_files(model(tensor, outputs, batch), [tmp_path / "one.npy"], labels)
        json.dumps(row, allow_nan=False)
        assert [row.pop("file"), row.pop("model"), row.pop("version")] == [str(tmp_path / "one.npy"), "canned", "1"]
        return row, dict(zip(header[1:], cells[1:], strict=True))

    return ask


def floats(*values: float) -> Any:
    return np.array([values], np.float32)


@pytest.mark.parametrize(
    ("output", "labels", "row", "cells"),
    [
        (floats(0.25, 0.75), [], {"class": "1", "probability": 0.75}, {"class": "1", "probability": "0.7500"}),
        (floats(0.25, 0.75), ["a", "b"], {"class": "b", "probability": 0.75}, {"class": "b", "probability": "0.7500"}),
        (floats(0.25, 0.75), ["of", "another", "model"], {"class": "1", "probability": 0.75}, None),
        (floats(-2, 3.5), ["a", "b"], {"class": "b", "score": 3.5}, {"class": "b", "score": "3.5000"}),
        (floats(0, np.inf), ["a", "b"], {"class": "b", "score": None}, {"class": "b", "score": "inf"}),
        (floats(-2, 3.5), [], {"y": [-2, 3.5]}, {"y": "[-2, 3.5]"}),
        (floats(0.25, 0.25), [], {"y": [0.25, 0.25]}, None),
        (floats(1, 0, -0.125), [], {"y": [1, 0, -0.125]}, {"y": "[1, 0, -0.125]"}),  # of no text: no embedding
        (floats(2.2922), [], {"y": pytest.approx(2.2922)}, {"y": "2.2922"}),
        (floats(1), ["a"], {"y": 1}, {"y": "1"}),
        (floats(NAN, 1), [], {"y": [None, 1]}, {"y": "[nan, 1]"}),
        (np.array([3], np.int64), [], {"y": 3}, {"y": "3"}),
        (np.array([[b"caf\xc3\xa9"]], object), [], {"y": "café"}, {"y": "café"}),
        (np.array([[b"a", b"b"]], object), [], {"y": ["a", "b"]}, {"y": "[a, b]"}),
        (np.zeros((1, 0, 2), np.float32), [], {"y": []}, {"y": "0 x 2, empty"}),
        (np.array([[[True, False]]]), [], {"y": [[True, False]]}, {"y": "[True, False] (1 x 2)"}),
    ],
    ids=str,
)
def test_an_output_is_shown_as_what_it_is(ask: Any, output: Any, labels: list[str], row: Any, cells: Any) -> None:
    found, shown = ask({"y": output}, labels)
    assert found == row
    assert cells is None or shown == cells


def test_large_outputs_are_summed_up_in_the_table_and_whole_in_the_json(ask: Any) -> None:
    mask = np.zeros((1, 4, 5), np.int64)
    mask[0, 0] = 1
    row, cells = ask({"mask": mask, "depth": mask * 0.5, "logits": np.arange(20.0)[None] - 4})
    assert row["mask"] == mask[0].tolist()
    assert cells == {
        "mask": "4 x 5, 0: 75.0%, 1: 25.0%",
        "depth": "4 x 5, 0 to 0.5, mean 0.125",
        "logits": "20, -4 to 15, mean 5.5, the largest at 19",
    }
    row, cells = ask({"depth": np.where(mask, np.nan, 1.0)})
    assert cells == {"depth": "4 x 5, 1 to 1, mean 1, 5 NaN or infinite"}
    assert row["depth"][0] == [None] * 5


def test_outputs_come_in_the_models_order_and_by_name_whatever_the_servers(ask: Any) -> None:
    row, cells = ask({"label": np.array([7]), "probabilities": floats(0.2, 0.8)})
    assert list(row.items()) == [("label", 7), ("class", "1"), ("probability", pytest.approx(0.8))]
    assert list(cells.items()) == [("label", "7"), ("class", "1"), ("probability", "0.8000")]


def test_each_of_several_classes_is_below_its_outputs_name(ask: Any) -> None:
    row, cells = ask({"animal": floats(0.2, 0.8), "colour": floats(1, 0, 0)}, labels=["cat", "dog"])
    assert row == {
        "animal": {"class": "dog", "probability": pytest.approx(0.8)},
        "colour": {"class": "0", "probability": 1},
    }
    assert cells["animal: class"] == "dog"
    assert cells["colour: class"] == "0"


def test_an_output_whose_name_a_row_has_already_keeps_apart(ask: Any) -> None:
    row, _ = ask({"score": floats(3), "class": floats(4)})
    assert row == {"output score": 3, "output class": 4}


def test_scores_of_an_image_are_classes_and_those_of_another_array_values(ask: Any) -> None:
    scores = {"y": floats(1, 0.5, 0.5)}
    assert ask(scores, tensor=IMAGE)[0] == {"class": "0", "score": 1}
    assert ask({"y": floats(213, 4, 80, 90)}, tensor=IMAGE)[0] == {"y": [213, 4, 80, 90]}  # a box is no class
    assert ask(scores)[0] == {"y": [1, 0.5, 0.5]}


def test_an_answer_without_a_batch_is_shown_like_one_with(ask: Any) -> None:
    assert ask({"y": floats(0.25, 0.75)}, batch=0)[0] == {"class": "1", "probability": 0.75}


@pytest.mark.parametrize(
    ("output", "labels"), [(floats(NAN, NAN), []), (floats(NAN, 5), ["a", "b"]), (floats(NAN), [])]
)
def test_nan_is_no_class_and_no_answer(ask: Any, output: Any, labels: list[str]) -> None:
    with pytest.raises(ServerError, match=r"one\.npy: model 'canned' answers NaN in 'y', which is no number"):
        ask({"y": output}, labels)


def test_classes_of_texts_are_no_embeddings_and_rank_one_outputs_are_one_value_each() -> None:
    rows, table = answer_texts(model(TEXT, {"y": floats(0.25, 0.75)}), ["a", "b"], ["no", "yes"])
    assert table == [["text", "class", "probability"], ["a", "yes", "0.7500"], ["b", "yes", "0.7500"]]
    assert [row["class"] for row in rows] == ["yes", "yes"]
    rows, table = answer_texts(model(TEXT, {"n": np.array([2.5], np.float32), "t": np.array([b"x"], object)}), ["a"])
    assert table == [["text", "n", "t"], ["a", "2.5", "x"]]
    assert rows == [{"text": "a", "n": 2.5, "t": "x", "model": "canned", "version": "1"}]


def test_an_output_called_text_leaves_the_question_in_its_row() -> None:
    ((row,), _) = answer_texts(model(TEXT, {"text": np.array([[b"answer"]], object)}), ["question"])
    assert (row["text"], row["output text"]) == ("question", "answer")


def test_a_file_whose_name_is_no_utf_8_is_still_told(tmp_path: Path) -> None:
    path = tmp_path / "gr\udcfcn.npy"
    np.save(path, np.zeros((1, 1), np.float32))
    ((row,), _) = answer_files(model(ARRAY, {"y": floats(1)}), [path])
    assert row["file"].endswith("gr\\xfcn.npy")
