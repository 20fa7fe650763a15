"""`slipway push`, `slipway release`, and what the cluster makes of them: the weights that were built are served."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from serving import EmbeddedTriton, verified_models
from serving._lock import Release, folder_md5, md5, object_path
from tests.support import BIN, ROOT, answering, environment, error_lines, free_ports, slipway, write_manifest

MODEL, GOLDEN = "model_repository/digits_fp32/1/model.onnx", "model_repository/digits_fp32/golden"
SERVED = ["digits", "digits_fp16", "digits_fp32", "digits_int8"]
# One golden request for all; of each: what it serves (INT8: two forms), its manifest, its golden answer and a listing.
OBJECTS = 1 + 4 * len(SERVED) + 1


def run(workspace: Path, *command: str) -> str:
    result = subprocess.run(command, cwd=workspace, env=environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
    return result.stdout


@pytest.fixture
def remote(workspace: Path) -> Path:
    """The default DVC remote of the workspace: an empty folder."""
    folder = workspace.parent / "remote"
    run(workspace, f"{BIN}/dvc", "remote", "add", "--default", "store", str(folder))
    return folder


def pushed(workspace: Path) -> str:
    """What a push that went well says that it sent."""
    result = slipway(workspace, "push")
    assert result.returncode == 0, result.stderr
    assert error_lines(result) == []
    start, _, sent = result.stdout.strip().partition(": ")
    assert start == f"pushed revision {Release.read(workspace / 'dvc.lock').revision[:12]} ({', '.join(SERVED)})"
    return sent


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that failed."""
    (line,) = error_lines(result)
    assert (result.returncode, result.stdout) == (1, "")
    return line.removeprefix("error: ")


def stored(workspace: Path, remote: Path, path: str) -> Path:
    """The object of a file or folder in the remote."""
    content = workspace / path
    return remote / object_path(folder_md5(content) if content.is_dir() else md5(content))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def weights_image(workspace: Path, image: Path) -> Path:
    """What serving/weights.Dockerfile and .dockerignore put into the image: the git half and dvc.lock."""
    ignored = shutil.ignore_patterns("golden", "manifest.json", "*.onnx", "ensemble.txt", ".gitignore")
    shutil.copytree(workspace / "model_repository", image / "model_repository", ignore=ignored)
    for name in ("dvc.yaml", "dvc.lock", ".dvcignore"):
        shutil.copy(workspace / name, image / name)
    return image


def test_a_release_is_what_dvc_wrote_of_what_was_built(built_workspace: Path) -> None:
    release = Release.read(built_workspace / "dvc.lock")
    assert release.revision == run(built_workspace, "sha256sum", "dvc.lock").split()[0]
    assert sorted(release.stages) == ["fp16@digits", "int8@digits", "repository@digits"]
    assert release.models == SERVED
    written = {output.path: output for output in release.outputs}
    assert folder_md5(built_workspace / GOLDEN) == written[GOLDEN].md5
    assert md5(built_workspace / MODEL) == written[MODEL].md5


def test_what_is_pushed_is_pulled_by_the_release_and_is_what_was_built(workspace: Path, remote: Path) -> None:
    assert pushed(workspace) == f"sent {OBJECTS} objects"
    revision = yaml.safe_load(run(workspace, f"{BIN}/slipway", "release"))["weights"]["revision"]
    image, volume = weights_image(workspace, workspace.parent / "image"), workspace.parent / "volume"
    command = [sys.executable, "-m", "serving.weights", "--workspace", str(image), "--target", str(volume)]
    run(ROOT, *command, "--remote-url", str(remote), "--revision", revision)
    assert [path.name for path in volume.iterdir()] == [revision]
    assert [model.name for model in verified_models(volume / revision)] == SERVED
    built = contents(workspace / "model_repository")
    ours = {name: data for name, data in built.items() if not name.endswith(".gitignore")}
    assert contents(volume / revision) == ours


