"""A plan is built of the file that Triton serves on a GPU, and of no other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import convert_model_to_external_data

from model_build._errors import ConfigurationError, DataError
from model_build.engine.source import find_sources
from tests.engine_support import make_variants, typed_graph, write_served


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return make_variants(tmp_path)


def test_int8_is_built_of_the_form_for_tensorrt_and_others_of_the_one_file(workspace: Path) -> None:
    for variant, file in (("fp32", "model.onnx"), ("fp16", "model.onnx"), ("int8", "model.tensorrt.onnx")):
        (source,) = find_sources(workspace, "digits", variant)
        assert (source.served, source.path.name) == (f"digits_{variant}", file)


def test_without_a_variant_it_is_the_one_that_the_gate_routes_a_gpu_to(workspace: Path) -> None:
    assert [source.variant for source in find_sources(workspace, "digits")] == ["fp16"]


def test_layers_kept_in_fp32_are_those_of_the_gate(tmp_path: Path) -> None:
    (source,) = find_sources(make_variants(tmp_path, kept=["node_linear"]), "digits", "int8")
    assert source.kept == {"node_linear"}


def test_of_the_embedder_it_is_the_transformer_and_not_the_pooling(workspace: Path) -> None:
    for name in ("embedder_transformer_fp32", "embedder_transformer_int8", "embedder_pooling"):
        write_served(workspace, name, "embedder", {"model.onnx": typed_graph("int8")})
    write_served(workspace, "embedder_tokenizer", "embedder", backend="python")
    write_served(workspace, "embedder_int8", "embedder", backend="ensemble")
    write_served(workspace, "embedder", "embedder", backend="ensemble")
    assert [one.served for one in find_sources(workspace, "embedder", "int8")] == ["embedder_transformer_int8"]
    assert [one.served for one in find_sources(workspace, "embedder")] == ["embedder_transformer_fp32"]


def test_what_is_not_built_says_how_to_build_it(workspace: Path) -> None:
    with pytest.raises(DataError, match=r"'alexnet' is not in .*: run `slipway build alexnet`"):
        find_sources(workspace, "alexnet")
    write_served(workspace, "alexnet_fp32", "alexnet", {"model.onnx": typed_graph("fp32")})
    with pytest.raises(DataError, match=re.escape("int8 of 'alexnet' is not in")) as refused:
        find_sources(workspace, "alexnet", "int8")
    assert "(fp32 is): run `slipway build alexnet`" in str(refused.value)


def test_a_file_that_is_not_the_one_that_was_built_is_refused(workspace: Path) -> None:
    path = workspace / "model_repository" / "digits_fp16" / "1" / "model.onnx"
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(DataError, match="is not the file that was built: run `slipway build digits`"):
        find_sources(workspace, "digits", "fp16")
    path.unlink()
    with pytest.raises(DataError, match=r"is not there .*`dvc pull`"):
        find_sources(workspace, "digits", "fp16")


def test_models_that_have_no_engine_say_why(workspace: Path) -> None:
    for name in ("translator", "translator_stream"):
        write_served(workspace, name, "translator", {"encoder.onnx": typed_graph()}, backend="python")
    with pytest.raises(ConfigurationError, match=r"served by Python models \(translator, translator_stream\)"):
        find_sources(workspace, "translator")
    with pytest.raises(ConfigurationError, match="never served"):
        find_sources(workspace, "alexnet_224")
    with pytest.raises(ConfigurationError, match="no variant 'int4'"):
        find_sources(workspace, "digits", "int4")
    with pytest.raises(ConfigurationError, match="no configuration for model 'nope'"):
        find_sources(workspace, "nope")


def test_weights_outside_of_the_file_are_in_its_hash(workspace: Path) -> None:
    folder = workspace / "model_repository" / "digits_fp16"
    hashes = []
    for number in (1, 2):
        graph = typed_graph()
        graph.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.full((4, 4), number, np.float16), "w0"))
        convert_model_to_external_data(graph, location="model.onnx.data", size_threshold=0)
        (folder / "1" / "model.onnx.data").unlink(missing_ok=True)
        onnx.save(graph, folder / "1" / "model.onnx")
        manifest = json.loads((folder / "manifest.json").read_text())
        write_served(workspace, "digits_fp16", manifest["model"])
        hashes.append(find_sources(workspace, "digits", "fp16")[0].sha256)
    assert hashes[0] != hashes[1]
