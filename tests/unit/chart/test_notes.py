"""templates/NOTES.txt: every command that it prints works on what was installed."""

from __future__ import annotations

import re
import shlex

import pytest
import typer

from slipway import app
from tests.unit.chart.rendering import NAME, NAMESPACE, RELEASE, Object, Rendered, at, render, selects

LOAD: Object = {"loadtest": {"enabled": True}}
VARIANTS: dict[str, Object] = {
    "plain": {},
    "load": LOAD,
    "renamed": {"fullnameOverride": "other", **LOAD},
    "gpu": {"gpu": {"enabled": True}},
}


def _commands(release: Rendered) -> list[list[str]]:
    """The lines that are commands, as words."""
    lines = [line for line in release.notes.splitlines() if line.startswith("  ")]
    return [shlex.split(line.removesuffix("&")) for line in lines]


def _names(release: Rendered) -> set[str]:
    return {f"{one['kind'].lower()}/{one['metadata']['name']}" for one in release.objects}


@pytest.fixture(params=list(VARIANTS))
def release(request: pytest.FixtureRequest) -> Rendered:
    return render(VARIANTS[request.param])


def test_every_command_is_of_a_tool_that_the_reader_has(release: Rendered) -> None:
    assert {words[0] for words in _commands(release)} == {"kubectl", "helm", "slipway"}


def test_every_command_names_the_releases_namespace(release: Rendered) -> None:
    for words in _commands(release):
        if words[0] != "slipway":
            assert words[words.index("-n") + 1] == NAMESPACE


def test_every_object_that_a_command_names_was_rendered(release: Rendered) -> None:
    named = {word for words in _commands(release) for word in words if re.match(r"^(deployment|service|job)/", word)}
    assert {word.partition("/")[0] for word in named} >= {"deployment", "service"}
    assert named <= _names(release)


def test_the_ports_that_are_forwarded_are_the_services(release: Rendered) -> None:
    words = next(words for words in _commands(release) if "port-forward" in words)
    ports = {str(port["port"]) for port in release.the("Service")["spec"]["ports"]}
    forwarded = {word for word in words if word.isdigit()}
    assert "8000" in forwarded
    assert forwarded <= ports


def test_the_pods_that_are_listed_are_the_releases(release: Rendered) -> None:
    words = next(words for words in _commands(release) if "-l" in words)
    selector = dict(pair.split("=") for pair in words[words.index("-l") + 1].split(","))
    assert selects(selector, release.pod["metadata"]["labels"])
    assert ".status.initContainerStatuses" in words[-1]


def test_every_test_that_is_named_is_one_of_helms(release: Rendered) -> None:
    tests = [words for words in _commands(release) if words[:2] == ["helm", "test"]]
    hooks = {one["metadata"]["name"] for one in release.objects if "helm.sh/hook" in str(one["metadata"])}
    assert all(words[2] == RELEASE for words in tests)
    named = {words[words.index("--filter") + 1] for words in tests if "--filter" in words}
    assert named == ({f"name={hook}" for hook in hooks} if len(hooks) > 1 else set())
    assert len(tests) == len(hooks)


@pytest.mark.parametrize("values", [{}, LOAD, at("loadtest", {"enabled": True, "runTime": "2h"})], ids=str)
def test_helm_waits_for_a_test_as_long_as_it_may_take(values: Object) -> None:
    release = render(values)
    deadlines = {
        f"name={one['metadata']['name']}": one["spec"]["activeDeadlineSeconds"]
        for one in release.objects
        if one["kind"] == "Job"
    }
    for words in [words for words in _commands(release) if words[:2] == ["helm", "test"]]:
        timeout = words[words.index("--timeout") + 1] if "--timeout" in words else "5m"  # Helm's default
        filtered = words[words.index("--filter") + 1] if "--filter" in words else f"name={NAME}-test"
        assert _seconds(timeout) >= deadlines[filtered], " ".join(words)


def _seconds(time: str) -> int:
    return sum(int(count) * {"h": 3600, "m": 60, "s": 1}[unit] for count, unit in re.findall(r"(\d+)([hms])", time))


def test_slipways_own_command_is_one_of_its_commands(release: Rendered) -> None:
    words = next(words for words in _commands(release) if words[0] == "slipway")
    command = typer.main.get_command(app).commands[words[1]]  # type: ignore[attr-defined]  # a click group
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known
    assert words[words.index("--url") + 1] == "http://127.0.0.1:8000"


def test_it_says_what_runs_and_where() -> None:
    revision = "0123456789abcdef" * 4
    notes = render(at("weights.revision", revision)).notes
    assert f"revision {revision[:12]} on CPUs as {NAME}.{NAMESPACE} " in notes
    assert "on GPUs" in render(VARIANTS["gpu"]).notes


def test_it_says_how_much_load_there_is() -> None:
    notes = render({"loadtest": {"enabled": True, "users": 3, "rate": 0.5, "runTime": "7m"}}).notes
    assert "(3 users x 0.5 requests per second, 7m)" in notes
    assert "Load" not in render().notes


@pytest.mark.parametrize(
    ("gpu", "strategy", "said"), [(True, "surge", True), (True, "inPlace", False), (False, "surge", False)]
)
def test_it_warns_of_an_upgrade_that_needs_a_spare_gpu(gpu: bool, strategy: str, said: bool) -> None:
    notes = render({"gpu": {"enabled": gpu, "count": 4}, "server": {"strategy": strategy}}).notes
    assert ("needs 4 spare GPU" in notes) is said
    assert ("server.strategy=inPlace" in notes) is said


def test_nothing_is_left_unrendered(release: Rendered) -> None:
    assert not re.search(r"<no value>|%!|<nil>", release.notes)
