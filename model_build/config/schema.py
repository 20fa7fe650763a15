"""What a model's configuration may hold: the parts that every model has, and one schema for each kind of model.

A configuration names its schema in `defaults` (`SCHEMAS`); values are checked as soon as they are read.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field

from omegaconf import MISSING

from model_build._errors import ConfigurationError
from model_build.precision.variants import VARIANTS
from model_build.target import TARGET

GPU_ACCELERATORS = ("none", "tensorrt")  # beside ONNX Runtime's own CUDA kernels


@dataclass
class ExportConfig:
    """The ONNX files: versions that the pinned Triton release accepts, distance from PyTorch that is allowed."""

    opset: int = MISSING
    ir_version: int = MISSING
    parity_atol: float = MISSING

    def __post_init__(self) -> None:
        accepted = f"that Triton {TARGET.triton_release} (ONNX Runtime {TARGET.onnxruntime}) accepts"
        require(7 <= self.opset <= TARGET.max_opset, "export.opset", self.opset, f"7 to {TARGET.max_opset}, {accepted}")
        require(
            4 <= self.ir_version <= TARGET.max_ir_version,
            "export.ir_version",
            self.ir_version,
            f"4 to {TARGET.max_ir_version}, {accepted}",
        )
        require(0 < self.parity_atol < math.inf, "export.parity_atol", self.parity_atol, "more than 0, and finite")


@dataclass
class GateConfig:
    """What a model must reach on held-out data before the repository is written."""

    minimum: float = MISSING
    golden_atol: float = MISSING

    def __post_init__(self) -> None:
        require(0 < self.golden_atol < math.inf, "gate.golden_atol", self.golden_atol, "more than 0, and finite")


@dataclass
class TritonConfig:
    """What becomes config.pbtxt (instances on a GPU) and configs/cpu.pbtxt (instances and threads on a CPU)."""

    max_batch_size: int = MISSING
    max_queue_delay_us: int = 0
    gpu_instances: int = 1
    gpu_accelerator: str = "none"
    cpu_instances: int = 1
    cpu_threads: int = 1

    def __post_init__(self) -> None:
        require(self.max_batch_size >= 1, "triton.max_batch_size", self.max_batch_size, "1 or more")
        require(self.max_queue_delay_us >= 0, "triton.max_queue_delay_us", self.max_queue_delay_us, "0 or more")
        require(self.gpu_instances >= 1, "triton.gpu_instances", self.gpu_instances, "1 or more")
        known = self.gpu_accelerator in GPU_ACCELERATORS
        require(known, "triton.gpu_accelerator", self.gpu_accelerator, " or ".join(GPU_ACCELERATORS))
        require(self.cpu_instances >= 1, "triton.cpu_instances", self.cpu_instances, "1 or more")
        require(self.cpu_threads >= 0, "triton.cpu_threads", self.cpu_threads, "0 (all cores) or more")


@dataclass
class ModelConfig:
    """What every model has."""

    name: str = MISSING
    recipe: str = MISSING
    seed: int = MISSING
    export: ExportConfig = MISSING
    files: list[str] = field(default_factory=list)  # that the recipe reads, and folders of them

    def __post_init__(self) -> None:
        given = [os.path.normpath(one) for one in self.files]
        inside = all(one and os.path.normpath(one) not in (".", "..") for one in self.files)
        some = inside and len(set(given)) == len(given)
        require(some, "files", self.files, "files or folders of the workspace, or with absolute paths, each once")


@dataclass
class VariantConfig:
    """How a variant is made, and what it may lose against FP32 on held-out data, in process and through the server."""

    max_abs: float = 0.1
    min_cosine: float = 0.99
    max_drop: float = 0.01
    min_share: float = 0.5
    keep_fp32: list[str] = field(default_factory=list)
    automatic: bool = True
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        require(0 <= self.smoothing <= 1, "precision.*.smoothing", self.smoothing, "0 to 1")
        require(0 < self.max_abs < math.inf, "precision.*.max_abs", self.max_abs, "more than 0, and finite")
        require(-1 <= self.min_cosine <= 1, "precision.*.min_cosine", self.min_cosine, "-1 to 1")
        require(0 <= self.max_drop < math.inf, "precision.*.max_drop", self.max_drop, "0 or more, and finite")
        require(0 <= self.min_share <= 1, "precision.*.min_share", self.min_share, "0 to 1")


@dataclass
class PrecisionConfig:
    """Which variants are made beside FP32, of how much calibration data, and what each may lose."""

    variants: list[str] = field(default_factory=list)
    calibration_examples: int = 128
    fp16: VariantConfig = field(default_factory=VariantConfig)
    int8: VariantConfig = field(default_factory=VariantConfig)

    def __post_init__(self) -> None:
        known = set(self.variants) <= set(VARIANTS) and len(set(self.variants)) == len(self.variants)
        require(known, "precision.variants", self.variants, f"some of {list(VARIANTS)}, each once")
        require(
            self.calibration_examples >= 1, "precision.calibration_examples", self.calibration_examples, "1 or more"
        )

    def of(self, variant: str) -> VariantConfig:
        """What `variant` may lose."""
        found: VariantConfig = getattr(self, variant)
        return found


@dataclass
class ServedConfig(ModelConfig):
    """A model that is measured on held-out data and served."""

    gate: GateConfig = MISSING
    triton: TritonConfig = MISSING
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)


@dataclass
class ExamplesConfig:
    """Where examples come from and how they are divided (stratified by label)."""

    path: str | None = None
    split_seed: int = 20
    validation_fraction: float = 0.15
    test_fraction: float = 0.2

    def __post_init__(self) -> None:
        require_fractions(self.validation_fraction, self.test_fraction)


@dataclass
class TrainConfig:
    """Optimiser (AdamW with a one-cycle learning rate) and length of the training."""

    epochs: int = MISSING
    batch_size: int = MISSING
    learning_rate: float = MISSING
    weight_decay: float = 0.0
    threads: int = 1

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "train.epochs", self.epochs, "1 or more")
        require(self.batch_size >= 1, "train.batch_size", self.batch_size, "1 or more")
        require(self.learning_rate > 0, "train.learning_rate", self.learning_rate, "more than 0")
        require(self.weight_decay >= 0, "train.weight_decay", self.weight_decay, "0 or more")
        require(self.threads >= 1, "train.threads", self.threads, "1 or more")


@dataclass
class SingleGraphConfig(ServedConfig):
    """Arrays in, classes out, one ONNX file."""

    data: ExamplesConfig = MISSING
    train: TrainConfig = MISSING


@dataclass
class UntrainedConfig(ModelConfig):
    """A network with fresh weights, exported to be analysed and never served."""


@dataclass
class PretrainedConfig:
    """Whose weights: of an installed Python package, or of the Hugging Face hub; exactly one is named."""

    package: str | None = None
    hub: str | None = None
    max_tokens: int = MISSING
    pad_to_multiple_of: int = 1

    def __post_init__(self) -> None:
        one = (self.package is None) != (self.hub is None)
        both = f"{self.package} and {self.hub}"
        require(one, "pretrained.package and pretrained.hub", both, "a name for one of them and null for the other")
        require(self.max_tokens >= 2, "pretrained.max_tokens", self.max_tokens, "2 or more")
        require(self.pad_to_multiple_of >= 1, "pretrained.pad_to_multiple_of", self.pad_to_multiple_of, "1 or more")
        fits = self.max_tokens % self.pad_to_multiple_of == 0  # padding must not pass the limit
        multiple = f"a multiple of pretrained.pad_to_multiple_of, {self.pad_to_multiple_of}"
        require(fits, "pretrained.max_tokens", self.max_tokens, multiple)


@dataclass
class SentencesConfig:
    """Pairs of texts that an embedder is measured on."""

    path: str | None = None
    examples: int = MISSING

    def __post_init__(self) -> None:
        require(self.examples >= 2, "data.examples", self.examples, "2 or more")


@dataclass
class EmbedderConfig(ServedConfig):
    """Pretrained weights, text in and a normalised vector out."""

    data: SentencesConfig = MISSING
    pretrained: PretrainedConfig = MISSING


@dataclass
class CorpusConfig:
    """Which pairs a translator learns from and how they are divided."""

    grammar_pairs: int = MISSING
    catalogues: str | None = None
    path: str | None = None
    split_seed: int = 20
    validation_fraction: float = MISSING
    test_fraction: float = MISSING
    vocabulary: int = MISSING

    def __post_init__(self) -> None:
        require(self.grammar_pairs >= 0, "data.grammar_pairs", self.grammar_pairs, "0 or more")
        require(self.vocabulary >= 300, "data.vocabulary", self.vocabulary, "300 tokens or more (256 are bytes)")
        require_fractions(self.validation_fraction, self.test_fraction)
        some = self.grammar_pairs or self.catalogues or self.path
        require(bool(some), "data", "without any text", "grammar_pairs, catalogues or path")


@dataclass
class TransformerConfig:
    """Size of an encoder-decoder transformer."""

    width: int = MISSING
    heads: int = MISSING
    feed_forward: int = MISSING
    encoder_layers: int = MISSING
    decoder_layers: int = MISSING
    max_source_tokens: int = MISSING
    max_target_tokens: int = MISSING
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for key in ("width", "heads", "feed_forward", "encoder_layers", "decoder_layers"):
            require(getattr(self, key) >= 1, f"network.{key}", getattr(self, key), "1 or more")
        for key in ("max_source_tokens", "max_target_tokens"):
            require(getattr(self, key) >= 2, f"network.{key}", getattr(self, key), "2 or more")
        fits = self.width % (2 * self.heads) == 0
        require(fits, "network.width", self.width, f"a multiple of twice network.heads, {2 * self.heads}")
        require(0 <= self.dropout < 1, "network.dropout", self.dropout, "0 to 1")


@dataclass
class TranslatorTrainConfig(TrainConfig):
    """As `train` of every model; `batch_size` counts target tokens."""

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.label_smoothing < 1, "train.label_smoothing", self.label_smoothing, "0 to 1")


@dataclass
class TranslatorConfig(ServedConfig):
    """An encoder-decoder transformer that decodes inside the server."""

    data: CorpusConfig = MISSING
    network: TransformerConfig = MISSING
    train: TranslatorTrainConfig = MISSING


SCHEMAS: dict[str, type[ModelConfig]] = {
    "single_graph_schema": SingleGraphConfig,
    "untrained_schema": UntrainedConfig,
    "embedder_schema": EmbedderConfig,
    "translator_schema": TranslatorConfig,
}


def require(holds: bool, key: str, value: object, expected: str) -> None:
    """Raise a ConfigurationError that names the key unless the value `holds`."""
    if not holds:
        raise ConfigurationError(f"{key} is {value}: expected {expected}")


def require_fractions(validation: float, test: float) -> None:
    """Both parts have a share, and leave one for training."""
    require(validation > 0, "data.validation_fraction", validation, "more than 0")
    require(test > 0, "data.test_fraction", test, "more than 0")
    total = validation + test
    require(total < 1, "data.validation_fraction + data.test_fraction", total, "less than 1")
