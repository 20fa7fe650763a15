"""`pytest tests/e2e` deletes namespaces and patches nodes: it must not begin on somebody's cluster."""

from __future__ import annotations

import pytest

from tests.e2e.cluster import refusal


def every_tool(name: str) -> str:
    return f"/usr/bin/{name}"


@pytest.mark.parametrize("context", ["kind-slipway", "minikube"])
def test_kind_and_minikube_are_disposable_and_need_no_registry(context: str) -> None:
    assert refusal(context, {}, every_tool) is None


@pytest.mark.parametrize("context", ["production", "kindly", "my-minikube"])
@pytest.mark.parametrize("declared", [{}, {"SLIPWAY_E2E_DISPOSABLE": "0"}, {"SLIPWAY_E2E_DISPOSABLE": "yes"}])
def test_any_other_cluster_is_refused_by_name_unless_it_is_declared_disposable(
    context: str, declared: dict[str, str]
) -> None:
    repository = {"SKAFFOLD_DEFAULT_REPO": "registry.example.com"}
    assert f"'{context}' is not declared disposable" in str(refusal(context, {**declared, **repository}, every_tool))
    assert refusal(context, {"SLIPWAY_E2E_DISPOSABLE": "1", **repository}, every_tool) is None


def test_a_cluster_that_pulls_needs_a_registry_to_push_to() -> None:
    assert "SKAFFOLD_DEFAULT_REPO" in str(refusal("production", {"SLIPWAY_E2E_DISPOSABLE": "1"}, every_tool))


def test_no_cluster_and_a_missing_tool_are_named() -> None:
    assert "set KUBECONFIG" in str(refusal(None, {}, every_tool))
    without_helm = {"docker": "/d", "kubectl": "/k", "skaffold": "/s"}.get
    assert "helm not on the PATH" in str(refusal("minikube", {}, without_helm))
