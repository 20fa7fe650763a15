"""digits: a convolutional classifier of handwritten digits, 1x28x28, for MNIST and what looks like it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

from model_build._errors import DataError
from model_build.models.digit_data import SIDE, Examples, read_examples
from model_build.recipe import Dataset, Recipe

CHANNELS = (8, 16)
MAX_SHIFT = 2


class DigitNetwork(nn.Module):
    """Two convolutions with pooling and one linear layer: float32 `[n, 1, 28, 28]` in 0..1 to logits `[n, 10]`."""

    def __init__(self) -> None:
        super().__init__()
        first, second = CHANNELS
        self.layers = nn.Sequential(
            nn.Conv2d(1, first, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.25),
            nn.Linear(second * (SIDE // 4) ** 2, 10),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Logits of the ten digits."""
        logits: Tensor = self.layers(image)
        return logits


class WithProbabilities(nn.Module):
    """A classifier whose answer is probabilities, `[n, classes]`, each row summing to 1."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, image: Tensor) -> Tensor:
        """Softmax of the classifier's logits."""
        return torch.softmax(self.classifier(image), dim=1)


class Digits(Recipe):
    """Handwritten digits: `image` float32 `[n, 1, 28, 28]` in 0..1, `probabilities` float32 `[n, 10]`."""

    input_name = "image"
    output_name = "probabilities"
    labels = tuple("0123456789")

    def load_data(self) -> Dataset:
        """Read scikit-learn's scans, IDX files or a Kaggle CSV, and divide them."""
        data = self.config.data
        examples = read_examples(Path(data.path) if data.path else None)
        if examples.test is None:
            rest, test = _divide(examples.train, data.test_fraction, data.split_seed)
            share = data.validation_fraction / (1 - data.test_fraction)
        else:
            rest, test, share = examples.train, examples.test, data.validation_fraction
        train, validation = _divide(rest, share, data.split_seed)
        return Dataset(*train, *validation, *test, source=examples.source, source_sha256=examples.sha256)

    def source_sha256(self) -> str:
        """Hash of the digits that `data.path` names."""
        path = self.config.data.path
        return read_examples(Path(path) if path else None).sha256

    def sample_files(self, dataset: Dataset) -> Mapping[str, bytes]:
        """The first held-out image of each digit, as 28x28 greyscale PNG."""
        files = {}
        for digit, label in enumerate(self.labels):
            (indices,) = np.nonzero(dataset.test_labels == digit)
            if indices.size:
                files[f"{label}.png"] = _png(dataset.test_inputs[indices[0], 0])
        return files

    def network(self) -> nn.Module:
        """A fresh DigitNetwork."""
        return DigitNetwork()

    def augment(self, inputs: Tensor, random: torch.Generator) -> Tensor:
        """Shift each image by up to MAX_SHIFT pixels either way; zeros come in at the edge."""
        count = len(inputs)
        padded = functional.pad(inputs[:, 0], (MAX_SHIFT,) * 4)
        rows, columns = torch.randint(0, 2 * MAX_SHIFT + 1, (2, count, 1), generator=random) + torch.arange(SIDE)
        images = torch.arange(count)[:, None, None]
        return padded[images, rows[:, :, None], columns[:, None, :]].unsqueeze(1)

    def serving_network(self, trained: nn.Module) -> nn.Module:
        """Probabilities instead of logits."""
        return WithProbabilities(trained)


def _divide(part: Examples, fraction: float, seed: int) -> tuple[Examples, Examples]:
    images, labels = part
    try:
        rest, held, rest_labels, held_labels = train_test_split(
            images, labels, test_size=fraction, random_state=seed, stratify=labels
        )
    except ValueError as error:
        raise DataError(
            f"{len(labels)} examples cannot be divided by label ({error}): give more of each digit"
        ) from error
    return (rest, rest_labels), (held, held_labels)


def _png(pixels: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()
