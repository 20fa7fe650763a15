"""templates/tests/: what `helm test` runs, the golden answers and the load test."""

from __future__ import annotations

import re

import pytest

from tests.support import ROOT
from tests.unit.chart.rendering import (
    NAME,
    Object,
    Rendered,
    at,
    component_of,
    container,
    environment_of,
    mounts,
    options,
    refusal,
    render,
)

REVISION = "0123456789abcdef" * 4
LOAD: Object = {"loadtest": {"enabled": True}}
SECONDS = {"h": 3600, "m": 60, "s": 1}


def _hooks(release: Rendered) -> dict[str, Object]:
    hooks = [one for one in release.objects if "helm.sh/hook" in one["metadata"].get("annotations", {})]
    return {component_of(one): one for one in hooks}


def _pod(release: Rendered, component: str) -> Object:
    return next(pod for pod in release.pods().values() if component_of(pod) == component)


def _weight(hook: Object) -> int:
    weight = hook["metadata"]["annotations"].get("helm.sh/hook-weight", "0")
    assert isinstance(weight, str)
    return int(weight)


def _deadline(hook: Object) -> int:
    return int(hook["spec"]["activeDeadlineSeconds"])


def test_helm_test_asks_for_the_golden_answers_and_drives_load_only_when_asked_to() -> None:
    assert set(_hooks(render())) == {"test"}
    assert set(_hooks(render(LOAD))) == {"test", "loadtest"}


def test_nothing_of_a_test_is_installed_with_the_release() -> None:
    release = render(LOAD)
    for one in release.objects:
        hook = one["metadata"].get("annotations", {}).get("helm.sh/hook")
        assert hook == (None if component_of(one) == "server" else "test")


def test_a_test_can_be_run_again() -> None:
    for hook in _hooks(render(LOAD)).values():
        policies = hook["metadata"]["annotations"]["helm.sh/hook-delete-policy"].split(",")
        assert "before-hook-creation" in policies


def test_a_failed_test_stays_to_be_looked_at_and_not_for_ever() -> None:
    for hook in _hooks(render(LOAD)).values():
        assert "hook-failed" not in hook["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
        assert hook["spec"]["ttlSecondsAfterFinished"] > 0


def test_helm_prints_the_log_of_a_test_that_failed() -> None:
    for hook in _hooks(render(LOAD)).values():
        policies = hook["metadata"]["annotations"]["helm.sh/hook-output-log-policy"].split(",")
        assert {"hook-succeeded", "hook-failed"} <= set(policies)


def test_the_load_comes_after_the_golden_answers() -> None:
    hooks = _hooks(render(LOAD))
    assert _weight(hooks["test"]) < _weight(hooks["loadtest"])


def test_a_test_runs_once_and_fails_at_the_first_error() -> None:
    for component in ("test", "loadtest"):
        assert _pod(render(LOAD), component)["spec"]["restartPolicy"] == "Never"
        assert _hooks(render(LOAD))[component]["spec"]["backoffLimit"] == 0


@pytest.mark.parametrize(("component", "name"), [("test", "ask"), ("loadtest", "locust")])
def test_a_test_reads_the_golden_answers_of_the_releases_revision(component: str, name: str) -> None:
    release = render({**at("weights.revision", REVISION), **LOAD})
    pod = _pod(release, component)
    one = container(pod, name)
    folder = options(one).get("--repository", one["args"][-1])
    assert folder == f"/models/{REVISION}"
    assert mounts(one)["/models"]["readOnly"] is True
    assert mounts(one)["/models"]["name"] == mounts(container(pod, "weights"))["/models"]["name"]
    assert environment_of(container(pod, "weights"))["SLIPWAY_REVISION"] == REVISION


@pytest.mark.parametrize("values", [{}, {"fullnameOverride": "x"}, {"nameOverride": "digits"}], ids=str)
def test_a_test_asks_the_releases_service(values: Object) -> None:
    release = render({**values, **LOAD})
    service = release.the("Service")
    ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
    http = f"http://{service['metadata']['name']}:{ports['http']}"
    grpc = f"grpc://{service['metadata']['name']}:{ports['grpc']}"
    assert options(container(_pod(release, "test"), "ask"))["--http-url"] == http
    asked = options(container(_pod(release, "loadtest"), "locust"))
    assert (asked["--http-url"], asked["--grpc-url"]) == (http, grpc)


def test_the_golden_answers_are_asked_for_by_the_image_that_carries_the_weights() -> None:
    one = container(_pod(render(at("weights.image.tag", "v7")), "test"), "ask")
    assert one["image"] == "slipway-weights:v7"
    assert one["command"] == ["python3", "-m", "serving.ask"]
    known = re.findall(r'"(--[a-z-]+)"', (ROOT / "serving" / "ask.py").read_text())
    assert set(options(one)) <= set(known)


def test_the_load_is_the_one_asked_for() -> None:
    load = {"enabled": True, "model": "bert", "users": 3, "rate": 0.25, "runTime": "1m30s", "checkEvery": 5}
    asked = options(container(_pod(render({"loadtest": load}), "loadtest"), "locust"))
    expected = {"--model": "bert", "--users": "3", "--rate": "0.25", "--run-time": "1m30s", "--check-every": "5"}
    assert asked.items() >= expected.items()


@pytest.mark.parametrize("key", ["users", "checkEvery"])
def test_a_large_number_stays_one_that_locust_reads(key: str) -> None:
    asked = options(container(_pod(render({"loadtest": {"enabled": True, key: 2_000_000}}), "loadtest"), "locust"))
    assert asked[{"users": "--users", "checkEvery": "--check-every"}[key]] == "2000000"


def test_locust_knows_every_option_of_the_load_test() -> None:
    asked = set(options(container(_pod(render(LOAD), "loadtest"), "locust")))
    ours = set(re.findall(r'add_argument\("(--[a-z-]+)"', (ROOT / "loadtest" / "locustfile.py").read_text()))
    assert asked - ours == {"--users", "--run-time", "--only-summary"}  # Locust's own
    assert asked & ours == {"--model", "--rate", "--check-every", "--http-url", "--grpc-url", "--repository"}


def test_the_load_tests_resources_are_its_own() -> None:
    resources = {"requests": {"cpu": "2", "memory": "256Mi"}, "limits": {"memory": "3Gi"}}
    release = render({"loadtest": {"enabled": True, "resources": resources}})
    assert container(_pod(release, "loadtest"), "locust")["resources"] == resources
    assert release.server["resources"] != resources


@pytest.mark.parametrize(("run_time", "pull"), [("30s", 600), ("2h", 600), ("1h30m08s", 600), ("30s", 7200)])
def test_no_test_is_killed_within_the_time_that_its_values_give_it(run_time: str, pull: int) -> None:
    run = sum(int(count) * SECONDS[unit] for count, unit in re.findall(r"(\d+)([hms])", run_time))
    values = {"loadtest": {"enabled": True, "runTime": run_time}, "weights": {"timeoutSeconds": pull}}
    if refused := refusal(values):
        assert re.search("loadtest.runTime|weights.timeoutSeconds", refused)
    else:
        hooks = _hooks(render(values))
        assert _deadline(hooks["loadtest"]) >= run + pull
        assert _deadline(hooks["test"]) >= pull


def test_tests_are_named_after_what_they_do() -> None:
    names = {component: hook["metadata"]["name"] for component, hook in _hooks(render(LOAD)).items()}
    assert names == {"test": f"{NAME}-test", "loadtest": f"{NAME}-loadtest"}
