"""The live view: it turns the state of a run into lines for a terminal of any size, with curves made of characters.

Pure. The view is never wider or taller than its limits: first the curves get lower, then the last rows are dropped.
Colour alone never carries information.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from .history import History, State
from .table import rows
from .verdict import MIB

OURS: Final = "#3b9de0"
TWIN: Final = "#e08a1e"
_STYLES: Final = {OURS: Style(color=OURS), TWIN: Style(color=TWIN)}
_DIM: Final = Style(dim=True)
_BOLD: Final = Style(bold=True)
_WIDEST: Final = 100
_HIGHEST: Final = 3
"""The number of rows of a curve if there is room."""
_FULL_HEIGHT: Final = 40
_SAID, _LEFT = 34, 11
"""The widths beside the progress bar: of the phase, and of the time left."""
_NAMES: Final = 17
"""The width of the column with names."""
_COLUMN: Final = 34
"""The width of a column of numbers about one proxy."""
_NUMBERS: Final = 22
"""The width of the columns with now and peak together."""
_EIGHTHS: Final = " ▁▂▃▄▅▆▇█"
FULL: Final = _EIGHTHS[-1]
_GREETING: Final = "two proxies, the same load; one without cleanup and cap"
_GREETING_ALONE: Final = "a proxy under load"


class View:
    """A state as rich shows it, in `height` rows at most."""

    def __init__(self, state: State, height: int = _FULL_HEIGHT) -> None:
        self._state = state
        self._height = height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines that fit."""
        width = min(options.max_width, _WIDEST)
        for line in self._lines(width)[: self._height]:
            line.truncate(width, overflow="ellipsis")
            line.no_wrap = True
            yield line

    def _lines(self, width: int) -> list[Text]:
        head, numbers = list(self._head(width)), list(self._numbers(width))
        histories = 1 if self._state.twin is None else 2
        room = self._height - len(head) - len(numbers) - 3  # the heading of the curves, and two empty lines
        curves = list(self._curves(width, max(1, min(_HIGHEST, room // histories))))
        return [*head, Text(), *curves, Text(), *numbers]

    def _head(self, width: int) -> Iterator[Text]:
        state = self._state
        greeting = _GREETING_ALONE if state.twin is None else _GREETING
        yield _ends(Text.assemble(("otel-sessions ", _BOLD), (greeting, _DIM)), Text(), width)
        if state.stage is None:
            said, right = f"{state.load.clients} clients for {state.duration:.0f} s", "done"
        else:
            said = (
                f"{state.stage.phase}: {state.stage.present * state.load.clients:.0f} of {state.load.clients} clients"
            )
            right = f"{max(0.0, state.duration - state.elapsed):.0f} s left"
        bar = width - _SAID - _LEFT
        full, rest = meter(state.elapsed, state.duration, bar)
        left = Text.assemble(f"{said:<{_SAID}}" if bar > 0 else said, (full, _STYLES[OURS]), (rest, _DIM))
        left.truncate(width - len(right) - 1, overflow="ellipsis")
        yield _ends(left, Text(right), width)

    def _curves(self, width: int, height: int) -> Iterator[Text]:
        state = self._state
        when = "now" if state.stage else "end"
        right = Text(f"{when:>{_NUMBERS // 2}}{'peak':>{_NUMBERS // 2}}", style=_DIM)
        yield _ends(Text("resident memory", style=_BOLD), right, width)
        histories = [(OURS, "with cleanup", "and cap", state.ours)]
        if state.twin is not None:
            histories.append((TWIN, "without", "(the twin)", state.twin))
        top = max(history.peak_memory for *_, history in histories)
        for color, name, more, history in histories:
            yield from self._curve(_STYLES[color], [name, more], history, top, width, height)

    def _curve(
        self, style: Style, names: Sequence[str], history: History, top: float, width: int, height: int
    ) -> Iterator[Text]:
        points = [(sample.elapsed, float(sample.reading.memory)) for sample in history.samples]
        values = binned(points, self._state.duration, max(1, width - _NAMES - _NUMBERS - 1))
        lines = sparkline(values, top, height)
        numbers = f"{_mib(history.now.memory):>{_NUMBERS // 2}}{_mib(history.peak_memory):>{_NUMBERS // 2}}"
        for row, line in enumerate(lines):
            name = names[row] if row < len(names) else ""
            last = row == height - 1
            left = Text.assemble((f"{name:<{_NAMES}}", style), *_solid(line, style))
            yield _ends(left, Text(numbers if last else ""), width)

    def _numbers(self, width: int) -> Iterator[Text]:
        ours, twin = self._state.ours, self._state.twin
        column = min(_COLUMN, (width - _NAMES) // (1 if twin is None else 2))
        yield Text.assemble(
            " " * _NAMES,
            (_fit("with cleanup and cap", column), _STYLES[OURS]),
            ("" if twin is None else "without", _STYLES[TWIN]),
        )
        for number, row in enumerate(rows(ours, twin)):
            words = _meter(row.ours, ours, column) if number == 0 else Text(_fit(row.ours, column))
            yield Text.assemble(_fit(row.name, _NAMES), words, row.twin or "")


def _meter(words: str, history: History, column: int) -> Text:
    """Return the number of active sessions in a column, with a bar of this number against the cap."""
    width = max(0, column - len(words) - 4)
    full, rest = meter(history.now.active, history.limits.max_sessions or 0, width)
    return Text.assemble(_fit(words, len(words) + 1), (full, _STYLES[OURS]), (rest, _DIM), "   ")


def _fit(words: str, width: int) -> str:
    """Return words in a column. Words that are too long are cut off, with a space at the end."""
    fitting = words if len(words) < width else f"{words[: max(0, width - 2)]}…"
    return f"{fitting:<{max(0, width)}}"


def _solid(line: str, style: Style) -> Iterator[tuple[str, Style]]:
    """Yield the parts of a curve's row. Full characters get a background of their colour, so that no gap shows."""
    ground = style + Style(bgcolor=style.color)
    for full, characters in groupby(line, lambda character: character == FULL):
        yield "".join(characters), ground if full else style


def _ends(left: Text, right: Text, width: int) -> Text:
    """Return a line with one text at its left end and one text at its right end."""
    gap = max(1, width - left.cell_len - right.cell_len)
    return Text.assemble(left, " " * gap, right)


def _mib(size: float) -> str:
    return f"{size / MIB:.0f} MiB"


def binned(points: Iterable[tuple[float, float]], end: float, width: int) -> list[float | None]:
    """Return `width` values for equal parts from 0 to `end`: the largest value of each part's points.

    A part without points repeats the value of the part before. Parts after the last point are None.
    """
    bins: list[float | None] = [None] * width
    reached = 0
    for place, value in points:
        index = min(width - 1, int(place / end * width))
        found = bins[index]
        bins[index] = value if found is None else max(found, value)
        reached = max(reached, index)
    for index in range(1, reached + 1):
        if bins[index] is None:
            bins[index] = bins[index - 1]
    return bins


def sparkline(values: Sequence[float | None], top: float, height: int) -> list[str]:
    """Return rows from the top down, with one character for each value. 0 and None are empty; `top` fills all rows."""
    levels = [0 if value is None else _level(value, top, height * 8) for value in values]
    return ["".join(_EIGHTHS[min(8, max(0, level - row * 8))] for level in levels) for row in reversed(range(height))]


def meter(value: float, top: float, width: int) -> tuple[str, str]:
    """Return the full part and the rest of a bar of `width` characters. Both are empty if `top` is 0."""
    if not top:
        return "", ""
    width = max(0, width)
    full = min(width, round(value / top * width))
    return "━" * full, "━" * (width - full)


def _level(value: float, top: float, most: int) -> int:
    """Return the level from 0 to `most`. A positive value has at least level 1."""
    if value <= 0 or top <= 0:
        return 0
    return max(1, min(most, round(value / top * most)))
