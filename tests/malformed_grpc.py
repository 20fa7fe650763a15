"""gRPC messages that are wrong: a right one of a model, and something done to its fields or its bytes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from tests.malformed_answers import (
    Tensor,
    Wrong,
    as_arrays,
    check_output,
    expected,
    is_own_server_error,
    model_of,
    read_values,
)
from tests.malformed_http import draw, to_bytes
from tests.malformed_killers import overflow_to_nothing
from tests.malformed_models import MODELS
from tests.malformed_mutations import damaged

SERVICE = "/inference.GRPCInferenceService/"
PATIENCE = 20.0  # seconds
CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "BYTES": "bytes_contents",
}
SIZES = (-1, 0, 1, 2, 7, 9, 255, 2**31, 2**32, 2**32 + 2, 2**40, 2**61, 2**62, 2**63 - 1, -(2**63))
WORDS = (
    "",
    "x",
    "y",
    "FP32",
    "INT64",
    "BYTES",
    "NONE",
    "TYPE_FP32",
    "plus",
    "nope",
    "1",
    "-1",
    "9" * 30,
    "é🚢",
    "x" * 5000,
)
CLIENTS_FAULT = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.OUT_OF_RANGE,
}
# gRPC itself says INTERNAL of bytes that are no message of the method.
NO_MESSAGE = "Unable to parse request"


@dataclass(frozen=True)
class Call:
    """A method's name and the bytes of its message."""

    method: str
    message: bytes
    kind: str


def right(rng: random.Random) -> Any:
    """A message that gets an answer, with raw tensors or typed ones."""
    model = rng.choice(list(MODELS.values()))
    shape = [*([rng.randint(1, model.batch)] if model.batch else []), *(d or rng.randint(1, 5) for d in model.dims)]
    raw = rng.random() < 0.6 or "FP16" in model.inputs.values()
    message = pb.ModelInferRequest(model_name=model.name)
    for name, datatype in model.inputs.items():
        array = draw(rng, datatype, shape)
        tensor = message.inputs.add(name=name, datatype=datatype, shape=shape)
        if raw:
            message.raw_input_contents.append(to_bytes(array))
        else:
            getattr(tensor.contents, CONTENTS[datatype]).extend(array.ravel().tolist())
    if rng.random() < 0.3:
        message.outputs.add(name=model.output)
    return message


def strange_shape(rng: random.Random, message: Any) -> None:
    """A shape of other sizes, or of more or fewer of them."""
    tensor = rng.choice(message.inputs)
    if tensor.shape and rng.random() < 0.7:
        tensor.shape[rng.randrange(len(tensor.shape))] = rng.choice(SIZES)
    else:
        tensor.shape[:] = rng.choices(SIZES, k=rng.choice([0, 1, 2, 3, 100]))


def strange_word(rng: random.Random, message: Any) -> None:
    """Another name, version or datatype."""
    tensor, word = rng.choice(message.inputs), rng.choice(WORDS)
    match rng.randrange(5):
        case 0:
            tensor.name = word
        case 1:
            tensor.datatype = word
        case 2:
            message.model_name = word
        case 3:
            message.model_version = word
        case 4:
            message.outputs.add(name=word)


def strange_contents(rng: random.Random, message: Any) -> None:
    """Typed tensors of another type, or beside raw ones; raw ones of another size, number or order."""
    tensor, raws = rng.choice(message.inputs), message.raw_input_contents
    match rng.randrange(5):
        case 0:
            getattr(tensor.contents, rng.choice(list(CONTENTS.values()))).extend([])
            tensor.contents.int64_contents.extend([1] * rng.choice([1, 3, 1000]))
        case 1:
            raws.append(rng.randbytes(rng.choice([0, 1, 4, 500])))
        case 2:
            del raws[: rng.randint(0, 1)]
        case 3:
            raws[:] = [damaged(rng, raw) for raw in raws]
        case 4:
            tensor.ClearField("contents")


def strange_parameter(rng: random.Random, message: Any) -> None:
    """A parameter that Triton gives a meaning, of a wrong type or value."""
    names = ("sequence_id", "sequence_start", "priority", "timeout", "classification", "binary_data_size")
    more = (
        "shared_memory_region",
        "shared_memory_byte_size",
        "shared_memory_offset",
        "triton_enable_empty_final_response",
    )
    message.outputs.add(name="y")
    parameter = rng.choice([message, *message.inputs, *message.outputs]).parameters[rng.choice(names + more)]
    match rng.randrange(4):
        case 0:
            parameter.int64_param = rng.choice(SIZES)
        case 1:
            parameter.string_param = rng.choice(WORDS)
        case 2:
            parameter.bool_param = True
        case 3:
            parameter.double_param = math.nan


def repeated(rng: random.Random, message: Any) -> None:
    """An input that is there twice, a hundred of them, or none."""
    match rng.randrange(3):
        case 0:
            message.inputs.add().CopyFrom(message.inputs[0])
        case 1:
            message.inputs.extend([message.inputs[0]] * 100)
        case 2:
            del message.inputs[:]


