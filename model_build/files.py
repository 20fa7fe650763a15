"""Files that are either the old ones or the new ones, whenever the writer is killed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path


def write_file(path: Path, content: bytes) -> None:
    """Write `content` under a temporary name, then rename it to `path`."""
    write_files({path: content})


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write every file under a temporary name, and rename them in order only when all are on disk.

    A full disk therefore changes nothing. A kill between two renames leaves whole files of two builds, which the
    manifest, renamed last, tells apart.
    """
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in contents}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(path)
            with temporary[path].open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path, source in temporary.items():
            source.replace(path)
    finally:
        for source in temporary.values():
            source.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Hash of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove_abandoned(path: Path) -> None:
    """Remove temporary files of `path` whose writer was killed."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        match = re.fullmatch(rf"\.{re.escape(path.name)}\.(\d+)\.tmp", left.name)
        if match and not Path(f"/proc/{match[1]}").exists():
            with contextlib.suppress(FileNotFoundError):
                left.unlink()
