"""A roofline as tables, as JSON, and as a page that needs nothing but itself."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from model_build.pages import plots
from model_build.roofline import report
from model_build.roofline.analysis import AtBatch, Question, Roofline
from model_build.roofline.devices import CPU, DEVICES
from model_build.roofline.layers import Layer
from model_build.roofline.prediction import BestBatch, predict
from tests.roofline_graphs import DEVICE, layer

HOSTILE = "<script>alert('1')</script>&\"2\""
LAYERS = (
    layer(name="first", module="net.first", operator="Conv+Relu", kind="convolution", flops=1e8, weight_bytes=1e4),
    layer(name="second", module="net.second", operator="MatMul+Add", flops=2e6),
    layer(name="third", module="node_third", operator="Softmax", kind="other", flops=5e4, product_flops=0.0,
          weight_bytes=0.0),
    layer(name="fourth", module="node_view", operator="Reshape", kind="other", flops=0.0, product_flops=0.0,
          weight_bytes=0.0, activation_bytes=0.0, kernels=0, views=1),
    layer(name="fifth", module="net.fifth", operator="MatMul+Add", flops=4e6),
)  # fmt: skip
MEASURED = (1.2e-4, 9e-6, 0.0, 1e-6, 2e-5)


def roofline(
    layers: Sequence[Layer] = LAYERS, measured: Sequence[float] = (), largest: int = 64, never: bool = False
) -> Roofline:
    device = replace(DEVICE, key=CPU, convolution_peak=2e12, overhead=1e-6) if measured else DEVICE
    batches = [AtBatch(batch, predict(layers, device, batch), measured) for batch in (1, 8)]
    question = Question(device.key if measured else "a100", (1, 8), {"tokens": 64})
    return Roofline("digits", device, question, batches, None if never else 6, BestBatch(min(8, largest), largest))


def column(rows: Sequence[Sequence[str]], name: str) -> list[str]:
    index = rows[0].index(name)
    return [row[index] for row in rows[1:]]


def test_tables_have_a_row_for_each_batch_layer_and_operator() -> None:
    found = roofline(measured=MEASURED)
    for rows in (report.batch_rows(found), report.layer_rows(found.batches[0]), report.operator_rows(found.batches[0])):
        assert {len(row) for row in rows} == {len(rows[0])}
        assert "measured" in rows[0]
    assert column(report.batch_rows(found), "batch") == ["1", "8"]
    assert column(report.layer_rows(found.batches[0]), "layer") == [one.module for one in LAYERS]
    operators = report.operator_rows(found.batches[0])
    assert sorted(column(operators, "operator")) == ["Conv+Relu", "MatMul+Add", "Reshape", "Softmax"]
    assert dict(zip(column(operators, "operator"), column(operators, "layers"), strict=True))["MatMul+Add"] == "2"
    assert sum(float(share.rstrip("%")) for share in column(operators, "share")) == pytest.approx(100, abs=2)
    seconds = [one.seconds for one in found.batches[0].layers]
    assert column(operators, "operator")[0] == LAYERS[seconds.index(max(seconds))].operator


def test_a_card_has_no_measured_column() -> None:
    found = roofline()
    for rows in (report.batch_rows(found), report.layer_rows(found.batches[0]), report.operator_rows(found.batches[0])):
        assert "measured" not in rows[0]
        assert {len(row) for row in rows} == {len(rows[0])}


def test_a_table_of_some_layers_has_the_longest_in_the_order_in_which_they_run() -> None:
    at = roofline(measured=MEASURED).batches[0]
    assert column(report.layer_rows(at, 2), "layer") == ["net.first", "net.fifth"]
    at = replace(at, measured=(1e-4, 0.0, 0.0, 0.0, 2e-4))
    assert column(report.layer_rows(at, 2), "layer") == ["net.first", "net.fifth"]
    assert len(report.layer_rows(at, 0)) == 1
    assert len(report.layer_rows(at, 99)) == 1 + len(LAYERS)


def test_figures_of_a_batch_are_sums_over_its_layers() -> None:
    found = roofline()
    row = dict(zip(*report.batch_rows(found)[:2], strict=True))
    flops, moved = sum(one.flops for one in LAYERS), sum(one.bytes for one in LAYERS)
    assert row["GFLOP"] == f"{flops / 1e9:.3g}"
    assert row["MB"] == f"{moved / 1e6:.3g}"
    assert row["FLOPs/byte"] == f"{flops / moved:.1f}"
    assert row["examples/s"] == f"{1 / found.batches[0].seconds:,.0f}"


def test_json_adds_up_and_has_every_layer() -> None:
    for measured in ((), MEASURED):
        found = json.loads(json.dumps(report.to_json(roofline(measured=measured))))
        assert {"model", "device", "precision", "shapes", "compute_bound_from_batch", "best_batch"} <= set(found)
        assert found["shapes"] == {"tokens": 64}
        assert found["best_batch"] == {"batch": 8, "largest": 64}
        for batch in found["batches"]:
            layers: list[dict[str, Any]] = batch["layers"]
            assert [one["name"] for one in layers] == [one.name for one in LAYERS]
            assert batch["flops"] == sum(one["flops"] for one in layers)
            assert batch["product_flops"] < batch["flops"]
            assert batch["bytes"] == sum(one["weight_bytes"] + one["activation_bytes"] for one in layers)
            assert batch["predicted_s"] == pytest.approx(sum(one["predicted_s"] for one in layers))
            times = [one["measured_s"] for one in layers]
            assert times == ([*measured] if measured else [None for _ in layers])
            assert batch["measured_s"] == (pytest.approx(sum(measured)) if measured else None)
            assert {one["bound"] for one in layers} <= {"compute", "memory", "launch"}


def test_large_figures_are_written_out() -> None:
    at = AtBatch(1, predict([layer(flops=1.23456e12, weight_bytes=75_530_000.0)], DEVICE, 1), ())
    row = dict(zip(*report.layer_rows(at), strict=True))
    assert (row["MFLOP"], row["KB"]) == ("1,234,560", "75,540")


def test_the_verdict_says_where_the_limit_is() -> None:
    assert "is bound by computing from batch 6 on" in report.verdict(roofline())
    assert "Best batch for its memory: 8," in report.verdict(roofline())
    assert "bound by memory at every batch" in report.verdict(roofline(never=True))
    assert "do not fit into the memory of 1 GB" in report.verdict(roofline(largest=0))


def test_a_model_of_views_alone_divides_by_nothing() -> None:
    found = roofline((LAYERS[3],))
    assert report.batch_rows(found)[1][-2] == "-"
    assert report.operator_rows(found.batches[0])[1][-1] == "-"
    assert report.page(found)
    assert report.page(roofline((LAYERS[3],), measured=(0.0,)))


def test_the_page_needs_nothing_but_itself() -> None:
    page = report.page(roofline(measured=MEASURED))
    assert not re.search(r"<script|<link|<iframe|@import|\bsrc\s*=", page)
    loaded = re.findall(r"""(?:href|url)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert loaded
    assert all(target.startswith("#") for target in loaded), loaded
    assert "prefers-color-scheme: dark" in page


