"""Pairs as TSV: what a user brings (source, target), and what stage data leaves (origin, source, target)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from model_build._errors import DataError
from model_build.models.translation.pairs import Pair
from model_build.tables import read_lines, read_two_columns


def read_table(path: Path) -> list[Pair]:
    """The pairs of a user's file, each source once; every pair is a group of its own."""
    return [Pair(source, target, group=source) for source, target in dict(read_two_columns(path)).items()]


def to_lines(pairs: Iterable[tuple[str, Pair]]) -> bytes:
    """`origin<TAB>source<TAB>target` for each pair with its origin."""
    return "".join(f"{origin}\t{pair.source}\t{pair.target}\n" for origin, pair in pairs).encode()


def from_lines(path: Path) -> list[tuple[str, Pair]]:
    """What `to_lines` made.

    Raises:
        DataError: it is another file.
    """
    pairs = []
    for line in read_lines(path):
        columns = line.split("\t")
        if len(columns) != 3:
            raise DataError(f"{path} is not what stage data writes: run `dvc repro`")
        origin, source, target = columns
        pairs.append((origin, Pair(source, target, group="")))
    return pairs
