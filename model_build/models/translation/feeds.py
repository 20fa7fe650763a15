"""What the two graphs are asked for while sentences are decoded: real inputs to calibrate and to compare with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from model_build.models.translation.served.decoding import Translator
from model_build.recipe import Array, Feed


def record_feeds(decoding: Translator, texts: Sequence[str]) -> Mapping[str, Sequence[Feed]]:
    """Inputs of `encoder.onnx` and of each step of `decoder.onnx`, each sentence decoded by itself.

    The first step of a sentence is left out: its cache is empty, and calibration looks at what is there.
    """
    encoder, decoder = (_Recorder(session) for session in (decoding.encoder, decoding.decoder))
    decoding.encoder, decoding.decoder = encoder, decoder
    try:
        for text in texts:
            decoding.decode([decoding.sentence(text)])
    finally:
        decoding.encoder, decoding.decoder = encoder.session, decoder.session
    steps = [feed for feed in decoder.feeds if feed["position"].all()]
    return {"encoder.onnx": encoder.feeds, "decoder.onnx": steps}


class _Recorder:
    """A session that keeps what it is asked."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.feeds: list[Feed] = []

    def run(self, outputs: Sequence[str], feed: Feed) -> list[Array]:
        """As the session's."""
        self.feeds.append(dict(feed))
        answers: list[Array] = self.session.run(outputs, dict(feed))
        return answers
