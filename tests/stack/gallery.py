"""Draws panels as Grafana lays them out: from the dashboards' JSON and what Prometheus answers.

It knows what the first screen of "Sessions" uses: the grid, units, legends, thresholds, overrides and value mappings.
It is a picture of what is to be seen, and no proof of Grafana.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

COLORS: Final = {
    "green": "#73bf69",
    "yellow": "#f2cc0c",
    "light-blue": "#8ab8ff",
    "orange": "#ff9830",
    "red": "#f2495c",
    "blue": "#5794f2",
    "purple": "#b877d9",
}
PALETTE: Final = ("green", "yellow", "light-blue", "orange", "red", "blue", "purple")
GROUND, PANEL, EDGE, TEXT, FAINT = "#111217", "#181b1f", "#2c3038", "#ccccdc", "#8e8e9b"
COLUMNS: Final = 24
LINE: Final = 0.022
"""The height of a line of text, as a share of the picture's."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Series:
    labels: Mapping[str, str]
    points: Points


@dataclass(frozen=True, kw_only=True)
class Mark:
    """An annotation: from when to when, and what it says."""

    start: float
    end: float
    text: str
    color: str


Ask = Callable[[Mapping[str, Any]], list[Series]]
"""Returns what a panel's query gets; of an instant query, one point each."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One series as the panel shows it: its name, its unit and color, and the other properties that were set for it."""

    name: str
    points: Points
    color: str
    having: Mapping[str, Any]

    def said(self, value: float) -> str:
        """Return a value as the panel writes it, or what the panel calls it."""
        called = self._called(value)
        return called["text"] if called else in_unit(value, self.having["unit"], self.having.get("decimals"))

    def color_of(self, value: float) -> str:
        """Return the color of a value: that of its name, of the curve, or of the threshold that it has reached."""
        called = self._called(value)
        if called:
            return COLORS[called["color"]]
        if self.having.get("color", {}).get("mode") == "fixed":
            return self.color
        steps = self.having["thresholds"]["steps"]
        return COLORS[[step["color"] for step in steps if step["value"] is None or step["value"] <= value][-1]]

    def _called(self, value: float) -> dict[str, Any] | None:
        for mapping in self.having.get("mappings", []):
            options = mapping["options"]
            if options["from"] <= value <= options["to"]:
                result: dict[str, Any] = options["result"]
                return result
        return None


def in_unit(value: float, unit: str, decimals: int | None) -> str:
    """Return a value as Grafana writes it."""
    if unit == "percentunit":
        return f"{_number(100 * value, decimals)}%"
    kind, _, word = unit.partition(":")
    base, prefixes = (1024, ("B", "KiB", "MiB", "GiB")) if unit == "bytes" else (1000, ("", "K", "M", "B"))
    if kind == "suffix":
        return f"{_number(value, decimals)} {word}"
    place = 0
    while abs(value) >= base and place < len(prefixes) - 1:
        value, place = value / base, place + 1
    return " ".join(part for part in (_number(value, decimals), prefixes[place], word) if part)


def _number(value: float, decimals: int | None) -> str:
    return f"{value:.{decimals}f}" if decimals is not None else f"{float(f'{value:.3g}'):g}"


def curves_of(panel: Mapping[str, Any], ask: Ask) -> list[Curve]:
    """Return the curves of a panel, in the order and with the colors that Grafana gives them."""
    found = [
        (re.sub(r"{{(\w+)}}", lambda name: series.labels.get(name[1], ""), target["legendFormat"]), series.points)  # noqa: B023
        for target in panel["targets"]
        for series in ask(target)
    ]
    return [_curve(panel, name, points, number) for number, (name, points) in enumerate(found)]


def _curve(panel: Mapping[str, Any], name: str, points: Points, number: int) -> Curve:
    having = dict(panel["fieldConfig"]["defaults"])
    for override in panel["fieldConfig"]["overrides"]:
        wanted = override["matcher"]["options"]
        if wanted == name or (override["matcher"]["id"] == "byRegexp" and re.search(wanted.strip("/"), name)):
            having |= {part["id"]: part["value"] for part in override["properties"]}
    color = having.get("color", {})
    chosen = color["fixedColor"] if color.get("mode") == "fixed" else PALETTE[number % len(PALETTE)]
    return Curve(name=name, points=points, color=COLORS[chosen], having=having)


def draw_screen(
    path: Path, panels: Sequence[Mapping[str, Any]], ask: Ask, marks: Sequence[Mark], *, start: float, end: float
) -> None:
    """Draw the panels over a stretch of time into a file."""
    mpl.rcParams["svg.hashsalt"] = "otel-sessions"  # the same answers make the same file
    mpl.rcParams["svg.fonttype"] = "none"
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = Figure(figsize=(16, rows * 0.5), facecolor=GROUND)
    for panel in panels:
        grid = panel["gridPos"]
        box = (
            (grid["x"] + 0.08) / COLUMNS,
            1 - (grid["y"] + grid["h"] - 0.08) / rows,
            (grid["w"] - 0.16) / COLUMNS,
            (grid["h"] - 0.16) / rows,
        )
        ground = figure.add_axes(box, facecolor=PANEL, xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1))
        for spine in ground.spines.values():
            spine.set_color(EDGE)
        high = LINE / box[3]
        ground.text(0.02, 1 - high, panel["title"], color=TEXT, fontsize=10, va="center", weight="medium")
        curves = curves_of(panel, ask)
        if panel["type"] == "stat":
            _draw_figures(ground, panel, curves, start, end)
        else:
            _draw_curves(figure, ground, box, curves, marks, start, end)
    figure.savefig(path, dpi=100, facecolor=GROUND, metadata={"Date": None} if path.suffix == ".svg" else None)