def test_what_is_there_is_not_sent_again_and_what_is_not_whole_is(workspace: Path, remote: Path) -> None:
    assert pushed(workspace) == f"sent {OBJECTS} objects"
    before = contents(remote)
    assert pushed(workspace) == "everything was there already"
    listing = stored(workspace, remote, GOLDEN)
    # DVC sends a file of a folder only together with its listing; the golden request is in each model's folder.
    damages: list[tuple[str, int, Callable[[Path], None]]] = [
        (MODEL, 1, lambda path: path.unlink()),
        (f"{GOLDEN}/request.json", 1 + len(SERVED), lambda path: path.unlink()),
        (GOLDEN, 1, lambda path: path.unlink()),
        (f"{GOLDEN}/response.json", 2, lambda path: cut_short(path)),
    ]
    for path, sent, damage in damages:
        damage(stored(workspace, remote, path))
        assert pushed(workspace) == f"sent {sent} objects"
        assert contents(remote) == before
    listing.chmod(0o644)
    listing.write_text(listing.read_text().replace("request.json", "requesT.json"))
    assert pushed(workspace) == "sent 1 objects"
    assert contents(remote) == before


def cut_short(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    path.chmod(0o444)


def test_weights_that_dvc_has_not_in_its_cache_or_not_whole_are_sent_as_they_were_built(
    workspace: Path, remote: Path
) -> None:
    lock = (workspace / "dvc.lock").read_bytes()
    shutil.rmtree(workspace / ".dvc" / "cache")
    assert pushed(workspace) == f"sent {OBJECTS} objects"
    whole = contents(remote)
    assert hashlib.md5(stored(workspace, remote, MODEL).read_bytes()).hexdigest() == md5(workspace / MODEL)
    cached = stored(workspace, workspace / ".dvc" / "cache", MODEL)
    cached.chmod(0o644)
    cached.unlink()
    cached.write_bytes(b"something else")
    cached.chmod(0o444)
    shutil.rmtree(remote)
    assert pushed(workspace) == f"sent {OBJECTS} objects"
    assert contents(remote) == whole
    assert (workspace / "dvc.lock").read_bytes() == lock


def test_a_remote_that_is_not_there_or_not_configured_is_one_line(workspace: Path) -> None:
    remedy = (
        "run `dvc remote add --default NAME s3://bucket/prefix`, and for a store other than Amazon's `dvc remote "
        "modify NAME endpointurl URL`"
    )
    assert refused(slipway(workspace, "push")) == f"no DVC remote is configured: {remedy}"
    assert refused(slipway(workspace, "push", "--remote", "nope")) == f"no DVC remote is named nope: {remedy}"
    (workspace / "file").touch()
    run(workspace, f"{BIN}/dvc", "remote", "add", "file", "file")
    line = refused(slipway(workspace, "push", "--remote", "file"))
    assert line.startswith(f"cannot push to {workspace}/file (NotADirectoryError: ")


def test_a_store_that_is_away_or_asks_for_credentials_is_one_line(workspace: Path) -> None:
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    run(workspace, f"{BIN}/dvc", "remote", "add", "--default", "store", "s3://weights/dvc")
    run(workspace, f"{BIN}/dvc", "remote", "modify", "store", "endpointurl", address)
    absent = {"AWS_SHARED_CREDENTIALS_FILE": "/absent", "AWS_CONFIG_FILE": "/absent"}
    settings = {**absent, "AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1"}
    start = f"cannot push to s3://weights/dvc at {address} ("
    line = refused(push_with(workspace, **settings))
    assert line == (
        f"{start}NoCredentialsError: Unable to locate credentials): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )
    line = refused(push_with(workspace, **settings, AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret"))
    assert line.startswith(f"{start}ConnectionRefusedError: ")
    assert line.endswith(
        "look at the store, and at its address and settings with `dvc remote list` and `dvc remote modify`"
    )


def push_with(workspace: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [f"{BIN}/slipway", "push"],
        cwd=workspace,
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )


def by_hand(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b"\n")


def test_what_is_not_what_the_lock_names_is_neither_pushed_nor_released(workspace: Path, remote: Path) -> None:
    expected = (
        "is not the file that dvc.lock names: run `slipway build digits`, or "
        "take back the change, with `git checkout` of a configuration, `dvc checkout` of anything else"
    )
    by_hand(workspace / "model_repository" / "digits_fp32" / "config.pbtxt")
    assert refused(slipway(workspace, "release")) == f"model_repository/digits_fp32/config.pbtxt {expected}"
    by_hand(workspace / MODEL)
    assert refused(slipway(workspace, "push")) == f"{MODEL} {expected}"
    (workspace / MODEL).unlink()
    run(workspace, f"{BIN}/dvc", "checkout", "--force", MODEL)
    by_hand(workspace / GOLDEN / "response.json")
    assert refused(slipway(workspace, "push")).startswith("model_repository/digits_fp32/config.pbtxt ")
    assert not remote.exists()


def test_nothing_built_is_neither_pushed_nor_released(workspace: Path, remote: Path) -> None:
    (workspace / MODEL).unlink()
    remedy = "run `slipway build digits`, or `dvc pull` its stage (`dvc stage list`)"
    assert refused(slipway(workspace, "push")) == f"{MODEL} is not here: {remedy}"
    (workspace / "dvc.lock").unlink()
    absent = f"{workspace}/dvc.lock does not exist: build a model first, with `slipway build MODEL`"
    assert refused(slipway(workspace, "push")) == absent
    assert refused(slipway(workspace, "release")) == absent
    assert not remote.exists()


def test_a_release_is_the_revision_in_quotation_marks_and_the_commit_that_has_it(workspace: Path) -> None:
    revision = run(workspace, "sha256sum", "dvc.lock").split()[0]
    built_at = run(workspace, "git", "rev-parse", "HEAD").strip()
    printed = run(workspace, f"{BIN}/slipway", "release")
    assert yaml.safe_load(printed) == {"weights": {"revision": revision}}
    assert f'revision: "{revision}"' in printed
    assert printed.startswith(
        f"# {', '.join(SERVED)}; commit {built_at}, which has another dvc.lock or model_repository/: commit them\n"
    )
    run(workspace, "git", "add", "-A")
    run(workspace, "git", "-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", "built")
    commit = run(workspace, "git", "rev-parse", "HEAD").strip()
    assert run(workspace, f"{BIN}/slipway", "release").startswith(f"# {', '.join(SERVED)}; commit {commit}\n")
    # A clone that only deploys has no weights.
    for name in (MODEL, "model_repository/digits_fp32/manifest.json"):
        (workspace / name).unlink()
    assert yaml.safe_load(run(workspace, f"{BIN}/slipway", "release"))["weights"]["revision"] == revision


def ask(url: str, repository: Path) -> subprocess.CompletedProcess[str]:
    """What `helm test` runs in the cluster."""
    command = [sys.executable, "-m", "serving.ask", "--http-url", url, str(repository)]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)


def test_asking_names_each_model_that_gives_its_golden_answer(server: EmbeddedTriton, built_workspace: Path) -> None:
    for url in (server.options.http_url, f"{server.options.http_url}/"):
        result = ask(url, built_workspace / "model_repository")
        assert (result.returncode, result.stderr) == (0, "")
        expected = "".join(rf"{name}: the golden answer, within \d\S*\n" for name in SERVED)
        assert re.fullmatch(expected, result.stdout)


def test_asking_names_the_model_that_gives_another_answer(server: EmbeddedTriton, workspace: Path) -> None:
    path = workspace / GOLDEN / "response.json"
    content = json.loads(path.read_text())
    content["outputs"][0]["data"][0] += 0.5
    path.chmod(0o644)
    path.write_text(json.dumps(content))
    write_manifest(workspace / "model_repository" / "digits_fp32")
    result = ask(server.options.http_url, workspace / "model_repository")
    assert (result.returncode, result.stderr) == (1, "")
    (failed,) = [line for line in result.stdout.splitlines() if "the golden answer, within" not in line]
    expected = f"digits_fp32: failed at {server.options.http_url}: 'probabilities' is off by 0.5, allowed 0.0001"
    assert (failed, len(result.stdout.splitlines())) == (expected, len(SERVED))


def test_asking_a_server_that_is_away_or_is_no_triton_is_one_line(built_workspace: Path, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    result = ask(f"http://127.0.0.1:{port}", built_workspace / "model_repository")
    assert (result.returncode, result.stderr) == (1, "")
    starts = [f"{name}: failed at http://127.0.0.1:{port}: no answer: " for name in SERVED]
    assert all(starting(result.stdout.splitlines(), starts))
    for body in (b"[]", b'{"outputs": [{"name": "probabilities"}]}', b"<html>"):
        with answering(body) as url:
            result = ask(url, built_workspace / "model_repository")
        assert (result.returncode, result.stderr) == (1, "")
        starts = [f"{name}: failed at {url}: " for name in SERVED]
        assert all(starting(result.stdout.splitlines(), starts))
    assert "is empty" in refused(ask(url, tmp_path))


def starting(lines: list[str], starts: list[str]) -> list[bool]:
    """Whether each line begins as it should."""
    return [line.startswith(start) for line, start in zip(lines, starts, strict=True)]
