"""The body of a request that is passed on, and the watch over its client. asyncio only.

The server says in the messages behind the body that a client has left, if it does not say it in another way. One task
reads at a time.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from otel_sessions.asgi import Message, Receive

_WATCH_AFTER: Final = 0.1
"""Seconds without an answer after which a task waits for the client to leave."""


class Gone(Exception):
    """The client has left."""


def part_in(message: Message) -> tuple[bytes, bool]:
    """Return a part of a body, and whether it is the last part. Raises `Gone`."""
    if message["type"] == "http.disconnect":
        raise Gone
    return bytes(message.get("body") or b""), not message.get("more_body", False)


class Body:
    """What comes behind the first part of a body. `is_whole` says that only word of the client can come."""

    __slots__ = ("_first", "_is_reading", "_receive", "_rested", "_timer", "_watching", "_whole")

    def __init__(self, receive: Receive, first: bytes, *, is_whole: bool) -> None:
        self._receive = receive
        self._first = first
        self._is_reading = False
        self._rested: asyncio.Event | None = None
        self._whole = None if is_whole else asyncio.Event()
        """Set when the body is read, where it comes in parts."""
        self._timer: asyncio.TimerHandle | None = None
        self._watching: asyncio.Task[None] | None = None

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the body, the first part again. Raises `Gone`."""
        assert self._whole is not None
        part, is_last = self._first, False
        while True:
            if part:
                yield part
            if is_last:
                break
            part, is_last = part_in(await self._message())
        self._whole.set()

    def watch_later(self, on_gone: Callable[[], None]) -> None:
        """Call `on_gone` when the client has left. Most answers are there before anybody has to watch."""
        self._timer = asyncio.get_running_loop().call_later(_WATCH_AFTER, self._begin_to_watch, on_gone)

    def _begin_to_watch(self, on_gone: Callable[[], None]) -> None:
        self._watching = asyncio.create_task(self._watch(on_gone))

    async def _watch(self, on_gone: Callable[[], None]) -> None:
        if self._whole is not None:
            await self._whole.wait()
        while (await self._message())["type"] == "http.request":
            pass
        on_gone()

    async def rest(self) -> None:
        """Stop to watch, and wait until a task that was cancelled does not read any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()
        if self._is_reading:
            self._rested = asyncio.Event()
            await self._rested.wait()

    async def _message(self) -> Message:
        self._is_reading = True
        try:
            message: Message = await self._receive()
        finally:
            self._is_reading = False
            if self._rested is not None:
                self._rested.set()
        return message
