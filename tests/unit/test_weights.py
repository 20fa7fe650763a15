"""`python -m serving.weights`: the revision that was asked for, whole and verified, or nothing and one sentence.

A real `dvc pull`, from a remote that is a folder: what a store of another kind says is in test_store.py.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from serving import verified_models
from serving._lock import object_path
from tests.support import error_lines, free_ports, write_manifest
from tests.unit.delivery import Delivery, make_delivery, refused


@pytest.fixture
def delivery(tmp_path: Path) -> Delivery:
    return make_delivery(tmp_path)


def test_a_revision_is_pulled_whole_and_verified_and_nothing_else_stays(delivery: Delivery) -> None:
    result = delivery.pull(revision=delivery.revision)
    assert result.returncode == 0, result.stderr
    assert delivery.is_pulled()
    assert [path.name for path in delivery.volume.iterdir()] == [delivery.revision]
    assert [model.name for model in verified_models(delivery.pulled)] == ["build", "digits"]
    assert f"pulling revision {delivery.revision[:12]} from {delivery.remote}" in result.stdout
    assert "verified 2 models: build, digits" in result.stdout
    assert not delivery.termination_log.exists()


def test_a_store_may_have_any_address(delivery: Delivery) -> None:
    remote = delivery.remote.rename(delivery.remote.parent / """store, #1 [x] ; 100% "a" 'b' $b = é\\ """)
    result = replace(delivery, remote=remote).pull()
    assert result.returncode == 0, result.stderr
    assert delivery.is_pulled()


def test_a_revision_that_is_there_is_verified_and_not_touched(delivery: Delivery) -> None:
    assert delivery.pull().returncode == 0
    before = marks(delivery.volume)
    shutil.rmtree(delivery.remote)
    result = delivery.pull()
    assert result.stdout == f"revision {delivery.revision[:12]} is on the volume already, every file verified\n"
    assert marks(delivery.volume) == before


def marks(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def damage(path: Path) -> None:
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def new_version(model: Path) -> None:
    (model / "2").mkdir()
    (model / "2" / "model.onnx").write_bytes(b"which Triton would serve")


def another_build(model: Path) -> None:
    (model / "1" / "model.onnx").chmod(0o644)
    (model / "1" / "model.onnx").write_bytes(b"of another build")
    write_manifest(model)


@pytest.mark.parametrize(
    "change",
    [
        another_build,
        lambda model: damage(model / "1" / "model.onnx"),
        lambda model: damage(model / "golden" / "request.json"),
        lambda model: (model / "manifest.json").unlink(),
        new_version,
        lambda model: shutil.copytree(model, model.parent / "another"),
        lambda model: (model / "golden" / "link").symlink_to("request.json"),
    ],
    ids=["another build", "weights", "golden request", "no manifest", "new version", "another model", "link"],
)
def test_whatever_on_the_volume_is_not_the_revision_is_replaced_by_it(
    delivery: Delivery, change: Callable[[Path], None]
) -> None:
    shutil.copytree(delivery.built, delivery.pulled)
    change(delivery.pulled / "digits")
    assert delivery.pull().returncode == 0
    assert delivery.is_pulled()


def test_a_file_in_the_place_of_the_revision_is_replaced_by_it(delivery: Delivery) -> None:
    delivery.volume.mkdir()
    delivery.pulled.touch()
    assert delivery.pull().returncode == 0
    assert delivery.is_pulled()


def test_another_revision_than_the_image_carries_is_refused(delivery: Delivery) -> None:
    asked = "0" * 64
    delivery.volume.mkdir()
    assert refused(delivery, delivery.pull(revision=asked)) == (
        f"the weights image carries revision {delivery.revision[:12]} and the release asks for {asked[:12]}: deploy "
        "the image that was built together with that dvc.lock, or take weights.revision from `slipway release` in the "
        "commit of this image"
    )


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("1/model.onnx", "model_repository/digits/1/model.onnx"),
        ("golden", "model_repository/digits/golden"),
        # DVC fetches a folder's files before it keeps the listing that gives them their names.
        ("golden/request.json", "a file of model_repository/build/golden or model_repository/digits/golden"),
    ],
)
def test_an_object_that_the_store_has_not_is_refused_by_the_name_of_its_file(
    delivery: Delivery, name: str, named: str
) -> None:
    delivery.stored(name).unlink()
    assert refused(delivery, delivery.pull()) == (
        f"{delivery.remote} lacks {named} (revision {delivery.revision[:12]}): run `slipway push` where the model was "
        "built"
    )


