"""The translator's data: three origins, nothing held out is learned from, a user's file is taken or clearly refused."""

# ruff: noqa: RUF001 -- Russian is what is tested

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from model_build import DataError
from model_build.config import CorpusConfig, TranslatorConfig, load_config
from model_build.models.translation.corpora import Corpus, make_corpus
from model_build.models.translation.pairs import Pair
from model_build.models.translator import Translator
from model_build.stages.layout import BuildFiles
from tests.support import ROOT
from tests.text_support import write_mo

LINES = [(f"{number} кораблей в гавани", f"{number} ships in the harbour") for number in range(200)]
EXPECTED = "expected lines of two texts with a tab between them, in UTF-8, neither empty"


def config(grammar: int = 0, catalogues: Path | None = None, path: Path | None = None) -> CorpusConfig:
    return CorpusConfig(
        grammar_pairs=grammar,
        catalogues=str(catalogues) if catalogues else None,
        path=str(path) if path else None,
        validation_fraction=0.1,
        test_fraction=0.1,
        vocabulary=2000,
    )


def write_tsv(path: Path, lines: Iterable[tuple[str, str]] = LINES) -> Path:
    path.write_text("".join(f"{source}\t{target}\n" for source, target in lines))
    return path


def write_catalogues(folder: Path) -> Path:
    """60 catalogues of three pairs."""
    for number in range(60):
        messages = {f"{what} of catalogue {number}": f"{word} каталога {number}" for what, word in WORDS.items()}
        write_mo(folder / "ru" / "LC_MESSAGES" / f"catalogue{number}.mo", messages)
    return folder


WORDS = {"Page": "Страница", "Line": "Строка", "Letter": "Буква"}


def sources(part: Iterable[tuple[str, Pair]]) -> set[str]:
    return {pair.source for _, pair in part}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Of all three origins; the user's file repeats, with other targets, what the catalogues and the grammar say."""
    folder = tmp_path_factory.mktemp("origins")
    catalogues = write_catalogues(folder)
    first = make_corpus(config(600, catalogues))
    repeated = [(pair.source, f"user's own {number}") for number, (_, pair) in enumerate([*first.test, *first.train])]
    return make_corpus(config(600, catalogues, write_tsv(folder / "own.tsv", [*LINES, *repeated])))


def test_every_origin_has_its_share_of_each_part(corpus: Corpus) -> None:
    for part in (corpus.train, corpus.validation, corpus.test):
        assert [*dict.fromkeys(origin for origin, _ in part)] == ["grammar", "catalogues", "file"]
    assert re.fullmatch(
        r"600 made pairs, 180 pairs of 60 catalogues in .*, \d+ pairs of .*own.tsv", corpus.about.source
    )


def test_no_source_of_a_held_out_part_is_learned_from_whatever_origin_repeats_it(corpus: Corpus) -> None:
    assert not sources(corpus.test) & sources(corpus.train)
    assert not sources(corpus.test) & sources(corpus.validation)
    assert not sources(corpus.validation) & sources(corpus.train)


def test_the_same_configuration_gives_the_same_corpus_and_other_text_another_hash(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "own.tsv")
    first, second = make_corpus(config(300, path=path)), make_corpus(config(300, path=path))
    assert first == second
    write_tsv(path, [*LINES, ("ещё один", "one more")])
    assert make_corpus(config(300, path=path)).about.sha256 != first.about.sha256


def test_the_hash_of_a_users_file_is_that_of_the_file_alone_and_none_without_one(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "own.tsv")
    wanted = hashlib.sha256(path.read_bytes()).hexdigest()
    assert make_corpus(config(300, path=path)).about.file_sha256 == wanted
    assert make_corpus(config(path=path)).about.file_sha256 == wanted
    assert make_corpus(config(300)).about.file_sha256 is None


def test_a_line_more_in_a_users_file_moves_no_other_line_to_another_part(tmp_path: Path) -> None:
    before = make_corpus(config(path=write_tsv(tmp_path / "own.tsv")))
    after = make_corpus(config(path=write_tsv(tmp_path / "own.tsv", [("ещё один", "one more"), *LINES])))
    for old, new in ((before.train, after.train), (before.validation, after.validation), (before.test, after.test)):
        assert sources(new) - sources(old) <= {"ещё один"}
        assert sources(old) <= sources(new)


def test_a_source_that_a_users_file_repeats_comes_once(tmp_path: Path) -> None:
    corpus = make_corpus(config(path=write_tsv(tmp_path / "own.tsv", [*LINES, *LINES])))
    assert len(corpus.train) + len(corpus.validation) + len(corpus.test) == len(LINES)


