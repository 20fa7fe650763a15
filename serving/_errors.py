"""What can go wrong between a model repository and a server that answers.

ServingError
├── InterpreterError     the server's Python environment is absent or cannot run Triton
├── RepositoryError      what lies in the model repository is not what its manifest says
├── PortTaken            something listens where the server should
├── StartError           Triton ended, or a model failed to load, before the server was ready
├── GoldenMismatch       a model loaded and does not give the answer it was built with
├── ServerDied           Triton, or the process of a model, ended by itself while it should serve
├── LockError            a dvc.lock that names no model
├── WeightsError         the weights of a release cannot be had, or are not those that were built
├── PushError            the weights did not reach the store
└── ReleaseError         what a release is made of is not there
"""


class ServingError(Exception):
    """One line that names what was wrong, what was expected and what to do."""


class InterpreterError(ServingError):
    """The server's Python environment is absent or cannot run Triton."""


class RepositoryError(ServingError):
    """What lies in the model repository is not what its manifest says."""


class PortTaken(ServingError):
    """Something listens where the server should."""


class StartError(ServingError):
    """Triton ended, or a model failed to load, before the server was ready."""


class GoldenMismatch(ServingError):
    """A model loaded and does not give the answer it was built with.

    Attributes:
        found: what was found, without what to do: while a model is built, building it is no advice.
    """

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(f"{found}; {remedy}")
        self.found = found


class ServerDied(ServingError):
    """Triton, or the process of a model, ended by itself while it should serve."""


class LockError(ServingError):
    """A dvc.lock that names no model."""


class WeightsError(ServingError):
    """The weights of a release cannot be had, or are not those that were built."""


class PushError(ServingError):
    """The weights did not reach the store."""


class ReleaseError(ServingError):
    """What a release is made of is not there."""
