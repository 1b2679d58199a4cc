"""The numbers of a run, a kind a row, as words: for the view, for plain text, and the same in both.

All numbers of a column are of one moment: of the proxy's latest reading under load, also when the run is over, and of
its clients' counts then. So created is cleaned plus active in each column. Only latency and rate are of the whole run
when the run is over. The verdict says what the shutdown has done after this moment.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from .course import Course

_ALWAYS: Final = ("closed", "idle_timeout", "max_age", "evicted")
"""The end reasons that are shown also while there is none of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A name, and what ours and the twin have of it, None without a twin."""

    name: str
    ours: str
    twin: str | None


def rows(ours: Course, twin: Course | None) -> list[Row]:
    """Return the rows that there are at this moment."""
    return [
        Row(name=name, ours=words(ours), twin=None if twin is None else words(twin))
        for name, words in _kinds(ours, twin)
    ]


def _kinds(ours: Course, twin: Course | None) -> Iterator[tuple[str, Callable[[Course], str]]]:
    yield "sessions active", _active
    yield "created", lambda course: str(course.now.created)
    yield "cleaned", lambda course: str(course.now.total_cleaned)
    for reason in ours.end.cleaned:
        if reason in _ALWAYS or any(course.end.cleaned[reason] for course in (ours, twin) if course is not None):
            yield f"  {reason}", partial(_cleaned, reason)
    yield "refused", _refused
    yield "cleanup passes", _passes
    yield "requests", lambda course: f"{course.rate:.0f} a second"
    if any(course.counted.unexpected for course in (ours, twin) if course is not None):
        yield "unexpected", lambda course: f"{course.counted.unexpected} answers, or none"
    yield "clients' latency", _latency


def _active(course: Course) -> str:
    cap = course.limits.max_sessions
    reading = course.now
    return f"{reading.active} of {cap}" if cap is not None else f"{reading.active}, no cap"


def _cleaned(reason: str, course: Course) -> str:
    return str(course.now.cleaned[reason])


def _refused(course: Course) -> str:
    refused = course.counted.rejected  # as the clients count, from whom the rest of the words is
    return f"{refused}, {course.counted.told_to_wait} with Retry-After" if refused else "0"


def _passes(course: Course) -> str:
    under_load = course.now.errors
    later = course.end.errors - under_load
    words = [f"{course.now.passes}"]
    words += [f"{under_load} errors"] if under_load else []
    words += [f"{later} errors in the shutdown"] if later else []
    return ", ".join(words)


def _latency(course: Course) -> str:
    p50, p99 = course.latency
    return f"p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms"
