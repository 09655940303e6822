"""Pictures beside a report: a cost against a size on log axes, and steps cut into computing and waiting."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

__all__ = ["Curve", "Step", "draw_growth", "draw_steps"]

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


@dataclass(frozen=True, kw_only=True)
class Step:
    """One bar of a picture."""

    name: str
    """Who trains."""
    seconds: float
    """What a step takes: the median."""
    low: float
    """A quarter of the repetitions took less."""
    high: float
    """A quarter took more."""


def draw_steps(path: Path, steps: Sequence[Step], *, computing: float, title: str) -> None:
    """Draw a bar for each way of training into an SVG file: what everybody computes, and what comes on top.

    Args:
        path: The file.
        steps: The ways, from top to bottom.
        computing: Seconds of a step in which nobody says a word.
        title: What the picture says.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.6, 1.6 + 0.34 * len(steps)), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", size=12)
        axes = figure.subplots()
        places = range(len(steps))
        waiting = [1e3 * max(step.seconds - computing, 0) for step in steps]
        whiskers = [
            [1e3 * (step.seconds - step.low) for step in steps],
            [1e3 * (step.high - step.seconds) for step in steps],
        ]
        axes.barh(places, 1e3 * computing, color="#c9ced6", height=0.72, label="computing")
        axes.barh(
            places,
            waiting,
            left=1e3 * computing,
            xerr=whiskers,
            error_kw={"elinewidth": 1, "capsize": 2, "ecolor": _FLOOR_COLOUR},
            color=_COLOURS[0],
            height=0.72,
            label="exchanging, and waiting for others",
        )
        for place, step in zip(places, steps, strict=True):
            axes.annotate(
                f"{1e3 * step.seconds:.3g}",
                (1e3 * step.high, place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
            )
        axes.set_yticks(places, [step.name for step in steps])
        axes.invert_yaxis()
        axes.set(xlabel="milliseconds a step")
        axes.set_xlim(0, 1.08 * max(1e3 * step.high for step in steps))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#dddddd", linewidth=0.7)
        axes.set_axisbelow(True)
        figure.legend(frameon=False, loc="outside lower right", ncols=2)
        figure.savefig(path, format="svg", metadata={"Date": None})


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
