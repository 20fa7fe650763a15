"""What several tests need: copies of the workspace, free ports, hand-made models."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import psutil
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
FAST_CACHE = ROOT / "build" / "tests" / "dvc-cache"
WORKSPACE_PARTS = ("dvc.yaml", ".dvcignore", "model_build", "serving", "slipway.py")

FOREIGN = ("AWS_", "MLFLOW_", "SLIPWAY_")  # what a developer's shell says of stores and servers must not reach a test

_TRITON_NAMES = {"float32": "FP32", "float64": "FP64", "int64": "INT64", "int32": "INT32", "object": "BYTES"}


def environment(**extra: str) -> dict[str, str]:
    """This environment with the tools on the PATH, and without what would lead a build elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return {**kept, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "200", **extra}


def make_workspace(folder: Path, more: Iterable[str] = ()) -> Path:
    """A workspace of its own: the code and configuration of this one, `more` of it, nothing built, no remote."""
    for part in (*WORKSPACE_PARTS, *more):
        source, target = ROOT / part, folder / part
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    (folder / ".gitignore").write_text("build/\n__pycache__/\n*.tmp\n")
    (folder / ".venv-triton").symlink_to(ROOT / ".venv-triton")
    commands: list[list[str]] = [
        ["git", "init", "-q"],
        [f"{BIN}/dvc", "init", "-q"],
        [f"{BIN}/dvc", "config", "core.analytics", "false"],
        ["git", "add", "-A"],
        ["git", "-c", "user.name=test", "-c", "user.email=test@example.com", "commit", "-qm", "workspace"],
    ]
    for command in commands:
        subprocess.run(command, cwd=folder, check=True, env=environment())
    return folder


