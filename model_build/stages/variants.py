"""Stage variants: the model in the precisions that are configured beside FP32, each made until it passes in process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from model_build._errors import DataError
from model_build.config import ModelConfig, ServedConfig
from model_build.files import write_files
from model_build.precision.possible import refuse_impossible
from model_build.precision.trial import Made, Trial, make_variant
from model_build.precision.variants import Graph, file_names, tensorrt_name
from model_build.recipe import Variable, load_recipe
from model_build.stages.layout import BuildFiles

KEPT = "kept.json"


def run(workspace: Path, config: ModelConfig) -> str:
    """Write a folder for each variant; return a line that says what was made.

    Raises:
        ConfigurationError: a layer to keep is none of the model's, or no file of the model can be such a variant.
        DataError: the calibration data is missing or of another shape than the graph takes.
        ExportError: a graph cannot be converted.
    """
    assert isinstance(config, ServedConfig)  # dvc.yaml has this stage for no other
    files = BuildFiles(workspace, config.name)
    recipe = load_recipe(config)
    assert isinstance(recipe, Variable)
    contents: dict[Path, bytes] = {files.variants / "made.json": json.dumps(config.precision.variants).encode() + b"\n"}
    said = []
    trial = Trial(recipe, files)
    wanted = config.precision.variants
    refuse_impossible(config.name, wanted, {variant: trial.impossible(variant) for variant in wanted})
    for variant in config.precision.variants:
        made = make_variant(trial, variant)
        folder = files.variants / variant
        for name, graph in made.graphs.items():
            contents |= {folder / file: content for file, content in file_names(name, graph).items()}
        contents[folder / KEPT] = json.dumps([*made.kept]).encode() + b"\n"
        said.append(f"{variant} ({len(made.kept)} layers kept in FP32)" if made.kept else variant)
    write_files(contents)
    return ", ".join(said) or "none but FP32"


def read_variant(files: BuildFiles, recipe: Variable[Any], variant: str) -> Made:
    """What this stage has made of `variant`.

    Raises:
        DataError: it is not there.
    """
    folder = files.variants / variant
    try:
        graphs = {}
        for name in recipe.graphs(files):
            other = folder / tensorrt_name(name)
            content = (folder / name).read_bytes()
            graphs[name] = Graph(content, other.read_bytes() if other.is_file() else content)
        return Made(graphs, tuple(json.loads((folder / KEPT).read_text())))
    except (FileNotFoundError, ValueError) as error:
        raise DataError(f"{folder} is not what stage variants writes ({error}): run `dvc repro`") from error
