"""Stage export: the network as ONNX, compared with PyTorch."""

from __future__ import annotations

from pathlib import Path

from model_build.config import ModelConfig
from model_build.recipe import load_export_recipe
from model_build.stages.layout import BuildFiles


def run(workspace: Path, config: ModelConfig) -> str:
    """Return a line with versions and the distance from PyTorch."""
    return load_export_recipe(config).export(BuildFiles(workspace, config.name))
