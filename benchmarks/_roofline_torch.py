"""The PyTorch modules that were exported, and their FLOPs as torch.utils.flop_counter counts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import onnxruntime as ort
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model_build import BuildError
from model_build.config import TranslatorConfig, load_config
from model_build.models.embedder import POOLING, TRANSFORMER
from model_build.models.embedding.networks import Pooling, load_transformer
from model_build.models.embedding.pretrained import CONFIG
from model_build.models.translation import learning
from model_build.models.translation.steps import DecoderStep, Encoder
from model_build.recipe import load_recipe
from model_build.single_graph import SingleGraph
from model_build.stages.layout import BuildFiles

_SAME = 1e-3  # largest difference of any output from ONNX Runtime's; more is another network than the exported one


def exported_modules(workspace: Path, model: str) -> dict[str, nn.Module]:
    """The modules that the model's graphs were exported from, by the name of the graph's file.

    Raises:
        BuildError: the model is not built, or with other settings than the configuration has now.
    """
    files = BuildFiles(workspace, model)
    config = load_config(workspace, model)
    try:
        if model == "embedder":
            transformer = load_transformer(files.weights, files.pretrained / CONFIG)
            return {TRANSFORMER: transformer, POOLING: Pooling().eval()}
        if model == "translator":
            tokenizers = learning.read_tokenizers(files)
            network = learning.make_network(cast(TranslatorConfig, config), tokenizers).eval()
            network.load_state_dict(load_file(files.weights))
            return {"encoder.onnx": Encoder(network).eval(), "decoder.onnx": DecoderStep(network).eval()}
        recipe = load_recipe(config)
        assert isinstance(recipe, SingleGraph)
        classifier = recipe.network()
        classifier.load_state_dict(load_file(files.weights))
        return {files.onnx.name: recipe.serving_network(classifier).eval()}
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise BuildError(f"{model} is not built as it is configured ({reason}): run `slipway build {model}`") from error


def counted_flops(module: nn.Module, graph: Path, sizes: Mapping[str, int]) -> int:
    """FLOPs of the module's products and convolutions at these sizes.

    The counter sees operators as PyTorch dispatches them, and knows none that are one kernel: attention runs as the
    products that it is made of.

    Args:
        module: that was exported as `graph`.
        graph: ONNX file; the module must give what it gives.
        sizes: of its free dimensions, by name.

    Raises:
        BuildError: they give something else.
    """
    session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    inputs = [_values(one.type, [_size(dim, sizes) for dim in one.shape]) for one in session.get_inputs()]
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        given = module(*inputs)
    feed = {one.name: tensor.numpy() for one, tensor in zip(session.get_inputs(), inputs, strict=True)}
    tensors = [given] if isinstance(given, Tensor) else list(given)
    for ours, theirs in zip(tensors, session.run(None, feed), strict=True):
        if not np.allclose(ours.numpy(), theirs, atol=_SAME):
            raise BuildError(f"{graph} is not the network that is built now: build the model again")
    return int(counter.get_total_flops())


def _size(dim: int | str, sizes: Mapping[str, int]) -> int:
    return sizes[dim] if isinstance(dim, str) else dim


def _values(kind: str, shape: Sequence[int]) -> Tensor:
    if kind == "tensor(int64)":
        return torch.ones(*shape, dtype=torch.int64)
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))
