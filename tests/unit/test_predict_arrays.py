"""`slipway predict` with models of arrays: .npy and .npz files, tables, and bad input in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from slipway_client import InvalidInput, ModelSpec, TensorSpec, check_inputs, read_example, read_inputs

from tests.support import error_lines, slipway, write_manifest, write_model

ROWS = TensorSpec("row", "FP32", (-1, 3))


def softmax_model(repository: Path, name: str, *, batched: bool = True, rank: int = 1) -> Path:
    """`row` FP32 [3] to `probabilities`, the softmax of it: the largest of the three is the class."""
    shape: list[str | int] = [*(["n"] if batched else []), *[1] * (rank - 1), 3]
    graph = helper.make_graph(
        [helper.make_node("Softmax", ["row"], ["probabilities"], axis=-1)],
        name,
        [helper.make_tensor_value_info("row", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    dims = [size for size in shape if size != "n"]
    config = (
        f'name: "{name}" backend: "onnxruntime" max_batch_size: {4 * batched} '
        f'input {{ name: "row" data_type: TYPE_FP32 dims: {dims} }} '
        f'output {{ name: "probabilities" data_type: TYPE_FP32 dims: {dims} }} '
        "instance_group { kind: KIND_CPU count: 1 }"
    )
    example = np.zeros([1 if size == "n" else int(size) for size in shape], np.float32)
    return write_model(repository, name, model, config, {"row": example})


def sum_model(repository: Path) -> None:
    """`left` and `right` to `sum`: a model of two arrays."""
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in ("left", "right", "sum")]
    graph = helper.make_graph([helper.make_node("Add", ["left", "right"], ["sum"])], "sum", tensors[:2], tensors[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    inputs = " ".join(f'input {{ name: "{name}" data_type: TYPE_FP32 dims: [3] }}' for name in ("left", "right"))
    config = f'name: "sum" backend: "onnxruntime" max_batch_size: 4 {inputs} '
    zeros = np.zeros((1, 3), np.float32)
    config += 'output { name: "sum" data_type: TYPE_FP32 dims: [3] }'
    write_model(repository, "sum", model, config, {"left": zeros, "right": zeros})


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is a workspace to `slipway predict --local`."""
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "dvc.yaml").touch()
    (folder / "model_build" / "conf").mkdir(parents=True)
    repository = folder / "model_repository"
    labelled = softmax_model(repository, "rows")
    (labelled / "labels.txt").write_text("red\ngreen\nblue\n")
    write_manifest(labelled)
    softmax_model(repository, "unbatched", batched=False)
    softmax_model(repository, "table", rank=2)
    sum_model(repository)
    for name, array in ARRAYS.items():
        np.save(folder / name, array)
    (folder / "photo.png").touch()
    (folder / "photo.npz").touch()
    ones = np.ones(3, np.float32)
    np.savez(folder / "left.npz", left=ones)
    np.savez(folder / "long.npz", left=ones, right=np.ones(4, np.float32))
    np.savez(folder / "both.npz", left=ones, right=np.array([[0.25, np.nan, np.inf]], np.float32))
    return folder


ARRAYS: dict[str, Any] = {
    "blue.npy": np.array([0, 1, 5], np.float32),
    "red.npy": np.array([[5, 1, 0]], np.float32),
    "half.npy": np.array([0, 5, 1], np.float16),
    "double.npy": np.array([0.0, 5.0, 1.0]),
    "long.npy": np.zeros(4, np.float32),
    "several.npy": np.zeros((2, 3), np.float32),
    "scalar.npy": np.float32(1),
    "nan.npy": np.array([np.nan, 1, 2], np.float32),
}


