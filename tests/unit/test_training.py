"""Training is reproducible and keeps its best epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn
from torch.nn.utils import parametrizations

from model_build import BuildError
from model_build.config import SingleGraphConfig, load_config
from model_build.dataset import Dataset
from model_build.fitting import Epoch, evaluate, fit, load_weights, make_deterministic, weights_to_bytes
from model_build.models.alexnet import small_alexnet
from model_build.models.digits import Digits
from model_build.single_graph import Classification
from tests.support import ROOT


def digits(**train: float) -> Digits:
    config = load_config(ROOT, "digits")
    assert isinstance(config, SingleGraphConfig)
    for name, value in train.items():
        setattr(config.train, name, value)
    return Digits(config)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return digits().load_data()


Fitted = tuple[list[Epoch], int, dict[str, torch.Tensor]]


def train(dataset: Dataset, seed: int, epochs: int = 2) -> Fitted:
    recipe = digits(epochs=epochs)
    recipe.config.seed = seed
    make_deterministic(seed, recipe.config.train.threads)
    task = Classification(recipe, dataset)
    return fit(recipe.network(), task, recipe.config.train, recipe.config, lambda number, epoch: None)


def test_the_same_seed_gives_the_same_weights_and_another_seed_gives_others(dataset: Dataset) -> None:
    first, second, other = (save(train(dataset, seed)[2]) for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_the_best_epoch_is_kept_not_the_last(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    curves, best, state = train(dataset, 3, epochs=4)
    assert curves[best].validation_accuracy == max(epoch.validation_accuracy for epoch in curves)
    recipe = digits()
    network = recipe.network()
    network.load_state_dict(state)
    found = evaluate(network, Classification(recipe, dataset))
    assert found == pytest.approx((curves[best].validation_loss, curves[best].validation_accuracy))
    # In reverse, the first epoch is the best one: its weights are kept though others came after it.
    monkeypatch.setattr(Epoch, "rank", property(lambda epoch: (-epoch.validation_accuracy, epoch.validation_loss)))
    _, worst, early = train(dataset, 3, epochs=4)
    assert worst == 0
    assert save(early) != save(state)


def test_each_epoch_is_told_with_its_number(dataset: Dataset) -> None:
    recipe, told = digits(epochs=2), list[tuple[int, Epoch]]()
    make_deterministic(1, 1)
    task = Classification(recipe, dataset)
    curves, *_ = fit(recipe.network(), task, recipe.config.train, recipe.config, lambda *epoch: told.append(epoch))
    assert told == [*enumerate(curves, start=1)]


def test_a_training_that_diverges_is_refused(dataset: Dataset) -> None:
    recipe = digits(epochs=2, learning_rate=1e30)
    make_deterministic(1, 1)
    with pytest.raises(BuildError, match=r"training diverged in epoch 1 .* lower train.learning_rate"):
        fit(
            recipe.network(),
            Classification(recipe, dataset),
            recipe.config.train,
            recipe.config,
            lambda number, epoch: None,
        )


def test_each_training_example_is_in_one_batch_of_an_epoch_and_the_order_changes(dataset: Dataset) -> None:
    task, random = Classification(digits(), dataset), torch.Generator().manual_seed(0)
    first, second = (torch.cat([inputs for inputs, _ in task.training_batches(random)]) for _ in range(2))
    assert not torch.equal(first, second)
    wanted = np.sort(dataset.train_inputs.reshape(len(dataset.train_inputs), -1).sum(axis=1))
    for inputs in (first, second):
        np.testing.assert_allclose(np.sort(inputs.numpy().reshape(len(inputs), -1).sum(axis=1)), wanted, rtol=1e-5)


def test_augmentation_moves_images_and_loses_no_stroke_in_the_middle() -> None:
    images = torch.zeros(200, 1, 28, 28)
    images[:, 0, 14, 14] = 1
    moved = digits().augment(images, torch.Generator().manual_seed(0))
    rows, columns = np.nonzero(moved[:, 0].numpy())[1:]
    assert moved.shape == images.shape
    assert moved.sum() == images.sum()
    assert set(rows.tolist()) == set(columns.tolist()) == {12, 13, 14, 15, 16}


def test_validation_varies_no_image(dataset: Dataset) -> None:
    recipe = digits()
    task = Classification(recipe, dataset)
    seen = torch.cat([inputs for inputs, _ in task.validation_batches()])
    np.testing.assert_array_equal(seen.numpy(), dataset.validation_inputs)
    network = recipe.network().eval()
    batch = next(iter(task.validation_batches()))
    plain = task.measure(network, batch, None)
    assert plain.loss.item() == recipe.loss(network(batch[0]), batch[1]).item()
    assert task.measure(network, batch, torch.Generator().manual_seed(0)).loss.item() != plain.loss.item()


def test_the_small_alexnet_classifies_images_of_three_channels() -> None:
    assert small_alexnet()(torch.rand(2, 3, 32, 32)).shape == (2, 10)


class Tied(nn.Module):
    """Layers that share a weight, buffers that are views of it, expanded and transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("row", self.first.weight.detach()[1])
        self.register_buffer("expanded", torch.rand(1).expand(5))
        self.register_buffer("transposed", torch.rand(3, 2).t())
        self.normed = parametrizations.weight_norm(nn.Linear(4, 4))


@pytest.mark.parametrize("make", [Tied, lambda: nn.LSTM(2, 3), lambda: nn.Linear(2, 2, dtype=torch.bfloat16)])
def test_weights_of_any_network_come_back_as_they_were(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    first, second = make(), make()
    (tmp_path / "weights").write_bytes(weights_to_bytes(first.state_dict()))
    load_weights(second, tmp_path / "weights")
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_layers_that_share_a_weight_share_it_after_it_was_read(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(weights_to_bytes(Tied().state_dict()))
    network = Tied()
    load_weights(network, tmp_path / "weights")
    assert network.second.weight is network.first.weight


def test_weights_that_share_nothing_are_the_bytes_that_safetensors_writes() -> None:
    state = digits().network().state_dict()
    assert weights_to_bytes(state) == save(state)


class Noting(nn.Linear):
    """It keeps a note beside its weights."""

    def get_extra_state(self) -> dict[str, int]:
        return {"seen": 1}

    def set_extra_state(self, state: object) -> None:
        pass


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Noting(2, 2), "_extra_state"),
        (lambda: nn.LazyLinear(2), "weight"),
        (lambda: nn.Linear(2, 2, device="meta"), "weight"),
        (lambda: nn.ParameterDict({"thin": torch.eye(3).to_sparse()}), "thin"),
        (lambda: nn.ParameterDict({"wide": torch.eye(3, dtype=torch.complex128)}), "wide"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_what_cannot_be_kept_with_the_weights_is_one_line_that_names_it(
    make: Callable[[], nn.Module], name: str
) -> None:
    with pytest.raises(BuildError, match=rf"the network keeps '{name}', which cannot be written with its") as refused:
        weights_to_bytes(make().state_dict())
    assert "\n" not in str(refused.value)


def test_weights_of_another_network_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(weights_to_bytes(nn.Linear(2, 2).state_dict()))
    with pytest.raises(BuildError, match=r"weights does not fit the network \(.*size mismatch") as refused:
        load_weights(nn.Linear(2, 3), tmp_path / "weights")
    assert "\n" not in str(refused.value)
