"""The picture of a run: the memory of both proxies against the number of sessions that they have created.

The load goes from left to right. A line that rises with the load leaks; a level line does not. Below, the picture shows
the sessions that cleanup has ended.
"""

from collections import Counter
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from otel_sessions.demo.limits import BUFFER_BYTES
from otel_sessions.demo.load.scenario import EXODUS, PHASES
from otel_sessions.demo.processes.readings import Reading

from .history import History, State, cleaned_by_cleanup
from .verdict import MIB

OURS: Final = "#0072b2"
TWIN: Final = "#d55e00"
_GREY: Final = "#5a5a5a"
"""Blue and vermilion differ for every kind of colour vision, and in grey."""
INCHES: Final = (9.0, 5.6)
PIXELS_PER_INCH: Final = 150
_ROOM: Final = 0.25
"""The distance between the ends of the curves from which their labels have room, as a share of the height."""
_ASIDE: Final = 0.03
"""The distance of a note from its moment, as a share of the width."""
_LOW: Final = 0.08
"""The height of a note under the curves, as a share of the height of the picture."""
_LINES: Final = 0.12
"""The share of the height that a note takes."""
_MARGIN: Final = 0.35
"""The share of the width that a note needs on its left."""
_REASONS: Final = {
    "idle_timeout": ("#0072b2", "idle"),
    "max_age": ("#56b4e9", "too old"),
    "evicted": ("#003a5c", "evicted at the cap"),
}
"""The end reasons of cleanup, with their shades of blue, which differ also in grey, and their labels."""
_BARS: Final = 80
"""The number of bars that the lower picture has room for."""


def draw(state: State) -> Figure:
    """Return the figure of a run."""
    mpl.rcParams["svg.hashsalt"] = "otel-sessions"  # the same run makes the same file
    mpl.rcParams["svg.fonttype"] = "none"
    figure = Figure(figsize=INCHES, dpi=PIXELS_PER_INCH, layout="constrained")
    memory, cleanup = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    created = max(1, *(history.now.created for history in state.histories))
    _draw_memory(memory, state)
    _draw_cleanup(cleanup, state.ours, max(1, created / _BARS))
    for axes in (memory, cleanup):
        axes.set_xlim(0, created * 1.24)
        axes.set_xticks([tick for tick in MaxNLocator(8, integer=True).tick_values(0, created) if tick <= created])
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines["bottom"].set_bounds(0, created)
        axes.tick_params(colors=_GREY)
        axes.set_axisbelow(True)
        axes.grid(axis="y", alpha=0.25)
    figure.align_ylabels()
    return figure


def _draw_memory(axes: Axes, state: State) -> None:
    alone = state.twin is None
    title = "A proxy under load" if alone else "Two proxies under the same load: with cleanup and cap, and without"
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", pad=22)
    load = f"{state.load.clients} virtual MCP clients for {state.duration:.0f} s"
    about = f"{load}; each session holds {BUFFER_BYTES // 1024} KiB"
    axes.text(0, 1.03, about, transform=axes.transAxes, color=_GREY)
    top = max(history.peak_memory for history in state.histories)
    axes.set_ylim(0, top / MIB * 1.2)
    _draw_curve(axes, OURS, "with cleanup\nand cap", state.ours, "center" if _apart(state, top) else "top")
    if state.twin is not None:
        _draw_curve(axes, TWIN, "without", state.twin, "center" if _apart(state, top) else "bottom")
    _write_notes(axes, state)
    axes.set_ylabel("resident memory (MiB)")


def _apart(state: State, top: float) -> bool:
    """Return whether the curves end so far from each other that their labels have room beside them."""
    return state.twin is None or abs(state.twin.now.memory - state.ours.now.memory) > top * _ROOM


