"""What config.pbtxt means for an ONNX file: the table that the embedded server's backend and `local:` both answer to.

A row is a line of docs/backend.md: a model that is served, with what it answers, or one that is refused, with why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from tests.backend_graphs import (
    BRAIN,
    FLOAT,
    HALF,
    INT,
    TEXT,
    above_zero,
    cube,
    doubled,
    label_of_each,
    node,
    of_any_rank,
    of_any_rank_in_a_batch,
    scaled_by_a_number,
    total,
    two_outputs,
    with_default,
    with_start,
    with_zipmap,
)
from tests.graphs import graph
from tests.support import write_manifest

CPU = "instance_group { kind: KIND_CPU count: 1 }"
Feed = Mapping[str, npt.ArrayLike]


@dataclass(frozen=True)
class Served:
    """A model that loads: its configuration, and an input with its answer in the configuration's order."""

    config: str
    model: onnx.ModelProto
    feed: Feed
    answer: Feed
    folder: bool = False  # model.onnx is a folder that holds it
    file: str = "model.onnx"


@dataclass(frozen=True)
class Refused:
    """A model that does not load, and a part of the reason."""

    config: str
    model: onnx.ModelProto
    reason: str
    local: bool = True  # `local:` knows no instances, no scheduler


def io(kind: str, name: str, data_type: str, dims: Sequence[int], more: str = "") -> str:
    return f'{kind} {{ name: "{name}" data_type: TYPE_{data_type} dims: {list(dims)} {more} }} '


X, Y = io("input", "x", "FP32", [3]), io("output", "y", "FP32", [3])
ONES = {"x": np.array([[1, 5, -2]], np.float32)}
TWICE = {"y": [[2, 10, -4]]}
BATCHES = "max_batch_size: 8 "
STARTS = (
    'sequence_batching { control_input { name: "START" control { kind: CONTROL_SEQUENCE_START '
    "int32_false_true: [0, 1] } } }"
)


def parameter(name: str, value: str) -> str:
    return f'parameters {{ key: "{name}" value {{ string_value: "{value}" }} }} '


