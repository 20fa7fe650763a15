"""The translator's data: pairs from up to three origins, each divided in its own way, and then told apart."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from model_build import tables
from model_build._errors import DataError
from model_build.config import CorpusConfig
from model_build.models.translation import catalogues, division, grammar, table
from model_build.models.translation.pairs import Pair

GRAMMAR, CATALOGUES, FILE = "grammar", "catalogues", "file"
PARTS = ("train", "validation", "test")

Origin = tuple[str, Pair]


@dataclass(frozen=True)
class About:
    """What a corpus was read from: in words, the hash of it all, and that of the user's file."""

    source: str
    sha256: str
    file_sha256: str | None


@dataclass(frozen=True)
class Corpus:
    """Pairs with their origins in three parts, and what they were read from."""

    train: Sequence[Origin]
    validation: Sequence[Origin]
    test: Sequence[Origin]
    about: About

    def to_files(self) -> dict[str, bytes]:
        """A TSV file for each part, and corpus.json."""
        files = {f"{part}.tsv": table.to_lines(getattr(self, part)) for part in PARTS}
        counts = {part: Counter(origin for origin, _ in getattr(self, part)) for part in PARTS}
        about = {**asdict(self.about), "pairs": counts}
        return {**files, "corpus.json": json.dumps(about, indent=2).encode() + b"\n"}

    @classmethod
    def from_folder(cls, folder: Path) -> Corpus:
        """Read what `to_files` made."""
        train, validation, test = (table.from_lines(folder / f"{part}.tsv") for part in PARTS)
        return cls(train, validation, test, read_about(folder))


def read_about(folder: Path) -> About:
    """What a corpus was read from.

    Raises:
        DataError: its corpus.json is another file.
    """
    path = folder / "corpus.json"
    try:
        about = json.loads(path.read_text())
        return About(about["source"], about["sha256"], about["file_sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not what stage data writes ({error!r}): run `dvc repro`") from error


def make_corpus(config: CorpusConfig) -> Corpus:
    """Read or make the pairs and divide them; no source of a held-out part is in training.

    Raises:
        DataError: an origin has no text, or not the one that is expected.
    """
    origins = []
    if config.grammar_pairs:
        origins.append(_grammar(config))
    if config.catalogues:
        origins.append(_catalogues(config, Path(config.catalogues)))
    if config.path:
        origins.append(_file(config, Path(config.path)))
    digest = hashlib.sha256("".join(sha256 for *_, sha256 in origins).encode())
    parts: list[list[Origin]] = [[], [], []]
    for origin, divided, _, _ in origins:
        for part, pairs in zip(parts, divided, strict=True):
            part += [(origin, pair) for pair in pairs]
    train, validation, test = parts
    tested = {pair.source for _, pair in test}
    validation = [one for one in validation if one[1].source not in tested]
    held = tested | {pair.source for _, pair in validation}
    train = [one for one in train if one[1].source not in held]
    for name, found in zip(PARTS, (train, validation, test), strict=True):
        if not found:
            raise DataError(f"the {name} part is empty: give more text, or other shares in data.*_fraction")
    source = ", ".join(source for _, _, source, _ in origins)
    return Corpus(train, validation, test, About(source, digest.hexdigest(), file_sha256(config)))


def file_sha256(config: CorpusConfig) -> str | None:
    """Hash of the user's file, which is the only part that may change without the configuration doing so."""
    return tables.file_sha256(Path(config.path)) if config.path else None


Division = tuple[Sequence[Pair], Sequence[Pair], Sequence[Pair]]


def _grammar(config: CorpusConfig) -> tuple[str, Division, str, str]:
    pairs = grammar.generate(config.grammar_pairs, config.split_seed)
    divided = division.divide(pairs, config.validation_fraction, config.test_fraction, config.split_seed)
    digest = hashlib.sha256(table.to_lines((GRAMMAR, pair) for pair in pairs))
    return GRAMMAR, (divided.train, divided.validation, divided.test), f"{len(pairs)} made pairs", digest.hexdigest()


def _catalogues(config: CorpusConfig, folder: Path) -> tuple[str, Division, str, str]:
    files = catalogues.find_catalogues(folder)
    pairs = catalogues.read_catalogues(files)
    divided = catalogues.divide_catalogues(pairs, config.validation_fraction, config.test_fraction, config.split_seed)
    source = f"{len(pairs)} pairs of {len(files)} catalogues in {folder}"
    return CATALOGUES, divided, source, catalogues.catalogues_sha256(files)


def _file(config: CorpusConfig, path: Path) -> tuple[str, Division, str, str]:
    pairs = table.read_table(path)
    parts: tuple[list[Pair], list[Pair], list[Pair]] = ([], [], [])
    for pair in pairs:
        share = int.from_bytes(hashlib.sha256(f"{config.split_seed}/{pair.source}".encode()).digest()[:6]) / 2**48
        held = share < config.validation_fraction + config.test_fraction
        parts[0 if not held else 1 if share < config.validation_fraction else 2].append(pair)
    return FILE, parts, f"{len(pairs)} pairs of {path}", tables.file_sha256(path)
