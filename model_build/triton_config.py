"""config.pbtxt, written through Triton's own messages (model_config.proto of triton-inference-server/common)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnxruntime as ort
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from model_build._errors import ExportError
from model_build.config import ModelConfig

LABELS_FILE = "labels.txt"

# ONNX Runtime's names of tensor types in Triton's (DataType).
_TYPES = {
    "tensor(bool)": pb.TYPE_BOOL,
    "tensor(uint8)": pb.TYPE_UINT8,
    "tensor(int8)": pb.TYPE_INT8,
    "tensor(int32)": pb.TYPE_INT32,
    "tensor(int64)": pb.TYPE_INT64,
    "tensor(float16)": pb.TYPE_FP16,
    "tensor(float)": pb.TYPE_FP32,
    "tensor(double)": pb.TYPE_FP64,
    "tensor(string)": pb.TYPE_STRING,
}


def gpu_config(config: ModelConfig, session: ort.InferenceSession) -> bytes:
    """config.pbtxt: NVIDIA's onnxruntime backend on a GPU."""
    message = _common(config, session)
    message.instance_group.add(kind=pb.ModelInstanceGroup.KIND_GPU, count=config.triton.gpu_instances)
    return _text(message, config)


def cpu_config(config: ModelConfig, session: ort.InferenceSession) -> bytes:
    """configs/cpu.pbtxt, which `--model-config-name=cpu` takes instead."""
    message = _common(config, session)
    message.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=config.triton.cpu_instances)
    message.parameters["intra_op_thread_count"].string_value = str(config.triton.cpu_threads)
    return _text(message, config)


def _common(config: ModelConfig, session: ort.InferenceSession) -> Any:
    message = pb.ModelConfig(name=config.name, backend="onnxruntime", max_batch_size=config.triton.max_batch_size)
    for node in session.get_inputs():
        message.input.add(name=node.name, data_type=_type(node), dims=_dims(node))
    for node in session.get_outputs():
        message.output.add(name=node.name, data_type=_type(node), dims=_dims(node), label_filename=LABELS_FILE)
    message.dynamic_batching.max_queue_delay_microseconds = config.triton.max_queue_delay_us
    return message


def _type(node: Any) -> int:
    if node.type not in _TYPES:
        raise ExportError(
            f"tensor '{node.name}' has type {node.type}, which Triton cannot serve: export {sorted(_TYPES)}"
        )
    return int(_TYPES[node.type])


def _dims(node: Any) -> Iterable[int]:
    """Shape without the batch dimension, -1 where it is dynamic."""
    return [size if isinstance(size, int) else -1 for size in node.shape[1:]]


def _text(message: Any, config: ModelConfig) -> bytes:
    head = (
        f"# Written by `slipway build {config.name}` from model_build/conf/{config.name}.yaml: change it there.\n"
        "# proto-file: model_config.proto\n# proto-message: inference.ModelConfig\n\n"
    )
    return (head + text_format.MessageToString(message, use_short_repeated_primitives=True)).encode()
