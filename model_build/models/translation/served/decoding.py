"""Tokenisation and the greedy decode loop around two ONNX graphs; no Triton in it, so the build uses it as it is.

`encoder.onnx` runs once for a batch of sentences, `decoder.onnx` once for each token of the longest: it takes the cache
of keys and values and gives it back with one token more. A sentence that has ended leaves the batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from tokenizers import Tokenizer

PAD, BEGIN, END = 0, 1, 2  # ids of the special tokens in both vocabularies

ASK_EVERY = 0.02  # seconds: whether a client has gone costs the stub a question to Triton
NOWHERE = -1e4  # what the encoder gives as bias where there is no token

Array = npt.NDArray[Any]


class TextError(ValueError):
    """A text that cannot be translated; the message says why and what to do."""


@dataclass
class Sentence:
    """One text on its way: its tokens so far, and why it ended.

    Attributes:
        source: the text's tokens.
        max_tokens: most tokens that the translation may have.
        deadline: `time.monotonic()` at which it ends as it is.
        cancelled: whether whoever asked has gone.
        tokens: the translation's tokens so far, END left out.
        finish_reason: "stop" (the end token), "length", "deadline", "cancelled"; empty while it goes on.
    """

    source: list[int]
    max_tokens: int
    deadline: float = float("inf")
    cancelled: Callable[[], bool] = lambda: False
    tokens: list[int] = field(default_factory=list)
    finish_reason: str = ""
    _ask_at: float = 0.0

    def take(self, token: int, now: float) -> None:
        """The next token, at the time `now`."""
        if token == END:
            self.finish_reason = "stop"
            return
        self.tokens.append(token)
        if len(self.tokens) >= self.max_tokens:
            self.finish_reason = "length"
        else:
            self.check(now)

    def check(self, now: float) -> None:
        """End it where nobody waits any more."""
        if now >= self.deadline:
            self.finish_reason = "deadline"
        elif now >= self._ask_at:
            self._ask_at = now + ASK_EVERY
            if self.cancelled():
                self.finish_reason = "cancelled"


class Translator:
    """The tokenizers and the two graphs of one folder.

    Args:
        folder: has both graphs, source.json and target.json (tokenizers).
        threads: of ONNX Runtime for one operator; 0 takes all cores.
        max_source_tokens: longest text that is taken.
        max_target_tokens: longest translation.
        encoder, decoder: names of the graphs' files.

    Attributes:
        encoder, decoder: their sessions.
    """

    def __init__(
        self,
        folder: Path,
        threads: int,
        max_source_tokens: int,
        max_target_tokens: int,
        encoder: str = "encoder.onnx",
        decoder: str = "decoder.onnx",
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self.encoder = ort.InferenceSession(str(folder / encoder), options, ["CPUExecutionProvider"])
        self.decoder = ort.InferenceSession(str(folder / decoder), options, ["CPUExecutionProvider"])
        self._source = read_tokenizer(folder / "source.json")
        self._target = read_tokenizer(folder / "target.json")
        self._memories = [node.name for node in self.encoder.get_outputs()]
        self._pasts = {
            node.name: (node.shape[1], 0, node.shape[3])
            for node in self.decoder.get_inputs()
            if node.name.startswith("past_")
        }
        self._outputs = [node.name for node in self.decoder.get_outputs()]
        self.max_source_tokens = max_source_tokens
        self.max_target_tokens = max_target_tokens

    def sentence(self, text: str, max_tokens: int | None = None) -> Sentence:
        """`text` as a sentence that nothing stops but its end and its length.

        Raises:
            TextError: the text has more tokens than the network takes.
        """
        source = self._source.encode(text).ids
        if len(source) > self.max_source_tokens - 1:
            raise TextError(
                f"the text has {len(source)} tokens, and the model takes {self.max_source_tokens - 1}: divide it into "
                f"sentences (it begins '{text[:40]}')"
            )
        limit = self.max_target_tokens if max_tokens is None else min(max_tokens, self.max_target_tokens)
        return Sentence([*source, END], limit)

    def text(self, tokens: Sequence[int]) -> str:
        """What the tokens of a translation say."""
        decoded: str = self._target.decode(list(tokens))
        return decoded.removeprefix(" ")

    def decode(
        self, sentences: Sequence[Sentence], heard: Callable[[Sequence[Sentence]], None] = lambda _: None
    ) -> None:
        """Translate together until each has a `finish_reason`.

        `heard` gets those that have ended before the first step, then after each step those that it moved.
        """
        now = time.monotonic()
        for sentence in sentences:
            sentence.check(now)
            if len(sentence.source) == 1:  # an empty text
                sentence.finish_reason = "stop"
        heard([sentence for sentence in sentences if sentence.finish_reason])
        active = [sentence for sentence in sentences if not sentence.finish_reason]
        if not active:
            return
        feed = self._encoded(active)
        feed |= {name: np.empty((len(active), *shape), np.float32) for name, shape in self._pasts.items()}
        feed["token"] = np.full((len(active), 1), BEGIN, np.int64)
        for position in range(self.max_target_tokens):
            feed["position"] = np.full((len(active), 1), position, np.int64)
            token, *presents = self.decoder.run(self._outputs, feed)
            feed["token"] = token
            feed.update(zip(self._pasts, presents, strict=True))
            now = time.monotonic()
            for sentence, one in zip(active, token.ravel().tolist(), strict=True):
                sentence.take(one, now)
            heard(active)
            if any(sentence.finish_reason for sentence in active):
                keep = [row for row, sentence in enumerate(active) if not sentence.finish_reason]
                if not keep:
                    return
                active = [active[row] for row in keep]
                feed = {name: array[keep] for name, array in feed.items()}

    def _encoded(self, sentences: Sequence[Sentence]) -> dict[str, Array]:
        """What the decoder looks at, each sentence padded to the longest.

        Each is encoded alone: on a CPU a batch takes as long as its sentences, and its padding on top.
        """
        rows = [
            self.encoder.run(self._memories, {"source": np.array([sentence.source], np.int64)})
            for sentence in sentences
        ]
        columns = zip(self._memories, zip(*rows, strict=True), strict=True)
        return {name: _padded(arrays, NOWHERE if name == "bias" else 0.0) for name, arrays in columns}


def read_tokenizer(path: Path) -> Tokenizer:
    """A vocabulary. What a user writes is text: "[END]" in it is not the token that ends a sentence."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True  # no part of the file
    return tokenizer


def _padded(arrays: Sequence[Array], filler: float) -> Array:
    """Arrays `[1, ...]` as one `[n, ...]`, filled up to the longest in the dimension in which they differ."""
    sizes = np.max([array.shape for array in arrays], axis=0)
    whole = np.full((len(arrays), *sizes[1:]), filler, np.float32)
    for row, array in zip(whole, arrays, strict=True):
        row[:, : array.shape[2], : array.shape[3]] = array[0]
    return whole