def test_arrays_get_a_table_of_their_classes_and_json_has_them_too(workspace: Path) -> None:
    files = ["blue.npy", "red.npy", "half.npy"]
    result = slipway(workspace, "predict", "--local", "rows", *files)
    assert result.returncode == 0, result.stderr
    head, *rows = [line.split() for line in result.stdout.splitlines()]
    assert head == ["file", "class", "probability"]
    largest = np.exp(5) / np.exp([5, 1, 0]).sum()
    assert rows == [
        [file, label, f"{largest:.4f}"] for file, label in zip(files, ("blue", "red", "green"), strict=True)
    ]
    (answer,) = json.loads(slipway(workspace, "predict", "--local", "rows", "red.npy", "--json").stdout)
    assert answer == {
        "file": "red.npy",
        "class": "red",
        "probability": pytest.approx(largest),
        "model": "rows",
        "version": "1",
    }


def test_a_model_without_batches_or_labels_gives_the_number_of_the_class(workspace: Path) -> None:
    result = slipway(workspace, "predict", "--local", "unbatched", "blue.npy")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[1].split()[:2] == ["blue.npy", "2"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["rows", "photo.png"],
            1,
            "photo.png: expected one example of input 'row' (FP32 [3]) in a .npy file, got a .png file",
        ),
        (["rows", "red"], 1, "red: expected one example of input 'row' (FP32 [3]) in a .npy file, got another file"),
        (["rows", "absent.npy"], 1, "absent.npy: expected a .npy file, got no such file"),
        (["rows", "red.npy", "long.npy"], 1, "long.npy: expected one example of input 'row' (FP32 [3]) in a .npy file"),
        (["rows", "several.npy"], 1, "(FP32 [3]) in a .npy file, got shape [2, 3]"),
        (["rows", "scalar.npy"], 1, "(FP32 [3]) in a .npy file, got shape []"),
        (
            ["rows", "double.npy"],
            1,
            "double.npy: expected an array of float32, got float64: save it with `array.astype(numpy.float32)`",
        ),
        (["rows"], 2, "nothing to ask: pass image, .npy or .npz files"),
        (["rows", "--file", "x.txt"], 2, "model 'rows' takes FP32 [n, 3]: pass image, .npy or .npz files"),
        (["sum", "--file", "x.txt"], 2, "model 'sum' takes FP32 [n, 3], FP32 [n, 3]: pass image, .npy or .npz files"),
        (
            ["sum", "red.npy"],
            1,
            "red.npy: expected the 2 inputs of model 'sum' (left FP32 [n, 3], right FP32 [n, 3]) in a .npz file, which "
            "`numpy.savez('example.npz', left=numpy.zeros((1, 3), 'float32'), right=numpy.zeros((1, 3), 'float32'))` "
            "writes, got a .npy file",
        ),
        (["sum", "left.npz"], 1, "left.npz: expected a .npz file with the inputs ['left', 'right'], got ['left']"),
        (["sum", "absent.npz"], 1, "absent.npz: expected a .npz file with the inputs ['left', 'right'], got no such"),
        (["sum", "photo.npz"], 1, "photo.npz: expected a .npz file with the inputs ['left', 'right'], got something"),
        (
            ["sum", "long.npz"],
            1,
            "long.npz, 'right': expected one example of input 'right' (FP32 [3]) in a .npy file, got shape [4]",
        ),
        (
            ["rows", "nan.npy"],
            1,
            "nan.npy: model 'rows' answers NaN in 'probabilities', which is no number: is NaN or infinity in the input",
        ),
        (["rows", "red.npy", "--timeout", "0"], 1, "timeout 0: expected more than 0 seconds"),
    ],
)
def test_bad_input_is_one_line_that_says_what_was_expected(
    workspace: Path, arguments: list[str], code: int, message: str
) -> None:
    result = slipway(workspace, "predict", "--local", *arguments)
    (line,) = error_lines(result)
    assert line.startswith("error: ")
    assert message in line
    assert result.returncode == code
    assert not result.stdout


