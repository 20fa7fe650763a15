"""The errors of this package.

TritonError
├── ConnectError        no server answers at the URL
├── DeadlineExceeded    no answer came within the timeout
├── ModelNotFound       the server does not have the model, or not that version
├── InvalidInput        an input that the model does not take, found before anything was sent
└── ServerError         the server refused or failed; the message is the server's
"""


class TritonError(Exception):
    """Anything that keeps a request from its answer."""


class ConnectError(TritonError):
    """No server answers at the URL."""


class DeadlineExceeded(TritonError):
    """No answer came within the timeout."""


class ModelNotFound(TritonError):
    """The server does not have the model, or not that version."""


class InvalidInput(TritonError, ValueError):
    """An input that the model does not take; `expected` and `got` describe it."""

    def __init__(self, subject: str, expected: str, got: str) -> None:
        super().__init__(f"{subject}: expected {expected}, got {got}")
        self.expected = expected
        self.got = got


class ServerError(TritonError):
    """The server refused or failed; the message is the server's."""


def one_line(message: str) -> str:
    """A message without its line breaks: a Python model's errors come with a trace of several lines."""
    return " ".join(message.split())


# What a server's HTTP and gRPC endpoints say when a streaming model is asked for one answer.
DECOUPLED = "decoupled transaction policy"


def streams(url: str, model: str) -> ServerError:
    """The refusal of a decoupled model, with the way there is."""
    return ServerError(
        f"{url}: model '{model}' streams: it may send several responses to a request, and this request is for one "
        "answer: ask it over gRPC streaming (`start_stream` of tritonclient.grpc)"
    )
