"""What cannot be analysed is refused in one line that says what to pass."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from model_build._errors import BuildError, ConfigurationError, DataError, ExportError
from model_build.roofline import report
from model_build.roofline.analysis import Question, analyse, free_sizes
from tests.roofline_graphs import layers_of, made_workspace, node, write_graph, write_network
from tests.support import error_lines, slipway


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return made_workspace(tmp_path)


@pytest.fixture
def built(workspace: Path) -> Path:
    """The workspace with a small network in the place of `digits`."""
    write_network(workspace / "build" / "digits" / "model.onnx")
    return workspace


def refused(kind: type[BuildError], workspace: Path, device: str = "a100", **question: Any) -> str:
    with pytest.raises(kind) as error:
        analyse(workspace, "digits", Question(device, **{"batches": (1,), **question}))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_unknown_device(built: Path) -> None:
    assert "device 'v100' is unknown: expected one of t4, " in refused(ConfigurationError, built, "v100")


def test_a_precision_that_the_device_lacks(built: Path) -> None:
    message = refused(ConfigurationError, built, "t4", precision="tf32")
    assert message == "NVIDIA T4 has no TF32: expected one of fp32, fp16, int8"
    assert "expected one of fp32, tf32, fp16, int8" in refused(ConfigurationError, built, precision="fp8")
    for written in ("cpu", "CPU"):
        assert "measured in fp32 only" in refused(ConfigurationError, built, written, precision="int8")


@pytest.mark.parametrize("question", [{"batches": (0,)}, {"shapes": {"tokens": -1}}, {"threads": 0}])
def test_a_size_below_one(question: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="expected batches, shapes and threads of 1 or more"):
        Question("a100", **question)


@pytest.mark.parametrize("count", [-1.0, float("nan"), float("inf")])
def test_flops_that_are_no_count(count: float) -> None:
    with pytest.raises(ConfigurationError, match="FLOPs of Erf: expected 0 or more"):
        Question("a100", flops={"Erf": count})


def test_an_operator_without_a_formula_names_flops_and_then_is_counted(workspace: Path) -> None:
    path = workspace / "build" / "digits" / "model.onnx"
    write_graph(path, [node("Det", "x", "y")], {"x": ["batch", 8, 8]})
    assert "operator Det of node 'node_y' has no formula for its FLOPs: pass --flops Det=N" in refused(
        ConfigurationError, workspace
    )
    found = analyse(workspace, "digits", Question("a100", (4,), flops={"Det": 300}))
    assert found.batches[0].total("flops") == 4 * 300


@pytest.mark.parametrize(("domain", "operator"), [("com.example", "Celestial"), ("com.microsoft", "BiasGelu")])
def test_an_operator_that_is_not_onnxs_own(domain: str, operator: str, workspace: Path) -> None:
    path = workspace / "build" / "digits" / "model.onnx"
    nodes = [node(operator, "x b", "g", domain=domain), node("Softmax", "g", "y")]
    write_graph(path, nodes, {"x": ["batch", 8], "b": [8]})
    assert refused(ConfigurationError, workspace) == (
        f"model.onnx: operator {domain}.{operator} of node 'node_g' is none of ONNX's own, so that the shape of what "
        "it gives is not known and --flops cannot help: export the network with standard operators in its place"
    )


def test_a_free_size_names_shape(workspace: Path) -> None:
    write_graph(workspace / "build" / "digits" / "model.onnx", [node("Relu", "x", "y")], {"x": ["batch", "tokens"]})
    message = refused(ConfigurationError, workspace)
    assert message == "model.onnx has a free size 'tokens': pass --shape tokens=N, what requests have there"
    assert "'token': expected --shape for tokens" in refused(ConfigurationError, workspace, shapes={"token": 3})
    assert free_sizes(workspace, "digits", 5) == {"tokens": 5}
    found = analyse(workspace, "digits", Question("a100", (2,), {"tokens": 5}))
    assert found.batches[0].total("flops") == 10


def test_a_size_that_no_graph_has(built: Path) -> None:
    message = refused(ConfigurationError, built, shapes={"tokens": 3})
    assert message == "digits has no free size 'tokens': expected no --shape, all its sizes but the batch are fixed"


def test_a_size_without_a_name(workspace: Path) -> None:
    write_graph(workspace / "build" / "digits" / "model.onnx", [node("Relu", "x", "y")], {"x": ["batch", None]})
    assert "input 'x' has a dimension with neither size nor name: " in refused(ConfigurationError, workspace)


@pytest.mark.parametrize("others", [("rows",), (None,), ("batch",)])
def test_a_first_dimension_that_is_free_and_has_no_name_is_taken_for_the_batch_which_is_said(
    workspace: Path, others: tuple[str | None, ...]
) -> None:
    """As skl2onnx leaves it, of one input or of several."""
    path = workspace / "build" / "digits" / "model.onnx"
    nodes = [node("Relu", "x", "y"), node("Relu", "z", "w")]
    write_graph(path, nodes, {"x": [None, 8], "z": [others[0], 4]}, outputs=("y", "w"))
    before = path.read_bytes()
    sizes = {name: 5 for name in others if name}
    found = analyse(workspace, "digits", Question("a100", (1, 4), shapes=sizes))
    rows = 5 if sizes else 4
    assert sorted(layer.layer.flops for layer in found.batches[1].layers) == [rows * 4, 4 * 8]
    assert ("batch", "a free first dimension has no name: taken for the batch") in report.about(found)
    assert report.to_json(found)["batch_assumed"]
    assert path.read_bytes() == before
    write_graph(path, [node("Relu", "x", "y")], {"x": ["n", 8]})
    assert "batch" not in dict(report.about(analyse(workspace, "digits", Question("a100", (1,)))))


def test_a_fixed_batch_is_not_passed_off_as_another(workspace: Path) -> None:
    write_graph(workspace / "build" / "digits" / "model.onnx", [node("Relu", "x", "y")], {"x": [4, 8]})
    message = refused(ConfigurationError, workspace, batches=(4, 8))
    assert message.startswith("model.onnx is exported with a batch of 4, not 8: pass --batch 4, or ")
    assert analyse(workspace, "digits", Question("a100", (4,))).batches[0].batch == 4


def test_a_shape_that_depends_on_data(tmp_path: Path) -> None:
    nodes = [node("NonZero", "x", "where"), node("Transpose", "where", "y")]
    path = write_graph(tmp_path / "g.onnx", nodes, {"x": ["batch", 8]}, outputs=())
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.INT64, ["found", 2]))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ConfigurationError, match=r"shape of '.*' \(NonZero\).* depends on the data: pass --shape"):
        layers_of(path)


def body(name: str, inputs: Sequence[onnx.ValueInfoProto] = ()) -> onnx.GraphProto:
    outputs = [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)]
    return helper.make_graph([node(name, "x", f"{name}_out")], name, list(inputs), outputs)


def test_loops_and_choices(tmp_path: Path) -> None:
    choice = node("If", "c", "y", then_branch=body("Relu"), else_branch=body("Neg"))
    yes = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    path = write_graph(tmp_path / "if.onnx", [choice], {"x": ["batch", 8], "c": yes})
    with pytest.raises(ConfigurationError, match="operator If of node 'node_y' repeats or chooses by its data"):
        layers_of(path)
    inside = helper.make_graph(
        [node("Relu", "v", "v_out"), node("Identity", "go", "go_out")],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_out", TensorProto.FLOAT, None),
        ],
    )
    often = helper.make_tensor_value_info("n", TensorProto.INT64, [])
    loop = node("Loop", "n c x", "y", body=inside)
    path = write_graph(tmp_path / "loop.onnx", [loop], {"x": [8, 8], "n": often, "c": yes})
    with pytest.raises(ConfigurationError, match="operator Loop of node 'node_y' repeats or chooses by its data"):
        layers_of(path)


def test_a_file_that_is_no_graph(workspace: Path) -> None:
    path = workspace / "build" / "digits" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert re.match(r".*model.onnx is no ONNX graph \(.*\): build the model first$", refused(ExportError, workspace))
    path.write_bytes(b"")
    assert "ONNX Runtime cannot open" in refused(ExportError, workspace)


def test_a_model_that_is_not_built_or_not_there(workspace: Path) -> None:
    assert refused(DataError, workspace).endswith("run `slipway build digits`")
    with pytest.raises(ConfigurationError, match="nope"):
        analyse(workspace, "nope", Question("a100"))


def test_the_command_gives_one_line_and_an_exit_code(workspace: Path) -> None:
    result = slipway(workspace, "roofline", "digits", "--device", "a100")
    assert result.returncode == 1
    assert error_lines(result) == [
        f"error: model 'digits' has no exported graph in {workspace}/build/digits: run `slipway build digits`"
    ]


@pytest.mark.parametrize(
    ("option", "line"),
    [
        (("--batch", "1,two"), "error: --batch 1,two: expected whole numbers separated by commas"),
        (("--shape", "tokens"), "error: --shape tokens: expected NAME=VALUE with a whole number"),
    ],
)
def test_an_option_that_is_not_understood_is_a_usage_error(option: tuple[str, str], line: str, workspace: Path) -> None:
    result = slipway(workspace, "roofline", "digits", "--device", "a100", *option)
    assert (result.returncode, error_lines(result)) == (2, [line])


def test_the_command_prints_tables_json_and_a_page(built: Path) -> None:
    result = slipway(built, "roofline", "digits", "--device", "rtx-4090", "--batch", "1,4", "--html")
    assert result.returncode == 0, result.stderr
    assert "NVIDIA GeForce RTX 4090" in result.stdout
    assert "Gemm+Relu" in result.stdout
    page = built / "build" / "digits" / "roofline-rtx4090-fp32.html"
    assert result.stdout.rstrip().endswith(f"written: {page}")
    assert page.read_text().startswith("<!doctype html>")
    as_json = slipway(built, "roofline", "digits", "--device", "a100", "--batch", "4", "--json")
    found = json.loads(as_json.stdout)
    assert found["device"]["key"] == "a100"
    assert [one["batch"] for one in found["batches"]] == [4]
