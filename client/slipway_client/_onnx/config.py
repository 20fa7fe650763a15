"""What config.pbtxt means for a model that is one ONNX file: the file, ONNX Runtime's options, the tensors.

What is filled in and what is refused is what NVIDIA's backend fills in and refuses:
AutoCompleteConfig, ValidateInputs, ValidateOutputs and CompareDimsSupported of
https://github.com/triton-inference-server/onnxruntime_backend (src/onnxruntime.cc, src/onnxruntime_utils.cc).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

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
    "tensor(bfloat16)": "TYPE_BF16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}

# What Triton takes when the graph can batch and the configuration does not say how far.
DEFAULT_MAX_BATCH_SIZE = 4

CONTROLS = ("CONTROL_SEQUENCE_START", "CONTROL_SEQUENCE_END", "CONTROL_SEQUENCE_READY", "CONTROL_SEQUENCE_CORRID")

# `optimization.graph.level` as NVIDIA's backend reads it.
GRAPH_LEVELS = {
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
EXECUTION_MODES = {0: ort.ExecutionMode.ORT_SEQUENTIAL, 1: ort.ExecutionMode.ORT_PARALLEL}
SWITCHES = {"true": True, "1": True, "false": False, "0": False}
ALLOCATOR = "session.use_device_allocator_for_initializers"
SHRINKAGE = "memory.enable_memory_arena_shrinkage"


class Refused(Exception):
    """A configuration that does not fit its graph, or asks for what this backend does not have."""


def model_path(config: Config, version_directory: Path) -> Path:
    """The graph's file; a folder of that name holds it as `model.onnx`, its weights beside it.

    Raises:
        Refused: there is no such file.
    """
    path = version_directory / (config.get("default_model_filename") or "model.onnx")
    if path.is_dir():
        path /= "model.onnx"
    if not path.is_file():
        raise Refused(f"no such file: {path}")
    return path


def open_session(path: Path, config: Config) -> ort.InferenceSession:
    """Open the graph on the CPU.

    Raises:
        Refused: ONNX Runtime cannot, or an option has a value that it does not take.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = max(0, _number(config, "intra_op_thread_count"))  # 0: as ONNX Runtime likes
    options.inter_op_num_threads = max(0, _number(config, "inter_op_thread_count"))
    mode = _number(config, "execution_mode")
    if mode not in EXECUTION_MODES:
        raise Refused(f"parameter execution_mode is {mode}: expected 0 (in order) or 1 (branches at the same time)")
    options.execution_mode = EXECUTION_MODES[mode]
    level = int(config.get("optimization", {}).get("graph", {}).get("level", 0))
    if level not in GRAPH_LEVELS:
        raise Refused(f"optimization.graph.level is {level}: expected one of {[*GRAPH_LEVELS]}")
    options.graph_optimization_level = GRAPH_LEVELS[level]
    options.enable_cpu_mem_arena = _switch(config, "enable_mem_arena")
    options.enable_mem_pattern = _switch(config, "enable_mem_pattern")
    if allocator := _parameter(config, ALLOCATOR):
        options.add_session_config_entry(ALLOCATOR, allocator)
    _refuse_accelerators(config)
    try:
        for library in config.get("model_operations", {}).get("op_library_filename", ()):
            options.register_custom_ops_library(library)
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise Refused(f"ONNX Runtime {ort.__version__} cannot open {path}: {error}") from error


def run_options(config: Config) -> ort.RunOptions | None:
    """Options of each run, None where the configuration has none."""
    shrinkage = _parameter(config, SHRINKAGE)
    if not shrinkage:
        return None
    options = ort.RunOptions()
    options.add_run_config_entry(SHRINKAGE, shrinkage)
    return options


def _refuse_accelerators(config: Config) -> None:
    """Those of GPUs are for instances on GPUs, also in NVIDIA's backend."""
    accelerators = config.get("optimization", {}).get("execution_accelerators", {})
    for one in accelerators.get("cpu_execution_accelerator", ()):
        raise Refused(
            f"cpu_execution_accelerator '{one['name']}' is not in this backend: take it out, or serve with NVIDIA's "
            "image, which has openvino"
        )


