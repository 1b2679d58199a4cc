"""The time of an expiry: set by the measurement where a contestant takes a clock, waited for where it reads its own."""

import operator
import time
from array import array
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, cast

import anyio


class Clock(Protocol):
    """Seconds, read by calling `read`."""

    read: Callable[[], float]

    async def pass_time(self, seconds: float) -> None:
        """Return once so many seconds have passed."""


class SettableClock:
    """A clock that the measurement moves. Reading it is a call in C that makes a float, like `time.monotonic`."""

    def __init__(self) -> None:
        self._now = array("d", [1000.0])
        self.read: Callable[[], float] = partial(cast("Callable[[Any, int], float]", operator.getitem), self._now, 0)

    async def pass_time(self, seconds: float) -> None:
        self._now[0] += seconds


class RealClock:
    """The machine's own, which the measurement has to wait for."""

    def __init__(self) -> None:
        self.read: Callable[[], float] = time.monotonic

    async def pass_time(self, seconds: float) -> None:
        await anyio.sleep(seconds)
