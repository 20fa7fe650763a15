"""What the translator's graphs are asked while they decode: INT8 is calibrated on that, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from model_build.models.translation.feeds import record_feeds
from model_build.models.translation.served.decoding import Translator
from model_build.precision.making import check_feeds
from tests.text_support import MAX_TOKENS, SENTENCES, memorised

TEXTS = [*SENTENCES][:2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("translator") / "1"
    memorised(folder)
    return folder


def translate(decoding: Translator, text: str) -> list[int]:
    sentence = decoding.sentence(text)
    decoding.decode([sentence])
    return sentence.tokens


def test_every_step_but_a_sentences_first_is_recorded_with_the_cache_that_it_had(folder: Path) -> None:
    decoding = Translator(folder, 1, MAX_TOKENS, MAX_TOKENS)
    lengths = [len(translate(decoding, text)) for text in TEXTS]
    feeds = record_feeds(decoding, TEXTS)
    assert [feed["source"].shape[0] for feed in feeds["encoder.onnx"]] == [1, 1]
    steps = feeds["decoder.onnx"]
    assert len(steps) == sum(lengths)  # a sentence's end token is a step too, and its first is left out
    assert [feed["past_keys_0"].shape[2] for feed in steps] == [feed["position"].item() for feed in steps]
    assert [feed["position"].item() for feed in steps[: lengths[0]]] == [*range(1, lengths[0] + 1)]


def test_what_was_recorded_is_what_the_graphs_take_for_calibration(folder: Path) -> None:
    for name, feeds in record_feeds(Translator(folder, 1, MAX_TOKENS, MAX_TOKENS), TEXTS).items():
        check_feeds(name, (folder / name).read_bytes(), feeds)


def test_a_recorded_step_gives_the_next_recorded_token(folder: Path) -> None:
    steps = record_feeds(Translator(folder, 1, MAX_TOKENS, MAX_TOKENS), TEXTS[:1])["decoder.onnx"]
    session = ort.InferenceSession(folder / "decoder.onnx", providers=["CPUExecutionProvider"])
    tokens = [session.run(["next_token"], dict(feed))[0] for feed in steps]
    np.testing.assert_array_equal(tokens[:-1], [feed["token"] for feed in steps[1:]])


def test_a_translator_that_was_recorded_translates_as_before(folder: Path) -> None:
    decoding = Translator(folder, 1, MAX_TOKENS, MAX_TOKENS)
    before, sessions = [translate(decoding, text) for text in TEXTS], (decoding.encoder, decoding.decoder)
    record_feeds(decoding, TEXTS)
    assert (decoding.encoder, decoding.decoder) == sessions
    assert [translate(decoding, text) for text in TEXTS] == before
