"""Triton's `onnxruntime` backend, in Python: what NVIDIA's container does in C++ where no such container can run.

Triton starts this file for each model whose `config.pbtxt` says `backend: "onnxruntime"` (a "Python-based backend"),
so one model repository serves unchanged on both. One process per instance; the whole batch that Triton's scheduler
formed is one run of ONNX Runtime.

Understood of config.pbtxt: `input`, `output` (completed from the graph when absent), `max_batch_size`,
`default_model_filename`, `optimization.graph.level`, and the parameters `intra_op_thread_count` and
`inter_op_thread_count` (0 or absent: ONNX Runtime's default, all cores for each instance), as in
https://github.com/triton-inference-server/onnxruntime_backend. Runs on the CPU only.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

Array = npt.NDArray[Any]
Config = dict[str, Any]

# ONNX Runtime's type names (`NodeArg.type`) in Triton's (model_config.proto, DataType).
TRITON_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}

# `optimization.graph.level` as NVIDIA's backend reads it.
GRAPH_LEVELS = {
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}

# What NVIDIA's backend takes when the graph can batch and the configuration does not say how far.
DEFAULT_MAX_BATCH_SIZE = 4


class TritonPythonModel:
    """One instance of one model: an ONNX Runtime session and the names of its tensors."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Fill `input`, `output` and `max_batch_size` from the graph where config.pbtxt leaves them out."""
        config = auto_complete_model_config.as_dict()
        session = _session(_model_path(config, Path(pb_utils.get_model_dir())), config)
        batches = _can_batch(session)
        if batches and config["max_batch_size"] == 0 and not config["input"]:
            auto_complete_model_config.set_max_batch_size(DEFAULT_MAX_BATCH_SIZE)
            auto_complete_model_config.set_dynamic_batching()
        has_batch_dimension = auto_complete_model_config.as_dict()["max_batch_size"] > 0
        if not config["input"]:
            for node in session.get_inputs():
                auto_complete_model_config.add_input(_tensor_config(node, has_batch_dimension))
        if not config["output"]:
            for node in session.get_outputs():
                auto_complete_model_config.add_output(_tensor_config(node, has_batch_dimension))
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        """Open the session; refuse a configuration that does not describe this graph."""
        config = json.loads(args["model_config"])
        if args["model_instance_kind"] == "GPU":
            raise pb_utils.TritonModelException(
                "this onnxruntime backend runs on the CPU only, and the instance group asks for KIND_GPU: "
                "add configs/cpu.pbtxt to the model and start Triton with --model-config-name=cpu"
            )
        path = _model_path(config, Path(args["model_repository"]) / args["model_version"])
        self._session = _session(path, config)
        _check_tensors("input", config["input"], self._session.get_inputs())
        _check_tensors("output", config["output"], self._session.get_outputs())
        self._inputs = [node.name for node in self._session.get_inputs()]
        self._outputs = [node.name for node in self._session.get_outputs()]
        self._strings = {n.name for n in self._session.get_inputs() if n.type == "tensor(string)"}
        self._batches = config["max_batch_size"] > 0

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request; `[b_i, ...]` inputs are joined along the batch dimension for one run."""
        if self._batches and len(requests) > 1:
            with contextlib.suppress(Exception):  # whatever one request did wrong, its neighbours get their answers
                return self._answer_together(requests)
        return [self._answer_alone(request) for request in requests]

    def _answer_together(self, requests: Sequence[Any]) -> list[Any]:
        feeds = [self._feed(request) for request in requests]
        joined = {name: np.concatenate([feed[name] for feed in feeds]) for name in self._inputs}
        names = [request.requested_output_names() for request in requests]
        wanted = sorted(set().union(*names))
        arrays = dict(zip(wanted, self._session.run(wanted, joined), strict=True))
        total = len(joined[self._inputs[0]])
        if any(len(array) != total for array in arrays.values()):
            raise ValueError("an output's first dimension is not the batch: each request must run alone")
        responses, start = [], 0
        for feed, asked in zip(feeds, names, strict=True):
            stop = start + len(feed[self._inputs[0]])
            responses.append(_response((name, arrays[name][start:stop]) for name in asked))
            start = stop
        return responses

    def _answer_alone(self, request: Any) -> Any:
        try:
            asked = request.requested_output_names()
            arrays = self._session.run(asked, self._feed(request))
            return _response(zip(asked, arrays, strict=True))
        except Exception as error:  # noqa: BLE001 - the client gets ONNX Runtime's reason, the server lives
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))

    def _feed(self, request: Any) -> dict[str, Array]:
        feed = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        for name in self._strings:
            feed[name] = _text(name, feed[name])
        return feed


def _response(outputs: Any) -> Any:
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, _bytes(array)) for name, array in outputs])


def _bytes(array: Array) -> Array:
    """Triton's BYTES tensors are object arrays of `bytes`; ONNX Runtime returns object arrays of `str`."""
    if array.dtype != np.object_:
        return array
    return _each(array, lambda value: value.encode() if isinstance(value, str) else value)


