"""The progress line: one that moves on a terminal, plain lines now and then where there is none."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

Show = Callable[[float, str], None]
"""Takes the seconds since the start and what there is to say."""

_LINES = 6
"""How many plain lines a run has, about."""


@contextmanager
def progress(seconds: float) -> Iterator[Show]:
    """Yield what shows the progress of a run of that length."""
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        with _moving(seconds) as show:
            yield show
    else:
        yield _plain(seconds)


@contextmanager
def _moving(seconds: float) -> Iterator[Show]:
    columns = (BarColumn(bar_width=20), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(), auto_refresh=False, transient=True) as bar:
        task = bar.add_task("starting", total=seconds)
        yield lambda elapsed, text: bar.update(task, completed=elapsed, description=text, refresh=True)


def _plain(seconds: float) -> Show:
    due = 0.0

    def show(elapsed: float, text: str) -> None:
        nonlocal due
        if elapsed >= due:
            due = elapsed + seconds / _LINES
            print(text, flush=True)

    return show
