"""A client's connection: requests in, one after the other, and each answered before the next one is read.

```text
            head whole                  answer written, body read
  AWAITED ─────────────▶ EXCHANGE ─────────────────────────────────▶ AWAITED
     │ malformed, late      │ malformed, or an answer before the body's end, or the last one
     └──────────┬───────────┘
                ▼
             LEAVING   nothing is read as a request any more; what still comes is dropped
```

Each state has a deadline, but for an exchange, whose deadlines are its app's. While an answer is under way reading goes
on, so that a client that leaves is heard; what comes early waits for its turn.
"""

import asyncio
import select
import sys
from collections.abc import Awaitable
from contextlib import suppress
from enum import Enum, auto
from http import HTTPStatus
from typing import Final, cast

from otel_sessions._http.deadline import Deadline
from otel_sessions.asgi._exchange import method_of

from . import scopes
from .chunks import Body, Chunked, Sized
from .exchange import Exchange
from .head import Head, Malformed
from .heads import Heads
from .measured import note_refused
from .outgoing import status_line
from .serving import Serving
from .shape import Shaped

_MOST_EARLY: Final = 65536
"""Bytes of requests that may wait for their turn."""
_MOST_DROPPED: Final = 65536
"""Bytes of a body that are read after its answer, so that the connection can go on."""
_NEXT_SECONDS: Final = 75.0
"""How long a connection is kept without a request."""
_LEAVING_SECONDS: Final = 2.0
"""How long a client that was refused may take to read it and leave (RFC 9112, 9.6)."""
_TASK: Final = "otel-sessions request"
_LATE: Final = (HTTPStatus.REQUEST_TIMEOUT, "the request did not come in time")


