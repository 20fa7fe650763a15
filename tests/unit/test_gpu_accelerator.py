"""`triton.gpu_accelerator`: what config.pbtxt tells ONNX Runtime of TensorRT, and what stays as it is without it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper
from tritonclient.grpc import model_config_pb2 as pb

from model_build.config import EmbedderConfig, ServedConfig, TritonConfig, load_config
from model_build.precision.variants import Graph
from model_build.recipe import ServedModel, as_text
from model_build.stages.layout import STAGED_BASE
from model_build.stages.staging import Staging
from model_build.triton_config import ensemble, graph_model, on_gpu, python_model, to_text
from tests.precision_trials import chain, probe
from tests.support import ROOT


def config(accelerator: str = "tensorrt", model: str = "digits") -> ServedConfig:
    found = load_config(ROOT, model)
    assert isinstance(found, ServedConfig)
    return replace(found, triton=replace(found.triton, max_batch_size=7, gpu_accelerator=accelerator))


def graph(*shape: int | str, name: str = "x", factor: float = 2.0) -> bytes:
    """`y = factor * x`."""
    x, y = (helper.make_tensor_value_info(one, TensorProto.FLOAT, shape) for one in (name, "y"))
    constant = helper.make_tensor("factor", TensorProto.FLOAT, [], [factor])
    made = helper.make_graph([helper.make_node("Mul", [name, "factor"], ["y"])], "g", [x], [y], [constant])
    model: onnx.ModelProto = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def served(content: bytes | Graph, triton: TritonConfig | None = None) -> ServedModel:
    return graph_model("made", content, triton or config().triton, files={}, inputs={}, outputs={})


def parsed(message: Any) -> Any:
    """As Triton reads the file."""
    return text_format.Parse(to_text(message, "made").decode(), pb.ModelConfig())


def parameters(model: ServedModel, found: ServedConfig) -> dict[str, str]:
    message = parsed(on_gpu(model, found))
    accelerators = message.optimization.execution_accelerators
    assert not accelerators.cpu_execution_accelerator
    (accelerator,) = accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    return dict(accelerator.parameters)


def test_without_an_accelerator_the_files_are_the_bytes_that_they_were() -> None:
    model, default = served(graph("n", 4)), load_config(ROOT, "digits")
    assert isinstance(default, ServedConfig)
    assert default.triton.gpu_accelerator == "none"
    assert to_text(on_gpu(model, default), "made") == to_text(model.gpu, "made")
    assert b"optimization" not in to_text(on_gpu(model, default), "made")


def test_tensorrt_is_named_with_a_cache_for_these_weights_and_one_profile_for_every_batch() -> None:
    content = graph("n", 4, 5)
    assert parameters(served(content), config()) == {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "/tmp",
        "trt_engine_cache_prefix": f"made-{hashlib.sha256(content).hexdigest()[:12]}",
        "trt_profile_min_shapes": "x:1x4x5",
        "trt_profile_opt_shapes": "x:7x4x5",
        "trt_profile_max_shapes": "x:7x4x5",
    }


def test_an_accelerator_is_all_that_differs_and_a_cpus_file_is_the_same() -> None:
    model = served(graph("n", 4))
    before, message = parsed(model.gpu), parsed(on_gpu(model, config()))
    message.ClearField("optimization")
    assert message == before
    assert parsed(model.gpu) == before, "the model itself was changed"
    assert not parsed(model.cpu).HasField("optimization")


def test_other_weights_never_find_the_engine_of_the_old_ones() -> None:
    """ONNX Runtime's own name of an engine is of names and operators (microsoft/onnxruntime#6455)."""
    first, second = (parameters(served(graph("n", 4, factor=factor)), config()) for factor in (2.0, 3.0))
    assert first.pop("trt_engine_cache_prefix") != second.pop("trt_engine_cache_prefix")
    assert first == second


def test_of_a_graph_in_two_forms_it_is_the_one_for_tensorrt() -> None:
    cpu, gpu = graph("n", 4), graph("n", 4, factor=3.0)
    model = served(Graph(cpu, gpu))
    assert model.gpu.default_model_filename == "model.tensorrt.onnx"
    prefix = parameters(model, config())["trt_engine_cache_prefix"]
    assert prefix == f"made-{hashlib.sha256(gpu).hexdigest()[:12]}"


def test_the_tokens_of_an_embedder_are_those_that_its_tokenizer_makes() -> None:
    found = config(model="embedder")
    assert isinstance(found, EmbedderConfig)
    found = replace(found, pretrained=replace(found.pretrained, max_tokens=64, pad_to_multiple_of=8))
    known = parameters(served(graph("batch", "tokens")), found)
    assert [known[f"trt_profile_{which}_shapes"] for which in ("min", "opt", "max")] == ["x:1x8", "x:7x32", "x:7x64"]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(graph("n", "length"), id="a dimension that the configuration says nothing of"),
        pytest.param(graph(1, 4), id="none is open"),
        pytest.param(graph("n", 4, name="input:0"), id="a name that ONNX Runtime would cut in two"),
    ],
)
def test_where_a_profile_cannot_be_said_there_is_none(content: bytes) -> None:
    assert set(parameters(served(content), config())) == {
        "trt_engine_cache_enable",
        "trt_engine_cache_path",
        "trt_engine_cache_prefix",
    }


def test_python_models_and_ensembles_are_left_alone() -> None:
    text = as_text(["one"])
    python = python_model(
        "made_text", config().triton, files={}, parameters={}, inputs={"text": text}, outputs={"x": np.ones((1, 4))}
    )
    whole = ensemble("made", config().triton, [(python, {"text": "text"}, {"x": "x"})], {})
    for model in (python, whole):
        assert on_gpu(model, config()) is model.gpu


def test_what_is_staged_has_the_accelerator_in_config_pbtxt_and_not_in_a_cpus(tmp_path: Path) -> None:
    recipe, files = probe(tmp_path, chain())
    triton = replace(recipe.config.triton, gpu_accelerator="tensorrt")
    recipe.config = replace(recipe.config, triton=triton)
    with Staging(files, recipe, {}) as staging:
        staging.write({STAGED_BASE: recipe.serve(files)}, "probe", None)
        folder = staging.folder / "probe_fp32"
        gpu, cpu = ((folder / name).read_text() for name in ("config.pbtxt", "configs/cpu.pbtxt"))
    (accelerator,) = text_format.Parse(
        gpu, pb.ModelConfig()
    ).optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.parameters["trt_profile_max_shapes"] == "x:32x8"
    assert "optimization" not in cpu
