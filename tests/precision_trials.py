"""A small recipe that tests of precision try variants of."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import helper
from torch import nn

from model_build.config import ExamplesConfig, PrecisionConfig, SingleGraphConfig, VariantConfig, load_config
from model_build.dataset import Dataset
from model_build.onnx_export import open_session
from model_build.precision.trial import Trial
from model_build.precision.variants import FP16, INT8
from model_build.single_graph import SingleGraph
from model_build.stages.layout import BuildFiles
from tests.precision_graphs import EXPORT, exported, feeds, hand_made
from tests.support import ROOT

LINEAR = ("node_linear", "node_linear_1", "node_linear_2", "node_linear_3")
CLASSES = 4


class Chain(nn.Module):
    """Four products; where `hopeless`, the third is given a channel of 100,000 that it makes nothing of."""

    def __init__(self, hopeless: bool) -> None:
        super().__init__()
        products = [nn.Linear(8, size) for size in (8, 8, 8, CLASSES)]
        if hopeless:
            with torch.no_grad():
                products[1].bias[0] = 100_000
                products[2].weight[:, 0] = 0
        self.products = nn.ModuleList(products)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        for index, product in enumerate(self.products):
            inputs = product(torch.relu(inputs) if index else inputs)
        return inputs


class Probe(SingleGraph):
    """A recipe of a graph that a test puts in its place."""

    input_name, output_name = "x", "y"
    labels = tuple(f"class {index}" for index in range(CLASSES))

    def load_data(self) -> Dataset:
        raise NotImplementedError

    def network(self) -> nn.Module:
        raise NotImplementedError


def probe(folder: Path, content: bytes, *, calibrated: float = 1.0, **precision: Any) -> tuple[Probe, BuildFiles]:
    """The recipe and what the stages before have left: inputs `[64, 8]`, labelled as FP32 answers them."""
    config = load_config(ROOT, "digits")
    assert isinstance(config, SingleGraphConfig)
    recipe = "tests.precision_trials.Probe"
    options = PrecisionConfig(**{"variants": [FP16, INT8], **precision})
    config = replace(config, name="probe", recipe=recipe, export=EXPORT, data=ExamplesConfig(), precision=options)
    files = BuildFiles(folder, "probe")
    files.folder.mkdir(parents=True, exist_ok=True)
    files.onnx.write_bytes(content)
    validation, test = (np.concatenate([one["x"] for one in feeds(8, count=8, seed=seed)]) for seed in (1, 2))
    labels = open_session(content).run(["y"], {"x": test})[0].argmax(axis=1)
    calibration = validation * np.float32(calibrated)
    parts = (test, labels, calibration, labels, test, labels)
    files.data.write_bytes(Dataset(*parts, source="numbers", source_sha256="0").to_bytes())
    return Probe(config), files


@functools.cache
def chain(hopeless: bool = False) -> bytes:
    torch.manual_seed(4)
    return exported(Chain(hopeless), 8)


def trial(folder: Path, content: bytes, *, calibrated: float = 1.0, **precision: Any) -> Trial:
    return Trial(*probe(folder, content, calibrated=calibrated, **precision))


def strict(keep: Sequence[str] = (), automatic: bool = True) -> VariantConfig:
    return VariantConfig(max_abs=0.05, min_cosine=0.99, max_drop=0.1, keep_fp32=[*keep], automatic=automatic)


def fancy() -> bytes:
    return hand_made([helper.make_node("Fancy", ["x"], ["y"], domain="com.example", name="fancy")], {})
