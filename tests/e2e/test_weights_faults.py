"""Weights that are damaged, missing or out of reach: the new pod says why, the old one keeps answering."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import s3fs
from slipway_client import Client

from loadtest._golden import Golden
from serving._lock import Release, object_path
from tests.e2e.cluster import NAMESPACE, Cluster, is_ready, port_forward, refused_because, wait_until
from tests.e2e.conftest import REMOTE, Helm, Revision


@contextmanager
def always_answering(release: str, revision: Revision) -> Iterator[None]:
    """The release gives the golden answer ten times a second, from beginning to end."""
    golden = Golden.read(revision.model / "golden")
    ended, wrong, asked = threading.Event(), list[Exception](), list[int]()
    with port_forward(release, 8000) as (port,), Client(f"http://127.0.0.1:{port}", timeout=10) as client:
        model = client.model("digits")

        def ask() -> None:
            while not ended.wait(0.1):
                try:
                    golden.check(model.infer(golden.inputs))
                    asked.append(1)
                except Exception as error:  # noqa: BLE001 - whatever it is, the old pod did not answer
                    wrong.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
    assert wrong == []
    assert len(asked) > 10


@contextmanager
def store(cluster: Cluster) -> Iterator[s3fs.S3FileSystem]:
    """The object store, as S3."""
    secret = cluster.secret("slipway-weights-s3")
    with port_forward("object-store", 7070) as (port,):
        yield s3fs.S3FileSystem(
            key=secret["AWS_ACCESS_KEY_ID"],
            secret=secret["AWS_SECRET_ACCESS_KEY"],
            endpoint_url=f"http://127.0.0.1:{port}",
            skip_instance_cache=True,
            use_listings_cache=False,
        )


@contextmanager
def stored_instead(
    cluster: Cluster, revision: Revision, path: str, change: Callable[[bytes], bytes | None]
) -> Iterator[None]:
    """The object of a locked file is what `change` makes of it (None: absent), and whole again afterwards."""
    md5 = next(out.md5 for out in Release.read(revision.workspace / "dvc.lock").outputs if out.path == path)
    key = f"{REMOTE.removeprefix('s3://')}/{object_path(md5)}"
    with store(cluster) as s3:
        whole = s3.cat_file(key)
        changed = change(whole)
        s3.rm_file(key)
        if changed is not None:
            s3.pipe_file(key, changed)
    try:
        yield
    finally:
        with store(cluster) as s3:
            s3.pipe_file(key, whole)


def flip_one_bit(content: bytes) -> bytes:
    """The same length, one bit another."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def refusal_of_a_new_pod(cluster: Cluster, helm: Helm, release: str, revision: Revision, *options: str) -> str:
    """What the weights' container of a new pod says, while the pod before stays Ready."""
    old = cluster.servers(release)[0]
    helm.upgrade(
        release, revision, "--set-string", f"server.podAnnotations.test={old.metadata.uid}", *options, wait=False
    )

    def message() -> str:
        new = [pod for pod in cluster.servers(release) if pod.metadata.uid != old.metadata.uid]
        return refused_because(new[-1]) if new else ""

    said: str = wait_until(message, "the new pod's weights are refused", 120)
    kept = next(pod for pod in cluster.servers(release) if pod.metadata.uid == old.metadata.uid)
    assert is_ready(kept)
    return said


MODEL = "model_repository/digits_fp32/1/model.onnx"


def test_one_flipped_bit_in_the_store_is_refused_by_the_name_of_the_file(
    cluster: Cluster, helm: Helm, release: str, first: Revision
) -> None:
    with stored_instead(cluster, first, MODEL, flip_one_bit), always_answering(release, first):
        said = refusal_of_a_new_pod(cluster, helm, release, first)
    assert MODEL in said
    assert "damaged" in said


def test_a_missing_object_is_refused_by_the_name_of_the_file(
    cluster: Cluster, helm: Helm, release: str, first: Revision
) -> None:
    with stored_instead(cluster, first, MODEL, lambda _: None), always_answering(release, first):
        said = refusal_of_a_new_pod(cluster, helm, release, first)
    assert MODEL in said
    assert "slipway push" in said


@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_named_and_not_shown(
    cluster: Cluster, helm: Helm, release: str, first: Revision, wrong: str
) -> None:
    data = {**cluster.secret("slipway-weights-s3"), wrong: "not-this-one"}
    cluster.core.create_namespaced_secret(NAMESPACE, {"metadata": {"name": "wrong"}, "stringData": data})
    options = ("--set", "weights.remote.existingSecret=wrong")
    try:
        with always_answering(release, first):
            said = refusal_of_a_new_pod(cluster, helm, release, first, *options)
    finally:
        cluster.core.delete_namespaced_secret("wrong", NAMESPACE)
    assert "refuses the credentials" in said
    assert "existingSecret" in said
    assert not any(value in said for value in data.values())


def test_a_store_that_is_away_is_named_and_the_pod_heals_when_it_is_back(
    cluster: Cluster, helm: Helm, release: str, first: Revision
) -> None:
    cluster.scale("object-store", 0)
    try:
        with always_answering(release, first):
            said = refusal_of_a_new_pod(cluster, helm, release, first)
    finally:
        cluster.scale("object-store", 1)
    assert "does not answer" in said
    assert "http://object-store:7070" in said
    new = cluster.servers(release)[-1].metadata.uid

    def healed() -> bool:
        return any(pod.metadata.uid == new and is_ready(pod) for pod in cluster.servers(release))

    wait_until(healed, "the same pod has pulled its weights after all", 180)


@pytest.mark.parametrize("asked", ["second", "nobody"])
def test_an_image_with_another_dvc_lock_than_the_release_asks_for_is_refused(
    cluster: Cluster, helm: Helm, release: str, first: Revision, second: Revision, asked: str
) -> None:
    revision = second.name if asked == "second" else "0" * 63 + "f"
    with always_answering(release, first):
        said = refusal_of_a_new_pod(cluster, helm, release, first, "--set-string", f"weights.revision={revision}")
    assert f"carries revision {first.name[:12]}" in said
    assert revision[:12] in said
