"""Pictures beside a report: a cost against a size on log axes, floors as dashed lines."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

__all__ = ["Curve", "draw_growth"]

_STYLE: Any = {
    "svg.fonttype": "path",  # looks the same everywhere, whatever fonts there are
    "svg.hashsalt": "localsgd",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
}
_COLOURS = ("#0b5fa5", "#d1495b", "#2e8b57", "#8a5cb8")
_FLOOR_COLOUR = "#444444"
_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))
_COUNTS = ((1e9, "B"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a picture."""

    name: str
    """What the legend calls it."""
    sizes: Sequence[float]
    """Where its points lie, from left to right."""
    seconds: Sequence[float]
    """The medians."""
    low: Sequence[float]
    """Lower ends of the bars: a quarter of the repetitions are below."""
    high: Sequence[float]
    """Upper ends."""
    is_floor: bool = False
    """Whether this is what physics asks."""


def draw_growth(path: Path, curves: Sequence[Curve], *, title: str, size: str) -> None:
    """Draw curves into an SVG file.

    Args:
        path: The file.
        curves: At least one, with the same sizes or some of them.
        title: What the picture says.
        size: What grows, for the axis.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        axes = figure.subplots()
        colours = iter(_COLOURS)
        for curve in sorted(curves, key=lambda one: one.is_floor):
            below = [middle - low for middle, low in zip(curve.seconds, curve.low, strict=True)]
            above = [high - middle for middle, high in zip(curve.seconds, curve.high, strict=True)]
            axes.errorbar(
                curve.sizes,
                curve.seconds,
                yerr=[below, above],
                label=curve.name,
                color=_FLOOR_COLOUR if curve.is_floor else next(colours),
                linestyle="--" if curve.is_floor else "-",
                marker="" if curve.is_floor else "o",
                markersize=5,
                linewidth=1.6,
                capsize=0 if curve.is_floor else 3,
                elinewidth=0 if curve.is_floor else 1,
                zorder=3 if curve.is_floor else 2,
            )
        axes.set(xscale="log", yscale="log", xlabel=size, ylabel="time of one sync", title=title)
        lowest = math.floor(math.log10(min(min(curve.low) for curve in curves)))
        highest = math.ceil(math.log10(max(max(curve.high) for curve in curves)))
        axes.set_ylim(10.0**lowest, 10.0**highest)  # whole decades: what is flat shall look flat
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if highest - lowest <= 2 else (1,)))
        axes.set_xticks(sorted({x for curve in curves for x in curve.sizes}))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _counted(value)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _worded(value, _SECONDS, gap=" ")))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_formatter(NullFormatter())
        axes.minorticks_off()
        axes.grid(color="#dddddd", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.legend(frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _counted(value: float) -> str:
    exact = value < 1e4 and value % 1000
    return f"{value:,.0f}" if exact else _worded(value, _COUNTS)


def _worded(value: float, units: Sequence[tuple[float, str]], *, gap: str = "") -> str:
    for size, unit in units:
        if value >= 0.999 * size:
            return f"{value / size:.3g}{gap}{unit}"
    return f"{value:.3g}"
