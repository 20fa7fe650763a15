"""The chart as Helm renders it, read as Kubernetes reads it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helm_python
import yaml

from tests.support import ROOT

Object = dict[str, Any]

CHART = ROOT / "charts" / "slipway"
RELEASE, NAMESPACE = "harbour", "models"  # neither is the chart's name: what is hard-coded shows
NAME = "harbour-slipway"  # of the objects of that release


class _Loader(yaml.SafeLoader):
    """PyYAML with Go's numbers (1e9 is one), and no second value for a key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(None, None, f"twice in one mapping: {twice}", node.start_mark)
        return super().construct_mapping(node, deep)


_NUMBER = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


@dataclass(frozen=True)
class Rendered:
    """What one release consists of.

    Attributes:
        objects: Kubernetes objects, test hooks among them.
        notes: what Helm prints after the installation.
    """

    objects: list[Object]
    notes: str

    def the(self, kind: str, component: str = "server") -> Object:
        """The only object of that kind and component."""
        found = [one for one in self.objects if one["kind"] == kind and component_of(one) == component]
        assert len(found) == 1, f"{len(found)} {kind} of the component {component}"
        return found[0]

    def pods(self) -> dict[str, Object]:
        """Every pod that runs, with metadata and spec, by kind and name of what makes it."""
        found = {}
        for one in self.objects:
            path = f"{one['kind']}/{one['metadata']['name']}"
            if one["kind"] == "Pod":
                found[path] = one
            elif "template" in one.get("spec", {}):
                found[path] = one["spec"]["template"]
        return found

    @property
    def pod(self) -> Object:
        """The server's pod: metadata and spec."""
        return dict(self.the("Deployment")["spec"]["template"])

    @property
    def server(self) -> Object:
        """Triton's container."""
        return container(self.pod, "triton")

    @property
    def weights(self) -> Object:
        """The server's init container."""
        return container(self.pod, "weights")


def render(values: Object | None = None, *, name: str = RELEASE) -> Rendered:
    """A release with these values over those of ci/cpu-values.yaml."""
    return render_only(merged(read_values(CHART / "ci" / "cpu-values.yaml"), values or {}), name=name)


def render_only(values: Object, *, name: str = RELEASE) -> Rendered:
    """A release with these values over the chart's defaults."""
    with helm_python.Chart.load(CHART) as chart:
        files = chart.render(values, name=name, namespace=NAMESPACE)
    notes = [text for path, text in files.items() if path.endswith("/NOTES.txt")]
    manifests = [text for path, text in files.items() if not path.endswith("/NOTES.txt")]
    return Rendered([one for text in manifests for one in parse(text)], "".join(notes))


def refusal(values: Object) -> str:
    """What Helm says where it refuses these values, with their paths; empty where it accepts them."""
    try:
        render(values)
    except helm_python.HelmError as error:
        return str(error).replace("/", ".")  # the schema's paths are /a/b, the checks' are a.b
    return ""


def parse(text: str) -> list[Object]:
    """Objects of a manifest; fails when a document is neither empty nor an object of Kubernetes."""
    documents = [one for one in yaml.load_all(text, _Loader) if one is not None]  # _Loader is safe
    for one in documents:
        assert isinstance(one, dict), f"not a mapping: {one}"
        assert {"apiVersion", "kind", "metadata"} <= set(one), f"not an object: {sorted(one)}"
    return documents


def read_values(path: Path) -> Object:
    """A file of values, as Helm reads it."""
    return helm_python.values_from_yaml(path.read_text())


def ci_values() -> list[Path]:
    """The files that stand for what users set."""
    found = sorted((CHART / "ci").glob("*-values.yaml"))
    assert found
    return found


def merged(base: Object, over: Object) -> Object:
    """`over` laid over `base`, key by key; lists are replaced."""
    both = {key: merged(base[key], over[key]) for key in base.keys() & over if _mappings(base[key], over[key])}
    return {**base, **over, **both}


def _mappings(*values: Any) -> bool:
    return all(isinstance(value, dict) for value in values)


def at(path: str, value: Any) -> Object:
    """Values in which one key is set: {"a": {"b": 1}} for the path a.b and 1."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)


def get(values: Object, path: str) -> Any:
    """The value at a path."""
    found: Any = values
    for key in path.split("."):
        found = found[key]
    return found


def walk(values: Object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every path in the values and what is there, mappings before what they hold."""
    for key, value in values.items():
        yield prefix + key, value
        if isinstance(value, dict):
            yield from walk(value, f"{prefix}{key}.")


def component_of(one: Object) -> str:
    """What the object is for: server, test, loadtest."""
    return str(one["metadata"]["labels"]["app.kubernetes.io/component"])


def containers(pod: Object) -> list[Object]:
    """Init containers, then containers."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def container(pod: Object, name: str) -> Object:
    """The container of that name."""
    return {one["name"]: one for one in containers(pod)}[name]


def environment_of(one: Object) -> dict[str, str]:
    """Environment variables of a container that are given by value."""
    return {entry["name"]: entry["value"] for entry in one.get("env", []) if "value" in entry}


def volumes(pod: Object) -> dict[str, Object]:
    """The volumes of a pod by name, without it."""
    named = {one["name"]: {key: one[key] for key in one if key != "name"} for one in pod["spec"]["volumes"]}
    assert len(named) == len(pod["spec"]["volumes"])
    return named


def mounts(one: Object) -> dict[str, Object]:
    """The mounts of a container by path."""
    return {mount["mountPath"]: mount for mount in one.get("volumeMounts", [])}


def options(one: Object) -> dict[str, str]:
    """Arguments of a container of the form --name=value; the value is empty where there is none."""
    pairs = [argument.partition("=") for argument in one["args"] if argument.startswith("--")]
    assert len({name for name, _, _ in pairs}) == len(pairs), "an option is given twice"
    return {name: value for name, _, value in pairs}


def selects(selector: Object, labels: Object) -> bool:
    """Does a selector of labels take an object with these?"""
    assert selector, "an empty selector takes everything"
    return selector.items() <= labels.items()
