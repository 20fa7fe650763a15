"""Arrays as tritonclient sends and gives them, the same over HTTP and gRPC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from tritonclient.utils import triton_to_np_dtype

from slipway_client._errors import ServerError
from slipway_client._types import Array, ModelSpec


def as_sent(triton: ModuleType, spec: ModelSpec, inputs: Mapping[str, Array]) -> list[Any]:
    """The inputs as `triton.InferInput`, of `tritonclient.http` or `tritonclient.grpc`."""
    datatypes = {tensor.name: tensor.datatype for tensor in spec.inputs}
    found = []
    for name, array in inputs.items():
        tensor = triton.InferInput(name, list(array.shape), datatypes[name])
        # NumPy has no BF16: which dtype stands for it depends on tritonclient's version.
        tensor.set_data_from_numpy(array.astype(triton_to_np_dtype("BF16")) if datatypes[name] == "BF16" else array)
        found.append(tensor)
    return found


def as_got(answer: Any, spec: ModelSpec, outputs: Sequence[str], url: str) -> dict[str, Array]:
    """The outputs of tritonclient's answer by name, whatever their order in it.

    Raises:
        ServerError: an output is not in the answer.
    """
    found = {name: answer.as_numpy(name) for name in outputs}
    if missing := [name for name, array in found.items() if array is None]:
        raise ServerError(f"{url}: model '{spec.name}' left out {missing} of its outputs")
    floats = {tensor.name for tensor in spec.outputs if tensor.datatype == "BF16"}
    return {name: array.astype(np.float32) if name in floats else array for name, array in found.items()}
