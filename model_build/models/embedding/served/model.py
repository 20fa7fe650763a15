"""Triton's Python backend around `tokenization.py`: `text` BYTES `[n, 1]` to `input_ids` and `attention_mask`.

Of config.pbtxt: the parameters `max_tokens` and `pad_to_multiple_of`. Each request is padded to its own longest text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from tokenization import TextTokenizer


class TritonPythonModel:
    """One instance: a tokenizer of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read this version's tokenizer."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        numbers = [_number(config, name) for name in ("max_tokens", "pad_to_multiple_of")]
        self._tokenizer = TextTokenizer(folder / "tokenizer.json", *numbers)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request; one that is refused does not disturb the others."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        values = pb_utils.get_input_tensor_by_name(request, "text").as_numpy().ravel().tolist()
        texts = []
        for index, value in enumerate(values):
            try:
                texts.append(value.decode())
            except UnicodeDecodeError as error:
                message = f"input 'text', element {index} is not UTF-8 ({error}): send text in UTF-8"
                return pb_utils.InferenceResponse(error=pb_utils.TritonError(message))
        ids, mask = self._tokenizer.encode(texts)
        return pb_utils.InferenceResponse([pb_utils.Tensor("input_ids", ids), pb_utils.Tensor("attention_mask", mask)])


def _number(config: dict[str, Any], name: str) -> int:
    value = config["parameters"].get(name, {}).get("string_value", "")
    if not value.isdecimal() or int(value) < 1:
        raise pb_utils.TritonModelException(f"parameter {name} is '{value}': expected a whole number, 1 or more")
    return int(value)
