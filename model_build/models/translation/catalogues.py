"""Real text: the gettext catalogues that a Debian machine carries (`ru/LC_MESSAGES/*.mo`), msgstr to msgid.

The format is that of https://www.gnu.org/software/gettext/manual/html_node/MO-Files.html, read by Python's `gettext`.
"""

from __future__ import annotations

import gettext
import hashlib
import re
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from model_build._errors import DataError
from model_build.models.translation.pairs import Pair

PATTERN = "ru/LC_MESSAGES/*.mo"
MAX_CHARACTERS = 120
MAX_RATIO = 2.5  # a text this much longer than the other is no translation of it

MIN_CYRILLIC = 0.6  # share of a source's characters; below it is markup, options and numbers, which nobody translates

_CYRILLIC = re.compile(r"[\u0400-\u04ff]")
_LATIN_WORD = re.compile(r"[A-Za-z]{2}")
_ACCESS_KEY = re.compile(r"(?<!\w)_(?=\w)")  # GTK's "_Open": the letter after it opens the menu


def find_catalogues(folder: Path) -> list[Path]:
    """The Russian catalogues below `folder`, in the order of their names.

    Raises:
        DataError: there is none.
    """
    found = sorted(folder.rglob(PATTERN), key=lambda path: (path.name, str(path)))
    if not found:
        raise DataError(
            f"no catalogue {PATTERN} below {folder}: expected Russian gettext catalogues as in /usr/share/locale of a "
            "Debian machine; install some (apt-get install git binutils wget), name another folder in "
            "data.catalogues, or set it to null"
        )
    return found


def catalogues_sha256(files: Iterable[Path]) -> str:
    """One hash of what the catalogues hold, by their names."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def read_catalogues(files: Sequence[Path]) -> list[Pair]:
    """Cleaned pairs, each source once; `group` is the name of the catalogue that has it first.

    Where catalogues translate one source differently, the translation that most of them have is taken.

    Raises:
        DataError: a file is no gettext catalogue in UTF-8.
    """
    targets: defaultdict[str, Counter[str]] = defaultdict(Counter)
    groups: dict[str, str] = {}
    for path in files:
        for message, translation in _messages(path):
            source, target = _clean(translation), _clean(message)
            if _is_translation(source, target):
                targets[source][target] += 1
                groups.setdefault(source, path.stem)
    best = {source: min(found, key=lambda text: (-found[text], text)) for source, found in targets.items()}
    return [Pair(source, best[source], group) for source, group in sorted(groups.items())]


def _messages(path: Path) -> Iterable[tuple[str, str]]:
    try:
        with path.open("rb") as file:
            entries = vars(gettext.GNUTranslations(file))["_catalog"]
    except (OSError, ValueError, LookupError, struct.error) as error:
        raise DataError(f"{path} is no gettext catalogue in UTF-8 ({error}): remove it, or install it again") from error
    for key, translation in entries.items():
        message, form = key if isinstance(key, tuple) else (key, 0)
        if message and form == 0:  # Russian's first plural form is the one for 1, 21, 31, ...
            yield message.rpartition("\x04")[2], translation  # what comes before \x04 is a context, no text


def _clean(text: str) -> str:
    """One line; a single access key at the beginning of a word is taken out."""
    line = " ".join(text.split())
    return _ACCESS_KEY.sub("", line) if line.count("_") == 1 else line


def _is_translation(source: str, target: str) -> bool:
    if source.count("_") != target.count("_"):  # an access key within a word of one language
        return False
    letters = len(_CYRILLIC.findall(source))
    if letters < MIN_CYRILLIC * len(source.replace(" ", "")) or not letters:
        return False
    if not _LATIN_WORD.search(target) or _CYRILLIC.search(target):
        return False
    longer, shorter = max(len(source), len(target)), min(len(source), len(target))
    return longer <= MAX_CHARACTERS and longer <= MAX_RATIO * shorter + 10


def divide_catalogues(
    pairs: Sequence[Pair], validation_fraction: float, test_fraction: float, seed: int
) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """Whole catalogues go to the test part and the validation part until each has its share of the pairs.

    Their order is that of a hash of their names, so that one more catalogue changes little.

    Returns:
        Training, validation and test part.
    """
    sizes = Counter(pair.group for pair in pairs)
    order = sorted(sizes, key=lambda group: hashlib.sha256(f"{seed}/{group}".encode()).digest())
    held: dict[str, int] = {}
    taken = {1: 0, 2: 0}
    wanted = {1: validation_fraction * len(pairs), 2: test_fraction * len(pairs)}
    for group in order:
        for part in (2, 1):
            # Several catalogues make a part: one that is large is for training.
            if taken[part] < wanted[part] and sizes[group] <= 0.4 * wanted[part]:
                held[group] = part
                taken[part] += sizes[group]
                break
    parts: tuple[list[Pair], list[Pair], list[Pair]] = ([], [], [])
    for pair in pairs:
        parts[held.get(pair.group, 0)].append(pair)
    return parts
