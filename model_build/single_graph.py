"""`SingleGraph`: arrays in, classes out, one ONNX file. What most models are, and the way for a model of your own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from model_build import fitting
from model_build._errors import DataError
from model_build.batching import TRIAL_ROWS
from model_build.config import SingleGraphConfig
from model_build.dataset import Dataset, Floats, Labels
from model_build.files import write_file, write_files
from model_build.labels import check_classes, check_labels, file_names
from model_build.onnx_export import export_onnx, open_session, parity
from model_build.precision.variants import FP32, Graph, Graphs, served_name
from model_build.recipe import Array, Feed, Inference, ServedModel, Variable
from model_build.stages.layout import BuildFiles
from model_build.triton_config import LABELS_FILE, graph_model

PARITY_BATCHES = (1, 2, 7, 32)
EVALUATION_BATCH = 256
CALIBRATION_BATCH = 16
COMPARED_BATCHES = (1, 8)  # of the held-out part, to compare layers and to measure speed with
MODEL = "model.onnx"


class SingleGraph(Variable[SingleGraphConfig]):
    """A classifier of arrays.

    A model of its own says what is abstract here, and overrides what it knows better.

    Attributes:
        input_name, output_name: names of the served tensors; both have a dynamic first dimension.
        labels: names of the classes, in the order of the output's last dimension.
    """

    metric = variant_metric = "accuracy"
    input_name: str
    output_name = "probabilities"
    labels: tuple[str, ...]
    counts_examples = True

    def __init_subclass__(cls, **options: Any) -> None:
        """A score of one's own is no accuracy, whatever its name, unless the recipe says that it counts examples."""
        super().__init_subclass__(**options)
        if {"score", "judge"} & set(vars(cls)) and "counts_examples" not in vars(cls):
            cls.counts_examples = False

    @abstractmethod
    def load_data(self) -> Dataset:
        """Read and divide the examples (`model_build.dataset.divide`); the same configuration gives the same parts."""

    @abstractmethod
    def network(self) -> nn.Module:
        """The network to train, with fresh weights: inputs float32 `[n, ...]` to logits `[n, classes]`."""

    def sample_files(self, dataset: Dataset) -> Mapping[str, bytes]:
        """A few held-out examples as files that `slipway predict` can send: the first of each class, as .npy arrays."""
        files = {}
        for index, name in enumerate(file_names(self.labels)):
            (found,) = np.nonzero(dataset.test_labels == index)
            if found.size:
                files[f"{name}.npy"] = as_npy(dataset.test_inputs[found[0]])
        return files

    def augment(self, inputs: Tensor, random: Generator) -> Tensor:
        """Vary a training batch `[n, ...]`; unchanged unless a recipe knows better."""
        return inputs

    def serving_network(self, trained: nn.Module) -> nn.Module:
        """What is exported: the trained network, with probabilities instead of logits."""
        return WithProbabilities(trained)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of a batch."""
        return functional.cross_entropy(logits, labels)

    def score(self, answers: Floats, labels: Labels) -> float:
        """The metric, from served answers `[n, classes]`; higher is better."""
        return float((answers.argmax(axis=1) == labels).mean())

    def prepare(self, files: BuildFiles) -> str:
        """Write `data.npz` and `samples/`."""
        check_labels(self.labels)
        dataset = self.load_data()
        check_classes(self.labels, (dataset.train_labels, dataset.validation_labels, dataset.test_labels))
        samples = self.sample_files(dataset)
        for name in samples:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise DataError(f"sample_files names '{name}': expected files of {files.samples}/")
        write_files({files.samples / name: content for name, content in samples.items()})
        write_file(files.data, dataset.to_bytes())
        sizes = [len(part) for part in (dataset.train_labels, dataset.validation_labels, dataset.test_labels)]
        return f"{sum(sizes)} examples from {dataset.source}: {sizes[0]} train, {sizes[1]} validation, {sizes[2]} test"

    def source(self, files: BuildFiles) -> tuple[str, str]:
        """As the data set has it."""
        dataset = Dataset.from_file(files.data)
        return dataset.source, dataset.source_sha256

    def train(self, files: BuildFiles) -> str:
        """Fit the network."""
        dataset = Dataset.from_file(files.data)
        self._check_logits(dataset)
        found: dict[str, object] = {"found.data_sha256": dataset.source_sha256}
        return fitting.train(files, self.config, self.config.train, Classification(self, dataset), found)

    def export(self, files: BuildFiles) -> str:
        """Write `model.onnx`, with a dynamic batch dimension."""
        network = self.network()
        fitting.load_weights(network, files.weights)
        serving = self.serving_network(network).eval()
        inputs = Dataset.from_file(files.data).test_inputs
        content = export_onnx(
            serving,
            (torch.from_numpy(inputs[:2]),),
            inputs=[self.input_name],
            outputs=[self.output_name],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            config=self.config.export,
        )
        batches = [{self.input_name: inputs[:size]} for size in PARITY_BATCHES]
        distance = parity(serving, open_session(content), batches, self.config.export.parity_atol)
        write_file(files.onnx, content)
        export = self.config.export
        return f"opset {export.opset}, IR {export.ir_version}, within {distance:.1e} of PyTorch"

    def infer(self, files: BuildFiles) -> Inference:
        """Classify the test part."""
        dataset = Dataset.from_file(files.data)
        answers = self.answer(files, self.graphs(files))[self.output_name]
        return Inference(
            value=self.score(answers, dataset.test_labels),
            examples=len(dataset.test_labels),
            predictions=self.predictions(answers, dataset.test_labels),
        )

    def predictions(self, answers: Floats, labels: Labels) -> list[list[object]]:
        """Header and rows of predictions.csv."""
        rows: list[list[object]] = [["example", "label", "predicted", "probability"]]
        for index, (answer, label) in enumerate(zip(answers, labels, strict=True)):
            predicted = int(answer.argmax())
            rows.append([index, self.labels[label], self.labels[predicted], f"{answer[predicted]:.6f}"])
        return rows

    def graphs(self, files: BuildFiles) -> Mapping[str, bytes]:
        """The one graph."""
        return {MODEL: files.onnx.read_bytes()}

    def calibration(self, files: BuildFiles) -> Mapping[str, Sequence[Feed]]:
        """The validation part: neither trained nor evaluated on."""
        inputs = Dataset.from_file(files.data).validation_inputs[: self.config.precision.calibration_examples]
        return {MODEL: self._batches(inputs, CALIBRATION_BATCH)}

    def evaluation(self, files: BuildFiles) -> Mapping[str, Sequence[Feed]]:
        """The beginning of the test part."""
        inputs = Dataset.from_file(files.data).test_inputs
        return {MODEL: [{self.input_name: inputs[:size]} for size in COMPARED_BATCHES]}

    def requests(self, files: BuildFiles) -> Sequence[Feed]:
        """The test part."""
        return self._batches(Dataset.from_file(files.data).test_inputs, self.config.triton.max_batch_size)

    def answer(self, files: BuildFiles, graphs: Mapping[str, bytes]) -> Mapping[str, Array]:
        """Answer the test part, in the batches of `requests`: a graph that mixes them answers each in its own way."""
        session = open_session(graphs[MODEL])
        parts = self.requests(files)
        return {self.output_name: np.concatenate([session.run([self.output_name], dict(part))[0] for part in parts])}

    def judge(self, files: BuildFiles, answers: Mapping[str, Array], reference: Mapping[str, Array]) -> float:
        """`score` on the test part."""
        return self.score(answers[self.output_name], Dataset.from_file(files.data).test_labels)

    def serve(self, files: BuildFiles, variant: str = FP32, graphs: Graphs | None = None) -> Sequence[ServedModel]:
        """The graph behind Triton's onnxruntime backend."""
        content = files.onnx.read_bytes()
        graph = graphs[MODEL] if graphs else Graph(content, content)
        examples = Dataset.from_file(files.data).test_inputs[:TRIAL_ROWS]
        example = examples[:1]
        (answer,) = open_session(graph.cpu).run([self.output_name], {self.input_name: example})
        labels = "".join(f"{label}\n" for label in self.labels).encode()
        return [
            graph_model(
                served_name(self.config.name, variant),
                graph,
                self.config.triton,
                files={LABELS_FILE: labels},
                inputs={self.input_name: example},
                outputs={self.output_name: answer},
                trial={self.input_name: examples},
            )
        ]

    def _check_logits(self, dataset: Dataset) -> None:
        """The network gives a logit for each of `labels`."""
        inputs = torch.from_numpy(dataset.train_inputs[:2])
        with torch.no_grad():
            logits = self.network().eval()(inputs)
        expected = [len(inputs), len(self.labels)]
        found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if found != expected:
            raise DataError(
                f"the network gives {found} for {len(inputs)} examples: expected logits {expected}, one for each label"
            )

    def _batches(self, inputs: Floats, size: int) -> list[Feed]:
        return [{self.input_name: part} for part in np.split(inputs, range(size, len(inputs), size))]


