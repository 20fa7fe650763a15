"""PyTorch to a model repository: data, training, export, gate. The stages of `dvc.yaml`.

Only the errors are here: `python -m model_build` imports this before it can answer Ctrl-C with a line.
"""

from model_build._errors import BuildError, ConfigurationError, DataError, ExportError, GateRefused

__all__ = [
    "BuildError",
    "ConfigurationError",
    "DataError",
    "ExportError",
    "GateRefused",
]
