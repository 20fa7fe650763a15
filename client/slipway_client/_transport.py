"""The seam between `Client` and what carries its requests: tests and `local:` put their own transport here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from slipway_client._types import Array, ModelSpec


class Transport(Protocol):
    """Carries requests to models. Every failure is raised as a TritonError."""

    def server_ready(self, timeout: float) -> bool:
        """Whether a server answers and is ready."""
        ...

    def model_ready(self, model: str, version: str, timeout: float) -> bool:
        """Whether the model is loaded; an empty version means the newest."""
        ...

    def spec(self, model: str, version: str, timeout: float) -> ModelSpec:
        """What the model takes and gives."""
        ...

    def infer(
        self,
        spec: ModelSpec,
        version: str,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        timeout: float,
    ) -> tuple[Mapping[str, Array], str]:
        """Send checked inputs; return the outputs and the version that answered. Seconds for `timeout`."""
        ...

    def close(self) -> None:
        """Give connections back."""
        ...
