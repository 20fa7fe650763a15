"""A model repository in this process, without a server: `local:` and its path.

The repository's Python models are code, and `local:` runs it: with the rights of this process and what is installed
in its environment. Ask only repositories that you would start as a program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from slipway_client._errors import ServerError, TritonError
from slipway_client._local_ensemble import Ensemble, plan
from slipway_client._local_onnx import OnnxModel
from slipway_client._local_python import PythonModel
from slipway_client._local_repository import LocalModel, find_model
from slipway_client._types import DTYPES, Array, ModelSpec


class LoadedModel(Protocol):
    """A model that is open in this process."""

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str], timeout: float) -> Mapping[str, Array]:
        """Answer one request with the named outputs."""
        ...

    def close(self) -> None:
        """Give back what the model holds."""
        ...


class LocalTransport:
    """The models of `repository` (onnxruntime, python, ensemble), each opened when first asked."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._loaded: dict[tuple[str, str], LoadedModel] = {}

    def server_ready(self, timeout: float) -> bool:
        """Whether the repository is there."""
        return self._repository.is_dir()

    def model_ready(self, model: str, version: str, timeout: float) -> bool:
        """Whether the model's files are there, for an ensemble those of its steps too."""
        try:
            found = find_model(self._repository, model, version)
            if found.backend == "ensemble":
                plan(self._repository, found, self._spec)
        except TritonError:
            return False
        return True

    def spec(self, model: str, version: str, timeout: float) -> ModelSpec:
        """What config.pbtxt says, with the batch dimension that Triton's metadata would show."""
        return self._spec(find_model(self._repository, model, version))

    def infer(
        self, spec: ModelSpec, version: str, inputs: Mapping[str, Array], outputs: Sequence[str], timeout: float
    ) -> tuple[Mapping[str, Array], str]:
        """Run the model; the version that answers is the one that `spec` names."""
        found = find_model(self._repository, spec.name, version or spec.version)
        return self._open(found).run(inputs, outputs, timeout), found.version

    def close(self) -> None:
        """Finalize and forget the models."""
        while self._loaded:
            self._loaded.popitem()[1].close()

    def _open(self, model: LocalModel) -> LoadedModel:
        key = (model.name, model.version)
        if key not in self._loaded:
            if model.backend == "ensemble":
                self._loaded[key] = Ensemble(self._repository, model, self._spec, self._step)
            else:
                self._loaded[key] = PythonModel(model) if model.backend == "python" else OnnxModel(model)
        return self._loaded[key]

    def _spec(self, model: LocalModel) -> ModelSpec:
        """What the model takes and gives; an ONNX file fills in what its configuration leaves out."""
        loaded = self._open(model) if model.backend == "onnxruntime" else None
        return loaded.spec if isinstance(loaded, OnnxModel) else model.spec

    def _step(
        self, name: str, version: str, inputs: Mapping[str, Array], outputs: Sequence[str], timeout: float
    ) -> Mapping[str, Array]:
        """Ask a step of an ensemble, which must get exactly what it takes: a server casts nothing either."""
        model = find_model(self._repository, name, version)
        spec = self._spec(model)
        for tensor in spec.inputs:
            array = inputs[tensor.name]
            if array.dtype != DTYPES[tensor.datatype] or not tensor.fits(array.shape):
                raise ServerError(
                    f"model '{name}': input '{tensor.name}': expected {tensor}, got {array.dtype} {list(array.shape)}"
                )
            if 0 < spec.max_batch_size < len(array):
                raise ServerError(
                    f"model '{name}': expected a batch of at most {spec.max_batch_size}, got {len(array)}"
                )
        return self._open(model).run(inputs, outputs, timeout)
