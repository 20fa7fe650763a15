"""Shapes that a plan is built for: the smallest, the one that it is fastest at, the largest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx

from model_build._errors import ConfigurationError
from model_build.config import EmbedderConfig, ModelConfig, ServedConfig

WHICH = ("min", "opt", "max")


@dataclass(frozen=True)
class Range:
    """Sizes of one dynamic dimension, and why they are these."""

    min: int
    opt: int
    max: int
    why: str

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"


@dataclass(frozen=True)
class Shapes:
    """Every input's shape; a dynamic dimension is a name.

    Attributes:
        inputs: shape by name of the input, the batch first.
        ranges: by name of the dimension.
    """

    inputs: Mapping[str, tuple[int | str, ...]]
    ranges: Mapping[str, Range]

    @property
    def dynamic(self) -> bool:
        """Whether there is anything to choose: a graph of fixed shapes needs no profile."""
        return bool(self.ranges)

    def of(self, name: str, which: str) -> tuple[int, ...]:
        """The smallest (`min`), fastest (`opt`) or largest (`max`) shape of an input."""
        return tuple(
            size if isinstance(size, int) else int(getattr(self.ranges[size], which)) for size in self.inputs[name]
        )

    def argument(self, which: str) -> str:
        """As trtexec takes it: `input_ids:1x8,attention_mask:1x8`."""
        return ",".join(f"{_quoted(name)}:{'x'.join(map(str, self.of(name, which)))}" for name in self.inputs)

    def to_json(self) -> dict[str, dict[str, list[int]]]:
        """For the record, and for the key."""
        return {name: {which: list(self.of(name, which)) for which in WHICH} for name in self.inputs}


def find_shapes(graph: onnx.ModelProto, config: ModelConfig, asked: Iterable[str] = ()) -> Shapes:
    """What the graph leaves open, filled from `asked` and from the configuration.

    Args:
        graph: the ONNX graph.
        config: of its model: triton.max_batch_size, pretrained.max_tokens.
        asked: `NAME=MIN:OPT:MAX`, by name of the dimension.

    Raises:
        ConfigurationError: a size cannot be, or there is none for a dynamic dimension.
    """
    weights = {tensor.name for tensor in graph.graph.initializer}
    inputs = {one.name: _shape(one) for one in graph.graph.input if one.name not in weights}
    batches = {shape[0] for shape in inputs.values() if shape and isinstance(shape[0], str)}
    names = [*dict.fromkeys(size for shape in inputs.values() for size in shape if isinstance(size, str))]
    given = dict(_parse(one) for one in asked)
    if unknown := sorted(set(given) - set(names)):
        raise ConfigurationError(
            f"--shape {unknown[0]}={given[unknown[0]]}: the graph has no such dynamic dimension, expected one of "
            f"{names}"
        )
    ranges = {}
    for name in names:
        known = _of_batch(config) if name in batches else _of_configuration(name, config)
        chosen = given.get(name) or known
        if chosen is None:
            where = next(key for key, shape in inputs.items() if name in shape)
            raise ConfigurationError(
                f"dimension '{name}' of input '{where}' is dynamic and the configuration says nothing of it: pass "
                f"--shape {name}=MIN:OPT:MAX, the smallest, the usual and the largest size"
            )
        if name in batches and known is not None and (chosen.min, chosen.max) != (1, known.max):
            raise ConfigurationError(
                f"--shape {name}={chosen}: expected 1 first and {known.max}, triton.max_batch_size, last: Triton sends "
                "any batch between, and refuses a plan that cannot take it"
            )
        ranges[name] = chosen
    return Shapes(inputs, ranges)


def _shape(tensor: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    dimensions = tensor.type.tensor_type.shape.dim
    return tuple(
        one.dim_value if one.HasField("dim_value") and one.dim_value > 0 else one.dim_param or f"{tensor.name}.{axis}"
        for axis, one in enumerate(dimensions)
    )


def _parse(text: str) -> tuple[str, Range]:
    match = re.fullmatch(r"(.+)=(\d+):(\d+):(\d+)", text)
    sizes = [int(size) for size in match.groups()[1:]] if match else []
    if match is None or not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
        raise ConfigurationError(f"--shape {text}: expected NAME=MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX")
    return match[1], Range(sizes[0], sizes[1], sizes[2], "--shape")


def _of_batch(config: ModelConfig) -> Range | None:
    if not isinstance(config, ServedConfig):
        return None
    most = config.triton.max_batch_size
    return Range(1, most, most, "a lone request to triton.max_batch_size, which the dynamic batcher fills under load")


def _of_configuration(name: str, config: ModelConfig) -> Range | None:
    if name != "tokens" or not isinstance(config, EmbedderConfig):
        return None
    step, most = config.pretrained.pad_to_multiple_of, config.pretrained.max_tokens
    usual = max(step, -(-most // 2 // step) * step)
    return Range(step, usual, most, "pretrained.pad_to_multiple_of to pretrained.max_tokens, most texts are shorter")


def _quoted(name: str) -> str:
    """Names with separators of trtexec's own go in single quotes."""
    return f"'{name}'" if set(name) & set(":,") else name
