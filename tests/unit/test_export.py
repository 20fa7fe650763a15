"""The exported graph: pinned versions, dynamic batch, same answers as PyTorch, same bytes each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from google.protobuf import text_format
from safetensors.torch import save_file
from torch import nn
from tritonclient.grpc import model_config_pb2 as pb

from model_build import ExportError
from model_build.config import ExportConfig, SingleGraphConfig, load_config
from model_build.dataset import Dataset
from model_build.models.digits import Digits
from model_build.onnx_export import export_onnx, open_session, parity
from model_build.recipe import ServedModel
from model_build.stages.layout import BuildFiles
from model_build.triton_config import to_text
from tests.support import ROOT

IMAGES = np.random.default_rng(5).random((32, 1, 28, 28), dtype=np.float32)


@pytest.fixture(scope="module")
def recipe() -> Digits:
    config = load_config(ROOT, "digits")
    assert isinstance(config, SingleGraphConfig)
    return Digits(config)


def fresh(recipe: Digits, seed: int) -> nn.Module:
    """What would be served of a network with these initial weights."""
    torch.manual_seed(seed)
    return recipe.serving_network(recipe.network()).eval()


@pytest.fixture(scope="module")
def files(recipe: Digits, tmp_path_factory: pytest.TempPathFactory) -> BuildFiles:
    """What stage export reads, and what it wrote."""
    files = BuildFiles(tmp_path_factory.mktemp("workspace"), "digits")
    files.folder.mkdir(parents=True)
    labels = np.arange(32) % 10
    files.data.write_bytes(Dataset(IMAGES, labels, IMAGES, labels, IMAGES, labels, "random", "0").to_bytes())
    torch.manual_seed(0)
    save_file(recipe.network().state_dict(), files.weights)
    assert recipe.export(files).startswith("opset 20, IR 10, within ")
    return files


@pytest.fixture(scope="module")
def exported(files: BuildFiles) -> bytes:
    return files.onnx.read_bytes()


@pytest.fixture(scope="module")
def served(recipe: Digits, files: BuildFiles) -> ServedModel:
    (model,) = recipe.serve(files)
    return model


def test_versions_are_the_configured_ones_and_any_batch_size_runs(recipe: Digits, exported: bytes) -> None:
    model = onnx.load_from_string(exported)
    assert model.ir_version == recipe.config.export.ir_version
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == recipe.config.export.opset
    session = ort.InferenceSession(exported)
    for size in (1, 3, 32):
        (answer,) = session.run(None, {"image": IMAGES[:size]})
        assert answer.shape == (size, 10)
        np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-5)


def test_the_graph_gives_the_probabilities_that_pytorch_gives(recipe: Digits, exported: bytes) -> None:
    (answer,) = open_session(exported).run(["probabilities"], {"image": IMAGES})
    with torch.no_grad():
        wanted = fresh(recipe, 0)(torch.from_numpy(IMAGES)).numpy()
    np.testing.assert_allclose(answer, wanted, atol=recipe.config.export.parity_atol)


def test_the_same_weights_give_the_same_bytes_which_name_no_path_of_this_machine(
    recipe: Digits, files: BuildFiles, exported: bytes
) -> None:
    recipe.export(files)
    assert files.onnx.read_bytes() == exported
    assert str(ROOT).encode() not in exported
    assert str(Path(torch.__file__).parent).encode() not in exported


def test_a_graph_that_computes_something_else_is_refused(recipe: Digits, exported: bytes) -> None:
    batches = [{"image": IMAGES}]
    with pytest.raises(ExportError, match=r"differs from PyTorch by .*parity_atol allows 1e-05"):
        parity(fresh(recipe, 1), open_session(exported), batches, recipe.config.export.parity_atol)
    assert parity(fresh(recipe, 0), open_session(exported), batches, recipe.config.export.parity_atol) < 1e-5


def test_a_network_that_gives_no_numbers_is_refused_and_not_taken_for_an_equal_one(
    recipe: Digits, exported: bytes
) -> None:
    network = fresh(recipe, 0)
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(ExportError, match="differs from PyTorch by nan"):
        parity(network, open_session(exported), [{"image": IMAGES}], 1e-5)


def test_an_opset_that_pytorch_does_not_export_is_refused_with_the_one_that_it_does(recipe: Digits) -> None:
    with pytest.raises(ExportError, match=r"PyTorch exported opset \d+ where export.opset asks for 7: ask for \d+"):
        export_onnx(
            nn.ReLU().eval(),
            (torch.rand(2, 3),),
            inputs=["x"],
            outputs=["y"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            config=ExportConfig(opset=7, ir_version=10, parity_atol=1e-5),
        )


class Undecided(nn.Module):
    """Its shape follows from what is in its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else x


