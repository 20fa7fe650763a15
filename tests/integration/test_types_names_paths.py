"""One server in an awkward place: every datatype, names that a URL reserves, and folders that are no models beside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper
from slipway_client import Client
from tritonclient.grpc.model_config_pb2 import ModelConfig

from loadtest._golden import Golden
from model_build.recipe import ServedModel
from model_build.stages.staging import golden
from serving import EmbeddedTriton, ServerInterpreter, ServerOptions, ask_golden
from tests.support import write_manifest
from tests.unit.test_golden_tensors import ARRAYS

# The places that Triton's stub, its shell, DVC and Python each read in a way of their own.
PLACE = "My modèles, $HOME 'quoted' (1) #2 100%"
NAMES = ["m#1", "per%41", "a@b:c=d,e+f~g"]
IN_ONNX = {
    **{name: getattr(TensorProto, name) for name in ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64")},
    **{name: getattr(TensorProto, name) for name in ("INT8", "INT16", "INT32", "INT64")},
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
}
TENSORS = {"input": "x", "output": "y"}
COPY = """
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(pb_utils.get_input_tensor_by_name(request, "x")) for request in requests]
    def answer(self, x):
        copy = pb_utils.Tensor("y", x.as_numpy()) if TEXT else pb_utils.Tensor.from_dlpack("y", x.to_dlpack())
        return pb_utils.InferenceResponse([copy])
"""


def write(repository: Path, name: str, datatype: str, array: npt.NDArray[Any]) -> None:
    """A model that gives back what it gets, with the golden answer that a build writes."""
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "golden").mkdir()
    kind = "STRING" if datatype == "BYTES" else datatype
    backend = "python" if datatype in ("BF16", "BYTES") else "onnxruntime"  # no ONNX Runtime for Python takes these
    tensors = (f'{side} {{ name: "{one}" data_type: TYPE_{kind} dims: [-1] }}' for side, one in TENSORS.items())
    head = f'backend: "{backend}" max_batch_size: 8 instance_group {{ kind: KIND_CPU count: 1 }}'
    (folder / "config.pbtxt").write_text(" ".join([head, *tensors]))
    if backend == "python":
        (folder / "1" / "model.py").write_text(f"TEXT = {datatype == 'BYTES'}\n{COPY}")
    else:
        x, y = (helper.make_tensor_value_info(one, IN_ONNX[datatype], ["n", "k"]) for one in "xy")
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "copy", [x], [y])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.save(model, folder / "1" / "model.onnx")
    request, response = golden(ServedModel(name, ModelConfig(), ModelConfig(), {}, {"x": array}, {"y": array}), 0)
    (folder / "golden" / "request.json").write_bytes(request)
    (folder / "golden" / "response.json").write_bytes(response)
    write_manifest(folder)


@pytest.fixture(scope="module")
def types_server(interpreter: ServerInterpreter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedTriton]:
    repository = tmp_path_factory.mktemp("place") / PLACE / "model_repository"
    for datatype, array in ARRAYS.items():
        write(repository, datatype.lower(), datatype, array)
    for name in NAMES:
        write(repository, name, "FP32", ARRAYS["FP32"])
    (repository / ".ipynb_checkpoints").mkdir()
    (repository / ".ipynb_checkpoints" / "config-checkpoint.pbtxt").write_text("")
    (repository / "never_built" / "1").mkdir(parents=True)
    (repository / "README.md").write_text("What this is.")
    (repository / "fp32" / ".ipynb_checkpoints").mkdir()
    (repository / "fp32" / ".ipynb_checkpoints" / "model-checkpoint.py").write_text("")
    log = repository.parent / "triton.log"
    with EmbeddedTriton(interpreter, ServerOptions.on_free_ports(repository), log) as server:
        server.wait_ready()
        yield server


def test_all_of_them_are_served_and_nothing_else(types_server: EmbeddedTriton) -> None:
    index = types_server._index()
    assert index is not None
    assert sorted(entry["name"] for entry in index) == sorted([*map(str.lower, ARRAYS), *NAMES])
    for model in types_server.models:
        assert ask_golden(types_server.options.http_url, model).max_abs_error == 0


@pytest.mark.parametrize("datatype", sorted(ARRAYS))
def test_another_answer_of_each_type_is_noticed(datatype: str, types_server: EmbeddedTriton, tmp_path: Path) -> None:
    (model,) = [one for one in types_server.models if one.name == datatype.lower()]
    response = json.loads(model.golden_response.read_text())
    response["outputs"][0]["data"].reverse()
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden" / "request.json").write_bytes(model.golden_request.read_bytes())
    (tmp_path / "golden" / "response.json").write_text(json.dumps(response))
    result = ask_golden(types_server.options.http_url, type(model)(model.name, tmp_path))
    assert "'y' is off" in result.reason


@pytest.mark.parametrize("scheme", ["http", "grpc"])
@pytest.mark.parametrize("name", [*NAMES, *(datatype.lower() for datatype in ARRAYS if datatype != "BF16")])
def test_the_load_test_asks_and_compares_the_same_over_both_protocols(
    name: str, scheme: str, types_server: EmbeddedTriton
) -> None:
    url = types_server.options.http_url if scheme == "http" else types_server.options.grpc_url
    load = Golden.read(types_server.options.repository / name / "golden")
    with Client(url) as client:
        load.check(client.model(name).infer(load.inputs))
