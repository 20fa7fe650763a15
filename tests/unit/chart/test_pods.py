"""What holds for every pod of a release: its rights, its credentials, its volumes, its names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.chart.rendering import (
    RELEASE,
    Object,
    Rendered,
    at,
    ci_values,
    containers,
    environment_of,
    merged,
    mounts,
    read_values,
    render,
    render_only,
    volumes,
)

EVERYTHING: Object = {"loadtest": {"enabled": True}}
# https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
RESTRICTED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
NEEDS_TO_WRITE = {  # beside these nothing may be written to
    "weights": {"/models", "/tmp"},
    "triton": {"/dev/shm", "/tmp"},
    "ask": set(),
    "locust": {"/tmp"},
}


@pytest.fixture(params=ci_values(), ids=lambda path: path.name)
def release(request: pytest.FixtureRequest) -> Rendered:
    """A release with each of the chart's ci values, and the load test."""
    path: Path = request.param
    return render_only(merged(read_values(path), EVERYTHING))


def test_no_pod_is_missed(release: Rendered) -> None:
    assert len(release.pods()) == 3
    assert str(release.objects).count("'containers': [") == 3, "a kind that these tests do not look into"


def test_every_pod_meets_pod_security_restricted(release: Rendered) -> None:
    for pod in release.pods().values():
        spec, context = pod["spec"], pod["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC", "sysctls"} & {*spec, *context}
        assert {kind for volume in volumes(pod).values() for kind in volume} <= RESTRICTED_VOLUMES
        for one in containers(pod):
            allowed = {"allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities"}
            assert set(one["securityContext"]) <= allowed, "nothing of the pod's is taken back"
            assert one["securityContext"]["allowPrivilegeEscalation"] is False
            assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert not any("hostPort" in port for port in one.get("ports", []))


def test_no_pod_can_call_the_api_server(release: Rendered) -> None:
    for pod in release.pods().values():
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"].get("serviceAccountName") in (None, "puller")  # ci/everything-values.yaml names it


def test_no_pod_is_given_variables_by_the_services_beside_it(release: Rendered) -> None:
    """They would be TRITON_PORT=tcp://... where a Service is called triton."""
    assert all(pod["spec"]["enableServiceLinks"] is False for pod in release.pods().values())


def test_every_writable_path_is_a_volume(release: Rendered) -> None:
    for pod in release.pods().values():
        mounted = set()
        for one in containers(pod):
            assert one["securityContext"]["readOnlyRootFilesystem"] is True
            writable = {path for path, mount in mounts(one).items() if not mount.get("readOnly")}
            assert writable == NEEDS_TO_WRITE[one["name"]]
            mounted |= {mount["name"] for mount in mounts(one).values()}
        assert mounted == set(volumes(pod)), "a volume is missing, or nobody mounts it"


def test_no_writable_volume_is_without_a_size(release: Rendered) -> None:
    for pod in release.pods().values():
        for name in ("weights", "shm"):
            empty = volumes(pod).get(name, {}).get("emptyDir")
            assert empty is None or empty["sizeLimit"]


def test_every_container_has_resources_and_says_why_it_ended(release: Rendered) -> None:
    for pod in release.pods().values():
        for one in containers(pod):
            assert one["resources"]["limits"]["memory"]
            assert one["resources"]["requests"]["cpu"]
            assert one["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_credentials_come_from_the_secret_that_is_named(release: Rendered) -> None:
    for pod in release.pods().values():
        for one in containers(pod):
            assert not [name for name in environment_of(one) if re.search("AWS|KEY|SECRET|TOKEN|PASSWORD", name)]
            assert one["name"] == "weights" or "envFrom" not in one, "only the puller needs them"
    assert "Secret" not in {one["kind"] for one in release.objects}


def test_the_puller_of_every_pod_has_the_credentials() -> None:
    release = render({**at("weights.remote.existingSecret", "mine"), **EVERYTHING})
    found = [one.get("envFrom") for pod in release.pods().values() for one in pod["spec"]["initContainers"]]
    assert found == [[{"secretRef": {"name": "mine"}}]] * 3


def test_without_a_secret_none_is_asked_for() -> None:
    release = render({**at("weights.remote.existingSecret", ""), **EVERYTHING})
    assert "envFrom" not in str(release.objects)
    assert "secret" not in str(release.objects).lower()


def test_every_pod_pulls_its_images_with_the_secrets_that_are_named() -> None:
    secrets = [{"name": "one"}, {"name": "two"}]
    release = render({"imagePullSecrets": secrets, **EVERYTHING})
    assert [pod["spec"]["imagePullSecrets"] for pod in release.pods().values()] == [secrets] * 3
    assert not any("imagePullSecrets" in pod["spec"] for pod in render(EVERYTHING).pods().values())


def test_every_pod_pulls_the_weights_in_the_same_way() -> None:
    pullers = [pod["spec"]["initContainers"] for pod in render(EVERYTHING).pods().values()]
    assert len(pullers) == 3
    assert pullers[0] == pullers[1] == pullers[2]


LABEL = re.compile(r"^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$")
NAME = re.compile(r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")  # of a Service, the strictest


@pytest.mark.parametrize("name", ["a", "slipway", "my-slipway-2", "a" * 53, f"{'b' * 48}-{'c' * 4}", f"{'b' * 49}-c"])
def test_names_and_labels_are_valid_for_every_length_of_the_releases_name(name: str) -> None:
    release = render(EVERYTHING, name=name)
    for one in release.objects:
        assert NAME.match(one["metadata"]["name"]), one["metadata"]["name"]
        assert all(LABEL.match(value) for value in one["metadata"]["labels"].values())
    assert len({one["metadata"]["name"] for one in release.objects}) == 3  # the server's, and its two tests'


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("harbour", {}, "harbour-slipway"),
        ("slipway", {}, "slipway"),
        ("my-slipway", {}, "my-slipway"),
        ("harbour", {"nameOverride": "digits"}, "harbour-digits"),
        ("harbour", {"fullnameOverride": "digits"}, "digits"),
    ],
)
def test_the_objects_are_named_after_the_release_once(name: str, values: Object, expected: str) -> None:
    release = render({**values, **EVERYTHING}, name=name)
    names = {one["metadata"]["name"] for one in release.objects}
    assert names == {expected, f"{expected}-test", f"{expected}-loadtest"}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("123", {"fullnameOverride": "digits"}),
        (RELEASE, {"nameOverride": "1"}),
        (RELEASE, {"nameOverride": "1e3"}),
        (RELEASE, {"nameOverride": "true"}),
        (RELEASE, at("weights.remote.existingSecret", "1234")),
        (RELEASE, at("server.priorityClassName", "1234")),
    ],
)
def test_a_name_that_looks_like_a_number_stays_a_string(name: str, values: Object) -> None:
    assert list(_strings_expected(render(merged(values, EVERYTHING), name=name).objects)) == []


def _strings_expected(value: Any, path: str = "") -> list[str]:
    """Paths of what Kubernetes wants to be a string and is none."""
    if isinstance(value, list):
        return [bad for i, item in enumerate(value) for bad in _strings_expected(item, f"{path}[{i}]")]
    if isinstance(value, dict):
        return [bad for key, item in value.items() for bad in _strings_expected(item, f"{path}.{key}")]
    strings = r"\.(name|priorityClassName|value|image)$|[lL]abels\.|annotations\.|\.selector\.|\.(args|command)\["
    return [f"{path}: {value!r}"] if re.search(strings, path) and not isinstance(value, str) else []
