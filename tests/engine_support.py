"""What tests of engines need: a workspace with hand-made variants, and programs that stand for those of a GPU."""

from __future__ import annotations

import functools
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from model_build.config import ModelConfig, load_config
from model_build.engine import source as source_module
from model_build.engine import tools
from model_build.engine.source import find_sources
from model_build.engine.spec import Spec
from tests.support import ROOT, write_manifest

LAYERS = ("node_linear", "node_linear_1")
WORDS = {"fp32": "Float", "fp16": "Half", "int8": "Int8"}  # TensorRT's
KERNELS = {
    "Float": "sm80_xmma_gemm_f32f32_f32f32_f32_nn_n",
    "Half": "sm80_xmma_gemm_f16f16_f16f16_f16_nn_n",
    "Int8": "sm80_xmma_gemm_i8i8_i8i32_f32_tn_n",
}
_TYPES = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8}


def typed_graph(
    variant: str = "fp16", kept: Sequence[str] = (), shape: Sequence[int | str] = ("batch", 4)
) -> onnx.ModelProto:
    """Two products with constant weights of the variant's type; those `kept` have them in FP32."""
    nodes, weights, tensor = [], [], "x"
    for index, name in enumerate(LAYERS):
        kind = np.float32 if name in kept else _TYPES[variant]
        weights.append(numpy_helper.from_array(np.ones((4, 4), kind), f"w{index}"))
        weight = f"w{index}"
        if kind == np.int8:
            nodes.append(helper.make_node("DequantizeLinear", [weight, "scale"], [f"{weight}_float"]))
            weight = f"{weight}_float"
        nodes.append(helper.make_node("MatMul", [tensor, weight], [f"h{index}"], name=name))
        tensor = f"h{index}"
    weights.append(numpy_helper.from_array(np.array(1, np.float32), "scale"))
    of_tensors = TensorProto.FLOAT16 if variant == "fp16" else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "typed",
        [helper.make_tensor_value_info("x", of_tensors, shape)],
        [helper.make_tensor_value_info(tensor, of_tensors, shape)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def write_served(
    workspace: Path,
    name: str,
    model: str,
    files: Mapping[str, onnx.ModelProto] | None = None,
    more: Mapping[str, Any] | None = None,
    backend: str = "onnxruntime",
) -> Path:
    """A folder of model_repository/ as a build writes it."""
    folder = workspace / "model_repository" / name
    (folder / "1").mkdir(parents=True, exist_ok=True)
    kind = 'platform: "ensemble"' if backend == "ensemble" else f'backend: "{backend}"'
    (folder / "config.pbtxt").write_text(f'name: "{name}"\n{kind}\n')
    for file, graph in (files or {}).items():
        (folder / "1" / file).write_bytes(graph.SerializeToString())
    write_manifest(folder)
    path = folder / "manifest.json"
    path.write_text(json.dumps({"model": model, **json.loads(path.read_text()), **(more or {})}))
    return folder


def make_variants(workspace: Path, kept: Sequence[str] = ()) -> Path:
    """This workspace's configurations, and the variants of digits, of which a GPU is routed to fp16."""
    shutil.copytree(ROOT / "model_build" / "conf", workspace / "model_build" / "conf")
    found = {
        "chosen": {"cpu": "int8", "gpu": "fp16"},
        "found": {name: {"gpu": {"kept_fp32": [*kept]}} for name in ("fp16", "int8")},
    }
    write_served(workspace, "digits", "digits", more={"variants": found}, backend="ensemble")
    for variant in ("fp32", "fp16"):
        graph = typed_graph(variant, kept if variant == "fp16" else ())
        write_served(workspace, f"digits_{variant}", "digits", {"model.onnx": graph})
    int8 = {"model.onnx": typed_graph("fp32"), "model.tensorrt.onnx": typed_graph("int8", kept)}
    write_served(workspace, "digits_int8", "digits", int8)
    return workspace


def spec_of(workspace: Path, variant: str | None = None, **options: Any) -> Spec:
    """Of digits, whose configuration is read once: Hydra takes longer for it than a test for the rest."""
    with patch.object(source_module, "load_config", lambda _, model: _config(model)):
        (source,) = find_sources(workspace, "digits", variant)
    return Spec.of(source, **options)


@functools.cache
def _config(model: str) -> ModelConfig:
    return load_config(ROOT, model)


def layer(name: str, word: str, **more: Any) -> dict[str, Any]:
    """A product as TensorRT 10 describes it."""
    tensors = [{"Name": "t", "Dimensions": [1, 4], "Format/Datatype": word}]
    return {
        "Name": f"{name}_myl0_3",
        "LayerType": "gemm",
        "Inputs": tensors,
        "Outputs": tensors,
        "TacticName": KERNELS.get(word, ""),
        "Metadata": f"[ONNX Layer: {name}]",
        **more,
    }


class Machine:
    """A folder that is the PATH, with programs that say what a machine with a GPU would say."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        monkeypatch.setenv("PATH", str(folder))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(tools, "IN_IMAGE", str(folder / "not-there"))
        monkeypatch.setitem(sys.modules, "tensorrt", None)  # an import fails

    def program(self, name: str, code: str) -> Path:
        """A program in Python."""
        path = self.folder / name
        path.write_text(f"#!{sys.executable} -SE\n{code}")
        path.chmod(0o755)
        return path

    def nvidia_smi(self, *rows: str) -> None:
        """GPUs as `NAME, CAPABILITY, DRIVER`; with `-i N` the one."""
        asked = "[rows[int(sys.argv[-1])]] if '-i' in sys.argv else rows"
        self.program("nvidia-smi", f"import sys\nrows = {rows}\nprint(*({asked}), sep='\\n')")

    def trtexec(self, word: str = "Half", version: str = "v110100] [b106", layers: object = None) -> None:
        """A trtexec whose plan computes every layer in `word`, or has these `layers`."""
        described = [layer(name, word) for name in LAYERS] if layers is None else layers
        self.program("trtexec", _TRTEXEC.format(version=version, layers=described, calls=str(self.calls_file)))

    @property
    def calls_file(self) -> Path:
        """What trtexec was called with, a line for each plan."""
        return self.folder / "calls"

    @property
    def calls(self) -> list[dict[str, str]]:
        """Flags of each plan that trtexec was asked to build."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.is_file() else []
        return [json.loads(line) for line in lines]


_TRTEXEC = """
import json, os, pathlib, sys, time
print("&&&& RUNNING TensorRT.trtexec [TensorRT {version}] # trtexec")
if "--help" in sys.argv:
    sys.exit(0)
flags = dict(one.partition("=")[::2] for one in sys.argv[1:])
cache = pathlib.Path(flags["--timingCacheFile"])
flags["cached"] = cache.read_text() if cache.is_file() else ""
with open({calls!r}, "a") as calls:
    print(json.dumps(flags), file=calls)
print("[11/21/2026-10:00:00] [I] [TRT] Compiling", flush=True)
pathlib.Path(flags["--saveEngine"]).write_text("a plan of " + flags["--onnx"])
cache.write_text("timings")
if "FAKE_TRTEXEC_SLEEP" in os.environ:
    time.sleep(60)
if "FAKE_TRTEXEC_FAILS" in os.environ:
    print("[11/21/2026-10:00:02] [E] [TRT] Error Code 4: types differ")
    sys.exit(1)
layers = json.dumps({{"Layers": {layers}, "Bindings": ["x"]}}).replace("\\\\u001f", chr(31))
pathlib.Path(flags["--exportLayerInfo"]).write_text(layers)
pathlib.Path(flags["--exportProfile"]).write_text('[{{"count" : 2}}]')
pathlib.Path(flags["--exportTimes"]).write_text(json.dumps([{{"computeMs": t}} for t in (0.25, 0.75, 0.5)]))
"""
