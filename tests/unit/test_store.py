"""One sentence for each way in which a store fails: what it says itself, and what DVC says of it."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest
from dvc.config import Config

from serving import WeightsError
from serving import _store as module
from serving._lock import Output, Release, object_path
from serving._store import Store
from tests.support import answering, free_ports

MODEL = Output("model_repository/digits/1/model.onnx", "67fae8597c2f978d53458bf0c234b54d", 38617)
ANSWER = "0c73bd80e0d8bd98b6e53c678b9383b7"
LISTING = json.dumps([{"md5": ANSWER, "relpath": "response.json"}]).encode()
GOLDEN = Output("model_repository/digits/golden", hashlib.md5(LISTING).hexdigest() + ".dir", 393)
RELEASE = Release("0e65e50e3e15" + "0" * 52, ["repository@digits"], [MODEL, GOLDEN])
STORE = Store("s3://weights/dvc", "http://store:7070")
PUSH = "run `slipway push` where the model was built"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def fake_s3(status: int, code: str, message: str = "Not this one.") -> AbstractContextManager[str]:
    """Address of an S3 store that gives every request the same answer."""
    error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    body = (error if status != 200 else "<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>").encode()
    return answering(body, status)


def refusal(endpoint_url: str, url: str = "s3://weights/dvc") -> str:
    with pytest.raises(WeightsError) as raised:
        Store(url, endpoint_url).ask()
    said = str(raised.value)
    assert said.startswith(f"cannot pull from {url} at {endpoint_url} (")
    assert not any(secret in said for secret in ("the-key", "the-secret"))
    return said


def test_fake_s3_a_store_that_lists_and_a_folder_are_good() -> None:
    with fake_s3(200, "") as address:
        Store("s3://weights/dvc", address).ask()
    Store("/absent").ask()


@pytest.mark.parametrize(
    ("status", "code", "meaning"),
    [
        (403, "InvalidAccessKeyId", "the store refuses the credentials: correct the Secret"),
        (403, "SignatureDoesNotMatch", "the store refuses the credentials: correct the Secret"),
        (403, "AccessDenied", "weights.remote.existingSecret names (they need to list and to read)"),
        (404, "XAdminUserNotFound", "the store refuses the credentials"),  # versitygw
        (400, "ExpiredToken", "the store refuses the credentials"),
        (404, "NoSuchBucket", "the bucket does not exist: correct weights.remote.url, or create the bucket"),
        (400, "AuthorizationHeaderMalformed", "another region: correct weights.remote.region"),
        (404, "404", "look at the store, at weights.remote.url and weights.remote.endpointUrl"),
    ],
)
def test_fake_s3_a_refusal_is_named_with_what_to_correct(status: int, code: str, meaning: str) -> None:
    with fake_s3(status, code) as address:
        said = refusal(address)
    assert f"({code})" in said
    assert "Not this one." in said
    assert meaning in said


def test_no_credentials_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    said = refusal("http://127.0.0.1:1")
    assert said.endswith(
        "(Unable to locate credentials): no credentials: name a Secret with AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY in weights.remote.existingSecret"
    )


NO_ANSWER = "the store does not answer: look at it, and at weights.remote.endpointUrl"


def test_a_store_that_is_away_and_one_that_no_name_server_knows_do_not_answer() -> None:
    (port,) = free_ports(1)
    assert refusal(f"http://127.0.0.1:{port}").endswith(f"([Errno 111] Connection refused): {NO_ANSWER}")
    assert refusal("http://store.invalid:7070").endswith(NO_ANSWER)


def test_a_store_that_takes_the_connection_and_is_silent_is_asked_as_often_as_it_says_and_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ANSWER_TIMEOUT", 0.2)
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    taken: list[socket.socket] = []

    def take(silent: socket.socket) -> None:
        with suppress(OSError):  # closed, at the end
            while True:
                taken.append(silent.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as silent:
        thread = threading.Thread(target=take, args=(silent,))
        thread.start()
        said = refusal(f"http://127.0.0.1:{silent.getsockname()[1]}")
        silent.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection in taken:
        connection.close()
    assert len(taken) == 2
    assert said.endswith(f"(timed out): {NO_ANSWER}")


@pytest.mark.parametrize(
    ("url", "endpoint_url"), [("s3://weights/dvc", "127.0.0.1:7070"), ("s3://", "http://127.0.0.1:1"), ("s3://", "x")]
)
def test_what_is_no_address_is_said_to_be_none(url: str, endpoint_url: str) -> None:
    said = refusal(endpoint_url, url)
    assert said.endswith(
        "weights.remote.url is s3://bucket/prefix, weights.remote.endpointUrl http://host:port or empty"
    )


def test_fake_s3_http_where_https_was_asked_for_is_named() -> None:
    with fake_s3(200, "") as address:
        said = refusal(address.replace("http:", "https:"))
    assert "no TLS with a known certificate there" in said


MISSING = "WARNING: Some of the cache files do not exist neither locally nor on remote. Missing cache files:\nmd5: "
DAMAGED = f"in {STORE} is damaged: its hash is not the one in dvc.lock. Nothing of it is served; delete"
OBJECT = "s3://weights/dvc/files/md5/67/fae8597c2f978d53458bf0c234b54d"


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (
            f"{MISSING}{MODEL.md5}\nA       model_repository/digits/golden/\nERROR: failed to pull data from the cloud",
            f"{STORE} lacks {MODEL.path} (revision 0e65e50e3e15): {PUSH}",
        ),
        (
            f"{MISSING}{GOLDEN.md5}\nmd5: {MODEL.md5}\nERROR: failed to pull data from the cloud",
            f"{STORE} lacks {MODEL.path}, {GOLDEN.path} (revision 0e65e50e3e15): {PUSH}",
        ),
        (
            f"ERROR: failed to transfer '{ANSWER}' - The specified key does not exist.: An error occurred (NoSuchKey)",
            f"{STORE} lacks a file of {GOLDEN.path} (revision 0e65e50e3e15): {PUSH}",
        ),
        (
            f"ERROR: failed to transfer '{ANSWER}' - [Errno 2] No such file or directory: '/store/files/md5/0c'",
            f"{STORE} lacks a file of {GOLDEN.path} (revision 0e65e50e3e15): {PUSH}",
        ),
        (
            f"ERROR: failed to transfer '{MODEL.md5}' - Expected checksum MJjFoA== did not match calculated checksum",
            f"{MODEL.path} {DAMAGED} {OBJECT} and {PUSH}",
        ),
        (
            "ERROR: unexpected error - Expected checksum mfZuDw== did not match calculated checksum: bjoyAQ==",
            f"{GOLDEN.path} {DAMAGED} s3://weights/dvc/{object_path(GOLDEN.md5)} and {PUSH}",
        ),
        (
            f"ERROR: unexpected error - object {GOLDEN.md5} is corrupted: Expecting value: line 1 column 73 (char 72)",
            f"{GOLDEN.path} {DAMAGED} s3://weights/dvc/{object_path(GOLDEN.md5)} and {PUSH}",
        ),
        (
            "ERROR: failed to connect to s3 (weights/dvc/files/md5) - Could not connect to the endpoint URL\n"
            "ERROR: failed to pull data from the cloud - 3 files failed to download",
            f"cannot pull from {STORE} (failed to connect to s3 (weights/dvc/files/md5) - Could not connect to the "
            f"endpoint URL): {NO_ANSWER}",
        ),
        (
            f"ERROR: failed to transfer '{MODEL.md5}' - Read timeout on endpoint URL: http://store:7070/",
            f"cannot pull from {STORE} (failed to transfer '{MODEL.md5}' - Read timeout on endpoint URL: "
            f"http://store:7070/): {NO_ANSWER}",
        ),
        (
            "ERROR: unexpected error - [Errno 28] No space left on device: '/models/x'",
            f"cannot pull from {STORE} (unexpected error - [Errno 28] No space left on device: '/models/x'): "
            "the volume is full: raise weights.volumeSize",
        ),
        (
            "a new sentence of DVC's\nand more",
            f"cannot pull from {STORE} (a new sentence of DVC's): look at the store, at weights.remote.url and "
            "weights.remote.endpointUrl",
        ),
        (
            "",
            f"cannot pull from {STORE} (no output): look at the store, at weights.remote.url and "
            "weights.remote.endpointUrl",
        ),
    ],
)
def test_what_dvc_says_becomes_one_sentence(tmp_path: Path, output: str, sentence: str) -> None:
    assert STORE.explain(output, RELEASE, tmp_path) == sentence


def test_a_file_of_a_folder_is_named_when_its_listing_came(tmp_path: Path) -> None:
    listing = tmp_path / object_path(GOLDEN.md5)
    listing.parent.mkdir(parents=True)
    listing.write_bytes(LISTING)
    said = STORE.explain(f"{MISSING}{ANSWER}\nERROR: failed to pull", RELEASE, tmp_path)
    assert said.startswith(f"{STORE} lacks {GOLDEN.path}/response.json (")


def test_four_names_are_three_and_a_count() -> None:
    assert module.some(["a", "b", "c"]) == "a, b, c"
    assert module.some(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


@pytest.mark.parametrize(
    "end",
    [
        ",b",
        " #1",
        "; b",
        '"b"',
        "it's",
        """ 'a' "b" """,
        "%20",
        "100%",
        "%%",
        "$b",
        "[b]",
        "= b",
        "\\b",
        "é日",
        "\tb",
    ],
)
def test_dvc_reads_every_setting_of_a_remote_as_it_is(end: str, tmp_path: Path) -> None:
    store = Store(f"s3://weights/dvc{end}", f"http://127.0.0.1:9/{end}", f"region{end}")
    store.write_config(tmp_path / "config", "weights", {"core": {"remote": "weights"}})
    read = Config(dvc_dir=str(tmp_path), validate=False)
    assert read["core"]["remote"] == "weights"
    assert read["remote"]["weights"] == store.remote()


@pytest.mark.parametrize("end", ["%(user)s", "%(url)s", "{b}", "b}"])
def test_an_address_that_dvc_would_read_as_another_is_refused(end: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"DVC cannot be told of .* use an address without braces and '%\('"):
        Store(f"s3://weights/{end}").write_config(tmp_path / "config", "weights", {})
