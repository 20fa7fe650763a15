"""Written files are the old ones or the new ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from model_build.files import write_files


def test_nothing_is_renamed_when_one_file_cannot_be_written(tmp_path: Path) -> None:
    old = tmp_path / "weights"
    old.write_bytes(b"old")
    (tmp_path / "blocked").write_bytes(b"a file where a folder is needed")
    with pytest.raises(OSError, match="blocked"):
        write_files({old: b"new", tmp_path / "blocked" / "manifest": b"new"})
    assert old.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blocked", "weights"]


def test_a_writer_killed_before_the_rename_leaves_the_old_file_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"old")
    killed = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, signal, sys; from pathlib import Path; from model_build.files import write_files\n"
            "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
            "write_files({Path(sys.argv[1]): b'new'})",
            str(path),
        ],
        check=False,
    )
    assert killed.returncode == -9
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2
    write_files({path: b"new"})
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("weights", b"new")]
