"""Tokens a second of the translator's loop in the server, against two clients that loop themselves over gRPC.

    python benchmarks/decode.py [--json] [--rounds 11] [--sentences 64] [--min-tokens 24] [--seconds 2]

`server` asks `translator_fp32` once for a text. `prefix` (a) asks `encoder`, then `decoder_prefix` once for each token
with the encoded source and all tokens so far. `cache` (b) asks for each token too, and ships the cache of keys and
values there and back, to the translator's own two graphs. Same weights, same held-out sentences in the same order, one
text a request, every model with the same instances and threads and with dynamic batching (_decode_models.py).

1, then 8 clients (processes) on the server's own cores, each with one text under way. Rounds alternate, so that a noisy
machine troubles all; every figure is the median over rounds, with the smallest and the largest, and a ratio that of the
rounds' own ratios. Exit code 1 where any translation differs between the three, in any round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime as ort
import psutil

from benchmarks._decode_clients import WAYS, Setting
from benchmarks._decode_load import Answers, Clients, Load
from benchmarks._decode_models import SERVED, choose_sentences, compose
from model_build import BuildError
from serving import EmbeddedTriton, ServerOptions, ServingError, find_interpreter

WORKSPACE = Path(__file__).resolve().parent.parent
CONCURRENCIES = (1, 8)
WARM_UP = 0.5  # seconds

Row = dict[str, dict[str, Load]]  # of one round, by way, by concurrency


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--sentences", type=int, default=64, help="held-out sentences")
    parser.add_argument("--min-tokens", type=int, default=24, help="of their reference translations; 1 takes any")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement")
    parser.add_argument("--workspace", type=Path, default=WORKSPACE, help="where the translator was built")
    arguments = parser.parse_args()
    try:
        result = measure(
            arguments.workspace, arguments.rounds, arguments.sentences, arguments.min_tokens, arguments.seconds
        )
    except (ServingError, BuildError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result, indent=1) if arguments.json else _text(result))
    return 0 if result["translations_equal"] else 1


def measure(workspace: Path, rounds: int, sentences: int, min_tokens: int, seconds: float) -> dict[str, Any]:
    """Alternate the three ways; return every figure with its spread."""
    rows: list[Row] = []
    processor: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="slipway-decode-") as folder:
        repository = Path(folder) / "model_repository"
        config = compose(workspace, repository)
        texts = choose_sentences(workspace, sentences, min_tokens)
        with _server(workspace, repository) as server:
            address = f"{server.options.host}:{server.options.grpc_port}"
            setting = Setting(address, repository / SERVED / "1", config.network.max_target_tokens)
            with Clients(setting, texts, max(CONCURRENCIES)) as clients:
                for way in WAYS:
                    clients.measure(way, max(CONCURRENCIES), WARM_UP)
                for number in range(rounds):
                    print(f"round {number + 1} of {rounds}", file=sys.stderr)
                    rows.append({way: {} for way in WAYS})
                    for concurrency in map(str, CONCURRENCIES):
                        for way in WAYS:
                            before = _processor_time(server, clients)
                            load = rows[-1][way][concurrency] = clients.measure(way, int(concurrency), seconds)
                            after = _processor_time(server, clients)
                            processor[f"{way}_{concurrency}"] = {
                                name: (after[name] - before[name]) / load.tokens * 1e6 for name in before
                            }
    return _summary(rows) | {
        "processor_us_per_token": processor,
        "translations_equal": _equal([load.answers for row in rows for way in row.values() for load in way.values()]),
        "sentences": sentences,
        "min_tokens": min_tokens,
        "rounds": rounds,
        "seconds": seconds,
        "triton": {"instances": config.triton.cpu_instances, "threads": config.triton.cpu_threads},
        "machine": {"cores": os.cpu_count() or 1, "processor": _processor(), "onnxruntime": ort.__version__},
    }


def _summary(rows: Sequence[Row]) -> dict[str, Any]:
    names = [str(concurrency) for concurrency in CONCURRENCIES]

    def over_rounds(value: Callable[[Row, str], float]) -> dict[str, list[float]]:
        return {name: [value(row, name) for row in rows] for name in names}

    def medians(values: dict[str, list[float]]) -> dict[str, float]:
        return {name: statistics.median(each) for name, each in values.items()}

    def spreads(values: dict[str, list[float]]) -> dict[str, list[float]]:
        return {name: [min(each), max(each)] for name, each in values.items()}

    def rate(way: str) -> dict[str, list[float]]:
        return over_rounds(lambda row, name: row[way][name].per_second)

    ratio = over_rounds(lambda row, name: row["server"][name].per_second / row["prefix"][name].per_second)
    cached = over_rounds(lambda row, name: row["server"][name].per_second / row["cache"][name].per_second)
    loads = [load for row in rows for way in row.values() for load in way.values()]
    return {
        "ratio": medians(ratio),
        "ratio_spread": spreads(ratio),
        "ratio_cached": medians(cached),
        "ratio_cached_spread": spreads(cached),
        "tokens_per_second": {way: medians(rate(way)) for way in WAYS},
        "tokens_per_second_spread": {way: spreads(rate(way)) for way in WAYS},
        # What a user waits for a token of his own text.
        "ms_per_token": {
            way: {name: 1000 * int(name) / value for name, value in medians(rate(way)).items()} for way in WAYS
        },
        "tokens_per_sentence": sum(load.tokens for load in loads) / sum(load.texts for load in loads),
    }


def _equal(answers: Sequence[Answers]) -> bool:
    """Each sentence has one translation, whoever made it and when."""
    found = set().union(*answers)
    return len(found) == len({number for number, *_ in found})


@contextmanager
def _server(workspace: Path, repository: Path) -> Iterator[EmbeddedTriton]:
    options = ServerOptions.on_free_ports(repository)
    with EmbeddedTriton(find_interpreter(workspace), options, workspace / "build" / "benchmark.log") as server:
        server.wait_ready()
        yield server


def _processor_time(server: EmbeddedTriton, clients: Clients) -> dict[str, float]:
    """Seconds of processor time that Triton, its Python models (ONNX Runtime in them) and the clients have used."""
    triton = psutil.Process(server.pid)
    models = sum(sum(child.cpu_times()[:2]) for child in triton.children(recursive=True))
    return {"triton": sum(triton.cpu_times()[:2]), "models": models, "clients": clients.processor_time()}


def _processor() -> str:
    lines = subprocess.run(["lscpu"], capture_output=True, text=True, check=False).stdout.splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("Model name")), "unknown")


def _text(result: dict[str, Any]) -> str:
    lines = [
        f"{'clients':>8} {'way':8} {'tokens/s':>10} {'from':>9} {'to':>9} {'ms/token':>9} {'server is faster':>17}"
    ]
    ratios = {"prefix": "ratio", "cache": "ratio_cached"}
    for name in map(str, CONCURRENCIES):
        for way in WAYS:
            low, high = result["tokens_per_second_spread"][way][name]
            line = f"{name:>8} {way:8} {result['tokens_per_second'][way][name]:10.0f} {low:9.0f} {high:9.0f}"
            line += f" {result['ms_per_token'][way][name]:9.3f}"
            if way in ratios:
                low, high = result[f"{ratios[way]}_spread"][name]
                line += f" {result[ratios[way]][name]:9.2f} times ({low:.2f} to {high:.2f})"
            lines.append(line)
    equal = "equal" if result["translations_equal"] else "NOT EQUAL"
    lines.append(f"translations {equal}; {result['tokens_per_sentence']:.1f} tokens a sentence")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
