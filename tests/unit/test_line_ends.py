"""A checkout has the bytes that were committed, and where git has changed the ends of lines the advice helps."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from serving import LockError, RepositoryError, verified_models
from serving._lock import Release, md5
from serving.release import read
from tests.support import ROOT, environment, write_manifest

FIRST = b"# Written by `slipway build digits` from ...: change it there."
CONFIG = "model_repository/digits/config.pbtxt"


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, env=environment(), capture_output=True)


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A workspace in git: a configuration that dvc.lock and a manifest hash, a script, a text of a model's own."""
    folder = tmp_path / "origin"
    model = folder / "model_repository" / "digits"
    (model / "golden").mkdir(parents=True)
    for name in ("config.pbtxt", "labels.txt", "golden/request.json", "golden/response.json"):
        (model / name).write_bytes(FIRST + b"\nsecond\n")
    (model / "vocabulary.txt").write_bytes(b"with CRLF\r\nas it was built\r\n")
    write_manifest(model)
    out = {"path": CONFIG, "hash": "md5", "md5": md5(folder / CONFIG), "size": (folder / CONFIG).stat().st_size}
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"gate@digits": {"outs": [out]}}}))
    (folder / "demo.sh").write_bytes(b"#!/bin/sh\ntrue\n")
    return folder


def clone(origin: Path, *options: str) -> Path:
    git(origin.parent, "init", "-q", str(origin))
    git(origin, "add", "-A")
    git(origin, "commit", "-qm", "workspace")
    copy = origin.parent / "a clone"
    git(origin.parent, "clone", "-q", *options, str(origin), str(copy))
    return copy


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_clone_with_autocrlf_has_every_byte_that_was_committed(origin: Path) -> None:
    shutil.copy(ROOT / ".gitattributes", origin)
    assert contents(clone(origin, "-c", "core.autocrlf=true")) == contents(origin)


def test_a_revision_is_the_same_with_other_line_ends(origin: Path) -> None:
    lock = origin / "dvc.lock"
    revision = Release.read(lock).revision
    lock.write_bytes(lock.read_bytes().replace(b"\n", b"\r\n"))
    assert Release.read(lock).revision == revision


def test_a_clone_whose_line_ends_git_has_changed_is_told_commands_that_help(origin: Path) -> None:
    copy = clone(origin, "-c", "core.autocrlf=true")
    assert b"\r\n" in (copy / CONFIG).read_bytes()
    with pytest.raises(RepositoryError, match=r"config\.pbtxt is not .* git has changed its line ends"):
        verified_models(copy / "model_repository")
    with pytest.raises(LockError, match=r"config\.pbtxt is not .* git has changed its line ends") as refused:
        read(copy)
    run_advice(str(refused.value))
    assert read(copy).revision == Release.read(origin / "dvc.lock").revision
    assert [model.name for model in verified_models(copy / "model_repository")] == ["digits"]


def test_a_repository_whose_line_ends_git_has_changed_is_told_commands_that_help(origin: Path) -> None:
    copy = clone(origin, "-c", "core.autocrlf=true")
    with pytest.raises(RepositoryError) as refused:
        verified_models(copy / "model_repository")
    run_advice(str(refused.value))
    assert [model.name for model in verified_models(copy / "model_repository")] == ["digits"]


def run_advice(message: str) -> None:
    commands = re.findall(r"`([^`]+)`", message)
    assert len(commands) == 3
    for command in commands:
        subprocess.run(["bash", "-ec", command], check=True, env=environment(), cwd="/", capture_output=True)


def test_another_change_is_not_blamed_on_git(origin: Path) -> None:
    (origin / CONFIG).write_bytes(FIRST + b"\r\nthird\r\n")
    with pytest.raises(RepositoryError, match="run `slipway build digits`"):
        verified_models(origin / "model_repository")
    with pytest.raises(LockError, match="run `slipway build digits`"):
        read(origin)
