"""The report page of each model, and where the time of a request goes, asked of a real server."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from slipway_client import ConnectError, InvalidInput, ModelNotFound, TritonError, measure_latency

from model_build.report import golden_inputs
from serving import EmbeddedTriton
from tests.support import FAST, error_lines, free_ports, slipway

pytestmark = pytest.mark.timeout(1200)  # whichever comes first builds all four

STAGES = ["client send", "network and server", "queue", "input", "infer", "output", "client receive"]


class Page(HTMLParser):
    """Headings, text and what a page would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.tags and self.tags[-1] == "h2" and data.strip():
            self.headings.append(data.strip())


@pytest.fixture(scope="module", params=sorted(FAST))
def page(request: pytest.FixtureRequest, four_models: Path) -> tuple[str, Page]:
    model = request.param
    result = slipway(four_models, "report", model, "--device", "t4", "--device", "h100", "--batch", "1,4")
    assert result.returncode == 0, result.stderr
    path = four_models / "build" / model / "report.html"
    assert result.stdout.split() == ["written:", str(path)]
    return model, Page(path.read_text())


def test_the_report_has_every_part_and_loads_nothing(page: tuple[str, Page]) -> None:
    model, found = page
    parts = ["Precisions", "Training", "Where a request's time goes", "Roofline", "Samples"]
    assert found.headings == parts
    assert f"{model}: what was built" in found.text
    assert [one for one in found.loads if not one.startswith(("data:image/png", "#"))] == []
    assert not {"script", "link", "iframe"} & set(found.tags)


def test_the_report_names_commit_data_machine_and_devices(page: tuple[str, Page], four_models: Path) -> None:
    _, found = page
    commit = (four_models / ".git" / "refs" / "heads").glob("*")
    (head,) = [path.read_text().strip()[:12] for path in commit]
    assert head in found.text
    for part in ("processor", "memory", "GPU", "NVIDIA T4, FP16", "NVIDIA H100", "sha256", "measured"):
        assert part in found.text, part


def test_the_report_shows_the_stages_of_a_request_and_the_variants_that_there_are(page: tuple[str, Page]) -> None:
    model, found = page
    for stage in STAGES:
        assert stage in found.text
    assert ("int8 on gpu: no GPU was asked" in found.text) is (model == "embedder")
    assert ("chosen on cpu: fp32" in found.text) is (model != "embedder")


def test_the_report_shows_pictures_or_sentences(page: tuple[str, Page]) -> None:
    model, found = page
    assert (found.tags.count("img") == 10) is (model in ("digits", "alexnet"))
    columns = {"translator": "reference", "embedder": "summary"}
    assert columns.get(model, "probability") in found.text


def test_stages_of_a_request_add_up_to_its_time_as_the_client_saw_it(
    server: EmbeddedTriton, built_workspace: Path
) -> None:
    inputs = golden_inputs(built_workspace, "digits")
    found = measure_latency(server.options.http_url, "digits", inputs, requests=40)
    assert found.requests == 40
    assert list(found.stages) == STAGES
    assert sum(found.stages.values()) == pytest.approx(found.mean)
    assert 0 < found.p50 <= found.p95
    assert found.stages["infer"] > 0
    assert [one.requests for one in found.models] == [40, 40]  # the public name, and what it is routed to
    assert found.models[0].model == "digits"
    routed = found.models[1]
    assert found.stages["queue"] == pytest.approx(routed.stages["queue"])  # an ensemble's own time is not added again
    assert routed.total <= found.mean


def test_each_step_of_an_ensemble_is_counted_once(four_server: EmbeddedTriton, four_models: Path) -> None:
    inputs = golden_inputs(four_models, "embedder")
    found = measure_latency(four_server.options.http_url, "embedder", inputs, requests=10)
    names = {one.model for one in found.models}
    assert {"embedder", "embedder_tokenizer", "embedder_pooling"} <= names
    assert any(name.startswith("embedder_transformer_") for name in names)
    steps = [one for one in found.models if not re.fullmatch(r"embedder(_fp32|_int8)?", one.model)]
    assert len(steps) == 3
    assert found.stages["infer"] == pytest.approx(sum(one.stages["infer"] for one in steps))


def test_what_cannot_be_timed_is_one_sentence(server: EmbeddedTriton) -> None:
    url = server.options.http_url
    with pytest.raises(InvalidInput, match="image"):
        measure_latency(url, "digits", {"image": np.zeros((1, 2), np.float32)})
    with pytest.raises(ModelNotFound):
        measure_latency(url, "nope", {})
    with pytest.raises(TritonError, match="expected http://host:port"):
        measure_latency(server.options.grpc_url, "digits", {})
    (port,) = free_ports(1)
    with pytest.raises(ConnectError):
        measure_latency(f"http://127.0.0.1:{port}", "digits", {})


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (
            "alexnet",
            "model 'alexnet' has no {}/model_repository/alexnet/golden/request.json: run `slipway build alexnet`",
        ),
        (
            "alexnet_224",
            "model 'alexnet_224' is exported to be analysed and never served: "
            "`slipway roofline alexnet_224 --device cpu --html`",
        ),
    ],
)
def test_a_model_that_has_no_report_says_what_to_run(workspace: Path, model: str, says: str) -> None:
    result = slipway(workspace, "report", model)
    assert result.returncode == 1
    assert error_lines(result) == [f"error: {says.format(workspace)}"]


def test_a_device_that_is_unknown_is_said_before_anything_is_served(workspace: Path) -> None:
    result = slipway(workspace, "report", "digits", "--device", "gtx")
    assert result.returncode == 1
    (line,) = error_lines(result)
    assert line.startswith("error: device 'gtx' is unknown: expected one of t4,")
    assert not (workspace / "build" / "triton-report.log").exists()


def test_a_report_asks_a_server_that_runs_already(server: EmbeddedTriton, workspace: Path) -> None:
    result = slipway(workspace, "report", "digits", "--url", server.options.http_url, "--batch", "1")
    assert result.returncode == 0, result.stderr
    assert not (workspace / "build" / "triton-report.log").exists()
    (port,) = free_ports(1)
    result = slipway(workspace, "report", "digits", "--url", f"http://127.0.0.1:{port}")
    assert result.returncode == 1
    (line,) = error_lines(result)
    assert f"no server answers at http://127.0.0.1:{port}" in line
