"""Two trainings, two revisions: an upgrade brings the second's answers, a rollback the first's."""

from __future__ import annotations

import numpy as np

from loadtest._golden import Golden
from tests.e2e.cluster import NAMESPACE, Cluster, run
from tests.e2e.conftest import Helm, Revision
from tests.e2e.test_release import ask
from tests.support import ROOT


def assert_serves(cluster: Cluster, release: str, revision: Revision) -> None:
    """The one pod holds the revision's file and gives the revision's golden answer."""
    (pod,) = cluster.servers(release)
    path = f"/models/{revision.name}/digits_fp32/1/model.onnx"
    sha256 = run("kubectl", "-n", NAMESPACE, "exec", pod.metadata.name, "--", "sha256sum", path, cwd=ROOT)
    assert revision.model_sha256 in sha256
    assert pod.metadata.annotations["slipway/revision"] == revision.name
    for folder, atol in ((revision.fp32, 1e-5), (revision.model, None)):  # the public name: as near as its variant is
        golden = Golden.read(folder / "golden")
        answer = ask(release, "http", golden.inputs, folder.name)
        np.testing.assert_allclose(answer, golden.outputs["probabilities"], rtol=0, atol=atol or golden.atol)


def test_rollback_brings_the_first_answers_and_the_first_hash_back(
    cluster: Cluster, helm: Helm, release: str, first: Revision, second: Revision
) -> None:
    answers = [Golden.read(revision.fp32 / "golden").outputs["probabilities"] for revision in (first, second)]
    assert np.abs(answers[0] - answers[1]).max() > 1e-4
    assert first.model_sha256 != second.model_sha256
    assert_serves(cluster, release, first)
    helm.upgrade(release, second)
    assert_serves(cluster, release, second)
    helm("rollback", release, "--wait", "--timeout=180s")
    assert_serves(cluster, release, first)
