"""The embedder's clock, of which only the good readings count.

If a reading is not finite or lies before the last good reading, the last good reading is used instead. So time stands
still while the clock misbehaves, and never goes back. The caller gets what the clock raises, and decides what to abort.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Final

_BOOTTIME: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)

since_boot: Final[Callable[[], float]] = time.monotonic if _BOOTTIME is None else partial(time.clock_gettime, _BOOTTIME)
"""Seconds since the machine was started, the time of its sleep included where the system has such a clock (Linux).

In a fleet, a process that has slept must see that its place has run out meanwhile."""

_GOOD_BY_THEMSELVES: Final = (time.monotonic, time.perf_counter, since_boot)
"""Clocks that never misbehave. The hottest paths call them without a check."""
_LATEST: Final = 1e300
"""Seconds. A larger finite reading may become infinite when it is divided by the length of a tick."""
_NEVER: Final = -_LATEST


class SteadyClock:
    """The embedder's clock, with bad readings replaced. May be called on any thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = _NEVER

    def __call__(self) -> float:
        """Return seconds. Raises what the clock raises, and `ValueError` if there is no good reading yet."""
        now = self._clock()
        if self._last <= now < _LATEST:
            self._last = now
            return now
        return self.last

    @property
    def last(self) -> float:
        """The last good reading, in seconds. Raises `ValueError` if there is no good reading yet."""
        if self._last == _NEVER:
            raise ValueError("the session manager's clock has not returned a finite number of seconds yet")
        return self._last


def steady(clock: Callable[[], float]) -> Callable[[], float]:
    """Return a clock that gives only good readings: `clock` itself if it never misbehaves."""
    return clock if clock in _GOOD_BY_THEMSELVES else SteadyClock(clock)


def never_failing(clock: Callable[[], float]) -> Callable[[], float]:
    """Return a clock that reads as `latest` does: `clock` itself if it never misbehaves."""
    return clock if clock in _GOOD_BY_THEMSELVES else partial(latest, clock)


def latest(clock: Callable[[], float]) -> float:
    """Return the reading of a clock from `steady`, or the last good reading if the embedder's clock raises."""
    try:
        return clock()
    except Exception:
        assert isinstance(clock, SteadyClock)
        return clock.last