def _parameter(config: Config, name: str) -> str:
    return str(config.get("parameters", {}).get(name, {}).get("string_value", ""))


def _number(config: Config, parameter: str) -> int:
    value = _parameter(config, parameter) or "0"
    if not re.fullmatch(r"\s*[+-]?[0-9]+", value) or not -(2**31) <= int(value) < 2**31:
        raise Refused(f"parameter {parameter} is '{value}': expected a whole number of 32 bits")
    return int(value)


def _switch(config: Config, parameter: str) -> bool:
    value = (_parameter(config, parameter) or "true").lower()
    if value not in SWITCHES:
        raise Refused(f"parameter {parameter} is '{value}': expected true or false")
    return SWITCHES[value]


def complete(config: Config, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    """Fill in `max_batch_size`, `dynamic_batching`, `input` and `output` where tensors are left out.

    Raises:
        Refused: the graph cannot batch, and `max_batch_size` asks for it.
    """
    if config["input"] and config["output"]:
        return
    if all(node.shape and not isinstance(node.shape[0], int) for node in (*inputs, *outputs)):
        config["max_batch_size"] = config["max_batch_size"] or DEFAULT_MAX_BATCH_SIZE
        if config["max_batch_size"] > 1 and "sequence_batching" not in config:
            config.setdefault("dynamic_batching", {})
    elif config["max_batch_size"]:
        raise Refused(
            f"max_batch_size is {config['max_batch_size']}, and not every tensor of the graph has a free first "
            "dimension: set max_batch_size: 0"
        )
    batched = config["max_batch_size"] > 0
    config["input"] = config["input"] or [_completed(node, batched) for node in inputs]
    config["output"] = config["output"] or [_completed(node, batched) for node in outputs]


def _completed(node: Any, batched: bool) -> Config:
    tensor: Config = {"name": node.name, "data_type": triton_type(node), "dims": _dims(node)[batched:]}
    if not tensor["dims"]:  # Triton takes no tensor without dimensions
        tensor["dims"] = [1]
        if batched:
            tensor["reshape"] = {"shape": []}
    return tensor


def triton_type(node: Any) -> str:
    """The node's type in Triton's terms.

    Raises:
        Refused: Triton has no such type.
    """
    if node.type in TRITON_TYPES:
        return TRITON_TYPES[node.type]
    remedy = "export it as a tensor of a type that Triton has"
    if node.type.startswith("seq(map"):
        remedy = "convert the model without ZipMap (skl2onnx: options={'zipmap': False})"
    raise Refused(f"tensor '{node.name}' has the type {node.type}, which Triton does not have: {remedy}")


def check(config: Config, inputs: Sequence[Any], initializers: Sequence[Any], outputs: Sequence[Any]) -> None:
    """Compare the configuration's tensors with the graph's: how many, names, types and shapes, the batch included.

    Args:
        config: the model's configuration as Triton's JSON.
        inputs: nodes of ONNX Runtime that a request must give.
        initializers: nodes that it may override.
        outputs: nodes that answer.

    Raises:
        Refused: they differ, or the configuration asks for what this backend does not have.
    """
    _refuse_what_is_not_here(config)
    for node in (*inputs, *outputs):
        triton_type(node)
    controls = _controls(config)
    known = {node.name: node for node in (*inputs, *initializers)}
    batched = config["max_batch_size"] > 0
    for tensor in config["input"]:
        node = _find("input", tensor, known)
        _check_optional(tensor, batched, {node.name for node in initializers})
        _compare("input", tensor, node, batched, exact=False)
    for name, data_type in controls.items():
        control = {"name": name, "data_type": data_type, "dims": [1]}
        node = _find("sequence control", control, {node.name: node for node in inputs})
        if not node.shape:
            raise Refused(f"sequence control '{name}' is a single number (rank 0) in the graph: it must have dims: [1]")
        _compare("sequence control", control, node, batched, exact=True)
    named = {tensor["name"] for tensor in config["input"]} | set(controls)
    if missing := [node.name for node in inputs if node.name not in named]:
        raise Refused(f"config.pbtxt does not name the graph's inputs {missing}: add them")
    given = {node.name: node for node in outputs}
    for tensor in config["output"]:
        _compare("output", tensor, _find("output", tensor, given), batched, exact=True)


def _check_optional(tensor: Config, batched: bool, initializers: set[str]) -> None:
    name, optional = tensor["name"], tensor.get("optional")
    if optional and batched:
        raise Refused(f"input '{name}' is optional, which no model that batches may have: set max_batch_size: 0")
    if optional and name not in initializers:
        raise Refused(
            f"input '{name}' is optional, and has no default in the graph: give it an initializer, or drop "
            "`optional: true`"
        )
    if name in initializers and not optional:
        raise Refused(f"input '{name}' has a default in the graph: say `optional: true` in config.pbtxt")


def _refuse_what_is_not_here(config: Config) -> None:
    remedy = "is not in this backend, which serves on CPUs: use NVIDIA's image, or leave it out"
    for name in ("batch_input", "batch_output"):
        if config.get(name):
            raise Refused(f"{name} (ragged batches) {remedy}")
    if any(tensor.get("allow_ragged_batch") for tensor in config["input"]):
        raise Refused(f"allow_ragged_batch {remedy}")
    if config.get("sequence_batching", {}).get("state"):
        raise Refused(f"sequence_batching.state (implicit state) {remedy}")


def _controls(config: Config) -> dict[str, str]:
    """The tensors that the sequence batcher adds to each request, with their types."""
    found = {}
    for tensor in config.get("sequence_batching", {}).get("control_input", ()):
        for control in tensor["control"]:
            kinds = {"int32_false_true": "TYPE_INT32", "fp32_false_true": "TYPE_FP32", "bool_false_true": "TYPE_BOOL"}
            given = [kind for key, kind in kinds.items() if control.get(key)]
            if control.get("kind", CONTROLS[0]) == "CONTROL_SEQUENCE_CORRID":
                given = [control["data_type"]]
            found[tensor["name"]] = given[0] if given else "TYPE_INVALID"
    return found


def _find(kind: str, tensor: Config, nodes: dict[str, Any]) -> Any:
    name, data_type = tensor["name"], tensor["data_type"]
    if name not in nodes:
        raise Refused(f"config.pbtxt names {kind} '{name}', which the graph does not have: it has {sorted(nodes)}")
    if (found := triton_type(nodes[name])) != data_type:
        raise Refused(f"{kind} '{name}' is {found} in the graph and {data_type} in config.pbtxt: they must agree")
    return nodes[name]


def _compare(kind: str, tensor: Config, node: Any, batched: bool, exact: bool) -> None:
    """Refuse other shapes; what is free in the graph may be fixed for an input, and not for an output."""
    said = dims(tensor)
    shape = _dims(node)
    if not shape:
        if any(size != 1 for size in said) or batched:
            raise Refused(
                f"{kind} '{node.name}' is a single number (rank 0) in the graph, or of a rank that the graph does not "
                f"say: config.pbtxt must say dims: [1] and max_batch_size: 0, and says {said}"
            )
        return
    if batched and shape[0] != -1:
        raise Refused(
            f"{kind} '{node.name}' is {_text(shape)} in the graph: with max_batch_size above 0 its first dimension "
            "must be free, because it is the batch: set max_batch_size: 0, or export the model with a free batch"
        )
    full = [-1, *said] if batched else said
    same = len(full) == len(shape) and all(
        want == have or (want == -1 and not exact) for want, have in zip(shape, full, strict=True)
    )
    if not same:
        batch = " (the batch and dims)" if batched else ""
        raise Refused(
            f"{kind} '{node.name}' has the shape {_text(shape)} in the graph and {_text(full)} in config.pbtxt{batch}: "
            "they must agree"
        )


def dims(tensor: Config) -> list[int]:
    """The shape that the graph gets or gives, without the batch: `reshape` where there is one."""
    return [int(size) for size in (tensor["reshape"].get("shape", []) if "reshape" in tensor else tensor["dims"])]


def _dims(node: Any) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in node.shape]


def _text(shape: Sequence[int]) -> str:
    return f"[{', '.join('n' if size < 0 else str(size) for size in shape)}]"
