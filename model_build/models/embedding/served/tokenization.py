"""Text to token ids; no Triton in it, so the build uses it as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

Tokens = npt.NDArray[np.int64]


class TextTokenizer:
    """A `tokenizers` file.

    Args:
        path: tokenizer.json; the truncation and padding that it asks for are replaced by these.
        max_tokens: what is beyond is cut off, the closing token kept.
        pad_to_multiple_of: of the padded length, so that more requests have one shape and can share a batch.
    """

    def __init__(self, path: Path, max_tokens: int, pad_to_multiple_of: int) -> None:
        self._tokenizer = Tokenizer.from_file(str(path))
        padding = self._tokenizer.padding or {}
        self._tokenizer.enable_truncation(max_tokens)
        self._tokenizer.enable_padding(
            pad_id=padding.get("pad_id", 0),
            pad_token=padding.get("pad_token", "[PAD]"),
            pad_to_multiple_of=pad_to_multiple_of,
        )

    def encode(self, texts: Sequence[str]) -> tuple[Tokens, Tokens]:
        """Token ids and attention mask, both int64 `[n, longest]`; every text has at least its two special tokens."""
        encodings = self._tokenizer.encode_batch(list(texts))
        ids = np.array([encoding.ids for encoding in encodings], np.int64)
        return ids, np.array([encoding.attention_mask for encoding in encodings], np.int64)
