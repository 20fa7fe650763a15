"""`skaffold run`, `verify`, `dev` and `delete`, in a workspace of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.e2e.cluster import NAMESPACE, Cluster, current_context, is_ready, run, wait_until
from tests.e2e.conftest import Helm, Revision
from tests.support import environment

RELEASE = "slipway"


@pytest.fixture
def workspace(cluster: Cluster, helm: Helm, first: Revision, store: str, images: None) -> Iterator[Path]:
    """The first revision's workspace; the release that skaffold makes is gone before and after."""
    helm("uninstall", RELEASE, "--wait", "--ignore-not-found")
    yield first.workspace
    helm("uninstall", RELEASE, "--wait", "--ignore-not-found")


def test_skaffold_run_verify_and_delete(cluster: Cluster, helm: Helm, workspace: Path) -> None:
    run("skaffold", "run", cwd=workspace, timeout=400)
    assert [is_ready(pod) for pod in cluster.servers(RELEASE)] == [True]
    run("skaffold", "build", "--file-output=build/skaffold.json", cwd=workspace)
    assert "digits: the golden answer" in run("skaffold", "verify", "-a", "build/skaffold.json", cwd=workspace)
    run("skaffold", "delete", cwd=workspace)
    wait_until(lambda: cluster.servers(RELEASE) == [], "the pods are gone")
    assert RELEASE not in helm("list", "--short").split()


def test_skaffold_dev_deploys_an_edit_and_cleans_up_at_ctrl_c(
    cluster: Cluster, helm: Helm, workspace: Path, tmp_path: Path
) -> None:
    log = tmp_path / "skaffold.log"
    source = workspace / "serving" / "backends" / "onnxruntime" / "model.py"
    before = source.read_text()
    with log.open("w") as file:
        process = subprocess.Popen(
            ["skaffold", "dev", "--port-forward=user", f"--kube-context={current_context()}"],
            cwd=workspace,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deployed = wait_until(lambda: ready_image(cluster), "skaffold dev deploys", 240)
        forwarded = r"remote port 8000 -> http://127\.0\.0\.1:(\d+)"
        port = wait_until(lambda: re.search(forwarded, log.read_text()), "skaffold forwards the HTTP port")[1]
        assert requests.get(f"http://127.0.0.1:{port}/v2/models/digits/ready", timeout=10).status_code == 200
        wait_until(lambda: "Watching for changes" in log.read_text(), "skaffold watches")
        source.write_text(before + "\n# an edit\n")
        wait_until(lambda: ready_image(cluster) not in (None, deployed), "the edit is deployed", 240)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0, log.read_text()[-3000:]
    finally:
        source.write_text(before)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        print(log.read_text()[-5000:])
    wait_until(lambda: cluster.servers(RELEASE) == [], "the pods are gone")
    assert RELEASE not in helm("list", "--short").split()
    assert (
        cluster.apps.list_namespaced_deployment(NAMESPACE, label_selector=f"app.kubernetes.io/instance={RELEASE}").items
        == []
    )


def ready_image(cluster: Cluster) -> str | None:
    """Image of the newest server, once that is Ready and alone."""
    pods = cluster.servers(RELEASE)
    return str(pods[0].spec.containers[0].image) if len(pods) == 1 and is_ready(pods[0]) else None
