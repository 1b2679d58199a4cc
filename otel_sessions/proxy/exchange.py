"""One request and its answer, as an ASGI app sees them, over a connection that does the reading and the writing."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, cast

from otel_sessions._core.events import Event
from otel_sessions.asgi import ASGIApp, Message
from otel_sessions.asgi._direct import DIRECT, Way
from otel_sessions.asgi._exchange import BODY_FOLLOWS
from otel_sessions.asgi._leaving import LEAVING, Leaving
from otel_sessions.matchers import Headers, Scope

from .head import Head
from .outgoing import outgoing

_MOST_HELD: Final = 65536
"""Bytes of a body that wait for the app; it is read on once the app has taken them."""
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_logger = logging.getLogger("otel_sessions.proxy")


class Stalled(Exception):
    """The client has stopped in the middle of its request's body."""


def watch(scope: Scope, on_gone: Callable[[], None]) -> None:
    """Call `on_gone` once the client of a request has left, at once if that has happened."""
    leaving: Leaving | None = scope.get(LEAVING)
    if leaving is not None:
        leaving.when_gone(on_gone)


def is_left(scope: Scope) -> bool:
    """Return whether the client of a request has left."""
    leaving: Leaving | None = scope.get(LEAVING)
    return leaving is not None and leaving.is_gone


class Carrier(Protocol):
    """The connection that an exchange is on."""

    at_once: Awaitable[None]
    """What can be awaited without a wait."""
    is_full: bool
    """Whether the client has to take some of what was written first."""

    def write(self, data: bytes) -> None: ...

    async def writable(self) -> None:
        """Wait until the client has taken enough of what was written, or is gone."""
        ...

    def body_taken(self) -> None:
        """Hear that the app has taken what was read of the body."""
        ...

    def may_go_on(self) -> bool:
        """Return whether the connection can have another request after this one."""
        ...

    def answered(self, *, goes_on: bool) -> None:
        """Hear that the answer is written as a whole."""
        ...

    def over(self) -> None:
        """Hear that the app has returned."""
        ...

    def cut(self) -> None:
        """Close behind what is written, because the answer stays incomplete."""
        ...

    def abort(self) -> None:
        """Break the connection off, because an answer without a length stays incomplete."""
        ...


