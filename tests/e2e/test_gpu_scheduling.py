"""`gpu.enabled`: where the pod may run. No GPU stands behind what the nodes advertise here: scheduling only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.cluster import Cluster, run, wait_until
from tests.e2e.conftest import Helm, Revision
from tests.support import ROOT

RESOURCE, LABEL = "nvidia.com/gpu", "nvidia.com/gpu.present"


class Nodes:
    """What the nodes say of GPUs, to be changed and put back."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        nodes = cluster.core.list_node().items
        self.before = {
            node.metadata.name: (node.status.capacity.get(RESOURCE), node.metadata.labels.get(LABEL)) for node in nodes
        }

    def advertise(self, name: str, count: str | None) -> None:
        """Let a node offer `count` GPUs; None takes the resource away."""
        parts = ("capacity", "allocatable")
        has = RESOURCE in self.cluster.core.read_node(name).status.capacity
        escaped = RESOURCE.replace("/", "~1")
        if count is None and not has:
            return
        operation: dict[str, Any] = {"op": "remove"} if count is None else {"op": "add", "value": count}
        patch = [{**operation, "path": f"/status/{part}/{escaped}"} for part in parts]
        options = ("--subresource=status", "--type=json", "-p", json.dumps(patch))
        run("kubectl", "patch", "node", name, *options, cwd=ROOT)

    def label(self, name: str, value: str | None) -> None:
        """Set the label that the chart selects by; None takes it away."""
        self.cluster.core.patch_node(name, {"metadata": {"labels": {LABEL: value}}})

    def restore(self) -> None:
        """Everything as it was."""
        for name, (count, label) in self.before.items():
            self.label(name, label)
            self.advertise(name, count)


@pytest.fixture
def nodes(cluster: Cluster) -> Iterator[Nodes]:
    """The nodes, none of which offers a GPU; put back at the end."""
    made = Nodes(cluster)
    try:
        for name in made.before:
            made.advertise(name, None)
            made.label(name, None)
        yield made
    finally:
        made.restore()


def test_fake_gpus_the_pod_is_scheduled_only_to_a_node_that_advertises_gpus_and_carries_the_label(
    cluster: Cluster, helm: Helm, first: Revision, store: str, images: None, nodes: Nodes
) -> None:
    # NVIDIA's image is not needed to see where the pod goes.
    image = ("--set-string", ",".join(f"gpu.image.{key}={value}" for key, value in first.image("server").items()))
    helm.upgrade("slipway-gpu", first, "--set", "gpu.enabled=true", *image, wait=False)
    try:
        name = next(iter(nodes.before))
        assert "didn't match Pod's node affinity/selector" in unschedulable(cluster)
        nodes.label(name, "true")
        wait_until(lambda: "Insufficient nvidia.com/gpu" in unschedulable(cluster), "only the GPU is missing")
        nodes.label(name, None)
        nodes.advertise(name, "1")
        wait_until(
            lambda: "didn't match Pod's node affinity/selector" in unschedulable(cluster), "only the label is missing"
        )
        nodes.label(name, "true")
        wait_until(lambda: cluster.servers("slipway-gpu")[0].spec.node_name == name, "the pod is scheduled")
        command = cluster.servers("slipway-gpu")[0].spec.containers[0]
        assert command.resources.limits[RESOURCE] == "1"
        assert not any("model-config-name" in argument for argument in command.args)
    finally:
        helm("uninstall", "slipway-gpu", "--wait")


def unschedulable(cluster: Cluster) -> str:
    """Why the scheduler has not placed the pod."""
    (pod,) = wait_until(lambda: cluster.servers("slipway-gpu"), "the Deployment's pod is there")
    assert pod.spec.node_name is None

    def reason() -> str:
        conditions = cluster.servers("slipway-gpu")[0].status.conditions or []
        return next((str(one.message) for one in conditions if one.reason == "Unschedulable"), "")

    said: str = wait_until(reason, "the scheduler has tried")
    return said
