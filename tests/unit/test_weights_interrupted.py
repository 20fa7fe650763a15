"""A pull that ends in the middle, or that is not alone: nothing half is visible, and the next one works."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from serving import WeightsError, weights
from serving._lock import Release
from serving._store import Store
from tests.support import ROOT, environment, kill_all, wait_for
from tests.unit.delivery import Delivery, make_delivery, refused


@pytest.fixture
def delivery(tmp_path: Path) -> Delivery:
    return make_delivery(tmp_path)


@contextmanager
def in_the_middle(delivery: Delivery, **options: str) -> Iterator[subprocess.Popen[str]]:
    """A pull whose DVC waits for a model: its object is a pipe to which nobody writes."""
    pipe = delivery.stored("1/model.onnx")
    content = pipe.read_bytes()
    pipe.unlink()
    os.mkfifo(pipe)
    writers: list[int] = []

    def is_read() -> bool:
        with suppress(OSError):  # a pipe without a reader
            writers.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return bool(writers)

    process = subprocess.Popen(
        delivery.command(**options),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(is_read, "DVC reads the pipe")
        yield process
    finally:
        kill_all(process)
        for writer in writers:
            os.close(writer)
        pipe.unlink()
        pipe.write_bytes(content)


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    output, errors = process.communicate(timeout=30)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def staging_folders(delivery: Delivery) -> list[str]:
    return [path.name for path in delivery.volume.glob(".pull-*")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_pull_that_is_stopped_ends_its_dvc_and_leaves_nothing(delivery: Delivery, number: signal.Signals) -> None:
    with in_the_middle(delivery) as process:
        (dvc,) = psutil.Process(process.pid).children()
        process.send_signal(number)
        result = ended(process)
        assert not dvc.is_running()
    assert refused(delivery, result) == f"stopped by {number.name} before the weights were there; nothing was kept"
    assert delivery.pull().returncode == 0
    assert delivery.is_pulled()


def test_a_pull_that_is_killed_shows_nothing_and_the_next_one_of_the_pod_takes_its_rest_away(
    delivery: Delivery,
) -> None:
    host = socket.gethostname()
    others = [".pull-another-pod-7", f".pull-{host}-2-7"]
    for name in others:
        (delivery.volume / name).mkdir(parents=True)
    with in_the_middle(delivery) as process:
        kill_all(process)
        assert ended(process).returncode == -signal.SIGKILL
    assert not delivery.pulled.exists()
    assert sorted(staging_folders(delivery)) == sorted([*others, f".pull-{host}-{process.pid}"])
    assert delivery.pull().returncode == 0
    assert sorted(staging_folders(delivery)) == sorted(others)
    assert delivery.is_pulled()


def test_a_store_that_stops_in_the_middle_is_left_after_the_timeout(delivery: Delivery) -> None:
    with in_the_middle(delivery, pull_timeout="2") as process:
        began = time.monotonic()
        result = ended(process)
        assert time.monotonic() - began < 10
    sentence = f"{delivery.remote} did not give 0.0 MB within 2 s: raise weights.timeoutSeconds, or look at the store"
    assert refused(delivery, result) == sentence


def test_a_pull_that_asks_a_silent_store_stops_at_once(delivery: Delivery) -> None:
    delivery.volume.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        command = delivery.command(remote_url="s3://weights/dvc", remote_endpoint_url=address)
        keys = environment(AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret")
        process = subprocess.Popen(
            command, cwd=ROOT, env=keys, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        silent.settimeout(30)
        with silent.accept()[0]:
            process.send_signal(signal.SIGTERM)
            result = ended(process)  # within 30 s, while the store keeps silent
    assert refused(delivery, result).startswith("stopped by SIGTERM ")


def options(delivery: Delivery) -> weights.Options:
    return weights.Options(delivery.image, delivery.volume, "", Store(str(delivery.remote)), 60)


def test_a_revision_that_another_pod_was_faster_to_put_there_is_left_to_serve(
    delivery: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify, inodes = weights._verify, []

    def slow(options: weights.Options, release: Release, staging: Path) -> None:
        verify(options, release, staging)
        shutil.copytree(delivery.built, delivery.pulled)
        inodes.append(delivery.pulled.stat().st_ino)

    monkeypatch.setattr(weights, "_verify", slow)
    assert weights.pull(options(delivery)) == delivery.pulled
    assert [delivery.pulled.stat().st_ino] == inodes
    assert delivery.is_pulled()
    assert staging_folders(delivery) == []


def test_a_volume_without_room_is_named(delivery: Delivery, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise shutil.Error([("from", "to", f"[Errno {errno.ENOSPC}] {os.strerror(errno.ENOSPC)}: 'from' -> 'to'")])

    monkeypatch.setattr(weights, "_copy", full)
    with pytest.raises(WeightsError, match=f"^{delivery.volume} is full: raise weights.volumeSize$"):
        weights.pull(options(delivery))
    assert list(delivery.volume.iterdir()) == []


def test_an_image_that_is_read_only_is_copied_into_folders_that_can_be_written_to(delivery: Delivery) -> None:
    paths = [delivery.image, *delivery.image.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert delivery.pull().returncode == 0  # as root this shows nothing: the modes below do
        staging = delivery.volume / "staging"
        staging.mkdir()
        weights._copy(delivery.image, staging)
        assert all(path.stat().st_mode & 0o200 for path in [staging, *staging.rglob("*")])
    finally:
        for path in paths:
            path.chmod(0o755)
