"""The training loop: AdamW with a one-cycle learning rate; the weights of the epoch that did best are kept."""

from __future__ import annotations

import copy
import json
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.utils import deterministic

from model_build import tracking
from model_build._errors import BuildError
from model_build.config import ModelConfig, TrainConfig, to_flat
from model_build.files import sha256, write_files
from model_build.stages.layout import BuildFiles

CLIP_NORM = 1.0
LINES = 10  # at least so many in a log, for a training of so many epochs
WARM_UP = 0.3  # share of the steps in which the learning rate rises


@dataclass(frozen=True)
class Measured:
    """A batch: its mean loss, and how many of `count` answers were right."""

    loss: Tensor
    right: float
    count: int


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training part came to."""

    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float

    @property
    def rank(self) -> tuple[float, float]:
        """Better epochs compare greater."""
        return (self.validation_accuracy, -self.validation_loss)


class Task(Protocol):
    """What a training needs to know of a model; batches are whatever `measure` takes."""

    @abstractmethod
    def network(self) -> nn.Module:
        """A network with fresh weights."""

    @abstractmethod
    def training_batches(self, random: torch.Generator) -> Sequence[Any]:
        """The batches of one epoch, in a random order; every epoch has the same number."""

    @abstractmethod
    def validation_batches(self) -> Iterable[Any]:
        """The validation part."""

    @abstractmethod
    def measure(self, network: nn.Module, batch: Any, random: torch.Generator | None) -> Measured:
        """Run the network on a batch; `random` is None outside of training, where nothing is varied."""


def train(files: BuildFiles, config: ModelConfig, settings: TrainConfig, task: Task, found: dict[str, object]) -> str:
    """Fit, log to MLflow, write weights and curves; return a line that says how it went.

    Args:
        files: where to write.
        config: the model's configuration, logged whole.
        settings: its part for the training.
        task: the model and its batches.
        found: further parameters for MLflow.
    """
    make_deterministic(config.seed, settings.threads)
    network = task.network()
    weights_to_bytes(network.state_dict())  # what cannot be kept is said before the training, not after it
    parameters = sum(parameter.numel() for parameter in network.parameters())
    with tracking.training_run(files.workspace, config.name) as mlflow:
        mlflow.log_params({**to_flat(config), "found.parameters": parameters, **found})
        curves, best, state = fit(
            network, task, settings, config, lambda step, epoch: mlflow.log_metrics(asdict(epoch), step=step)
        )
        mlflow.log_params({"found.best_epoch": best + 1})
        mlflow.log_metrics({"best_validation_accuracy": curves[best].validation_accuracy})
        summary = {"best_epoch": best + 1, "parameters": parameters, "curves": [asdict(epoch) for epoch in curves]}
        content = weights_to_bytes(state)
        write_files({files.weights: content, files.training: json.dumps(summary, indent=2).encode() + b"\n"})
        mlflow.set_tag(tracking.WEIGHTS_TAG, sha256(files.weights))
    accuracy = curves[best].validation_accuracy
    return f"{parameters} parameters, best epoch {best + 1} of {len(curves)}, validation accuracy {accuracy:.4f}"


def weights_to_bytes(state: Mapping[str, Any]) -> bytes:
    """The weights as a safetensors file, which takes no two tensors of one memory: each is written in full.

    Raises:
        BuildError: the network keeps something that is no tensor of numbers.
    """
    for name, value in state.items():
        try:
            save({name: _own_memory(value)})
        except Exception as error:  # of torch and of safetensors, a different one for each kind of tensor
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
            raise BuildError(
                f"the network keeps '{name}', which cannot be written with its weights ({reason}): expected a dense "
                "tensor of numbers whose size is known; make it one, or keep it in an attribute that is no buffer"
            ) from error
    content: bytes = save({name: _own_memory(tensor) for name, tensor in state.items()})
    return content


def load_weights(network: nn.Module, path: Path) -> None:
    """Fill `network` with what `weights_to_bytes` wrote; layers that share a weight still do.

    Raises:
        BuildError: they are the weights of another network.
    """
    for module in network.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if 0 in buffer.stride() and buffer.numel() > 1:  # expanded: many elements of one memory cannot be filled
                setattr(module, name, _own_memory(buffer))
    try:
        network.load_state_dict(load_file(path))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise BuildError(
            f"{path.name} does not fit the network ({reason}): expected the recipe to make the same layers each time"
        ) from error


def _own_memory(tensor: Tensor) -> Tensor:
    """A copy: what shares its weight, a view and an expanded tensor become tensors that `load_weights` fills again."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def make_deterministic(seed: int, threads: int) -> None:
    """The same seed and number of threads give the same weights on machines of one kind."""
    torch.manual_seed(seed)
    # What `torch.use_deterministic_algorithms` does, without its import of a compiler, which takes two seconds.
    torch.set_deterministic_debug_mode("error")
    os.environ.setdefault("TORCHINDUCTOR_DETERMINISTIC", "1")
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, shows bugs only
    torch.set_num_threads(threads)


