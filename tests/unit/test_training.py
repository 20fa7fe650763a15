"""Training is reproducible and keeps its best epoch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save

from model_build import BuildError
from model_build.config import load_config
from model_build.recipe import Dataset, Recipe, load_recipe
from model_build.stages.train import _fit, _make_deterministic
from tests.support import ROOT


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_recipe(load_config(ROOT, "digits")).load_data()


def train(dataset: Dataset, seed: int, epochs: int = 2) -> tuple[bytes, list[float], int]:
    config = load_config(ROOT, "digits")
    config.seed, config.train.epochs = seed, epochs
    recipe: Recipe = load_recipe(config)
    _make_deterministic(seed, config.train.threads)
    curves, best, state = _fit(recipe, recipe.network(), dataset, lambda number, epoch: None)
    return save(state), [epoch.validation_accuracy for epoch in curves], best


def test_the_same_seed_gives_the_same_weights_and_another_seed_gives_others(dataset: Dataset) -> None:
    first, second, other = train(dataset, 1), train(dataset, 1), train(dataset, 2)
    assert first[0] == second[0]
    assert first[0] != other[0]


def test_the_best_epoch_is_kept_not_the_last(dataset: Dataset) -> None:
    _, accuracies, best = train(dataset, 3, epochs=4)
    assert accuracies[best] == max(accuracies)


def test_a_training_that_diverges_is_refused(dataset: Dataset) -> None:
    config = load_config(ROOT, "digits")
    config.train.epochs, config.train.learning_rate = 2, 1e30
    recipe = load_recipe(config)
    _make_deterministic(1, 1)
    with pytest.raises(BuildError, match=r"training diverged in epoch 1 .* lower train.learning_rate"):
        _fit(recipe, recipe.network(), dataset, lambda number, epoch: None)


def test_augmentation_moves_images_and_loses_no_stroke_in_the_middle() -> None:
    recipe = load_recipe(load_config(ROOT, "digits"))
    images = torch.zeros(200, 1, 28, 28)
    images[:, 0, 14, 14] = 1
    moved = recipe.augment(images, torch.Generator().manual_seed(0))
    rows, columns = np.nonzero(moved[:, 0].numpy())[1:]
    assert moved.shape == images.shape
    assert moved.sum() == images.sum()
    assert set(rows.tolist()) == set(columns.tolist()) == {12, 13, 14, 15, 16}
