"""Three ways to have a text translated, for decode.py: by the loop in the server, and by loops in the client.

Each is written as one would write it for use: tokenizers and one channel of the client's own, request objects used
again, only the outputs that are needed. As in the server, the most probable token is taken until END or the limit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton

from model_build.models.translation.served.decoding import BEGIN, END, read_tokenizer

Array = npt.NDArray[Any]
BEGINNING = np.full((1, 1), BEGIN, np.int64)


@dataclass(frozen=True)
class Translation:
    """A translated text, and its tokens, END left out."""

    text: str
    tokens: int


@dataclass(frozen=True)
class Setting:
    """What a client must know: the server's gRPC address, the tokenizers' folder, the most tokens of an answer."""

    address: str
    tokenizers: Path
    max_tokens: int


class Client(ABC):
    """One user, one text at a time."""

    def __init__(self, setting: Setting) -> None:
        here = [("grpc.enable_http_proxy", 0)]  # the server is on this machine
        self._triton = triton.InferenceServerClient(setting.address, channel_args=here)
        self._max_tokens = setting.max_tokens

    @abstractmethod
    def translate(self, text: str) -> Translation:
        """The text's translation."""

    def close(self) -> None:
        """Close the channel."""
        self._triton.close()


class InServer(Client):
    """One request a text: `translator_fp32` decodes."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._input = triton.InferInput("text", [1, 1], "BYTES")
        self._outputs = [triton.InferRequestedOutput(name) for name in ("translation", "tokens")]

    def translate(self, text: str) -> Translation:
        """Ask once."""
        self._input.set_data_from_numpy(np.array([[text.encode()]], np.object_))
        answer = self._triton.infer("translator_fp32", [self._input], outputs=self._outputs)
        return Translation(answer.as_numpy("translation")[0, 0].decode(), int(answer.as_numpy("tokens")[0, 0]))


class _Looping(Client):
    """A client that has the tokenizers, and asks for one token at a time."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._source = read_tokenizer(setting.tokenizers / "source.json")
        self._target = read_tokenizer(setting.tokenizers / "target.json")
        self._token = triton.InferRequestedOutput("next_token")

    def translate(self, text: str) -> Translation:
        """Loop."""
        source = np.array([[*self._source.encode(text).ids, END]], np.int64)
        tokens = self._decode(source) if source.size > 1 else []
        decoded: str = self._target.decode(tokens)
        return Translation(decoded.removeprefix(" "), len(tokens))

    @abstractmethod
    def _decode(self, source: Array) -> list[int]:
        """Source int64 `[1, s]` to the tokens of its translation."""


class ResendingPrefix(_Looping):
    """Client (a): `encoder` once, then `decoder_prefix` with the encoded source and all tokens so far."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._encoded = [triton.InferRequestedOutput("encoded")]

    def _decode(self, source: Array) -> list[int]:
        sent = _input("source", source)
        encoded = self._triton.infer("encoder", [sent], outputs=self._encoded).as_numpy("encoded")
        target = triton.InferInput("target", [1, 1], "INT64")
        inputs, outputs = [sent, _input("encoded", encoded), target], [self._token]
        prefix = np.empty((1, self._max_tokens + 1), np.int64)
        prefix[0, 0] = BEGIN
        tokens: list[int] = []
        for length in range(1, self._max_tokens + 1):
            _fill(target, prefix[:, :length])
            answer = self._triton.infer("decoder_prefix", inputs, outputs=outputs)
            token = int(answer.as_numpy("next_token")[0, 0])
            if token == END:
                break
            tokens.append(token)
            prefix[0, length] = token
        return tokens


class ShippingCache(_Looping):
    """Client (b): `encoder_cache` once, then `decoder_cache` with the last token, and the cache there and back."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        tensors = self._triton.get_model_metadata("decoder_cache").inputs
        encoded = {tensor.name for tensor in self._triton.get_model_metadata("encoder_cache").outputs}
        self._memories = [tensor.name for tensor in tensors if tensor.name in encoded]
        pasts = [tensor for tensor in tensors if tensor.name.startswith("past_")]
        self._empty = {
            past.name: np.empty((1, *(max(size, 0) for size in list(past.shape)[1:])), np.float32) for past in pasts
        }
        self._presents = {past.name: past.name.replace("past_", "present_") for past in pasts}
        self._memory_outputs = [triton.InferRequestedOutput(name) for name in self._memories]
        self._outputs = [self._token, *(triton.InferRequestedOutput(name) for name in self._presents.values())]

    def _decode(self, source: Array) -> list[int]:
        sent = _input("source", source)
        encoded = self._triton.infer("encoder_cache", [sent], outputs=self._memory_outputs)
        memories = [_input(name, encoded.as_numpy(name)) for name in self._memories]
        pasts = {name: _input(name, empty) for name, empty in self._empty.items()}
        token, position = _input("token", BEGINNING), _input("position", np.zeros((1, 1), np.int64))
        inputs = [token, position, *memories, *pasts.values()]
        tokens: list[int] = []
        while len(tokens) < self._max_tokens:
            position.set_data_from_numpy(np.array([[len(tokens)]], np.int64))
            answer = self._triton.infer("decoder_cache", inputs, outputs=self._outputs)
            found = answer.as_numpy("next_token")
            if found[0, 0] == END:
                break
            tokens.append(int(found[0, 0]))
            token.set_data_from_numpy(found)
            for name, present in self._presents.items():
                _fill(pasts[name], answer.as_numpy(present))
        return tokens


WAYS: dict[str, type[Client]] = {"server": InServer, "prefix": ResendingPrefix, "cache": ShippingCache}


def _input(name: str, array: Array) -> Any:
    return _fill(triton.InferInput(name, [*array.shape], _datatype(array)), array)


def _fill(tensor: Any, array: Array) -> Any:
    return tensor.set_shape([*array.shape]).set_data_from_numpy(array)


def _datatype(array: Array) -> str:
    """The array's dtype in the protocol's words."""
    return {"int64": "INT64", "float32": "FP32"}[array.dtype.name]