SERVED = {
    "completed": Served("", doubled(), ONES, TWICE),
    "completed_rank1": Served("", label_of_each(), ONES, {"label": [[1]], "scores": [[1, 5, 0]]}),
    "completed_outputs": Served(BATCHES + X, doubled(), ONES, TWICE),
    "completed_scalar": Served("", total(), {"x": np.array([1, 2], np.float32)}, {"y": [3]}),
    "scalar_output": Served(
        io("input", "x", "FP32", [-1]) + io("output", "y", "FP32", [1]),
        total(),
        {"x": np.array([1, 2], np.float32)},
        {"y": [3]},
    ),
    "scalar_of_two_dims": Served(
        io("input", "x", "FP32", [-1]) + io("output", "y", "FP32", [1, 1]),
        total(),
        {"x": np.array([1, 2], np.float32)},
        {"y": [[3]]},
    ),
    "scalar_input": Served(
        io("input", "x", "FP32", [-1]) + io("input", "k", "FP32", [1]) + io("output", "y", "FP32", [-1]),
        scaled_by_a_number(),
        {"x": np.array([1, 2], np.float32), "k": np.array([3], np.float32)},
        {"y": [3, 6]},
    ),
    "unknown_rank": Served(
        io("input", "x", "FP32", [-1]) + io("input", "s", "INT64", [-1]) + io("output", "y", "FP32", [1]),
        of_any_rank(),
        {"x": np.array([1, 2, 3, 4], np.float32), "s": np.array([2, 2])},
        {"y": [[1, 2], [3, 4]]},
    ),
    "unknown_rank_of_a_number": Served(
        io("input", "x", "FP32", [-1]) + io("input", "s", "INT64", [-1]) + io("output", "y", "FP32", [1, 1]),
        of_any_rank(),
        {"x": np.array([3], np.float32), "s": np.array([], np.int64)},
        {"y": [[3]]},
    ),
    "unknown_rank_completed": Served(
        "", of_any_rank(), {"x": np.array([1, 2], np.float32), "s": np.array([2, 1])}, {"y": [[1], [2]]}
    ),
    "reshaped": Served(
        BATCHES
        + io("input", "x", "FP32", [4], "reshape { shape: [2, 2] }")
        + io("output", "y", "FP32", [4], "reshape { shape: [2, 2] }"),
        cube(["n", 2, 2], ["n", 2, 2]),
        {"x": np.array([[1, -2, 3, 4]], np.float32)},
        {"y": [[1, 0, 3, 4]]},
    ),
    "reshaped_to_nothing": Served(
        BATCHES
        + io("input", "x", "FP32", [1], "reshape { shape: [] }")
        + io("output", "y", "FP32", [1], "reshape { shape: [] }"),
        cube(["n"], ["n"]),
        {"x": np.array([[-1], [7]], np.float32)},
        {"y": [[0], [7]]},
    ),
    "configured_order": Served(
        BATCHES + X + io("output", "b", "FP32", [3]) + io("output", "a", "FP32", [3]),
        two_outputs(),
        ONES,
        {"b": [[-1, -5, 2]], "a": [[2, 10, -4]]},
    ),
    "one_of_two_outputs": Served(
        BATCHES + X + io("output", "a", "FP32", [3]), two_outputs(), ONES, {"a": [[2, 10, -4]]}
    ),
    "default_not_given": Served(
        io("input", "x", "FP32", [-1, 3])
        + io("input", "k", "FP32", [1], "optional: true")
        + io("output", "y", "FP32", [-1, 3]),
        with_default(),
        ONES,
        TWICE,
    ),
    "default_given": Served(
        io("input", "x", "FP32", [-1, 3])
        + io("input", "k", "FP32", [1], "optional: true")
        + io("output", "y", "FP32", [-1, 3]),
        with_default(),
        {**ONES, "k": np.array([3], np.float32)},
        {"y": [[3, 15, -6]]},
    ),
    "default_kept": Served(BATCHES + X + Y, with_default(), ONES, TWICE),
    "fixed_where_the_graph_is_free": Served(
        BATCHES + X + io("output", "y", "FP32", [-1]), doubled(shape=("n", "m")), ONES, TWICE
    ),
    "free_first_dimension": Served(
        io("input", "x", "FP32", [-1, 1]) + io("output", "y", "FP32", [-1, 1]),
        above_zero(),
        {"x": np.array([[1], [-1], [3]], np.float32)},
        {"y": [[1], [3]]},
    ),
    "half": Served(
        BATCHES + io("input", "x", "FP16", [3]) + io("output", "y", "FP16", [3]),
        doubled(HALF),
        {"x": np.array([[1, 5, -2]], np.float16)},
        TWICE,
    ),
    "brain": Served(
        BATCHES + io("input", "x", "BF16", [3]) + io("output", "y", "BF16", [3]),
        graph(
            [node("Cast", "x", "c", to=FLOAT), node("Add", "c c", "d"), node("Cast", "d", "y", to=BRAIN)],
            {"x": (BRAIN, ["n", 3])},
            {"y": (BRAIN, ["n", 3])},
        ),
        ONES,
        TWICE,
    ),
    "texts": Served(
        BATCHES + io("input", "x", "STRING", [1]) + io("output", "y", "STRING", [1]),
        graph([node("StringConcat", "x x", "y")], {"x": (TEXT, ["n", 1])}, {"y": (TEXT, ["n", 1])}),
        {"x": np.array([["é🚢"], [""]], np.object_)},
        {"y": [["é🚢é🚢".encode()], [b""]]},
    ),
    "in_a_folder": Served(BATCHES + X + Y, doubled(), ONES, TWICE, folder=True),
    "another_name": Served(
        BATCHES + X + Y + 'default_model_filename: "other.onnx"', doubled(), ONES, TWICE, file="other.onnx"
    ),
    "in_folders_of_a_version": Served(
        BATCHES + X + Y + 'default_model_filename: "of/a/net.onnx"', doubled(), ONES, TWICE, file="of/a/net.onnx"
    ),
    "in_a_folder_completed": Served(
        'default_model_filename: "sub/net.onnx"', doubled(), ONES, TWICE, file="sub/net.onnx"
    ),
    "old_name_of_the_backend": Served('platform: "onnxruntime_onnx" ' + BATCHES + X + Y, doubled(), ONES, TWICE),
    "all_options": Served(
        BATCHES + X + Y + "optimization { graph { level: 1 } } "
        + parameter("intra_op_thread_count", "1") + parameter("inter_op_thread_count", "1")
        + parameter("execution_mode", "1") + parameter("enable_mem_arena", "false")
        + parameter("enable_mem_pattern", "0") + parameter("session.use_device_allocator_for_initializers", "1"),
        doubled(), ONES, TWICE,
    ),
    "threads_below_zero": Served(
        BATCHES + X + Y + parameter("intra_op_thread_count", "-1") + parameter("inter_op_thread_count", " +1"),
        doubled(), ONES, TWICE,
    ),
    "shrinking_arena": Served(
        BATCHES + X + Y + parameter("memory.enable_memory_arena_shrinkage", "cpu:0"), doubled(), ONES, TWICE
    ),
    "basic_level": Served(BATCHES + X + Y + "optimization { graph { level: -1 } }", doubled(), ONES, TWICE),
    "no_optimization": Served(BATCHES + X + Y + "optimization { graph { level: 2 } }", doubled(), ONES, TWICE),
    "accelerator_of_gpus": Served(
        BATCHES + X + Y
        + 'optimization { execution_accelerators { gpu_execution_accelerator { name: "tensorrt" } } }',
        doubled(), ONES, TWICE,
    ),
    "large_numbers": Served(
        BATCHES + io("input", "x", "INT64", [1]) + io("output", "y", "INT64", [1]),
        doubled(INT, ("n", 1)),
        {"x": np.array([[2**61 + 1]])},
        {"y": [[2**62 + 2]]},
    ),
}  # fmt: skip