def _text(name: str, array: Array) -> Array:
    try:
        return _each(array, lambda value: value.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"input '{name}': BYTES elements must be UTF-8 text: {error}") from error


def _each(array: Array, function: Callable[[Any], Any]) -> Array:
    return np.array([function(value) for value in array.ravel()], dtype=np.object_).reshape(array.shape)


def _model_path(config: Config, version_directory: Path) -> Path:
    return version_directory / (config.get("default_model_filename") or "model.onnx")


def _session(path: Path, config: Config) -> ort.InferenceSession:
    if not path.is_file():
        raise pb_utils.TritonModelException(f"no such file: {path}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = _count(config, "intra_op_thread_count")
    options.inter_op_num_threads = _count(config, "inter_op_thread_count")
    level = int(config.get("optimization", {}).get("graph", {}).get("level", 0))
    if level not in GRAPH_LEVELS:
        raise pb_utils.TritonModelException(f"optimization.graph.level is {level}: expected one of {[*GRAPH_LEVELS]}")
    options.graph_optimization_level = GRAPH_LEVELS[level]
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise pb_utils.TritonModelException(f"ONNX Runtime {ort.__version__} cannot open {path}: {error}") from error


def _count(config: Config, parameter: str) -> int:
    value = config.get("parameters", {}).get(parameter, {}).get("string_value", "0")
    if not value.isdecimal():
        raise pb_utils.TritonModelException(f"parameter {parameter} is '{value}': expected a whole number, 0 or more")
    return int(value)


def _can_batch(session: ort.InferenceSession) -> bool:
    """Every tensor's first dimension is dynamic."""
    nodes = [*session.get_inputs(), *session.get_outputs()]
    return all(node.shape and not isinstance(node.shape[0], int) for node in nodes)


def _tensor_config(node: Any, has_batch_dimension: bool) -> Config:
    dims = [size if isinstance(size, int) else -1 for size in node.shape]
    return {
        "name": node.name,
        "data_type": TRITON_TYPES[node.type],
        "dims": dims[1:] if has_batch_dimension else dims,
    }


def _check_tensors(kind: str, configured: Sequence[Config], nodes: Sequence[Any]) -> None:
    types = {node.name: TRITON_TYPES.get(node.type, node.type) for node in nodes}
    for tensor in configured:
        name, data_type = tensor["name"], tensor["data_type"]
        if name not in types:
            raise pb_utils.TritonModelException(
                f"config.pbtxt names {kind} '{name}', which the graph does not have: it has {sorted(types)}"
            )
        if types[name] != data_type:
            raise pb_utils.TritonModelException(
                f"{kind} '{name}' is {types[name]} in the graph and {data_type} in config.pbtxt: they must agree"
            )
    missing = sorted(set(types) - {tensor["name"] for tensor in configured})
    if kind == "input" and missing:
        raise pb_utils.TritonModelException(f"config.pbtxt does not name the graph's inputs {missing}: add them")
