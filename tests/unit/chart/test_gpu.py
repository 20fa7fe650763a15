"""gpu.enabled in templates/server/deployment.yaml: one value switches the image, the configuration and the node."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.chart.rendering import Object, at, options, render

GPU: Object = {"gpu": {"enabled": True}}
TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


def test_without_gpus_nothing_asks_for_one() -> None:
    release = render({"gpu": {"count": 3, "image": {"repository": "nvidia"}}})
    assert "nvidia" not in str(release.objects)
    assert release.server["image"].startswith("slipway-cpu:")


@pytest.mark.parametrize(("gpu", "expected"), [(False, "cpu"), (True, None)])
def test_models_are_configured_for_cpus_only_without_gpus(gpu: bool, expected: str | None) -> None:
    assert options(render(at("gpu.enabled", gpu)).server).get("--model-config-name") == expected


@pytest.mark.parametrize(("gpu", "expected"), [(False, "false"), (True, None)])
def test_gpu_metrics_are_off_only_without_gpus(gpu: bool, expected: str | None) -> None:
    assert options(render(at("gpu.enabled", gpu)).server).get("--allow-gpu-metrics") == expected


def test_with_gpus_their_image_is_pulled() -> None:
    image = {"repository": "a/b", "tag": "v2", "digest": f"sha256:{'7' * 64}", "pullPolicy": "Always"}
    server = render({"gpu": {"enabled": True, "image": image}}).server
    assert server["image"] == f"a/b:v2@sha256:{'7' * 64}"
    assert server["imagePullPolicy"] == "Always"
    assert render(GPU).server["image"].startswith("slipway-gpu:")


def test_the_pod_lands_on_a_node_with_gpus() -> None:
    spec = render(GPU).pod["spec"]
    assert spec["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert spec["tolerations"] == [TOLERATION]


@pytest.mark.parametrize("count", [1, 2, 8])
def test_the_server_gets_as_many_gpus_as_asked(count: int) -> None:
    release = render({"gpu": {"enabled": True, "count": count}, "loadtest": {"enabled": True}})
    assert release.server["resources"]["limits"]["nvidia.com/gpu"] == count
    assert str(release.objects).count("'nvidia.com/gpu':") == 1  # no other container holds one


def test_the_users_node_selector_tolerations_and_limits_are_kept_beside_the_gpus() -> None:
    mine: dict[str, Any] = {
        "nodeSelector": {"arch": "amd64"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "resources": {"requests": {"cpu": "4"}, "limits": {"cpu": "8", "memory": "9Gi"}},
    }
    release = render({**GPU, "server": mine})
    spec = release.pod["spec"]
    assert spec["nodeSelector"] == {"arch": "amd64", "nvidia.com/gpu.present": "true"}
    assert spec["tolerations"] == [*mine["tolerations"], TOLERATION]
    assert release.server["resources"]["limits"] == {"cpu": "8", "memory": "9Gi", "nvidia.com/gpu": 1}
    assert release.server["resources"]["requests"]["cpu"] == "4"


def test_the_users_node_selector_wins_where_both_name_a_label() -> None:
    release = render({**GPU, "server": {"nodeSelector": {"nvidia.com/gpu.present": "yes"}}})
    assert release.pod["spec"]["nodeSelector"] == {"nvidia.com/gpu.present": "yes"}


def test_the_gpus_node_selector_and_tolerations_can_be_replaced() -> None:
    gpu = {"enabled": True, "nodeSelector": {"nvidia.com/gpu.present": None, "pool": "a10"}, "tolerations": []}
    spec = render({"gpu": gpu}).pod["spec"]
    assert spec["nodeSelector"] == {"pool": "a10"}
    assert "tolerations" not in spec


@pytest.mark.parametrize(
    "path",
    ["gpu.nodeSelector", "gpu.tolerations", "server.nodeSelector", "server.tolerations", "server.resources.limits"],
)
def test_null_takes_a_default_away(path: str) -> None:
    """Helm's way to remove a default: {} is merged with it."""
    section, _, rest = path.partition(".")
    values: Object = {"gpu": {"enabled": True}, "server": {}}
    release = render({**values, section: {**values[section], **at(rest, None)}})
    spec, limits = release.pod["spec"], release.server["resources"]["limits"]
    assert spec.get("nodeSelector") == (None if path == "gpu.nodeSelector" else {"nvidia.com/gpu.present": "true"})
    assert spec.get("tolerations") == (None if path == "gpu.tolerations" else [TOLERATION])
    assert limits == {"nvidia.com/gpu": 1, **({} if path == "server.resources.limits" else {"memory": "2Gi"})}


def test_gpus_change_neither_selector_nor_service() -> None:
    one, other = render(), render(GPU)
    assert one.the("Deployment")["spec"]["selector"] == other.the("Deployment")["spec"]["selector"]
    assert one.the("Service") == other.the("Service")
