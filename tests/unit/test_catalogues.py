"""Real text for the translator: gettext catalogues are read, cleaned, told apart and held out as wholes."""

# ruff: noqa: RUF001 -- Russian is what is tested

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from model_build import DataError
from model_build.models.translation.catalogues import (
    MAX_CHARACTERS,
    catalogues_sha256,
    divide_catalogues,
    find_catalogues,
    read_catalogues,
)
from model_build.models.translation.pairs import Pair
from tests.text_support import MO_HEADER, write_mo


def read(folder: Path, messages: Mapping[str, str], **options: str) -> list[tuple[str, str]]:
    """Source and target of the pairs of one catalogue."""
    return [(pair.source, pair.target) for pair in read_catalogues([write_mo(folder / "made.mo", messages, **options)])]


def test_catalogues_are_found_in_every_folder_of_russian_and_in_no_other(tmp_path: Path) -> None:
    wanted = [tmp_path / place / "ru" / "LC_MESSAGES" / name for place, name in (("vim", "b.mo"), ("locale", "c.mo"))]
    for path in (*wanted, tmp_path / "locale" / "de" / "LC_MESSAGES" / "a.mo"):
        write_mo(path, {"File": "Файл"})
    (wanted[0].parent / "notes.txt").write_text("no catalogue")
    assert find_catalogues(tmp_path) == wanted


def test_no_catalogue_at_all_is_one_line_that_says_how_to_get_some(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(
            DataError, match=r"no catalogue .* below .*: expected .* install some .* set it to null"
        ) as no:
            find_catalogues(folder)
        assert str(folder) in str(no.value)
        assert "\n" not in str(no.value)


def test_a_pair_is_the_translation_and_its_message_without_contexts_and_with_the_singular(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {
            "Open the file": "Открыть файл",
            "menu\x04Close": "Закрыть",
            "One file was found\0Many files were found": "Найден один файл\0Найдено два файла\0Найдено много файлов",
            "": MO_HEADER.format(charset="UTF-8") + "Last-Translator: Пётр\n",
        },
    )
    assert sorted(found) == [
        ("Закрыть", "Close"),
        ("Найден один файл", "One file was found"),
        ("Открыть файл", "Open the file"),
    ]


@pytest.mark.parametrize(
    ("message", "translation", "expected"),
    [
        ("_Open", "_Открыть", ("Открыть", "Open")),
        ("File\tis\n  open\n", " Файл\nоткрыт ", ("Файл открыт", "File is open")),
        ("%s was not found", "%s не найден", ("%s не найден", "%s was not found")),
        ("Save _as", "Сохранить _как", ("Сохранить как", "Save as")),
        ("the file_name", "то имя_файла", ("то имя_файла", "the file_name")),
    ],
    ids=["access key", "white space", "placeholder", "access key of a later word", "underscore"],
)
def test_a_text_is_cleaned(tmp_path: Path, message: str, translation: str, expected: tuple[str, str]) -> None:
    assert read(tmp_path, {message: translation}) == [expected]


@pytest.mark.parametrize(
    ("message", "translation"),
    [
        ("Open", "Open"),
        ("Open", ""),
        ("Кодировка KOI8", "Кодировка КОИ-8"),
        ("%d", "Число"),
        ("--output=FILE option", "--output=FILE ключ"),
        ("Ship " * 10, "Да"),
        ("Ship", "Корабль " * 10),
        ("_Open", "О_ткрыть"),
        (f"Ship {'s' * MAX_CHARACTERS}", f"Корабль {'к' * MAX_CHARACTERS}"),
    ],
    ids=[
        "same",
        "empty",
        "Russian target",
        "no word",
        "mostly markup",
        "much shorter",
        "much longer",
        "access key within a word",
        "too long",
    ],
)
def test_what_is_no_translation_is_left_out(tmp_path: Path, message: str, translation: str) -> None:
    assert read(tmp_path, {message: translation, "Yes": "Да"}) == [("Да", "Yes")]


def test_a_source_comes_once_with_the_translation_that_most_catalogues_have(tmp_path: Path) -> None:
    says = [{"File": "Файл", "Yes": "Да"}, {"Document": "Файл", "Yep": "Да"}, {"Document": "Файл"}]
    files = [write_mo(tmp_path / f"{name}.mo", one) for name, one in zip("abc", says, strict=True)]
    # "Да" has as many votes for each: the first in the alphabet, whatever the order of the files.
    for order in (files, files[::-1]):
        assert {pair.source: pair.target for pair in read_catalogues(order)} == {"Файл": "Document", "Да": "Yep"}


def test_a_pair_belongs_to_the_first_catalogue_that_has_it(tmp_path: Path) -> None:
    files = [write_mo(tmp_path / f"{name}.mo", {"File": "Файл"}) for name in "ab"]
    assert [pair.group for pair in read_catalogues(files)] == ["a"]


def test_a_catalogue_is_read_in_the_encoding_that_it_names(tmp_path: Path) -> None:
    assert read(tmp_path, {"Open": "Открыть"}, charset="KOI8-R") == [("Открыть", "Open")]


def test_a_catalogue_in_another_encoding_than_it_says_is_refused_by_its_name(tmp_path: Path) -> None:
    for claimed in ("UTF-8", "nonsense"):
        header = MO_HEADER.format(charset=claimed)
        with pytest.raises(DataError, match=r"made.mo is no gettext catalogue .*: remove it, or install") as refused:
            read(tmp_path, {"Open": "Открыть"}, charset="KOI8-R", header=header)
        assert str(refused.value).startswith(str(tmp_path))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kept", [0, 3, 15, 40, -10])
def test_a_catalogue_that_is_cut_off_is_refused_by_its_name(tmp_path: Path, kept: int) -> None:
    path = write_mo(tmp_path / "made.mo", {"Open": "Открыть", "Yes": "Да"})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=f"{path} is no gettext catalogue .*: remove it, or install it again"):
        read_catalogues([path])


