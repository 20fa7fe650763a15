"""The exported graph: pinned versions, dynamic batch, same answers as PyTorch, same bytes each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from model_build import ExportError
from model_build.config import ModelConfig, load_config
from model_build.recipe import load_recipe
from model_build.stages.export import export_onnx, parity
from model_build.triton_config import cpu_config, gpu_config
from tests.support import ROOT

IMAGES = np.random.default_rng(5).random((32, 1, 28, 28), dtype=np.float32)


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return load_config(ROOT, "digits")


@pytest.fixture(scope="module")
def network(config: ModelConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    recipe = load_recipe(config)
    return recipe.serving_network(recipe.network()).eval()


@pytest.fixture(scope="module")
def exported(config: ModelConfig, network: torch.nn.Module) -> bytes:
    return export_onnx(network, load_recipe(config), IMAGES[:2], config.export)


def test_versions_are_the_configured_ones_and_any_batch_size_runs(config: ModelConfig, exported: bytes) -> None:
    model = onnx.load_from_string(exported)
    assert model.ir_version == config.export.ir_version
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == config.export.opset
    session = ort.InferenceSession(exported)
    for size in (1, 3, 32):
        (answer,) = session.run(None, {"image": IMAGES[:size]})
        assert answer.shape == (size, 10)
        np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-5)


def test_the_same_weights_give_the_same_bytes_which_name_no_path_of_this_machine(
    config: ModelConfig, network: torch.nn.Module, exported: bytes
) -> None:
    assert export_onnx(network, load_recipe(config), IMAGES[:2], config.export) == exported
    assert str(ROOT).encode() not in exported
    assert str(Path(torch.__file__).parent).encode() not in exported


def test_a_graph_that_computes_something_else_is_refused(config: ModelConfig, exported: bytes) -> None:
    recipe = load_recipe(config)
    torch.manual_seed(1)
    another = recipe.serving_network(recipe.network()).eval()
    with pytest.raises(ExportError, match=r"differs from PyTorch by .*parity_atol allows 1e-05"):
        parity(another, exported, IMAGES, config.export.parity_atol)


def test_config_pbtxt_is_one_triton_reads_with_the_kind_of_each_target(config: ModelConfig, exported: bytes) -> None:
    session = ort.InferenceSession(exported)
    gpu = text_format.Parse(gpu_config(config, session), pb.ModelConfig())
    cpu = text_format.Parse(cpu_config(config, session), pb.ModelConfig())
    for message in (gpu, cpu):
        assert (message.name, message.backend, message.max_batch_size) == ("digits", "onnxruntime", 32)
        assert [(t.name, t.data_type, list(t.dims)) for t in message.input] == [("image", pb.TYPE_FP32, [1, 28, 28])]
        assert [(t.name, list(t.dims), t.label_filename) for t in message.output] == [
            ("probabilities", [10], "labels.txt")
        ]
        assert message.dynamic_batching.max_queue_delay_microseconds == config.triton.max_queue_delay_us
    assert gpu.instance_group[0].kind == pb.ModelInstanceGroup.KIND_GPU
    assert cpu.instance_group[0].kind == pb.ModelInstanceGroup.KIND_CPU
    assert cpu.parameters["intra_op_thread_count"].string_value == str(config.triton.cpu_threads)


def test_the_emitted_configuration_in_git_is_that_of_the_model_configuration(
    config: ModelConfig, exported: bytes
) -> None:
    session = ort.InferenceSession(exported)
    folder = ROOT / "model_repository" / "digits"
    assert (folder / "config.pbtxt").read_bytes() == gpu_config(config, session)
    assert (folder / "configs" / "cpu.pbtxt").read_bytes() == cpu_config(config, session)
