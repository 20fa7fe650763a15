"""The configuration of a model: one YAML file in `model_build/conf/`, composed by Hydra against these types."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from model_build._errors import ConfigurationError
from model_build.target import TARGET

CONFIG_DIRECTORY = Path("model_build/conf")


@dataclass
class DataConfig:
    """Where examples come from and how they are divided (stratified by label)."""

    path: str | None = None
    split_seed: int = 20
    validation_fraction: float = 0.15
    test_fraction: float = 0.2

    def __post_init__(self) -> None:
        _require(self.validation_fraction > 0, "data.validation_fraction", self.validation_fraction, "more than 0")
        _require(self.test_fraction > 0, "data.test_fraction", self.test_fraction, "more than 0")
        held_out = self.validation_fraction + self.test_fraction
        _require(held_out < 1, "data.validation_fraction + data.test_fraction", held_out, "less than 1")


@dataclass
class TrainConfig:
    """Optimiser (AdamW with a one-cycle learning rate) and length of the training."""

    epochs: int = MISSING
    batch_size: int = MISSING
    learning_rate: float = MISSING
    weight_decay: float = 0.0
    threads: int = 1

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "train.epochs", self.epochs, "1 or more")
        _require(self.batch_size >= 1, "train.batch_size", self.batch_size, "1 or more")
        _require(self.learning_rate > 0, "train.learning_rate", self.learning_rate, "more than 0")
        _require(self.weight_decay >= 0, "train.weight_decay", self.weight_decay, "0 or more")
        _require(self.threads >= 1, "train.threads", self.threads, "1 or more")


@dataclass
class ExportConfig:
    """The ONNX file: versions that the pinned Triton release accepts, distance from PyTorch that is allowed."""

    opset: int = MISSING
    ir_version: int = MISSING
    parity_atol: float = MISSING

    def __post_init__(self) -> None:
        accepted = f"that Triton {TARGET.triton_release} (ONNX Runtime {TARGET.onnxruntime}) accepts"
        _require(
            7 <= self.opset <= TARGET.max_opset, "export.opset", self.opset, f"7 to {TARGET.max_opset}, {accepted}"
        )
        _require(
            4 <= self.ir_version <= TARGET.max_ir_version,
            "export.ir_version",
            self.ir_version,
            f"4 to {TARGET.max_ir_version}, {accepted}",
        )
        _require(self.parity_atol > 0, "export.parity_atol", self.parity_atol, "more than 0")


@dataclass
class GateConfig:
    """What a model must reach before the repository is written."""

    min_accuracy: float = MISSING
    golden_atol: float = MISSING

    def __post_init__(self) -> None:
        _require(0 <= self.min_accuracy <= 1, "gate.min_accuracy", self.min_accuracy, "0 to 1")
        _require(self.golden_atol > 0, "gate.golden_atol", self.golden_atol, "more than 0")


@dataclass
class TritonConfig:
    """What becomes config.pbtxt (instances on a GPU) and configs/cpu.pbtxt (instances and threads on a CPU)."""

    max_batch_size: int = MISSING
    max_queue_delay_us: int = 0
    gpu_instances: int = 1
    cpu_instances: int = 1
    cpu_threads: int = 1

    def __post_init__(self) -> None:
        _require(self.max_batch_size >= 1, "triton.max_batch_size", self.max_batch_size, "1 or more")
        _require(self.max_queue_delay_us >= 0, "triton.max_queue_delay_us", self.max_queue_delay_us, "0 or more")
        _require(self.gpu_instances >= 1, "triton.gpu_instances", self.gpu_instances, "1 or more")
        _require(self.cpu_instances >= 1, "triton.cpu_instances", self.cpu_instances, "1 or more")
        _require(self.cpu_threads >= 0, "triton.cpu_threads", self.cpu_threads, "0 (all cores) or more")


@dataclass
class ModelConfig:
    """One model, from data to server."""

    name: str = MISSING
    recipe: str = MISSING
    seed: int = MISSING
    data: DataConfig = MISSING
    train: TrainConfig = MISSING
    export: ExportConfig = MISSING
    gate: GateConfig = MISSING
    triton: TritonConfig = MISSING


def _require(holds: bool, key: str, value: object, expected: str) -> None:
    if not holds:
        raise ConfigurationError(f"{key} is {value}: expected {expected}")


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
    ConfigStore.instance().store(name="schema", node=ModelConfig)
    try:
        with initialize_config_dir(str(directory.absolute()), version_base="1.3"):
            composed = compose(file)
        config = cast(ModelConfig, OmegaConf.to_object(composed))
        _require(config.name == file, "name", config.name, f"{file}, the name of the file")
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
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    key = getattr(cause, "full_key", None)
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
