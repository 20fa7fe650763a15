"""The configuration of a model: one YAML file in `model_build/conf/`, composed by Hydra against these types."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from model_build._errors import ConfigurationError
from model_build.config.schema import (
    SCHEMAS,
    CorpusConfig,
    EmbedderConfig,
    ExamplesConfig,
    ExportConfig,
    GateConfig,
    ModelConfig,
    PrecisionConfig,
    ServedConfig,
    SingleGraphConfig,
    TrainConfig,
    TranslatorConfig,
    TritonConfig,
    UntrainedConfig,
    VariantConfig,
    require,
)

__all__ = [
    "CONFIG_DIRECTORY",
    "SCHEMAS",
    "CorpusConfig",
    "EmbedderConfig",
    "ExamplesConfig",
    "ExportConfig",
    "GateConfig",
    "ModelConfig",
    "PrecisionConfig",
    "ServedConfig",
    "SingleGraphConfig",
    "TrainConfig",
    "TranslatorConfig",
    "TritonConfig",
    "UntrainedConfig",
    "VariantConfig",
    "configured_models",
    "load_config",
    "read_config",
    "to_flat",
]

CONFIG_DIRECTORY = Path("model_build/conf")


def load_config(workspace: Path, model: str) -> ModelConfig:
    """Return the checked configuration of `model`.

    Raises:
        ConfigurationError: there is no such configuration, or a key or value in it is not one that can be built.
    """
    directory = workspace / CONFIG_DIRECTORY
    if not (directory / f"{model}.yaml").is_file():
        raise ConfigurationError(
            f"no configuration for model '{model}': {directory} has {configured_models(workspace)}"
        )
    return read_config(directory, model, directory / f"{model}.yaml")


def configured_models(workspace: Path) -> list[str]:
    """Names of the models that have a configuration."""
    return sorted(path.stem for path in (workspace / CONFIG_DIRECTORY).glob("[a-z]*.yaml"))


def read_config(directory: Path, file: str, path: Path) -> ModelConfig:
    """Compose `directory/file.yaml` with Hydra and check every key, type and value; errors name `path`."""
    for schema, node in SCHEMAS.items():
        ConfigStore.instance().store(name=schema, node=node)
    try:
        with initialize_config_dir(str(directory.absolute()), version_base="1.3"):
            composed = compose(file)
        config = OmegaConf.to_object(composed)
        if not isinstance(config, ModelConfig):
            raise ConfigurationError(f"defaults names no schema: expected one of {[*SCHEMAS]}")
        require(config.name == file, "name", config.name, f"{file}, the name of the file")
        return config
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not YAML in UTF-8: {' '.join(str(error).split())}: correct it") from error
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigurationError(f"{path}: {_sentence(error)}: correct that key") from error


def _sentence(error: BaseException) -> str:
    """The innermost cause's first line, and the key it is about."""
    cause: BaseException = error
    while isinstance(inner := cause.__cause__ or cause.__context__, HydraException | OmegaConfBaseException):
        if "$" in str(inner):  # OmegaConf's own template, before it put the value in
            break
        cause = inner
    if isinstance(cause, MissingConfigException):
        return f"defaults names '{cause.missing_cfg_file}', which is no schema: expected one of {[*SCHEMAS]}"
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    key, holder = getattr(cause, "full_key", None), getattr(cause, "object_type", None)
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and dataclasses.is_dataclass(holder):
        lines[0] += f", which has {', '.join(one.name for one in dataclasses.fields(holder))}"
    return f"{key}: {lines[0]}" if key and key not in lines[0] else lines[0]


def to_flat(config: ModelConfig) -> dict[str, Any]:
    """Configuration as `{"train.epochs": 25, ...}`, the form that MLflow's parameters take."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        else:
            flat[prefix] = value

    walk("", OmegaConf.to_container(OmegaConf.structured(config)))
    return flat
