"""Locust drives the served model, checks answers, and its exit code can be trusted."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from serving import EmbeddedTriton
from tests.support import BIN, ROOT, environment, free_ports


def locust(server: EmbeddedTriton, repository: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [f"{BIN}/locust", "-f", "loadtest/", "--headless", "--csv", str(folder / "load")]
    where = ["--http-url", server.options.http_url, "--grpc-url", server.options.grpc_url]
    return subprocess.run(
        [*command, *where, "--repository", str(repository), *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "load_stats.csv").open() as file:
        return {row["Type"]: row for row in csv.DictReader(file)}


def test_both_protocols_are_driven_at_the_offered_rate_without_a_failure(
    server: EmbeddedTriton, built_workspace: Path, tmp_path: Path
) -> None:
    repository = built_workspace / "model_repository"
    result = locust(server, repository, tmp_path, "-u", "4", "-r", "4", "-t", "8s", "--rate", "10")
    assert result.returncode == 0, result.stdout + result.stderr
    for kind in ("http", "grpc"):
        row = rows(tmp_path)[kind]
        assert int(row["Failure Count"]) == 0
        # two users x 10 a second x 8 s = 160 on average, a second less until they are there; a Poisson count is within
        # 5 deviations of that
        assert 75 <= int(row["Request Count"]) <= 225


def test_one_class_drives_one_protocol(server: EmbeddedTriton, built_workspace: Path, tmp_path: Path) -> None:
    repository = built_workspace / "model_repository"
    result = locust(server, repository, tmp_path, "GrpcModelUser", "-u", "1", "-t", "5s", "--rate", "20")
    assert result.returncode == 0, result.stdout + result.stderr
    assert set(rows(tmp_path)) == {"grpc", ""}


def test_answers_other_than_the_golden_one_fail_the_run(
    server: EmbeddedTriton, built_workspace: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(built_workspace / "model_repository", repository)
    path = repository / "digits" / "golden" / "response.json"
    response = json.loads(path.read_text())
    response["outputs"][0]["data"].reverse()
    path.write_text(json.dumps(response))
    result = locust(server, repository, tmp_path, "HttpModelUser", "-u", "1", "-t", "5s", "--rate", "20")
    assert result.returncode == 1
    assert "WrongAnswerError" in result.stdout + result.stderr
    assert int(rows(tmp_path)["http"]["Failure Count"]) > 0


def test_a_run_that_sent_nothing_fails(server: EmbeddedTriton, built_workspace: Path, tmp_path: Path) -> None:
    repository = built_workspace / "model_repository"
    result = locust(server, repository, tmp_path, "-u", "1", "-t", "1s", "--rate", "0.001")
    assert result.returncode == 1
    assert "error: no request was sent over grpc: raise -u, --rate or -t" in result.stdout


def test_a_server_that_is_away_fails_the_run_and_the_process_ends(
    server: EmbeddedTriton, built_workspace: Path, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    away = ["--http-url", f"http://127.0.0.1:{port}", "--grpc-url", f"grpc://127.0.0.1:{port}"]
    command = [f"{BIN}/locust", "-f", "loadtest/", "--headless", "-u", "2", "-t", "8s", "--rate", "5", *away]
    result = subprocess.run(
        [*command, "--repository", str(built_workspace / "model_repository")],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert "no server answers at" in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nope"], "error: no golden answer in"),
        (["--rate", "0"], "error: --rate is 0.0: expected more than 0"),
    ],
)
def test_bad_options_are_one_line(
    server: EmbeddedTriton, built_workspace: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = locust(server, built_workspace / "model_repository", tmp_path, "-t", "1s", *arguments)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
