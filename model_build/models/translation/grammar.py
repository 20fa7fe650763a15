"""The generated corpus: pairs drawn from the templates."""

from __future__ import annotations

from random import Random

from model_build._errors import DataError
from model_build.models.translation.pairs import Pair
from model_build.models.translation.templates import read_templates


def generate(count: int, seed: int) -> list[Pair]:
    """`count` pairs with distinct sources, spread over the templates; the same for the same seed on every machine.

    Every template gives as many as any other, or all it has where that is less.

    Raises:
        DataError: more are asked for than the grammar has.
    """
    templates = read_templates()
    total = sum(template.size for template in templates)
    if not 0 < count <= total:
        raise DataError(f"data.grammar_pairs is {count}: the grammar has {total} pairs, ask for 1 to {total}")
    shares = _shares([template.size for template in templates], count)
    pairs = []
    for template, share in zip(templates, shares, strict=True):
        random = Random(f"{seed} {template.name}")  # noqa: S311 -- a repeatable choice, not a secret
        pairs += [template.render(index) for index in random.sample(range(template.size), share)]
    Random(f"{seed}").shuffle(pairs)  # noqa: S311
    return pairs


def _shares(sizes: list[int], count: int) -> list[int]:
    """Equal parts of `count`, none larger than its size."""
    shares = [0] * len(sizes)
    by_size = sorted(range(len(sizes)), key=lambda which: sizes[which])
    for place, which in enumerate(by_size):
        shares[which] = min(sizes[which], count // (len(sizes) - place))
        count -= shares[which]
    return shares
