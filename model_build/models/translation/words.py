"""The kinds of words in the lexicon."""

from __future__ import annotations

from dataclasses import dataclass

CASES = ("nom", "gen", "dat", "acc", "ins", "prep")
PERSONS = ("1s", "2s", "3s", "1p", "2p", "3p")
GENDERS = ("m", "f", "n", "p")


@dataclass(frozen=True)
class Noun:
    """A noun; `plural` and `english_plural` are empty where it has none."""

    lemma: str
    gender: str
    animate: bool
    tags: frozenset[str]
    singular: dict[str, str]
    plural: dict[str, str]
    english: str
    english_plural: str
    bare: bool
    place: dict[str, str]
    """`at`, `to`, `from` and `english` (the preposition of `at`); empty for what is no place."""


@dataclass(frozen=True)
class Conjugation:
    """The forms of one aspect; `finite` is the present of an imperfective, the future of a perfective."""

    infinitive: str
    finite: dict[str, str]
    past: dict[str, str]
    imperative: dict[str, str]


@dataclass(frozen=True)
class Verb:
    """An imperfective verb with its perfective partner, if it has one."""

    lemma: str
    tags: frozenset[str]
    governs: str
    objects: frozenset[str]
    imperfective: Conjugation
    perfective: Conjugation | None
    english: dict[str, str]
    english_preposition: str


@dataclass(frozen=True)
class Adjective:
    """An adjective or a determiner: `forms` by case and gender ("acc.f"); the accusative is the inanimate one."""

    lemma: str
    tags: frozenset[str]
    forms: dict[str, str]
    english: str
    english_plural: str

    def form(self, case: str, gender: str, animate: bool) -> str:
        """The form that agrees with a noun."""
        if case == "acc" and animate and gender in ("m", "p"):
            case = "gen"
        return self.forms[f"{case}.{gender}"]


@dataclass(frozen=True)
class ShortAdjective:
    """An adjective that is only a predicate here."""

    lemma: str
    tags: frozenset[str]
    forms: dict[str, str]
    english: str


@dataclass(frozen=True)
class Pronoun:
    """A personal pronoun."""

    lemma: str
    person: str
    genders: tuple[str, ...]
    cases: dict[str, str]
    after_preposition: dict[str, str]
    subject: str
    object: str


@dataclass(frozen=True)
class Preposition:
    """A preposition and the forms it takes before certain sounds."""

    key: str
    case: str
    plain: str
    before_vowel: str
    before_mn: str
    before_cluster: str

    def before(self, text: str) -> str:
        """The preposition followed by `text`."""
        vowels = "аоуэиАОУЭИ"  # those without a [j] before them
        if text[0] in vowels:
            return f"{self.before_vowel} {text}"
        if text.startswith("мн"):
            return f"{self.before_mn} {text}"
        if text[0] in "сзшж" and text[1] not in "аеёиоуыьэюя":
            return f"{self.before_cluster} {text}"
        return f"{self.plain} {text}"


@dataclass(frozen=True)
class Numeral:
    """A numeral; `counted` is the case and number of what it counts ("gen.s")."""

    lemma: str
    forms: dict[str, str]
    accusative: dict[str, str]
    """Before what is inanimate."""
    counted: str
    english: str


@dataclass(frozen=True)
class Adverb:
    """An adverb or an expression of time or place."""

    lemma: str
    tags: frozenset[str]
    english: str
