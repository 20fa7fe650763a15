"""examples/torch_compile: what is prepared, and the Python model's logic; the compiler itself is not run here."""

from __future__ import annotations

import ast
import importlib.util
import json
import locale
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf import json_format, text_format
from safetensors.torch import save_file
from slipway_client._local_backend import backend_module
from slipway_client._local_request import InferenceRequest, Tensor, TritonModelException
from tritonclient.grpc import model_config_pb2 as pb

from examples.torch_compile.prepare import prepare
from model_build import BuildError
from model_build.config import SingleGraphConfig, load_config
from model_build.dataset import Dataset
from model_build.files import write_file
from model_build.models.digits import Digits
from model_build.onnx_export import open_session
from model_build.stages.layout import BuildFiles
from serving._repository import verified_models
from tests.support import ROOT

EXAMPLE = ROOT / "examples" / "torch_compile"
CONF = Path("model_build", "conf", "digits.yaml")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which digits has weights, of no training, and an ONNX file of them; the example is prepared."""
    folder = tmp_path_factory.mktemp("workspace")
    write_file(folder / CONF, (ROOT / CONF).read_bytes())
    recipe, files = digits(folder)
    torch.manual_seed(3)
    files.folder.mkdir(parents=True)
    save_file(recipe.network().state_dict(), files.weights)
    images = torch.rand(40, 1, 28, 28).numpy()
    part = (images, np.zeros(40, np.int64))
    write_file(files.data, Dataset(*part, *part, *part, source="numbers", source_sha256="0").to_bytes())
    recipe.export(files)
    prepare(folder)
    return folder


def digits(workspace: Path) -> tuple[Digits, BuildFiles]:
    config = load_config(workspace, "digits")
    assert isinstance(config, SingleGraphConfig)
    return Digits(config), BuildFiles(workspace, "digits")


@pytest.fixture
def folder(workspace: Path) -> Path:
    return workspace / "build" / "torch_compile" / "repository" / "digits_compiled"


def read(name: str) -> Any:
    return text_format.Parse((EXAMPLE / "digits_compiled" / name).read_text(), pb.ModelConfig())


def test_both_configurations_serve_what_digits_does_in_an_environment_of_their_own() -> None:
    config = load_config(ROOT, "digits")
    assert isinstance(config, SingleGraphConfig)
    gpu, cpu = read("config.pbtxt"), read("configs/cpu.pbtxt")
    for message in (gpu, cpu):
        assert (message.name, message.backend) == ("digits_compiled", "python")
        assert message.max_batch_size == config.triton.max_batch_size
        assert message.dynamic_batching.max_queue_delay_microseconds == config.triton.max_queue_delay_us
        assert [(one.name, one.data_type, [*one.dims]) for one in (*message.input, *message.output)] == [
            ("image", pb.TYPE_FP32, [1, 28, 28]),
            ("probabilities", pb.TYPE_FP32, [10]),
        ]
        assert message.parameters["EXECUTION_ENV_PATH"].string_value
    assert [group.kind for group in gpu.instance_group] == [pb.ModelInstanceGroup.KIND_GPU]
    assert [group.kind for group in cpu.instance_group] == [pb.ModelInstanceGroup.KIND_CPU]


def test_the_environment_has_the_torch_that_exports_and_the_numpy_that_triton_needs() -> None:
    pinned = {line for line in (EXAMPLE / "requirements.txt").read_text().splitlines() if not line.startswith("#")}
    locked = {*(ROOT / "requirements.lock").read_text().splitlines()}
    served = {*(ROOT / "serving" / "requirements-models.txt").read_text().splitlines()}
    assert {re.split("==", one)[0] for one in pinned} == {"torch", "numpy"}
    assert pinned <= locked | served
    assert "numpy==1.26.4" in pinned


def test_the_model_needs_nothing_but_torch() -> None:
    tree = ast.parse((EXAMPLE / "digits_compiled" / "1" / "model.py").read_text())
    names = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    tops = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
    assert tops == {"torch", "triton_python_backend_utils"}


def test_what_is_prepared_is_a_repository_that_slipway_serve_takes(folder: Path) -> None:
    assert [model.name for model in verified_models(folder.parent)] == ["digits_compiled"]
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        "1/digits.pt2",
        "1/model.py",
        "config.pbtxt",
        "configs/cpu.pbtxt",
        "golden/request.json",
        "golden/response.json",
        "labels.txt",
        "manifest.json",
    }


def test_the_program_answers_as_the_onnx_file_does_in_every_batch(workspace: Path, folder: Path) -> None:
    session = open_session(digits(workspace)[1].onnx.read_bytes())
    network: Any = torch.export.load(folder / "1" / "digits.pt2").module()
    for size in (1, 2, 7, 32):
        images = np.random.default_rng(size).random((size, 1, 28, 28), np.float32)
        with torch.inference_mode():
            found = network(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(found, session.run(None, {"image": images})[0], rtol=0, atol=1e-5)


def test_without_a_build_of_digits_it_says_what_to_run(tmp_path: Path) -> None:
    write_file(tmp_path / CONF, (ROOT / CONF).read_bytes())
    with pytest.raises(BuildError, match=r"weights\.safetensors does not exist: run `slipway build digits` first"):
        prepare(tmp_path)
    assert not (tmp_path / "build").exists()


@pytest.fixture
def load(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], Any]]:
    """Loads the model with another function in place of torch.compile, as Triton's stub would on a CPU."""
    threads, language = torch.get_num_threads(), locale.setlocale(locale.LC_CTYPE)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend_module(folder / "1"))

    def with_compiler(stub: Any) -> Any:
        monkeypatch.setattr(torch, "compile", stub)
        model = module(folder / "1" / "model.py").TritonPythonModel()
        message = text_format.Parse((folder / "configs" / "cpu.pbtxt").read_text(), pb.ModelConfig())
        arguments = {
            "model_config": json.dumps(json_format.MessageToDict(message, preserving_proto_field_name=True)),
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
            "model_repository": str(folder),
            "model_version": "1",
        }
        model.initialize(arguments)
        return model

    yield with_compiler
    torch.set_num_threads(threads)
    locale.setlocale(locale.LC_CTYPE, language)


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("digits_compiled_model", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_with_torch_compile_stubbed_requests_of_one_batch_get_their_own_rows_and_the_golden_answer(
    folder: Path, load: Callable[[Any], Any]
) -> None:
    runs: list[int] = []

    def stub(network: Callable[..., Any], *, dynamic: bool) -> Callable[..., Any]:
        assert dynamic

        def run(images: torch.Tensor) -> Any:
            runs.append(len(images))
            return network(images)

        return run

    model = load(stub)
    assert runs == list(range(1, 33)), "a size that was not compiled before the first request"
    runs.clear()
    (golden,) = json.loads((folder / "golden" / "request.json").read_text())["inputs"]
    first = np.array(golden["data"], np.float32).reshape(golden["shape"])
    images = [first, np.random.default_rng(1).random((3, 1, 28, 28), np.float32)]
    requests = [InferenceRequest(inputs=[Tensor("image", one)]) for one in images]
    answers = [response.output_tensors()[0].as_numpy() for response in model.execute(requests)]
    assert runs == [4], "the batch was not run at once"
    assert [one.shape for one in answers] == [(1, 10), (3, 10)]
    (expected,) = json.loads((folder / "golden" / "response.json").read_text())["outputs"]
    np.testing.assert_allclose(answers[0].ravel(), expected["data"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(answers[1].sum(axis=1), 1, rtol=0, atol=1e-5)


def test_with_torch_compile_stubbed_a_machine_without_a_compiler_is_one_line_that_says_what_to_install(
    load: Callable[[Any], Any],
) -> None:
    def stub(network: Callable[..., Any], *, dynamic: bool) -> Callable[..., Any]:
        def run(images: torch.Tensor) -> Any:
            raise RuntimeError("No working C++ compiler found\n\nSet TORCHDYNAMO_VERBOSE=1")

        return run

    with pytest.raises(TritonModelException) as refused:
        load(stub)
    assert str(refused.value) == (
        "torch.compile cannot run here (RuntimeError: No working C++ compiler found): it needs a C++ compiler and "
        "Python's headers where Triton runs (Debian, Ubuntu: g++ and python3-dev)"
    )
