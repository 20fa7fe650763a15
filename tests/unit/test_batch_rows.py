"""Whether rows of a batch stay apart: what is found of a graph is what running it shows, and never too good."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest

from model_build.batching import REFUSED
from serving.backends.onnxruntime.batch_rows import examine
from tests.graphs import graph
from tests.place_graphs import ALIKE, OFFSETS, PLACES
from tests.row_graphs import APART, AXIS0, AXIS1, FLOAT, IMAGE, MIXED, UNDECIDED, model, node, weights
from tests.size_graphs import IN_PROPORTION, OF_SOME_SIZES


def rows_stay_apart(made: onnx.ModelProto, size: int = 3) -> bool:
    """Whether running it says so: rows alone, joined, and joined the other way round; not if none runs alone."""
    options = ort.SessionOptions()  # a fusion may refuse what the graph's own operators take
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    shape = [part if isinstance(part, int) else 2 for part in session.get_inputs()[0].shape[1:]]
    rows = np.random.default_rng(7).normal(size=(size, *shape)).astype(np.float32)

    def run(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.asarray(session.run(None, {"x": array})[0])

    try:
        alone = [run(row[None]) for row in rows]
    except REFUSED:
        return False
    if any(answer.shape[:1] != (1,) for answer in alone):
        return False
    joined, turned = run(rows), run(rows[::-1].copy())
    if len(joined) != size:
        return False
    expected = np.concatenate(alone)
    return np.allclose(joined, expected, 1e-4, 1e-5) and np.allclose(turned[::-1], expected, 1e-4, 1e-5)


@pytest.mark.parametrize("name", [*APART, *ALIKE])
def test_a_graph_whose_rows_stay_apart_is_found_to_batch(name: str) -> None:
    shape, made = {**APART, **ALIKE}[name]
    assert rows_stay_apart(model(made, shape)), "the table is wrong"
    assert examine(model(made, shape)), examine(model(made, shape)).reason


@pytest.mark.parametrize("name", [*MIXED, *PLACES])
def test_a_graph_that_mixes_rows_is_found_with_its_reason(name: str) -> None:
    shape, made = {**MIXED, **PLACES}[name]
    assert not rows_stay_apart(model(made, shape)), "the table is wrong"
    verdict = examine(model(made, shape))
    assert not verdict.apart
    assert verdict.known, verdict.reason
    assert verdict.reason.startswith("output 'y'")


def shown_by_some_size(made: onnx.ModelProto) -> bool:
    """Whether a batch of one or another size shows that rows do not stay apart, or cannot be run."""
    try:
        return not all(rows_stay_apart(made, size) for size in (3, 13))
    except REFUSED:
        return True


@pytest.mark.parametrize("name", IN_PROPORTION)
def test_what_is_in_proportion_to_the_size_of_the_batch_is_found_to_batch(name: str) -> None:
    shape, made = IN_PROPORTION[name]
    assert not shown_by_some_size(model(made, shape)), "the table is wrong"
    assert examine(model(made, shape)), examine(model(made, shape)).reason


@pytest.mark.parametrize("name", OF_SOME_SIZES)
def test_what_only_some_sizes_of_the_batch_show_is_never_found_to_batch(name: str) -> None:
    shape, made = OF_SOME_SIZES[name]
    assert shown_by_some_size(model(made, shape)), "the table is wrong"
    verdict = examine(model(made, shape))
    assert not verdict.apart
    assert verdict.reason.startswith("output 'y'")


@pytest.mark.parametrize("name", UNDECIDED)
def test_what_cannot_be_followed_is_undecided(name: str) -> None:
    shape, made = UNDECIDED[name]
    verdict = examine(model(made, shape))
    assert (verdict.apart, verdict.known) == (False, False)
    assert "operator" in verdict.reason


def test_a_deformable_convolution_is_undecided_for_its_offsets_may_be_of_each_place() -> None:
    made = model(OFFSETS, IMAGE)
    assert not rows_stay_apart(made)
    assert (examine(made).apart, examine(made).known) == (False, False)


def test_declared_names_of_output_dimensions_prove_nothing() -> None:
    nodes = [node("ReduceSum", "x a", keepdims=1)]
    made = graph(nodes, {"x": (FLOAT, ["n", 1])}, {"y": (FLOAT, ["n", 1])}, {"a": AXIS0})
    verdict = examine(made)
    assert (verdict.apart, verdict.carried) == (False, False)


def test_only_the_outputs_that_are_served_count() -> None:
    nodes = [node("Relu", "x"), node("ReduceSum", "x", "total")]
    made = graph(nodes, {"x": (FLOAT, ["n", 3])}, {"y": (FLOAT, ["n", 3]), "total": (FLOAT, [1, 1])})
    assert examine(made, ["y"])
    assert not examine(made)


def test_an_input_with_a_fixed_batch_does_not_batch() -> None:
    made = graph([node("Relu", "x")], {"x": (FLOAT, [4, 3])}, {"y": (FLOAT, [4, 3])})
    assert examine(made).reason == "output 'y': input 'x' takes 4 rows, no more and no less"


def test_a_graph_of_a_strangers_making_is_undecided_and_no_exception() -> None:
    made = graph([node("Relu", "x")], {"x": (FLOAT, ["n", 3])}, {"y": (FLOAT, ["n", 3])})
    made.graph.node[0].input[0] = "nowhere"
    assert "could not be followed" in examine(made).reason


@pytest.mark.parametrize("more", [0.01, 0.05, 0.09])
@pytest.mark.parametrize(
    ("kind", "inputs", "opset"), [("Resize", "x - s", 20), ("Resize", "x s", 10), ("Upsample", "x s", 9)]
)
def test_rows_that_are_resized_by_less_than_one_mix_though_their_number_stays(
    kind: str, inputs: str, opset: int, more: float
) -> None:
    scales = np.array([1 + more, 2], np.float32)
    made = model(([node(kind, inputs, mode="linear")], {"s": scales}), ("n", 3), opset=opset)
    assert examine(made).reason == f"output 'y': {kind} moves the rows by less than one"


@pytest.mark.parametrize(
    "attributes",
    [
        {"coordinate_transformation_mode": "tf_crop_and_resize"},
        {"coordinate_transformation_mode": "tf_half_pixel_for_nn"},
        {"keep_aspect_ratio_policy": "not_larger"},
    ],
)
def test_a_resize_that_may_move_the_batch_with_the_image_is_not_found_to_batch(attributes: dict[str, Any]) -> None:
    nodes = [
        node("Shape", "x", "n", start=0, end=1),
        node("Concat", "n wide", "sizes", axis=0),
        node("Resize", "x region - sizes", **attributes),
    ]
    constants = {"wide": np.array([3, 6, 6]), "region": np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32)}
    verdict = examine(model((nodes, constants), IMAGE))
    assert (verdict.apart, verdict.known) == (False, True)
    kept = model(([*nodes[:2], node("Resize", "x region - sizes")], constants), IMAGE)
    assert examine(kept), examine(kept).reason


@pytest.mark.parametrize("opset", [9, 13])
def test_batch_normalization_that_is_asked_for_its_means_is_in_training(opset: int) -> None:
    constants = {name: np.ones(3, np.float32) for name in "wbmv"}
    made = model(([node("BatchNormalization", "x w b m v", "y a b c d")], constants), IMAGE, opset=opset)
    assert examine(made, ["y"]).reason == "output 'y': BatchNormalization normalizes over the batch"


def test_inputs_that_fit_no_batch_are_undecided() -> None:
    made = model(([node("Abs", "x", "h"), node("MatMul", "h w")], {"w": weights(5, 2)}), ("n", 3))
    assert examine(made).reason.endswith("is an operator whose inputs do not fit together in every batch")


def test_a_model_from_before_broadcasting_is_undecided() -> None:
    made = model(([node("Add", "x w", axis=0, broadcast=1)], {"w": weights(3)}), ("n", 3), opset=6)
    assert not examine(made)


OPERATORS = (
    lambda r: node("Relu", "{a}"),
    lambda r: node("Softmax", "{a}", axis=r.choice([0, 1, 2, -1])),
    lambda r: node("Transpose", "{a}", perm=r.sample(range(3), 3)),
    lambda r: node("ReduceMean", "{a} " + r.choice(["zero", "one", "two"])),
    lambda r: node("CumSum", "{a} " + r.choice(["first", "second"])),
    lambda r: node("Add", "{a} {b}"),
    lambda r: node("Sub", "{b} {a}"),
    lambda r: node("MatMul", "{a} {b}"),
    lambda r: node("Concat", "{a} {b}", axis=r.randrange(3)),
    lambda r: node("Reshape", "{a} " + r.choice(["same", "merged", "flat", "inner"])),
    lambda r: node("Slice", "{a} zero end " + r.choice(["zero", "one"])),
    lambda r: node("Slice", "{a} last start zero back"),
    lambda r: node("Expand", "{a} ones"),
    lambda r: node("LayerNormalization", "{a} scale", axis=r.choice([0, 1, 2])),
    lambda r: node("Gather", "{a} picks", axis=r.randrange(3)),
    lambda r: node("TopK", "{a} one", "y i", axis=r.randrange(3)),
    lambda r: node(r.choice(["Add", "Mul", "PRelu", "Min"]), "{a} " + r.choice(["each", "every"])),
    lambda r: node("Where", "chosen {a} zeros"),
    lambda r: node("LayerNormalization", "{a} " + r.choice(["each", "every"]), axis=r.choice([1, 2])),
    lambda r: node("LayerNormalization", "{a} scale " + r.choice(["each", "every"]), axis=2),
    lambda r: node("MatMul", "{a} " + r.choice(["matrices", "matrix"])),
    lambda r: node("Einsum", "{a} each", equation=r.choice(["abc,abd->abc", "abc,dbe->abc", "abc,eda->abc"])),
    lambda r: node("Concat", "{a} " + r.choice(["each", "every"]), axis=r.randrange(3)),
)
CONSTANTS: dict[str, Any] = {
    "zero": AXIS0,
    "one": AXIS1,
    "two": np.array([2]),
    "first": np.array(0),
    "second": np.array(1),
    "same": np.array([0, 0, -1]),
    "merged": np.array([-1, 3, 2]),
    "flat": np.array([1, 0, -1]),
    "inner": np.array([-1, 2, 1]),
    "end": np.array([2**62]),
    "last": np.array([-1]),
    "start": np.array([-(2**62)]),
    "back": np.array([-1]),
    "ones": np.array([1, 1, 1]),
    "scale": np.ones(1, np.float32),
    "picks": np.array([0]),
    # For each place of a batch of three, and of any other dimension of three or two.
    "each": np.array([1, 5, 9], np.float32).reshape(3, 1, 1),
    "every": np.arange(18, dtype=np.float32).reshape(3, 3, 2),
    "chosen": np.array([True, False, True]).reshape(3, 1, 1),
    "zeros": np.zeros(1, np.float32),
    "matrices": weights(3, 2, 3),
    "matrix": weights(2, 2),
}


def test_of_random_graphs_none_is_found_to_batch_that_does_not() -> None:
    apart = ran = 0
    for seed in range(600):
        choices = random.Random(seed)
        names, nodes = ["x"], []
        for number in range(choices.randint(1, 4)):
            made = choices.choice(OPERATORS)(choices)
            taken = {"{a}": names[-1], "{b}": choices.choice(names)}
            inputs = [taken.get(name, name) for name in made.input]
            made.ClearField("input")
            made.input.extend(inputs)
            made.output[0] = f"h{number}"
            if len(made.output) > 1:
                made.output[1] = f"i{number}"
            names.append(made.output[0])
            nodes.append(made)
        nodes.append(node("Identity", names[-1]))
        found = graph(nodes, {"x": (FLOAT, ["n", 3, 2])}, {"y": (FLOAT, None)}, CONSTANTS)
        verdict = examine(found)
        try:
            real = rows_stay_apart(found)
        except Exception:  # noqa: BLE001 - shapes that do not fit: no graph
            continue
        ran += 1
        apart += bool(verdict)
        assert real or not verdict, (seed, onnx.printer.to_text(found.graph))
    assert ran > 200, "most of the graphs must be ones"
    assert apart > 60, "what says no to everything would pass"
