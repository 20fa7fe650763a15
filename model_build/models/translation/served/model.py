"""Triton's Python backend around `decoding.py`: the whole decode loop runs in the server, for a batch of requests.

Unary (`translator`): one response a request, when all of its texts have ended. Decoupled (`translator_stream`): one
text a request, one response for each piece of text, the last one with a `finish_reason`; the pieces joined are the
translation.

Of a request: its `timeout` (microseconds from when it began to be decoded) and the parameter `max_tokens` end the loop,
and so does whoever asked by cancelling. Of config.pbtxt: `max_batch_size`, and the parameters `max_source_tokens`,
`max_target_tokens`, `intra_op_thread_count`, and `encoder` and `decoder`, the names of the graphs' files.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from decoding import Sentence, TextError, Translator

GRAPHS = ("encoder", "decoder")


@dataclass
class Job:
    """One request and its sentences."""

    request: Any
    sentences: list[Sentence] = field(default_factory=list)
    error: str = ""
    sent: str = ""  # what a streaming client has been told


class TritonPythonModel:
    """One instance: tokenizers and ONNX Runtime sessions of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the sessions of this version's folder."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        self._streams = pb_utils.using_decoupled_model_transaction_policy(config)
        threads = _number(config, "intra_op_thread_count", least=0)
        limits = [_number(config, name, least=1) for name in ("max_source_tokens", "max_target_tokens")]
        self._translator = Translator(folder, threads, *limits, *(_file(config, name) for name in GRAPHS))

    def execute(self, requests: Sequence[Any]) -> list[Any] | None:
        """Decode the texts of every request together."""
        jobs = [self._job(request) for request in requests]
        sentences = [sentence for job in jobs for sentence in job.sentences]
        if not self._streams:
            self._translator.decode(sentences)
            return [self._response(job) for job in jobs]
        for job in jobs:
            if job.error:
                _finish(job, pb_utils.InferenceResponse(error=pb_utils.TritonError(job.error)))
        owners = {id(job.sentences[0]): job for job in jobs if job.sentences}
        self._translator.decode(sentences, lambda moved: self._tell([owners[id(sentence)] for sentence in moved]))
        return None

    def _job(self, request: Any) -> Job:
        job = Job(request)
        try:
            texts = [_text(index, value) for index, value in enumerate(_values(request))]
            if self._streams and len(texts) != 1:
                raise TextError(f"{len(texts)} texts in one request: a stream takes one, send a request for each")
            sentences = [self._translator.sentence(text, _max_tokens(request)) for text in texts]
        except TextError as error:
            job.error = str(error)
            return job
        deadline = time.monotonic() + request.timeout() / 1e6 if request.timeout() else float("inf")
        for sentence in sentences:
            sentence.deadline, sentence.cancelled = deadline, request.is_cancelled
        job.sentences = sentences
        return job

    def _response(self, job: Job) -> Any:
        if not job.error and any(sentence.finish_reason == "cancelled" for sentence in job.sentences):
            job.error = "the request was cancelled"
        if job.error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(job.error))
        texts = [self._translator.text(sentence.tokens) for sentence in job.sentences]
        return _tensors(
            texts,
            [sentence.finish_reason for sentence in job.sentences],
            [len(sentence.tokens) for sentence in job.sentences],
        )

    def _tell(self, jobs: Sequence[Job]) -> None:
        """Send each streaming client what is new."""
        for job in jobs:
            (sentence,) = job.sentences
            text = self._translator.text(sentence.tokens)
            if not sentence.finish_reason and text.endswith("\N{REPLACEMENT CHARACTER}"):
                continue  # a token that ends inside of a character
            piece, job.sent = text[len(job.sent) :], text
            response = _tensors([piece], [sentence.finish_reason], [len(sentence.tokens)])
            if sentence.finish_reason:
                _finish(job, response)
            elif piece:
                job.request.get_response_sender().send(response)


def _tensors(texts: Sequence[str], reasons: Sequence[str], counts: Sequence[int]) -> Any:
    """A response: `translation` and `finish_reason` BYTES `[n, 1]`, `tokens` INT32 `[n, 1]`, the tokens so far."""
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor("translation", _column([text.encode() for text in texts], np.object_)),
            pb_utils.Tensor("finish_reason", _column([reason.encode() for reason in reasons], np.object_)),
            pb_utils.Tensor("tokens", _column(counts, np.int32)),
        ]
    )


def _column(values: Sequence[Any], dtype: Any) -> Any:
    return np.array(values, dtype=dtype).reshape(-1, 1)


def _finish(job: Job, response: Any) -> None:
    job.request.get_response_sender().send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _values(request: Any) -> list[bytes]:
    values: list[bytes] = pb_utils.get_input_tensor_by_name(request, "text").as_numpy().ravel().tolist()
    return values


def _text(index: int, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise TextError(f"input 'text', element {index} is not UTF-8 ({error}): send text in UTF-8") from error


def _max_tokens(request: Any) -> int | None:
    value = json.loads(request.parameters() or "{}").get("max_tokens")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise TextError(f"parameter max_tokens is {value!r}: expected a whole number, 1 or more")
    return value


def _file(config: dict[str, Any], name: str) -> str:
    value: str = config["parameters"].get(name, {}).get("string_value", "")
    if not value:
        raise pb_utils.TritonModelException(f"parameter {name} is missing: expected the name of that graph's file")
    return value


def _number(config: dict[str, Any], name: str, least: int) -> int:
    value = config["parameters"].get(name, {}).get("string_value", "")
    if not value.isdecimal() or int(value) < least:
        raise pb_utils.TritonModelException(f"parameter {name} is '{value}': expected a whole number, {least} or more")
    return int(value)
