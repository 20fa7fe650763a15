"""Division of generated pairs so that validation and test ask for combinations that training never showed.

A combination is a template with a lemma. Its part follows from a hash of its name, so the same words in the same
templates are held out wherever the same pairs are divided with the same seed.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from model_build._errors import DataError
from model_build.models.translation.pairs import Pair

Combination = tuple[str, str]
_LARGEST = 0.5  # of a part: one combination that is most of a part would make it a test of one thing


@dataclass(frozen=True)
class Division:
    """The three parts, each in the order of the pairs divided."""

    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    test: tuple[Pair, ...]


def divide(pairs: Sequence[Pair], validation_fraction: float, test_fraction: float, seed: int) -> Division:
    """Hold out whole combinations of template and lemma, until each part has about its fraction of the pairs.

    No pair in train contains a held-out combination; every pair in test contains one held out for test; every pair in
    validation one held out for validation, and none for test. Every lemma and every template occurs in train.

    Raises:
        DataError: the pairs are too few to hold out a combination for a part.
    """
    members: dict[Combination, list[int]] = defaultdict(list)
    for index, pair in enumerate(pairs):
        for lemma in dict.fromkeys(pair.lemmas):
            members[pair.group, lemma].append(index)
    order = sorted(members, key=lambda combination: _hash(seed, combination))
    train = _Train(pairs)
    test = _hold_out(train, members, order, test_fraction * len(pairs))
    validation = _hold_out(train, members, order, validation_fraction * len(pairs))
    for name, part, fraction in (("validation", validation, validation_fraction), ("test", test, test_fraction)):
        if fraction > 0 and not part:
            raise DataError(
                f"data.grammar_pairs is too small: of {len(pairs)} pairs none can be held out for {name} "
                f"({fraction:g} of them) with every word and template left in train: ask for more pairs"
            )
    return Division(
        tuple(pair for index, pair in enumerate(pairs) if index in train.left),
        tuple(pairs[index] for index in sorted(validation)),
        tuple(pairs[index] for index in sorted(test)),
    )


class _Train:
    """What is left to train on, and how often each lemma and template occurs in it."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.left = set(range(len(pairs)))
        self._names = [[("lemma", lemma) for lemma in pair.lemmas] + [("group", pair.group)] for pair in pairs]
        self._counts = Counter(name for names in self._names for name in names)

    def can_spare(self, indices: list[int]) -> bool:
        """Whether every lemma and template still occurs without these."""
        taken = Counter(name for index in indices for name in self._names[index])
        return all(self._counts[name] > count for name, count in taken.items())

    def take(self, indices: list[int]) -> None:
        self.left.difference_update(indices)
        self._counts.subtract(name for index in indices for name in self._names[index])


def _hold_out(
    train: _Train, members: dict[Combination, list[int]], order: list[Combination], wanted: float
) -> set[int]:
    """Take combinations from train in this order, of those that fit, until `wanted` pairs are out."""
    part: set[int] = set()
    for combination in order:
        taken = [index for index in members[combination] if index in train.left]
        fits = len(part) + len(taken) <= wanted and len(taken) <= wanted * _LARGEST
        if taken and fits and train.can_spare(taken):
            train.take(taken)
            part.update(taken)
    return part


def _hash(seed: int, combination: Combination) -> bytes:
    return hashlib.sha256("\0".join((str(seed), *combination)).encode()).digest()
