"""What a start that fails says: at once, the model and the reason by name, in the user's paths."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving import EmbeddedTriton, GoldenMismatch, StartError
from tests.support import write_manifest

Serve = Callable[..., EmbeddedTriton]
TENSORS = 'input { name: "x" data_type: TYPE_FP32 dims: [3] } output { name: "x" data_type: TYPE_FP32 dims: [3] }'
PYTHON = f'backend: "python" instance_group {{ kind: KIND_CPU count: 1 }} {TENSORS}'
TENSOR = {"name": "x", "datatype": "FP32", "shape": [3], "data": np.ones(3).tolist()}
COPY = """
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.get_input_tensor_by_name(one, "x")]) for one in requests]
"""


def write(repository: Path, name: str, config: str, code: str = "", question: Any = TENSOR) -> None:
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "golden").mkdir()
    (folder / "config.pbtxt").write_text(config)
    (folder / "1" / "model.py").write_text(code)
    (folder / "golden" / "request.json").write_text(json.dumps({"inputs": [question]}))
    (folder / "golden" / "response.json").write_text(json.dumps({"parameters": {"atol": 0}, "outputs": [TENSOR]}))
    write_manifest(folder)


def test_a_python_process_that_dies_while_it_loads_ends_the_start_and_not_the_patience(
    tmp_path: Path, serve: Serve
) -> None:
    write(tmp_path / "models", "good", PYTHON, COPY)
    write(tmp_path / "models", "crashes", PYTHON, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    with serve(tmp_path / "models") as server, pytest.raises(StartError) as refused:
        server.wait_ready(timeout=60)
    assert "SIGKILL" in str(refused.value)
    assert "(not loaded: crashes)" in str(refused.value)
    assert f"(all of it: {server.log})" in str(refused.value)


def test_an_ensemble_without_its_step_says_which_it_needs(tmp_path: Path, serve: Serve) -> None:
    step = 'step { model_name: "flowers_fp32" model_version: -1 input_map { key: "x" value: "x" } '
    steps = f'ensemble_scheduling {{ {step} output_map {{ key: "x" value: "x" }} }} }}'
    write(tmp_path / "models", "flowers", f'platform: "ensemble" {TENSORS} {steps}')
    with serve(tmp_path / "models") as server, pytest.raises(StartError) as refused:
        server.wait_ready()
    said = f"model 'flowers' did not load: it needs flowers_fp32, which is not in {tmp_path}/models: put its folder"
    assert said in str(refused.value)


def test_a_reason_of_tritons_names_the_users_folder_and_a_question_that_it_refuses_the_file(
    tmp_path: Path, serve: Serve
) -> None:
    write(tmp_path / "My models", "broken", PYTHON, "raise ValueError(f'not found: {__file__}')")
    with serve(tmp_path / "My models") as server, pytest.raises(StartError) as failed:
        server.wait_ready()
    assert f"not found: {tmp_path}/My models/broken/1/model.py" in str(failed.value)

    write(tmp_path / "others", "copy", PYTHON, COPY, {**TENSOR, "shape": [1, 3]})
    with serve(tmp_path / "others") as server, pytest.raises(GoldenMismatch) as refused:
        server.wait_ready()
    assert "HTTP 400: " in refused.value.found
    assert f"it was asked what is in {tmp_path}/others/copy/golden/request.json" in str(refused.value)
    assert "slipway build" not in str(refused.value)
