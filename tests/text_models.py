"""Hand-made models of texts: Python models with modules of their own, ensembles around them, a streaming one.

They are what a server and `local:` run alike; `golden/` holds no answers: wait for them with `Client.wait_ready`.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from tests.support import write_manifest, write_model

TEXT = 'input { name: "text" data_type: TYPE_STRING dims: [1] }'
ECHO = 'output { name: "echo" data_type: TYPE_STRING dims: [1] }'
VECTOR = 'output { name: "embedding" data_type: TYPE_FP32 dims: [2] }'

# Runs on NumPy 1.26 in the server's interpreter and on NumPy 2 here.
SHOUT = """
import json
import numpy as np
import triton_python_backend_utils as pb_utils
import decoding

class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        length = pb_utils.get_output_config_by_name(config, "length")
        self.dtype = pb_utils.triton_string_to_numpy(length["data_type"])

    def execute(self, requests):
        responses = []
        for request in requests:
            texts = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()
            if b"!" in texts.ravel().tolist():
                error = pb_utils.TritonError("nothing is louder than '!'")
                responses.append(pb_utils.InferenceResponse(error=error))
                continue
            if b"?" in texts.ravel().tolist():
                raise ValueError("no questions")
            shouted = np.array([[decoding.change(one)] for (one,) in texts], dtype=object)
            length = np.array([[len(one)] for (one,) in shouted], dtype=self.dtype)
            outputs = [pb_utils.Tensor("echo", shouted), pb_utils.Tensor("length", length)]
            responses.append(pb_utils.InferenceResponse(output_tensors=outputs))
        return responses
"""
UPPER = "def change(one):\n    return one.decode().upper().encode()\n"

TOKENIZER = """
import numpy as np
import triton_python_backend_utils as pb_utils
from decoding import change

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        rows = [change(one) for one in request.inputs()[0].as_numpy().ravel()]
        ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
        outputs = {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}
        wanted = request.requested_output_names()
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, outputs[name]) for name in wanted])
"""
CODES = "def change(one):\n    return [ord(letter) for letter in one.decode()]\n"

STREAM = """
import threading
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            threading.Thread(target=self.send, args=(request, request.get_response_sender())).start()

    def send(self, request, sender):
        for word in request.inputs()[0].as_numpy().item().split():
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("echo", np.array([[word]], dtype=object))]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


def write_python_model(repository: Path, name: str, code: str, tensors: str, batch: int = 4, **modules: str) -> Path:
    """A model of the Python backend: `code` is its model.py, `modules` are files beside it by their names."""
    head = f'name: "{name}" backend: "python" max_batch_size: {batch} instance_group {{ kind: KIND_CPU count: 1 }}'
    folder = _folder(repository, name, f"{head} {tensors}")
    (folder / "1" / "model.py").write_text(code)
    for module, content in modules.items():
        (folder / "1" / f"{module}.py").write_text(content)
    write_manifest(folder)
    return folder


def write_ensemble(repository: Path, name: str, tensors: str, *steps: str, batch: int = 4) -> Path:
    """An ensemble of `steps`, each as `step` makes it."""
    scheduling = f"ensemble_scheduling {{ {' '.join(steps)} }}"
    head = f'name: "{name}" platform: "ensemble" max_batch_size: {batch}'
    folder = _folder(repository, name, f"{head} {tensors} {scheduling}")
    write_manifest(folder)
    return folder


def step(model: str, inputs: dict[str, str], outputs: dict[str, str]) -> str:
    """A step of an ensemble: the model's tensor names and the ensemble's."""
    maps = [("input_map", inputs), ("output_map", outputs)]
    entries = [f'{kind} {{ key: "{key}" value: "{value}" }}' for kind, map_ in maps for key, value in map_.items()]
    return f'step {{ model_name: "{model}" model_version: -1 {" ".join(entries)} }}'


def write_text_models(repository: Path) -> None:
    """`shout` (text → text, its length), `embed` (an ensemble: text → vector of 2), `nested` around it, `stream`."""
    length = 'output { name: "length" data_type: TYPE_INT32 dims: [1] }'
    write_python_model(repository, "shout", SHOUT, f"{TEXT} {ECHO} {length}", decoding=UPPER)
    tokens = " ".join(
        f'output {{ name: "{name}" data_type: TYPE_INT64 dims: [-1] }}' for name in ("input_ids", "attention_mask")
    )
    write_python_model(repository, "embed_tokenizer", TOKENIZER, f"{TEXT} {tokens}", decoding=CODES)
    head = 'name: "embed_pooling" backend: "onnxruntime" max_batch_size: 4 instance_group { kind: KIND_CPU count: 1 }'
    pooling = write_model(
        repository, "embed_pooling", pooling_graph(), f"{head} {tokens.replace('output', 'input')} {VECTOR}"
    )
    _no_golden(pooling)
    # The steps stand in the wrong order: what runs first follows from the tensors.
    write_ensemble(
        repository,
        "embed",
        f"{TEXT} {VECTOR}",
        step("embed_pooling", {"input_ids": "ids", "attention_mask": "mask"}, {"embedding": "embedding"}),
        step("embed_tokenizer", {"text": "text"}, {"input_ids": "ids", "attention_mask": "mask"}),
    )
    write_ensemble(
        repository,
        "nested",
        f"{TEXT} {VECTOR}",
        step("shout", {"text": "text"}, {"echo": "loud"}),
        step("embed", {"text": "loud"}, {"embedding": "embedding"}),
    )
    write_python_model(
        repository, "stream", STREAM, f"{TEXT} {ECHO} model_transaction_policy {{ decoupled: true }}", batch=0
    )


def pooling_graph() -> onnx.ModelProto:
    """`embedding [n, 2]`: the sum of the ids and how many there are."""
    nodes = [helper.make_node("Cast", [name], [f"{name}_f"], to=TensorProto.FLOAT) for name in ("input_ids", "mask")]
    nodes[1].input[0] = "attention_mask"
    nodes += [
        helper.make_node("Mul", ["input_ids_f", "mask_f"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "axis"], ["total"], keepdims=1),
        helper.make_node("ReduceSum", ["mask_f", "axis"], ["count"], keepdims=1),
        helper.make_node("Concat", ["total", "count"], ["embedding"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "pooling",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "s"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor("axis", TensorProto.INT64, [1], [1])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _folder(repository: Path, name: str, config: str) -> Path:
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "golden").mkdir()
    (folder / "config.pbtxt").write_text(config)
    _no_golden(folder)
    return folder


def _no_golden(folder: Path) -> None:
    for file in ("request.json", "response.json"):
        (folder / "golden" / file).write_text("{}")
    write_manifest(folder)
