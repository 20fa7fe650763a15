"""What tests of the text models need: gettext catalogues, small translators, requests as Triton hands them over."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf import json_format, text_format
from onnx import TensorProto, helper, numpy_helper
from slipway_client._local_backend import backend_module
from slipway_client._local_imports import ModelModules
from slipway_client._local_request import InferenceRequest, InferenceResponse, InferenceResponseSender, Tensor
from tokenizers import Tokenizer
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from tritonclient.grpc import model_config_pb2 as pb

from model_build.config import ExportConfig
from model_build.models.translation.graphs import export_graphs
from model_build.models.translation.network import BEGIN, END, PAD, Size, TranslationNetwork
from model_build.models.translation.vocabulary import learn_vocabulary

MO_HEADER = (
    "Content-Type: text/plain; charset={charset}\n"
    "Plural-Forms: nplurals=3; plural=(n%10==1 && n%100!=11 ? 0 : n%10>=2 && (n%100<10 || n%100>=20) ? 1 : 2);\n"
)

SENTENCES = {
    "Корабль стоит у причала.": "The ship is at the pier.",  # noqa: RUF001
    "Где капитан?": "Where is the captain?",
    "Мы идём домой.": "We are going home.",
    "Море спокойно, и ветер слаб.": "The sea is calm and the wind is weak.",  # noqa: RUF001
    "Да": "Yes",
}
MAX_TOKENS = 30


def write_mo(path: Path, messages: Mapping[str, str], charset: str = "UTF-8", header: str = MO_HEADER) -> Path:
    """A gettext catalogue; U+0004 divides a context from its message, U+0000 one plural form from the next."""
    entries = sorted({"": header.format(charset=charset), **messages}.items())
    texts = [text.encode(charset) for side in (0, 1) for text in (entry[side] for entry in entries)]
    place = 28 + 8 * len(texts)
    tables = b""
    for text in texts:
        tables += struct.pack("<II", len(text), place)
        place += len(text) + 1
    head = struct.pack("<7I", 0x950412DE, 0, len(entries), 28, 28 + 8 * len(entries), 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + tables + b"".join(text + b"\0" for text in texts))
    return path


def memorised(folder: Path) -> tuple[TranslationNetwork, Tokenizer, Tokenizer]:
    """A network of width 32 that has learned SENTENCES by heart; `folder` has its graphs and tokenizers."""
    folder.mkdir()
    tokenizers = learn_vocabulary(SENTENCES, 300), learn_vocabulary(SENTENCES.values(), 300)
    for name, tokenizer in zip(("source.json", "target.json"), tokenizers, strict=True):
        tokenizer.save(str(folder / name))
    torch.manual_seed(0)
    torch.set_num_threads(1)
    vocabularies = [tokenizer.get_vocab_size() for tokenizer in tokenizers]
    network = TranslationNetwork(
        Size(
            source_vocabulary=vocabularies[0],
            target_vocabulary=vocabularies[1],
            width=32,
            heads=4,
            feed_forward=64,
            encoder_layers=2,
            decoder_layers=2,
            max_tokens=MAX_TOKENS + 1,
            dropout=0.0,
        )
    )
    source = _batch([[*tokenizers[0].encode(text).ids, END] for text in SENTENCES])
    target = _batch([[BEGIN, *tokenizers[1].encode(text).ids, END] for text in SENTENCES.values()])
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(100):
        logits = network(source, target[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=PAD)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    contents, _ = export_graphs(network.eval(), source, ExportConfig(opset=20, ir_version=10, parity_atol=1e-3))
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return network, *tokenizers


def _batch(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=PAD)


def scripted(folder: Path, script: Mapping[str, Sequence[int] | str], ends: bool = True) -> Tokenizer:
    """A translator that answers each text of `script` with those tokens (of a text: its own), then END if it `ends`.

    The target vocabulary knows ASCII words only: any other character is several tokens, one for each byte.

    Returns:
        The target's tokenizer.
    """
    folder.mkdir(parents=True)
    source = learn_vocabulary([*script] * 9, 2000)
    target = learn_vocabulary(["ship ahoy"] * 9, 300)
    source.save(str(folder / "source.json"))
    target.save(str(folder / "target.json"))
    table = np.full((source.get_vocab_size(), 100), END if ends else target.encode("ship").ids[0], np.int64)
    first = {text: source.encode(text).ids[0] for text in script}
    assert len({*first.values()}) == len(script), "texts of a script begin with different tokens"
    for text, answer in script.items():
        tokens = target.encode(answer).ids if isinstance(answer, str) else answer
        table[first[text], : len(tokens)] = tokens
    for name, graph in (("encoder.onnx", _encoder()), ("decoder.onnx", _scripted_decoder(table))):
        (folder / name).write_bytes(graph.SerializeToString())
    return target


def _encoder() -> onnx.ModelProto:
    """`memory_keys_0` float32 `[b, 1, 1, s]`: the source itself."""
    nodes = [
        helper.make_node("Unsqueeze", ["source", "axes"], ["places"]),
        helper.make_node("Cast", ["places"], ["memory_keys_0"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["memory_keys_0"], ["memory_values_0"], perm=[0, 1, 3, 2]),
        helper.make_node("Mul", ["memory_keys_0", "nothing"], ["bias"]),
    ]
    inputs = [helper.make_tensor_value_info("source", TensorProto.INT64, ["b", "s"])]
    constants = {"axes": np.array([1, 2]), "nothing": np.array(0, np.float32)}
    return _model(nodes, inputs, _given(), _initializers(constants))


def _given() -> list[onnx.ValueInfoProto]:
    """What the encoder gives and the decoder takes."""
    shapes: dict[str, list[str | int]] = {
        "bias": ["b", 1, 1, "s"],
        "memory_keys_0": ["b", 1, 1, "s"],
        "memory_values_0": ["b", 1, "s", 1],
    }
    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]


def _scripted_decoder(table: np.typing.NDArray[np.int64]) -> onnx.ModelProto:
    """The next token is `table[first token of the source, position]`; the cache grows by one."""
    nodes = [
        helper.make_node("Slice", ["memory_keys_0", "zero", "one", "last"], ["beginning"]),
        helper.make_node("Reshape", ["beginning", "column"], ["first_float"]),
        helper.make_node("Cast", ["first_float"], ["first"], to=TensorProto.INT64),
        helper.make_node("Concat", ["first", "position"], ["where"], axis=1),
        helper.make_node("GatherND", ["table", "where"], ["flat"]),
        helper.make_node("Unsqueeze", ["flat", "one"], ["next_token"]),
        helper.make_node("Unsqueeze", ["token", "axes"], ["places"]),
        helper.make_node("Cast", ["places"], ["new"], to=TensorProto.FLOAT),
        *(helper.make_node("Concat", [f"past_{part}_0", "new"], [f"present_{part}_0"], axis=2) for part in CACHE),
    ]
    inputs = [
        *(helper.make_tensor_value_info(name, TensorProto.INT64, ["b", 1]) for name in ("token", "position")),
        *_given(),
        *(helper.make_tensor_value_info(f"past_{part}_0", TensorProto.FLOAT, ["b", 1, "t", 1]) for part in CACHE),
    ]
    outputs = [
        helper.make_tensor_value_info("next_token", TensorProto.INT64, ["b", 1]),
        *(helper.make_tensor_value_info(f"present_{part}_0", TensorProto.FLOAT, ["b", 1, "u", 1]) for part in CACHE),
    ]
    constants = {
        "table": table,
        "zero": np.array([0]),
        "one": np.array([1]),
        "last": np.array([3]),
        "column": np.array([-1, 1]),
        "axes": np.array([1, 2]),
    }
    return _model(nodes, inputs, outputs, _initializers(constants))


CACHE = ("keys", "values")


def _initializers(constants: Mapping[str, np.typing.NDArray[Any]]) -> list[TensorProto]:
    return [numpy_helper.from_array(array, name) for name, array in constants.items()]


def _model(nodes: Any, inputs: Any, outputs: Any, constants: Any) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "made", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


class Request(InferenceRequest):
    """One request for a Python model, with what a server adds to it and `local:` has not."""

    def __init__(
        self,
        texts: Sequence[str | bytes],
        *,
        decoupled: bool = False,
        parameters: Mapping[str, object] | None = None,
        timeout_us: int = 0,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self.sender = InferenceResponseSender(decoupled)
        values = np.array([text if isinstance(text, bytes) else text.encode() for text in texts], np.object_)
        super().__init__(inputs=[Tensor("text", values.reshape(-1, 1))], sender=self.sender)
        self._parameters = json.dumps(parameters) if parameters is not None else ""
        self._timeout = timeout_us
        self._cancelled = cancelled

    def parameters(self) -> str:
        """As Triton gives them: JSON, an empty text where there are none."""
        return self._parameters

    def timeout(self) -> int:
        """Microseconds."""
        return self._timeout

    def is_cancelled(self) -> bool:
        """Whether the client has gone."""
        return self._cancelled()


class ServedCode:
    """`model.py` of a model folder, run as Triton's Python backend does."""

    def __init__(self, folder: Path) -> None:
        config = text_format.Parse((folder / "config.pbtxt").read_text(), pb.ModelConfig())
        self._modules = ModelModules(folder, "1", backend_module(folder / "1"))
        with self._modules.visible():
            self._model = self._modules.load("model").TritonPythonModel()
            self._model.initialize(
                {
                    "model_config": json.dumps(json_format.MessageToDict(config, preserving_proto_field_name=True)),
                    "model_repository": str(folder),
                    "model_version": "1",
                }
            )

    def execute(self, *requests: Request) -> list[InferenceResponse] | None:
        """Answer the requests in one batch."""
        with self._modules.visible():
            responses: list[InferenceResponse] | None = self._model.execute(list(requests))
        return responses


def values(response: InferenceResponse) -> dict[str, list[Any]]:
    """The columns of a response, text as `str`; an error of the model is an AssertionError."""
    error = response.error()
    assert error is None, error and error.message()
    return {
        tensor.name(): [one.decode() if isinstance(one, bytes) else one for one in tensor.as_numpy().ravel().tolist()]
        for tensor in response.output_tensors()
    }


def refusal(response: InferenceResponse) -> str:
    """The message of a response that is an error."""
    error = response.error()
    assert error is not None, "the model answered"
    return error.message()


def with_weights_mixed_up(content: bytes) -> bytes:
    """The graph with the rows of every 8-bit weight turned round: it is as fast, as INT8, and says nothing."""
    model = onnx.load_from_string(content)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 2:
            values = numpy_helper.to_array(tensor)[::-1].copy()
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    mixed: bytes = model.SerializeToString()
    return mixed