def _draw_figures(ground: Axes, panel: Mapping[str, Any], curves: Sequence[Curve], start: float, end: float) -> None:
    """Draw a row for each curve: its name, the last value, and below them the curve itself."""
    filled = panel["options"]["colorMode"] == "background"
    named = panel["options"]["textMode"] == "value_and_name"
    shown = [curve for curve in curves if curve.points]
    if not shown:
        ground.text(0.5, 0.4, "no data", color=FAINT, fontsize=14, ha="center", va="center")
    for number, curve in enumerate(shown):
        high = 0.8 / len(shown)
        row = ground.inset_axes((0.02, 0.8 - (number + 1) * high + 0.02, 0.96, high - 0.04))
        value = curve.points[-1][1]
        color = curve.color_of(value)
        row.set(facecolor=color if filled else PANEL, xticks=[], yticks=[], xlim=(start, end))
        for spine in row.spines.values():
            spine.set_visible(False)
        if panel["options"]["graphMode"] == "area":
            times, values = zip(*curve.points, strict=True)
            row.fill_between(times, values, color=color, alpha=0.2, linewidth=0)
            row.set_ylim(0, max(1.0, 1.6 * max(values)))
        ink = "#ffffff" if filled else color
        if named:
            row.text(
                0.04,
                0.5,
                curve.name,
                color="#ffffff" if filled else TEXT,
                fontsize=9,
                va="center",
                transform=row.transAxes,
            )
        place, side = (0.96, "right") if named else (0.5, "center")
        size = min(15.0, 32 - 0.75 * len(curve.name + curve.said(value)))  # Grafana also takes what fits
        row.text(place, 0.5, curve.said(value), color=ink, fontsize=size, ha=side, va="center", transform=row.transAxes)


def _draw_curves(
    figure: Figure,
    ground: Axes,
    box: tuple[float, float, float, float],
    curves: Sequence[Curve],
    marks: Sequence[Mark],
    start: float,
    end: float,
) -> None:
    """Draw the curves, and below them the legend with the latest and the largest value of each."""
    left, bottom, width, height = box
    legend = (len(curves) + 1.5) * LINE
    place = (left + 0.055, bottom + legend + 0.045, width - 0.115, height - legend - 0.13)
    axes = figure.add_axes(place, facecolor=PANEL)
    right = axes.twinx()
    for curve in curves:
        on = right if curve.having.get("custom.axisPlacement") == "right" else axes
        times, values = zip(*curve.points, strict=True) if curve.points else ((), ())
        dash = (0, (6, 4)) if "custom.lineStyle" in curve.having else "-"
        on.plot([when - start for when in times], values, color=curve.color, linestyle=dash, linewidth=1.6)
        if "custom.fillOpacity" not in curve.having:
            on.fill_between([when - start for when in times], values, color=curve.color, alpha=0.08, linewidth=0)
    for number, mark in enumerate(marks):
        since, color = mark.start - start, COLORS[mark.color]
        axes.axvspan(since, max(mark.end - start, since + 0.5), color=color, alpha=0.14)
        axes.axvline(since, color=color, linestyle=":", linewidth=1)
        high = 1.02 + 0.045 * (number % 3)
        axes.text(since, high, mark.text, color=color, fontsize=7.5, transform=axes.get_xaxis_transform())
    axes.grid(color=EDGE, linewidth=0.6)
    _dress(axes, [curve for curve in curves if "custom.axisPlacement" not in curve.having], end - start)
    _dress(right, [curve for curve in curves if "custom.axisPlacement" in curve.having], end - start)
    _draw_legend(ground, curves, LINE / height)


def _draw_legend(ground: Axes, curves: Sequence[Curve], line: float) -> None:
    def write(row: float, name: str, last: str, largest: str, color: str) -> None:
        ground.text(0.04, row, name, color=color, fontsize=9, va="center")
        ground.text(0.8, row, last, color=color, fontsize=9, va="center", ha="right")
        ground.text(0.98, row, largest, color=color, fontsize=9, va="center", ha="right")

    write((len(curves) + 1.1) * line, "Name", "Last *", "Max", COLORS["blue"])
    for number, curve in enumerate(curves):
        row = (len(curves) - number + 0.1) * line
        numbers = [value for _, value in curve.points] or [0.0]
        ground.plot([0.015, 0.03], [row, row], color=curve.color, linewidth=3)
        write(row, curve.name, curve.said(numbers[-1]), curve.said(max(numbers)), TEXT)


def _dress(axes: Axes, curves: Sequence[Curve], seconds: float) -> None:
    axes.set_xlim(0, seconds)
    axes.set_ylim(bottom=0)
    axes.tick_params(colors=FAINT, labelsize=8, length=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda second, _: f"{int(second) // 60}:{int(second) % 60:02d}"))
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 1.5, 3, 6, 10]))
    for spine in axes.spines.values():
        spine.set_visible(False)
    if curves:
        unit = curves[0].having["unit"]
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: in_unit(value, unit, None)))
        axes.yaxis.set_major_locator(_in_powers_of_two(axes) if unit == "bytes" else MaxNLocator(5))
    else:
        axes.set_yticks([])


def _in_powers_of_two(axes: Axes) -> MultipleLocator:
    """Return about six ticks for an axis of bytes."""
    return MultipleLocator(2.0 ** round(math.log2(max(axes.get_ylim()[1], 1.0) / 6)))
