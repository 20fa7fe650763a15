"""What can go wrong between a configuration and a model repository.

BuildError
├── ConfigurationError   a configuration that cannot be built
├── DataError            a data set that is absent or not what its format says
├── ExportError          the graph cannot be exported, or differs from the PyTorch model
└── GateRefused          the model lost accuracy: nothing is written to the repository
"""


class BuildError(Exception):
    """One line that names what was wrong, what was expected and what to do."""


class ConfigurationError(BuildError):
    """A configuration that cannot be built."""


class DataError(BuildError):
    """A data set that is absent or not what its format says."""


class ExportError(BuildError):
    """The graph cannot be exported, or differs from the PyTorch model."""


class GateRefused(BuildError):
    """The model lost accuracy: nothing is written to the repository."""
