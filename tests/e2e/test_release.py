"""A release as its user meets it: it answers, it is tested, counted, driven, and gone without a trace."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from kubernetes.client import V1Pod
from kubernetes.client.exceptions import ApiException
from slipway_client import Client

from loadtest._golden import Golden
from serving import EmbeddedTriton, ServerOptions, find_interpreter
from tests.e2e.cluster import MONITORING, NAMESPACE, Cluster, port_forward, run, wait_until
from tests.e2e.conftest import Helm, Revision
from tests.support import BIN, ROOT, free_ports

SERVED = ("digits", "digits_fp16", "digits_fp32", "digits_int8")


def ask(service: str, scheme: str, inputs: Any, model: str = "digits") -> Any:
    """The probabilities that a release gives for images."""
    remote = 8000 if scheme == "http" else 8001
    with port_forward(service, remote) as (port,), Client(f"{scheme}://127.0.0.1:{port}") as client:
        return client.model(model).infer(inputs)["probabilities"]


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_release_gives_the_golden_answer_and_that_of_the_embedded_server(
    release: str, first: Revision, scheme: str, tmp_path: Path
) -> None:
    golden = Golden.read(first.model / "golden")
    images = np.random.default_rng(0).random((32, 1, 28, 28), dtype=np.float32)
    http, grpc, metrics = free_ports()
    options = ServerOptions(first.model.parent, http_port=http, grpc_port=grpc, metrics_port=metrics)
    with EmbeddedTriton(find_interpreter(ROOT), options, tmp_path / "triton.log") as embedded:
        embedded.wait_ready()
        with Client(options.http_url) as client:
            expected = client.model("digits").infer({"image": images})["probabilities"]
    np.testing.assert_allclose(ask(release, scheme, {"image": images}), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        ask(release, scheme, golden.inputs), golden.outputs["probabilities"], rtol=0, atol=golden.atol
    )


def test_slipway_predict_asks_the_release(release: str, first: Revision) -> None:
    sample = next((first.workspace / "build" / "digits" / "samples").glob("3*.png"))
    with port_forward(release, 8000) as (port,):
        output = run(BIN / "slipway", "predict", "digits", sample, "--url", f"http://127.0.0.1:{port}", cwd=ROOT)
    assert output.splitlines()[-1].split()[1] == "3"


def test_helm_test_compares_with_the_golden_answer_and_leaves_no_job(
    cluster: Cluster, helm: Helm, release: str
) -> None:
    output = helm("test", release)
    for model in SERVED:
        assert f"{model}: the golden answer" in output
    assert "Succeeded" in output
    assert cluster.batch.list_namespaced_job(NAMESPACE).items == []


def test_prometheus_counts_every_inference_that_was_sent(cluster: Cluster, release: str, first: Revision) -> None:
    run("kubectl", "apply", "-k", "k8s/monitoring", cwd=ROOT)
    wait_until(lambda: len(cluster.pods("prometheus=slipway", MONITORING)) > 0, "the operator makes Prometheus")
    pod = cluster.pods("prometheus=slipway", MONITORING)[0].metadata.name
    run("kubectl", "-n", MONITORING, "wait", "--for=condition=Ready", f"pod/{pod}", "--timeout=120s", cwd=ROOT)
    golden = Golden.read(first.model / "golden")
    with port_forward("prometheus-operated", 9090, namespace=MONITORING) as (port,):

        def count() -> float | None:
            answer = requests.get(
                f"http://127.0.0.1:{port}/api/v1/query",
                params={"query": f'sum(nv_inference_count{{model="digits",service="{release}"}})'},
                timeout=10,
            ).json()
            result = answer["data"]["result"]
            return float(result[0]["value"][1]) if result else None

        # Not None, and the same twice: what was asked before has been scraped.
        wait_until(lambda: count() is not None, "Prometheus scrapes the release")
        run("sleep", "6", cwd=ROOT)  # more than a scrape interval of k8s/values.yaml
        before = count() or 0.0
        with port_forward(release, 8000) as (http,), Client(f"http://127.0.0.1:{http}") as client:
            model = client.model("digits")
            for _ in range(100):
                model.infer(golden.inputs)
        wait_until(lambda: (count() or 0) >= before + 100, "Prometheus has counted 100 more", 30)
        assert count() == before + 100


def test_the_load_test_job_sends_checks_and_fails_nothing_and_restarts_no_pod(
    cluster: Cluster, helm: Helm, release: str, first: Revision
) -> None:
    uids = [pod.metadata.uid for pod in cluster.servers(release)]
    options = ("--set", "loadtest.enabled=true", "--set", "loadtest.runTime=15s", "--set", "loadtest.checkEvery=1")
    helm.upgrade(release, first, *options)
    assert [pod.metadata.uid for pod in cluster.servers(release)] == uids
    output = helm("test", release, "--filter", f"name={release}-loadtest")
    rows = re.findall(r"^(http|grpc) +digits +(\d+) +(\d+)\(", output, re.MULTILINE)
    assert {protocol for protocol, _, _ in rows} == {"http", "grpc"}
    for _, sent, failed in rows:
        assert int(sent) > 50
        assert int(failed) == 0


def test_asking_for_the_golden_answers_of_another_training_fails(
    cluster: Cluster, second: Revision, release: str
) -> None:
    service = f"http://{release}:8000"
    pod = cluster.servers(release)[0].spec
    weights = pod.init_containers[0]
    env = {one.name: one.value for one in weights.env} | {"SLIPWAY_REVISION": second.name, "SLIPWAY_HTTP_URL": service}
    container = {
        "name": "ask",
        "image": _weights_image(second),
        "command": ["sh", "-c", "python3 -m serving.weights && python3 -m serving.ask /models/*"],
        "env": [{"name": name, "value": value} for name, value in env.items()],
        "envFrom": [{"secretRef": {"name": "slipway-weights-s3"}}],
        "securityContext": cluster.core.api_client.sanitize_for_serialization(weights.security_context),
        "volumeMounts": [{"name": "models", "mountPath": "/models"}, {"name": "tmp", "mountPath": "/tmp"}],
    }
    body = {
        "metadata": {"name": "other-golden"},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": cluster.core.api_client.sanitize_for_serialization(pod.security_context),
            "containers": [container],
            "volumes": [{"name": "models", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
        },
    }
    cluster.core.create_namespaced_pod(NAMESPACE, body)

    def ended() -> bool:
        return bool(cluster.core.read_namespaced_pod("other-golden", NAMESPACE).status.phase in ("Failed", "Succeeded"))

    wait_until(ended, "the pod has asked")
    log = cluster.core.read_namespaced_pod_log("other-golden", NAMESPACE)
    phase = cluster.core.read_namespaced_pod("other-golden", NAMESPACE).status.phase
    cluster.core.delete_namespaced_pod("other-golden", NAMESPACE)
    assert phase == "Failed"
    assert "digits_fp32: failed" in log
    assert "'probabilities' is off by" in log


def _weights_image(revision: Revision) -> str:
    image = revision.image("weights")
    return f"{image['repository']}:{image['tag']}" + (f"@{image['digest']}" if image["digest"] else "")


def test_credentials_are_in_no_manifest_and_no_log(cluster: Cluster, helm: Helm, release: str) -> None:
    secret = cluster.secret("slipway-weights-s3")["AWS_SECRET_ACCESS_KEY"]
    log = "".join(
        cluster.core.read_namespaced_pod_log(pod.metadata.name, NAMESPACE, container=container)
        for pod in cluster.servers(release)
        for container in ("weights", "triton")
    )
    assert f"verified {len(SERVED)} models: {', '.join(SERVED)}" in log
    for text in (log, helm("get", "all", release)):
        assert secret not in text


def test_the_cpu_servers_image_is_at_most_650_mb_unpacked(first: Revision, images: None) -> None:
    image = first.image("server")
    reference = f"{image['repository']}:{image['tag']}"
    assert int(run("docker", "image", "inspect", "--format={{.Size}}", reference, cwd=ROOT)) <= 650e6


def test_the_namespace_refuses_a_pod_that_is_not_restricted(cluster: Cluster, release: str) -> None:
    body = V1Pod(metadata={"name": "root"}, spec={"containers": [{"name": "root", "image": "busybox"}]})
    with pytest.raises(ApiException, match="violates PodSecurity"):
        cluster.core.create_namespaced_pod(NAMESPACE, body, dry_run="All")


def test_uninstall_leaves_nothing_behind(
    cluster: Cluster, helm: Helm, first: Revision, store: str, images: None
) -> None:
    helm.upgrade("slipway-gone", first, "--set", "loadtest.enabled=true", "--set", "loadtest.runTime=5s")
    assert "Succeeded" in helm("test", "slipway-gone")
    helm("uninstall", "slipway-gone", "--wait")
    kinds = run("kubectl", "api-resources", "--namespaced", "--verbs=list,delete", "-o", "name", cwd=ROOT).split()
    listed = ",".join(kind for kind in kinds if not kind.startswith(("events", "pods.metrics")))

    def left() -> str:
        found = run("kubectl", "-n", NAMESPACE, "get", listed, "-o", "name", cwd=ROOT)
        return "\n".join(line for line in found.splitlines() if "slipway-gone" in line)

    wait_until(lambda: left() == "", "nothing carries the release's name", 60)