def _draw_curve(axes: Axes, color: str, words: str, history: History, side: str) -> None:
    if not history.samples:  # the proxy was killed at once
        return
    created = [sample.reading.created for sample in history.samples]
    sizes = [sample.reading.memory / MIB for sample in history.samples]
    axes.plot(created, sizes, color=color, linewidth=2.2, solid_joinstyle="round")
    said = f"{words}\n{sizes[-1]:.0f} MiB,\npeak {history.peak_memory / MIB:.0f} MiB"
    if sizes[-1] < axes.get_ylim()[1] * _LINES:
        side = "bottom"  # else the label runs into the axis
    end = (created[-1], sizes[-1])
    axes.annotate(said, end, (8, 0), textcoords="offset points", color=color, fontweight="bold", va=side)


def _write_notes(axes: Axes, state: State) -> None:
    """Write the notes where there is room: under our curve, or above the curve if it is low."""
    level, top = (size / MIB / axes.get_ylim()[1] for size in (state.ours.start.memory, state.ours.peak_memory))
    height = _LOW if level > _LOW + 1.5 * _LINES else top + 2 * _LINES
    created = max(1, *(history.now.created for history in state.histories))
    before = 0
    for words, reading in (_refusals(state.ours), _abandonment(state)):
        if reading is not None:
            share = reading.created / created
            side = 1 if share < _MARGIN or (before < 0 and share < 1 - _ASIDE) else -1
            height += _LINES if side == before else 0.0
            place = reading.created + side * _ASIDE * created
            _note(axes, words, reading, place, height, "left" if side > 0 else "right")
            before = side


def _refusals(ours: History) -> tuple[str, Reading | None]:
    """Return the note about refusals at the cap, and the reading of the first refusal, or None without a refusal."""
    refused = [sample.reading for sample in ours.samples if sample.reading.rejected.get("max_sessions")]
    if not refused:
        return "", None
    count = refused[-1].rejected["max_sessions"]
    return f"cap of {ours.limits.max_sessions} reached:\nopenings refused: {count}", refused[0]


def _abandonment(state: State) -> tuple[str, Reading | None]:
    """Return the note about sessions that cleanup ended in the abandonment, and the reading at its end, or None."""
    began = state.duration * EXODUS
    ended = began + state.duration * next(phase.share for phase in PHASES if phase.leaves)
    before, after = state.ours.at(began), state.ours.at(ended)
    cleaned = cleaned_by_cleanup(after.reading) - cleaned_by_cleanup(before.reading)
    return f"all clients leave at once:\nsessions cleaned: {cleaned}", after.reading if cleaned else None


def _note(axes: Axes, words: str, reading: Reading, place: float, height: float, side: str) -> None:
    """Write a note at a height, as a share of the picture, with a line to its moment."""
    axes.annotate(
        words,
        (reading.created, reading.memory / MIB),
        (place, height),
        textcoords=("data", "axes fraction"),
        color=_GREY,
        fontsize="small",
        ha=side,
        va="center",
        arrowprops={"arrowstyle": "-", "color": _GREY, "linewidth": 0.8, "shrinkB": 3},
    )


def _draw_cleanup(axes: Axes, history: History, width: float) -> None:
    """Draw the number of sessions that cleanup has ended, by reason, for each stretch of created sessions."""
    bottom: Counter[int] = Counter()
    for place, (reason, (color, words)) in enumerate(_REASONS.items()):
        ended = _ended(history, reason, width)
        stretches = sorted(ended)
        axes.bar(
            [stretch * width for stretch in stretches],
            [ended[stretch] for stretch in stretches],
            width,
            [bottom[stretch] for stretch in stretches],
            align="edge",
            color=color,
        )
        bottom.update(ended)
        axes.text(0.01, 0.9 - 0.17 * place, words, transform=axes.transAxes, color=color, fontweight="bold", va="top")
    axes.set_xlabel("sessions created")
    axes.set_ylabel("ended by\ncleanup\n(sessions)")
    axes.set_ylim(0, max(bottom.values(), default=1) * 1.1)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))


def _ended(history: History, reason: str, width: float) -> Counter[int]:
    """Return the number of sessions that ended for a reason, by the stretch of sessions created meanwhile."""
    ended: Counter[int] = Counter()
    before = history.start.cleaned[reason]
    for sample in history.samples:
        now = sample.reading.cleaned[reason]
        ended[int(sample.reading.created / width)] += now - before
        before = now
    return +ended