def test_several_inputs_come_by_name_out_of_one_file_and_json_has_null_for_what_is_no_number(workspace: Path) -> None:
    result = slipway(workspace, "predict", "--local", "sum", "both.npz")
    assert result.returncode == 0, result.stderr
    assert [" ".join(line.split()) for line in result.stdout.splitlines()] == ["file sum", "both.npz [1.25, nan, inf]"]
    printed = slipway(workspace, "predict", "--local", "sum", "both.npz", "--json").stdout
    (answer,) = json.loads(printed, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert answer == {"file": "both.npz", "sum": [1.25, None, None], "model": "sum", "version": "1"}


def test_the_file_that_a_model_of_several_inputs_asks_for_is_written_by_what_it_says(workspace: Path) -> None:
    (line,) = error_lines(slipway(workspace, "predict", "--local", "sum", "red.npy"))
    code = line.split("`")[1]
    subprocess.run([sys.executable, "-c", f"import numpy; {code}"], cwd=workspace, check=True)
    result = slipway(workspace, "predict", "--local", "sum", "example.npz")
    assert result.stdout.splitlines()[1].split() == ["example.npz", "[0,", "0,", "0]"], result.stderr


def test_the_recipe_of_a_file_fits_any_names_and_datatypes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for names in (("x", "y"), ("input.1:0", "a/b"), ("x", "class")):
        kinds = (("BYTES", (-1, 1)), ("BF16", (-1, 2, -1)))
        inputs = tuple(TensorSpec(name, kind, shape) for name, (kind, shape) in zip(names, kinds, strict=True))
        spec = ModelSpec("m", "1", inputs, (), 4)
        with pytest.raises(InvalidInput) as refused:
            read_inputs(Path("x.png"), spec)
        exec(str(refused.value).split("`")[1], {"numpy": np})
        found = check_inputs(spec, read_inputs(Path("example.npz"), spec))
        assert [found[name].tolist() for name in names] == [[[b"text"]], [[[0], [0]]]]


def test_a_first_dimension_that_counts_nothing_is_part_of_the_example(tmp_path: Path) -> None:
    np.save(tmp_path / "wave.npy", np.zeros(160, np.float32))
    np.save(tmp_path / "frames.npy", np.zeros((7, 2), np.float32))
    for name, shape in (("wave", (-1,)), ("frames", (-1, 2))):
        spec = ModelSpec("m", "1", (TensorSpec("x", "FP32", shape),), (), 0)
        assert len(read_inputs(tmp_path / f"{name}.npy", spec)["x"]) in (160, 7)
    np.save(tmp_path / "none.npy", np.zeros((0, 2), np.float32))
    assert read_example(tmp_path / "none.npy", TensorSpec("x", "FP32", (-1, -1, 2))).shape == (1, 0, 2)


def test_an_example_comes_as_the_input_takes_it(tmp_path: Path) -> None:
    np.save(tmp_path / "row.npy", np.arange(3, dtype=np.float32))
    np.save(tmp_path / "column.npy", np.zeros((1, 1), np.float32))
    assert read_example(tmp_path / "row.npy", ROWS).shape == (1, 3)
    assert read_example(tmp_path / "row.npy", TensorSpec("row", "FP32", (3,))).shape == (3,)
    assert read_example(tmp_path / "row.npy", TensorSpec("row", "FP32", (-1, -1))).shape == (1, 3)
    assert read_example(tmp_path / "column.npy", TensorSpec("column", "FP32", (-1, 1, 1))).shape == (1, 1, 1)
    assert read_example(tmp_path / "column.npy", TensorSpec("column", "FP32", (-1, 1))).shape == (1, 1)
    image = TensorSpec("image", "FP32", (-1, 1, 2, 5))
    assert read_example(tmp_path / "row.npy", TensorSpec("row", "FP64", (-1, 3))).shape == (1, 3)
    np.save(tmp_path / "pixels.npy", np.zeros((2, 5)))
    with pytest.raises(InvalidInput, match=r"pixels\.npy: expected an array of float32, got float64"):
        read_example(tmp_path / "pixels.npy", image)
