"""An ensemble: its steps run in the order in which their tensors become available."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway_client._errors import ServerError, TritonError
from slipway_client._local_repository import LocalModel, find_model
from slipway_client._types import Array, ModelSpec

# What a model takes and gives.
SpecOf = Callable[[LocalModel], ModelSpec]
# Asks a model: name, version ("" is the newest), inputs, wanted outputs, seconds.
Ask = Callable[[str, str, Mapping[str, Array], Sequence[str], float], Mapping[str, Array]]


@dataclass(frozen=True)
class Step:
    """One model of an ensemble; `inputs` and `outputs` map the model's tensor names to the ensemble's."""

    model: str
    version: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


class Ensemble:
    """Runs the steps of `model` one after another, each through `ask`.

    Raises:
        TritonError: the steps do not fit together (see `plan`).
    """

    def __init__(self, repository: Path, model: LocalModel, spec: SpecOf, ask: Ask) -> None:
        self._name = model.name
        self._steps = plan(repository, model, spec)
        self._ask = ask

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str], timeout: float) -> dict[str, Array]:
        """Give every step its tensors; return the ensemble's `outputs`. Each step gets `timeout` seconds."""
        tensors = dict(inputs)
        for step in self._steps:
            given = {name: tensors[tensor] for name, tensor in step.inputs.items()}
            try:
                answer = self._ask(step.model, step.version, given, list(step.outputs), timeout)
            except ServerError as error:
                raise ServerError(f"in ensemble '{self._name}', {error}") from error
            tensors.update({tensor: answer[name] for name, tensor in step.outputs.items()})
        return {name: tensors[name] for name in outputs}

    def close(self) -> None:
        """Nothing to give back: the steps' models are their own."""


def plan(repository: Path, ensemble: LocalModel, spec: SpecOf, inside: tuple[str, ...] = ()) -> list[Step]:
    """The steps of `ensemble` in an order in which each finds its tensors; nested ensembles are checked too.

    `spec` says what a step's model takes and gives.

    Raises:
        ModelNotFound: a step's model is not in the repository.
        TritonError: an ensemble contains itself; a step leaves out an input of its model or names a tensor its model
            does not have; a tensor is given twice or never; steps wait for one another.
    """
    chain = (*inside, ensemble.name)
    if ensemble.name in inside:
        raise TritonError(f"ensemble '{ensemble.name}' contains itself ({' → '.join(chain)}): correct config.pbtxt")
    waiting = [
        _step(repository, ensemble.name, entry, spec, chain) for entry in ensemble.config.ensemble_scheduling.step
    ]
    known = {tensor.name for tensor in ensemble.config.input}
    given = [*known, *(tensor for step in waiting for tensor in step.outputs.values())]
    if twice := sorted({tensor for tensor in given if given.count(tensor) > 1}):
        raise _wrong(ensemble.name, f"tensor {_quoted(twice)} is given more than once")
    ordered: list[Step] = []
    while waiting:
        ready = [step for step in waiting if known.issuperset(step.inputs.values())]
        if not ready:
            raise _stuck(ensemble.name, waiting, set(given))
        ordered += ready
        waiting = [step for step in waiting if step not in ready]
        known.update(tensor for step in ready for tensor in step.outputs.values())
    if missing := [tensor.name for tensor in ensemble.config.output if tensor.name not in known]:
        raise _wrong(ensemble.name, f"no step gives its output {_quoted(missing)}")
    return ordered


def _step(repository: Path, ensemble: str, entry: Any, spec: SpecOf, chain: tuple[str, ...]) -> Step:
    name, number = entry.model_name, entry.model_version
    model = find_model(repository, name, str(number) if number > 0 else "")
    if model.backend == "ensemble":
        plan(repository, model, spec, chain)
    step = Step(name, model.version, dict(entry.input_map), dict(entry.output_map))
    takes = spec(model)
    inputs = {tensor.name for tensor in takes.inputs}
    if inputs != set(step.inputs):
        raise _wrong(ensemble, f"model '{name}' takes {sorted(inputs)} and its step maps {sorted(step.inputs)}")
    if unknown := sorted(set(step.outputs) - {tensor.name for tensor in takes.outputs}):
        raise _wrong(ensemble, f"model '{name}' has no output {_quoted(unknown)}")
    return step


def _stuck(ensemble: str, waiting: Sequence[Step], given: set[str]) -> TritonError:
    for step in waiting:
        if missing := sorted(set(step.inputs.values()) - given):
            return _wrong(
                ensemble,
                f"the step of model '{step.model}' needs tensor {_quoted(missing)}, which is no input of the ensemble "
                "and no output of a step",
            )
    return _wrong(ensemble, f"the steps of models {_quoted(step.model for step in waiting)} wait for one another")


def _wrong(ensemble: str, reason: str) -> TritonError:
    return TritonError(f"ensemble '{ensemble}': {reason}: correct ensemble_scheduling in its config.pbtxt")


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
