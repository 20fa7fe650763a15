"""What the stages ask of a model. Most models are a `SingleGraph` (single_graph.py) and say far less than this."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from model_build._errors import ConfigurationError
from model_build.config import ModelConfig, ServedConfig
from model_build.config.schema import require
from model_build.precision.possible import refuse_impossible
from model_build.precision.variants import FP32, Graphs
from model_build.stages.layout import BuildFiles

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]
# By output: an array `[n, ...]` of all examples, or, where their sizes vary, a list of such arrays, one a request.
Answers = Mapping[str, Any]
Config = TypeVar("Config", bound=ModelConfig)
Kind = TypeVar("Kind", bound="ExportRecipe[Any]")


@dataclass(frozen=True)
class Inference:
    """What a model did on the held-out part.

    Attributes:
        value: the metric that `gate.minimum` is for; higher is better.
        examples: how many it was measured on.
        details: further measures by name.
        predictions: header and rows of predictions.csv, one row an example.
    """

    value: float
    examples: int
    predictions: Sequence[Sequence[object]]
    details: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class ServedModel:
    """One folder of the model repository.

    Attributes:
        name: the folder's and the model's name.
        gpu, cpu: `inference.ModelConfig` messages: config.pbtxt, and configs/cpu.pbtxt.
        files: further files by their path in the folder.
        inputs, outputs: the golden request and its answer, arrays by tensor name; text as `str` in object arrays.
        atol: how far a server's answer may be from it; None takes `gate.golden_atol`.
        note: what was decided about how it is served, and why.
    """

    name: str
    gpu: Any
    cpu: Any
    files: Mapping[str, bytes]
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    atol: float | None = None
    note: str = ""


class ExportRecipe(ABC, Generic[Config]):
    """A network that is exported, and perhaps no more than that.

    Attributes:
        stages: prefix of the names of its stages in dvc.yaml.
    """

    stages = ""

    def __init__(self, config: Config) -> None:
        self.config = config

    @abstractmethod
    def export(self, files: BuildFiles) -> str:
        """Stage export: write the ONNX files, compared with PyTorch; return a line with their versions and distance."""


class Recipe(ExportRecipe[Config]):
    """One model, from data to what Triton serves; each stage of dvc.yaml calls one method.

    Attributes:
        metric: name of what `infer` measures.
        metric_range: smallest and largest value of it.
    """

    metric: str
    metric_range = (0.0, 1.0)

    def source_sha256(self) -> str | None:
        """Hash of what stage data would read now at `data.path`; None where that is null."""
        return None

    def made_of_sha256(self, files: BuildFiles) -> str | None:
        """The same hash of what it has read."""
        return self.source(files)[1]

    @abstractmethod
    def source(self, files: BuildFiles) -> tuple[str, str]:
        """What stage data has read, in words, and its sha256."""

    @abstractmethod
    def prepare(self, files: BuildFiles) -> str:
        """Stage data: read, clean, divide; return a line that says what was read."""

    @abstractmethod
    def train(self, files: BuildFiles) -> str:
        """Stage train: write the weights; return a line that says how it went."""

    @abstractmethod
    def infer(self, files: BuildFiles) -> Inference:
        """Stage infer: answer the held-out part with the exported files."""

    @abstractmethod
    def serve(self, files: BuildFiles, variant: str = FP32, graphs: Graphs | None = None) -> Sequence[ServedModel]:
        """Everything that Triton serves of this model in one precision.

        Args:
            files: of the stages before.
            variant: the precision; a recipe without `graphs` is asked for FP32 alone.
            graphs: that variant's graphs by file name.

        Returns:
            The folders, last the one that answers: `<model>_<variant>`, or the model itself in a recipe without
            `graphs`. Folders that several variants share have the same name and content in each.
        """


class Variable(Recipe[Config]):
    """A recipe that can be served in several precisions.

    Attributes:
        variant_metric: name of what `judge` gives.
        counts_examples: whether that is the share of the examples that are right, as accuracy is: a drop of so few that
            it may be chance is then no loss. Means, correlations and BLEU count no examples.
        impossible_variants: precisions that its graphs cannot be in, and why (`{"int8": "its graph is a forest of
            trees, which has no products"}`): one that is configured is then refused before anything is built. What a
            recipe does not say is found in the exported graphs.
        runs_on_gpus: whether a GPU computes the graphs; where a Python model computes them, they stay on its CPU.
    """

    variant_metric: str
    counts_examples = False
    impossible_variants: Mapping[str, str] = MappingProxyType({})
    runs_on_gpus = True

    @abstractmethod
    def graphs(self, files: BuildFiles) -> Mapping[str, bytes]:
        """The exported files of which variants are made, by file name."""

    @abstractmethod
    def calibration(self, files: BuildFiles) -> Mapping[str, Sequence[Feed]]:
        """Real inputs of each of `graphs`, none of which is evaluated on."""

    @abstractmethod
    def evaluation(self, files: BuildFiles) -> Mapping[str, Sequence[Feed]]:
        """A few held-out inputs of each of `graphs`, to compare layers and to measure speed with."""

    @abstractmethod
    def requests(self, files: BuildFiles) -> Sequence[Feed]:
        """The held-out part as requests to the served model, at most `triton.max_batch_size` examples each."""

    @abstractmethod
    def answer(self, files: BuildFiles, graphs: Mapping[str, bytes]) -> Answers:
        """The served model's outputs for all of `requests`, computed here with these graphs.

        Each is an array `[n, ...]` or, where the sizes of the answers vary, a list of one such array for each request.
        Further arrays `[n, ...]` are compared with FP32's here, where the served model gives no such output.
        """

    @abstractmethod
    def judge(self, files: BuildFiles, answers: Answers, reference: Answers) -> float:
        """The task's metric, of answers to all of `requests`; `reference` are FP32's, which may be the same.

        Answers are as `answer` gives them, the server's too: a list where their sizes vary.
        """

    def public(self, files: BuildFiles, chosen: Mapping[str, Graphs]) -> Sequence[ServedModel]:
        """The folders of the public name, last the name itself; none: it is an ensemble of one step, the variant.

        Args:
            files: of the stages before.
            chosen: graphs of the variant that was chosen, by target.
        """
        return ()


def load_recipe(config: ModelConfig) -> Recipe[Any]:
    """Return the recipe that `config.recipe` names, as `package.module.Class`.

    Raises:
        ConfigurationError: there is no such class, it is of another kind, it cannot reach `gate.minimum`, or it says
            that it cannot be a variant that is configured.
    """
    recipe: Recipe[Any] = _load(config, Recipe)  # type: ignore[type-abstract]
    if isinstance(config, ServedConfig):
        low, high = recipe.metric_range
        inside = low <= config.gate.minimum <= high
        require(inside, "gate.minimum", config.gate.minimum, f"{low:g} to {high:g}, the range of {recipe.metric}")
    return recipe


def load_export_recipe(config: ModelConfig) -> ExportRecipe[Any]:
    """The same, for a model that needs no more than stage export."""
    return _load(config, ExportRecipe)  # type: ignore[type-abstract]


def _load(config: ModelConfig, kind: type[Kind]) -> Kind:
    expected = f"expected package.module.Class, a subclass of model_build.recipe.{kind.__name__}"
    module, _, name = config.recipe.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the user's file does while it is imported
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigurationError(
            f"recipe '{config.recipe}' of model '{config.name}' cannot be imported ({type(error).__name__}: {reason}): "
            f"{expected}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise ConfigurationError(f"recipe '{config.recipe}' of model '{config.name}' is something else: {expected}")
    recipe = found(config)
    if isinstance(recipe, Variable) and isinstance(config, ServedConfig):
        refuse_impossible(config.name, config.precision.variants, recipe.impossible_variants)
    return recipe


def as_text(values: Sequence[str]) -> Array:
    """A column of texts `[n, 1]`, as a model with BYTES tensors takes and gives it."""
    return np.array(values, dtype=np.object_).reshape(-1, 1)


def read_served_code(folder: Path, *names: str) -> dict[str, bytes]:
    """Python files that a Triton model is made of, as files of its version 1."""
    return {f"1/{name}": (folder / name).read_bytes() for name in names}
