"""values.yaml, values.schema.json and the checks beyond types: what is accepted, what is refused, in which words."""

from __future__ import annotations

import json
from typing import Any

import helm_python
import pytest

from tests.unit.chart.rendering import (
    CHART,
    Object,
    at,
    ci_values,
    get,
    merged,
    read_values,
    refusal,
    render,
    render_only,
    walk,
)

DEFAULTS = read_values(CHART / "values.yaml")
SCHEMA: Object = json.loads((CHART / "values.schema.json").read_text())

# What Kubernetes or a user names the keys of.
FREE = {
    "weights.volume",
    "server.affinity",
    "server.nodeSelector",
    "server.podAnnotations",
    "server.podLabels",
    "server.service.annotations",
    "gpu.nodeSelector",
    "metrics.serviceMonitor.labels",
    *(f"{part}.resources.{key}" for part in ("weights", "server", "loadtest") for key in ("requests", "limits")),
}
KUBERNETES_OWN = {f"{part}.resources.claims" for part in ("weights", "server", "loadtest")}
RATES = {"loadtest.rate"}
OBJECTS = {path for path, value in walk(DEFAULTS) if isinstance(value, dict)}
LEAVES = {
    path: value
    for path, value in walk(DEFAULTS)
    if not any(path.startswith(f"{free}.") for free in FREE) and (path in FREE or not isinstance(value, dict))
}


def _properties(schema: Object, prefix: str = "") -> set[str]:
    """Every path that the schema knows, references followed."""
    if "$ref" in schema:
        schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
    found: set[str] = set()
    for key, value in schema.get("properties", {}).items():
        found |= {prefix + key} | _properties(value, f"{prefix}{key}.")
    return found


def test_every_value_has_its_schema_and_every_schema_its_default() -> None:
    known = _properties(SCHEMA) - {"global"} - KUBERNETES_OWN
    defaults = {path for path, _ in walk(DEFAULTS) if not any(path.startswith(f"{free}.") for free in FREE)}
    assert defaults == known


def test_the_free_objects_are_there() -> None:
    assert FREE <= OBJECTS


@pytest.mark.parametrize("path", ["", *sorted(OBJECTS - FREE)])
def test_an_unknown_key_is_refused(path: str) -> None:
    unknown = {"unknwon": 1}
    with pytest.raises(helm_python.HelmValuesError, match="'unknwon' not allowed"):
        render(at(path, unknown) if path else unknown)


def test_an_unknown_key_of_a_pull_secret_is_refused_and_its_name_is_needed() -> None:
    with pytest.raises(helm_python.HelmValuesError, match="'key' not allowed"):
        render({"imagePullSecrets": [{"name": "a", "key": "b"}]})
    with pytest.raises(helm_python.HelmValuesError, match="name"):
        render({"imagePullSecrets": [{}]})


def test_globals_of_a_parent_chart_are_accepted() -> None:
    assert render({"global": {"imageRegistry": "x"}}).objects == render().objects


