"""Stage train: the weights, trained here or taken from who has trained them."""

from __future__ import annotations

from pathlib import Path

from model_build.config import ModelConfig
from model_build.recipe import load_recipe
from model_build.stages.layout import BuildFiles


def run(workspace: Path, config: ModelConfig) -> str:
    """Return a line that says how it went."""
    return load_recipe(config).train(BuildFiles(workspace, config.name))