REFUSED = {
    "fixed_batch": Refused(
        BATCHES + X + Y, doubled(shape=(1, 3)), r"'x' is \[1, 3\] in the graph: with max_batch_size above 0 its first"
    ),
    "fixed_batch_of_an_output": Refused(
        BATCHES + io("input", "x", "FP32", [1]) + io("output", "y", "FP32", [1]),
        graph([node("ReduceSum", "x", "y", keepdims=1)], {"x": (FLOAT, ["n", 1])}, {"y": (FLOAT, ["n", 1])}),
        r"output 'y' is \[1, 1\] in the graph: .* set max_batch_size: 0",
    ),
    "another_size": Refused(
        BATCHES + io("input", "x", "FP32", [4]) + Y, doubled(), r"input 'x' has the shape \[n, 3\] .* \[n, 4\]"
    ),
    "free_where_the_graph_is_not": Refused(
        BATCHES + io("input", "x", "FP32", [-1]) + Y, doubled(), r"input 'x' has the shape \[n, 3\] .* \[n, n\]"
    ),
    "fixed_where_the_answer_is_free": Refused(
        BATCHES + X + Y, doubled(shape=("n", "m")), r"output 'y' has the shape \[n, n\] .* \[n, 3\]"
    ),
    "another_rank": Refused(
        BATCHES + X + io("output", "y", "FP32", [3, 1]), doubled(), r"output 'y' has the shape \[n, 3\] .* \[n, 3, 1\]"
    ),
    "another_reshape": Refused(
        BATCHES + io("input", "x", "FP32", [4], "reshape { shape: [4, 1] }") + io("output", "y", "FP32", [2, 2]),
        cube(["n", 2, 2], ["n", 2, 2]),
        r"input 'x' has the shape \[n, 2, 2\] .* \[n, 4, 1\]",
    ),
    "scalar_in_a_batch": Refused(
        BATCHES + io("input", "x", "FP32", [1]) + io("output", "y", "FP32", [1]), total(), "has the shape|rank 0"
    ),
    "scalar_of_two_numbers": Refused(
        io("input", "x", "FP32", [-1]) + io("output", "y", "FP32", [2]),
        total(),
        r"'y' is a single number \(rank 0\) in the graph, .* says \[2\]",
    ),
    "scalar_input_in_a_batch": Refused(
        BATCHES + X + io("input", "k", "FP32", [1]) + Y,
        graph([node("Mul", "x k", "y")], {"x": (FLOAT, ["n", 3]), "k": (FLOAT, [])}, {"y": (FLOAT, ["n", 3])}),
        r"input 'k' is a single number \(rank 0\) in the graph",
    ),
    "unknown_rank_in_a_batch": Refused(
        BATCHES + io("input", "x", "FP32", [1]) + io("output", "y", "FP32", [1]),
        of_any_rank_in_a_batch(),
        r"output 'y' is a single number \(rank 0\) in the graph, or of a rank that the graph does not say: ",
    ),
    "unknown_input": Refused(
        BATCHES + io("input", "z", "FP32", [3]) + Y, doubled(), r"names input 'z', which the graph does not have: .*'x'"
    ),
    "unknown_output": Refused(
        BATCHES + X + io("output", "z", "FP32", [3]), doubled(), r"names output 'z', which the graph does not have"
    ),
    "input_left_out": Refused(
        BATCHES + io("input", "x", "FP32", [3]) + io("output", "y", "FP32", [3]),
        graph(
            [node("Add", "x w", "y")],
            {"x": (FLOAT, ["n", 3]), "w": (FLOAT, ["n", 3])},
            {"y": (FLOAT, ["n", 3])},
        ),
        r"does not name the graph's inputs \['w'\]: add them",
    ),
    "another_type": Refused(
        BATCHES + io("input", "x", "INT32", [3]) + Y, doubled(), "'x' is TYPE_FP32 in the graph and TYPE_INT32"
    ),
    "optional_in_a_batch": Refused(
        BATCHES + X + io("input", "k", "FP32", [1], "optional: true") + Y,
        with_default(),
        "'k' is optional, which no model that batches may have: set max_batch_size: 0",
    ),
    "optional_without_default": Refused(
        io("input", "x", "FP32", [-1, 3], "optional: true") + io("output", "y", "FP32", [-1, 3]),
        doubled(),
        "'x' is optional, and has no default in the graph",
    ),
    "default_that_is_not_optional": Refused(
        io("input", "x", "FP32", [-1, 3]) + io("input", "k", "FP32", [1]) + io("output", "y", "FP32", [-1, 3]),
        with_default(),
        "'k' has a default in the graph: say `optional: true`",
    ),
    "zipmap": Refused("", with_zipmap(), r"'y' has the type seq\(map.*without ZipMap .*'zipmap': False"),
    "completed_and_cannot_batch": Refused(
        BATCHES, doubled(shape=(1, 3)), "max_batch_size is 8, and not every tensor of the graph has a free first"
    ),
    "ragged": Refused(
        BATCHES + io("input", "x", "FP32", [3], "allow_ragged_batch: true") + Y,
        doubled(),
        "allow_ragged_batch is not in",
    ),
    "batch_input": Refused(
        BATCHES + X + Y + 'batch_input { kind: BATCH_ELEMENT_COUNT target_name: "i" data_type: TYPE_FP32 '
        'source_input: "x" }',
        doubled(),
        r"batch_input \(ragged batches\) is not in",
    ),
    "implicit_state": Refused(
        BATCHES + X + Y + 'sequence_batching { state { input_name: "s" output_name: "t" data_type: TYPE_FP32 '
        "dims: [1] } }",
        doubled(),
        r"sequence_batching.state \(implicit state\) is not in",
        local=False,
    ),
    "control_that_is_no_input": Refused(
        BATCHES + X + Y + STARTS,
        doubled(),
        "names sequence control 'START', which the graph does not have",
        local=False,
    ),
    "control_with_a_default": Refused(
        BATCHES + io("input", "x", "FP32", [1]) + io("output", "y", "FP32", [1]) + STARTS,
        with_start(["n", 1], default=True),
        "names sequence control 'START', which the graph does not have",
        local=False,
    ),
    "control_without_dimensions": Refused(
        io("input", "x", "FP32", [-1, 1]) + io("output", "y", "FP32", [-1, 1]) + STARTS,
        with_start([]),
        r"sequence control 'START' is a single number \(rank 0\) in the graph: it must have dims: \[1\]",
        local=False,
    ),
    "accelerator_of_cpus": Refused(
        BATCHES + X + Y + 'optimization { execution_accelerators { cpu_execution_accelerator { name: "openvino" } } }',
        doubled(),
        "cpu_execution_accelerator 'openvino' is not in this backend",
    ),
    "gpu": Refused(
        BATCHES + X + Y, doubled(), "KIND_GPU but no GPUs are available", local=False
    ),
    "threads": Refused(
        BATCHES + X + Y + parameter("intra_op_thread_count", "two"), doubled(), "is 'two': expected a whole number"
    ),
    "execution_mode": Refused(BATCHES + X + Y + parameter("execution_mode", "7"), doubled(), "execution_mode is 7"),
    "switch": Refused(
        BATCHES + X + Y + parameter("enable_mem_arena", "maybe"), doubled(), "is 'maybe': expected true or false"
    ),
    "level": Refused(
        BATCHES + X + Y + "optimization { graph { level: 5 } }",
        doubled(),
        r"level is 5: expected one of \[0, 1, -1, 2\]"
    ),
    "no_labels": Refused(
        BATCHES + X + io("output", "y", "FP32", [3], 'label_filename: "none.txt"'), doubled(), r"none\.txt"
    ),
    "no_file": Refused(
        BATCHES + X + Y + 'default_model_filename: "other.onnx"', doubled(), r"no (such )?file:? .*other\.onnx"
    ),
}  # fmt: skip


def write_case(repository: Path, name: str, case: Served | Refused) -> Path:
    """The model's folder; its golden request is none: nobody asks it."""
    folder = repository / name
    file = case.file if isinstance(case, Served) else "model.onnx"
    path = folder / "1" / file
    if isinstance(case, Served) and case.folder:
        path /= "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(case.model.SerializeToString())
    kind = CPU.replace("KIND_CPU", "KIND_GPU") if name == "gpu" else CPU
    backend = "" if "platform:" in case.config else 'backend: "onnxruntime" '
    (folder / "config.pbtxt").write_text(f"{backend}{case.config} {kind}")
    (folder / "golden").mkdir()
    for golden in ("request.json", "response.json"):
        (folder / "golden" / golden).write_text("{}")
    write_manifest(folder)
    return folder


def equal(found: Mapping[str, Any], expected: Feed) -> bool:
    """Whether the answer is the expected one, its outputs in the same order."""
    return list(found) == list(expected) and all(
        np.array_equal(found[name], np.asarray(value, found[name].dtype)) for name, value in expected.items()
    )
