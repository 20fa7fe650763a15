"""templates/server/servicemonitor.yaml: what prometheus-operator scrapes."""

from __future__ import annotations

import pytest

from tests.unit.chart.rendering import NAMESPACE, at, refusal, render, selects


def test_one_value_switches_it_off() -> None:
    release = render(at("metrics.serviceMonitor.enabled", False))
    assert "monitoring.coreos.com" not in str(release.objects)
    assert {one["kind"] for one in render().objects} - {one["kind"] for one in release.objects} == {"ServiceMonitor"}


def test_it_selects_the_service_of_its_own_release() -> None:
    release = render()
    selector = release.the("ServiceMonitor")["spec"]["selector"]["matchLabels"]
    assert selects(selector, release.the("Service")["metadata"]["labels"])
    assert not selects(selector, render(name="other").the("Service")["metadata"]["labels"])


def test_it_looks_into_its_own_namespace() -> None:
    monitor = render().the("ServiceMonitor")
    assert "namespaceSelector" not in monitor["spec"]
    assert monitor["metadata"].get("namespace", NAMESPACE) == NAMESPACE


def test_it_scrapes_the_services_metrics_port() -> None:
    release = render(at("metrics.serviceMonitor.interval", "7s"))
    endpoints = release.the("ServiceMonitor")["spec"]["endpoints"]
    assert endpoints == [{"port": "metrics", "path": "/metrics", "interval": "7s"}]
    assert "metrics" in [port["name"] for port in release.the("Service")["spec"]["ports"]]


def test_labels_that_the_clusters_prometheus_selects_by_are_beside_the_charts() -> None:
    labels = {"release": "kube-prometheus-stack"}
    one = render().the("ServiceMonitor")["metadata"]["labels"]
    other = render(at("metrics.serviceMonitor.labels", labels)).the("ServiceMonitor")
    assert other["metadata"]["labels"] == {**one, **labels}
    assert "release" not in str(other["spec"])


@pytest.mark.parametrize("label", sorted(render().the("ServiceMonitor")["metadata"]["labels"]))
def test_labels_of_the_chart_are_kept_or_others_are_refused(label: str) -> None:
    values = at("metrics.serviceMonitor.labels", {label: "x"})
    if refused := refusal(values):
        assert "metrics.serviceMonitor.labels" in refused
    else:
        assert render(values).objects == render().objects
