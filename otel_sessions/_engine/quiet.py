"""Waiting until nothing is left: no task, no lease, no closing session."""

from collections.abc import Callable

import anyio


class Quiet:
    """Wakes the tasks that wait for something to be over. It keeps no reference to the thing, so it makes no cycle."""

    __slots__ = ("awaited",)

    def __init__(self) -> None:
        self.awaited: anyio.Event | None = None
        """The event that tasks wait for, None if no task has waited yet: a hot path need not call `note` then."""

    def note(self) -> None:
        """Wake the tasks that wait: it may be quiet now."""
        if self.awaited is not None:
            self.awaited.set()

    async def wait(self, is_quiet: Callable[[], bool]) -> None:
        """Return when `is_quiet()` is true. It is called now, and again after each call of `note`."""
        while not is_quiet():
            if self.awaited is None or self.awaited.is_set():
                self.awaited = anyio.Event()
            await self.awaited.wait()
