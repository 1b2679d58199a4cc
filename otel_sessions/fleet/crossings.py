"""The exchanges that are on their way through one peer, and the watch over the peer meanwhile. asyncio only.

A peer whose process is stopped still takes connections, since the kernel does. So a peer that has had an exchange for
`patience` seconds is asked for a sign of life as often. If the sign does not come, its exchanges end.
"""

import asyncio
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Self


class Why(StrEnum):
    """Why this side has ended an exchange."""

    LEFT = "left"
    """The client has left."""
    SILENT = "silent"
    """The peer gives no sign of life."""
    OVER = "over"
    """This process shuts down."""


class Crossing:
    """One exchange on its way, for a `with` block. `why` says why this side has ended the exchange, or is None."""

    __slots__ = ("_among", "_close", "since", "why")

    def __init__(self, since: float, among: set["Crossing"]) -> None:
        self.since = since
        self.why: Why | None = None
        self._among = among
        self._close: Callable[[], object] | None = None
        among.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Note that the exchange is over. The `with` block does so at its end."""
        self._among.discard(self)

    def when_ended(self, close: Callable[[], object]) -> None:
        """Call `close` when this side ends the exchange, at once if this has happened."""
        self._close = close
        if self.why is not None:
            close()

    def end(self, why: Why) -> None:
        """End the exchange, for the first reason that is given."""
        if self.why is None:
            self.why = why
            if self._close is not None:
                self._close()


class Crossings:
    """The exchanges that one peer has. `is_alive` asks the peer for a sign of life, and waits at most `patience`."""

    def __init__(self, patience: float, is_alive: Callable[[], Awaitable[bool]]) -> None:
        self._patience = patience
        self._is_alive = is_alive
        self._open: set[Crossing] = set()
        self._watching: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._open)

    def begin(self) -> Crossing:
        """Return a new exchange, for a `with` block."""
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="otel-sessions peer")
        return Crossing(asyncio.get_running_loop().time(), self._open)

    def end(self) -> None:
        """End all exchanges and the watch, since this process shuts down."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        for crossing in list(self._open):
            crossing.end(Why.OVER)

    async def _watch(self) -> None:
        try:
            while self._open:
                await asyncio.sleep(self._patience)
                if self._waiting() and not await self._is_alive():
                    for crossing in self._waiting():
                        crossing.end(Why.SILENT)
        finally:
            self._watching = None

    def _waiting(self) -> list[Crossing]:
        """Return the exchanges that the peer has had for so long that it should have given a sign of life."""
        since = asyncio.get_running_loop().time() - self._patience
        return [crossing for crossing in self._open if crossing.since <= since]
