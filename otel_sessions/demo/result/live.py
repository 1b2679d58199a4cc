"""Shows a run while it lasts: a moving view on a terminal, or a plain line now and then.

On a terminal, the view has its own screen. The view never scrolls, whatever the size of the terminal, and the previous
content of the terminal comes back at the end. Plain lines are ASCII and shorter than 80 columns.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from textwrap import fill
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from .history import History, State
from .table import rows
from .verdict import MIB, Verdict, mib
from .view import View


class OutputFailed(Exception):
    """Nothing can be written to stdout. The message says why."""


class OutputClosed(Exception):
    """The reader of stdout is gone, as after `| head`."""


Show = Callable[[State], None]

_LINES: Final = 10
"""About how many plain lines a run prints."""
WIDTH: Final = 79
_HEADING: Final = (
    f"{'s':>4}  {'phase':<11} {'created':>7} {'cleaned':>7} {'active':>6} {'refused':>7} {'MiB':>5}",
    f" {'twin: active':>13} {'MiB':>5}",
)


@contextmanager
def showing(duration: float, *, twin: bool) -> Iterator[Show]:
    """Yield a function that shows the state of a run of `duration` seconds."""
    if not _moves():
        yield _plain(duration, twin)
        return
    console = Console(highlight=False)
    with Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        yield lambda state: live.update(View(state, console.height), refresh=True)


def sum_up(state: State, verdict: Verdict) -> None:
    """Print the table and the verdict when a run is over."""
    if _moves():
        Console(highlight=False).print(summary(state, verdict))
    else:
        say("", *_table(state), "", *(fill(line, WIDTH) for line in verdict.lines))


def say(*lines: str) -> None:
    """Print lines. Characters that the encoding does not have are escaped.

    Raises `OutputClosed` if the reader of stdout is gone, and `OutputFailed` if stdout cannot be written to.
    """
    if sys.stdout is None:
        raise OutputFailed("stdout cannot be written to: it is closed")
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(*(line.encode(encoding, "backslashreplace").decode(encoding) for line in lines), sep="\n", flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the flush at exit fails again
        if isinstance(error, BrokenPipeError):
            raise OutputClosed from error
        raise OutputFailed(f"stdout cannot be written to: {error.strerror}") from error


def summary(state: State, verdict: Verdict) -> Group:
    """Return the last view with the verdict below."""
    return Group(View(state), Text(), *map(_emphasized, verdict.lines))


def _emphasized(line: str) -> Text:
    claim, colon, rest = line.partition(":")
    return Text.assemble((claim + colon, "bold"), rest)


def _moves() -> bool:
    encoding = (getattr(sys.stdout, "encoding", None) or "").lower()
    return sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown") and encoding.startswith("utf")


def _plain(duration: float, twin: bool) -> Show:
    due = 0.0
    say("".join(_HEADING if twin else _HEADING[:1]))

    def show(state: State) -> None:
        nonlocal due
        if state.elapsed >= due:
            due = state.elapsed + duration / _LINES
            say(_line(state))

    return show


def _line(state: State) -> str:
    reading = state.ours.now
    phase = state.stage.phase if state.stage else ""
    ours = (
        f"{state.elapsed:>4.0f}  {phase:<11} {reading.created:>7} {reading.total_cleaned:>7} {reading.active:>6} "
        f"{reading.total_rejected:>7} {reading.memory / MIB:>5.0f}"
    )
    if state.twin is None:
        return ours
    return f"{ours} {state.twin.now.active:>13} {state.twin.now.memory / MIB:>5.0f}"


def _table(state: State) -> Iterator[str]:
    yield f"{'':<17}{'with cleanup and cap':<33}{'without' if state.twin else ''}".rstrip()
    yield _columns("memory", _memory(state.ours), None if state.twin is None else _memory(state.twin))
    for row in rows(state.ours, state.twin):
        yield _columns(row.name, row.ours, row.twin)


def _columns(name: str, ours: str, twin: str | None) -> str:
    return f"{name:<17}{ours:<33}{twin or ''}".rstrip()


def _memory(history: History) -> str:
    return f"{mib(history.now.memory)}, peak {mib(history.peak_memory)}"
