"""A translator's training: pairs of like length in batches of about as many tokens, loss for each target token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from model_build import fitting
from model_build._errors import DataError
from model_build.config import TranslatorConfig
from model_build.models.translation.corpora import Corpus, Origin
from model_build.models.translation.network import BEGIN, END, PAD, Size, TranslationNetwork
from model_build.models.translation.served.decoding import read_tokenizer
from model_build.stages.layout import BuildFiles

SOURCE_TOKENIZER, TARGET_TOKENIZER = "source.json", "target.json"


@dataclass(frozen=True)
class Example:
    """A pair as token ids; END closes both."""

    source: Tensor
    target: Tensor

    @property
    def length(self) -> int:
        """Tokens of the longer one, BEGIN counted."""
        return max(len(self.source), len(self.target) + 1)


def train(files: BuildFiles, config: TranslatorConfig) -> str:
    """Fit; return a line that says how it went."""
    corpus = Corpus.from_folder(files.corpus)
    tokenizers = read_tokenizers(files)
    found: dict[str, object] = {"found.data_sha256": corpus.about.sha256}
    return fitting.train(files, config, config.train, Translation(config, corpus, tokenizers), found)


def read_tokenizers(files: BuildFiles) -> tuple[Tokenizer, Tokenizer]:
    """Of the source and of the target language."""
    return read_tokenizer(files.corpus / SOURCE_TOKENIZER), read_tokenizer(files.corpus / TARGET_TOKENIZER)


def make_network(config: TranslatorConfig, tokenizers: tuple[Tokenizer, Tokenizer]) -> TranslationNetwork:
    """A network with fresh weights."""
    settings = config.network
    return TranslationNetwork(
        Size(
            source_vocabulary=tokenizers[0].get_vocab_size(),
            target_vocabulary=tokenizers[1].get_vocab_size(),
            width=settings.width,
            heads=settings.heads,
            feed_forward=settings.feed_forward,
            encoder_layers=settings.encoder_layers,
            decoder_layers=settings.decoder_layers,
            max_tokens=max(settings.max_source_tokens, settings.max_target_tokens + 1),
            dropout=settings.dropout,
        )
    )


class Translation:
    """The task: batches are sources int64 `[b, s]` and targets int64 `[b, t]` with BEGIN and END, PAD after them."""

    def __init__(self, config: TranslatorConfig, corpus: Corpus, tokenizers: tuple[Tokenizer, Tokenizer]) -> None:
        self._config = config
        self._tokenizers = tokenizers
        self._train = self._examples(corpus.train)
        self._validation = self._examples(corpus.validation)

    def network(self) -> nn.Module:
        """A fresh one."""
        return make_network(self._config, self._tokenizers)

    def training_batches(self, random: Generator) -> Sequence[Sequence[Example]]:
        """Examples of one length are shuffled, then the batches: their number is the same in every epoch."""
        order = torch.randperm(len(self._train), generator=random).tolist()
        batches = self._batches([self._train[index] for index in order])
        return [batches[index] for index in torch.randperm(len(batches), generator=random).tolist()]

    def validation_batches(self) -> Iterable[Sequence[Example]]:
        """By length."""
        return self._batches(self._validation)

    def measure(self, network: nn.Module, batch: Any, random: Generator | None) -> fitting.Measured:
        """Cross-entropy and right tokens, each token given those before it."""
        begin = torch.tensor([BEGIN])
        source = pad_sequence([example.source for example in batch], batch_first=True, padding_value=PAD)
        target = pad_sequence(
            [torch.cat([begin, example.target]) for example in batch], batch_first=True, padding_value=PAD
        )
        logits, wanted = network(source, target[:, :-1]), target[:, 1:]
        there = wanted != PAD
        # Not logits[there]: the gradient of that is several times slower with deterministic algorithms.
        loss = functional.cross_entropy(
            logits.flatten(0, 1),
            wanted.flatten(),
            ignore_index=PAD,
            label_smoothing=self._config.train.label_smoothing,
        )
        right = int((logits.argmax(-1) == wanted)[there].sum())
        return fitting.Measured(loss, right, int(there.sum()))

    def _batches(self, examples: Sequence[Example]) -> list[list[Example]]:
        """Batches of at most `train.batch_size` tokens, padding counted; a longer example is alone."""
        batches: list[list[Example]] = [[]]
        for example in sorted(examples, key=lambda example: example.length):
            if batches[-1] and example.length * (len(batches[-1]) + 1) > self._config.train.batch_size:
                batches.append([])
            batches[-1].append(example)
        return batches

    def _examples(self, pairs: Sequence[Origin]) -> list[Example]:
        """As tokens, without those that are longer than the network takes."""
        settings = self._config.network
        sources, targets = (
            tokenizer.encode_batch([getattr(pair, side) for _, pair in pairs])
            for tokenizer, side in zip(self._tokenizers, ("source", "target"), strict=True)
        )
        examples = [
            Example(torch.tensor([*source.ids, END]), torch.tensor([*target.ids, END]))
            for source, target in zip(sources, targets, strict=True)
            if len(source.ids) < settings.max_source_tokens and len(target.ids) < settings.max_target_tokens
        ]
        if not examples:
            raise DataError(
                f"each of {len(pairs)} pairs is longer than network.max_source_tokens {settings.max_source_tokens} or "
                f"network.max_target_tokens {settings.max_target_tokens}: raise them, or give shorter texts"
            )
        return examples