def _done(loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
    """Return what is done: awaiting it costs less than awaiting a coroutine that does nothing."""
    done = loop.create_future()
    done.set_result(None)
    return done


class _State(Enum):
    AWAITED = auto()
    EXCHANGE = auto()
    LEAVING = auto()


_AWAITED, _EXCHANGE, _LEAVING = _State  # on Python 3.11, a member of an enum costs as much as a call


class Connection(asyncio.Protocol):
    """One client's connection over HTTP/1.1."""

    transport: asyncio.Transport

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._app = method_of(serving.app)
        self._limits = serving.limits
        self._loop = asyncio.get_running_loop()
        self._deadline = Deadline(self._loop, self._expired)
        self.at_once: Awaitable[None] = _done(self._loop)
        self._state = _AWAITED
        self._pending = bytearray()
        self._heads = Heads(self._limits.max_header)
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._body: Body = Sized(0)
        self._writable: asyncio.Event | None = None
        self._unwritten = 0
        self._stuck_since = 0.0
        self._is_paused = False
        self._is_due = False
        self._ends = False
        self._proto: scopes.Part = {}
        idle = self._limits.idle_timeout
        self._next_seconds = _NEXT_SECONDS if idle is None else min(_NEXT_SECONDS, idle)
        self.is_full = False
        """Whether the client has to take some of what was written first."""

    # What the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._serving.connections.add(self)
        self._proto = scopes.of_connection(transport)
        self._deadline.set(self._limits.head_timeout)

    def eof_received(self) -> None:
        """Hear that the client says no more; nothing is under way any more for a client that is half gone."""
        self._read_no_more()
        self._watch_writing()

    def connection_lost(self, _error: Exception | None) -> None:
        self._serving.connections.discard(self)
        self._deadline.close()
        self._read_no_more()
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._state is _LEAVING:
            return
        self._pending += data
        self._advance()

    def pause_writing(self) -> None:
        if not self.is_full:
            self.is_full = True
            self._writable = asyncio.Event()
        self._watch_writing()

    def resume_writing(self) -> None:
        if self._writable is not None and self.is_full:
            self.is_full = False
            self._writable.set()
            if self._exchange is not None and not self._exchange.is_answered:
                self._deadline.set(None)

    # What the exchange says

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    async def writable(self) -> None:
        if self._writable is not None:
            await self._writable.wait()

    def body_taken(self) -> None:
        if self._pending:
            self._soon()
        else:
            self._read_on(True)

    def may_go_on(self) -> bool:
        if self._ends or self._exchange is None or self._exchange.is_read:
            return not self._ends
        left = self._body.left()
        return left is not None and left <= _MOST_DROPPED and not self._exchange.waits_to_be_asked

    def answered(self, *, goes_on: bool) -> None:
        is_read = self._exchange is not None and self._exchange.is_read
        if (not goes_on or self._ends) and is_read and not self._pending:
            self.cut()
        elif not goes_on or self._ends:
            self._leave()
        elif not is_read:
            self._deadline.set(self._limits.head_timeout)
            self._soon()

    def over(self) -> None:
        if self._task is not None:
            self._serving.tasks.discard(self._task)
            self._task = None
        if self._exchange is not None and self._exchange.is_answered and self._body.is_whole:
            self._next()

    def cut(self) -> None:
        self._read_no_more()
        self._watch_writing()
        self.transport.close()

    def abort(self) -> None:
        self.transport.abort()

    # What the server says

    def shutdown(self) -> None:
        """Close as soon as nothing is under way."""
        self._ends = True
        if self._state is not _EXCHANGE:
            self.cut()

    @property
    def is_silent(self) -> bool:
        """Whether the client has taken all that was written, and nothing of a next request has come."""
        if self._pending or self.transport.get_write_buffer_size():
            return False
        if sys.platform == "win32":  # which has no poll()
            return True
        probe = select.poll()
        probe.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not probe.poll(0)

    def give_way(self) -> None:
        """Free the place and the descriptor at once: nothing is under way, so that nothing is lost."""
        self._read_no_more()
        self._serving.connections.discard(self)
        self.transport.abort()

    # One step after the other

    def _soon(self) -> None:
        """Go on reading in the loop's next turn: after a bounded amount of work, others come first."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._is_due = False
        self._advance()

    def _advance(self) -> None:
        try:
            if self._state is _AWAITED:
                self._read_head()
            if self._state is _EXCHANGE:
                self._read_body()
        except Malformed as fault:
            self._refuse(fault.status, fault.text)

    def _read_head(self) -> None:
        had_begun = self._heads.has_begun()
        taken = self._heads.take(self._pending)
        if taken is not None:
            self._serving.idle.pop(self, None)
            self._begin(*taken)
        elif self._pending:
            self._serving.idle.pop(self, None)
            if not had_begun:
                self._deadline.set(self._limits.head_timeout)

    def _begin(self, head: Head, shaped: Shaped) -> None:
        if head.is_websocket:
            self._upgrade(head)
            return
        self._deadline.clear()
        self._state = _EXCHANGE
        self._exchange = exchange = Exchange(head, self, self._limits.idle_timeout)
        self._body = Chunked() if head.length is None else Sized(head.length)
        scope = scopes.of_request(self._proto, head, shaped)
        # Without a name each task makes one. `over` takes the task off: a callback would cost a turn of the loop.
        self._task = self._loop.create_task(exchange.run(self._app, scope), name=_TASK)
        self._serving.tasks.add(self._task)
        if self._body.is_whole:
            exchange.put(b"", is_last=True)

    def _read_body(self) -> None:
        exchange = self._exchange
        assert exchange is not None
        if not self._body.is_whole:
            self._take(exchange)
        if not self._body.is_whole:
            self._read_on(exchange.has_room() and not self._is_due)
        elif exchange.is_answered and exchange.is_over:
            self._next()
        else:
            self._read_on(True)
            if len(self._pending) > _MOST_EARLY:
                self.transport.abort()  # nobody has so much to ask before there is an answer

    def _take(self, exchange: Exchange) -> None:
        """Give the exchange a bounded part of what has come of its body."""
        before = len(self._pending)
        if not before or not exchange.has_room():
            return
        part = self._body.take(self._pending)
        exchange.put(part, is_last=self._body.is_whole)
        if not self._body.is_whole and 0 < len(self._pending) < before:
            self._soon()

    def _next(self) -> None:
        """Wait for the next request, or take it if it is here."""
        if self._ends:
            self.cut()
            return
        self._exchange = None
        self._state = _AWAITED
        self._serving.idle[self] = None
        self._read_on(True)
        self._deadline.set(self._next_seconds)
        if self._pending:
            self._soon()

    def _upgrade(self, head: Head) -> None:
        """Hand the connection to the protocol of WebSockets, with the handshake and all that is behind it."""
        lines = [b"GET %s HTTP/1.1\r\n" % head.target, *(b"%s: %s\r\n" % pair for pair in head.headers), b"\r\n"]
        behind = bytes(self._pending)
        self._deadline.close()
        self._read_no_more()
        self._serving.connections.discard(self)
        protocol = self._serving.upgrade()
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        protocol.begin(b"".join(lines))
        if behind:
            protocol.data_received(behind)

    # Ends

    def _refuse(self, status: HTTPStatus, said: str) -> None:
        """Say what is wrong, if nothing has been said, and close: nobody knows where the next request begins."""
        if self._exchange is not None and self._exchange.is_started:
            self.transport.abort()
            return
        if self._exchange is None:
            note_refused(self._serving.app, str(self._proto["scheme"]), status)
        text = b"%s\n" % said.encode("latin-1", "replace")
        self.transport.write(
            b"%scontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
            % (status_line(status), len(text), text)
        )
        self._leave()

    def _leave(self) -> None:
        """Say no more, and close once the client has left; what it still sends would make it lose what was said."""
        self._read_no_more()
        if self.transport.is_closing():
            return
        self._watch_writing()
        if self.transport.can_write_eof():
            with suppress(OSError):  # the client is gone, which the loop has not heard yet
                self.transport.write_eof()
            self._read_on(True)
        else:
            self.transport.close()

    def _read_no_more(self) -> None:
        self._state = _LEAVING
        self._serving.idle.pop(self, None)
        self._pending.clear()
        self._heads = Heads(self._limits.max_header)  # the last head may have a secret in it
        if self._exchange is not None and not self._exchange.is_answered:
            self._exchange.disconnect()
        self._exchange = None

    # Deadlines

    def _expired(self) -> None:
        """Act on the deadline of the state that the connection is in."""
        if self._state is _AWAITED and self._pending:
            self._refuse(*_LATE)
        elif self._state is _AWAITED:
            self.cut()
        elif self._exchange is not None and self._exchange.is_answered:
            self._leave()
        else:
            self._check_writing()

    def _watch_writing(self) -> None:
        """Give the client time to take what is written, as long as it goes on taking."""
        self._unwritten = self.transport.get_write_buffer_size()
        self._stuck_since = self._loop.time()
        self._look_again()

    def _look_again(self) -> None:
        idle = self._limits.idle_timeout
        self._deadline.set(_LEAVING_SECONDS if idle is None else min(_LEAVING_SECONDS, idle))

    def _check_writing(self) -> None:
        now, idle = self.transport.get_write_buffer_size(), self._limits.idle_timeout
        if not now:
            if self._state is _LEAVING:
                self.transport.abort()
        elif now < self._unwritten:
            self._watch_writing()
        elif idle is not None and self._loop.time() - self._stuck_since >= idle:
            self.transport.abort()
        else:
            self._look_again()

    def _read_on(self, reads: bool) -> None:
        if reads is not self._is_paused or self.transport.is_closing():
            return
        self._is_paused = not reads
        if reads:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()