def _wrong(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return ["true", 1]
    if isinstance(value, int | float):
        return ["three", True, []]
    if isinstance(value, str):
        return [True, ["a"], {"a": "b"}]
    return ["a", 1, True]


@pytest.mark.parametrize("path", sorted(LEAVES))
def test_a_value_of_another_type_is_refused(path: str) -> None:
    for wrong in _wrong(LEAVES[path]):
        with pytest.raises(helm_python.HelmValuesError, match=f"at '/{path.replace('.', '/')}'"):
            render(at(path, wrong))


@pytest.mark.parametrize("path", sorted(OBJECTS))
def test_an_object_cannot_be_anything_else(path: str) -> None:
    for wrong in ("a", ["a"]):
        with pytest.raises(helm_python.HelmValuesError, match=f"at '/{path.replace('.', '/')}'"):
            render(at(path, wrong))


@pytest.mark.parametrize("path", [path for path, value in LEAVES.items() if type(value) is int and path not in RATES])
def test_a_count_is_whole(path: str) -> None:
    with pytest.raises(helm_python.HelmValuesError, match=path.rpartition(".")[2]):
        render(at(path, 1.5))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("weights.revision", "8f434346648f"),
        ("weights.revision", "A" * 64),
        ("weights.revision", "0" * 65),
        ("weights.remote.url", "bucket/prefix"),
        ("weights.remote.url", "s3://"),
        ("weights.remote.url", "s3://a\nb"),
        ("weights.remote.endpointUrl", "object-store:7070"),
        ("weights.timeoutSeconds", 0),
        ("server.strategy", "Recreate"),
        ("server.replicas", -1),
        ("server.startupSeconds", 0),
        ("server.preStopSeconds", -1),
        ("server.exitTimeoutSeconds", 0),
        ("server.service.type", "ExternalName"),
        ("gpu.count", 0),
        ("metrics.serviceMonitor.interval", "15"),
        ("metrics.serviceMonitor.interval", ""),
        ("loadtest.model", ""),
        ("loadtest.users", 0),
        ("loadtest.rate", 0),
        ("loadtest.runTime", "30"),
        ("loadtest.checkEvery", 0),
        *(
            (f"{image}.image.{key}", value)
            for image in ("weights", "server", "gpu", "loadtest")
            for key, value in [
                ("repository", ""),
                ("repository", "Upper"),
                ("repository", "triton:26.08"),
                ("repository", "localhost:5000/triton:26.08"),
                ("tag", "a b"),
                ("tag", "-a"),
                ("digest", "sha256:12"),
                ("digest", "5" * 64),
                ("pullPolicy", "always"),
            ]
        ),
    ],
)
def test_what_could_not_work_is_refused_by_its_path(path: str, value: Any) -> None:
    with pytest.raises(helm_python.HelmValuesError, match=f"at '/{path.replace('.', '/')}'"):
        render(at(path, value))


@pytest.mark.parametrize(
    "repository",
    [
        "triton",
        "library/triton",
        "localhost:5000/slipway-cpu",
        "nvcr.io/nvidia/tritonserver",
        "Registry.example.com:443/a/b_c/d-e/f.g/h__i",
        "123456789012.dkr.ecr.eu-central-1.amazonaws.com/slipway",
    ],
)
def test_an_image_of_any_registry_is_accepted(repository: str) -> None:
    assert render(at("server.image.repository", repository)).server["image"].startswith(f"{repository}:")


# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
QUANTITIES = [1, 0, 0.5, 1e9, "0", "500m", "1.5Gi", ".5", "1.", "1e9", "1E9", "1e-3", "1e+3", "+1", "+.5Mi", "100n"]
QUANTITIES += ["100u", *(f"1{unit}" for unit in ["k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"])]
NO_QUANTITIES = [
    "1x",
    "Gi",
    "1 Gi",
    "-1",
    "1gi",
    "1KB",
    "",
    ".",
    "+",
    "e9",
    "1e",
    "1.2.3",
    "1K",
    "1Gi ",
    "1,5",
    -1,
    True,
]


@pytest.mark.parametrize("quantity", QUANTITIES, ids=repr)
def test_every_form_of_a_quantity_is_accepted_and_arrives(quantity: str | float) -> None:
    values = {"sharedMemory": quantity, "resources": {"requests": {"cpu": quantity}, "limits": {"memory": quantity}}}
    release = render({"server": values, "weights": {"volumeSize": quantity}})
    sizes = {one["name"]: one["emptyDir"].get("sizeLimit") for one in release.pod["spec"]["volumes"]}
    resources = release.server["resources"]
    found = [sizes["shm"], sizes["weights"], resources["requests"]["cpu"], resources["limits"]["memory"]]
    assert [_number(one) for one in found] == [_number(quantity)] * 4


