"""The sentence templates: read from `templates.tsv`, joined with the phrases that can fill their slots."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path

from model_build._errors import DataError
from model_build.models.translation import phrases
from model_build.models.translation.lexicon import Lexicon, read_lexicon, rows
from model_build.models.translation.pairs import Pair
from model_build.models.translation.phrases import Phrase, Tags

TEMPLATES = Path(__file__).with_name("templates.tsv")
_PLACEHOLDER = re.compile(r"\{(\w+)\.([\w.]+)(?::(\w+)\.(\w+))?\}")
_NUMBERS = {"": "spm", "s": "sm", "one": "s", "p": "p"}

_KINDS: dict[str, Callable[[Lexicon, Tags], Iterator[Phrase]]] = {
    "who": phrases.who,
    "couple": phrases.couples,
    "count": phrases.counted,
    "place": phrases.places,
    "verb": phrases.verbs,
    "adverb": phrases.adverbs,
    "short": phrases.shorts,
    "determiner": phrases.determiners,
}
_NOUN_KINDS = {"noun": phrases.nouns, "described": phrases.described, "owned": phrases.owned}


@dataclass(frozen=True)
class Template:
    """One template with the phrases that can fill each slot: `size` sentences, numbered from 0."""

    where: str
    """The file and line it was read from."""
    name: str
    russian: str
    english: str
    options: dict[str, tuple[Phrase, ...]]

    @property
    def size(self) -> int:
        """How many sentences it has."""
        return prod(len(options) for options in self.options.values())

    def render(self, index: int) -> Pair:
        """The sentence of that number and its translation.

        Raises:
            DataError: the template asks for a form that a phrase in this sentence does not have.
        """
        chosen: dict[str, Phrase] = {}
        for slot, options in self.options.items():
            index, which = divmod(index, len(options))
            chosen[slot] = options[which]
        lemmas = tuple(lemma for phrase in chosen.values() for lemma in phrase.lemmas)
        try:
            return Pair(_fill(self.russian, chosen), _fill(self.english, chosen), self.name, lemmas)
        except KeyError as error:
            raise DataError(
                f"{self.where}: {' '.join(lemmas)}: no such form or slot: {error}: "
                "correct the template, its tags or the lexicon"
            ) from error


@cache
def read_templates(path: Path = TEMPLATES) -> tuple[Template, ...]:
    """Read the templates, in the file's order.

    Raises:
        DataError: a line is not what the file's header says; names the file and the line.
    """
    lexicon = read_lexicon()
    templates = []
    for number, cells in rows(path):
        try:
            templates.append(_template(lexicon, cells, f"{path} line {number}"))
        except (KeyError, ValueError) as error:
            what = f"no such form or slot: {error}" if isinstance(error, KeyError) else error
            raise DataError(f"{path} line {number}: {what}: see what each cell means in the file's header") from error
    return tuple(templates)


def _template(lexicon: Lexicon, cells: list[str], where: str) -> Template:
    if len(cells) != 4:
        raise ValueError(f"a template has 4 cells separated by tabs, this line {len(cells)}")
    name, slots, russian, english = cells
    options = {}
    for slot in slots.split(" "):
        key, _, specification = slot.partition("=")
        found: dict[tuple[str, ...], Phrase] = {}
        for phrase in _phrases(lexicon, specification):
            # Phrases that look the same in this template are one: "I" has no gender where the verb shows none.
            found.setdefault(_look(phrase, russian, key), phrase)
        if not found:
            raise ValueError(f"nothing in the lexicon fits the slot '{slot}'")
        options[key] = tuple(found.values())
    template = Template(where, name, russian, english, options)
    template.render(0)
    return template


def _phrases(lexicon: Lexicon, specification: str) -> Iterator[Phrase]:
    kind, _, arguments = specification.partition(":")
    kind, _, variant = kind.partition(".")
    wanted = frozenset(arguments.split(","))
    if kind in _NOUN_KINDS and variant in _NUMBERS:
        return _NOUN_KINDS[kind](lexicon, wanted, _NUMBERS[variant])
    if kind == "deed" and variant in ("plain", "many", "described"):
        return phrases.deeds(lexicon, wanted, variant)
    if kind in _KINDS and not variant:
        return _KINDS[kind](lexicon, wanted)
    raise ValueError(f"'{specification}' is no kind of phrase")


def _look(phrase: Phrase, russian: str, slot: str) -> tuple[str, ...]:
    """Everything of the phrase that can show in the Russian sentence."""
    look = []
    for owner, form, other, feature in _PLACEHOLDER.findall(russian):
        if owner == slot:
            look += [
                text for name, text in phrase.forms.items() if name == form or (other and name.startswith(f"{form}."))
            ]
        if other == slot:
            look.append(phrase.forms[feature])
    return tuple(look)


def _fill(text: str, chosen: dict[str, Phrase]) -> str:
    def form(match: re.Match[str]) -> str:
        owner, name, other, feature = match.groups()
        if other is not None:
            name = f"{name}.{chosen[other].forms[feature]}"
        return chosen[owner].forms[name]

    sentence = _PLACEHOLDER.sub(form, text)
    return sentence[0].upper() + sentence[1:]
