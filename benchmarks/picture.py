"""The results at the largest size as a picture: a dot for a median, a line from the lowest round to the highest.

Dots, since the axes are logarithmic, on which no bar has a length that means anything.
"""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot
from matplotlib.ticker import LogLocator, NullFormatter

from .contestants import BY_NAME
from .report import ROWS, number
from .results import OURS, Measured, Spread

PANELS = ("touch of M", "create", "expired", "late", "idle pass", "bytes")
BLUE, GREY = "#3b6ea8", "#6b7480"


def draw(path: Path, measured: Measured) -> None:
    size = max(measured[OURS])
    with matplotlib.rc_context({"svg.hashsalt": "otel-sessions", "font.size": 9}):
        figure, axes = pyplot.subplots(2, 3, figsize=(13, 6.2), layout="constrained", sharey=True)
        for axis, key in zip(axes.flat, PANELS, strict=True):
            _panel(axis, measured, size, key)
        figure.suptitle(
            f"At {size:,} live sessions: medians of the rounds, lines from the lowest to the highest. Less is better, "
            "axes are logarithmic, M is the bare dict's get + touch, u is M at 1,000"
        )
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


def _panel(axis: Any, measured: Measured, size: int, key: str) -> None:
    title, unit, factor = ROWS[key]
    axis.set_xscale("log")
    for place, name in enumerate(BY_NAME):
        values = measured[name][size].get(key)
        if values is not None:
            _dot(axis, place, Spread.of([value * factor for value in values]), BLUE if name.startswith(OURS) else GREY)
    axis.set_title(f"{title}, {unit}")
    axis.set_yticks(range(len(BY_NAME)), BY_NAME)
    axis.set_ylim(len(BY_NAME) - 0.5, -0.8)
    axis.margins(x=0.25)
    axis.xaxis.set_major_locator(LogLocator(subs=_steps(axis)))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}" if value < 1000 else f"{value / 1000:g}k")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", which="minor", length=0)
    axis.grid(axis="x", color="#e3e6ea")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _dot(axis: Any, place: int, spread: Spread, colour: str) -> None:
    axis.hlines(place, spread.lowest, spread.highest, color=colour, linewidth=1.5)
    axis.plot([spread.median], [place], "o", color=colour, markersize=6)
    axis.annotate(number(spread.median), (spread.median, place), xytext=(0, 5), textcoords="offset points", ha="center")


def _steps(axis: Any) -> tuple[float, ...]:
    """Return which multiples of powers of ten get a tick: more of them where the axis has few powers."""
    low, high = axis.get_xlim()
    return (1.0, 2.0, 5.0) if high < 100 * low else (1.0,)
