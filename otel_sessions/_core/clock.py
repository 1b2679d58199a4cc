"""The embedder's clock. Only its good readings count.

A reading that is not finite, or lies before the last one, is replaced by the last good one. So time stands still while
a clock misbehaves, and never goes back. What a clock raises is passed on: whoever asked decides what that ends.
"""

import time
from collections.abc import Callable
from typing import Final

_GOOD_BY_THEMSELVES: Final = (time.monotonic, time.perf_counter)
"""Clocks that need no care, so that the hottest paths pay for none."""
_LATEST: Final = 1e300
"""Seconds; a finite reading beyond it may be infinite once it is divided by a tick."""
_NEVER: Final = -_LATEST


class SteadyClock:
    """A clock that is called as the embedder's is. May be called on any thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = _NEVER

    def __call__(self) -> float:
        """Return seconds. Raises what the clock raises, and `ValueError` before it has given one good reading."""
        now = self._clock()
        if self._last <= now < _LATEST:
            self._last = now
            return now
        return self.last

    @property
    def last(self) -> float:
        """The last good reading. Raises `ValueError` if there was none."""
        if self._last == _NEVER:
            raise ValueError("the clock of the session manager has given no finite number of seconds yet")
        return self._last


def steady(clock: Callable[[], float]) -> Callable[[], float]:
    """Return a clock that gives good readings only: the same one where it does so by itself."""
    return clock if clock in _GOOD_BY_THEMSELVES else SteadyClock(clock)


def latest(clock: Callable[[], float]) -> float:
    """Return a reading of a clock made by `steady`; the last good one if the embedder's raises."""
    try:
        return clock()
    except Exception:
        assert isinstance(clock, SteadyClock)
        return clock.last
