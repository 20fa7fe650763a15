"""Plots as SVG elements whose colours are the page's (CSS variables), so that they follow its theme."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from model_build.roofline.devices import Device
from model_build.roofline.prediction import COMPUTE, MEMORY, Predicted

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # which fonts it looked for is nobody's business

# Colours that stand for the page's own, which are put in once the SVG is written.
TEXT, MUTED, GRID = "#010203", "#040506", "#070809"
SERIES = ("#0a0b0c", "#0d0e0f", "#101112", "#131415")
_VARIABLES = {TEXT: "--text", MUTED: "--muted", GRID: "--line"} | {
    colour: f"--series-{index}" for index, colour in enumerate(SERIES, 1)
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "slipway",
    "font.size": 9,
    "font.family": "sans-serif",
    "text.color": TEXT,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": TEXT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
_BOUND = {COMPUTE: SERIES[0], MEMORY: SERIES[1]}


def roofline(layers: Sequence[Predicted], device: Device, measured: Sequence[float] = ()) -> Markup:
    """Arithmetic intensity against FLOP/s: the device's roof, and each layer under it as predicted and as measured."""
    shown = [(one, took) for one, took in _pairs(layers, measured) if one.layer.flops and one.layer.bytes]
    with _figure("Roofline: arithmetic intensity of each layer against its FLOP/s") as (axes, done):
        kinds = sorted({(one.layer.kind, one.layer.precision) for one, _ in shown}) or [("other", "")]
        intensities = [one.layer.intensity for one, _ in shown] or [1.0]
        low, high = min(intensities) / 3, max([*intensities, _ridge(device, kinds)]) * 3
        roof = np.geomspace(low, high, 200)
        for index, peak in enumerate(sorted({device.peak(*kind) for kind in kinds}, reverse=True)):
            axes.plot(roof, np.minimum(peak, roof * device.bandwidth), color=TEXT, linewidth=1)
            names = ", ".join(sorted({_kind(*kind) for kind in kinds if device.peak(*kind) == peak}))
            side = ("bottom", "top")[index % 2]
            axes.annotate(f"{names}: {_rate(peak)}", (high, peak), ha="right", va=side, fontsize=7, color=MUTED)
        times = [one.seconds for one, _ in shown]
        for bound, colour in (*_BOUND.items(), ("launch", SERIES[2])):
            of_it = [one for one, _ in shown if one.bound == bound]
            sizes = [12 + 90 * one.seconds / max(times) for one in of_it]
            points = [one.layer.intensity for one in of_it], [one.layer.flops / one.seconds for one in of_it]
            if of_it:
                axes.scatter(*points, s=sizes, color=colour, alpha=0.75, linewidth=0, label=f"predicted, {bound}")
        if measured:
            timed = [(one.layer.intensity, one.layer.flops / took) for one, took in shown if took]
            points = [intensity for intensity, _ in timed], [rate for _, rate in timed]
            axes.scatter(*points, s=16, facecolor="none", edgecolor=SERIES[3], linewidth=0.9, label="measured")
        axes.set(xscale="log", yscale="log", xlabel="FLOPs a byte", ylabel="FLOP/s")
        if shown:
            axes.legend(loc="lower right")
    return done()


def predicted_against_measured(layers: Sequence[Predicted], measured: Sequence[float]) -> Markup:
    """Each layer's predicted time against ONNX Runtime's, with the line on which they are the same."""
    shown = [(one, took) for one, took in _pairs(layers, measured) if took and one.seconds]
    with _figure("Predicted time of each layer against its measured time") as (axes, done):
        for index, kind in enumerate(sorted({one.layer.kind for one, _ in shown})):
            of_it = [(took * 1e6, one.seconds * 1e6) for one, took in shown if one.layer.kind == kind]
            axes.scatter(
                *zip(*of_it, strict=True), s=18, color=SERIES[index], alpha=0.75, linewidth=0, label=_kind(kind)
            )
        ends = [1e6 * value for one, took in shown for value in (took, one.seconds)] or [1.0, 10.0]
        axes.plot([min(ends), max(ends)], [min(ends), max(ends)], color=TEXT, linewidth=1)
        axes.set(xscale="log", yscale="log", xlabel="measured, µs", ylabel="predicted, µs")
        if shown:
            axes.legend(loc="upper left")
    return done()


def curves(by_name: Mapping[str, Sequence[float]], ylabel: str) -> Markup:
    """Values of each epoch, one line for each name."""
    with _figure(f"{ylabel} by epoch: {', '.join(by_name)}", height=2.6) as (axes, done):
        for index, (name, values) in enumerate(by_name.items()):
            axes.plot(range(1, len(values) + 1), values, color=SERIES[index % len(SERIES)], linewidth=1.4, label=name)
        axes.set(xlabel="epoch", ylabel=ylabel)
        axes.legend()
    return done()


def bars(shares: Mapping[str, float], unit: str) -> Markup:
    """One horizontal bar for each name, with its value beside it."""
    with _figure(", ".join(f"{name} {_amount(value)} {unit}" for name, value in shares.items()), height=2.4) as it:
        axes, done = it
        names = list(shares)[::-1]
        drawn = axes.barh(names, [shares[name] for name in names], color=SERIES[0], height=0.62)
        axes.bar_label(drawn, [f" {_amount(shares[name])} {unit}" for name in names], fontsize=8, color=TEXT, padding=2)
        axes.set(xlabel=unit)
        axes.margins(x=0.22)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", labelcolor=TEXT, length=0)
    return done()


@contextmanager
def _figure(says: str, height: float = 3.6) -> Iterator[tuple[Any, Callable[[], Markup]]]:
    """A figure as wide as a phone's page is at its own size."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5, height), layout="constrained")
        axes = figure.add_subplot()

        def done() -> Markup:
            with mpl.rc_context(_STYLE):
                return _svg(figure, says)

        yield axes, done


def _svg(figure: Figure, says: str) -> Markup:
    content = io.StringIO()
    figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = content.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    # Its size is the page's business, and its title is for who cannot see it.
    viewed = re.search(r'viewBox="[^"]*"', text)
    assert viewed is not None
    title = Markup("<title>{}</title>").format(says)
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return Markup(f'<svg role="img" {viewed[0]} {names}>{title}{text[text.index(">") + 1 :]}')  # noqa: S704 - our own


def _pairs(layers: Sequence[Predicted], measured: Sequence[float]) -> list[tuple[Predicted, float]]:
    return list(zip(layers, measured or [0.0] * len(layers), strict=True))


def _ridge(device: Device, kinds: Sequence[tuple[str, str]]) -> float:
    return max((device.peak(*kind) for kind in kinds), default=device.vector_peak) / device.bandwidth


def _kind(kind: str, precision: str = "") -> str:
    names = {"product": "products", "convolution": "convolutions", "other": "the rest"}
    return f"{names[kind]} {precision.upper()}".strip() if kind != "other" else names[kind]


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _rate(value: float) -> str:
    return f"{value / 1e12:.3g} TFLOP/s" if value >= 1e12 else f"{value / 1e9:.3g} GFLOP/s"
