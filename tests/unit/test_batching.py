"""What config.pbtxt says of batches: `max_batch_size: 0` unless the graph keeps rows apart and examples agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto
from tritonclient.grpc import model_config_pb2 as pb

from model_build.batching import contradiction, why_alone
from model_build.config import TritonConfig
from model_build.recipe import ServedModel
from model_build.triton_config import ENSEMBLE_FILE, ensemble, graph_model, routed, to_text
from tests.graphs import graph
from tests.place_graphs import ALIKE, OFFSETS, PLACES
from tests.row_graphs import APART, IMAGE, MIXED, UNDECIDED, model, node

CONFIG = TritonConfig(max_batch_size=8, max_queue_delay_us=250, gpu_instances=1, cpu_instances=1, cpu_threads=1)
FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64


def examples(made: onnx.ModelProto, count: int = 4) -> dict[str, Any]:
    dims = [dim.dim_value or 2 for dim in made.graph.input[0].type.tensor_type.shape.dim][1:]
    return {"x": np.random.default_rng(3).normal(size=(count, *dims)).astype(np.float32)}


def served(made: onnx.ModelProto, name: str = "made") -> ServedModel:
    return graph_model(name, made.SerializeToString(), CONFIG, files={}, inputs={}, outputs={}, trial=examples(made))


def reasons(table: dict[str, Any]) -> dict[str, str]:
    models = {name: model(made, shape) for name, (shape, made) in table.items()}
    return {name: why_alone(made.SerializeToString(), ["y"], examples(made)) for name, made in models.items()}


def test_a_graph_whose_rows_stay_apart_gets_the_configured_batch() -> None:
    assert {name: reason for name, reason in reasons({**APART, **ALIKE}).items() if reason} == {}
    shape, made = APART["softmax of a row"]
    for message in (served(model(made, shape)).gpu, served(model(made, shape)).cpu):
        assert (message.max_batch_size, message.dynamic_batching.max_queue_delay_microseconds) == (8, 250)
        assert [*message.input[0].dims] == [3]


@pytest.mark.parametrize("name", [name for name in {**MIXED, **PLACES, **UNDECIDED} if "Microsoft" not in name])
def test_a_graph_that_mixes_rows_is_served_without_batches_and_the_file_says_why(name: str) -> None:
    shape, made = {**MIXED, **PLACES, **UNDECIDED}[name]
    found = served(model(made, shape))
    for message in (found.gpu, found.cpu):
        assert message.max_batch_size == 0
        assert not message.HasField("dynamic_batching")
        assert [*message.input[0].dims] == [-1, *(size if isinstance(size, int) else -1 for size in shape[1:])]
    text = to_text(found.cpu, "made", found.note).decode()
    assert "\n# max_batch_size is 0, each request runs alone: output 'y'" in text
    assert text_format.Parse(text, pb.ModelConfig()).name == "made"


def hidden_mixing() -> onnx.ModelProto:
    """What no rule follows (a loop over the values), declared and inferred to keep its shape: minus the largest."""
    nodes = [node("Identity", "x", "same"), node("ReduceMax", "same zero", "most"), node("Sub", "x most")]
    return graph(nodes, {"x": (FLOAT, ["n", 3])}, {"y": (FLOAT, ["n", 3])}, {"zero": np.array([0])})


def test_the_trial_finds_rows_that_change_in_company_whatever_the_shapes_say() -> None:
    made = hidden_mixing()
    reason = contradiction(made.SerializeToString(), ["y"], examples(made))
    assert reason == "output 'y' of an example is another one when 2 examples are asked at once"


def test_the_trial_finds_rows_that_come_in_another_order_and_rows_that_go() -> None:
    shape, made = MIXED["batch turned round"]
    turned = model(made, shape)
    assert "is another one when" in contradiction(turned.SerializeToString(), ["y"], examples(turned))
    shape, made = UNDECIDED["rows above zero"]
    some = model(made, shape)
    trial = {"x": np.array([[1], [2], [-1]], np.float32)}
    assert contradiction(some.SerializeToString(), ["y"], trial) == "output 'y' has 0 rows for a batch of 1"


def test_a_graph_that_no_rule_follows_and_that_takes_one_size_of_batch_gets_no_batches() -> None:
    made = model(OFFSETS, IMAGE)
    assert served(made).cpu.max_batch_size == 0
    content, trial = made.SerializeToString(), examples(made)
    assert why_alone(content, ["y"], trial) == "an example cannot be run alone"
    nodes = [node("Shape", "x", "s", start=0, end=1), node("Gather", "w s", "h"), node("Add", "x h")]
    small = graph(nodes, {"x": (FLOAT, ["n", 3])}, {"y": (FLOAT, ["n", 3])}, {"w": np.zeros(3, np.float32)})
    reason = contradiction(small.SerializeToString(), ["y"], examples(small))
    assert reason == "3 examples cannot be run at once"


def test_a_graph_that_cannot_be_followed_batches_only_after_a_trial() -> None:
    nodes = [node("DynamicQuantizeLinear", "x", "q s z"), node("DequantizeLinear", "q s z")]
    made = graph(nodes, {"x": (FLOAT, ["n", 3])}, {"y": (FLOAT, ["n", 3])})
    content, alike = made.SerializeToString(), np.array([[1, 0, -1]] * 4, np.float32)
    assert why_alone(content, ["y"], {"x": alike}) == ""
    assert "there are no two examples" in why_alone(content, ["y"], {"x": alike[:1]})
    assert "of an example is another one" in why_alone(
        content, ["y"], {"x": alike * np.array([[1], [100], [1], [7]], np.float32)}
    )


def test_one_number_for_each_row_is_reshaped_as_both_servers_want_it() -> None:
    made = graph([node("ArgMax", "x", axis=1, keepdims=0)], {"x": (FLOAT, ["n", 3])}, {"y": (INT, ["n"])})
    (output,) = served(made).cpu.output
    assert [*output.dims] == [1]
    assert output.HasField("reshape")
    assert [*output.reshape.shape] == []


def test_ensembles_take_the_batch_of_the_step_that_takes_least() -> None:
    (shape, mixed), (_, apart) = MIXED["softmax over the batch"], APART["softmax of a row"]
    alone, together = served(model(mixed, shape), "alone"), served(model(apart, shape), "together")
    only = routed("made", CONFIG, {"gpu": alone, "cpu": alone}, alone, {})
    assert (only.cpu.max_batch_size, [*only.cpu.input[0].dims]) == (0, [-1, 3])
    steps = [(together, {"x": "x"}, {"y": "h"}), (alone, {"x": "h"}, {"y": "y"})]
    both = ensemble("made", CONFIG, steps, ENSEMBLE_FILE)
    assert both.cpu.max_batch_size == 0
    assert [[*tensor.dims] for tensor in (*both.cpu.input, *both.cpu.output)] == [[-1, 3], [-1, 3]]