def test_a_file_that_is_no_catalogue_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "made.mo"
    path.write_text("msgid and msgstr, but not compiled")
    with pytest.raises(DataError, match=f"{path} is no gettext catalogue"):
        read_catalogues([path])


def test_the_hash_follows_what_the_catalogues_hold_and_not_where_they_lie(tmp_path: Path) -> None:
    first = write_mo(tmp_path / "here" / "a.mo", {"Open": "Открыть"})
    same = write_mo(tmp_path / "there" / "a.mo", {"Open": "Открыть"})
    other = write_mo(tmp_path / "a.mo", {"Open": "Закрыть"})
    renamed = write_mo(tmp_path / "b.mo", {"Open": "Открыть"})
    assert catalogues_sha256([first]) == catalogues_sha256([same])
    assert len({catalogues_sha256(files) for files in ([first], [other], [renamed], [first, renamed])}) == 4


def pairs_of(sizes: Mapping[str, int]) -> list[Pair]:
    return [Pair(f"{name} {number}", "text", name) for name, size in sizes.items() for number in range(size)]


def groups(part: list[Pair]) -> set[str]:
    return {pair.group for pair in part}


SMALL = {f"catalogue{number}": 5 for number in range(100)}


def test_whole_catalogues_are_held_out_until_each_part_has_its_share() -> None:
    pairs = pairs_of(SMALL)
    train, validation, test = divide_catalogues(pairs, 0.1, 0.2, seed=1)
    assert sorted([*train, *validation, *test], key=str) == sorted(pairs, key=str)
    assert not groups(train) & groups(validation)
    assert not groups(train) & groups(test)
    assert not groups(validation) & groups(test)
    assert (len(validation), len(test)) == (50, 100)


def test_a_catalogue_that_would_be_most_of_a_part_is_for_training() -> None:
    train, validation, test = divide_catalogues(pairs_of({**SMALL, "large": 100}), 0.1, 0.1, seed=1)
    assert "large" in groups(train)
    assert validation
    assert test


def test_the_division_is_the_same_for_a_seed_and_one_more_catalogue_changes_little() -> None:
    first, again, other = (divide_catalogues(pairs_of(SMALL), 0.1, 0.2, seed) for seed in (1, 1, 2))
    assert first == again
    assert groups(first[2]) != groups(other[2])
    more = divide_catalogues(pairs_of({**SMALL, "another": 5}), 0.1, 0.2, seed=1)
    assert len(groups(more[2]) ^ groups(first[2])) <= 3