def test_the_page_has_both_plots_with_titles_and_tables() -> None:
    page = report.page(roofline(measured=MEASURED))
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    titles = [re.sub(r"\s+", " ", str(ElementTree.fromstring(one)[0].text)) for one in drawings]
    assert titles == [
        "Roofline: arithmetic intensity of each layer against its FLOP/s",
        "Predicted time of each layer against its measured time",
    ]
    assert all("var(--series-1)" in one and "#0" not in re.sub(r'"#\w+"', "", one) for one in drawings)
    assert all(name in page for name in ("net.first", "MatMul+Add", "measured", "predicted", "bound by"))
    of_a_card = report.page(roofline())
    assert len(re.findall("<svg", of_a_card)) == 1
    assert ">measured<" not in of_a_card


def test_names_are_shown_and_not_run() -> None:
    layers = [replace(one, module=HOSTILE, operator=HOSTILE) for one in LAYERS]
    found = roofline(layers, measured=MEASURED)
    found = replace(found, model=HOSTILE, device=replace(found.device, name=HOSTILE))
    page = report.page(found)
    assert "<script" not in page
    assert "&lt;script&gt;alert(" in page


def test_a_drawings_title_is_escaped() -> None:
    drawing = plots.bars({"<b>": 1.0}, "ms")
    assert ElementTree.fromstring(str(drawing))[0].text == "<b> 1 ms"


def test_about_says_what_was_assumed() -> None:
    card = dict(report.about(replace(roofline(), device=DEVICES["a100"])))
    assert card["a kernel"].endswith("(assumed)")
    assert card["source"] == DEVICES["a100"].source
    assert card["sizes"] == "tokens 64"
    here = dict(report.about(roofline(measured=MEASURED)))
    assert "assumed" not in here["a kernel"]
    assert "convolutions 2 TFLOP/s" in here["peak"]
