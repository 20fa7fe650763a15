"""What determines a plan, and its key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_build._errors import ConfigurationError
from model_build.engine.shapes import Shapes, find_shapes
from model_build.engine.source import Source

DEFAULT_LEVEL = 3  # TensorRT's own


@dataclass(frozen=True)
class Spec:
    """What TensorRT is asked to build.

    Attributes:
        source: the typed graph.
        shapes: for which it is built.
        level: how long the builder looks for faster kernels, 0 to 5.
        memory_mib: of the GPU, that a layer may use; None: all of it.
    """

    source: Source
    shapes: Shapes
    level: int = DEFAULT_LEVEL
    memory_mib: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.level <= 5:
            raise ConfigurationError(f"--level is {self.level}: expected 0 (quick to build) to 5 (looks longest)")
        if self.memory_mib is not None and self.memory_mib < 1:
            raise ConfigurationError(f"--memory is {self.memory_mib}: expected MiB, 1 or more")

    @classmethod
    def of(
        cls, source: Source, shapes: Sequence[str] = (), level: int = DEFAULT_LEVEL, memory_mib: int | None = None
    ) -> Spec:
        """The same with shapes as the command line gives them: `NAME=MIN:OPT:MAX`."""
        return cls(source, find_shapes(source.load(), source.config, shapes), level, memory_mib)

    def identity(self, capability: str, tensorrt: str) -> dict[str, Any]:
        """Everything that makes another plan: of another GPU architecture or TensorRT this one could not be opened."""
        return {
            "onnx_sha256": self.source.sha256,
            "compute_capability": capability,
            "tensorrt": tensorrt,
            "shapes": self.shapes.to_json(),
            "level": self.level,
            "memory_mib": self.memory_mib,
        }

    def key(self, capability: str, tensorrt: str) -> str:
        """Name of the plan's folder: `sm90-trt11.1.0.106-` and the beginning of the identity's hash."""
        content = json.dumps(self.identity(capability, tensorrt), sort_keys=True).encode()
        return f"{prefix(capability, tensorrt)}-{hashlib.sha256(content).hexdigest()[:12]}"


def prefix(capability: str, tensorrt: str) -> str:
    """What plans of one kind of GPU and one TensorRT have in common; their timing cache too."""
    return f"sm{capability.replace('.', '')}-trt{tensorrt}"


@dataclass(frozen=True)
class Files:
    """What is beside a plan, and the plan."""

    folder: Path

    @property
    def plan(self) -> Path:
        """The plan."""
        return self.folder / "model.plan"

    @property
    def layers(self) -> Path:
        """TensorRT's layer information (JSON)."""
        return self.folder / "layers.json"

    @property
    def profile(self) -> Path:
        """Time of each layer, as trtexec writes it (JSON)."""
        return self.folder / "profile.json"

    @property
    def times(self) -> Path:
        """Time of each inference, as trtexec writes it (JSON)."""
        return self.folder / "times.json"

    @property
    def log(self) -> Path:
        """What TensorRT said."""
        return self.folder / "build.log"

    @property
    def timing_cache(self) -> Path:
        """The timing cache while a plan is built."""
        return self.folder / "timing.cache"

    @property
    def record(self) -> Path:
        """What was built of what (JSON); written last."""
        return self.folder / "engine.json"
