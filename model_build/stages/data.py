"""Stage data: read what the model learns from, clean it, divide it."""

from __future__ import annotations

from pathlib import Path

from model_build.config import ModelConfig
from model_build.recipe import load_recipe
from model_build.stages.layout import BuildFiles


def run(workspace: Path, config: ModelConfig) -> str:
    """Return a line that says what was read."""
    return load_recipe(config).prepare(BuildFiles(workspace, config.name))
