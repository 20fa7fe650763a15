"""The model repository of decode.py: the translator as it was built, and what two clients decode with from outside.

`translator_fp32` is copied. `encoder` and `decoder_prefix` are exported from the same weights; `encoder_cache` and
`decoder_cache` are the translator's own two graphs. Each of the four is a plain ONNX model with the translator's
instances and threads, and with dynamic batching that waits for nobody: a closed loop that asks once for each token
gains nothing from a queue delay.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from model_build.config import ExportConfig, TranslatorConfig, load_config
from model_build.models.translation import learning
from model_build.models.translation.corpora import Corpus
from model_build.models.translation.graphs import BATCH, SOURCE
from model_build.models.translation.network import BEGIN, END, PAD, TranslationNetwork, split_heads
from model_build.models.translation.steps import (
    NOWHERE,
    attend_self,
    attend_source,
    encode,
    feed,
    memory,
    source_bias,
)
from model_build.onnx_export import Array, export_onnx, open_session, parity
from model_build.recipe import ServedModel
from model_build.stages.layout import BuildFiles
from model_build.stages.staging import golden
from model_build.triton_config import graph_model, to_text
from serving import ServingError

MODEL = "translator"
SERVED = "translator_fp32"  # both clients decode in FP32
GRAPHS = ("encoder.onnx", "decoder.onnx")
TARGET = torch.export.Dim("target_tokens", min=1)
SEED = 24


class _Encoder(nn.Module):
    """Source int64 `[b, s]` to the encoded source float32 `[b, s, width]`."""

    def __init__(self, network: TranslationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, source: Tensor) -> Tensor:
        """What the encoder's last layer gives."""
        return encode(self.network, source, source_bias(source))


class _PrefixDecoder(nn.Module):
    """The decoder of a client that keeps nothing on the server: all target tokens so far, every time."""

    def __init__(self, network: TranslationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, source: Tensor, encoded: Tensor, target: Tensor) -> Tensor:
        """Most probable next token.

        Args:
            source: int64 `[b, s]`.
            encoded: float32 `[b, s, width]`.
            target: int64 `[b, t]`, BEGIN and the tokens so far.

        Returns:
            int64 `[b, 1]`.
        """
        network, length = self.network, target.shape[1]
        bias = source_bias(source)
        causal = torch.full((length, length), NOWHERE).triu(1)
        tokens = network.embed_target(target, torch.arange(length))
        for layer in network.decoder_layers():
            tokens = tokens + attend_self(layer.self_attention, layer.self_norm(tokens), causal)
            cross = layer.cross_attention
            (query,) = split_heads(cross.query(layer.cross_norm(tokens)), cross.heads, 1)
            found = attend_source(query, *memory(layer, encoded), bias)
            tokens = feed(layer, tokens + cross.output(found.transpose(1, 2).flatten(2)))
        return network.logits(tokens[:, -1:]).argmax(dim=-1)


def compose(workspace: Path, repository: Path) -> TranslatorConfig:
    """Write the five models to `repository`; return the translator's configuration.

    Raises:
        ServingError: the translator is not built, or what is served is not what was trained last.
    """
    files, served = BuildFiles(workspace, MODEL), workspace / "model_repository" / SERVED
    needed = (
        files.weights,
        files.corpus / "test.tsv",
        served / "manifest.json",
        *(files.graphs / name for name in GRAPHS),
    )
    if missing := [path for path in needed if not path.is_file()]:
        raise ServingError(f"{missing[0]} does not exist: run `slipway build {MODEL}` first")
    graphs = [(served / "1" / name).read_bytes() for name in GRAPHS]
    if graphs != [(files.graphs / name).read_bytes() for name in GRAPHS]:
        raise ServingError(f"{served} was not built from {files.weights}: run `slipway build {MODEL}`")
    config = cast(TranslatorConfig, load_config(workspace, MODEL))
    shutil.copytree(served, repository / SERVED)
    for model in _graph_models(files, config, graphs):
        _write(repository / model.name, model, config.gate.golden_atol)
    return config


