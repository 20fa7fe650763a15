"""Stage train: fit the network, keep the weights of the epoch that did best on the validation part."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from model_build import tracking
from model_build._errors import BuildError
from model_build.config import ModelConfig, to_flat
from model_build.files import sha256, write_files
from model_build.recipe import Dataset, Recipe, load_recipe
from model_build.stages.layout import BuildFiles


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training part came to; losses are mean cross-entropies in nats."""

    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float

    @property
    def rank(self) -> tuple[float, float]:
        """Better epochs compare greater."""
        return (self.validation_accuracy, -self.validation_loss)


@dataclass(frozen=True)
class Part:
    """Examples as tensors: inputs float32 `[n, ...]`, labels int64 `[n]`."""

    inputs: Tensor
    labels: Tensor


def run(workspace: Path, config: ModelConfig) -> str:
    """Write `weights.safetensors` and `training.json`; return a line that says how it went."""
    files = BuildFiles(workspace, config.name)
    dataset = Dataset.from_file(files.data)
    _make_deterministic(config.seed, config.train.threads)
    recipe = load_recipe(config)
    network = recipe.network()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    with tracking.training_run(workspace, config.name) as mlflow:
        mlflow.log_params(to_flat(config))
        mlflow.log_params({"found.parameters": parameters, "found.data_sha256": dataset.source_sha256})
        curves, best, state = _fit(recipe, network, dataset, lambda n, e: mlflow.log_metrics(vars(e), step=n))
        mlflow.log_params({"found.best_epoch": best + 1})
        mlflow.log_metrics({"best_validation_accuracy": curves[best].validation_accuracy})
        found = {"best_epoch": best + 1, "parameters": parameters, "curves": [vars(epoch) for epoch in curves]}
        write_files({files.training: json.dumps(found, indent=1).encode(), files.weights: save(state)})
        mlflow.set_tag(tracking.WEIGHTS_TAG, sha256(files.weights))
    accuracy = curves[best].validation_accuracy
    return f"{parameters} parameters, best epoch {best + 1} of {len(curves)}, validation accuracy {accuracy:.4f}"


def _make_deterministic(seed: int, threads: int) -> None:
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)


def _fit(
    recipe: Recipe, network: nn.Module, dataset: Dataset, log: Callable[[int, Epoch], None]
) -> tuple[list[Epoch], int, dict[str, Tensor]]:
    """Train; return all epochs, the index of the best one, and its weights."""
    settings = recipe.config.train
    train = Part(torch.from_numpy(dataset.train_inputs), torch.from_numpy(dataset.train_labels))
    validation = Part(torch.from_numpy(dataset.validation_inputs), torch.from_numpy(dataset.validation_labels))
    steps = -(-len(train.labels) // settings.batch_size)
    optimiser = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=settings.epochs * steps
    )
    random = torch.Generator().manual_seed(recipe.config.seed)
    curves: list[Epoch] = []
    best, state = 0, copy.deepcopy(network.state_dict())
    with _progress() as progress:
        bar = progress.add_task(f"train {recipe.config.name}", total=settings.epochs, note="")
        for number in range(settings.epochs):
            train_loss, train_accuracy = _pass(recipe, network, train, optimiser, schedule, random)
            validation_loss, validation_accuracy = _evaluate(network, validation)
            rate = float(schedule.get_last_lr()[0])
            epoch = Epoch(train_loss, train_accuracy, validation_loss, validation_accuracy, rate)
            if not np.isfinite(train_loss):
                raise BuildError(
                    f"training diverged in epoch {number + 1} (loss {train_loss}): lower train.learning_rate"
                )
            curves.append(epoch)
            log(number + 1, epoch)
            if number == 0 or epoch.rank > curves[best].rank:
                best, state = number, copy.deepcopy(network.state_dict())
            progress.update(bar, advance=1, note=f"validation {validation_accuracy:.4f}")
    return curves, best, state


def _pass(
    recipe: Recipe,
    network: nn.Module,
    part: Part,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    random: torch.Generator,
) -> tuple[float, float]:
    """One epoch of training; return mean loss and accuracy over it."""
    network.train()
    total, correct, count = 0.0, 0, len(part.labels)
    for indices in torch.randperm(count, generator=random).split(recipe.config.train.batch_size):
        labels = part.labels[indices]
        logits = network(recipe.augment(part.inputs[indices], random))
        loss = functional.cross_entropy(logits, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        total += loss.item() * len(indices)
        correct += int((logits.argmax(1) == labels).sum())
    return total / count, correct / count


@torch.no_grad()
def _evaluate(network: nn.Module, part: Part) -> tuple[float, float]:
    network.eval()
    logits = torch.cat([network(inputs) for inputs in part.inputs.split(512)])
    accuracy = (logits.argmax(1) == part.labels).float().mean()
    return functional.cross_entropy(logits, part.labels).item(), accuracy.item()


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True))
