"""Shapes come from the graph and the configuration, and what neither says is asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from model_build._errors import ConfigurationError
from model_build.config import EmbedderConfig, ModelConfig, load_config
from model_build.engine.shapes import Shapes, find_shapes
from tests.engine_support import typed_graph
from tests.support import ROOT

DIGITS = load_config(ROOT, "digits")
EMBEDDER = load_config(ROOT, "embedder")


def shapes(*shape: int | str, config: ModelConfig = DIGITS, asked: Sequence[str] = ()) -> Shapes:
    return find_shapes(typed_graph(shape=shape), config, asked)


def test_the_batch_is_one_to_the_configured_batch_size() -> None:
    found = shapes("batch", 1, 28, 28)
    assert [found.argument(which) for which in ("min", "opt", "max")] == ["x:1x1x28x28", "x:32x1x28x28", "x:32x1x28x28"]


def test_tokens_of_an_embedder_are_one_padding_step_to_its_longest_text() -> None:
    assert isinstance(EMBEDDER, EmbedderConfig)
    EMBEDDER.pretrained.max_tokens, EMBEDDER.pretrained.pad_to_multiple_of = 72, 8
    found = shapes("batch", "tokens", config=EMBEDDER)
    assert [found.of("x", which) for which in ("min", "opt", "max")] == [(1, 8), (32, 40), (32, 72)]


def test_what_the_configuration_does_not_say_is_asked_for_by_name() -> None:
    with pytest.raises(ConfigurationError, match=r"dimension 'time' of input 'x' .* pass --shape time=MIN:OPT:MAX"):
        shapes("batch", "time")
    assert shapes("batch", "time", asked=["time=1:20:90"]).argument("opt") == "x:32x20"
    with pytest.raises(ConfigurationError, match=re.escape("pass --shape x.1=MIN:OPT:MAX")):
        shapes("batch", 0)  # ONNX's way to leave a dimension without a name


def test_a_graph_of_fixed_shapes_needs_no_profile() -> None:
    assert not shapes(1, 4).dynamic


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("batch=1:8", "expected NAME=MIN:OPT:MAX"),
        ("batch=8:1:32", "1 <= MIN <= OPT <= MAX"),
        ("batch=0:1:32", "1 <= MIN"),
        ("tokens=1:2:3", r"no such dynamic dimension, expected one of \['batch'\]"),
        ("batch=1:8:16", "expected 1 first and 32, triton.max_batch_size, last"),
        ("batch=2:8:32", "expected 1 first"),
    ],
)
def test_a_shape_that_cannot_be_says_what_was_expected(asked: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        shapes("batch", 4, asked=[asked])


def test_the_size_that_kernels_are_chosen_for_can_be_said() -> None:
    assert shapes("batch", 4, asked=["batch=1:8:32"]).of("x", "opt") == (8, 4)


def test_names_with_trtexecs_separators_are_quoted(tmp_path: Path) -> None:
    graph = typed_graph()
    graph.graph.input[0].name = "image:0"
    assert find_shapes(graph, DIGITS).argument("min") == "'image:0':1x4"
