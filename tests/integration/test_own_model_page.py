"""docs/own-model.md as a reader follows it: its files written, its commands run in their order, its output seen."""

from __future__ import annotations

import inspect
import json
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from model_build.single_graph import SingleGraph
from tests.support import BIN, ROOT, environment, error_lines, free_ports, make_workspace, slipway, wait_for

pytestmark = pytest.mark.timeout(900)  # it builds a model twice

PAGE = (ROOT / "docs" / "own-model.md").read_text()
PORTS = ("8000", "8001", "8002")  # those of `slipway serve`, and so of the page
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?")


@dataclass(frozen=True)
class Block:
    """A fenced block: a file (`path`), commands (`sh`), or what they print (`text`)."""

    language: str
    content: str
    path: str = ""
    append: bool = False


def blocks() -> list[Block]:
    found = []
    for fence in re.finditer(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        before = PAGE[: fence.start()].rstrip("\n").rpartition("\n")[2]
        named = re.search(r"(?:([Ww]rite)|Append to) `([\w./]+)`:$", before)
        path, append = (named[2], not named[1]) if named else ("", False)
        found.append(Block(fence[1], fence[2], path, append))
    return found


BLOCKS = blocks()
COMMANDS = [block.content for block in BLOCKS if block.language == "sh"]
ERRORS = [block.content for block in BLOCKS if block.language == "text" and block.content.startswith("error: ")]


def shown_after(commands: str) -> str:
    """The sample output that the page shows for a block of commands, if any."""
    after = BLOCKS[[block.content for block in BLOCKS].index(commands) + 1 :]
    return after[0].content if after and after[0].language == "text" and after[0].content not in ERRORS else ""


@dataclass
class Ran:
    """How a block of commands ended, and what it printed."""

    code: int
    printed: str


@dataclass
class Followed:
    """A workspace in which the whole page was followed."""

    workspace: Path
    ran: dict[str, Ran]


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Followed:
    result = Followed(make_workspace(tmp_path_factory.mktemp("own") / "workspace"), {})
    ports = [str(port) for port in free_ports()]
    server: subprocess.Popen[bytes] | None = None
    log = result.workspace / "serve.log"
    try:
        for block in BLOCKS:
            if block.path:
                path = result.workspace / block.path
                before = path.read_text() if block.append else ""
                path.write_text(before + block.content.replace(f"127.0.0.1:{PORTS[0]}", f"127.0.0.1:{ports[0]}"))
            elif block.content.strip() == "slipway serve":
                server = serve(result.workspace, ports, log)
            elif block.language == "sh":
                result.ran[block.content] = run(result.workspace, block.content, ports[0])
    finally:
        if server:
            server.send_signal(signal.SIGINT)
            result.ran["slipway serve\n"] = Ran(server.wait(60), log.read_text())
    return result


def run(workspace: Path, commands: str, http_port: str) -> Ran:
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=workspace,
        env=environment(SLIPWAY_URL=f"http://127.0.0.1:{http_port}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return Ran(ended.returncode, ended.stdout)


def serve(workspace: Path, ports: list[str], log: Path) -> subprocess.Popen[bytes]:
    """The server of the page, which stays in a terminal of its own; on ports that nothing else uses."""
    options = [f"--{name}-port={port}" for name, port in zip(("http", "grpc", "metrics"), ports, strict=True)]
    with log.open("wb") as output:
        command = [str(BIN / "slipway"), "serve", *options]
        server = subprocess.Popen(command, cwd=workspace, env=environment(), stdout=output, stderr=subprocess.STDOUT)
    wait_for(lambda: "\nready" in log.read_text() or server.poll() is not None, "the server is ready", 120)
    return server


def pattern(line: str) -> str:
    """A line of the page, with any number where it has one and any spaces where it has some."""
    words = [NUMBER.split(word) for word in line.split()]  # every second part is a number
    return r"\s+".join(r"[\d.]+(?:e-?\d+)?".join(map(re.escape, parts)) for parts in words)


def assert_shown(shown: str, printed: str) -> None:
    """Every line of the page is in what was printed, in this order."""
    rest = printed
    for line in shown.splitlines():
        found = re.search(pattern(line), rest)
        assert found, f"the page shows\n  {line}\nwhich is not (or not there) in\n{printed}"
        rest = rest[found.end() :]


@pytest.mark.parametrize("commands", COMMANDS, ids=lambda commands: commands.split("\n")[0][:40])
def test_each_block_of_commands_ends_well_and_prints_what_the_page_shows(followed: Followed, commands: str) -> None:
    ran = followed.ran[commands]
    assert ran.code == 0, ran.printed
    assert "Traceback" not in ran.printed
    assert_shown(shown_after(commands), ran.printed)


def test_the_model_passes_its_gate_and_every_sample_gets_its_own_class(followed: Followed) -> None:
    manifest = json.loads((followed.workspace / "model_repository/wine/manifest.json").read_text())
    assert manifest["gate"]["minimum"] == 0.9
    assert manifest["gate"]["value"] >= 0.9
    (asked,) = [ran.printed for commands, ran in followed.ran.items() if "slipway predict" in commands]
    rows = re.findall(r"samples/(\w+)\.npy +(\w+) +([\d.]+) *$", asked, re.MULTILINE)
    assert [(file, found) for file, found, _ in rows] == [(f"class_{i}", f"class_{i}") for i in (0, 2, 1)]
    assert all(1 / 3 < float(probability) <= 1 for *_, probability in rows)


def test_the_served_graph_standardises_raw_measurements_itself(followed: Followed) -> None:
    (printed,) = [ran.printed for commands, ran in followed.ran.items() if "ask_wine.py" in commands]
    probabilities = [float(value) for value in re.findall(r"'([\d.]+)'", printed)]
    assert sum(probabilities) == pytest.approx(1, abs=0.002)
    assert probabilities[0] > 0.9  # the bottle is the first of scikit-learn's, of class_0


def test_a_relative_data_path_is_the_same_file_from_every_folder_of_the_workspace(followed: Followed) -> None:
    build = slipway(followed.workspace / "build", "build", "wine")
    assert build.returncode == 0, build.stderr
    assert build.stdout.endswith("\nwine is up to date: no stage is stale\n"), build.stdout


def test_a_build_that_fails_says_what_the_page_says(followed: Followed) -> None:
    refused, broken = ERRORS
    before = (followed.workspace / "model_repository/wine/manifest.json").read_bytes()
    build = slipway(followed.workspace, "build", "wine", "train.epochs=1", "gate.minimum=0.99")
    assert build.returncode == 3
    assert_shown(refused, "\n".join(error_lines(build)))
    table = followed.workspace / "wines.csv"
    table.write_text(table.read_text().rstrip().rpartition(",")[0])
    build = slipway(followed.workspace, "build", "wine")
    assert build.returncode == 1
    assert_shown(broken, "\n".join(error_lines(build)))
    assert (followed.workspace / "model_repository/wine/manifest.json").read_bytes() == before


def test_the_table_names_everything_that_a_single_graph_can_override() -> None:
    section = PAGE.partition("## What a recipe can override")[2].partition("\n## ")[0]
    own = {name for name, value in vars(SingleGraph).items() if inspect.isfunction(value) and name[0] != "_"}
    own |= {name for name in SingleGraph.__annotations__ if name[0] != "_"} | {"metric", "output_name", "source_sha256"}
    named = set(re.findall(r"`(\w+)`", section))
    assert own <= named, f"docs/own-model.md does not name {own - named}"
    first = {name for row in section.splitlines() for name in re.findall(r"`(\w+)`", (row + "| |").split("|")[1])}
    assert all(hasattr(SingleGraph, name) or name in SingleGraph.__annotations__ for name in first - {"SingleGraph"})
