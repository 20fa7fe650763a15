"""What Triton reads of a model: config.pbtxt of a graph, of a Python model, of an ensemble, and the golden request."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper
from tritonclient.grpc import model_config_pb2 as pb

from model_build import ExportError
from model_build.config import TritonConfig
from model_build.precision.variants import CPU, GPU
from model_build.recipe import ServedModel, as_text
from model_build.stages.staging import golden
from model_build.triton_config import LABELS_FILE, ensemble, graph_model, python_model, routed, to_text
from tests.text_models import pooling_graph

CONFIG = TritonConfig(max_batch_size=7, max_queue_delay_us=250, gpu_instances=2, cpu_instances=3, cpu_threads=5)
IDS = np.array([[3, 4, 0]], np.int64)
MASK = np.array([[1, 1, 0]], np.int64)


def messages(model: ServedModel) -> list[Any]:
    """config.pbtxt for a GPU and for a CPU, as Triton reads the files."""
    return [text_format.Parse(to_text(one, "made").decode(), pb.ModelConfig()) for one in (model.gpu, model.cpu)]


def tensors(entries: Any) -> list[tuple[str, int, list[int]]]:
    return [(entry.name, entry.data_type, [*entry.dims]) for entry in entries]


def groups(message: Any) -> list[tuple[int, int]]:
    return [(group.kind, group.count) for group in message.instance_group]


def pooling(files: dict[str, bytes] | None = None) -> ServedModel:
    content = pooling_graph().SerializeToString()
    (answer,) = ort.InferenceSession(content).run(None, {"input_ids": IDS, "attention_mask": MASK})
    return graph_model(
        "made_pooling",
        content,
        CONFIG,
        files=files or {},
        inputs={"input_ids": IDS, "attention_mask": MASK},
        outputs={"embedding": answer},
    )


def tokenizer(**options: Any) -> ServedModel:
    return python_model(
        "made_tokenizer",
        CONFIG,
        files={"1/model.py": b"pass"},
        parameters={"max_tokens": 12},
        inputs={"text": as_text(["Ещё 🚢"])},
        outputs={"input_ids": IDS, "attention_mask": MASK, "length": np.ones((1, 4), np.int32)},
        variable=("input_ids", "attention_mask"),
        **options,
    )


def test_a_graph_is_configured_from_its_own_tensors_with_the_kind_of_each_target() -> None:
    model = pooling()
    gpu, cpu = messages(model)
    for message in (gpu, cpu):
        assert (message.name, message.backend, message.max_batch_size) == ("made_pooling", "onnxruntime", 7)
        assert tensors(message.input) == [
            ("input_ids", pb.TYPE_INT64, [-1]),
            ("attention_mask", pb.TYPE_INT64, [-1]),
        ]
        assert tensors(message.output) == [("embedding", pb.TYPE_FP32, [2])]
        assert message.output[0].label_filename == ""
        assert message.dynamic_batching.max_queue_delay_microseconds == 250
    assert groups(gpu) == [(pb.ModelInstanceGroup.KIND_GPU, 2)]
    assert groups(cpu) == [(pb.ModelInstanceGroup.KIND_CPU, 3)]
    assert not gpu.parameters
    assert cpu.parameters["intra_op_thread_count"].string_value == "5"
    assert model.files == {"1/model.onnx": pooling_graph().SerializeToString()}


def test_names_of_classes_are_those_of_the_outputs() -> None:
    model = pooling({LABELS_FILE: b"sum\ncount\n"})
    assert [message.output[0].label_filename for message in messages(model)] == [LABELS_FILE] * 2
    assert set(model.files) == {LABELS_FILE, "1/model.onnx"}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (TensorProto.BOOL, pb.TYPE_BOOL),
        (TensorProto.UINT8, pb.TYPE_UINT8),
        (TensorProto.INT32, pb.TYPE_INT32),
        (TensorProto.FLOAT16, pb.TYPE_FP16),
        (TensorProto.DOUBLE, pb.TYPE_FP64),
        (TensorProto.STRING, pb.TYPE_STRING),
    ],
)
def test_each_type_of_a_graphs_tensors_is_tritons(kind: int, expected: int) -> None:
    model = graph_model("made", identity(kind), CONFIG, files={}, inputs={}, outputs={})
    for message in messages(model):
        assert tensors(message.input) == [("x", expected, [4, -1])]
        assert tensors(message.output) == [("y", expected, [4, -1])]


def test_a_type_that_triton_has_not_is_refused_with_the_tensors_name() -> None:
    with pytest.raises(
        ExportError, match=r"tensor 'x' has type tensor\(float8e4m3fn\), which Triton cannot serve: export \["
    ):
        graph_model("made", identity(TensorProto.FLOAT8E4M3FN), CONFIG, files={}, inputs={}, outputs={})


def identity(kind: int) -> bytes:
    x, y = (helper.make_tensor_value_info(name, kind, ["n", 4, "length"]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


def test_a_python_model_runs_on_the_cpu_of_either_server_with_shapes_of_its_golden_request() -> None:
    model = tokenizer()
    for message in messages(model):
        assert (message.name, message.backend, message.max_batch_size) == ("made_tokenizer", "python", 7)
        assert tensors(message.input) == [("text", pb.TYPE_STRING, [1])]
        assert tensors(message.output) == [
            ("input_ids", pb.TYPE_INT64, [-1]),
            ("attention_mask", pb.TYPE_INT64, [-1]),
            ("length", pb.TYPE_INT32, [4]),
        ]
        assert groups(message) == [(pb.ModelInstanceGroup.KIND_CPU, 3)]
        assert message.dynamic_batching.max_queue_delay_microseconds == 250
        assert {key: value.string_value for key, value in message.parameters.items()} == {
            "intra_op_thread_count": "5",
            "max_tokens": "12",
        }
        assert not message.model_transaction_policy.decoupled
    assert model.files == {"1/model.py": b"pass"}


def test_a_model_that_streams_says_so() -> None:
    assert all(message.model_transaction_policy.decoupled for message in messages(tokenizer(decoupled=True)))


def test_an_ensemble_has_the_first_models_inputs_the_last_ones_outputs_and_a_map_for_each_step() -> None:
    steps = [
        (tokenizer(), {"text": "question"}, {"input_ids": "ids", "attention_mask": "mask"}),
        (pooling(), {"input_ids": "ids", "attention_mask": "mask"}, {"embedding": "vector"}),
    ]
    model = ensemble("made", CONFIG, steps, {"1/ensemble.txt": b"nothing"})
    for message in messages(model):
        assert (message.name, message.platform, message.backend) == ("made", "ensemble", "")
        assert message.max_batch_size == 7
        assert tensors(message.input) == [("question", pb.TYPE_STRING, [1])]
        assert tensors(message.output) == [("vector", pb.TYPE_FP32, [2])]
        found = message.ensemble_scheduling.step
        assert [(step.model_name, step.model_version) for step in found] == [
            ("made_tokenizer", -1),
            ("made_pooling", -1),
        ]
        assert [(dict(step.input_map), dict(step.output_map)) for step in found] == [step[1:] for step in steps]
        # Triton refuses both in an ensemble: the steps have them.
        assert not message.HasField("dynamic_batching")
        assert not message.instance_group
    assert model.inputs["question"].tolist() == [["Ещё 🚢"]]
    assert model.outputs["vector"].tolist() == [[7, 2]]
    assert model.files == {"1/ensemble.txt": b"nothing"}


def test_a_routed_name_is_an_ensemble_of_the_variant_chosen_on_each_target_with_the_references_golden_answer() -> None:
    reference = pooling()
    chosen = {target: replace(reference, cpu=variant(f"made_{target}", reference.cpu)) for target in (CPU, GPU)}
    chosen = {target: replace(model, name=f"made_{target}", outputs={}) for target, model in chosen.items()}
    model = routed("made", CONFIG, chosen, reference, {LABELS_FILE: b"sum\ncount\n"})
    for message, target in zip(messages(model), (GPU, CPU), strict=True):
        assert (message.name, message.platform, message.max_batch_size) == ("made", "ensemble", 7)
        assert (tensors(message.input), tensors(message.output)) == (
            tensors(reference.cpu.input),
            tensors(reference.cpu.output),
        )
        (step,) = message.ensemble_scheduling.step
        assert step.model_name == f"made_{target}"
        assert dict(step.input_map) == {"input_ids": "input_ids", "attention_mask": "attention_mask"}
        assert dict(step.output_map) == {"embedding": "embedding"}
    assert (model.inputs, model.outputs) == (reference.inputs, reference.outputs)
    assert set(model.files) == {"1/ensemble.txt", LABELS_FILE}


def variant(name: str, message: Any) -> Any:
    found = pb.ModelConfig()
    found.CopyFrom(message)
    found.name = name
    return found


def test_a_written_configuration_says_where_it_is_to_be_changed() -> None:
    head = to_text(pooling().cpu, "made").decode().splitlines()[0]
    assert head == "# Written by `slipway build made` from model_build/conf/made.yaml: change it there."


def test_the_golden_request_and_its_answer_are_bodies_of_the_inference_protocol() -> None:
    request, response = (json.loads(body) for body in golden(tokenizer(), 0.5))
    assert request == {
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["Ещё 🚢"]}],
        "outputs": [{"name": "input_ids"}, {"name": "attention_mask"}, {"name": "length"}],
    }
    assert response == {
        "model_name": "made_tokenizer",
        "model_version": "1",
        "parameters": {"atol": 0.5},
        "outputs": [
            {"name": "input_ids", "datatype": "INT64", "shape": [1, 3], "data": [3, 4, 0]},
            {"name": "attention_mask", "datatype": "INT64", "shape": [1, 3], "data": [1, 1, 0]},
            {"name": "length", "datatype": "INT32", "shape": [1, 4], "data": [1, 1, 1, 1]},
        ],
    }


def test_golden_bodies_are_utf8_that_a_person_can_read_and_floats_are_exact() -> None:
    request, _ = golden(tokenizer(), 0.5)
    assert "Ещё 🚢".encode() in request
    values = np.array([[1 / 3, 1e-9]], np.float32)
    model = pooling()
    _, response = golden(ServedModel("made", model.gpu, model.cpu, {}, model.inputs, {"embedding": values}), 0.5)
    data = json.loads(response)["outputs"][0]["data"]
    assert np.array(data, np.float32).tolist() == values[0].tolist()
