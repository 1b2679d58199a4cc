"""Dots of a picture: a dot for a median, a line from the lowest round to the highest.

Dots, since the axes are logarithmic, on which no bar has a length that means anything.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot
from matplotlib.ticker import LogLocator, NullFormatter

from .spread import Spread

BLUE, GREY = "#3b6ea8", "#6b7480"
"""Ours, and others."""


def number(value: float) -> str:
    """Return a number as tables and pictures write it."""
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


@contextlib.contextmanager
def drawn(path: Path, rows: int, columns: int, size: tuple[float, float], title: str) -> Iterator[Sequence[Any]]:
    """Give the axes of a figure, which share what stands at the left, and write the figure when the block ends.

    The same dots give the same file.
    """
    with matplotlib.rc_context({"svg.hashsalt": "otel-sessions", "font.size": 9}):
        figure, axes = pyplot.subplots(rows, columns, figsize=size, layout="constrained", sharey=True)
        yield list(axes.flat)
        figure.suptitle(title)
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


def panel(axis: Any, title: str, names: Sequence[str], found: Sequence[tuple[Spread | None, str]]) -> None:
    """Draw a spread and its colour for each name. A name without a spread has an empty row."""
    axis.set_xscale("log")
    for place, (spread, colour) in enumerate(found):
        if spread is not None:
            _dot(axis, place, spread, colour)
    axis.set_title(title)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.8)
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
