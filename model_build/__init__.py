"""PyTorch to a model repository: data, training, export, gate. The stages of `dvc.yaml`."""

from model_build._errors import BuildError, ConfigurationError, DataError, ExportError, GateRefused
from model_build.config import ModelConfig, configured_models, load_config

__all__ = [
    "BuildError",
    "ConfigurationError",
    "DataError",
    "ExportError",
    "GateRefused",
    "ModelConfig",
    "configured_models",
    "load_config",
]
