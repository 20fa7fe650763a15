"""The two graphs of the decode loop as ONNX, and how far ONNX Runtime is from the trained network."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor

from model_build._errors import ExportError
from model_build.config import ExportConfig
from model_build.models.translation.network import BEGIN, TranslationNetwork
from model_build.models.translation.steps import DecoderStep, Encoder, first_step
from model_build.onnx_export import Array, export_onnx, open_session, parity

BATCH = torch.export.Dim("batch")
SOURCE = torch.export.Dim("source_tokens", min=1)
PAST = torch.export.Dim("past_tokens", min=0)
PARITY_STEPS = 8


def export_graphs(network: TranslationNetwork, source: Tensor, config: ExportConfig) -> tuple[dict[str, bytes], float]:
    """Export `encoder.onnx` and `decoder.onnx`.

    Args:
        network: in evaluation mode.
        source: int64 `[b, s]`, some sentences to compare with; b and s are 2 or more.
        config: versions and allowed distance.

    Returns:
        The files by name, and the largest difference from PyTorch of what the encoder gives and of a step's cache.

    Raises:
        ExportError: PyTorch cannot export it, or the graphs decode something else than the trained network.
    """
    layers = range(network.size.decoder_layers)
    memories, pasts, presents = (
        [f"{name}_{part}_{layer}" for layer in layers for part in ("keys", "values")]
        for name in ("memory", "past", "present")
    )
    encoder, step = Encoder(network).eval(), DecoderStep(network).eval()
    with torch.no_grad():
        example = first_step(network, encoder, source, past=2)
    encoder_file = export_onnx(
        encoder,
        (source,),
        inputs=["source"],
        outputs=["bias", *memories],
        dynamic_shapes=({0: BATCH, 1: SOURCE},),
        config=config,
    )
    shapes = [shape for _ in layers for shape in ({0: BATCH, 3: SOURCE}, {0: BATCH, 2: SOURCE})]
    decoder_file = export_onnx(
        step,
        tuple(example),
        inputs=["token", "position", "bias", *memories, *pasts],
        outputs=["next_token", *presents],
        dynamic_shapes=(
            {0: BATCH},
            {0: BATCH},
            {0: BATCH, 3: SOURCE},
            (*shapes, *({0: BATCH, 2: PAST} for _ in pasts)),
        ),
        config=config,
    )
    encoder_session, decoder_session = open_session(encoder_file), open_session(decoder_file)
    names = [node.name for node in decoder_session.get_inputs()]
    feed = dict(zip(names, (tensor.numpy() for tensor in example), strict=True))
    distances = (
        parity(encoder, encoder_session, [{"source": source.numpy()}], config.parity_atol),
        parity(step, decoder_session, [feed], config.parity_atol),
    )
    if not np.array_equal(_decoded(encoder_session, decoder_session, source), _reference(network, source)):
        raise ExportError("ONNX Runtime decodes other tokens than the trained network: nothing was written")
    return {"encoder.onnx": encoder_file, "decoder.onnx": decoder_file}, max(distances)


@torch.no_grad()
def _reference(network: TranslationNetwork, source: Tensor) -> Array:
    """Tokens int64 `[b, PARITY_STEPS]` that the trained network finds most probable, without a cache."""
    target = torch.full((len(source), 1), BEGIN)
    for _ in range(PARITY_STEPS):
        target = torch.cat([target, network(source, target)[:, -1:].argmax(dim=-1)], dim=1)
    return target[:, 1:].numpy()


def _decoded(encoder: ort.InferenceSession, decoder: ort.InferenceSession, source: Tensor) -> Array:
    """The same with the two graphs."""
    given = encoder.run(None, {"source": source.numpy()})
    feed = dict(zip((node.name for node in encoder.get_outputs()), given, strict=True))
    pasts = [node for node in decoder.get_inputs() if node.name.startswith("past_")]
    feed |= {node.name: np.empty((len(source), node.shape[1], 0, node.shape[3]), np.float32) for node in pasts}
    feed["token"] = np.full((len(source), 1), BEGIN, np.int64)
    tokens = []
    for position in range(PARITY_STEPS):
        feed["position"] = np.full_like(feed["token"], position)
        token, *presents = decoder.run(None, feed)
        feed |= {"token": token, **dict(zip((node.name for node in pasts), presents, strict=True))}
        tokens.append(token)
    return np.concatenate(tokens, axis=1)
