"""The encoder-decoder transformer that is trained; graphs.py has what a server decodes with, on the same weights.

Attention Is All You Need (https://arxiv.org/abs/1706.03762) with the normalisation before each block
(https://arxiv.org/abs/2002.04745) and a decoder shallower than the encoder, because it is the decoder that runs once
for each token (https://arxiv.org/abs/2006.10369). Shapes: b sentences, s source tokens, t target tokens, h heads of
`head` numbers each, `width` = h * head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

PAD, BEGIN, END = 0, 1, 2  # ids of the special tokens in both vocabularies


@dataclass(frozen=True)
class Size:
    """Size of a network: vocabularies in tokens, layers, `width` and `feed_forward` in numbers a token."""

    source_vocabulary: int
    target_vocabulary: int
    width: int
    heads: int
    feed_forward: int
    encoder_layers: int
    decoder_layers: int
    max_tokens: int
    dropout: float


class SelfAttention(nn.Module):
    """Every token looks at the tokens of its own sentence."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.project = nn.Linear(size.width, 3 * size.width)
        self.output = nn.Linear(size.width, size.width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Attend: float `[b, t, width]`; `mask` is bool, true where a token may be looked at, as `[b, h, t, t]`."""
        query, keys, values = split_heads(self.project(tokens), self.heads, 3)
        attended: Tensor = self.output(_attend(query, keys, values, mask))
        return attended


class CrossAttention(nn.Module):
    """Every target token looks at the source."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.query = nn.Linear(size.width, size.width)
        self.project = nn.Linear(size.width, 2 * size.width)
        self.output = nn.Linear(size.width, size.width)

    def forward(self, tokens: Tensor, encoded: Tensor, mask: Tensor) -> Tensor:
        """Attend from `[b, t, width]` to the encoded source `[b, s, width]`: float `[b, t, width]`."""
        (query,) = split_heads(self.query(tokens), self.heads, 1)
        keys, values = split_heads(self.project(encoded), self.heads, 2)
        attended: Tensor = self.output(_attend(query, keys, values, mask))
        return attended


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward; each normalised before and added after."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(size.width)
        self.self_attention = SelfAttention(size)
        self.feed_norm = nn.LayerNorm(size.width)
        self.feed_forward = nn.Sequential(
            nn.Linear(size.width, size.feed_forward),
            nn.ReLU(),
            nn.Linear(size.feed_forward, size.width),
        )
        self.dropout = nn.Dropout(size.dropout)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return float `[b, s, width]`."""
        return self.feed(tokens + self.dropout(self.self_attention(self.self_norm(tokens), mask)))

    def feed(self, tokens: Tensor) -> Tensor:
        """The second half of a layer."""
        fed: Tensor = tokens + self.dropout(self.feed_forward(self.feed_norm(tokens)))
        return fed


class DecoderLayer(EncoderLayer):
    """A layer that looks at the source in between."""

    def __init__(self, size: Size) -> None:
        super().__init__(size)
        self.cross_norm = nn.LayerNorm(size.width)
        self.cross_attention = CrossAttention(size)

    def decode(self, tokens: Tensor, causal: Tensor, encoded: Tensor, source_mask: Tensor) -> Tensor:
        """Return float `[b, t, width]`."""
        tokens = tokens + self.dropout(self.self_attention(self.self_norm(tokens), causal))
        tokens = tokens + self.dropout(self.cross_attention(self.cross_norm(tokens), encoded, source_mask))
        return self.feed(tokens)


class TranslationNetwork(nn.Module):
    """Source tokens int64 `[b, s]` and target tokens so far int64 `[b, t]` to logits float32 `[b, t, vocabulary]`."""

    positions: Tensor

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.source_embedding = nn.Embedding(size.source_vocabulary, size.width, padding_idx=PAD)
        self.target_embedding = nn.Embedding(size.target_vocabulary, size.width, padding_idx=PAD)
        self.encoder = nn.ModuleList(EncoderLayer(size) for _ in range(size.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(size) for _ in range(size.decoder_layers))
        self.encoder_norm = nn.LayerNorm(size.width)
        self.decoder_norm = nn.LayerNorm(size.width)
        self.dropout = nn.Dropout(size.dropout)
        self.register_buffer("positions", _sinusoids(size.max_tokens, size.width), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and "embedding" not in name:
                nn.init.xavier_uniform_(parameter)
        for embedding in (self.source_embedding, self.target_embedding):
            nn.init.normal_(embedding.weight, std=self.size.width**-0.5)
            nn.init.zeros_(embedding.weight[PAD])

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits of the token after each target token."""
        source_mask = _source_mask(source)
        encoded = self.encode(source)
        length = target.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=target.device).tril()
        tokens = self.dropout(self.embed_target(target, torch.arange(length)))
        for layer in self.decoder_layers():
            tokens = layer.decode(tokens, causal, encoded, source_mask)
        return self.logits(tokens)

    def decoder_layers(self) -> list[DecoderLayer]:
        """From first to last."""
        return cast(list[DecoderLayer], list(self.decoder))

    def encoder_layers(self) -> list[EncoderLayer]:
        """From first to last."""
        return cast(list[EncoderLayer], list(self.encoder))

    def encode(self, source: Tensor) -> Tensor:
        """The encoded source, float `[b, s, width]`."""
        mask = _source_mask(source)
        tokens = self.dropout(self.embed_source(source))
        for layer in self.encoder_layers():
            tokens = layer(tokens, mask)
        encoded: Tensor = self.encoder_norm(tokens)
        return encoded

    def logits(self, tokens: Tensor) -> Tensor:
        """Logits float32 `[b, t, vocabulary]` of decoded tokens: the embedding is also the output projection."""
        return functional.linear(self.decoder_norm(tokens), self.target_embedding.weight)

    def embed_target(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Target tokens int64 `[b, t]` at their positions, `[b, t]` or `[t]`, as float `[b, t, width]`."""
        return self._embed(self.target_embedding, tokens, positions)

    def embed_source(self, source: Tensor) -> Tensor:
        """Source tokens int64 `[b, s]` as float `[b, s, width]`."""
        return self._embed(self.source_embedding, source, torch.arange(source.shape[1]))

    def _embed(self, embedding: nn.Embedding, tokens: Tensor, positions: Tensor) -> Tensor:
        embedded: Tensor = embedding(tokens) * math.sqrt(self.size.width) + self.positions[positions]
        return embedded


def _source_mask(source: Tensor) -> Tensor:
    """Bool `[b, 1, 1, s]`, true where there is a token."""
    return (source != PAD)[:, None, None, :]


def split_heads(projected: Tensor, heads: int, parts: int) -> tuple[Tensor, ...]:
    """`[b, t, parts * width]` to `parts` tensors `[b, h, t, head]`."""
    batch, length, numbers = projected.shape
    divided = projected.view(batch, length, parts, heads, numbers // (parts * heads))
    return divided.permute(2, 0, 3, 1, 4).unbind(0)


def _attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """`[b, h, t, head]` each to `[b, t, width]`."""
    attended = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    return attended.transpose(1, 2).flatten(2)


def _sinusoids(count: int, width: int) -> Tensor:
    """float32 `[count, width]`: section 3.5 of the paper."""
    places = torch.arange(count, dtype=torch.float32)[:, None]
    frequencies = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10_000.0) / width))
    table = torch.zeros(count, width)
    table[:, 0::2], table[:, 1::2] = torch.sin(places * frequencies), torch.cos(places * frequencies)
    return table
