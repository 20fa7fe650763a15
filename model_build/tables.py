"""TSV files with two columns of text, as users bring them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from model_build._errors import DataError

EXPECTED = "lines of two texts with a tab between them, in UTF-8, neither empty"


def read_two_columns(path: Path) -> list[tuple[str, str]]:
    """The rows of `path`.

    Raises:
        DataError: the file is absent, not UTF-8, has no lines, or a line has not two columns with text in both.
    """
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        columns = [column.strip() for column in line.split("\t")]
        if len(columns) != 2:
            raise DataError(
                f"{path}, line {number} has {_columns(len(columns))}: expected {EXPECTED}; correct the line"
            )
        for name, column in zip(("first", "second"), columns, strict=True):
            if not column:
                raise DataError(
                    f"{path}, line {number}: the {name} column is empty: expected {EXPECTED}; correct the line"
                )
        rows.append((columns[0], columns[1]))
    if not rows:
        raise DataError(f"{path} has no lines: expected {EXPECTED}")
    return rows


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, without their ends.

    Raises:
        DataError: the file is absent or in another encoding.
    """
    try:
        content = path.read_bytes()
        return content.decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n").split("\n") if content else []
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): expected {EXPECTED}") from error
    except UnicodeDecodeError as error:
        decoded = error.object  # without the byte order mark
        line = decoded[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path} is not UTF-8 (line {line}, byte 0x{decoded[error.start]:02x}): expected {EXPECTED}; "
            "convert it, for example with `iconv -f WINDOWS-1251 -t UTF-8`"
        ) from error


def file_sha256(path: Path) -> str:
    """Hash of a user's file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"data.path {path} cannot be read ({error.strerror}): expected {EXPECTED}") from error


def _columns(count: int) -> str:
    return "1 column" if count == 1 else f"{count} columns"
