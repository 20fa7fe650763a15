"""What a model has to say of itself so that the stages can train, export and gate it."""

from __future__ import annotations

import io
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from hydra.utils import get_class

from model_build._errors import ConfigurationError, DataError
from model_build.config import ModelConfig

if TYPE_CHECKING:  # torch costs seconds to import, and two stages of four do without it
    from torch import Generator, Tensor, nn

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """Examples in three parts: inputs float32 `[n, ...]`, labels int64 `[n]`, and what they were read from."""

    train_inputs: Floats
    train_labels: Labels
    validation_inputs: Floats
    validation_labels: Labels
    test_inputs: Floats
    test_labels: Labels
    source: str
    source_sha256: str

    def to_bytes(self) -> bytes:
        """NumPy archive; the same examples give the same bytes."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)}
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_file(cls, path: Path) -> Dataset:
        """Read what `to_bytes` made."""
        try:
            with np.load(path) as archive:
                values: dict[str, Any] = {f.name: archive[f.name] for f in fields(cls)}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is no data set of Slipway ({error}): run `dvc repro`") from error
        return cls(**{**values, "source": str(values["source"]), "source_sha256": str(values["source_sha256"])})


class Recipe(ABC):
    """One model: its data, its network, and how the network is served.

    Attributes:
        input_name, output_name: names of the served tensors; both have a dynamic first dimension.
        labels: names of the classes, in the order of the output's last dimension.
    """

    input_name: str
    output_name: str
    labels: tuple[str, ...]

    def __init__(self, config: ModelConfig) -> None:
        self.config = config

    @abstractmethod
    def load_data(self) -> Dataset:
        """Read and divide the examples; the same configuration gives the same division."""

    @abstractmethod
    def source_sha256(self) -> str:
        """Hash of what `load_data` would read now, as in `Dataset.source_sha256`."""

    @abstractmethod
    def sample_files(self, dataset: Dataset) -> Mapping[str, bytes]:
        """A few held-out examples as files that a person can open and `slipway predict` can send."""

    @abstractmethod
    def network(self) -> nn.Module:
        """The network to train, with fresh weights: inputs to logits `[n, classes]`."""

    def augment(self, inputs: Tensor, random: Generator) -> Tensor:
        """Vary a training batch `[n, ...]`; unchanged unless a recipe knows better."""
        return inputs

    @abstractmethod
    def serving_network(self, trained: nn.Module) -> nn.Module:
        """What is exported: the trained network with everything a client should not have to do."""


def load_recipe(config: ModelConfig) -> Recipe:
    """Return the recipe that `config.recipe` names, as `package.module.Class`."""
    try:
        found = get_class(config.recipe)
    except Exception as error:
        raise ConfigurationError(
            f"recipe '{config.recipe}' of model '{config.name}' cannot be imported: expected package.module.Class, "
            f"a subclass of model_build.recipe.Recipe ({str(error).splitlines()[0]})"
        ) from error
    if not issubclass(found, Recipe):
        raise ConfigurationError(f"recipe '{config.recipe}' is not a subclass of model_build.recipe.Recipe")
    return found(config)
