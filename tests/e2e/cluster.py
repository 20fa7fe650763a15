"""The cluster that KUBECONFIG names: may it be used, what runs in it, and what it says when something failed."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from tests.support import BIN, environment, free_ports

TOOLS = ("docker", "helm", "kubectl", "skaffold")
DISPOSABLE = "SLIPWAY_E2E_DISPOSABLE"
NAMESPACE, MONITORING = "slipway", "slipway-monitoring"


def refusal(context: str | None, environ: Mapping[str, str], tools: Callable[[str], str | None]) -> str | None:
    """Why these tests must not run, in one line; None when they may. They delete namespaces and patch nodes."""
    if context is None:
        return "no cluster: set KUBECONFIG, or make one with `kind create cluster --config k8s/kind.yaml`"
    if missing := [tool for tool in TOOLS if tools(tool) is None]:
        return f"{', '.join(missing)} not on the PATH: install it first"
    ours = context.startswith("kind-") or context == "minikube"
    if not ours and environ.get(DISPOSABLE) != "1":
        return (
            f"the context '{context}' is not declared disposable: the tests delete the namespaces {NAMESPACE} and "
            f"{MONITORING} and patch nodes; use kind or minikube, or set {DISPOSABLE}=1"
        )
    if not ours and "SKAFFOLD_DEFAULT_REPO" not in environ:
        return f"'{context}' pulls from a registry: set SKAFFOLD_DEFAULT_REPO to one that you can push to"
    return None


def current_context() -> str | None:
    """Name of the context that kubectl would use."""
    try:
        return str(config.list_kube_config_contexts()[1]["name"])
    except config.ConfigException:
        return None


def run(
    *command: str | Path, cwd: Path, timeout: float = 300, check: bool = True, env: Mapping[str, str] | None = None
) -> str:
    """Output of a command, both streams; fails with it when the command does."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment(**(env or {})),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert not check or done.returncode == 0, (
        f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}"
    )
    return done.stdout


def wait_until(condition: Callable[[], Any], what: str, timeout: float = 120) -> Any:
    """Wait until `condition()` is true and return it; fail with `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.5)
    return value


class Cluster:
    """What the tests ask of Kubernetes, through its Python client."""

    def __init__(self, context: str) -> None:
        config.load_kube_config()
        self.context = context
        self.core = client.CoreV1Api()
        self.apps = client.AppsV1Api()
        self.batch = client.BatchV1Api()

    def pods(self, selector: str, namespace: str = NAMESPACE) -> list[Any]:
        """Pods by label, the oldest first."""
        pods = self.core.list_namespaced_pod(namespace, label_selector=selector).items
        return sorted(pods, key=lambda pod: pod.metadata.creation_timestamp)

    def servers(self, release: str) -> list[Any]:
        """The server pods of a release that are not on their way out."""
        found = self.pods(f"app.kubernetes.io/instance={release},app.kubernetes.io/component=server")
        return [pod for pod in found if pod.metadata.deletion_timestamp is None]

    def secret(self, name: str) -> dict[str, str]:
        """A Secret's texts."""
        data = self.core.read_namespaced_secret(name, NAMESPACE).data
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def delete_namespaces(self, *names: str) -> None:
        """Delete namespaces and wait until they are gone."""
        for name in names:
            try:
                self.core.delete_namespace(name)
            except ApiException as error:
                if error.status != 404:
                    raise
        wait_until(lambda: not any(map(self.namespace_exists, names)), f"{', '.join(names)} are gone", 180)

    def namespace_exists(self, name: str) -> bool:
        """Whether there is such a namespace."""
        return any(item.metadata.name == name for item in self.core.list_namespace().items)

    def scale(self, deployment: str, replicas: int) -> None:
        """Set a Deployment's replicas and wait until that is so."""
        self.apps.patch_namespaced_deployment_scale(deployment, NAMESPACE, {"spec": {"replicas": replicas}})

        def done() -> bool:
            found = self.pods(f"app.kubernetes.io/name={deployment}")
            return len(found) == replicas and all(is_ready(pod) for pod in found)

        wait_until(done, f"{deployment} has {replicas} pods")

    def keep_evidence(self, folder: Path) -> None:
        """Logs, events and descriptions of everything in the tests' namespaces, as files."""
        folder.mkdir(parents=True, exist_ok=True)
        for namespace in (NAMESPACE, MONITORING):
            kinds = "all,events,persistentvolumeclaims"
            for verb in (["get", kinds, "-o", "wide"], ["describe", kinds]):
                output = run("kubectl", "-n", namespace, *verb, cwd=folder, check=False)
                (folder / f"{namespace}-{verb[0]}.txt").write_text(output)
            for pod in self.core.list_namespaced_pod(namespace).items:
                for container in [*(pod.spec.init_containers or []), *pod.spec.containers]:
                    self._keep_log(folder, namespace, pod.metadata.name, container.name)

    def _keep_log(self, folder: Path, namespace: str, pod: str, container: str) -> None:
        for previous in (False, True):
            try:
                log = self.core.read_namespaced_pod_log(pod, namespace, container=container, previous=previous)
            except ApiException:
                continue
            (folder / f"{namespace}-{pod}-{container}{'-previous' if previous else ''}.log").write_text(log)


def is_ready(pod: Any) -> bool:
    """Whether the pod is Ready."""
    return any(one.type == "Ready" and one.status == "True" for one in pod.status.conditions or [])


def refused_because(pod: Any) -> str:
    """What the weights' container of a pod said when it ended; empty while it has not failed."""
    for status in pod.status.init_container_statuses or []:
        for state in (status.state, status.last_state):
            if state and state.terminated and state.terminated.exit_code:
                return str(state.terminated.message)
    return ""


@contextmanager
def port_forward(service: str, *ports: int, namespace: str = NAMESPACE) -> Iterator[list[int]]:
    """Local ports that lead to a Service's, while it lasts."""
    local = free_ports(len(ports))
    pairs = [f"{mine}:{theirs}" for mine, theirs in zip(local, ports, strict=True)]
    command = ["kubectl", "-n", namespace, "port-forward", f"service/{service}", *pairs]
    process = subprocess.Popen(
        command,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        for _ in ports:
            line = process.stdout.readline()
            assert line.startswith("Forwarding from"), f"{' '.join(command)}: {line}"
        yield local
    finally:
        process.terminate()
        process.communicate()


def load_images(cluster: Cluster, images: list[str], cwd: Path) -> None:
    """Kind and minikube have their own image store; any other cluster pulls what skaffold has pushed."""
    for image in images:
        if cluster.context.startswith("kind-"):
            run("kind", "load", "docker-image", image, "--name", cluster.context.removeprefix("kind-"), cwd=cwd)
        elif cluster.context == "minikube":
            run("minikube", "image", "load", image, cwd=cwd)


def find_tool(name: str) -> str | None:
    """Path of a command, those of .venv included."""
    return shutil.which(name, path=f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}")