class Classification:
    """A SingleGraph's training: batches are inputs float32 `[n, ...]` and labels int64 `[n]`."""

    def __init__(self, recipe: SingleGraph, dataset: Dataset) -> None:
        self._recipe = recipe
        self._train = (torch.from_numpy(dataset.train_inputs), torch.from_numpy(dataset.train_labels))
        self._validation = (torch.from_numpy(dataset.validation_inputs), torch.from_numpy(dataset.validation_labels))

    def network(self) -> nn.Module:
        """The recipe's."""
        return self._recipe.network()

    def training_batches(self, random: Generator) -> Sequence[tuple[Tensor, Tensor]]:
        """All examples in a random order."""
        inputs, labels = self._train
        parts = list(torch.randperm(len(labels), generator=random).split(self._recipe.config.train.batch_size))
        if len(parts) > 1 and len(parts[-1]) == 1:  # batch normalisation knows no variance of one example
            parts[-2:] = [torch.cat(parts[-2:])]
        return [(inputs[rows], labels[rows]) for rows in parts]

    def validation_batches(self) -> Iterable[tuple[Tensor, Tensor]]:
        """In their order."""
        return zip(*(part.split(EVALUATION_BATCH) for part in self._validation), strict=True)

    def measure(self, network: nn.Module, batch: Any, random: Generator | None) -> fitting.Measured:
        """Loss, and how many of the most probable classes are right."""
        inputs, labels = batch
        logits = network(inputs if random is None else self._recipe.augment(inputs, random))
        right = float((logits.argmax(1) == labels).sum())
        return fitting.Measured(self._recipe.loss(logits, labels), right, len(labels))


class WithProbabilities(nn.Module):
    """A classifier whose answer is probabilities, `[n, classes]`, each row summing to 1."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, inputs: Tensor) -> Tensor:
        """Softmax of the classifier's logits."""
        return torch.softmax(self.classifier(inputs), dim=1)


def shift(images: Tensor, most: int, random: torch.Generator) -> Tensor:
    """Shift each image `[n, channels, side, side]` by up to `most` pixels either way; zeros come in at the edge."""
    count, _, side, _ = images.shape
    padded = functional.pad(images, (most,) * 4)
    rows, columns = torch.randint(0, 2 * most + 1, (2, count, 1), generator=random) + torch.arange(side)
    which = torch.arange(count)[:, None, None]
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def as_npy(array: Floats) -> bytes:
    """The array as a .npy file."""
    import io

    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
