"""What is held out of the grammar's corpus: whole combinations of a template and a lemma."""

from __future__ import annotations

from functools import cache

import pytest

from model_build import DataError
from model_build.models.translation.division import Division, divide
from model_build.models.translation.grammar import generate
from model_build.models.translation.pairs import Pair
from model_build.models.translation.templates import read_templates

COUNT = 30_000
VALIDATION, TEST = 0.03, 0.05


@cache
def corpus() -> list[Pair]:
    return generate(COUNT, 1)


@cache
def division() -> Division:
    return divide(corpus(), VALIDATION, TEST, 1)


def test_parts_are_the_pairs_and_about_the_fractions() -> None:
    parts = division()
    assert sorted(pair.source for part in (parts.train, parts.validation, parts.test) for pair in part) == sorted(
        pair.source for pair in corpus()
    )
    assert len(parts.validation) / COUNT == pytest.approx(VALIDATION, rel=0.1)
    assert len(parts.test) / COUNT == pytest.approx(TEST, rel=0.1)


def combinations(pairs: tuple[Pair, ...]) -> set[tuple[str, str]]:
    return {(pair.group, lemma) for pair in pairs for lemma in pair.lemmas}


def test_every_held_out_pair_has_a_combination_that_training_never_shows() -> None:
    parts = division()
    trained, validated = combinations(parts.train), combinations(parts.validation)
    for pair in parts.validation:
        assert combinations((pair,)) - trained, pair
    for pair in parts.test:
        assert combinations((pair,)) - trained - validated, pair


def test_held_out_combination_is_wholly_held_out_and_chosen_from_many_templates() -> None:
    parts = division()
    held_out = combinations(tuple(corpus())) - combinations(parts.train)
    assert len({group for group, _ in held_out}) > len(read_templates()) / 2
    assert len({pair.group for pair in parts.test}) > len(read_templates()) / 2


def test_every_lemma_and_template_is_trained_on() -> None:
    train = division().train
    assert {lemma for pair in train for lemma in pair.lemmas} == {lemma for pair in corpus() for lemma in pair.lemmas}
    assert {pair.group for pair in train} == {pair.group for pair in corpus()}


def test_too_few_pairs_to_hold_out_is_one_line() -> None:
    with pytest.raises(DataError, match=r"data\.grammar_pairs is too small: of 5 pairs none .* ask for more pairs"):
        divide(generate(5, 1), VALIDATION, TEST, 1)
