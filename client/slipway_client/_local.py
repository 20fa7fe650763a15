"""The same ONNX files in this process, without a server: `local:` and the path of a model repository."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from slipway_client._errors import ModelNotFound, ServerError, TritonError
from slipway_client._types import Array, ModelSpec, TensorSpec


class LocalTransport:
    """ONNX Runtime sessions on the files of `repository`, opened when first asked."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._sessions: dict[tuple[str, str], Any] = {}

    def server_ready(self, timeout: float) -> bool:
        """Whether the repository is there."""
        return self._repository.is_dir()

    def model_ready(self, model: str, version: str, timeout: float) -> bool:
        """Whether the model's file is there."""
        try:
            self._file(model, version)
        except TritonError:
            return False
        return True

    def spec(self, model: str, version: str, timeout: float) -> ModelSpec:
        """What config.pbtxt says, with the batch dimension that Triton's metadata would show."""
        config = self._config(model)
        batch = (-1,) if config.max_batch_size > 0 else ()

        def tensors(entries: Any) -> tuple[TensorSpec, ...]:
            names = {entry.name: pb.DataType.Name(entry.data_type).removeprefix("TYPE_") for entry in entries}
            return tuple(
                TensorSpec(e.name, "BYTES" if names[e.name] == "STRING" else names[e.name], (*batch, *e.dims))
                for e in entries
            )

        return ModelSpec(
            name=model,
            version=self._file(model, version).parent.name,
            inputs=tensors(config.input),
            outputs=tensors(config.output),
            max_batch_size=config.max_batch_size,
        )

    def infer(
        self, spec: ModelSpec, version: str, inputs: Mapping[str, Array], outputs: Sequence[str], timeout: float
    ) -> tuple[Mapping[str, Array], str]:
        """Run the graph."""
        session = self._session(self._file(spec.name, version))
        try:
            arrays = session.run(list(outputs), {name: _texts(array) for name, array in inputs.items()})
        except Exception as error:
            raise ServerError(f"ONNX Runtime cannot run model '{spec.name}': {error}") from error
        return dict(zip(outputs, map(_bytes, arrays), strict=True)), spec.version

    def close(self) -> None:
        """Forget the sessions."""
        self._sessions.clear()

    def _config(self, model: str) -> Any:
        path = self._repository / model / "config.pbtxt"
        if not path.is_file():
            have = sorted(p.parent.name for p in self._repository.glob("*/config.pbtxt"))
            raise ModelNotFound(f"no model '{model}' in {self._repository}: it has {have}")
        try:
            return text_format.Parse(path.read_text(), pb.ModelConfig())
        except text_format.ParseError as error:
            raise TritonError(f"{path} is no Triton configuration: {error}") from error

    def _file(self, model: str, version: str) -> Path:
        config = self._config(model)
        if config.backend != "onnxruntime":
            raise TritonError(f"model '{model}' has backend '{config.backend}': only onnxruntime runs without a server")
        folder = self._repository / model
        versions = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
        chosen = version or (str(max(versions)) if versions else "1")
        path = folder / chosen / (config.default_model_filename or "model.onnx")
        if not path.is_file():
            raise ModelNotFound(f"model '{model}' has no file {path}: run `slipway build {model}`, or `dvc pull`")
        return path

    def _session(self, path: Path) -> Any:
        import onnxruntime

        key = (path.parent.parent.name, path.parent.name)
        if key not in self._sessions:
            try:
                self._sessions[key] = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            except Exception as error:
                raise ServerError(f"ONNX Runtime cannot open {path}: {error}") from error
        return self._sessions[key]


def _texts(array: Array) -> Array:
    """ONNX Runtime takes text as `str`; BYTES may hold `bytes`, as a server takes them."""
    if array.dtype != np.object_:
        return array
    values = [value.decode() if isinstance(value, bytes) else str(value) for value in array.ravel()]
    return np.array(values, dtype=np.object_).reshape(array.shape)


def _bytes(array: Any) -> Array:
    """ONNX Runtime gives text as `str`; a server's BYTES are `bytes`."""
    found: Array = np.asarray(array)
    if found.dtype.kind not in "OU":
        return found
    return np.array([str(value).encode() for value in found.ravel()], dtype=np.object_).reshape(found.shape)
