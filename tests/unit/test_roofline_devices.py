"""The devices' figures, and a device that is fitted to what was measured."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model_build._errors import ConfigurationError
from model_build.roofline import microbenchmarks
from model_build.roofline.analysis import Question, analyse
from model_build.roofline.calibration import Sample, fit, fit_flops_only
from model_build.roofline.devices import DEVICES, Device, find_device
from model_build.roofline.layers import Layer
from model_build.roofline.measure import measured
from model_build.roofline.prediction import predict
from tests.roofline_graphs import DEVICE, layer, made_workspace, write_network
from tests.support import ROOT

PRECISIONS = ("fp32", "tf32", "fp16", "int8")
TENSOR_CORES: Mapping[str, float] = {  # FP16 dense over FP32, as the chips are built
    "t4": 8,
    "a10g": 2,
    "l4": 4,
    "a100": 16,
    "h100": 14.8,
    "h200": 14.8,
    "rtx3070ti": 2,
    "rtx4090": 2,
}


@pytest.mark.parametrize("key", sorted(DEVICES))
def test_every_device_has_a_source_and_plausible_figures(key: str) -> None:
    device = DEVICES[key]
    assert device.key == key
    assert device.name.startswith("NVIDIA ")
    assert len(device.source) > 20
    assert 8e12 <= device.peaks["fp32"] == device.vector_peak < 1e14
    assert 3e11 <= device.bandwidth <= 5e12
    assert 8e9 <= device.memory <= 1.41e11


@pytest.mark.parametrize("key", sorted(DEVICES))
def test_peaks_are_dense(key: str) -> None:
    # Sparsity doubles a figure; a row that mixed the two would break one of these ratios.
    peaks = DEVICES[key].peaks
    assert peaks["fp16"] / peaks["fp32"] == pytest.approx(TENSOR_CORES[key], rel=0.02)
    if "tf32" in peaks:
        assert peaks["fp16"] / peaks["tf32"] == pytest.approx(2, rel=0.01)
    assert peaks["int8"] / peaks["fp16"] == pytest.approx(4 if key.startswith("rtx") else 2, rel=0.01)


def test_a_device_is_found_however_it_is_written() -> None:
    assert find_device("RTX-4090") is find_device("rtx 4090") is find_device("rtx_4090") is DEVICES["rtx4090"]


def test_an_unknown_device_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigurationError, match="device 'v100' is unknown") as error:
        find_device("v100")
    assert all(key in str(error.value) for key in (*DEVICES, "cpu"))


def test_the_docs_have_every_device_and_its_figures() -> None:
    section = (ROOT / "docs" / "roofline.md").read_text().partition("\n## Devices\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", section, re.MULTILINE)
    assert [key for key, _ in rows] == list(DEVICES)
    for key, text in rows:
        device = DEVICES[key]
        name, *figures, source = (cell.strip() for cell in text.split("|"))
        rates = [f"{device.peaks[kind] / 1e12:g}" if kind in device.peaks else "-" for kind in PRECISIONS]
        assert figures == [*rates, f"{device.bandwidth / 1e9:g}", f"{device.memory / 1e9:g}"], key
        assert (name, source) == (device.name.removeprefix("NVIDIA "), device.source)


def made_of(
    device: Device, views: bool = True, kinds: tuple[str, ...] = ("product", "convolution", "other")
) -> list[Sample]:
    """Layers of many sizes, and the time that they take on `device` exactly."""
    random = np.random.default_rng(1)
    layers: list[Layer] = []
    for kind in kinds:
        for intensity in np.geomspace(0.1, 1000, 25):
            moved = float(random.uniform(1e3, 1e7))
            layers.append(layer(kind=kind, flops=moved * float(intensity), weight_bytes=0.0, activation_bytes=moved))
    if views:
        layers += [layer(kind="other", flops=0.0, weight_bytes=0.0, activation_bytes=0.0, kernels=0, views=1)] * 5
    return [Sample(one.layer, one.seconds) for one in predict(layers, device, 1)]


def test_fitting_recovers_the_device_that_the_times_are_of() -> None:
    device = replace(DEVICE, convolution_peak=3e12, overhead=4e-6, view_overhead=1e-6, packing=3e11)
    found = fit(made_of(device), "found", 7.0)
    assert (found.key, found.name, found.memory) == ("cpu", "found", 7.0)
    assert found.peaks["fp32"] == pytest.approx(1e12, rel=0.01)
    for name in ("convolution_peak", "vector_peak", "bandwidth", "overhead", "view_overhead", "packing"):
        assert getattr(found, name) == pytest.approx(getattr(device, name), rel=0.01), name


def test_a_few_wrong_times_change_little() -> None:
    samples = made_of(replace(DEVICE, overhead=4e-6, view_overhead=1e-6))
    wrong = [replace(one, seconds=one.seconds * 30) if index % 20 == 0 else one for index, one in enumerate(samples)]
    assert fit(wrong, "found", 0.0).bandwidth == pytest.approx(1e11, rel=0.1)


def test_kinds_that_were_not_measured_take_the_peak_of_products() -> None:
    device = replace(DEVICE, overhead=4e-6)
    found = fit(made_of(device, views=False, kinds=("product",)), "found", 0.0)
    assert found.peaks["fp32"] == found.convolution_peak == found.vector_peak == pytest.approx(1e12, rel=0.01)
    assert found.view_overhead == found.overhead
    others = fit(made_of(device, views=False, kinds=("other",)), "found", 0.0)
    assert others.peaks["fp32"] == others.vector_peak == pytest.approx(1e11, rel=0.01)


def test_layers_that_took_no_time_are_left_out() -> None:
    samples = made_of(replace(DEVICE, overhead=4e-6, view_overhead=1e-6))
    found = fit([*samples, Sample(layer(), 0.0)], "found", 0.0)
    assert found.source == f"fitted to {len(samples)} layers that were timed on it"


def test_flops_only_is_one_rate_over_everything() -> None:
    assert (
        fit_flops_only([Sample(layer(flops=4e6), 2.0), Sample(layer(flops=2e6), 0.5), Sample(layer(flops=0.0), 0.5)])
        == 2e6
    )


def test_a_layers_time_is_that_of_its_nodes() -> None:
    layers = [layer(nodes=("a", "b")), layer(nodes=("c",)), layer(nodes=("gone",))]
    assert measured(layers, {"a": 1.0, "b": 2.0, "c": 4.0}) == [3.0, 4.0, 0.0]


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A calibration of fewer graphs."""
    for name in ("_ELEMENTS", "_PRODUCTS", "_CONVOLUTIONS"):
        monkeypatch.setattr(microbenchmarks, name, getattr(microbenchmarks, name)[:1])


def test_this_machine_is_calibrated_and_its_layers_are_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shorten(monkeypatch)
    workspace = made_workspace(tmp_path)
    write_network(workspace / "build" / "digits" / "model.onnx")
    found = analyse(workspace, "digits", Question("CPU", (1, 64)))
    assert found.device.key == "cpu"
    assert 1e9 < found.device.peaks["fp32"] < 1e13
    assert 1e-7 < found.device.overhead < 1e-3
    for one in found.batches:
        assert len(one.measured) == len(one.layers) == 2
        assert all(seconds > 0 for seconds in one.measured)


def test_the_calibration_has_every_kind_of_layer_and_views(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)
    samples = microbenchmarks.run()
    assert {one.layer.kind for one in samples} == {"product", "convolution", "other"}
    assert sum(one.layer.views for one in samples) == 1
    assert all(one.seconds > 0 for one in samples)