def choose_sentences(workspace: Path, count: int, min_tokens: int) -> list[str]:
    """The same `count` held-out sources each time, of those whose reference translation has `min_tokens` or more."""
    files = BuildFiles(workspace, MODEL)
    config = cast(TranslatorConfig, load_config(workspace, MODEL))
    tokenizer, reference = learning.read_tokenizers(files)
    texts = [
        pair.source
        for _, pair in Corpus.from_folder(files.corpus).test
        if len(tokenizer.encode(pair.source).ids) < config.network.max_source_tokens
        and len(reference.encode(pair.target).ids) >= min_tokens
    ]
    if count > len(texts):
        raise ServingError(
            f"{len(texts)} held-out sentences have {min_tokens} tokens or more: pass fewer --sentences or --min-tokens"
        )
    return random.Random(SEED).sample(texts, count)  # noqa: S311 - the same sentences each time


def _graph_models(files: BuildFiles, config: TranslatorConfig, graphs: Sequence[bytes]) -> list[ServedModel]:
    tokenizers = learning.read_tokenizers(files)
    network = learning.make_network(config, tokenizers).eval()
    network.load_state_dict(load_file(files.weights))
    texts = [pair.source for _, pair in Corpus.from_folder(files.corpus).test[:2]]
    rows = [torch.tensor([*encoding.ids, END]) for encoding in tokenizers[0].encode_batch(texts)]
    source = pad_sequence(rows, batch_first=True, padding_value=PAD)
    encoder, prefix = _export(network, source, config.export)
    first = source[:1].numpy()
    encoded = {"source": first, "encoded": _run(encoder, {"source": first})["encoded"]}
    begin = np.full((1, 1), BEGIN, np.int64)
    step = {"token": begin, "position": np.zeros((1, 1), np.int64), **_run(graphs[0], {"source": first})}
    triton = replace(config.triton, max_queue_delay_us=0)
    return [
        graph_model(name, content, triton, files={}, inputs=inputs, outputs=_run(content, inputs))
        for name, content, inputs in (
            ("encoder", encoder, {"source": first}),
            ("decoder_prefix", prefix, {**encoded, "target": begin}),
            ("encoder_cache", graphs[0], {"source": first}),
            ("decoder_cache", graphs[1], _with_cache(graphs[1], step)),
        )
    ]


def _with_cache(decoder: bytes, step: dict[str, Array]) -> dict[str, Array]:
    """What the graph takes of `step`, and a cache of one token, all zero."""
    return {
        node.name: step[node.name]
        if node.name in step
        else np.zeros([size if isinstance(size, int) else 1 for size in node.shape], np.float32)
        for node in open_session(decoder).get_inputs()
    }


def _export(network: TranslationNetwork, source: Tensor, config: ExportConfig) -> tuple[bytes, bytes]:
    """`encoder` and `decoder_prefix`, each compared with PyTorch."""
    encoder, prefix = _Encoder(network), _PrefixDecoder(network)
    with torch.no_grad():
        encoded = encoder(source)
    target = torch.full((len(source), 3), BEGIN)
    encoder_file = export_onnx(
        encoder,
        (source,),
        inputs=["source"],
        outputs=["encoded"],
        dynamic_shapes=({0: BATCH, 1: SOURCE},),
        config=config,
    )
    prefix_file = export_onnx(
        prefix,
        (source, encoded, target),
        inputs=["source", "encoded", "target"],
        outputs=["next_token"],
        dynamic_shapes=({0: BATCH, 1: SOURCE}, {0: BATCH, 1: SOURCE}, {0: BATCH, 1: TARGET}),
        config=config,
    )
    example = {"source": source.numpy()}
    parity(encoder, open_session(encoder_file), [example], config.parity_atol)
    example |= {"encoded": encoded.numpy(), "target": target.numpy()}
    parity(prefix, open_session(prefix_file), [example], config.parity_atol)
    return encoder_file, prefix_file


def _run(content: bytes, feed: dict[str, Array]) -> dict[str, Array]:
    session = open_session(content)
    return dict(zip((node.name for node in session.get_outputs()), session.run(None, feed), strict=True))


def _write(folder: Path, model: ServedModel, atol: float) -> None:
    """A folder of the repository, as the server takes it."""
    request, response = golden(model, atol)
    contents = {
        "config.pbtxt": to_text(model.gpu, MODEL),
        "configs/cpu.pbtxt": to_text(model.cpu, MODEL),
        "golden/request.json": request,
        "golden/response.json": response,
        **model.files,
    }
    hashes = {name: {"sha256": hashlib.sha256(content).hexdigest()} for name, content in contents.items()}
    for name, content in {**contents, "manifest.json": json.dumps({"files": hashes}).encode()}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