def slipway(workspace: Path, *arguments: str | Path, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run the command `slipway` in `workspace`."""
    command = [str(BIN / "slipway"), *map(str, arguments)]
    return subprocess.run(
        command, cwd=workspace, env=environment(), capture_output=True, text=True, timeout=timeout, check=False
    )


# A configuration of each of the four models that is built in seconds, for what does not depend on how well it learned.
FAST: dict[str, tuple[str, ...]] = {
    "digits": ("train.epochs=6", "gate.minimum=0.5", "precision.variants=[]"),
    "alexnet": ("train.epochs=2", "gate.minimum=0.3", "precision.variants=[]"),
    "embedder": ("data.examples=24", "gate.minimum=0.3", "precision.variants=[int8]"),
    "translator": (
        "data.grammar_pairs=2000",
        "data.catalogues=null",
        "data.vocabulary=600",
        "network.width=64",
        "network.encoder_layers=1",
        "network.max_target_tokens=24",
        "train.epochs=4",
        "train.learning_rate=0.005",
        "gate.minimum=0",
        "precision.variants=[]",
    ),
}


def written_keys(settings: Mapping[Any, Any], prefix: str = "") -> list[str]:
    """The settings of a configuration as it is written: `train.epochs`, `precision.int8.max_abs`, ..."""
    found = []
    for key, value in settings.items():
        found += written_keys(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [f"{prefix}{key}"]
    return found


def build_fast(workspace: Path, known: bool = False) -> None:
    """Build all four models in `workspace`, each in its fast configuration.

    DVC's cache for it is one for all: what is `known`, because `make test` has built just that, comes from there, and
    not a second time.
    """
    if not known:
        shutil.rmtree(FAST_CACHE, ignore_errors=True)
    command = [f"{BIN}/dvc", "cache", "dir", "--local", str(FAST_CACHE)]
    subprocess.run(command, cwd=workspace, check=True, env=environment())
    for model, overrides in FAST.items():
        result = slipway(workspace, "build", model, *overrides)
        assert result.returncode == 0, result.stderr


def error_lines(result: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of stderr, which must not hold a traceback."""
    assert "Traceback" not in result.stderr, result.stderr
    return result.stderr.strip().splitlines()


def free_ports(count: int = 3) -> list[int]:
    """TCP ports on loopback that nothing listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def answering(body: bytes, status: int = 200) -> Iterator[str]:
    """Address of an HTTP server that gives every request this one answer."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - http.server's name

        def log_message(self, *_: Any) -> None:
            """Nothing on stderr."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def named(processes: Iterable[psutil.Process], word: str) -> list[psutil.Process]:
    """Those with `word` in their name; one that ends meanwhile, as a program that is only asked something, has none."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found += [process] if word in process.name() else []
    return found


def kill_all(process: subprocess.Popen[Any], but: Sequence[psutil.Process] = ()) -> None:
    """SIGKILL to a process and all below it at once, as an out-of-memory killer or a power cut would."""
    with suppress(psutil.NoSuchProcess):
        for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            with suppress(psutil.NoSuchProcess):
                if one not in but:
                    one.kill()


def wait_for(condition: Callable[[], bool], what: str, timeout: float = 60.0) -> None:
    """Wait until `condition()` is true; fail with `what` when it is not within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.02)


def write_model(
    repository: Path, name: str, graph: onnx.ModelProto, config: str, example: dict[str, npt.NDArray[Any]] | None = None
) -> Path:
    """A hand-made model folder with manifest and golden answer; `example` holds the golden inputs.

    Without `example` the golden request is left out of the manifest's files and must be written by the test.
    """
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "golden").mkdir()
    (folder / "1" / "model.onnx").write_bytes(graph.SerializeToString())
    (folder / "config.pbtxt").write_text(config)
    if example is not None:
        session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        names = [node.name for node in session.get_outputs()]
        answers = dict(zip(names, session.run(names, example), strict=True))
        request = {"inputs": [_tensor(key, value) for key, value in example.items()]}
        response = {"parameters": {"atol": 1e-4}, "outputs": [_tensor(key, value) for key, value in answers.items()]}
        (folder / "golden" / "request.json").write_text(json.dumps(request))
        (folder / "golden" / "response.json").write_text(json.dumps(response))
    write_manifest(folder)
    return folder


def write_manifest(folder: Path) -> None:
    """A manifest of whatever lies in the model's folder now."""
    (folder / "manifest.json").unlink(missing_ok=True)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    hashes = {str(p.relative_to(folder)): {"sha256": hashlib.sha256(p.read_bytes()).hexdigest()} for p in files}
    (folder / "manifest.json").write_text(json.dumps({"files": hashes}))


def _tensor(name: str, array: npt.NDArray[Any]) -> dict[str, Any]:
    values = [value.decode() if isinstance(value, bytes) else value for value in np.asarray(array).ravel().tolist()]
    return {"name": name, "datatype": _TRITON_NAMES[str(array.dtype)], "shape": list(array.shape), "data": values}


def write_slow_model(repository: Path, steps: int = 40) -> Path:
    """A model `slow` whose every request is a chain of matrix products: about a second on one core."""
    size = 1000
    weights = numpy_helper.from_array((np.eye(size) * 0.5).astype(np.float32), "w")
    nodes = [helper.make_node("Mul", ["w", "x"], ["h0"])]
    nodes += [helper.make_node("MatMul", [f"h{i}", "w"], [f"h{i + 1}"]) for i in range(steps)]
    nodes += [helper.make_node("ReduceSum", [f"h{steps}"], ["s"]), helper.make_node("Reshape", ["s", "one"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [weights, numpy_helper.from_array(np.array([1], np.int64), "one")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return write_model(repository, "slow", model, SLOW_CONFIG, {"x": np.ones(1, np.float32)})


SLOW_CONFIG = """
name: "slow"
backend: "onnxruntime"
input { name: "x" data_type: TYPE_FP32 dims: [1] }
output { name: "y" data_type: TYPE_FP32 dims: [1] }
instance_group { kind: KIND_CPU count: 1 }
parameters { key: "intra_op_thread_count" value { string_value: "1" } }
"""
