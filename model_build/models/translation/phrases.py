"""Phrases: what can fill a slot of a template, each with all the Russian and English forms a template may ask for.

A phrase is a table from a form's name to its text. Agreement is a lookup in two steps: "v.pres:s.person" in a template
takes the subject's person ("3s") and with it the verb's form "pres.3s". So features are forms like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

from model_build.models.translation.lexicon import Lexicon
from model_build.models.translation.words import CASES, Adjective, Conjugation, Noun, Pronoun, Verb

Tags = frozenset[str]
_THIRD = {"m": "he", "f": "she", "n": "it", "p": "they"}
_BE = {"1s": ("am", "was"), "3s": ("is", "was")}  # every other person: are, were
_UNIVERSITY = ("uni", "use", "eu", "one")  # begin with a vowel's letter and a consonant's sound


@dataclass(frozen=True)
class Phrase:
    """The forms by name, and the lemmas of the words in it."""

    forms: dict[str, str]
    lemmas: tuple[str, ...]


def with_article(english: str) -> str:
    """The English words behind "a" or "an"."""
    vowel = english[0] in "aeiou" and not english.startswith(_UNIVERSITY)
    return f"{'an' if vowel else 'a'} {english}"


def who(lexicon: Lexicon, groups: Tags) -> Iterator[Phrase]:
    """Subjects that are people: "pronoun", "name", and nouns by their tags."""
    if "pronoun" in groups:
        for pronoun in lexicon.pronouns:
            for gender in pronoun.genders:
                yield _pronoun(lexicon, pronoun, gender)
    yield from nouns(lexicon, groups, "sp")


def nouns(lexicon: Lexicon, tags: Tags, numbers: str) -> Iterator[Phrase]:
    """Nouns by themselves. `numbers`: "s" and "p" as in grammar; "m" is a singular that has no plural."""
    for noun, plural in _chosen(lexicon, tags, numbers):
        yield _noun_phrase(lexicon, noun, plural, None)


def described(lexicon: Lexicon, tags: Tags, numbers: str) -> Iterator[Phrase]:
    """Nouns with an adjective that fits them."""
    for noun, plural in _chosen(lexicon, tags, numbers):
        if not noun.bare:
            for adjective in lexicon.adjectives:
                if adjective.tags & noun.tags:
                    yield _noun_phrase(lexicon, noun, plural, adjective)


def owned(lexicon: Lexicon, tags: Tags, numbers: str) -> Iterator[Phrase]:
    """Nouns with a possessive."""
    for noun, plural in _chosen(lexicon, tags, numbers):
        for determiner in lexicon.determiners:
            if "possessive" in determiner.tags:
                yield _noun_phrase(lexicon, noun, plural, determiner)


def couples(lexicon: Lexicon, tags: Tags) -> Iterator[Phrase]:
    """Two people joined by "and"; only as a subject."""
    singles = [noun for noun, _ in _chosen(lexicon, tags, "sm")]
    for first, second in combinations(singles, 2):
        russian = f"{first.singular['nom']} и {second.singular['nom']}"
        forms = {"nom": russian, "the": f"{_the(first)} and {_the(second)}"} | _agreement(lexicon, "3p", "p", "they")
        yield Phrase(forms, (first.lemma, second.lemma))


def counted(lexicon: Lexicon, tags: Tags) -> Iterator[Phrase]:
    """A numeral and what it counts; nominative, and accusative of what is inanimate."""
    for noun, _ in _chosen(lexicon, tags, "p"):
        for numeral in lexicon.numerals:
            table = noun.singular if numeral.counted.endswith("s") else noun.plural
            if numeral.counted == "nom.s":  # "one" is an adjective: what it counts keeps its own case
                nominative, accusative, english = table["nom"], table["acc"], noun.english
            else:
                nominative = accusative = table[numeral.counted[:3]]
                english = noun.english_plural
            forms = {"nom": f"{numeral.forms[noun.gender]} {nominative}", "en": f"{numeral.english} {english}"}
            forms["acc"] = f"{numeral.accusative[noun.gender]} {accusative}"
            yield Phrase(forms, (numeral.lemma, noun.lemma))


def places(lexicon: Lexicon, tags: Tags) -> Iterator[Phrase]:
    """Where, where to and where from."""
    for noun in lexicon.nouns:
        if noun.place and noun.tags & tags:
            forms = {key: noun.place[key] for key in ("at", "to", "from")}
            forms |= {"the": _the(noun), "at_en": f"{noun.place['english']} {_the(noun)}"}
            yield Phrase(forms, (noun.lemma,))


def verbs(lexicon: Lexicon, wanted: Tags) -> Iterator[Phrase]:
    """Verbs without an object, by tag or by lemma."""
    for verb in lexicon.verbs:
        if wanted & (verb.tags | {verb.lemma}):
            yield Phrase(_verb_forms(verb), (verb.lemma,))


def deeds(lexicon: Lexicon, wanted: Tags, objects: str) -> Iterator[Phrase]:
    """Verbs with an object: "plain" (of both numbers), "many" (plural or uncountable) or "described".

    The tag "plainly" is of verbs that make their object: nobody writes an old letter.
    """
    for verb in lexicon.verbs:
        if wanted & verb.tags and verb.objects and not (objects == "described" and "plainly" in verb.tags):
            build = described if objects == "described" else nouns
            for phrase in build(lexicon, verb.objects, "pm" if objects == "many" else "spm"):
                the, bare = (f"{verb.english_preposition} {phrase.forms[key]}".strip() for key in ("the", "bare"))
                forms = {"object": phrase.forms[verb.governs], "the": the, "bare": bare}
                yield Phrase(_verb_forms(verb) | forms, (verb.lemma, *phrase.lemmas))


def adverbs(lexicon: Lexicon, tags: Tags) -> Iterator[Phrase]:
    """Adverbs and expressions of time or place."""
    for adverb in lexicon.adverbs:
        if adverb.tags & tags:
            yield Phrase({"ru": adverb.lemma, "en": adverb.english}, (adverb.lemma,))


def shorts(lexicon: Lexicon, wanted: Tags) -> Iterator[Phrase]:
    """Short adjectives, by tag."""
    for short in lexicon.shorts:
        if wanted & short.tags:
            forms = {f"short.{gender}": form for gender, form in short.forms.items()}
            yield Phrase(forms | {"en": short.english}, (short.lemma,))


def determiners(lexicon: Lexicon, wanted: Tags) -> Iterator[Phrase]:
    """Determiners by themselves, by tag."""
    for word in lexicon.determiners:
        if wanted & word.tags:
            yield Phrase(word.forms | {"en.s": word.english, "en.p": word.english_plural}, (word.lemma,))


def _chosen(lexicon: Lexicon, tags: Tags, numbers: str) -> Iterator[tuple[Noun, bool]]:
    for noun in lexicon.nouns:
        if noun.tags & tags:
            if ("s" if noun.plural else "m") in numbers or ("s" in numbers and "name" in noun.tags):
                yield noun, False
            if noun.plural and "p" in numbers:
                yield noun, True


def _the(noun: Noun) -> str:
    return noun.english if noun.bare else f"the {noun.english}"


def _agreement(lexicon: Lexicon, person: str, gender: str, english_pronoun: str) -> dict[str, str]:
    is_, was = _BE.get(person, ("are", "were"))
    third = person == "3s"
    return {
        "person": person,
        "gender": gender,
        "number": person[1],
        "verb": "third" if third else "base",
        "future": lexicon.future[person],
        "existed": lexicon.past[gender],
        "be": is_,
        "was": was,
        "do": "does" if third else "do",
        "have": "has" if third else "have",
        "need": "needs" if third else "need",
        "they": english_pronoun,
        "these": "these" if gender == "p" else "this",
    }


def _prepositions(lexicon: Lexicon, cases: dict[str, str]) -> dict[str, str]:
    return {key: preposition.before(cases[preposition.case]) for key, preposition in lexicon.prepositions.items()}


def _pronoun(lexicon: Lexicon, pronoun: Pronoun, gender: str) -> Phrase:
    forms = pronoun.cases | _prepositions(lexicon, pronoun.after_preposition)
    forms |= _agreement(lexicon, pronoun.person, gender, pronoun.subject)
    forms |= {"the": pronoun.subject, "object": pronoun.object, "again": pronoun.cases["nom"]}
    return Phrase(forms, (pronoun.lemma,))


def _noun_phrase(lexicon: Lexicon, noun: Noun, plural: bool, modifier: Adjective | None) -> Phrase:
    gender = "p" if plural else noun.gender
    plain = noun.plural if plural else noun.singular
    english = noun.english_plural if plural else noun.english
    cases, bare = plain, english
    lemmas: tuple[str, ...] = (noun.lemma,)
    own_article = noun.bare
    if modifier is not None:
        cases = {case: f"{modifier.form(case, gender, noun.animate)} {plain[case]}" for case in CASES}
        bare = f"{modifier.english_plural if plural else modifier.english} {english}"
        own_article = own_article or "possessive" in modifier.tags
        lemmas = (modifier.lemma, noun.lemma)
    again = next((p.cases["nom"] for p in lexicon.pronouns if p.person[0] == "3" and gender in p.genders), "")
    forms = cases | _prepositions(lexicon, cases)
    forms |= _agreement(lexicon, "3p" if plural else "3s", gender, "they" if plural else _THIRD[gender])
    the = bare if own_article else f"the {bare}"
    forms |= {"the": the, "object": the, "bare": bare, "plain": plain["nom"], "english": english}
    if again:  # no neuter pronoun: nothing neuter is spoken of twice
        forms["again"] = again
    forms["a"] = bare if plural or not noun.plural or own_article else with_article(bare)
    if modifier is not None:
        forms |= {"quality": modifier.form("nom", gender, noun.animate), "quality_en": modifier.english}
    return Phrase(forms, lemmas)


def _verb_forms(verb: Verb) -> dict[str, str]:
    forms = _conjugated(verb.imperfective, "inf", "pres", "past", "order")
    if verb.perfective is not None:
        forms |= _conjugated(verb.perfective, "finish", "will", "done", "once")
    english = verb.english
    return forms | {
        "base": english["base"],
        "en.base": english["base"],
        "en.third": english["third"],
        "past_en": english["past"],
        "ing": english["ing"],
    }


def _conjugated(verb: Conjugation, infinitive: str, finite: str, past: str, order: str) -> dict[str, str]:
    named: Iterable[tuple[str, dict[str, str]]] = ((finite, verb.finite), (past, verb.past), (order, verb.imperative))
    forms = {f"{name}.{key}": form for name, table in named for key, form in table.items()}
    return forms | {infinitive: verb.infinitive}
