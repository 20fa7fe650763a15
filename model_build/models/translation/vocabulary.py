"""Byte-level byte-pair encoding: every text has tokens, whatever is in it, and gets back from them as it was."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from model_build.models.translation.served.decoding import BEGIN, END, PAD

SPECIAL = {PAD: "[PAD]", BEGIN: "[BEGIN]", END: "[END]"}


def learn_vocabulary(texts: Iterable[str], size: int) -> Tokenizer:
    """A tokenizer of at most `size` tokens, learned from `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[SPECIAL[number] for number in sorted(SPECIAL)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
