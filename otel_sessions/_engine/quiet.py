"""Waiting until nothing is left: no task, no lease, no session that closes."""

from collections.abc import Callable

import anyio


class Quiet:
    """Wakes who waits for something to be over. It keeps no reference to that, so that it makes no cycle."""

    __slots__ = ("awaited",)

    def __init__(self) -> None:
        self.awaited: anyio.Event | None = None
        """What those wait for who wait now, None while nobody has waited: a hot path need not call `note` then."""

    def note(self) -> None:
        """Say that it may be quiet now."""
        if self.awaited is not None:
            self.awaited.set()

    async def wait(self, is_quiet: Callable[[], bool]) -> None:
        """Return once `is_quiet()`, which is asked now and each time that `note` was called."""
        while not is_quiet():
            if self.awaited is None or self.awaited.is_set():
                self.awaited = anyio.Event()
            await self.awaited.wait()
