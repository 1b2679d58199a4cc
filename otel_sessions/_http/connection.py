"""One connection to an upstream: bytes out, an answer in, and no wait without a deadline. asyncio only.

A connection serves one request after another, and knows nothing about them but what it has to send and the `Answer`
that takes what comes. It is over as soon as `error` is set, and never used again. Bytes that come while no answer is
awaited end it.
"""

import asyncio
import contextlib
import os
import select
import sys
from collections.abc import Callable
from typing import Final, cast

from .deadline import Deadline
from .messages import Answer, BadAnswer, Known, UpstreamError

_HIGH_WATER: Final = 65536
"""How many bytes of a body wait to be taken before the upstream is kept waiting."""


_MOST_AT_ONCE: Final = 16384
"""Bytes that a sink is given at once. Larger pieces wait for a task, so that others have their turn before it."""
Sink = Callable[[bytes], bool]
"""Takes a part of a body at once, and returns whether it takes more."""


class HungUp(UpstreamError):
    """The upstream ended the connection before its answer was whole."""


class TimedOut(UpstreamError):
    """The upstream neither answered nor took the request in time."""


class CallClosed(UpstreamError):
    """This side has ended the call while somebody waited for it."""


class Wait:
    """The place where one task waits for the other end, and `late` is called if it waits too long."""

    __slots__ = ("_deadline", "_loop", "_seconds", "_waiter")

    def __init__(self, late: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._deadline = Deadline(self._loop, late)
        self._waiter: asyncio.Future[None] | None = None
        self._seconds: float | None = None

    def begin(self, seconds: float | None) -> "asyncio.Future[None]":
        """Return what is awaited until `end`. `late` is called after so many seconds; None for as long as it takes."""
        self._waiter = waiter = self._loop.create_future()
        self._seconds = seconds
        self._deadline.set(seconds)
        return waiter

    def is_on(self) -> bool:
        """Return whether a task waits, and nothing has let it go on."""
        return self._waiter is not None and not self._waiter.done()

    def limit(self, seconds: float | None) -> None:
        """Let the present wait last so many seconds from now on."""
        self._seconds = seconds
        self.prolong()

    def prolong(self) -> None:
        """Count the seconds of the present wait from now on."""
        if self._waiter is not None:
            self._deadline.set(self._seconds)

    def end(self) -> None:
        """Let the task go on."""
        waiter, self._waiter = self._waiter, None
        self._deadline.clear()
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def stop(self) -> None:
        """Let the task go on, and leave no timer behind."""
        self.end()
        self._deadline.close()


class Connection(asyncio.Protocol):
    """A connection that asyncio has made."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        """Why the connection is over, or None."""
        self._answer: Answer | None = None
        self._known: Known | None = None
        """The head of the last answer. An upstream often repeats it, and then it is not parsed again."""
        self._sink: Sink | None = None
        self._reading = Wait(self._not_answered)
        self._writing = Wait(self._not_taken)
        self._is_full = False
        self._is_paused = False

    # What a request does with it

    def ask(self, answer: Answer, pieces: tuple[bytes, ...]) -> None:
        """Send a request, or its beginning; from now on `answer` takes what comes."""
        self._answer = answer
        self._write(pieces)

    async def write(self, seconds: float | None, *pieces: bytes) -> None:
        """Send what follows, and wait while the upstream takes nothing, at most so many seconds.

        Others have their turn each time, however fast the parts come. Raises `error` if the connection is over.
        """
        if self.error is None:
            self._write(pieces)
            self._reading.prolong()
            await (self._writing.begin(seconds) if self._is_full else asyncio.sleep(0))
        if self.error is not None:
            raise self.error

    def _write(self, pieces: tuple[bytes, ...]) -> None:
        # Not by `writelines`: in some versions of Python that never pauses the writer.
        self._transport.write(b"".join(pieces))

    def progress(self, seconds: float | None) -> "asyncio.Future[None]":
        """Return what is awaited until the answer goes on or the connection is over; after so many seconds it is."""
        waiter = self._reading.begin(seconds)
        if self.error is not None:
            self._reading.end()
        return waiter

    async def pour(self, sink: Sink) -> None:
        """Give the parts of the body to `sink` as they come, without a task. Wait as `progress` does.

        The wait ends once `sink` takes no more, or the connection is over, or there is something that a task has to
        take: the end of the answer, or a large part. What `sink` raises ends the connection.
        """
        self._sink = sink
        try:
            await self.progress(None)
        finally:
            self._sink = None

    def limit(self, seconds: float | None) -> None:
        """Let the wait for the answer last so many seconds from now on."""
        self._reading.limit(seconds)

    def resume(self) -> None:
        """Let the upstream go on if it was kept waiting, because what came from it was taken."""
        if self._is_paused and self.error is None:
            self._is_paused = False
            self._transport.resume_reading()

    def rest(self) -> bool:
        """Expect nothing more, and return whether the connection may serve another request."""
        self._answer = None
        return self.error is None and self._transport.get_write_buffer_size() == 0

    def may_be_used(self) -> bool:
        """Return whether it is not over, and the system holds no byte and no end of it that nobody has read."""
        return self.error is None and (sys.platform == "win32" or not self._probe.poll(0))

    def fail(self, error: Exception) -> None:
        """End the connection at once; `error` is why, if it was not over yet."""
        if self.error is None:
            self.error = error
        self._transport.abort()
        self._reading.stop()
        self._writing.stop()

    def close(self) -> None:
        """End a connection that rests."""
        self.error = self.error or CallClosed("the connection was closed")
        self._reading.stop()
        self._writing.stop()
        self._transport.close()

    # What asyncio tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._descriptor: int = transport.get_extra_info("socket").fileno()
        if sys.platform != "win32":  # which has no poll()
            self._probe = select.poll()
            self._probe.register(self._descriptor, select.POLLIN)

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            self.fail(BadAnswer("the upstream sent bytes that no request asked for"))
            return
        try:
            if answer.head is None:
                self._read_head(answer, data)
            else:
                self._read_body(answer, data)
        except Exception as error:
            self.fail(error)

    def _read_head(self, answer: Answer, data: bytes) -> None:
        if self._known is not None and answer.repeats(data, self._known):
            self._reading.end()
            return
        had_begun = answer.begun
        answer.feed(data)
        if not had_begun:
            self._known = answer.known_by(data)
        self._hold(answer)
        if answer.head is not None:
            self._reading.end()

    def _read_body(self, answer: Answer, data: bytes) -> None:
        answer.feed(data)
        if self._sink is None or not self._is_poured(self._sink, answer):
            self._hold(answer)
            if answer.is_readable():
                self._reading.end()

    def _is_poured(self, sink: Sink, answer: Answer) -> bool:
        """Give a part of the body to the sink, and return whether no task has to look at the answer."""
        if answer.whole or answer.buffered > _MOST_AT_ONCE or not self._reading.is_on():
            return False
        if answer.buffered and not sink(answer.take()):
            self._reading.end()
        return True

    def _hold(self, answer: Answer) -> None:
        """Keep the upstream waiting if too much waits to be taken."""
        if answer.buffered > _HIGH_WATER and not answer.whole and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> None:
        self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and self.error is None:
            self._read_the_last(self._answer, exc)
        self.fail(HungUp("the upstream hung up before its answer was whole"))

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self._writing.end()

    def _read_the_last(self, answer: Answer, exc: Exception | None) -> None:
        """Note that the upstream has ended the connection in order, or read what it said before it did otherwise.

        An upstream may answer early, and end the connection with the rest of the request unread. asyncio gives up a
        connection that cannot be written to, although the answer is there to read.
        """
        if exc is None:
            answer.end()
        elif self._transport.get_extra_info("ssl_object") is None:
            with contextlib.suppress(OSError, BadAnswer):
                answer.feed(os.read(self._descriptor, _HIGH_WATER))

    def _not_answered(self) -> None:
        self.fail(TimedOut("the upstream did not go on with its answer in time"))

    def _not_taken(self) -> None:
        self.fail(TimedOut("the upstream did not take the request in time"))
