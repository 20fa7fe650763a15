"""docs/kubernetes.md says what the chart and the weights' container say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from serving._store import _MEANINGS
from tests.support import ROOT
from tests.unit.chart.rendering import at, merged, options, render

PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
CHART = ROOT / "charts" / "slipway"
# Documented as a whole: what is inside is Kubernetes' own, or said in one line.
WHOLE = re.compile(r"\.(image|resources|service|volume|nodeSelector|tolerations)$")


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value and not WHOLE.search(path):
            yield from leaves(value, f"{path}.")
        else:
            yield path


def test_every_value_of_the_chart_is_in_the_table() -> None:
    values = set(leaves(yaml.safe_load((CHART / "values.yaml").read_text())))
    table = PAGE.partition("## Values")[2].partition("\n## ")[0]
    named = {
        key
        for row in table.splitlines()
        if row.startswith("| `")
        for key in re.findall(r"`([\w.]+)`", row.split("|")[1])
    }
    assert named == values


@pytest.mark.parametrize("meaning", [meaning for _, meaning in _MEANINGS])
def test_every_sentence_about_the_store_is_explained(meaning: str) -> None:
    assert f"`{meaning.partition(':')[0]}`" in PAGE


@pytest.mark.parametrize("sentence", ["the weights image carries revision", "is damaged", "lacks", "is in no manifest"])
def test_what_the_weights_container_finds_wrong_is_explained(sentence: str) -> None:
    code = "".join((ROOT / "serving" / f"{name}.py").read_text() for name in ("weights", "_store", "_repository"))
    assert sentence in code
    assert sentence in PAGE.partition("## When something is wrong")[2]


def test_every_sentence_that_the_chart_refuses_values_with_is_explained() -> None:
    sentences = re.findall(r'fail (?:\(printf )?"\\n([\w.]+ is)', (CHART / "templates" / "_helpers.tpl").read_text())
    assert len(sentences) == 3
    for sentence in sentences:
        assert f"`{sentence}" in PAGE, sentence


def test_the_values_of_the_page_run_a_cpu_release_on_nvidias_image() -> None:
    section = PAGE.partition("\n## On CPUs with NVIDIA's image\n")[2].partition("\n## ")[0]
    values = yaml.safe_load(section.partition("```yaml\n")[2].partition("```")[0])
    release = merged(at("gpu.enabled", True), at("gpu.image.repository", "registry.example.com/ml/slipway-gpu"))
    server = render(merged(release, values)).server
    assert server["image"] == "registry.example.com/ml/slipway-gpu:1.4.0"
    assert options(server)["--model-config-name"] == "cpu"
    assert "nvidia.com/gpu" not in str(server["resources"])
