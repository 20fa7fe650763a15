"""What is read from a dvc.lock, and whether files are those that it names."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from serving import LockError
from serving._lock import Output, Release, changed, files, folder_md5, object_path

LOCK = """
schema: '2.0'
stages:
  data@digits:
    cmd: python -m model_build data digits
    outs:
    - {path: build/digits/data.npz, hash: md5, md5: 638524957adb3939e6824fa5c4d6affc, size: 1471666}
  repository@digits:
    cmd: python -m model_build repository digits
    outs:
    - {path: model_repository/digits/1/model.onnx, hash: md5, md5: 67fae8597c2f978d53458bf0c234b54d, size: 38617}
    - {path: model_repository/digits/golden, hash: md5, md5: 97097bd670cb5f124414b9324b473a4d.dir, size: 12591}
  repository@other:
    cmd: python -m model_build repository other
    outs:
    - {path: model_repository/other/1/model.onnx, hash: md5, md5: 252a65de6fa8a608ea86e7e002130260, size: 1}
  report:
    cmd: python -m report
"""
HELLO = "5d41402abc4b2a76b9719d911017c592"  # echo -n hello | md5sum


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "dvc.lock"
    path.write_text(LOCK)
    return path


def test_the_revision_is_the_sha256_of_the_file_as_it_is(lock: Path) -> None:
    before = Release.read(lock).revision
    assert before == hashlib.sha256(lock.read_bytes()).hexdigest()
    lock.write_text(lock.read_text() + "\n")
    assert Release.read(lock).revision not in ("", before)


def test_only_the_stages_and_outputs_of_the_model_repository_are_of_the_release(lock: Path) -> None:
    release = Release.read(lock)
    assert release.stages == ["repository@digits", "repository@other"]
    assert release.models == ["digits", "other"]
    model, golden, _ = release.outputs
    assert model == Output("model_repository/digits/1/model.onnx", "67fae8597c2f978d53458bf0c234b54d", 38617)
    assert (model.is_folder, golden.is_folder) == (False, True)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "does not exist: build a model first, with `slipway build MODEL`"),
        ("stages: {a: [", "is not a lock file of DVC (ParserError"),
        ("", "is not a lock file of DVC"),
        ("- a list", "is not a lock file of DVC"),
        ("schema: '2.0'", "is not a lock file of DVC (KeyError: 'stages')"),
        ("stages: 3", "is not a lock file of DVC"),
        ("stages: {a: 3}", "is not a lock file of DVC"),
        ("stages: {a: {outs: [{path: model_repository/m/x}]}}", "is not a lock file of DVC (KeyError: 'md5')"),
        ("stages: {a: {outs: [{path: model_repository/m/x, md5: 0, size: x}]}}", "is not a lock file of DVC"),
        (b"\xff\xfe\xff", "is not a lock file of DVC"),
        ("stages: {}", "names no file of model_repository/: build a model first, with `slipway build MODEL`"),
        ("stages: {a: {outs: [{path: build/x}]}}", "names no file of model_repository/"),
    ],
)
def test_what_is_no_lock_of_a_model_is_refused_in_one_sentence(
    lock: Path, content: str | bytes | None, reason: str
) -> None:
    lock.unlink()
    if content is not None:
        lock.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(LockError) as raised:
        Release.read(lock)
    assert str(raised.value).startswith(f"{lock} ")
    assert reason in str(raised.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "b").write_text("hello")
    (folder / "sub" / "a").write_text("")
    return folder


def test_the_md5_of_a_folder_is_that_of_its_sorted_listing(folder: Path) -> None:
    empty = "d41d8cd98f00b204e9800998ecf8427e"
    listing = f'[{{"md5": "{HELLO}", "relpath": "b"}}, {{"md5": "{empty}", "relpath": "sub/a"}}]'
    assert folder_md5(folder) == hashlib.md5(listing.encode()).hexdigest() + ".dir"


def test_a_file_of_another_content_or_size_or_kind_is_changed_and_so_is_an_absent_one(folder: Path) -> None:
    root = folder.parent
    assert changed(root, [Output("folder/b", HELLO, 5), Output("folder", folder_md5(folder), 5)]) == []
    wrong = [
        Output("folder/b", HELLO, 6),
        Output("folder/b", HELLO.replace("5", "6"), 5),
        Output("folder/sub", HELLO, 5),
        Output("folder/absent", HELLO, 5),
        Output("folder/b", f"{HELLO}.dir", 5),
        Output("absent", f"{HELLO}.dir", 5),
    ]
    assert changed(root, wrong) == [output.path for output in wrong]


@pytest.mark.parametrize("name", ["b", "sub/a", "new"])
def test_a_folder_is_changed_with_any_file_of_it(folder: Path, name: str) -> None:
    output = Output("folder", folder_md5(folder), 5)
    (folder / name).write_text("other")
    assert changed(folder.parent, [output]) == ["folder"]


def test_a_folder_is_changed_when_a_file_of_it_has_another_name_or_is_gone(folder: Path) -> None:
    output = Output("folder", folder_md5(folder), 5)
    (folder / "b").rename(folder / "c")
    assert changed(folder.parent, [output]) == ["folder"]
    (folder / "c").unlink()
    assert changed(folder.parent, [output]) == ["folder"]


def test_the_files_of_a_folder_are_read_from_an_intact_listing_only(tmp_path: Path) -> None:
    content = json.dumps([{"md5": HELLO, "relpath": "request.json"}]).encode()
    name = hashlib.md5(content).hexdigest() + ".dir"
    golden, listing = Output("model_repository/m/golden", name, 5), tmp_path / object_path(name)
    assert listing == tmp_path / "files" / "md5" / name[:2] / name[2:]
    assert files(golden, tmp_path) == {"model_repository/m/golden": name}
    listing.parent.mkdir(parents=True)
    listing.write_bytes(content)
    assert files(golden, tmp_path) == {"model_repository/m/golden/request.json": HELLO}
    listing.write_bytes(content.replace(b"request", b"requesT"))
    assert files(golden, tmp_path) == {"model_repository/m/golden": name}
    assert files(Output("model_repository/m/x", HELLO, 5), tmp_path) == {"model_repository/m/x": HELLO}
