"""Stage data: read the examples, divide them, keep a few that a person can open."""

from __future__ import annotations

from pathlib import Path

from model_build.config import ModelConfig
from model_build.files import write_file, write_files
from model_build.recipe import load_recipe
from model_build.stages.layout import BuildFiles


def run(workspace: Path, config: ModelConfig) -> str:
    """Write `data.npz` and `samples/`; return a line that says what was read."""
    files = BuildFiles(workspace, config.name)
    recipe = load_recipe(config)
    dataset = recipe.load_data()
    write_files({files.samples / name: content for name, content in recipe.sample_files(dataset).items()})
    write_file(files.data, dataset.to_bytes())
    sizes = [len(part) for part in (dataset.train_labels, dataset.validation_labels, dataset.test_labels)]
    return f"{sum(sizes)} examples from {dataset.source}: {sizes[0]} train, {sizes[1]} validation, {sizes[2]} test"
