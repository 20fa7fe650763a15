"""INT8 against FP32 on this CPU: the served MiniLM, and a DistilBERT-size encoder in process.

    python benchmarks/precision.py [--json] [--rounds 9] [--seconds 2] [--texts 32] [--workspace .]

Served: `embedder_int8` and `embedder_fp32` of the workspace's model repository behind one embedded Triton, asked in
turns for the held-out descriptions, 32 texts a request, one request at a time; tokenizer, pooling and gRPC count.
`ratio` is texts a second, INT8 by FP32. `cosine_mean` and `spearman` compare all held-out texts' served vectors.
In process: an encoder of DistilBERT's size (6 layers, 768 wide) with random weights, 128 tokens, batch 1: speed knows
no weights; its accuracy says nothing. `ratio_768` is its time in FP32 by its time in INT8.
Rounds alternate; every figure is the median of the rounds' own ratios, with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from slipway_client import Client, Model, TritonError

from model_build import BuildError
from model_build.config import EmbedderConfig, ExportConfig, load_config
from model_build.models.embedder import Embedder
from model_build.models.embedding.networks import Transformer, residuals_as_sum
from model_build.onnx_export import Array, export_onnx
from model_build.precision.making import Maker
from model_build.precision.proof import prove
from model_build.precision.variants import FP32, INT8, served_name
from model_build.recipe import as_text
from model_build.stages.layout import BuildFiles
from serving import EmbeddedTriton, ServerOptions, ServingError, find_interpreter

WORKSPACE = Path(__file__).resolve().parent.parent
MODEL = "embedder"
TOKENS = 128
VARIANTS = (FP32, INT8)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement")
    parser.add_argument("--texts", type=int, default=32, choices=range(1, 33), help="in each request to the server")
    parser.add_argument("--workspace", type=Path, default=WORKSPACE, help="where the embedder was built")
    arguments = parser.parse_args()
    try:
        result = _served(arguments.workspace, arguments.rounds, arguments.seconds, arguments.texts)
        result |= _in_process(arguments.rounds, arguments.seconds)
    except (ServingError, BuildError, TritonError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    result |= {"cpu": _flags(), "rounds": arguments.rounds, "seconds": arguments.seconds}
    print(json.dumps(result, indent=1) if arguments.json else _text(result))
    return 0


def _served(workspace: Path, rounds: int, seconds: float, texts_a_request: int) -> dict[str, Any]:
    files = BuildFiles(workspace, MODEL)
    folders = sorted(files.repository.glob(f"{MODEL}*"))
    if not (files.repository / served_name(MODEL, INT8)).is_dir():
        raise ServingError(f"{files.repository} has no {served_name(MODEL, INT8)}: run `slipway build {MODEL}` first")
    config = load_config(workspace, MODEL)
    assert isinstance(config, EmbedderConfig)
    recipe = Embedder(config)
    texts = [text for request in recipe.requests(files) for text in request["text"].ravel().tolist()]
    descriptions = texts[len(texts) // 2 :]
    with tempfile.TemporaryDirectory() as repository:
        for folder in folders:
            (Path(repository) / folder.name).symlink_to(folder.absolute())
        options = ServerOptions.on_free_ports(Path(repository))
        log = workspace / "build" / "benchmark.log"
        with EmbeddedTriton(find_interpreter(workspace), options, log) as server:
            server.wait_ready(120)
            with Client(options.grpc_url) as client:
                models = {variant: client.model(served_name(MODEL, variant)) for variant in VARIANTS}
                vectors = {variant: _vectors(model, texts) for variant, model in models.items()}
                asked = {
                    variant: itertools.cycle(_requests(descriptions, texts_a_request)) for variant in VARIANTS
                }  # both ask for the same texts in the same order
                rates = [
                    {
                        variant: _rate(partial(_ask_next, model, asked[variant]), seconds)
                        for variant, model in models.items()
                    }
                    for _ in _progress("served", rounds)
                ]
    cosines = (vectors[FP32] * vectors[INT8]).sum(axis=1)
    return {
        **_ratio("ratio", [row[INT8] / row[FP32] for row in rates]),
        "texts_per_second": {
            variant: statistics.median(row[variant] * texts_a_request for row in rates) for variant in VARIANTS
        },
        "cosine_mean": float(cosines.mean()),
        "cosine_smallest": float(cosines.min()),
        "spearman": recipe.judge(files, {"embedding": vectors[INT8]}, {"embedding": vectors[FP32]}),
        "texts": len(texts),
    }


def _in_process(rounds: int, seconds: float) -> dict[str, Any]:
    from transformers import AutoModel, DistilBertConfig

    torch.manual_seed(17)
    print("exporting an encoder of DistilBERT's size", file=sys.stderr)
    network = AutoModel.from_config(DistilBertConfig(), attn_implementation="eager").eval()
    batch, length = torch.export.Dim("batch"), torch.export.Dim("tokens")
    shape = {0: batch, 1: length}
    ids = torch.randint(1000, 20_000, (2, TOKENS))
    fp32 = residuals_as_sum(
        export_onnx(
            Transformer(network),
            (ids, torch.ones_like(ids)),
            inputs=["input_ids", "attention_mask"],
            outputs=["token_embeddings"],
            dynamic_shapes=(shape, shape),
            config=ExportConfig(opset=20, ir_version=10, parity_atol=0.001),
        )
    )
    feed: dict[str, Array] = {"input_ids": ids[:1].numpy(), "attention_mask": np.ones((1, TOKENS), np.int64)}
    maker = Maker("transformer.onnx", fp32, [feed], smoothing=0.8)
    int8 = maker.make(INT8, ()).cpu
    maker.close()
    proof = prove(INT8, fp32, int8, frozenset(), run=True)
    sessions = {FP32: _session(fp32), INT8: _session(int8)}
    rates = [
        {variant: _rate(partial(session.run, None, feed), seconds) for variant, session in sessions.items()}
        for _ in _progress("in process", rounds)
    ]
    return {
        **_ratio("ratio_768", [row[INT8] / row[FP32] for row in rates]),
        "layers_in_int8_768": f"{proof.running} of {proof.layers}",
    }


def _session(content: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _requests(texts: Sequence[str], size: int) -> list[list[str]]:
    whole = len(texts) - len(texts) % size
    return [[*texts[start : start + size]] for start in range(0, whole, size)]


def _ask(model: Model, texts: Sequence[str]) -> Array:
    found: Array = model.infer({"text": as_text(texts)})["embedding"]
    return found


def _ask_next(model: Model, requests: Iterator[list[str]]) -> Array:
    return _ask(model, next(requests))


def _vectors(model: Model, texts: Sequence[str]) -> Array:
    size = model.spec.max_batch_size
    return np.concatenate([_ask(model, texts[start : start + size]) for start in range(0, len(texts), size)])


def _rate(call: Callable[[], object], seconds: float) -> float:
    """Calls a second; one before the clock starts."""
    call()
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        call()
        count += 1
    return count / passed


def _ratio(name: str, ratios: Sequence[float]) -> dict[str, Any]:
    return {name: statistics.median(ratios), f"{name}_spread": [min(ratios), max(ratios)]}


def _progress(what: str, rounds: int) -> Iterator[int]:
    """The numbers of the rounds; each is said when it begins."""
    for number in range(rounds):
        print(f"{what}: round {number + 1} of {rounds}", file=sys.stderr)
        yield number


def _flags() -> dict[str, bool]:
    """Which instructions for 8-bit products this CPU has."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        flags = []
    return {name: name in flags for name in ("avx2", "avx512_vnni", "avx_vnni", "amx_int8")}


def _text(result: dict[str, Any]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in result.items())


if __name__ == "__main__":
    sys.exit(main())
