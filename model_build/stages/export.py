"""Stage export: the network as ONNX, compared with PyTorch."""

from __future__ import annotations

from pathlib import Path

import onnx

from model_build.config import ModelConfig, ServedConfig
from model_build.precision.graph import prepared, without_layers
from model_build.precision.possible import refuse_impossible
from model_build.recipe import Variable, load_export_recipe
from model_build.stages.layout import BuildFiles


def run(workspace: Path, config: ModelConfig) -> str:
    """Return a line with versions and the distance from PyTorch.

    Raises:
        ConfigurationError: nothing in the graphs could be in a precision that is configured: trees have no products.
        ExportError: it cannot be exported, or differs from PyTorch.
    """
    files, recipe = BuildFiles(workspace, config.name), load_export_recipe(config)
    said = recipe.export(files)
    if isinstance(recipe, Variable) and isinstance(config, ServedConfig) and config.precision.variants:
        graphs = {name: onnx.load_from_string(prepared(content)) for name, content in recipe.graphs(files).items()}
        wanted = config.precision.variants
        refuse_impossible(config.name, wanted, {variant: without_layers(graphs, variant) for variant in wanted})
    return said
