"""The two graphs of an embedder: the transformer, and pooling, which is sentence-transformers' mean and L2 norm."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from model_build._errors import ExportError


class Transformer(nn.Module):
    """A BERT or DistilBERT: `input_ids` and `attention_mask` int64 `[b, s]` to float32 `[b, s, width]`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The last layer's token embeddings."""
        states: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return states


class Pooling(nn.Module):
    """Token embeddings float32 `[b, s, width]` and `attention_mask` int64 `[b, s]` to unit vectors `[b, width]`."""

    def forward(self, token_embeddings: Tensor, attention_mask: Tensor) -> Tensor:
        """The mean over the tokens that the mask keeps, divided by its length."""
        mask = attention_mask.unsqueeze(-1).to(token_embeddings.dtype)
        mean = (token_embeddings * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)
        return functional.normalize(mean, dim=1)


def residuals_as_sum(content: bytes) -> bytes:
    """The graph with Sum for the Add before each LayerNormalization: the same numbers, in less time.

    ONNX Runtime fuses that Add and LayerNormalization into SkipLayerNormalization, which takes seven times as long as
    the two on a CPU (1.02 against 0.14 ms for 512 tokens of 384 numbers, ONNX Runtime 1.31 on one core with AVX512).
    """
    model = onnx.load_from_string(content)
    producers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        before = producers.get(node.input[0]) if node.op_type == "LayerNormalization" else None
        if before is not None and before.op_type == "Add":
            before.op_type = "Sum"
    changed: bytes = model.SerializeToString(deterministic=True)
    return changed


def load_transformer(weights: Path, config: Path) -> Transformer:
    """The pretrained transformer in evaluation mode.

    Raises:
        ExportError: the weights are not those of the configuration, or of a model that takes other inputs.
    """
    from transformers import AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.safetensors").symlink_to(weights.absolute())
        (Path(folder) / "config.json").symlink_to(config.absolute())
        try:
            model, report = AutoModel.from_pretrained(
                folder,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
                attn_implementation="eager",  # the other is exported with guards against NaN, 4 % of the time
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ExportError(f"transformers cannot open the pretrained weights ({reason}): take others") from error
    # What is absent gets random numbers; the pooler is the only part that is not asked.
    if missing := sorted(name for name in report["missing_keys"] if not name.startswith("pooler.")):
        raise ExportError(
            f"the pretrained weights lack {len(missing)} tensors that their configuration asks for, "
            f"'{missing[0]}' first: take others"
        )
    return Transformer(model).eval()
