"""The numbers of a run as rows of text, the same for the view and for plain text.

All numbers of a column are of one moment: the proxy's latest reading under load, and its clients' counts at this
reading. This holds also when the run is over. So created is cleaned plus active in each column. Only latency and rate
are of the whole run when it is over. The verdict says what the shutdown has done after this moment.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from .history import History

_ALWAYS: Final = ("closed", "idle_timeout", "max_age", "evicted")
"""The end reasons that are shown even if no session has ended for them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A name with the values of our proxy and of the twin. `twin` is None without a twin."""

    name: str
    ours: str
    twin: str | None


def rows(ours: History, twin: History | None) -> list[Row]:
    """Return the rows of this moment."""
    return [
        Row(name=name, ours=words(ours), twin=None if twin is None else words(twin))
        for name, words in _kinds(ours, twin)
    ]


def _kinds(ours: History, twin: History | None) -> Iterator[tuple[str, Callable[[History], str]]]:
    yield "sessions active", _active
    yield "created", lambda history: str(history.now.created)
    yield "cleaned", lambda history: str(history.now.total_cleaned)
    for reason in ours.end.cleaned:
        if reason in _ALWAYS or any(history.end.cleaned[reason] for history in (ours, twin) if history is not None):
            yield f"  {reason}", partial(_cleaned, reason)
    yield "refused", _refused
    yield "cleanup passes", _passes
    yield "requests", lambda history: f"{history.rate:.0f} a second"
    if any(history.counted.unexpected for history in (ours, twin) if history is not None):
        yield "unexpected", lambda history: f"{history.counted.unexpected} wrong or missing answers"
    yield "clients' latency", _latency


def _active(history: History) -> str:
    cap = history.limits.max_sessions
    reading = history.now
    return f"{reading.active} of {cap}" if cap is not None else f"{reading.active}, no cap"


def _cleaned(reason: str, history: History) -> str:
    return str(history.now.cleaned[reason])


def _refused(history: History) -> str:
    refused = history.counted.rejected  # the clients' count, as for the other number in this row
    return f"{refused}, {history.counted.told_to_wait} with Retry-After" if refused else "0"


def _passes(history: History) -> str:
    under_load = history.now.errors
    later = history.end.errors - under_load
    words = [f"{history.now.passes}"]
    words += [f"{under_load} errors"] if under_load else []
    words += [f"{later} errors in the shutdown"] if later else []
    return ", ".join(words)


def _latency(history: History) -> str:
    p50, p99 = history.latency
    return f"p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms"
