"""The live view: what is known of a run in, a picture for a terminal of any size out.

Pure. It is never wider or taller than it is told: curves get lower first, then the last rows go. Nothing is said by
colour alone.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from .course import Course
from .rows import rows
from .sparkline import FULL, binned, meter, sparkline
from .state import State
from .verdict import MIB

OURS: Final = "#3b9de0"
TWIN: Final = "#e08a1e"
_STYLES: Final = {OURS: Style(color=OURS), TWIN: Style(color=TWIN)}
_DIM: Final = Style(dim=True)
_BOLD: Final = Style(bold=True)
_WIDEST: Final = 100
_HIGHEST: Final = 3
"""How many rows a curve has where there is room."""
_FULL_HEIGHT: Final = 40
_SAID, _LEFT = 34, 11
"""The widths beside the bar of progress: of what is going on, and of the time left."""
_NAMES: Final = 17
"""The width of the column with names."""
_COLUMN: Final = 34
"""The width of a column of numbers about one proxy."""
_NUMBERS: Final = 22
"""The width of the columns with now and peak together."""
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
        courses = 1 if self._state.twin is None else 2
        room = self._height - len(head) - len(numbers) - 3  # the heading of the curves, and two empty lines
        curves = list(self._curves(width, max(1, min(_HIGHEST, room // courses))))
        return [*head, Text(), *curves, Text(), *numbers]

    def _head(self, width: int) -> Iterator[Text]:
        state = self._state
        greeting = _GREETING_ALONE if state.twin is None else _GREETING
        yield _ends(Text.assemble(("otel-sessions ", _BOLD), (greeting, _DIM)), Text(), width)
        if state.moment is None:
            said, right = f"{state.clients} clients for {state.duration:.0f} s", "done"
        else:
            said = f"{state.moment.phase}: {state.moment.present * state.clients:.0f} of {state.clients} clients"
            right = f"{max(0.0, state.duration - state.elapsed):.0f} s left"
        bar = width - _SAID - _LEFT
        full, rest = meter(state.elapsed, state.duration, bar)
        left = Text.assemble(f"{said:<{_SAID}}" if bar > 0 else said, (full, _STYLES[OURS]), (rest, _DIM))
        left.truncate(width - len(right) - 1, overflow="ellipsis")
        yield _ends(left, Text(right), width)

    def _curves(self, width: int, height: int) -> Iterator[Text]:
        state = self._state
        when = "now" if state.moment else "end"
        right = Text(f"{when:>{_NUMBERS // 2}}{'peak':>{_NUMBERS // 2}}", style=_DIM)
        yield _ends(Text("resident memory", style=_BOLD), right, width)
        courses = [(OURS, "with cleanup", "and cap", state.ours)]
        if state.twin is not None:
            courses.append((TWIN, "without", "(the twin)", state.twin))
        top = max(course.peak_memory for *_, course in courses)
        for color, name, more, course in courses:
            yield from self._curve(_STYLES[color], [name, more], course, top, width, height)

    def _curve(
        self, style: Style, names: Sequence[str], course: Course, top: float, width: int, height: int
    ) -> Iterator[Text]:
        points = [(sample.elapsed, float(sample.reading.memory)) for sample in course.samples]
        values = binned(points, self._state.duration, max(1, width - _NAMES - _NUMBERS - 1))
        lines = sparkline(values, top, height)
        numbers = f"{_mib(course.now.memory):>{_NUMBERS // 2}}{_mib(course.peak_memory):>{_NUMBERS // 2}}"
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


def _meter(words: str, course: Course, column: int) -> Text:
    """Return how many sessions are active, and a bar of that against the cap, in a column."""
    width = max(0, column - len(words) - 4)
    full, rest = meter(course.now.active, course.limits.max_sessions or 0, width)
    return Text.assemble(_fit(words, len(words) + 1), (full, _STYLES[OURS]), (rest, _DIM), "   ")


def _fit(words: str, width: int) -> str:
    """Return words in a column: what is too long is cut off, and a space is left at its end."""
    fitting = words if len(words) < width else f"{words[: max(0, width - 2)]}…"
    return f"{fitting:<{max(0, width)}}"


def _solid(line: str, style: Style) -> Iterator[tuple[str, Style]]:
    """Return the parts of a curve's row; where it is full it has a ground of its colour, so that no gap shows."""
    ground = style + Style(bgcolor=style.color)
    for full, characters in groupby(line, lambda character: character == FULL):
        yield "".join(characters), ground if full else style


def _ends(left: Text, right: Text, width: int) -> Text:
    """Return a line with something at its left end and something at its right end."""
    gap = max(1, width - left.cell_len - right.cell_len)
    return Text.assemble(left, " " * gap, right)


def _mib(size: float) -> str:
    return f"{size / MIB:.0f} MiB"
