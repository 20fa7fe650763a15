"""What a user has before `helm install`: two trained revisions, their images, an object store with the weights."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.cluster import (
    MONITORING,
    NAMESPACE,
    Cluster,
    current_context,
    find_tool,
    load_images,
    port_forward,
    refusal,
    run,
    wait_until,
)
from tests.support import BIN, ROOT, make_workspace

EVIDENCE = ROOT / "build" / "e2e"
DEPLOYABLE = (".dockerignore", "charts", "client", "k8s", "loadtest", "requirements.lock", "skaffold.yaml")
RELEASE = "slipway-e2e"
REMOTE = "s3://slipway-weights/dvc"


@dataclass
class Revision:
    """A workspace in which a model was trained, and what of it goes to the cluster.

    Attributes:
        workspace: the folder.
        name: sha256 of its dvc.lock.
    """

    workspace: Path
    name: str

    @property
    def values(self) -> Path:
        """Helm values that pin revision and images, as `slipway release` prints them."""
        return self.workspace / "release.yaml"

    def image(self, part: str) -> dict[str, str]:
        """An image of these values: repository, tag, digest."""
        found: dict[str, str] = yaml.safe_load(self.values.read_text())[part]["image"]
        return found

    @property
    def model(self) -> Path:
        """The folder of the model's public name, which is routed to one of its variants."""
        return self.workspace / "model_repository" / "digits"

    @property
    def fp32(self) -> Path:
        """The folder of the variant as it was trained."""
        return self.workspace / "model_repository" / "digits_fp32"

    @property
    def model_sha256(self) -> str:
        """Hash of that variant's ONNX file, from the manifest."""
        content: dict[str, Any] = json.loads((self.fp32 / "manifest.json").read_text())
        return str(content["files"]["1/model.onnx"]["sha256"])


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, emptied of what earlier tests left; everything is taken away at the end."""
    context = current_context()
    if reason := refusal(context, os.environ, find_tool):
        pytest.exit(f"error: {reason}", returncode=2)
    shutil.rmtree(EVIDENCE, ignore_errors=True)
    made = Cluster(str(context))
    made.delete_namespaces(NAMESPACE, MONITORING)
    yield made
    run("kubectl", "delete", "-k", "k8s/monitoring", "--ignore-not-found", "--wait=false", cwd=ROOT)
    made.delete_namespaces(NAMESPACE, MONITORING)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whichever test comes first trains two models and builds the images."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(2400))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """On failure keep what the cluster says, in build/e2e/<test>/."""
    report = yield
    if report.failed and isinstance(item, pytest.Function) and "cluster" in item.funcargs:
        folder = EVIDENCE / re.sub(r"\W+", "-", item.name)
        cluster: Any = item.funcargs["cluster"]
        kept = f"logs, events and descriptions are in {folder}"
        try:
            cluster.keep_evidence(folder)
        except Exception as error:  # noqa: BLE001 - what failed first must be what is reported
            kept += f", not all of them: {error!r}"
        report.sections.append(("cluster", kept))
    return report


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Revision:
    """The model as its configuration in git trains it."""
    workspace = make_workspace(tmp_path_factory.mktemp("first"), DEPLOYABLE)
    run(BIN / "slipway", "build", "digits", cwd=workspace)
    return released(workspace)


@pytest.fixture(scope="session")
def second(first: Revision, tmp_path_factory: pytest.TempPathFactory) -> Revision:
    """The same with another seed: another revision, another golden answer."""
    workspace = tmp_path_factory.mktemp("second") / "workspace"
    shutil.copytree(first.workspace, workspace, symlinks=True)
    run(BIN / "slipway", "build", "digits", "seed=18", cwd=workspace)
    return released(workspace)


def released(workspace: Path) -> Revision:
    """The revision that a workspace is at."""
    return Revision(workspace, yaml.safe_load(run(BIN / "slipway", "release", cwd=workspace))["weights"]["revision"])


@pytest.fixture(scope="session")
def store(cluster: Cluster, first: Revision, second: Revision) -> str:
    """Namespace, object store, and the weights of both revisions in it; the remote's URL."""
    run("kubectl", "apply", "-k", "k8s/namespace", cwd=ROOT)
    run("kubectl", "apply", "-k", "k8s/object-store", cwd=ROOT)
    run("kubectl", "-n", NAMESPACE, "rollout", "status", "deployment/object-store", "--timeout=120s", cwd=ROOT)
    for revision in (first, second):
        push(cluster, revision)
    return REMOTE


def push(cluster: Cluster, revision: Revision) -> str:
    """`slipway push` through a port-forward, as from a laptop."""
    with port_forward("object-store", 7070) as (port,):
        dvc = BIN / "dvc"
        run(dvc, "remote", "add", "--force", "--default", "cluster", REMOTE, cwd=revision.workspace)
        run(dvc, "remote", "modify", "cluster", "endpointurl", f"http://127.0.0.1:{port}", cwd=revision.workspace)
        return run(BIN / "slipway", "push", cwd=revision.workspace, env=cluster.secret("slipway-weights-s3"))


@pytest.fixture(scope="session")
def images(cluster: Cluster, first: Revision, second: Revision) -> None:
    """Every image, built and where the cluster finds it; the second revision has weights of its own."""
    build = first.workspace / "build" / "images.json"
    run("skaffold", "build", f"--file-output={build}", cwd=first.workspace, timeout=600)
    built = json.loads(build.read_text())["builds"]
    options = ("--build-image=slipway-weights", f"--file-output={build}.second")
    run("skaffold", "build", *options, cwd=second.workspace, timeout=600)
    weights = json.loads(Path(f"{build}.second").read_text())["builds"]
    others = [image for image in built if not image["imageName"].endswith("slipway-weights")]
    for revision, used in ((first, built), (second, others + weights)):
        load_images(cluster, [image["tag"] for image in used], revision.workspace)
        file = revision.workspace / "build" / "used.json"
        file.write_text(json.dumps({"builds": used}))
        revision.values.write_text(run(BIN / "slipway", "release", "--images", file, cwd=revision.workspace))


class Helm:
    """`helm` on the chart of a revision, with the development cluster's values."""

    def __init__(self, cwd: Path) -> None:
        self.cwd = cwd

    def upgrade(self, name: str, revision: Revision, *options: str, wait: bool = True) -> str:
        """`helm upgrade --install`, and its output."""
        waiting = ("--wait", "--timeout=180s") if wait else ()
        return self(
            "upgrade",
            "--install",
            name,
            "charts/slipway",
            "-f",
            "k8s/values.yaml",
            "-f",
            str(revision.values),
            *waiting,
            *options,
        )

    def __call__(self, *arguments: str, check: bool = True) -> str:
        """Any other command of Helm's, in the tests' namespace."""
        return run("helm", "-n", NAMESPACE, *arguments, cwd=self.cwd, timeout=400, check=check)


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Helm in this repository."""
    return Helm(ROOT)


@pytest.fixture
def release(cluster: Cluster, helm: Helm, first: Revision, store: str, images: None) -> str:
    """The release that serves the first revision, Ready, whatever the test before has left."""
    helm.upgrade(RELEASE, first)
    wait_until(lambda: len(cluster.servers(RELEASE)) == 1, "one pod serves")
    return RELEASE
