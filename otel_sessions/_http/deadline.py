"""A deadline that moves at almost no cost: its timer is not moved with it, but looks again when it comes.

A connection moves its deadline with each part that comes or goes, and seldom meets it. asyncio only.
"""

import asyncio
from collections.abc import Callable


class Deadline:
    """Calls `expired` once the deadline has passed. A deadline that has passed is no deadline any more."""

    __slots__ = ("_at", "_expired", "_is_closed", "_looks_at", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[], None]) -> None:
        self._loop = loop
        self._expired = expired
        self._at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = 0.0
        """When the timer comes, if there is one."""
        self._is_closed = False

    def set(self, seconds: float | None) -> None:
        """Move the deadline to so many seconds from now; None for no deadline. A closed deadline stays closed."""
        if seconds is None or self._is_closed:
            self._at = None
            return
        self._at = at = self._loop.time() + seconds
        if self._timer is None or at < self._looks_at:
            self._start(at)

    def clear(self) -> None:
        """Have no deadline, as after `set(None)`."""
        self._at = None

    def close(self) -> None:
        """Forget the deadline for good, and leave no timer behind."""
        self._is_closed = True
        self._at = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at = at
        self._timer = self._loop.call_at(at, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._at is None:
            return
        if self._loop.time() < self._at:
            self._start(self._at)
        else:
            self._at = None
            self._expired()
