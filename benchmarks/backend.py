"""Throughput of a small model behind the embedded Triton against raw ONNX Runtime in process, same file.

    python benchmarks/backend.py [--json] [--rounds 5] [--seconds 4]

Raw: `InferenceSession.run` on one image a call, one process for each core: the same requests with no server at all;
`raw_one_process` is a single such process, `raw_batch_32` one for each core with 32 images a call.
Served: 64, then 8 single-image HTTP requests in flight, generated on the same cores. Rounds alternate, so that a noisy
machine troubles both; every figure is the median over rounds, with the smallest and the largest. `ratio` is the median
of the rounds' own ratios.

The processor's time a request costs (Triton, its Python model, the load generator) says where the rest goes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import psutil

from benchmarks._closed_loop import LoadResult, closed_loop
from serving import EmbeddedTriton, ServerOptions, ServingError, find_interpreter

WORKSPACE = Path(__file__).resolve().parent.parent
BUILT, MODEL = "digits", "digits_fp32"  # asked without the ensemble that routes to it
ONNX = WORKSPACE / "model_repository" / MODEL / "1" / "model.onnx"
CORES = os.cpu_count() or 1


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement")
    arguments = parser.parse_args()
    try:
        result = measure(arguments.rounds, arguments.seconds)
    except (ServingError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result, indent=1) if arguments.json else _text(result))
    return 0


def measure(rounds: int, seconds: float) -> dict[str, Any]:
    """Alternate raw and served measurements; return every figure with its spread."""
    if not ONNX.is_file():
        raise ServingError(f"{ONNX} does not exist: run `slipway build {BUILT}` first")
    request, expected = _golden()
    rows: list[dict[str, float]] = []
    with _server() as server:
        address = (server.options.host, server.options.http_port)

        def check(body: bytes) -> None:
            answer = np.frombuffer(body[-expected.nbytes :], np.float32)
            if not np.allclose(answer, expected, rtol=0, atol=1e-5):
                raise RuntimeError(f"the server's answer is off: {answer} for {expected}")

        closed_loop(address, request, 64, 1.0, check)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
            row = {"raw": _raw(1, CORES, seconds), "raw_one_process": _raw(1, 1, seconds)}
            row["raw_batch_32"] = _raw(32, CORES, seconds)
            before, statistics_before = _processor_time(server), _batches(server)
            load = closed_loop(address, request, 64, seconds, check)
            after, statistics_after = _processor_time(server), _batches(server)
            row |= {f"us_{name}": (after[name] - before[name]) / load.answers * 1e6 for name in before}
            row["batch"] = (statistics_after[0] - statistics_before[0]) / (statistics_after[1] - statistics_before[1])
            row |= _latencies("64", load)
            row |= _latencies("8", closed_loop(address, request, 8, seconds, check))
            row["ratio"] = row["served_64"] / row["raw"]
            row["ratio_one_process"] = row["served_64"] / row["raw_one_process"]
            row["ratio_batch_32"] = row["served_64"] / row["raw_batch_32"]
            rows.append(row)
    return {
        **{name: _spread([row[name] for row in rows]) for name in rows[0]},
        "ratio": statistics.median(row["ratio"] for row in rows),
        "ratio_spread": [min(row["ratio"] for row in rows), max(row["ratio"] for row in rows)],
        "rounds": rounds,
        "seconds": seconds,
        "machine": {"cores": CORES, "processor": _processor(), "onnxruntime": ort.__version__},
    }


@contextmanager
def _server() -> Iterator[EmbeddedTriton]:
    options = ServerOptions.on_free_ports(WORKSPACE / "model_repository")
    with EmbeddedTriton(find_interpreter(WORKSPACE), options, WORKSPACE / "build" / "benchmark.log") as server:
        server.wait_ready()
        yield server


def _golden() -> tuple[bytes, np.ndarray[Any, np.dtype[np.float32]]]:
    """The golden request as HTTP with a binary tensor (v2 protocol's binary data extension), and its answer."""
    folder = ONNX.parent.parent / "golden"
    (tensor,) = json.loads((folder / "request.json").read_text())["inputs"]
    (answer,) = json.loads((folder / "response.json").read_text())["outputs"]
    data = np.array(tensor.pop("data"), np.float32).tobytes()
    tensor["parameters"] = {"binary_data_size": len(data)}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    request = (
        f"POST /v2/models/{MODEL}/infer HTTP/1.1\r\nHost: localhost\r\n"
        f"Inference-Header-Content-Length: {len(head)}\r\nContent-Length: {len(head) + len(data)}\r\n\r\n"
    )
    return request.encode() + head + data, np.array(answer["data"], np.float32)


def _raw(batch: int, processes: int, seconds: float) -> float:
    """Images a second that `processes` processes of ONNX Runtime answer together, `batch` images a call."""
    command = [sys.executable, str(Path(__file__).with_name("_raw.py")), str(ONNX), str(batch), str(seconds)]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        for _ in range(processes)
    ]
    pipes = [(worker.stdin, worker.stdout) for worker in workers]
    for _, answers in pipes:
        assert answers is not None
        answers.readline()
    for begin, _ in pipes:
        assert begin is not None
        begin.write("\n")
    return sum(float(worker.communicate()[0]) for worker in workers)


def _processor_time(server: EmbeddedTriton) -> dict[str, float]:
    """Seconds of processor time that Triton, its Python models and this process have used."""
    triton = psutil.Process(server.pid)
    stubs = [
        child for child in triton.children(recursive=True) if "stub" in child.name() or "stub" in child.cmdline()[0]
    ]
    return {
        "triton": sum(triton.cpu_times()[:2]),
        "python_model": sum(sum(stub.cpu_times()[:2]) for stub in stubs),
        "load_generator": sum(psutil.Process().cpu_times()[:2]),
    }


def _batches(server: EmbeddedTriton) -> tuple[int, int]:
    """Inferences and executions of the model so far."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the server is on this machine
    with direct.open(f"{server.options.http_url}/v2/models/{MODEL}/stats") as reply:
        row = json.load(reply)["model_stats"][0]
    return int(row["inference_count"]), int(row["execution_count"])


def _latencies(name: str, load: LoadResult) -> dict[str, float]:
    p50, p99 = np.percentile(load.latencies, [50, 99]) * 1000
    return {f"served_{name}": load.per_second, f"p50_ms_{name}": float(p50), f"p99_ms_{name}": float(p99)}


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _processor() -> str:
    lines = subprocess.run(["lscpu"], capture_output=True, text=True, check=False).stdout.splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("Model name")), "unknown")


def _text(result: dict[str, Any]) -> str:
    low, high = result["ratio_spread"]
    lines = [f"served, 64 in flight / raw, one image a call: {result['ratio']:.3f} ({low:.3f} to {high:.3f})"]
    for name, value in result.items():
        if isinstance(value, dict) and "median" in value:
            lines.append(f"{name:18} {value['median']:12.2f}   {value['min']:12.2f} to {value['max']:12.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
