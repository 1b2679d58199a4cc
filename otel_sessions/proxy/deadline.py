"""One deadline of one connection, moved at almost no cost: the timer looks again when it comes."""

import asyncio
from collections.abc import Callable


class Deadline:
    """Calls `expired` once the deadline has passed. `close` leaves no timer behind."""

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[], None]) -> None:
        self._loop = loop
        self._expired = expired
        self._at: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float | None) -> None:
        """Move the deadline to so many seconds from now; None for no deadline."""
        if seconds is None:
            self._at = None
            return
        self._at = self._loop.time() + seconds
        if self._timer is not None and self._timer.when() > self._at:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(self._at, self._look)

    def close(self) -> None:
        """Forget the deadline for good."""
        self._at = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._at is None:
            return
        if self._loop.time() < self._at:
            self._timer = self._loop.call_at(self._at, self._look)
        else:
            self._at = None
            self._expired()
