"""Names of classes: lines of labels.txt, and names of sample files."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model_build._errors import DataError

NOT_IN_A_LINE = {"Cc", "Cs", "Zl", "Zp"}  # Unicode categories: controls, lone surrogates, separators of lines
LONGEST = 200  # characters
LONGEST_FILE = 80


def check_labels(labels: object) -> None:
    """Refuse names that labels.txt cannot hold, one a line, or that cannot be told apart.

    Raises:
        DataError: there are none, or one is no text, empty, too long, twice there or no single line.
    """
    if isinstance(labels, str) or not isinstance(labels, Sequence | np.ndarray):
        raise DataError(f"labels is {labels!r:.60}: expected a tuple of names, ('one', 'two')")
    if len(labels) == 0:
        raise DataError("labels is empty: expected the name of each class, in the order of the network's logits")
    seen: dict[str, int] = {}
    for index, label in enumerate(labels):
        where = f"label {index}, {label!r:.60},"
        if not isinstance(label, str):
            raise DataError(f"{where} is no text: expected names, as tuple(map(str, names)) gives them")
        if not label.strip():
            raise DataError(f"{where} is empty: expected a name")
        if label != label.strip() or any(unicodedata.category(one) in NOT_IN_A_LINE for one in label):
            raise DataError(f"{where} is no single line: expected a name without line breaks and spaces around it")
        if len(label) > LONGEST:
            raise DataError(f"{where} has {len(label)} characters: expected {LONGEST} at most")
        if label in seen:
            raise DataError(f"{where} is the name of class {seen[label]} too: expected a name of its own for each")
        seen[label] = index


def check_classes(labels: Sequence[str], parts: Sequence[npt.NDArray[np.int64]]) -> None:
    """Refuse examples of classes that have no name.

    Raises:
        DataError: a label of `parts`, arrays `[n]`, is no index of `labels`.
    """
    found = np.unique(np.concatenate(parts))
    if found.size and (found[0] < 0 or found[-1] >= len(labels)):
        raise DataError(
            f"the examples are of classes {found[0]} to {found[-1]} and labels names {len(labels)}: expected classes "
            f"0 to {len(labels) - 1}; name each class in labels, or correct the data"
        )


def file_names(labels: Sequence[str]) -> list[str]:
    """A file name for each label, without an ending: the label itself, or its number and what of it a name can hold."""
    names: list[str] = []
    taken = {label.casefold() for label in labels}
    told = [label.casefold() for label in labels]
    for index, label in enumerate(labels):
        name = label
        if (
            re.search(r"[^\w .+=-]|^[.-]|[. ]$", label)
            or len(label.encode()) > LONGEST_FILE
            or told.count(told[index]) > 1
        ):
            part = re.sub(r"[^\w+=-]+", "_", label).encode()[:LONGEST_FILE].decode(errors="ignore").strip("_-")
            name = f"{index}-{part}" if part else f"{index}"
            while name.casefold() in taken:  # of another label, or made of one
                name += "_"
            taken.add(name.casefold())
        names.append(name)
    return names
