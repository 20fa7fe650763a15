"""Where the stages leave what they make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# What the gate stages: served folders by the stage that writes them, and those that are served with any variants.
STAGED_INDEX, STAGED_BASE = "index.json", "base"


@dataclass(frozen=True)
class BuildFiles:
    """Files of one model between the stages (`build/<model>/`) and at their end (`model_repository/`)."""

    workspace: Path
    model: str

    @property
    def folder(self) -> Path:
        """Intermediate files."""
        return self.workspace / "build" / self.model

    @property
    def sources(self) -> Path:
        """Hashes of what the model is made of and `dvc.yaml` does not name (JSON)."""
        return self.folder / "files.json"

    @property
    def data(self) -> Path:
        """The divided data set (NumPy archive)."""
        return self.folder / "data.npz"

    @property
    def corpus(self) -> Path:
        """Folder of texts and of the tokenizers made of them, where the data is text."""
        return self.folder / "corpus"

    @property
    def samples(self) -> Path:
        """Folder of held-out examples that a person can open."""
        return self.folder / "samples"

    @property
    def weights(self) -> Path:
        """The trained weights (safetensors)."""
        return self.folder / "weights.safetensors"

    @property
    def pretrained(self) -> Path:
        """Folder with the configuration and the tokenizer of pretrained weights."""
        return self.folder / "pretrained"

    @property
    def training(self) -> Path:
        """What the training found: best epoch, parameter count, curves (JSON)."""
        return self.folder / "training.json"

    @property
    def onnx(self) -> Path:
        """The exported graph."""
        return self.folder / "model.onnx"

    @property
    def graphs(self) -> Path:
        """Folder of the exported graphs and their tokenizers, where there are several."""
        return self.folder / "graphs"

    @property
    def variants(self) -> Path:
        """Folder of the graphs in other precisions: one folder for each."""
        return self.folder / "variants"

    @property
    def staged(self) -> Path:
        """Folder of what passed the gate, as model_repository/ will hold it."""
        return self.folder / "staged"

    @property
    def metrics(self) -> Path:
        """What was measured on the held-out part (JSON)."""
        return self.folder / "metrics.json"

    @property
    def predictions(self) -> Path:
        """The answer to each held-out example (CSV)."""
        return self.folder / "predictions.csv"

    @property
    def repository(self) -> Path:
        """Triton's model repository."""
        return self.workspace / "model_repository"
