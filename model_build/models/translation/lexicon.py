"""The lexicon of the Russian-English grammar, read from `lexicon.tsv` into one dataclass a kind of word."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from model_build._errors import DataError
from model_build.models.translation.words import (
    CASES,
    GENDERS,
    PERSONS,
    Adjective,
    Adverb,
    Conjugation,
    Noun,
    Numeral,
    Preposition,
    Pronoun,
    ShortAdjective,
    Verb,
)

LEXICON = Path(__file__).with_name("lexicon.tsv")
_OBLIQUE = ("gen", "dat", "ins", "prep")


@dataclass
class Lexicon:
    """All words, by kind, in the file's order."""

    nouns: list[Noun] = field(default_factory=list)
    verbs: list[Verb] = field(default_factory=list)
    adjectives: list[Adjective] = field(default_factory=list)
    determiners: list[Adjective] = field(default_factory=list)
    shorts: list[ShortAdjective] = field(default_factory=list)
    pronouns: list[Pronoun] = field(default_factory=list)
    prepositions: dict[str, Preposition] = field(default_factory=dict)
    numerals: list[Numeral] = field(default_factory=list)
    adverbs: list[Adverb] = field(default_factory=list)
    future: dict[str, str] = field(default_factory=dict)
    """Of the verb "to be", by person."""
    past: dict[str, str] = field(default_factory=dict)
    """Of the verb "to be", by gender."""


def rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The line numbers and cells of a tab-separated file, without comments and empty lines."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            yield number, line.split("\t")


def read_lexicon(path: Path = LEXICON) -> Lexicon:
    """Read the words.

    Raises:
        DataError: a line is not what the file's header says; names the file and the line.
    """
    lexicon = Lexicon()
    for number, (kind, *cells) in rows(path):
        try:
            if kind not in _READERS:
                raise ValueError(f"'{kind}' is none of {', '.join(_READERS)}")
            width, read = _READERS[kind]
            if len(cells) != width:
                raise ValueError(f"{kind}: {width + 1} cells separated by tabs, this line has {len(cells) + 1}")
            read(lexicon, cells)
        except ValueError as error:
            raise DataError(f"{path} line {number}: {error}: see what each cell means in the file's header") from error
    return lexicon


def _forms(cell: str, names: tuple[str, ...]) -> dict[str, str]:
    forms = cell.split(" ")
    if len(forms) != len(names) or "" in forms:
        raise ValueError(f"'{cell}' has {len(forms)} forms, expected {len(names)} ({' '.join(names)})")
    return dict(zip(names, forms, strict=True))


def _one_of(cell: str, allowed: tuple[str, ...]) -> str:
    if cell not in allowed:
        raise ValueError(f"'{cell}' is none of {', '.join(allowed)}")
    return cell


def _tags(cell: str) -> frozenset[str]:
    return frozenset() if cell == "-" else frozenset(cell.split(","))


def _optional(cell: str) -> str:
    return "" if cell == "-" else cell


def _read_noun(lexicon: Lexicon, cells: list[str]) -> None:
    lemma, gender, animacy, tags, singular, plural, english, english_plural, article, *place = cells
    if (plural == "-") != (english_plural == "-"):
        raise ValueError("a plural is given in one language only")
    lexicon.nouns.append(
        Noun(
            lemma,
            _one_of(gender, GENDERS[:3]),
            _one_of(animacy, ("animate", "inanimate")) == "animate",
            _tags(tags),
            _forms(singular, CASES),
            {} if plural == "-" else _forms(plural, CASES),
            english,
            _optional(english_plural),
            _one_of(article, ("the", "bare")) == "bare",
            {} if place[0] == "-" else dict(zip(("at", "to", "from", "english"), place, strict=True)),
        )
    )


def _conjugation(cell: str) -> Conjugation:
    names = ("infinitive", *PERSONS, *GENDERS, "order.s", "order.p")
    forms = _forms(cell, names)
    return Conjugation(
        forms["infinitive"],
        {person: forms[person] for person in PERSONS},
        {gender: forms[gender] for gender in GENDERS},
        {number: forms[f"order.{number}"] for number in ("s", "p")},
    )


