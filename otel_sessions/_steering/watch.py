"""The live view of a manager's books: one answer an interval, until Ctrl-C.

On a terminal, the view has a screen of its own and never scrolls. Elsewhere it is a line an interval. If the API stops
answering, the view says since when and why, and goes on asking.
"""

import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, TextIO

from otel_sessions.sinks._table import printable

from .api import Api, Refused
from .written import WIDTH, plain_row, plain_title, statistics

_ENTER: Final = "\x1b[?1049h\x1b[?25l"
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME: Final = "\x1b[H"
_REST_OF_LINE: Final = "\x1b[K"
_REST_OF_SCREEN: Final = "\x1b[J"
_HISTORY: Final = 60
_HINT: Final = "Ctrl-C ends the view; the proxy goes on"


@dataclass(kw_only=True)
class Watched:
    """What was seen so far: the last answer, and since when there is none."""

    stats: dict[str, Any] | None = None
    config: dict[str, Any] | None = None
    gone_since: str | None = None
    failure: str = ""
    history: deque[int] = field(default_factory=lambda: deque(maxlen=_HISTORY))

    def look(self, api: Api, at: str) -> None:
        """Ask once. Raises `Refused` if the API has never answered, or lets us in no more."""
        try:
            self.config, self.stats = api.config(), api.statistics()
        except Refused as error:
            if self.stats is None:
                raise
            self.gone_since, self.failure = self.gone_since or at, str(error)
        else:
            self.gone_since = None
            self.history.append(self.stats["currently_active"])

    @property
    def cap(self) -> int | None:
        cap: int | None = None if self.config is None else self.config["settings"].get("max_sessions")
        return cap


def screen(watched: Watched, url: str, at: str, *, is_plain: bool) -> Iterator[str]:
    """Yield the lines of the view."""
    assert watched.stats is not None
    assert watched.config is not None
    yield f"{watched.config['name']} at {url}"
    if watched.gone_since is None:
        yield f"{at}   answers"
    else:
        yield f"{at}   NO ANSWER since {watched.gone_since}; the numbers are from before"
        yield watched.failure
    yield ""
    yield from statistics(watched.stats, watched.cap, watched.history, is_plain=is_plain)
    yield ""
    yield _HINT


def watch(api: Api, out: TextIO, interval: float, wait: Callable[[float], object] = time.sleep) -> None:
    """Show the books until the program is interrupted. Raises `Refused` if the API does not answer at first."""
    watched = Watched()
    watched.look(api, _now())
    show = _moving if moves(out) else _line
    with _screen_of(out) if moves(out) else nullcontext():
        while True:
            show(watched, api.url, out)
            wait(interval)
            watched.look(api, _now())


def watch_as_json(api: Api, out: TextIO, interval: float, wait: Callable[[float], object] = time.sleep) -> None:
    """Write the books as a line of JSON an interval. Raises `Refused` as soon as the API does not answer."""
    while True:
        out.write(f"{json.dumps(api.statistics())}\n")
        out.flush()
        wait(interval)


def moves(out: TextIO) -> bool:
    """Return whether a view can be drawn again in its place."""
    return out.isatty() and os.environ.get("TERM") not in ("dumb", "unknown", None)


def is_plain(out: TextIO) -> bool:
    """Return whether only ASCII can be written."""
    return not (out.encoding or "").lower().startswith("utf")


def _moving(watched: Watched, url: str, out: TextIO) -> None:
    columns, rows = shutil.get_terminal_size((WIDTH + 1, 24))
    lines = [printable(line, out.encoding)[:columns] for line in screen(watched, url, _now(), is_plain=is_plain(out))]
    drawn = f"{_REST_OF_LINE}\n".join(lines[:rows])
    out.write(f"{_HOME}{drawn}{_REST_OF_LINE}{_REST_OF_SCREEN}")
    out.flush()


def _line(watched: Watched, _url: str, out: TextIO) -> None:
    assert watched.stats is not None
    if watched.gone_since is not None:
        lines = [f"{_now()} no answer: {watched.failure}"]
    elif len(watched.history) == 1:
        lines = [plain_title(), plain_row(_now(), watched.stats)]
    else:
        lines = [plain_row(_now(), watched.stats)]
    out.writelines(f"{printable(line, out.encoding)}\n" for line in lines)
    out.flush()


@contextmanager
def _screen_of(out: TextIO) -> Iterator[None]:
    """Use a screen of its own on a terminal within the block."""
    out.write(_ENTER)
    try:
        yield
    finally:
        out.write(_LEAVE)
        out.flush()


def _now() -> str:
    return time.strftime("%H:%M:%S")
