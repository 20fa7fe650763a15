"""A built model on a device: its graphs at each batch, what bounds them, and what was measured of it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from model_build._errors import ConfigurationError, DataError
from model_build.config import load_config
from model_build.precision.variants import FP16, FP32, INT8
from model_build.roofline import calibration, graph, microbenchmarks
from model_build.roofline.devices import CPU, TF32, Device, find_device, key_of
from model_build.roofline.layers import Layer, find_layers, live_bytes
from model_build.roofline.measure import measured, profile
from model_build.roofline.prediction import BestBatch, Predicted, batch_from, best_batch, predict
from model_build.stages.layout import BuildFiles

PRECISIONS = (FP32, TF32, FP16, INT8)
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Question:
    """What `slipway roofline` was asked.

    Attributes:
        device: a key of `DEVICES`, or `cpu`.
        batches: sizes of the first dimension.
        shapes: sizes of the other free dimensions by name.
        precision: fp32, tf32, fp16 or int8.
        threads: of ONNX Runtime, where this machine is measured.
        flops: operations for each output element of operators that have no formula.
    """

    device: str
    batches: tuple[int, ...] = (1, 8, 32)
    shapes: Mapping[str, int] = field(default_factory=dict)
    precision: str = FP32
    threads: int = 1
    flops: Mapping[str, float] = field(default_factory=dict)

    @property
    def here(self) -> bool:
        """Whether this machine is asked about."""
        return key_of(self.device) == CPU

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigurationError(
                f"precision '{self.precision}' is unknown: expected one of {', '.join(PRECISIONS)}"
            )
        if self.here and self.precision != FP32:
            raise ConfigurationError(
                f"device '{CPU}' is measured in {FP32} only: `slipway variants MODEL` shows how fast the others are"
            )
        if not self.here and self.precision not in (card := find_device(self.device)).peaks:
            raise ConfigurationError(
                f"{card.name} has no {self.precision.upper()}: expected one of {', '.join(card.peaks)}"
            )
        if wrong := [one for one in (*self.batches, *self.shapes.values(), self.threads) if one < 1]:
            raise ConfigurationError(f"a size of {wrong[0]}: expected batches, shapes and threads of 1 or more")
        if strange := [name for name, count in self.flops.items() if not 0 <= count < math.inf]:
            raise ConfigurationError(f"FLOPs of {strange[0]}: expected 0 or more for each element that it gives")


@dataclass(frozen=True)
class AtBatch:
    """A model at one batch.

    Attributes:
        layers: on the device.
        measured: seconds that each took on this machine; empty where the device is another.
    """

    batch: int
    layers: Sequence[Predicted]
    measured: Sequence[float]

    @property
    def seconds(self) -> float:
        """Predicted, of one run."""
        return sum(layer.seconds for layer in self.layers)

    def total(self, attribute: str) -> float:
        """Sum of this attribute of `Layer` over the layers."""
        return float(sum(getattr(one.layer, attribute) for one in self.layers))


@dataclass(frozen=True)
class Roofline:
    """The answer.

    Attributes:
        compute_bound_from: the batch from which the model computes longer than it moves; None where it never does.
        best: the batch to serve with on this device.
        batch_assumed: whether a first dimension without a name was taken for the batch.
    """

    model: str
    device: Device
    question: Question
    batches: Sequence[AtBatch]
    compute_bound_from: int | None
    best: BestBatch
    batch_assumed: bool = False


def analyse(workspace: Path, model: str, question: Question, progress: Progress = lambda _: None) -> Roofline:
    """Count, predict, and on this machine's CPU measure.

    Raises:
        ConfigurationError: an unknown model or device, a free size that was not given, an operator without a formula.
        DataError: the model is not built.
        ExportError: ONNX Runtime cannot open a graph.
    """
    load_config(workspace, model)
    files = BuildFiles(workspace, model)
    with tempfile.TemporaryDirectory() as folder:
        paths, assumed = zip(*(graph.named(path, Path(folder)) for path in graph_files(files)), strict=True)
        return _analyse(model, files, paths, [name for name in assumed if name], question, progress)


def _analyse(
    model: str, files: BuildFiles, paths: Sequence[Path], assumed: Sequence[str], question: Question, progress: Progress
) -> Roofline:
    device = None if question.here else find_device(question.device)
    _check_sizes(model, paths, question)
    kept = _kept(files, question.precision)
    found: list[tuple[int, list[Layer], list[float], float, float]] = []
    for batch in question.batches:
        progress(f"Analysing {model} at batch {batch}")
        layers, times, live, weights = [], [], 0.0, 0.0
        for path in paths:
            fixed = graph.fix(path, batch, question.shapes, question.threads)
            of_it = find_layers(fixed, question.precision, kept, question.flops)
            if device is None:
                progress(f"Measuring {path.name} at batch {batch}")
                times += measured(of_it, profile(path, _sizes(path, batch, question.shapes), threads=question.threads))
            layers += [_named(layer, path, paths) for layer in of_it]
            needs, constants = live_bytes(fixed, question.precision)
            live, weights = max(live, needs), weights + constants
        found.append((batch, layers, times, live, weights))
    if device is None:
        progress("Calibrating this machine")
        device = this_machine(question.threads)
    batch, layers, _, live, weights = found[0]
    return Roofline(
        model,
        device,
        question,
        [AtBatch(size, predict(each, device, size), took) for size, each, took, *_ in found],
        batch_from(layers, device, batch),
        best_batch(layers, device, batch, live, weights),
        bool(assumed),
    )


def free_sizes(workspace: Path, model: str, size: int = 32) -> dict[str, int]:
    """`size` for each free dimension of the model's graphs but the batch.

    Raises:
        ConfigurationError: there is no such model.
        DataError: it was not exported.
    """
    load_config(workspace, model)
    paths = graph_files(BuildFiles(workspace, model))
    return {name: size for path in paths for name in graph.symbols(path)[1]}


def graph_files(files: BuildFiles) -> list[Path]:
    """The model's exported graphs.

    Raises:
        DataError: it was not exported.
    """
    found = [files.onnx] if files.onnx.is_file() else sorted(files.graphs.glob("*.onnx"))
    if not found:
        raise DataError(
            f"model '{files.model}' has no exported graph in {files.folder}: run `slipway build {files.model}`"
        )
    return found


def this_machine(threads: int) -> Device:
    """This machine's CPU, measured by a calibration of a few seconds."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    name = f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"
    return calibration.fit(microbenchmarks.run(threads), name, float(memory))


