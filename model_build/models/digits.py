"""digits: a convolutional classifier of handwritten digits, 1x28x28, for MNIST and what looks like it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from model_build.dataset import Dataset, divide
from model_build.models.digit_data import SIDE, png_of_each, read_examples
from model_build.single_graph import SingleGraph, shift

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


class Digits(SingleGraph):
    """Handwritten digits: `image` float32 `[n, 1, 28, 28]` in 0..1, `probabilities` float32 `[n, 10]`."""

    input_name = "image"
    labels = tuple("0123456789")

    def load_data(self) -> Dataset:
        """Read scikit-learn's scans, IDX files or a Kaggle CSV, and divide them."""
        data = self.config.data
        read = read_examples(Path(data.path) if data.path else None)
        return divide(read.train, data, source=read.source, sha256=read.sha256, test=read.test)

    def source_sha256(self) -> str | None:
        """Hash of the digits that `data.path` names."""
        return read_examples(Path(self.config.data.path)).sha256 if self.config.data.path else None

    def sample_files(self, dataset: Dataset) -> Mapping[str, bytes]:
        """The first held-out image of each digit, as 28x28 greyscale PNG."""
        return png_of_each(dataset.test_inputs, dataset.test_labels, self.labels)

    def network(self) -> nn.Module:
        """A fresh DigitNetwork."""
        return DigitNetwork()

    def augment(self, inputs: Tensor, random: torch.Generator) -> Tensor:
        """Shift each image by up to MAX_SHIFT pixels either way."""
        return shift(inputs, MAX_SHIFT, random)
