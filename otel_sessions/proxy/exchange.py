"""One request and its answer, as an ASGI app sees them, over a connection that does the reading and the writing."""

import asyncio
import logging
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from http import HTTPStatus
from typing import Final, NamedTuple, Protocol, cast

from otel_sessions._core.events import Event
from otel_sessions.asgi import ASGIApp, Message
from otel_sessions.asgi._direct import DIRECT, Way
from otel_sessions.matchers import Headers, Scope

from .head import Head
from .shape import KEPT

_EXCHANGE: Final = "otel_sessions.proxy.exchange"
_MOST_HELD: Final = 65536
"""Bytes of a body that wait for the app; it is read on once the app has taken them."""
_BODILESS: Final = frozenset({204, 304})
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CLOSE: Final = b"connection: close\r\n"
_MALFORMED: Final = "the app sends a malformed header"
_LONGEST_KEPT: Final = 1024
"""Bytes of names in a head whose form is remembered. Longer heads would fill memory."""

_logger = logging.getLogger("otel_sessions.proxy")


class Stalled(Exception):
    """The client has stopped in the middle of its request's body."""


def status_line(status: int) -> bytes:
    """Return the first line of an answer."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return b"HTTP/1.1 %d %s\r\n" % (status, phrase.encode("ascii"))


_STATUS_LINES: Final = {status: status_line(status) for status in range(200, 600)}


class _Form(NamedTuple):
    """What the names of an answer's headers decide: which lines pass, and where the length and `Connection` stand."""

    lines: tuple[int, ...]
    lines_without_length: tuple[int, ...]
    length: int | None
    closes: tuple[int, ...]


def _form(names: tuple[bytes, ...]) -> _Form:
    """Return the form of an answer's head. Raises `RuntimeError` if a name is not the name of a header."""
    kinds = [name.lower() for name in names]
    if not all(map(_NAME.fullmatch, kinds)):
        raise RuntimeError(_MALFORMED)
    lines = tuple(line for line, kind in enumerate(kinds) if kind not in (b"connection", b"transfer-encoding"))
    lengths = [line for line, kind in enumerate(kinds) if kind == b"content-length"]
    return _Form(
        lines=lines,
        lines_without_length=tuple(line for line in lines if line not in lengths),
        length=lengths[-1] if lengths else None,
        closes=tuple(line for line, kind in enumerate(kinds) if kind == b"connection"),
    )


_form_again: Final = lru_cache(KEPT)(_form)


def _form_of(headers: Headers) -> _Form:
    names = tuple([name for name, _ in headers])
    return _form_again(names) if len(b"".join(names)) <= _LONGEST_KEPT else _form(names)


def _written(headers: Headers, lines: tuple[int, ...], rest: bytes) -> bytes:
    """Return a head behind its first line. Raises `RuntimeError` if a reader may see other lines in it."""
    text = b"\r\n".join([b": ".join(headers[line]) for line in lines])
    marks = len(text) - len(text.translate(None, b"\r\n\0"))
    if marks != 2 * max(0, len(lines) - 1):
        raise RuntimeError(_MALFORMED)
    return b"%b\r\n%b\r\n" % (text, rest) if text else rest + b"\r\n"


def watch(scope: Scope, on_gone: Callable[[], None]) -> None:
    """Call `on_gone` once the client of a request has left, at once if that has happened."""
    exchange = cast("Exchange | None", scope.get(_EXCHANGE))
    if exchange is not None:
        exchange.when_gone(on_gone)


def is_left(scope: Scope) -> bool:
    """Return whether the client of a request has left."""
    exchange = cast("Exchange | None", scope.get(_EXCHANGE))
    return exchange is not None and exchange.is_gone


class Carrier(Protocol):
    """The connection that an exchange is on."""

    def write(self, data: bytes) -> None: ...

    def is_full(self) -> bool:
        """Return whether the client has to take some of what was written first."""
        ...

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

    def __init__(self, head: Head, carrier: Carrier, idle_timeout: float | None) -> None:
        self._head = head
        self._idle_timeout = idle_timeout
        self._is_late = False
        self._carrier = carrier
        self._body = bytearray()
        self._heard: asyncio.Event | None = None
        self._on_gone: Callable[[], None] | None = None
        self._expects_continue = head.expects_continue
        self._left: int | None = None
        """Bytes of the answer that were told and are still to come."""
        self._unsent = b""
        """The head of the answer, until it is written with what comes next; an answer without a body is one write."""
        self._is_chunked = False
        self._has_body = True
        self._goes_on = True
        self._has_told_end = False
        self.is_read = False
        """Whether the request is here as a whole."""
        self.is_started = False
        self.is_answered = False
        self.is_over = False
        """Whether the app has returned."""
        self.is_gone = False
        """Whether the client has left."""

    @property
    def is_full(self) -> bool:
        """Whether the app has to take some of the body before more is read."""
        return len(self._body) >= _MOST_HELD

    @property
    def waits_to_be_asked(self) -> bool:
        """Whether the client sends its body only if it is told to."""
        return self._expects_continue

    def put(self, part: bytes, *, is_last: bool) -> None:
        """Add a part of the request's body; an app that has answered gets no more."""
        if not self.is_answered:
            self._body += part
        self.is_read = is_last
        if part:
            self._expects_continue = False
        self._tell()

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
        scope[_EXCHANGE] = self
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
        body = bytes(self._body)
        self._body.clear()
        self._has_told_end = self.is_read
        if not self.is_read:
            self._carrier.body_taken()
        return {"type": "http.request", "body": body, "more_body": not self._has_told_end}

    async def send(self, message: Message) -> None:
        if self._carrier.is_full():
            await self._carrier.writable()
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
            self._send_body(message.get("body", b""), more=bool(message.get("more_body", False)))
        else:
            self._start(message["status"], message.get("headers", ()))

    def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        said = list(headers)
        form = _form_of(said)
        self._has_body = self._head.method != "HEAD" and status not in _BODILESS
        self._goes_on = self._head.keeps_alive and self._carrier.may_go_on()
        if form.length is not None and self._has_body:
            self._left = int(said[form.length][1])
        if form.closes and any(b"close" in said[line][1].lower() for line in form.closes):
            self._goes_on = False
        rest = b""
        if self._has_body and self._left is None:
            self._is_chunked = self._head.version == "1.1"
            self._goes_on = self._goes_on and self._is_chunked
            rest = b"transfer-encoding: chunked\r\n" if self._is_chunked else b""
        lines = form.lines_without_length if status == 204 else form.lines  # RFC 9110, 8.6
        self._unsent = _STATUS_LINES[status] + _written(said, lines, rest if self._goes_on else rest + _CLOSE)
        self.is_started = True
        if self._has_body:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Write the head, unless the first part of the body has taken it along."""
        if self._unsent and not self.is_gone:
            self._write(b"")

    def _write(self, data: bytes) -> None:
        unsent, self._unsent = self._unsent, b""
        if unsent or data:
            self._carrier.write(unsent + data)

    def _send_body(self, body: bytes, *, more: bool) -> None:
        if self._has_body:
            self._write_body(body, more)
        if more:
            return
        if self._left:
            raise RuntimeError(f"the answer is {self._left} bytes shorter than its Content-Length")
        self._write(b"")
        self.is_answered = True
        self._body.clear()
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
        self._send_body(part, more=True)
        return not self._carrier.is_full()

    async def _fail(self) -> None:
        text = b"Internal Server Error"
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(text))]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": text})

    def _tell(self) -> None:
        if self._heard is not None:
            self._heard.set()