def _number(quantity: str | float) -> str | float:
    try:
        return float(quantity)
    except ValueError:
        return quantity


@pytest.mark.parametrize("quantity", NO_QUANTITIES, ids=repr)
@pytest.mark.parametrize("path", ["server.sharedMemory", "weights.volumeSize", "loadtest.resources.requests.cpu"])
def test_what_is_no_quantity_is_refused(quantity: Any, path: str) -> None:
    with pytest.raises(helm_python.HelmValuesError, match=path.rpartition(".")[2]):
        render(at(path, quantity))


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        (
            "weights.revision",
            "weights.revision is not set: write it with `slipway release > release.yaml` and pass `-f release.yaml`",
        ),
        (
            "weights.remote.url",
            "weights.remote.url is not set: pass the DVC remote that `slipway push` filled, for example "
            "s3://bucket/prefix",
        ),
    ],
)
@pytest.mark.parametrize("missing", ["", None])
def test_what_has_no_default_is_asked_for_with_the_command_that_gives_it(
    path: str, sentence: str, missing: str | None
) -> None:
    with pytest.raises(helm_python.HelmRenderError) as refused:
        render(at(path, missing))
    assert str(refused.value).partition("\n")[2] == sentence


def test_two_values_suffice() -> None:
    release = render_only({"weights": {"revision": "0" * 64, "remote": {"url": "s3://a/b"}}})
    assert {one["kind"] for one in release.objects} >= {"Deployment", "Service"}
    assert all(get(DEFAULTS, path) == "" for path in ("weights.revision", "weights.remote.url"))


# Without a size a volume has none; of the others Kubernetes and Prometheus have their own defaults.
NULLABLE = {"server.replicas", "server.sharedMemory", "weights.volumeSize"}
NULLABLE |= {"server.service.type", "metrics.serviceMonitor.interval"}
NULLABLE |= {f"{part}.image.pullPolicy" for part in ("weights", "server", "gpu", "loadtest")}
NEEDED = [path for path, value in LEAVES.items() if type(value) in (str, int) and value != "" and path not in NULLABLE]


@pytest.mark.parametrize("path", NEEDED)
def test_null_for_a_value_that_is_needed_is_refused(path: str) -> None:
    """It would be 0 or nothing: no GPU, no time for the download, an image without a name."""
    assert path.rpartition(".")[2] in refusal(at(path, None))


def test_null_for_replicas_leaves_their_number_to_what_scales_them_or_is_refused() -> None:
    if refused := refusal(at("server.replicas", None)):
        assert "replicas" in refused
    else:
        spec = render(at("server.replicas", None)).the("Deployment")["spec"]
        assert spec.get("replicas") is None, "no server would be left"


@pytest.mark.parametrize("path", [f"{part}.resources" for part in ("weights", "server", "loadtest")])
def test_null_takes_default_resources_away(path: str) -> None:
    """Helm's way to remove a default: {} is merged with it."""
    release = render(merged(at("loadtest.enabled", True), at(path, None)))
    assert len(release.pods()) == 3


def test_a_ci_file_sets_everything_that_is_empty_by_default() -> None:
    everything = read_values(CHART / "ci" / "everything-values.yaml")
    merged_values = merged(DEFAULTS, everything)
    untouched = [path for path, value in LEAVES.items() if value in ("", [], {}) and get(merged_values, path) == value]
    images = ("server", "gpu", "loadtest")  # of the same shape as weights.image
    allowed = {f"{part}.image.{key}" for part in images for key in ("tag", "digest")}
    assert set(untouched) == allowed | {"fullnameOverride"}, "ci/everything-values.yaml leaves a value out"


@pytest.mark.parametrize("values", ci_values(), ids=lambda path: path.name)
def test_helms_linter_has_nothing_to_say(values: Any) -> None:
    report = helm_python.lint(CHART, read_values(values), strict=True)
    assert [message for message in report["messages"] if message["severity"] > 1] == []
