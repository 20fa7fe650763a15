"""templates/server/deployment.yaml: the server, its weights, its start and its end."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from tests.support import ROOT
from tests.unit.chart import rendering
from tests.unit.chart.rendering import (
    CHART,
    Object,
    at,
    container,
    environment_of,
    merged,
    mounts,
    options,
    read_values,
    refusal,
    render,
    selects,
    volumes,
)

REVISION = "0123456789abcdef" * 4
OTHER_REVISION = "fedcba9876543210" * 4


def test_the_revision_is_what_is_pulled_served_and_shown() -> None:
    release = render(at("weights.revision", REVISION))
    assert environment_of(release.weights)["SLIPWAY_REVISION"] == REVISION
    assert options(release.server)["--model-repository"] == f"/models/{REVISION}"
    assert release.pod["metadata"]["annotations"]["slipway/revision"] == REVISION


def test_another_revision_is_a_rollout_of_the_same_deployment() -> None:
    one, other = (render(at("weights.revision", it)).the("Deployment") for it in (REVISION, OTHER_REVISION))
    assert one["spec"].pop("template") != other["spec"].pop("template")
    assert one == other


def test_another_version_of_the_chart_is_no_rollout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tags = {part: {"image": {"tag": "v1"}} for part in ("weights", "server")}
    before = render(tags)
    copy = shutil.copytree(CHART, tmp_path / "chart")
    about = yaml.safe_load((copy / "Chart.yaml").read_text())
    (copy / "Chart.yaml").write_text(yaml.safe_dump({**about, "version": "99.0.0", "appVersion": "99.1.0"}))
    monkeypatch.setattr(rendering, "CHART", copy)
    after = render(tags)
    assert "99.0.0" in str(after.objects)
    assert after.pod == before.pod


def test_the_deployment_selects_its_own_pods() -> None:
    release = render()
    selector = release.the("Deployment")["spec"]["selector"]["matchLabels"]
    assert selects(selector, release.pod["metadata"]["labels"])
    assert "app.kubernetes.io/instance" in selector  # two releases in one namespace
    assert "app.kubernetes.io/version" not in selector  # it cannot be changed, and an upgrade would


def test_the_server_cannot_write_the_weights_that_the_init_container_pulls() -> None:
    release = render()
    pulled, served = mounts(release.weights)["/models"], mounts(release.server)["/models"]
    assert served["readOnly"] is True
    assert not pulled.get("readOnly", False)
    assert pulled["name"] == served["name"]
    assert [one["name"] for one in release.pod["spec"]["initContainers"]] == ["weights"]


def test_the_weights_lie_in_an_empty_dir_of_a_size() -> None:
    assert volumes(render(at("weights.volumeSize", "7Gi")).pod)["weights"] == {"emptyDir": {"sizeLimit": "7Gi"}}


def test_a_volume_takes_the_place_of_the_empty_dir() -> None:
    volume = {"persistentVolumeClaim": {"claimName": "weights"}}
    release = render({"weights": {"volume": volume}, "loadtest": {"enabled": True}})
    assert [volumes(pod)["weights"] for pod in release.pods().values()] == [volume] * 3


def test_the_init_container_gets_every_setting_of_the_remote() -> None:
    remote = {"url": "s3://a/b", "endpointUrl": "https://c:1", "region": "eu-central-1"}
    environment = environment_of(render({"weights": {"remote": remote, "timeoutSeconds": 77}}).weights)
    assert environment["SLIPWAY_REMOTE_URL"] == "s3://a/b"
    assert environment["SLIPWAY_REMOTE_ENDPOINT_URL"] == "https://c:1"
    assert environment["SLIPWAY_REMOTE_REGION"] == "eu-central-1"
    assert environment["SLIPWAY_PULL_TIMEOUT"] == "77"


def test_the_puller_reads_every_variable_that_the_chart_sets() -> None:
    settings = re.findall(r'^    add\("([a-z-]+)"', (ROOT / "serving" / "weights.py").read_text(), re.MULTILINE)
    known = {f"SLIPWAY_{name.replace('-', '_').upper()}" for name in settings}
    ours = {name for name in environment_of(render().weights) if name.startswith("SLIPWAY_")}
    assert ours
    assert ours <= known


IMAGES = {
    "weights.image": ("Deployment", "server", "weights"),
    "server.image": ("Deployment", "server", "triton"),
    "loadtest.image": ("Job", "loadtest", "locust"),
}
DIGEST = f"sha256:{'5' * 64}"


@pytest.mark.parametrize("path", IMAGES)
@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ({"repository": "a.example:5000/b/c", "tag": "v1"}, "a.example:5000/b/c:v1"),
        ({"repository": "b", "tag": ""}, f"b:{read_values(CHART / 'Chart.yaml')['appVersion']}"),
        ({"repository": "b", "tag": "v1", "digest": DIGEST}, f"b:v1@{DIGEST}"),
        ({"repository": "b", "tag": "123"}, "b:123"),
    ],
    ids=["tag", "appVersion", "digest", "digits"],
)
def test_an_image_is_its_tag_or_the_charts_version_and_its_digest(path: str, image: Object, reference: str) -> None:
    kind, component, name = IMAGES[path]
    release = render(merged(at("loadtest.enabled", True), at(path, {**image, "pullPolicy": "Always"})))
    found = container(release.the(kind, component)["spec"]["template"], name)
    assert (found["image"], found["imagePullPolicy"]) == (reference, "Always")


@pytest.mark.parametrize(("probe", "path"), [("startup", "ready"), ("readiness", "ready"), ("liveness", "live")])
def test_a_pod_gets_requests_when_its_models_are_ready_and_is_restarted_when_the_server_is_dead(
    probe: str, path: str
) -> None:
    server = render().server
    assert server[f"{probe}Probe"]["httpGet"] == {"path": f"/v2/health/{path}", "port": "http"}
    assert {"name": "http", "containerPort": 8000} in server["ports"]


@pytest.mark.parametrize("seconds", [1, 2, 3, 300, 301, 86400])
def test_loading_may_take_startup_seconds(seconds: int) -> None:
    probe = render(at("server.startupSeconds", seconds)).server["startupProbe"]
    budget = probe["failureThreshold"] * probe["periodSeconds"] + probe.get("initialDelaySeconds", 0)
    assert seconds <= budget < seconds + probe["periodSeconds"]


def test_a_rollout_has_not_failed_while_its_weights_may_still_come() -> None:
    for seconds in ({}, {"weights": {"timeoutSeconds": 3000}, "server": {"startupSeconds": 2000}}):
        release = render(seconds)
        pull = float(environment_of(release.weights)["SLIPWAY_PULL_TIMEOUT"])
        probe = release.server["startupProbe"]
        deadline = release.the("Deployment")["spec"].get("progressDeadlineSeconds", 600)  # Kubernetes' default
        assert deadline > pull + probe["failureThreshold"] * probe["periodSeconds"]


def test_a_drain_budget_that_does_not_add_up_is_refused_in_one_sentence() -> None:
    times = {"preStopSeconds": 7, "exitTimeoutSeconds": 20, "terminationGracePeriodSeconds": 31}
    with pytest.raises(helm_python.HelmRenderError) as refused:
        render({"server": times})
    assert str(refused.value).partition("\n")[2] == (
        "server.terminationGracePeriodSeconds is 31 and must be at least 32 (preStopSeconds + exitTimeoutSeconds + 5): "
        "Kubernetes would kill a pod that still answers"
    )


def test_a_pod_stops_taking_requests_then_answers_those_it_has_then_ends() -> None:
    times = {"preStopSeconds": 7, "exitTimeoutSeconds": 20, "terminationGracePeriodSeconds": 32}
    release = render({"server": times})
    assert release.server["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "7"]
    assert options(release.server)["--exit-timeout-secs"] == "20"
    assert release.pod["spec"]["terminationGracePeriodSeconds"] == 32


@pytest.mark.parametrize(("strategy", "surge", "unavailable"), [("surge", 1, 0), ("inPlace", 0, 1)])
def test_an_upgrade_starts_before_it_ends_or_ends_before_it_starts(strategy: str, surge: int, unavailable: int) -> None:
    found = render(at("server.strategy", strategy)).the("Deployment")["spec"]["strategy"]
    assert found == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}


def test_by_default_no_pod_goes_before_its_successor_is_ready() -> None:
    assert render().the("Deployment")["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


@pytest.mark.parametrize("replicas", [0, 3])
def test_the_deployment_has_as_many_replicas_as_asked(replicas: int) -> None:
    assert render(at("server.replicas", replicas)).the("Deployment")["spec"]["replicas"] == replicas


@pytest.mark.parametrize("gpu", [False, True])
def test_the_images_entry_point_starts_the_server(gpu: bool) -> None:
    """NVIDIA's looks at the driver first, and runs the arguments that it is given."""
    server = render(at("gpu.enabled", gpu)).server
    assert "command" not in server
    assert server["args"][0] == "tritonserver"