@pytest.mark.parametrize(
    ("name", "named"),
    [("1/model.onnx", "1/model.onnx"), ("golden/response.json", "golden/response.json"), ("golden", "golden")],
)
def test_an_object_that_is_damaged_in_the_store_is_refused_by_the_name_of_its_file(
    delivery: Delivery, name: str, named: str
) -> None:
    damage(delivery.stored(name))
    delivery.stored(name).chmod(0o444)  # DVC takes such a file of a folder for whole, as it does any object of S3
    assert refused(delivery, delivery.pull()) == (
        f"model_repository/digits/{named} in {delivery.remote} is damaged: its hash is not the one in dvc.lock. "
        f"Nothing of it is served; delete {delivery.stored(name)} and run `slipway push` where the model was built"
    )


def test_a_listing_that_is_damaged_is_not_obeyed(delivery: Delivery) -> None:
    listing = delivery.stored("golden")
    listing.write_text(listing.read_text().replace('"request.json"', '"../../../../request.json"'))
    listing.chmod(0o444)
    said = refused(delivery, delivery.pull())  # and nothing on the volume
    assert said.startswith(f"model_repository/digits/golden in {delivery.remote} is damaged")


def test_a_listing_that_the_lock_vouches_for_writes_nowhere_but_into_its_folder(delivery: Delivery) -> None:
    listing = delivery.stored("golden")
    content = listing.read_text().replace('"request.json"', '"../../../request.json"').encode()
    name = hashlib.md5(content, usedforsecurity=False).hexdigest() + ".dir"
    (delivery.remote / object_path(name)).parent.mkdir(parents=True, exist_ok=True)
    (delivery.remote / object_path(name)).write_bytes(content)
    lock = delivery.image / "dvc.lock"
    lock.write_text(lock.read_text().replace(listing.parent.name + listing.name, name))
    said = refused(delivery, delivery.pull())  # and nothing on the volume
    assert "model_repository/digits/golden lists a file outside of it" in said


@pytest.mark.parametrize("change", [lambda path: path.write_text("by hand"), lambda path: path.unlink()])
def test_a_git_half_that_is_not_what_the_lock_names_is_laid_to_the_image(
    delivery: Delivery, change: Callable[[Path], None]
) -> None:
    change(delivery.image / "model_repository" / "digits" / "config.pbtxt")
    assert refused(delivery, delivery.pull()) == (
        "the weights image carries another model_repository/digits/config.pbtxt than its dvc.lock names, or none: run "
        "`slipway build` and build the image anew"
    )


def test_a_model_that_the_lock_does_not_name_is_refused(delivery: Delivery) -> None:
    (delivery.image / "model_repository" / "new").mkdir()
    (delivery.image / "model_repository" / "new" / "config.pbtxt").write_text("")
    said = refused(delivery, delivery.pull())
    assert said == "new is of no model in dvc.lock: run `slipway build`, or remove it"


@pytest.mark.parametrize("name", ["digits/.hidden", "digits/1/__pycache__/x.pyc", "README.md"])
def test_what_is_no_part_of_a_model_is_refused(delivery: Delivery, name: str) -> None:
    path = delivery.image / "model_repository" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    assert refused(delivery, delivery.pull()).startswith(name.removesuffix("/x.pyc"))


def test_weights_that_slipped_into_the_image_are_not_those_that_are_served(delivery: Delivery) -> None:
    (delivery.image / "model_repository" / "digits" / "1").mkdir()
    (delivery.image / "model_repository" / "digits" / "1" / "model.onnx").write_bytes(b"of another build")
    assert delivery.pull().returncode == 0
    assert delivery.is_pulled()


def test_an_image_without_a_lock_and_one_without_a_pipeline_are_refused(delivery: Delivery) -> None:
    delivery.volume.mkdir()
    (delivery.image / "dvc.yaml").unlink()
    assert "'dvc.yaml' does not exist" in refused(delivery, delivery.pull())
    (delivery.image / "dvc.lock").unlink()
    assert "dvc.lock does not exist" in refused(delivery, delivery.pull())


def test_a_store_that_is_away_is_named_before_dvc_is_asked(delivery: Delivery) -> None:
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    result = delivery.pull(keys, remote_url="s3://weights/dvc", remote_endpoint_url=address)
    assert refused(delivery, result) == (
        f"cannot pull from s3://weights/dvc at {address} ([Errno 111] Connection refused): the store does not answer: "
        "look at it, and at weights.remote.endpointUrl"
    )
    assert result.stdout == ""


def test_what_is_no_remote_is_refused(delivery: Delivery) -> None:
    wrong: list[dict[str, str | Path]] = [{"remote_url": ""}, {"remote_url": " "}, {"pull_timeout": "soon"}]
    for options in wrong:
        result = delivery.pull(**options)
        assert result.returncode == 2
        assert "python -m serving.weights: error: " in error_lines(result)[-1]
    assert "weights.remote.url is s3://bucket/prefix" in refused(delivery, delivery.pull(remote_url="foo://bar"))
    (delivery.volume.parent / "file").touch()
    result = delivery.pull(target=delivery.volume.parent / "file")
    assert error_lines(result)[-1].endswith(f"mount a volume there that user id {os.getuid()} may write to")