def test_what_a_corpus_writes_is_read_again_and_what_it_did_not_write_is_refused(
    corpus: Corpus, tmp_path: Path
) -> None:
    for name, content in corpus.to_files().items():
        (tmp_path / name).write_bytes(content)
    read = Corpus.from_folder(tmp_path)
    for part in ("train", "validation", "test"):
        wanted, found = getattr(corpus, part), getattr(read, part)
        assert [(o, p.source, p.target) for o, p in found] == [(o, p.source, p.target) for o, p in wanted]
    assert read.about == corpus.about
    (tmp_path / "test.tsv").write_text("да\tyes\n")
    with pytest.raises(DataError, match=r"test.tsv is not what stage data writes: run `dvc repro`"):
        Corpus.from_folder(tmp_path)
    (tmp_path / "corpus.json").write_text("{}")
    (tmp_path / "test.tsv").write_text("file\tда\tyes\n")
    with pytest.raises(DataError, match=r"corpus.json is not what stage data writes .*: run `dvc repro`"):
        Corpus.from_folder(tmp_path)


def test_the_vocabularies_know_nothing_of_what_occurs_only_in_the_test_part(tmp_path: Path) -> None:
    candidates = [(f"синхрофазотрон номер {number}", f"Gyrotron {number}") for number in range(400)]
    divided = make_corpus(config(path=write_tsv(tmp_path / "own.tsv", candidates)))
    held = [line for line in candidates if line[0] in sources(divided.test)]
    assert len(held) > 10
    whole = load_config(ROOT, "translator")
    assert isinstance(whole, TranslatorConfig)
    whole.data = config(path=write_tsv(tmp_path / "own.tsv", [*LINES, *held]))
    files = BuildFiles(tmp_path, "translator")
    Translator(whole).prepare(files)
    known = {name: Tokenizer.from_file(str(files.corpus / f"{name}.json")) for name in ("source", "target")}
    for name, learned, unseen in (("source", "кораблей", "синхрофазотрон"), ("target", "ships", "Gyrotron")):
        words = [known[name].decode([token]) for token in range(known[name].get_vocab_size())]
        assert f" {learned}" in words
        parts = [unseen[start : start + 3] for start in range(len(unseen) - 2)]
        assert not [word for word in words for part in parts if part in word]
    assert sources(Corpus.from_folder(files.corpus).test) >= {source for source, _ in held}


@pytest.mark.parametrize("content", ["\ufeffда\tyes\nнет\tno\n", "да\tyes\r\nнет\tno\r\n", "да\tyes\nнет\tno"])
def test_a_byte_order_mark_line_ends_of_windows_and_no_last_line_end_are_taken(tmp_path: Path, content: str) -> None:
    path = tmp_path / "own.tsv"
    extra = "".join(f"{source}\t{target}\n" for source, target in LINES)
    path.write_bytes(content.encode() + b"\n" * (not content.endswith("\n")) + extra.encode())
    corpus = make_corpus(config(path=path))
    pairs = {pair.source: pair.target for part in (corpus.train, corpus.validation, corpus.test) for _, pair in part}
    assert pairs == {"да": "yes", "нет": "no", **dict(LINES)}


REFUSED = {
    "empty source": ("да\tyes\n\tno\n", r", line 2: the first column is empty: expected .*; correct the line"),
    "empty target": ("да\tyes\nнет\t \n", r", line 2: the second column is empty: expected .*; correct the line"),
    "three columns": ("да\tyes\tja\n", r", line 1 has 3 columns: expected .*; correct the line"),
    "one column": ("да\tyes\nнет no\n", r", line 2 has 1 column: expected .*; correct the line"),
    "empty line": ("да\tyes\n\nнет\tno\n", r", line 2 has 1 column: expected .*; correct the line"),
    "empty": ("", r" has no lines: expected .*"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_users_file_of_another_form_is_refused_with_its_line(tmp_path: Path, case: str) -> None:
    content, message = REFUSED[case]
    path = tmp_path / "own.tsv"
    path.write_text(content)
    assert_refused(path, message)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_users_file_in_another_encoding_is_refused_with_line_byte_and_remedy(tmp_path: Path, mark: bytes) -> None:
    path = tmp_path / "own.tsv"
    path.write_bytes(mark + b"a\tyes\n" + "я\tme\n".encode("cp1251"))
    assert_refused(path, r" is not UTF-8 \(line 2, byte 0xff\): expected .*; convert it, .*iconv.*")


def test_a_users_file_that_is_absent_or_a_folder_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "absent.tsv", r" cannot be read \(No such file or directory\): expected .*")
    assert_refused(tmp_path, r" cannot be read \(Is a directory\): expected .*")


def test_too_few_pairs_for_three_parts_are_refused(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "own.tsv", LINES[:1])
    with pytest.raises(DataError, match=r"the \w+ part is empty: give more text, or other shares in data"):
        make_corpus(config(path=path))


def assert_refused(path: Path, message: str) -> None:
    with pytest.raises(DataError) as refused:
        make_corpus(config(path=path))
    assert re.fullmatch(re.escape(str(path)) + message, str(refused.value))
    assert EXPECTED in str(refused.value)
    assert "\n" not in str(refused.value)
