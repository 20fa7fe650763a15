"""AlexNet, on digits of 3x32x32, and in its full size of 3x224x224, which is exported and not trained.

One weird trick for parallelizing convolutional neural networks (https://arxiv.org/abs/1404.5997), the form that
torchvision has. The small one keeps the order of the layers; strides and channels fit its image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from model_build.config import UntrainedConfig
from model_build.dataset import Dataset, Floats, divide
from model_build.files import write_file
from model_build.fitting import make_deterministic
from model_build.models.digit_data import png_of_each, read_examples
from model_build.onnx_export import export_onnx, open_session, parity
from model_build.recipe import ExportRecipe
from model_build.single_graph import SingleGraph, WithProbabilities, shift
from model_build.stages.layout import BuildFiles

SIDE, FULL_SIDE = 32, 224
MAX_SHIFT = 2


class AlexNet(nn.Module):
    """Five convolutions and three linear layers: float32 `[n, 3, side, side]` in 0..1 to logits `[n, classes]`."""

    def __init__(
        self, *, classes: int, channels: Sequence[int], stem: nn.Module, pool: nn.Module, features: int, hidden: int
    ) -> None:
        super().__init__()
        first, second, third, fourth, fifth = channels
        self.features = nn.Sequential(
            stem,
            nn.ReLU(),
            pool,
            nn.Conv2d(first, second, 5, padding=2),
            nn.ReLU(),
            pool,
            nn.Conv2d(second, third, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(third, fourth, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(fourth, fifth, 3, padding=1),
            nn.ReLU(),
            pool,
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(fifth * features**2, hidden),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Logits of the classes."""
        logits: Tensor = self.classifier(self.features(image))
        return logits


def small_alexnet() -> AlexNet:
    """For digits of 3x32x32: 4x4 features are left after three poolings."""
    channels = (32, 64, 96, 64, 64)
    stem = nn.Conv2d(3, channels[0], 5, padding=2)
    return AlexNet(classes=10, channels=channels, stem=stem, pool=nn.MaxPool2d(2), features=4, hidden=256)


def full_alexnet() -> AlexNet:
    """61 million parameters, for ImageNet's 3x224x224 and 1,000 classes: 6x6 features are left."""
    channels = (64, 192, 384, 256, 256)
    stem = nn.Conv2d(3, channels[0], 11, stride=4, padding=2)
    return AlexNet(classes=1000, channels=channels, stem=stem, pool=nn.MaxPool2d(3, stride=2), features=6, hidden=4096)


class AlexNetDigits(SingleGraph):
    """Handwritten digits: `image` float32 `[n, 3, 32, 32]` in 0..1, `probabilities` float32 `[n, 10]`."""

    input_name = "image"
    labels = tuple("0123456789")

    def load_data(self) -> Dataset:
        """Read the digits as `digits` does, enlarged to 32x32, the same grey in three channels."""
        data = self.config.data
        read = read_examples(Path(data.path) if data.path else None)
        train = (_enlarged(read.train[0]), read.train[1])
        test = (_enlarged(read.test[0]), read.test[1]) if read.test else None
        return divide(train, data, source=read.source, sha256=read.sha256, test=test)

    def source_sha256(self) -> str | None:
        """Hash of the digits that `data.path` names."""
        return read_examples(Path(self.config.data.path)).sha256 if self.config.data.path else None

    def sample_files(self, dataset: Dataset) -> Mapping[str, bytes]:
        """The first held-out image of each digit, as 32x32 RGB PNG."""
        return png_of_each(dataset.test_inputs, dataset.test_labels, self.labels)

    def network(self) -> nn.Module:
        """A fresh small AlexNet."""
        return small_alexnet()

    def augment(self, inputs: Tensor, random: torch.Generator) -> Tensor:
        """Shift each image by up to MAX_SHIFT pixels either way."""
        return shift(inputs, MAX_SHIFT, random)


class FullAlexNet(ExportRecipe[UntrainedConfig]):
    """AlexNet of the paper's size with fresh weights: `build/alexnet_224/model.onnx`, to be analysed."""

    stages = "untrained-"

    def export(self, files: BuildFiles) -> str:
        """Write `model.onnx`, with a dynamic batch dimension."""
        make_deterministic(self.config.seed, threads=1)
        network = WithProbabilities(full_alexnet()).eval()
        images = torch.rand(2, 3, FULL_SIDE, FULL_SIDE)
        content = export_onnx(
            network,
            (images,),
            inputs=["image"],
            outputs=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            config=self.config.export,
        )
        batches = [{"image": images[:size].numpy()} for size in (1, 2)]
        distance = parity(network, open_session(content), batches, self.config.export.parity_atol)
        write_file(files.onnx, content)
        return f"{len(content) >> 20} MiB with fresh weights, within {distance:.1e} of PyTorch"


def _enlarged(images: Floats) -> Floats:
    """float32 `[n, 1, 28, 28]` to `[n, 3, 32, 32]`, bicubic."""
    pixels = np.rint(images[:, 0] * 255).astype(np.uint8)
    resized = [Image.fromarray(one).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for one in pixels]
    grey = np.stack([np.asarray(image) for image in resized])[:, np.newaxis] / np.float32(255)
    return np.repeat(grey.astype(np.float32), 3, axis=1)
