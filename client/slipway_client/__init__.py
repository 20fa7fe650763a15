"""Typed Python client for Triton Inference Server."""

from slipway_client._answers import answer_files, answer_texts
from slipway_client._client import Client, Model, check_inputs, parse_url
from slipway_client._errors import (
    ConnectError,
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    ServerError,
    TritonError,
)
from slipway_client._examples import read_example, read_image, read_inputs
from slipway_client._latency import Latency, ServerTime, measure_latency
from slipway_client._texts import ask_texts, read_texts
from slipway_client._transport import Transport
from slipway_client._types import DTYPES, ModelSpec, Result, TensorSpec

__all__ = [
    "DTYPES",
    "Client",
    "ConnectError",
    "DeadlineExceeded",
    "InvalidInput",
    "Latency",
    "Model",
    "ModelNotFound",
    "ModelSpec",
    "Result",
    "ServerError",
    "ServerTime",
    "TensorSpec",
    "Transport",
    "TritonError",
    "answer_files",
    "answer_texts",
    "ask_texts",
    "check_inputs",
    "measure_latency",
    "parse_url",
    "read_example",
    "read_image",
    "read_inputs",
    "read_texts",
]
