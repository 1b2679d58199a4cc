"""Time that belongs to the test, on both loops.

Nothing here waits: when every task of a loop is waiting, its time jumps to the next timer. A `Clock` reads that time,
so a manager's own clock and the loop it runs on always move together.
"""

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

import anyio
import trio.testing


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop that jumps to its next timer instead of waiting for it."""

    def __init__(self) -> None:
        self._now = 1000.0
        super().__init__(_NoWaiting(self))

    def time(self) -> float:
        return self._now

    def pass_time(self, seconds: float) -> None:
        self._now += seconds


class _NoWaiting(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)  # only another thread can go on from here
        ready = super().select(0)
        if not ready:
            self._loop.pass_time(max(0.0, timeout))
        return ready


class Clock:
    """The time of the running loop, in seconds; `skew` moves the manager's clock away from the loop's."""

    def __init__(self) -> None:
        self.skew = 0.0
        self._loop_time: Callable[[], float] = lambda: 0.0

    def follow_running_loop(self) -> None:
        """Take the time from the loop that runs now, from any thread from then on."""
        if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
            self._loop_time = asyncio.get_running_loop().time
        else:
            self._loop_time = trio.lowlevel.current_clock().current_time

    def __call__(self) -> float:
        return self._loop_time() + self.skew


BACKENDS: dict[str, Callable[[], dict[str, Any]]] = {
    "asyncio": lambda: {"loop_factory": VirtualLoop},
    "trio": lambda: {"clock": trio.testing.MockClock(autojump_threshold=0)},
}


async def settle() -> None:
    """Let every other task run until it waits; no time passes."""
    await anyio.wait_all_tasks_blocked()