def fit(
    network: nn.Module,
    task: Task,
    settings: TrainConfig,
    config: ModelConfig,
    log: Callable[[int, Epoch], object],
) -> tuple[list[Epoch], int, dict[str, Tensor]]:
    """Train; return all epochs, the index of the best one, and its weights."""
    random = torch.Generator().manual_seed(config.seed)
    optimiser = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    first = task.training_batches(random)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=settings.epochs * len(first), pct_start=WARM_UP
    )
    curves: list[Epoch] = []
    best, state = 0, copy.deepcopy(network.state_dict())
    with _progress() as progress:
        bar = progress.add_task(f"train {config.name}", total=settings.epochs * len(first), note="")
        for number in range(settings.epochs):
            batches = task.training_batches(random) if number else first
            train_loss, train_accuracy = _pass(
                network, task, batches, optimiser, schedule, random, lambda: progress.advance(bar)
            )
            if not np.isfinite(train_loss):
                raise BuildError(
                    f"training diverged in epoch {number + 1} (loss {train_loss}): lower train.learning_rate"
                )
            validation_loss, validation_accuracy = evaluate(network, task)
            rate = float(schedule.get_last_lr()[0])
            epoch = Epoch(train_loss, train_accuracy, validation_loss, validation_accuracy, rate)
            curves.append(epoch)
            log(number + 1, epoch)
            if number == 0 or epoch.rank > curves[best].rank:
                best, state = number, copy.deepcopy(network.state_dict())
            note = f"epoch {number + 1} of {settings.epochs}, validation accuracy {validation_accuracy:.4f}"
            progress.update(bar, note=note)
            if progress.disable and (number + 1) % max(1, settings.epochs // LINES) == 0:
                progress.console.print(f"train {config.name}: {note}")
    return curves, best, state


def _pass(
    network: nn.Module,
    task: Task,
    batches: Sequence[Any],
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    random: torch.Generator,
    advance: Callable[[], object],
) -> tuple[float, float]:
    """One epoch of training; return mean loss and accuracy over it."""
    network.train()
    total, right, count = 0.0, 0.0, 0
    for batch in batches:
        measured = task.measure(network, batch, random)
        optimiser.zero_grad()
        measured.loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
        optimiser.step()
        schedule.step()
        total += measured.loss.item() * measured.count
        right += measured.right
        count += measured.count
        advance()
    return total / count, right / count


@torch.no_grad()
def evaluate(network: nn.Module, task: Task) -> tuple[float, float]:
    """Mean loss and accuracy on the validation part."""
    network.eval()
    measured = [task.measure(network, batch, None) for batch in task.validation_batches()]
    count = sum(one.count for one in measured)
    loss = sum(one.loss.item() * one.count for one in measured) / count
    return loss, sum(one.right for one in measured) / count


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    # In a log a bar is seen at its end only: some lines on the way are printed instead.
    return Progress(*columns, TextColumn("{task.fields[note]}"), console=console, disable=not console.is_terminal)
