"""templates/server/service.yaml: who reaches the server, and through which ports."""

from __future__ import annotations

import pytest

from tests.unit.chart.rendering import NAME, Object, at, component_of, render, selects

PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}


def test_the_ports_are_tritons_by_name_and_number() -> None:
    release = render()
    service = release.the("Service")
    assert {port["name"]: port["port"] for port in service["spec"]["ports"]} == PORTS
    assert {port["name"]: port["containerPort"] for port in release.server["ports"]} == PORTS


def test_every_port_leads_to_the_servers_port_of_the_same_name() -> None:
    assert all(port["targetPort"] == port["name"] for port in render().the("Service")["spec"]["ports"])


def test_proxies_are_told_that_grpc_is_http_2() -> None:
    ports = {port["name"]: port.get("appProtocol") for port in render().the("Service")["spec"]["ports"]}
    assert ports == {"http": None, "grpc": "kubernetes.io/h2c", "metrics": None}


@pytest.mark.parametrize("values", [{}, {"nameOverride": "digits"}, {"fullnameOverride": "x"}], ids=str)
def test_it_selects_the_servers_pods_and_neither_the_tests_nor_the_load(values: Object) -> None:
    release = render({**values, **at("loadtest.enabled", True)})
    selector = release.the("Service")["spec"]["selector"]
    selected = [component_of(pod) for pod in release.pods().values() if selects(selector, pod["metadata"]["labels"])]
    assert selected == ["server"]
    assert {component_of(pod) for pod in release.pods().values()} == {"server", "test", "loadtest"}


def test_it_selects_no_pod_of_another_release() -> None:
    mine, other = render(), render(name="other")
    assert not selects(mine.the("Service")["spec"]["selector"], other.pod["metadata"]["labels"])


def test_its_name_is_the_deployments() -> None:
    release = render()
    assert release.the("Service")["metadata"]["name"] == release.the("Deployment")["metadata"]["name"] == NAME


@pytest.mark.parametrize("kind", ["ClusterIP", "NodePort", "LoadBalancer"])
def test_its_type_is_the_one_asked_for(kind: str) -> None:
    assert render(at("server.service.type", kind)).the("Service")["spec"]["type"] == kind


def test_it_is_reached_from_within_the_cluster_by_default() -> None:
    assert render().the("Service")["spec"]["type"] == "ClusterIP"


def test_annotations_are_those_asked_for() -> None:
    annotations = {"example.com/internal": "true"}
    service = render(at("server.service.annotations", annotations)).the("Service")
    assert service["metadata"]["annotations"] == annotations
    assert "annotations" not in render().the("Service")["metadata"]
