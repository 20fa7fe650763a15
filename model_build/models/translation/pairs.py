"""What a translation model learns from: a sentence and its translation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """A sentence and its translation."""

    source: str
    """Russian."""
    target: str
    """English."""
    group: str
    """What is held out together: the template of a generated pair, the name of a catalogue."""
    lemmas: tuple[str, ...] = ()
    """The lexicon's words in it, by their Russian dictionary forms; empty for text that is not generated."""
