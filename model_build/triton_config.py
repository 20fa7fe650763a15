"""config.pbtxt, written through Triton's own messages (model_config.proto of triton-inference-server/common)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import onnx
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.utils import np_to_triton_dtype

from model_build._errors import ConfigurationError, ExportError
from model_build.batching import why_alone
from model_build.config import ServedConfig, TritonConfig
from model_build.engine.shapes import WHICH, find_shapes
from model_build.onnx_export import open_session
from model_build.precision.variants import CPU, GPU, Graph, file_names, tensorrt_name
from model_build.recipe import ServedModel

LABELS_FILE = "labels.txt"
GRAPH_FILE = "model.onnx"  # Triton's own name for it
ONNX_RUNTIME = "onnxruntime"
# The one folder that the chart's pods may write to; it is the pod's own, and is there before the server is.
ENGINE_CACHE = "/tmp"  # noqa: S108
# Triton takes no model without a version folder, and neither git nor DVC keeps an empty one.
ENSEMBLE_FILE = {
    "1/ensemble.txt": b"An ensemble has no file of its own; Triton asks for a version folder all the same.\n"
}

Array = npt.NDArray[Any]

# ONNX Runtime's names of tensor types in Triton's (DataType).
_TYPES = {
    "tensor(bool)": pb.TYPE_BOOL,
    "tensor(uint8)": pb.TYPE_UINT8,
    "tensor(uint16)": pb.TYPE_UINT16,
    "tensor(uint32)": pb.TYPE_UINT32,
    "tensor(uint64)": pb.TYPE_UINT64,
    "tensor(int8)": pb.TYPE_INT8,
    "tensor(int16)": pb.TYPE_INT16,
    "tensor(int32)": pb.TYPE_INT32,
    "tensor(int64)": pb.TYPE_INT64,
    "tensor(float16)": pb.TYPE_FP16,
    "tensor(bfloat16)": pb.TYPE_BF16,
    "tensor(float)": pb.TYPE_FP32,
    "tensor(double)": pb.TYPE_FP64,
    "tensor(string)": pb.TYPE_STRING,
}


def graph_model(
    name: str,
    graph: Graph | bytes,
    config: TritonConfig,
    *,
    files: Mapping[str, bytes],
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    trial: Mapping[str, Array] | None = None,
) -> ServedModel:
    """One ONNX file behind the onnxruntime backend: NVIDIA's on a GPU, on a CPU with threads of its own.

    A graph whose rows do not stay apart gets `max_batch_size: 0`, and the file says why.

    Args:
        name: of the model.
        graph: the ONNX file; a GPU gets the form for TensorRT where there is one.
        config: batching, instances, threads.
        files: further files of the folder; labels.txt names the classes of every output.
        inputs: golden request.
        outputs: its answer.
        trial: inputs of a few examples, which are tried alone and together; the golden request's unless given.
    """
    graph = Graph(graph, graph) if isinstance(graph, bytes) else graph
    session = open_session(graph.cpu)
    names = [node.name for node in session.get_outputs()]
    reasons = [why_alone(content, names, trial or inputs) for content in {graph.cpu, graph.gpu}]
    alone = next((reason for reason in reasons if reason), "")
    gpu, cpu = (pb.ModelConfig(name=name, backend=ONNX_RUNTIME) for _ in range(2))
    for message in (gpu, cpu):
        for node in session.get_inputs():
            _add(message.input, node, alone)
        for node in session.get_outputs():
            _add(message.output, node, alone, label_filename=LABELS_FILE if LABELS_FILE in files else "")
        if not alone:
            _batching(message, config)
    gpu.instance_group.add(kind=pb.ModelInstanceGroup.KIND_GPU, count=config.gpu_instances)
    cpu.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=config.cpu_instances)
    cpu.parameters["intra_op_thread_count"].string_value = str(config.cpu_threads)
    contents = file_names(GRAPH_FILE, graph)
    if len(contents) > 1:
        gpu.default_model_filename = tensorrt_name(GRAPH_FILE)
    versioned = {f"1/{file}": content for file, content in contents.items()}
    note = f"max_batch_size is 0, each request runs alone: {alone}" if alone else ""
    return ServedModel(name, gpu, cpu, {**files, **versioned}, inputs, outputs, note=note)


def python_model(
    name: str,
    config: TritonConfig,
    *,
    files: Mapping[str, bytes],
    parameters: Mapping[str, object],
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    variable: Sequence[str] = (),
    decoupled: bool = False,
) -> ServedModel:
    """A `model.py` behind the Python backend, on the CPU of either server.

    Args:
        name: of the model.
        config: batching; instances and threads of a CPU.
        files: the folder's files, `1/model.py` among them.
        parameters: of config.pbtxt, beside `intra_op_thread_count`.
        inputs: golden request, arrays `[n, ...]`; they also give names, types and shapes of the tensors.
        outputs: its answer, in the same way.
        variable: tensors whose last dimension is dynamic.
        decoupled: several responses to a request.
    """
    message = pb.ModelConfig(name=name, backend="python")
    for tensors, arrays in ((message.input, inputs), (message.output, outputs)):
        for tensor, array in arrays.items():
            dims = [*array.shape[1:-1], -1] if tensor in variable else array.shape[1:]
            tensors.add(name=tensor, data_type=_array_type(array), dims=dims)
    _batching(message, config)
    message.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=config.cpu_instances)
    for key, value in {"intra_op_thread_count": config.cpu_threads, **parameters}.items():
        message.parameters[key].string_value = str(value)
    message.model_transaction_policy.decoupled = decoupled
    return ServedModel(name, message, message, files, inputs, outputs)


def ensemble(
    name: str,
    config: TritonConfig,
    steps: Sequence[tuple[ServedModel, Mapping[str, str], Mapping[str, str]]],
    files: Mapping[str, bytes],
) -> ServedModel:
    """Models that Triton runs one after the other.

    The ensemble's own input is the first step's, its output the last step's.

    Args:
        name: of the ensemble.
        config: its largest batch.
        steps: each model, with the ensemble's tensor by the name of the model's input, and of the model's output.
        files: of the folder: Triton takes no model without a version.
    """
    (first, first_inputs, _), (last, _, last_outputs) = steps[0], steps[-1]
    most = min(config.max_batch_size, *(model.cpu.max_batch_size for model, _, _ in steps))
    message = pb.ModelConfig(name=name, platform="ensemble", max_batch_size=most)
    for tensor in first.cpu.input:
        dims = _whole(first.cpu, tensor, most)
        message.input.add(name=first_inputs[tensor.name], data_type=tensor.data_type, dims=dims)
    for tensor in last.cpu.output:
        dims = _whole(last.cpu, tensor, most)
        message.output.add(name=last_outputs[tensor.name], data_type=tensor.data_type, dims=dims)
    for model, inputs, outputs in steps:
        step = message.ensemble_scheduling.step.add(model_name=model.name, model_version=-1)
        step.input_map.update(inputs)
        step.output_map.update(outputs)
    return ServedModel(
        name,
        message,
        message,
        files,
        {first_inputs[tensor]: array for tensor, array in first.inputs.items()},
        {last_outputs[tensor]: array for tensor, array in last.outputs.items()},
    )


def routed(
    name: str,
    config: TritonConfig,
    targets: Mapping[str, ServedModel],
    reference: ServedModel,
    files: Mapping[str, bytes],
) -> ServedModel:
    """The public name: on each target an ensemble whose one step is the variant that was chosen there.

    Args:
        name: of the model.
        config: its largest batch.
        targets: the chosen variant by target.
        reference: FP32, which gives the golden answer.
        files: further files of the folder.
    """
    steps = {}
    for target, model in targets.items():
        inputs = {tensor.name: tensor.name for tensor in model.cpu.input}
        outputs = {tensor.name: tensor.name for tensor in model.cpu.output}
        steps[target] = ensemble(name, config, [(model, inputs, outputs)], ENSEMBLE_FILE)
    contents = {**ENSEMBLE_FILE, **files}
    return ServedModel(name, steps[GPU].gpu, steps[CPU].cpu, contents, reference.inputs, reference.outputs)


def on_gpu(model: ServedModel, config: ServedConfig) -> Any:
    """The message of config.pbtxt: `model.gpu`, its graph computed by TensorRT where `triton.gpu_accelerator` says so.

    A model that ONNX Runtime does not serve is as it was. The parameters are those that src/onnxruntime.cc of
    triton-inference-server/onnxruntime_backend takes, without `precision_mode`: the precision is in the graph, and
    TensorRT 11 builds what the types of its tensors say.
    """
    if config.triton.gpu_accelerator == "none" or model.gpu.backend != ONNX_RUNTIME:
        return model.gpu
    graph = model.files[f"1/{model.gpu.default_model_filename or GRAPH_FILE}"]
    message = pb.ModelConfig()
    message.CopyFrom(model.gpu)
    accelerators = message.optimization.execution_accelerators
    accelerators.gpu_execution_accelerator.add(
        name=config.triton.gpu_accelerator,
        parameters={
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": ENGINE_CACHE,
            # ONNX Runtime names an engine by the graph's structure: with other weights it would take the old engine.
            "trt_engine_cache_prefix": f"{model.name}-{hashlib.sha256(graph).hexdigest()[:12]}",
            **_profile(onnx.load_from_string(graph), config),
        },
    )
    return message


def _profile(graph: onnx.ModelProto, config: ServedConfig) -> dict[str, str]:
    """Shapes that one engine is built for when the model is loaded.

    Empty where the graph leaves none open, or one that the configuration says nothing of: ONNX Runtime then builds an
    engine for what it is asked, and again whenever it is asked for something beyond.
    """
    try:
        shapes = find_shapes(graph, config)
    except ConfigurationError:
        return {}
    separators = set("".join(shapes.inputs)) & set(":,")  # ONNX Runtime, unlike trtexec, knows no quotes
    if not shapes.dynamic or separators:
        return {}
    return {f"trt_profile_{which}_shapes": shapes.argument(which) for which in WHICH}


def to_text(message: Any, model: str, note: str = "") -> bytes:
    """The message as a file that says who wrote it: the configuration of `model`, and a note on what it decided."""
    head = (
        f"# Written by `slipway build {model}` from model_build/conf/{model}.yaml: change it there.\n"
        "# proto-file: model_config.proto\n# proto-message: inference.ModelConfig\n\n"
    )
    head += f"# {' '.join(note.split())}\n" if note else ""
    return (head + text_format.MessageToString(message, use_short_repeated_primitives=True)).encode()


def _batching(message: Any, config: TritonConfig) -> None:
    message.max_batch_size = config.max_batch_size
    message.dynamic_batching.max_queue_delay_microseconds = config.max_queue_delay_us


def _array_type(array: Array) -> int:
    name = np_to_triton_dtype(array.dtype)
    return int(pb.DataType.Value("TYPE_STRING" if name == "BYTES" else f"TYPE_{name}"))


def _type(node: Any) -> int:
    if node.type not in _TYPES:
        raise ExportError(
            f"tensor '{node.name}' has type {node.type}, which Triton cannot serve: export {sorted(_TYPES)}"
        )
    return int(_TYPES[node.type])


def _add(tensors: Any, node: Any, alone: str, **more: Any) -> None:
    """Describe a tensor of the graph: without its first dimension, unless each request runs alone."""
    shape = [size if isinstance(size, int) else -1 for size in node.shape]
    dims = shape if alone else shape[1:]
    tensor = tensors.add(name=node.name, data_type=_type(node), dims=dims or [1], **more)
    if not dims and shape:  # one number for each row: Triton takes no tensor without dimensions
        tensor.reshape.SetInParent()


def _whole(step: Any, tensor: Any, most: int) -> list[int]:
    """A step's dimensions as those of an ensemble, which has no batch where another step has none."""
    return [-1, *tensor.dims] if step.max_batch_size and not most else [*tensor.dims]
