"""Closed-loop clients for decode.py: each sends its next text when the last one has come back.

A client is a process of its own, so that eight of them share no interpreter lock. It runs this file
(`_decode_load.py ADDRESS TOKENIZERS MAX_TOKENS`), and takes orders on standard input, one line of JSON each.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
from tritonclient.utils import InferenceServerException

from benchmarks._decode_clients import WAYS, Client, Setting

HEAD_START = 0.05  # seconds from the order to the beginning, which is the same instant for every client

Answers = set[tuple[int, str, int]]  # number of the sentence, its translation, tokens of that


@dataclass(frozen=True)
class Load:
    """What a measurement came to: tokens (END not counted) and texts, seconds until the last client was done."""

    tokens: int
    texts: int
    seconds: float
    answers: Answers

    @property
    def per_second(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


class Clients:
    """`count` client processes; a context manager."""

    def __init__(self, setting: Setting, sentences: Sequence[str], count: int) -> None:
        self._count = len(sentences)
        command = [sys.executable, __file__, setting.address, str(setting.tokenizers), str(setting.max_tokens)]
        self._processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            for _ in range(count)
        ]
        for process in self._processes:
            _tell(process, list(sentences))

    def __enter__(self) -> Clients:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    def measure(self, way: str, concurrency: int, seconds: float) -> Load:
        """Let the first `concurrency` clients translate for `seconds`, and each sentence once at the least.

        Raises:
            RuntimeError: a client could not go on; it says why.
        """
        clients, begin = self._processes[:concurrency], time.monotonic() + HEAD_START
        for number, process in enumerate(clients):
            share = (self._count * number // concurrency, self._count * (number + 1) // concurrency)
            _tell(process, {"way": way, "begin": begin, "seconds": seconds, "share": share})
        replies = [_hear(process) for process in clients]
        return Load(
            sum(reply["tokens"] for reply in replies),
            sum(reply["texts"] for reply in replies),
            max(reply["end"] for reply in replies) - begin,
            {(number, text, tokens) for reply in replies for number, text, tokens in reply["answers"]},
        )

    def processor_time(self) -> float:
        """Seconds of processor time that the clients have used."""
        return sum(sum(psutil.Process(process.pid).cpu_times()[:2]) for process in self._processes)


def _tell(process: subprocess.Popen[str], order: object) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(order) + "\n")


def _hear(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    reply: dict[str, Any] = json.loads(process.stdout.readline() or '{"error": "it ended"}')
    if "error" in reply:
        raise RuntimeError(f"a client could not go on: {reply['error']}")
    return reply


def _translate(client: Client, sentences: Sequence[str], order: dict[str, Any]) -> dict[str, Any]:
    """All sentences in their order from the client's own share on, again and again."""
    start, stop = order["share"]
    tokens, texts, answers = 0, 0, set()
    time.sleep(max(0.0, order["begin"] - time.monotonic()))
    deadline = order["begin"] + order["seconds"]
    while texts < stop - start or time.monotonic() < deadline:
        number = (start + texts) % len(sentences)
        translation = client.translate(sentences[number])
        tokens, texts = tokens + translation.tokens, texts + 1
        answers.add((number, translation.text, translation.tokens))
    return {"end": time.monotonic(), "tokens": tokens, "texts": texts, "answers": sorted(answers)}


def main() -> None:
    """Answer each order with a line of JSON, until standard input ends."""
    setting = Setting(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    sentences = json.loads(sys.stdin.readline())
    clients: dict[str, Client] = {}
    for line in sys.stdin:
        order = json.loads(line)
        way = order["way"]
        try:
            if way not in clients:
                clients[way] = WAYS[way](setting)
            reply = _translate(clients[way], sentences, order)
        except InferenceServerException as error:
            reply = {"error": str(error)}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