def cpu_name() -> str:
    """As the kernel names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def _check_sizes(model: str, paths: Sequence[Path], question: Question) -> None:
    names = sorted({name for path in paths for name in graph.symbols(path)[1]})
    if unknown := [name for name in question.shapes if name not in names]:
        raise ConfigurationError(
            f"{model} has no free size '{unknown[0]}': expected "
            + (f"--shape for {', '.join(names)}" if names else "no --shape, all its sizes but the batch are fixed")
        )
    for path in paths:
        fixed = graph.fixed_batch(path)
        if fixed is not None and (other := [batch for batch in question.batches if batch != fixed]):
            raise ConfigurationError(
                f"{path.name} is exported with a batch of {fixed}, not {other[0]}: pass --batch {fixed}, "
                "or export it with a dynamic first dimension"
            )


def _sizes(path: Path, batch: int, shapes: Mapping[str, int]) -> dict[str, int]:
    name, others = graph.symbols(path)
    return {one: shapes[one] for one in others} | ({name: batch} if name else {})


def _named(layer: Layer, path: Path, paths: Sequence[Path]) -> Layer:
    return (
        layer
        if len(paths) == 1
        else dataclasses.replace(layer, name=f"{path.stem}/{layer.name}", module=f"{path.stem}/{layer.module}")
    )


def _kept(files: BuildFiles, precision: str) -> list[str]:
    """Layers that the built variant keeps in FP32."""
    path = files.variants / precision / "kept.json"
    return list(json.loads(path.read_text())) if path.is_file() else []