OTHERS: dict[str, Callable[[random.Random], Any]] = {
    "ModelMetadata": lambda rng: pb.ModelMetadataRequest(name=rng.choice(WORDS), version=rng.choice(WORDS)),
    "ModelConfig": lambda rng: pb.ModelConfigRequest(name=rng.choice(WORDS), version=rng.choice(WORDS)),
    "ModelReady": lambda rng: pb.ModelReadyRequest(name=rng.choice(WORDS), version=rng.choice(WORDS)),
    "ModelStatistics": lambda rng: pb.ModelStatisticsRequest(name=rng.choice(WORDS), version=rng.choice(WORDS)),
    "RepositoryIndex": lambda rng: pb.RepositoryIndexRequest(repository_name=rng.choice(WORDS)),
    "RepositoryModelLoad": lambda rng: pb.RepositoryModelLoadRequest(model_name=rng.choice(WORDS)),
    "RepositoryModelUnload": lambda rng: pb.RepositoryModelUnloadRequest(model_name=rng.choice(WORDS)),
    "SystemSharedMemoryStatus": lambda rng: pb.SystemSharedMemoryStatusRequest(name=rng.choice(WORDS)),
    "SystemSharedMemoryRegister": lambda rng: pb.SystemSharedMemoryRegisterRequest(
        name=rng.choice(WORDS),
        key=rng.choice(WORDS),
        offset=rng.choice([0, 2**64 - 1]),
        byte_size=rng.choice([0, 2**63]),
    ),
    "CudaSharedMemoryRegister": lambda rng: pb.CudaSharedMemoryRegisterRequest(
        name=rng.choice(WORDS), raw_handle=rng.randbytes(64), device_id=rng.choice([-1, 0, 99]), byte_size=2**63
    ),
    "Nothing": lambda _: pb.ServerLiveRequest(),
}
MUTATIONS = (strange_shape, strange_word, strange_contents, strange_parameter, repeated)


def call(seed: int, number: int) -> Call:
    """The call of this number, always the same."""
    rng = random.Random(f"grpc {seed} {number}")
    if rng.random() < 0.15:
        method = rng.choice(list(OTHERS))
        message = OTHERS[method](rng).SerializeToString()
        return Call(method, message if rng.random() < 0.7 else damaged(rng, message), method)
    made, kinds = right(rng), []
    for mutation in rng.choices(MUTATIONS, k=rng.choice([0, 1, 1, 2])):
        if made.inputs:
            mutation(rng, made)
            kinds.append(mutation.__name__)
    message = made.SerializeToString()
    if not kinds or rng.random() < 0.1:
        message, kinds = damaged(rng, message), [*kinds, "damaged"]
    return Call("ModelInfer", message, "+".join(kinds))


def killer_in_grpc(call: Call) -> str | None:
    """Which of the killers a call is."""
    if call.method != "ModelInfer":
        return None
    try:
        message = pb.ModelInferRequest.FromString(call.message)
    except DecodeError:
        return None
    if b"classification" in call.message and MODELS.get(message.model_name, MODELS["plus"]).datatype == "BYTES":
        return "CLASSES_OF_TEXTS"
    return overflow_to_nothing([list(one.shape) for one in message.inputs])


def ask(channel: grpc.Channel, call: Call) -> str:
    """Send it; say why the reply is a fault, or nothing where it is none."""
    try:
        answer = channel.unary_unary(SERVICE + call.method)(call.message, timeout=PATIENCE)
    except grpc.RpcError as error:
        code, details = error.code(), str(error.details())
        refused = code in CLIENTS_FAULT or NO_MESSAGE in details or is_own_server_error(details)
        return "" if refused else f"{code.name}: {details}"
    if call.method != "ModelInfer":
        return ""
    try:
        return _check(pb.ModelInferRequest.FromString(call.message), pb.ModelInferResponse.FromString(answer))
    except (Wrong, ValueError, KeyError) as wrong:
        return f"answered what means nothing ({wrong!r})"


def _check(message: Any, answer: Any) -> str:
    model = model_of(message.model_name)
    raws = list(message.raw_input_contents)
    tensors: list[Tensor] = []
    for tensor in message.inputs:
        values = read_values(tensor.datatype, raws.pop(0)) if message.raw_input_contents else None
        if values is None:
            values = list(getattr(tensor.contents, CONTENTS[tensor.datatype]))
        tensors.append((tensor.name, tensor.datatype, list(tensor.shape), values))
    arrays = as_arrays(model, tensors)
    if len(answer.outputs) != 1:
        return f"{len(answer.outputs)} outputs"
    output = answer.outputs[0]
    got = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
    classes = next(
        (o.parameters["classification"].int64_param for o in message.outputs if "classification" in o.parameters), None
    )
    values = read_values(output.datatype, answer.raw_output_contents[0])
    return check_output(model, expected(model, arrays), got, values, classes)
