"""Triton's `onnxruntime` backend, in Python: what NVIDIA's container does in C++ where no such container can run.

Triton starts this file for each model whose `config.pbtxt` says `backend: "onnxruntime"` (a "Python-based backend"),
so one model repository serves unchanged on both. One process per instance; the whole batch that Triton's scheduler
formed is one run of ONNX Runtime where the graph keeps the rows of a batch apart, else one run for each request.

What it takes over from NVIDIA's, feature by feature: docs/backend.md. Runs on the CPU only.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import _onnx
import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils
from batch_rows import examine, read_graph
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]


class TritonPythonModel:
    """One instance of one model."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Fill `input`, `output` and `max_batch_size` from the graph where config.pbtxt leaves them out."""
        config = auto_complete_model_config.as_dict()
        with _refusals():
            path = _onnx.model_path(config, _version_directory(config))
            session = _onnx.open_session(path, config)
            _onnx.complete(config, session.get_inputs(), session.get_outputs())
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph; refuse a configuration that does not describe it."""
        if args["model_instance_kind"] == "GPU":
            raise pb_utils.TritonModelException(
                "this onnxruntime backend runs on the CPU only, and the instance group asks for KIND_GPU: "
                "add configs/cpu.pbtxt to the model and start Triton with --model-config-name=cpu"
            )
        with _refusals():
            config = json.loads(args["model_config"])
            self._graph = _onnx.OnnxGraph(config, Path(args["model_repository"]) / args["model_version"])
        self._joins = self._graph.batches and _keeps_rows_apart(self._graph)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request; `[b_i, ...]` inputs are joined along the batch dimension for one run."""
        if self._joins and len(requests) > 1:
            with contextlib.suppress(Exception):  # whatever one request did wrong, its neighbours get their answers
                return self._answer_together(requests)
        return [self._answer_alone(request) for request in requests]

    def _answer_together(self, requests: Sequence[Any]) -> list[Any]:
        feeds = [self._feed(request) for request in requests]
        names = [self._wanted(request) for request in requests]
        joined = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
        arrays = self._graph.run(
            [name for name in self._graph.outputs if any(name in wanted for wanted in names)], joined
        )
        if any(len(array) != _batch(joined) for array in arrays.values()):
            raise ValueError("an output's first dimension is not the batch: each request must run alone")
        responses, start = [], 0
        for feed, wanted in zip(feeds, names, strict=True):
            stop = start + _batch(feed)
            responses.append(self._response({name: arrays[name][start:stop] for name in wanted}))
            start = stop
        return responses

    def _answer_alone(self, request: Any) -> Any:
        try:
            feed = self._feed(request)
            arrays = self._graph.run(self._wanted(request), feed)
            self._check_batch(feed, arrays)
            return self._response(arrays)
        except (InvalidArgument, _onnx.WrongInput) as error:
            return _error(error, pb_utils.TritonError.INVALID_ARG)
        except Exception as error:  # noqa: BLE001 - the client gets ONNX Runtime's reason, the server lives
            return _error(error, pb_utils.TritonError.INTERNAL)

    def _check_batch(self, feed: Arrays, arrays: Arrays) -> None:
        for name, array in arrays.items():
            if self._graph.batches and array.shape[:1] != (_batch(feed),):
                raise ValueError(
                    f"output '{name}' has the shape {list(array.shape)} for a batch of {_batch(feed)}: the graph does "
                    "not answer row by row: set max_batch_size: 0 in config.pbtxt"
                )

    def _wanted(self, request: Any) -> list[str]:
        """The outputs that the request asks for, in the configuration's order (Triton gives a set)."""
        asked = set(request.requested_output_names())
        return [name for name in self._graph.outputs if name in asked]

    def _feed(self, request: Any) -> dict[str, Array]:
        bits = self._graph.is_bfloat16
        return {one.name(): _onnx.read_bits(one) if bits(one.name()) else one.as_numpy() for one in request.inputs()}

    def _response(self, arrays: Arrays) -> Any:
        tensors = [
            pb_utils.Tensor.from_dlpack(name, _onnx.to_ort_value(array))
            if self._graph.is_bfloat16(name)
            else pb_utils.Tensor(name, array)
            for name, array in arrays.items()
        ]
        return pb_utils.InferenceResponse(tensors)


def _version_directory(config: _onnx.Config) -> Path:
    """The version's folder: Triton names the one that the model's file is in, which may be below."""
    folders = len(Path(config.get("default_model_filename", "")).parts) - 1
    directory = Path(pb_utils.get_model_dir())
    return directory.parents[folders - 1] if folders > 0 else directory


def _keeps_rows_apart(graph: _onnx.OnnxGraph) -> bool:
    verdict = examine(read_graph(graph.path), graph.outputs)
    if not verdict:
        sure = "mixes the rows of a batch" if verdict.known else "may mix the rows of a batch"
        pb_utils.Logger.log_warn(
            f"model '{graph.config['name']}' {sure} ({verdict.reason}): each request is run alone here; NVIDIA's "
            "backend joins requests all the same, and gives one client rows of another's answer if it does: set "
            "max_batch_size: 0"
        )
    return bool(verdict)


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Refusals as Triton reports them."""
    try:
        yield
    except _onnx.Refused as error:
        raise pb_utils.TritonModelException(str(error)) from None


def _error(error: Exception, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), code))


def _batch(arrays: Arrays) -> int:
    return len(next(iter(arrays.values())))