class Exchange:
    """What the connection puts in with `put` and `disconnect`, the app gets; what the app sends goes to `carrier`."""

    __slots__ = (
        *("_asked", "_body", "_carrier", "_expects_continue", "_goes_on", "_has_body", "_has_told_end", "_heard"),
        *("_idle_timeout", "_is_chunked", "_is_late", "_left", "_on_gone", "_unsent"),
        *("is_answered", "is_gone", "is_over", "is_read", "is_started"),
    )

    def __init__(self, head: Head, carrier: Carrier, idle_timeout: float | None) -> None:
        self.is_read = False
        """Whether the request is here as a whole."""
        self.is_started = False
        self.is_answered = False
        self.is_over = False
        """Whether the app has returned."""
        self.is_gone = False
        """Whether the client has left."""
        self._asked = head.asked
        self._carrier = carrier
        self._idle_timeout = idle_timeout
        self._expects_continue = head.expects_continue
        self._is_late = False
        self._heard: asyncio.Event | None = None
        self._on_gone: Callable[[], None] | None = None
        self._body: bytes | bytearray = b""
        self._has_told_end = False
        self._has_body = True
        self._left: int | None = None
        """Bytes of the answer that were told and are still to come."""
        self._is_chunked = False
        self._goes_on = True
        self._unsent = b""
        """The head of the answer, until it is written with what comes next; an answer without a body is one write."""

    def has_room(self) -> bool:
        """Return whether more of the body may be read before the app takes some of it."""
        return len(self._body) < _MOST_HELD

    @property
    def waits_to_be_asked(self) -> bool:
        """Whether the client sends its body only if it is told to."""
        return self._expects_continue

    def put(self, part: bytes, *, is_last: bool) -> None:
        """Add a part of the request's body; an app that has answered gets no more."""
        if part:
            self._expects_continue = False
            if not self.is_answered:
                self._hold(part)
        self.is_read = is_last
        self._tell()

    def _hold(self, part: bytes) -> None:
        if not self._body:  # mostly, a body comes in one part
            self._body = part
            return
        if isinstance(self._body, bytes):
            self._body = bytearray(self._body)
        self._body += part

    def disconnect(self) -> None:
        """Tell the app that its client is gone."""
        self.is_gone = True
        self._tell()
        on_gone, self._on_gone = self._on_gone, None
        if on_gone is not None:
            on_gone()

    def when_gone(self, on_gone: Callable[[], None]) -> None:
        """Call `on_gone` once the client is gone."""
        if self.is_gone:
            on_gone()
        else:
            self._on_gone = on_gone

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Let the app answer; the connection goes on once the app has returned, and not with the answer's last byte.

        An app ends a session after its answer, and the client's next request must find the session ended. What the app
        raises is logged; the client gets a 500, or sees that the answer is cut.
        """
        scope[LEAVING] = self
        try:
            try:
                await app(scope, self.receive, self.send)
            except asyncio.CancelledError:
                raise
            except BaseException as error:
                _logger.error("the app has failed", exc_info=error, extra=Event.PROXY_APP_FAILED.extra)
            if not (self.is_started or self.is_gone):
                await self._fail()
        finally:
            self._give_up()
            self.is_over = True
            self._carrier.over()

    def _give_up(self) -> None:
        """Cut an answer that is not complete, so that the client sees it."""
        if self.is_gone or self.is_answered:
            return
        self._flush()
        if self._is_chunked or self._left is not None:
            self._carrier.cut()
        else:
            self._carrier.abort()

    async def receive(self) -> Message:
        """Return what comes next of the request. Raises `Stalled` after `idle_timeout` seconds without a part of it."""
        if self._expects_continue and not (self.is_started or self.is_read or self.is_gone):
            self._expects_continue = False
            self._carrier.write(_CONTINUE)
        while not (self.is_gone or self.is_answered):
            if self._body or (self.is_read and not self._has_told_end):
                return self._next()
            if self._is_late:
                raise Stalled
            await self._hear()
        return {"type": "http.disconnect"}

    async def _hear(self) -> None:
        """Wait until something changes; the rest of a body is waited for as long as it may take."""
        if self._heard is None:
            self._heard = asyncio.Event()
        self._heard.clear()
        timer = None
        if not self.is_read and self._idle_timeout is not None:
            timer = asyncio.get_running_loop().call_later(self._idle_timeout, self._be_late)
        try:
            await self._heard.wait()
        finally:
            if timer is not None:
                timer.cancel()

    def _be_late(self) -> None:
        self._is_late = True
        self._tell()

    def _next(self) -> Message:
        body, self._body = bytes(self._body), b""
        self._has_told_end = self.is_read
        if not self.is_read:
            self._carrier.body_taken()
        return {"type": "http.request", "body": body, "more_body": not self._has_told_end}

    def send(self, message: Message) -> Awaitable[None]:
        """Take a message at once if the client takes its answer, else when the client has taken enough of it."""
        if self._carrier.is_full:
            return self._send_when_writable(message)
        self._take(message)
        return self._carrier.at_once

    async def _send_when_writable(self, message: Message) -> None:
        await self._carrier.writable()
        self._take(message)

    def _take(self, message: Message) -> None:
        kind = message["type"]
        if kind == DIRECT:
            cast("Way", message["way"]).write = self._write_part
            return
        if self.is_gone:
            return
        if self.is_answered:
            raise RuntimeError("the answer is complete already")
        wanted = "http.response.body" if self.is_started else "http.response.start"
        if kind != wanted:
            raise RuntimeError(f"{wanted} has to come, not {kind}")
        if self.is_started:
            self._send_body(message.get("body", b""), bool(message.get("more_body", False)))
            return
        headers = message.get("headers", ())
        self._start(message["status"], headers if isinstance(headers, list) else list(headers))
        if self._has_body and not message.get(BODY_FOLLOWS):
            asyncio.get_running_loop().call_soon(self._flush)

    def _start(self, status: int, headers: Headers) -> None:
        asked = self._asked
        if not self._carrier.may_go_on():
            asked = asked._replace(may_go_on=False)
        self._unsent, self._has_body, self._left, self._is_chunked, self._goes_on = outgoing(status, headers, asked)
        self.is_started = True

    def _flush(self) -> None:
        """Write the head, unless the first part of the body has taken it along."""
        if self._unsent and not self.is_gone:
            self._write(b"")

    def _write(self, data: bytes) -> None:
        unsent, self._unsent = self._unsent, b""
        if unsent or data:
            self._carrier.write(unsent + data)

    def _send_body(self, body: bytes, more: bool) -> None:
        if self._has_body:
            self._write_body(body, more)
        if more:
            return
        if self._left:
            raise RuntimeError(f"the answer is {self._left} bytes shorter than its Content-Length")
        self._write(b"")
        self.is_answered = True
        self._body = b""
        self._tell()
        self._carrier.answered(goes_on=self._goes_on)

    def _write_body(self, body: bytes, more: bool) -> None:
        if self._is_chunked:
            end = b"" if more else b"0\r\n\r\n"
            self._write(b"%x\r\n%s\r\n%s" % (len(body), body, end) if body else end)
            return
        if self._left is not None:
            if len(body) > self._left:
                raise RuntimeError("the answer is longer than its Content-Length")
            self._left -= len(body)
        self._write(body)

    def _write_part(self, part: bytes) -> bool:
        """Write a part of the body at once, and return whether the client is there and takes more."""
        if self.is_gone:
            return False
        self._send_body(part, True)
        return not self._carrier.is_full

    async def _fail(self) -> None:
        text = b"Internal Server Error"
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(text))]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": text})

    def _tell(self) -> None:
        if self._heard is not None:
            self._heard.set()
