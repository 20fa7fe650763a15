"""The command's help, the documentation and the house rules say what is there."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from slipway import _print_json, app
from tests.support import BIN, ROOT, environment, error_lines, slipway, written_keys

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a click group
README = (ROOT / "README.md").read_text()
REFERENCE = (ROOT / "docs" / "reference.md").read_text()


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_and_option_is_in_the_reference(command: str) -> None:
    section = REFERENCE.partition(f"## slipway {command}\n")[2].partition("\n## ")[0]
    assert section, f"docs/reference.md has no section 'slipway {command}'"
    for parameter in COMMANDS[command].params:
        name = parameter.opts[0] if parameter.param_type_name == "option" else parameter.name.upper()
        assert f"`{name}" in section, f"{name} of slipway {command} is not in docs/reference.md"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command: str, tmp_path: Path) -> None:
    result = slipway(tmp_path, command, "--help")
    assert result.returncode == 0
    assert str(COMMANDS[command].help).split(":")[0] in " ".join(result.stdout.split())


@pytest.mark.parametrize("path", sorted((ROOT / "model_build" / "conf").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_setting_of_a_model_is_in_the_reference(path: Path) -> None:
    table = REFERENCE.partition("## Settings of a model\n")[2].partition("\n## ")[0]
    settings = yaml.safe_load(path.read_text())
    del settings["defaults"]
    keys = written_keys(settings)
    assert "name" in keys
    missing = [key for key in keys if f"`{key}`" not in table]
    assert not missing, f"docs/reference.md, section 'Settings of a model', lacks {missing} of {path.name}"


def test_every_make_target_and_locust_option_is_documented() -> None:
    targets = re.findall(r"^([a-z0-9]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"demo", "test", "lint"} <= set(targets)
    for target in targets:
        assert f"`make {target}`" in README + REFERENCE, target
    for option in re.findall(r'add_argument\("(--[a-z-]+)"', (ROOT / "loadtest" / "locustfile.py").read_text()):
        assert f"`{option}`" in REFERENCE, option


def test_files_that_the_readme_and_the_docs_link_to_exist() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_outside_of_a_workspace_each_command_says_where_to_go(tmp_path: Path) -> None:
    commands = (
        "build digits",
        "variants digits",
        "serve",
        "predict digits x.png --local",
        "roofline digits --device t4",
        "report digits",
        "engine digits",
        "doctor",
    )
    for arguments in (command.split() for command in commands):
        result = slipway(tmp_path, *arguments)
        assert result.returncode == 1
        assert error_lines(result) == [
            f"error: {tmp_path} is not inside a Slipway workspace (a folder with dvc.yaml and model_build/conf): "
            "go there first"
        ]


def test_the_version_is_that_of_the_package(tmp_path: Path) -> None:
    result = slipway(tmp_path, "--version")
    assert (result.returncode, result.stdout) == (0, f"slipway {importlib.metadata.version('slipway')}\n")


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["wine"], 1, "no configuration for model 'wine': .* has "),
        (["alexnet_224"], 1, "model 'alexnet_224' is exported to be analysed and never served"),
        (["digits", "--repository", "x"], 2, "MODELS are the workspace's own: leave them or --repository out"),
    ],
)
def test_models_that_cannot_be_served_by_name_are_refused_with_the_reason(
    arguments: list[str], code: int, line: str
) -> None:
    result = slipway(ROOT, "serve", *arguments)
    assert result.returncode == code
    (error,) = error_lines(result)
    assert re.match(f"error: {line}", error)


def test_json_of_every_command_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    _print_json({"ü": [float("nan"), (1.5, float("inf"))], "none": None})
    assert json.loads(capsys.readouterr().out) == {"ü": [None, [1.5, None]], "none": None}
    assert (ROOT / "slipway.py").read_text().count("json.dumps") == 1


def test_packages_import_only_what_the_design_allows() -> None:
    allowed = {
        "serving": {"serving"},
        "client/slipway_client": {"slipway_client"},
        "model_build": {"model_build"},
        "loadtest": {"loadtest", "slipway_client"},
    }
    exceptions = {
        ROOT / "model_build" / "stages" / "gate.py": {"serving", "slipway_client"},  # it asks a server
        # What a golden file holds is said in one place.
        ROOT / "model_build" / "stages" / "staging.py": {"serving"},
        # Whether a graph may be batched is found out in one place, for the build and for the embedded backend.
        ROOT / "model_build" / "batching.py": {"serving"},
        ROOT / "model_build" / "report" / "facts.py": {"serving", "slipway_client"},
    }
    ours = {"serving", "slipway_client", "model_build", "loadtest", "benchmarks", "tests", "slipway"}
    assert all(path.is_file() for path in exceptions)
    for folder, packages in allowed.items():
        for path in (ROOT / folder).rglob("*.py"):
            may = packages | exceptions.get(path, set())
            imported = set(re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), re.MULTILINE)) & ours
            assert imported <= may, f"{path} imports {imported - may}"
            assert folder != "serving" or "torch" not in path.read_text(), path


def test_the_two_environments_pin_every_package() -> None:
    for name in ("requirements.lock", "serving/requirements.txt", "serving/requirements-models.txt"):
        lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith(("#", "-r "))]
        assert lines
        assert all(re.match(r"^[\w.\[\],-]+==[\w.+]+( ;.*)?$", line) for line in lines), name


def test_a_stage_run_by_hand_gives_one_line_and_an_exit_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "model_build", "data", "nope"]
    result = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert error_lines(result)[0].startswith("error: data@nope: no configuration for model 'nope'")
    assert (BIN / "slipway").exists()
