"""A model that is one ONNX file, run by ONNX Runtime on the CPU of this machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from slipway_client._errors import ServerError, TritonError, one_line
from slipway_client._local_config import triton_json
from slipway_client._local_repository import LocalModel
from slipway_client._types import Array, ModelSpec, TensorSpec, bfloat16_bits, from_bfloat16


class OnnxModel:
    """The graph, opened and configured as a server's backend does it.

    Raises:
        TritonError: ONNX Runtime is not installed here.
        ServerError: a server would not load it.
    """

    def __init__(self, model: LocalModel) -> None:
        try:
            from slipway_client import _onnx
        except ModuleNotFoundError as error:
            raise TritonError(
                f"model '{model.name}' needs ONNX Runtime, which is not installed here: "
                "`pip install slipway-client[local]`"
            ) from error
        self._name = model.name
        config = triton_json(model)
        try:
            directory = model.folder / model.version
            session = _onnx.open_session(_onnx.model_path(config, directory), config)
            _onnx.complete(config, session.get_inputs(), session.get_outputs())
            self._graph = _onnx.OnnxGraph(config, directory, session)
        except _onnx.Refused as error:
            raise ServerError(f"model '{model.name}' did not load: {one_line(str(error))}") from error
        batch = (-1,) if self._graph.batches else ()
        self.spec = ModelSpec(
            name=model.name,
            version=model.version,
            inputs=tuple(_specs(config["input"], batch)),
            outputs=tuple(_specs(config["output"], batch)),
            max_batch_size=config["max_batch_size"],
        )
        self._dims = {tensor["name"]: tensor for tensor in (*config["input"], *config["output"])}

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str], timeout: float) -> dict[str, Array]:
        """Run the graph; ONNX Runtime knows no timeout."""
        try:
            answers = self._graph.run(list(outputs), {name: self._taken(name, one) for name, one in inputs.items()})
        except Exception as error:
            raise ServerError(f"ONNX Runtime cannot run model '{self._name}': {one_line(str(error))}") from error
        return {name: self._given(name, array) for name, array in answers.items()}

    def close(self) -> None:
        """Nothing to give back: the session goes with this object."""

    def _taken(self, name: str, array: Array) -> Array:
        bits = bfloat16_bits(array) if self._graph.is_bfloat16(name) else array
        return self._reshaped(name, bits, "reshape")

    def _given(self, name: str, array: Array) -> Array:
        return self._reshaped(name, from_bfloat16(array) if self._graph.is_bfloat16(name) else array, "dims")

    def _reshaped(self, name: str, array: Array, to: str) -> Array:
        """Between the shape that the client sees (`dims`) and the graph's (`reshape`), as Triton does it."""
        tensor = self._dims[name]
        if "reshape" not in tensor:
            return array
        batch = array.shape[:1] if self._graph.batches else ()
        shape: Any = tensor["reshape"].get("shape", []) if to == "reshape" else tensor["dims"]
        free = [int(size) for size in shape]
        if free.count(-1) > 1:  # free dimensions keep their order
            sizes = iter(
                size
                for size, said in zip(array.shape[len(batch) :], self._other(tensor, to), strict=True)
                if said == -1
            )
            free = [next(sizes) if size == -1 else size for size in free]
        return np.reshape(array, (*batch, *free))

    @staticmethod
    def _other(tensor: Mapping[str, Any], to: str) -> list[int]:
        shape = tensor["dims"] if to == "reshape" else tensor["reshape"].get("shape", [])
        return [int(size) for size in shape]


def _specs(tensors: Sequence[Mapping[str, Any]], batch: tuple[int, ...]) -> Iterable[TensorSpec]:
    for tensor in tensors:
        name = tensor["data_type"].removeprefix("TYPE_")
        dims = (int(size) for size in tensor["dims"])
        datatype = "BYTES" if name == "STRING" else name
        yield TensorSpec(tensor["name"], datatype, (*batch, *dims), bool(tensor.get("optional")))
