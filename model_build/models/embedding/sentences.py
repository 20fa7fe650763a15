"""Real English text to measure an embedder on: does the summary of a thing find its description among all others?

Debian describes each package in one line and in a paragraph (deb-control(5), field Description).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from model_build._errors import DataError
from model_build.tables import EXPECTED, read_two_columns

PACKAGES = Path("/var/lib/dpkg/status")
MIN_WORDS = 12  # of a description: shorter ones say the same of many packages

TextPair = tuple[str, str]


@dataclass(frozen=True)
class Sentences:
    """Pairs of texts that belong together, and texts that are none of theirs.

    Attributes:
        pairs: what an embedder is measured on.
        calibration: other texts, to calibrate on; empty where a user's file has no more than is measured on.
    """

    pairs: list[TextPair]
    calibration: list[str]


def read_sentences(path: Path | None, count: int) -> Sentences:
    """At most `count` pairs of a user's file, or of Debian's packages (None), of which a quarter is left over.

    Which ones follows from a hash of the text.

    Raises:
        DataError: the file is not one of pairs, or this is no Debian machine.
    """
    pairs = list(_packages(PACKAGES)) if path is None else read_two_columns(path)
    if len(pairs) < 2:
        raise DataError(f"{path or PACKAGES} has {len(pairs)} pairs: expected 2 or more, one to be told from another")
    ordered = sorted(pairs, key=lambda pair: hashlib.sha256(pair[0].encode()).digest())
    measured = ordered[: count if path else max(2, min(count, len(ordered) * 3 // 4))]
    known = {text for pair in measured for text in pair}
    others = dict.fromkeys(text for pair in ordered[len(measured) :] for text in pair)
    return Sentences(measured, [text for text in others if text not in known])


def _packages(status: Path) -> Iterator[TextPair]:
    """Summary and description of each package; a description that several have is left out."""
    try:
        entries = status.read_text(encoding="utf-8").split("\n\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{status} cannot be read ({error}): it is there on Debian and Ubuntu; elsewhere name a file in data.path, "
            f"{EXPECTED}"
        ) from error
    found: dict[str, str | None] = {}
    for entry in entries:
        _, _, field = entry.partition("\nDescription: ")
        summary, *rest = field.split("\n")
        lines: list[str] = []
        for line in rest:
            if not line.startswith(" ") or line.strip() == ".":  # the next field, or the next paragraph
                break
            lines.append(line.strip())
        description = " ".join(lines)
        if summary and len(description.split()) >= MIN_WORDS:
            found[description] = None if description in found else summary.strip()
    return ((summary, description) for description, summary in found.items() if summary)