def test_a_network_that_pytorch_cannot_export_is_refused_in_one_line(recipe: Digits) -> None:
    with pytest.raises(ExportError, match=r"PyTorch cannot export the network \(.*: change what it names") as refused:
        export_onnx(
            Undecided().eval(),
            (torch.rand(2, 3),),
            inputs=["x"],
            outputs=["y"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            config=recipe.config.export,
        )
    assert "\n" not in str(refused.value)


def test_config_pbtxt_is_one_triton_reads_with_the_kind_of_each_target(recipe: Digits, served: ServedModel) -> None:
    gpu, cpu = (
        text_format.Parse(to_text(message, "digits").decode(), pb.ModelConfig()) for message in (served.gpu, served.cpu)
    )
    for message in (gpu, cpu):
        assert (message.name, message.backend, message.max_batch_size) == ("digits_fp32", "onnxruntime", 32)
        assert [(t.name, t.data_type, list(t.dims)) for t in message.input] == [("image", pb.TYPE_FP32, [1, 28, 28])]
        assert [(t.name, list(t.dims), t.label_filename) for t in message.output] == [
            ("probabilities", [10], "labels.txt")
        ]
        assert message.dynamic_batching.max_queue_delay_microseconds == recipe.config.triton.max_queue_delay_us
    assert gpu.instance_group[0].kind == pb.ModelInstanceGroup.KIND_GPU
    assert cpu.instance_group[0].kind == pb.ModelInstanceGroup.KIND_CPU
    assert cpu.parameters["intra_op_thread_count"].string_value == str(recipe.config.triton.cpu_threads)


def test_the_emitted_configuration_in_git_is_that_of_the_model_configuration(served: ServedModel) -> None:
    folder = ROOT / "model_repository" / "digits_fp32"
    assert (folder / "config.pbtxt").read_bytes() == to_text(served.gpu, "digits")
    assert (folder / "configs" / "cpu.pbtxt").read_bytes() == to_text(served.cpu, "digits")
    assert (folder / "labels.txt").read_bytes() == served.files["labels.txt"]


def test_the_golden_answer_is_the_graphs_own(served: ServedModel, exported: bytes) -> None:
    assert served.files["1/model.onnx"] == exported
    np.testing.assert_array_equal(served.inputs["image"], IMAGES[:1])
    (answer,) = open_session(exported).run(None, dict(served.inputs))
    np.testing.assert_array_equal(served.outputs["probabilities"], answer)


class Table(nn.Module):
    """Looks up and multiplies; the exporter names what is between by its parts: `embedding`, `linear`."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(10, 4), nn.Linear(4, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.linear(self.embedding(tokens))
        return answer


def export_table(given: str, answer: str) -> bytes:
    return export_onnx(
        Table().eval(),
        (torch.randint(0, 10, (2, 5)),),
        inputs=[given],
        outputs=[answer],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        config=ExportConfig(opset=20, ir_version=10, parity_atol=1e-5),
    )


@pytest.mark.parametrize(
    ("given", "answer"),
    [("x", "embedding"), ("embedding", "linear"), ("x", "val_0"), ("embedding.weight", "y"), ("x", "linear.weight")],
)
def test_inputs_and_outputs_may_be_named_like_what_the_exporter_makes(given: str, answer: str) -> None:
    torch.manual_seed(0)
    session = open_session(export_table(given, answer))
    assert [one.name for one in session.get_inputs()] == [given]
    assert [one.name for one in session.get_outputs()] == [answer]
    torch.manual_seed(0)
    assert parity(Table().eval(), session, [{given: np.arange(10).reshape(2, 5)}], 1e-5) < 1e-5


def test_one_name_for_an_input_and_an_output_is_one_line() -> None:
    with pytest.raises(ExportError, match=r"^inputs \['x'\] and outputs \['x'\] have 'x' twice: name each once$"):
        export_table("x", "x")


class Given(nn.Module):
    """Answers what it was made with, whatever is asked."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: torch.Tensor) -> Any:
        return self.answer


def identity(kind: int, shape: list[int]) -> ort.InferenceSession:
    tensors = [onnx.helper.make_tensor_value_info(name, kind, shape) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", tensors[:1], tensors[1:])
    opset = [onnx.helper.make_opsetid("", 20)]
    return open_session(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString())


@pytest.mark.parametrize(
    ("expected", "found", "distance"),
    [
        ([-np.inf, np.nan, 1.0], [-np.inf, np.nan, 1.0], 0.0),
        ([-np.inf, 1.0, 1.0], [-np.inf, 1.0, 1.25], 0.25),
        ([np.inf, 1.0, 1.0], [-np.inf, 1.0, 1.0], np.inf),
        ([0.0, 1.0, 1.0], [np.inf, 1.0, 1.0], np.inf),
        ([0.0, 1.0, 1.0], [np.nan, 1.0, 1.0], np.nan),
        ([np.nan, 1.0, 1.0], [0.0, 1.0, 1.0], np.nan),
        ([np.nan, 1.0, 0.0], [np.nan, 1.0, np.inf], np.inf),
    ],
)
@pytest.mark.parametrize("kind", [onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE])
def test_parity_takes_infinities_and_nan_in_the_same_places_for_equal(
    kind: int, expected: list[float], found: list[float], distance: float
) -> None:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    network, batch = Given(torch.from_numpy(np.array(expected, dtype))), {"x": np.array(found, dtype)}
    session = identity(kind, [3])
    if np.isfinite(distance):
        assert parity(network, session, [batch], 1.0) == distance
    else:
        with pytest.raises(ExportError, match=f"differs from PyTorch by {distance}"):
            parity(network, session, [batch], 1.0)


@pytest.mark.parametrize(
    ("dtype", "expected", "found", "distance"),
    [
        (np.int64, [2**53, 1], [2**53 + 1, 1], 1.0),  # the same in float64
        (np.int64, [5, 1], [1, 1], 4.0),
        (np.bool_, [True, False], [True, False], 0.0),
        (np.bool_, [True, False], [True, True], 1.0),
        (np.float32, [], [], 0.0),
    ],
)
def test_parity_of_whole_numbers_of_truth_and_of_nothing(
    dtype: Any, expected: list[Any], found: list[Any], distance: float
) -> None:
    session = identity(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [len(found)])
    answer = torch.from_numpy(np.array(expected, dtype))
    assert parity(Given(answer), session, [{"x": np.array(found, dtype)}], 10.0) == distance


@pytest.mark.parametrize(
    "wrap",
    [lambda one: {"y": one}, lambda one: [(one, None)], lambda one: one.bfloat16(), nn.Parameter],
)
def test_parity_takes_answers_as_torch_export_does(wrap: Callable[[torch.Tensor], Any]) -> None:
    session = identity(onnx.TensorProto.FLOAT, [2])
    assert parity(Given(wrap(torch.tensor([1.0, 2.0]))), session, [{"x": np.array([1, 2], np.float32)}], 0.1) == 0.0


def test_an_answer_of_another_shape_is_no_equal_one_although_numpy_would_stretch_it() -> None:
    session = identity(onnx.TensorProto.FLOAT, [2])
    with pytest.raises(ExportError, match=r"^ONNX Runtime gives 'y' \[2\] where PyTorch gives \[2, 1\]: the exported"):
        parity(Given(torch.ones(2, 1)), session, [{"x": np.ones(2, np.float32)}], 0.1)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((torch.ones(2), torch.ones(2)), r"PyTorch gives 2 tensors where the exported graph has 1, \['y'\]: "),
        ((), "PyTorch gives 0 tensors where the exported graph has 1"),
        (torch.ones(2).to(torch.float8_e4m3fn), r"output 'y' is torch\.float8_e4m3fn .* dense tensor of float32"),
        (torch.ones(2).to_sparse(), r"output 'y' is torch\.float32 \(torch\.sparse_coo\), which cannot be compared"),
    ],
)
def test_an_answer_that_cannot_be_compared_is_one_line(answer: Any, reason: str) -> None:
    session = identity(onnx.TensorProto.FLOAT, [2])
    with pytest.raises(ExportError, match=f"^{reason}") as refused:
        parity(Given(answer), session, [{"x": np.ones(2, np.float32)}], 0.1)
    assert "\n" not in str(refused.value)