def _read_verb(lexicon: Lexicon, cells: list[str]) -> None:
    lemma, tags, governs, objects, imperfective, perfective, english, preposition = cells
    lexicon.verbs.append(
        Verb(
            lemma,
            _tags(tags),
            _one_of(governs, (*CASES, "about", "-")),
            _tags(objects),
            _conjugation(imperfective),
            None if perfective == "-" else _conjugation(perfective),
            _forms(english, ("base", "third", "past", "ing")),
            _optional(preposition),
        )
    )


def _adjective_forms(cell: str) -> dict[str, str]:
    names = [f"nom.{gender}" for gender in GENDERS] + [f"{case}.m" for case in _OBLIQUE]
    names += ["acc.f", "gen.f", "gen.p", "dat.p", "ins.p"]
    forms = _forms(cell if " " in cell else " ".join([cell] * len(names)), tuple(names))
    for case in _OBLIQUE:
        forms[f"{case}.n"] = forms[f"{case}.m"]
        forms[f"{case}.f"] = forms["gen.f"]
    forms["prep.p"] = forms["gen.p"]
    return forms | {f"acc.{gender}": forms[f"nom.{gender}"] for gender in "mnp"}


def _read_adjective(lexicon: Lexicon, cells: list[str]) -> None:
    lemma, tags, forms, english = cells
    lexicon.adjectives.append(Adjective(lemma, _tags(tags), _adjective_forms(forms), english, english))


def _read_determiner(lexicon: Lexicon, cells: list[str]) -> None:
    lemma, tags, forms, english = cells
    numbers = _forms(english, ("s", "p"))
    lexicon.determiners.append(
        Adjective(lemma, _tags(tags), _adjective_forms(forms), numbers["s"], numbers["p"]),
    )


def _read_short(lexicon: Lexicon, cells: list[str]) -> None:
    lemma, tags, forms, english = cells
    lexicon.shorts.append(ShortAdjective(lemma, _tags(tags), _forms(forms, GENDERS), english))


def _read_pronoun(lexicon: Lexicon, cells: list[str]) -> None:
    lemma, person, genders, cases, after, english = cells
    forms = _forms(english, ("subject", "object"))
    lexicon.pronouns.append(
        Pronoun(
            lemma,
            _one_of(person, PERSONS),
            tuple(_one_of(gender, GENDERS) for gender in genders.split(" ")),
            _forms(cases, CASES),
            _forms(after, CASES),
            forms["subject"],
            forms["object"],
        )
    )


def _read_preposition(lexicon: Lexicon, cells: list[str]) -> None:
    key, case, *forms = cells
    lexicon.prepositions[key] = Preposition(key, _one_of(case, CASES), *forms)


def _read_numeral(lexicon: Lexicon, cells: list[str]) -> None:
    lemma, forms, accusative, counted, english = cells
    _one_of(counted, ("nom.s", "gen.s", "gen.p"))
    by_gender = _forms(forms, GENDERS[:3]), _forms(accusative, GENDERS[:3])
    lexicon.numerals.append(Numeral(lemma, *by_gender, counted, english))


def _read_adverb(lexicon: Lexicon, cells: list[str]) -> None:
    lemma, tags, english = cells
    lexicon.adverbs.append(Adverb(lemma, _tags(tags), english))


def _read_auxiliary(lexicon: Lexicon, cells: list[str]) -> None:
    _, future, past = cells
    lexicon.future = _forms(future, PERSONS)
    lexicon.past = _forms(past, GENDERS)


_READERS: dict[str, tuple[int, Callable[[Lexicon, list[str]], None]]] = {
    "noun": (13, _read_noun),
    "verb": (8, _read_verb),
    "adjective": (4, _read_adjective),
    "determiner": (4, _read_determiner),
    "short": (4, _read_short),
    "pronoun": (6, _read_pronoun),
    "preposition": (6, _read_preposition),
    "numeral": (5, _read_numeral),
    "adverb": (3, _read_adverb),
    "auxiliary": (3, _read_auxiliary),
}