def test_further_arguments_and_variables_come_after_the_charts_own() -> None:
    extra = ["--log-verbose=1", "--backend-config=a: b # c"]
    variables = [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]
    server = render({"server": {"extraArgs": extra, "extraEnv": variables}}).server
    assert server["args"][-2:] == extra
    assert server["env"] == variables


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("priorityClassName", "high"),
        ("affinity", {"nodeAffinity": {}}),
        ("topologySpreadConstraints", [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]),
        ("nodeSelector", {"arch": "amd64"}),
        ("tolerations", [{"key": "dedicated", "operator": "Exists"}]),
    ],
)
def test_where_a_pod_runs_is_up_to_the_user(key: str, value: Any) -> None:
    assert key not in render().pod["spec"]
    assert render(at(f"server.{key}", value)).pod["spec"][key] == value


def test_resources_and_shared_memory_are_those_asked_for() -> None:
    resources = {"requests": {"cpu": "3", "memory": "5Gi"}, "limits": {"memory": "6Gi"}}
    release = render({"server": {"resources": resources, "sharedMemory": "2Gi"}})
    assert release.server["resources"] == resources
    assert volumes(release.pod)["shm"] == {"emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}}
    assert mounts(release.server)["/dev/shm"] == {"name": "shm", "mountPath": "/dev/shm"}


def test_annotations_and_labels_of_the_user_are_beside_the_charts() -> None:
    mine = {"podAnnotations": {"team": "vision"}, "podLabels": {"cost": "42"}}
    one, other = render().pod["metadata"], render({"server": mine}).pod["metadata"]
    assert other["annotations"] == {**one["annotations"], "team": "vision"}
    assert other["labels"] == {**one["labels"], "cost": "42"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("server.podLabels", {"app.kubernetes.io/component": "x"}),
        ("server.podLabels", {"app.kubernetes.io/instance": "x"}),
        ("server.podLabels", {"app.kubernetes.io/name": "x"}),
        ("server.podAnnotations", {"slipway/revision": "x"}),
        ("server.podAnnotations", {"kubectl.kubernetes.io/default-container": "x"}),
    ],
)
def test_what_the_chart_itself_says_of_a_pod_is_kept_or_another_word_is_refused(path: str, value: Object) -> None:
    if refused := refusal(at(path, value)):
        assert path in refused
    else:
        assert render(at(path, value)).pod["metadata"] == render().pod["metadata"]
