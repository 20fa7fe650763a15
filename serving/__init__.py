"""Triton without Docker or a GPU: a verified model repository in, a server that has answered out."""

from serving._errors import (
    GoldenMismatch,
    InterpreterError,
    LockError,
    PortTaken,
    PushError,
    ReleaseError,
    RepositoryError,
    ServerDied,
    ServingError,
    StartError,
    WeightsError,
)
from serving._exposure import BEYOND_LOOPBACK, is_loopback
from serving._golden import GoldenResult, ask_golden, compare_golden
from serving._interpreter import ServerInterpreter, check_glibc, find_interpreter
from serving._repository import ServedModel, verified_models
from serving._server import EmbeddedTriton, ServerOptions
from serving._supervisor import keep_serving

__all__ = [
    "BEYOND_LOOPBACK",
    "EmbeddedTriton",
    "GoldenMismatch",
    "GoldenResult",
    "InterpreterError",
    "LockError",
    "PortTaken",
    "PushError",
    "ReleaseError",
    "RepositoryError",
    "ServedModel",
    "ServerDied",
    "ServerInterpreter",
    "ServerOptions",
    "ServingError",
    "StartError",
    "WeightsError",
    "ask_golden",
    "check_glibc",
    "compare_golden",
    "find_interpreter",
    "is_loopback",
    "keep_serving",
    "verified_models",
]
