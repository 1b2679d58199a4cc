"""Passes HTTP requests on to the upstream, and then its answers back, part by part.

Nothing is collected: a slow reader slows the writer. A client that leaves takes the upstream's call with it, also while
the answer's head is still awaited; but not where that head may name a new session, which is then ended there.
"""

import logging
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Final, cast

import anyio
import httpx2

from otel_sessions.asgi import OPENING, SESSION, Message, Receive, Send
from otel_sessions.matchers import AdoptingMatcher, Scope, header, headers_of

from .body import pass_body
from .headers import end_to_end
from .peer import peer_of
from .rules import TOO_LARGE, Rules, Timeouts, target_of
from .upstream import Upstream

_logger = logging.getLogger("otel_sessions.proxy")

_STALLED: Final = (HTTPStatus.REQUEST_TIMEOUT, "the request did not come in time")
_UNREACHABLE: Final = (HTTPStatus.BAD_GATEWAY, "the upstream cannot be reached")
_BROKEN: Final = (HTTPStatus.BAD_GATEWAY, "the upstream broke off before it answered")
_LATE: Final = (HTTPStatus.GATEWAY_TIMEOUT, "the upstream did not answer in time")


class _Gone(Exception):
    """The client has left."""


class Refused(Exception):
    """The request is not what this proxy passes on, as has turned out while its body was read."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Forwarder:
    """The ASGI app behind the middleware.

    `matcher` finds sessions that the upstream makes, None if it makes no sessions. An answer that may name a new one is
    awaited for `close_timeout` seconds after its client has left, so that the session can be ended.
    """

    def __init__(self, upstream: Upstream, rules: Rules, matcher: AdoptingMatcher | None, close_timeout: float) -> None:
        self._upstream = upstream
        self._rules = rules
        self._matcher = matcher
        self._close_timeout = close_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = _Request(scope, receive, self._rules)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(request.watch, tasks.cancel_scope, self._close_timeout)
            await self._pass_on(scope, request, send)
            tasks.cancel_scope.cancel()

    async def _pass_on(self, scope: Scope, request: "_Request", send: Send) -> None:
        headers = self._rules.headers(scope, self._upstream.host)
        timeouts = _timeouts(scope, self._rules.timeouts)
        started = False
        try:
            async with self._upstream.ask(
                str(scope["method"]), target_of(scope), headers, request.body(), timeouts, awaiting=request.awaiting
            ) as response:
                peer = None if self._matcher is None else peer_of(scope)
                if peer is not None and self._matcher is not None:
                    peer.note(headers, response.status_code)
                    peer.told = peer.told or self._matcher.ends(scope, response.status_code)
                started = True
                head = end_to_end([(name.lower(), value) for name, value in response.headers.raw])
                await send({"type": "http.response.start", "status": response.status_code, "headers": head})
                parts = cast("AsyncIterator[bytes]", response.stream)
                await pass_body(parts, head, send, self._rules.comment_after)
        except _Gone:
            return
        except Refused as error:
            await refuse(send, error)
        except httpx2.TransportError as error:  # an answer that has started is left incomplete, as it came
            status, text = _trouble(error)
            _logger.warning("%s: %s", text, type(error).__name__)
            if not started:
                await answer(send, status, text)


class _Request:
    """A client's request: its body as it comes, and whether the client is still there."""

    def __init__(self, scope: Scope, receive: Receive, rules: Rules) -> None:
        self._receive = receive
        self._max_body = rules.max_body
        self.awaiting: Final = anyio.CancelScope(shield=_is_opening(scope))
        """Where the head of the answer is awaited."""
        self._has_body = _has_body(scope)
        self._read = anyio.Event()
        if not self._has_body:
            self._read.set()

    def body(self) -> AsyncIterator[bytes] | None:
        return self._parts() if self._has_body else None

    async def watch(self, exchange: anyio.CancelScope, close_timeout: float) -> None:
        """Cancel the exchange when the client leaves; what it sends is read by others first.

        The head of an answer that may name a new session is then awaited for `close_timeout` seconds.
        """
        await self._read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.awaiting.deadline = anyio.current_time() + close_timeout
        exchange.cancel()

    async def _parts(self) -> AsyncIterator[bytes]:
        total = 0
        more = True
        while more:
            message = await self._next()
            part, more = cast("bytes", message.get("body", b"")), bool(message.get("more_body", False))
            total += len(part)
            if self._max_body is not None and total > self._max_body:
                raise Refused(*TOO_LARGE)
            if part:
                yield part
        self._read.set()

    async def _next(self) -> Message:
        message: Message = await self._receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        return message


def patient(receive: Receive, idle_timeout: float | None) -> Receive:
    """Return a request's `receive` that raises `Refused` if its body stops coming for `idle_timeout` seconds."""
    reading = True

    async def receive_in_time() -> Message:
        nonlocal reading
        message: Message | None = None
        with anyio.move_on_after(idle_timeout if reading else None):
            message = await receive()
        if message is None:
            raise Refused(*_STALLED)
        reading = bool(message.get("more_body", False))
        return message

    return receive_in_time


async def refuse(send: Send, refused: Refused) -> None:
    """Answer a request whose body is not read to its end, so that its connection cannot go on."""
    await answer(send, refused.status, refused.text, (b"connection", b"close"))


async def answer(send: Send, status: HTTPStatus, text: str, *more: tuple[bytes, bytes]) -> None:
    """Answer in the proxy's own words."""
    body = f"{text}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": int(status), "headers": [*headers, *more]})
    await send({"type": "http.response.body", "body": body})


def _is_opening(scope: Scope) -> bool:
    """Return whether the answer may still make a session, for which a place is kept."""
    return OPENING in scope and scope[SESSION] is None


def _has_body(scope: Scope) -> bool:
    return header(scope, b"transfer-encoding") is not None or (header(scope, b"content-length") or "0") != "0"


def _trouble(error: httpx2.TransportError) -> tuple[HTTPStatus, str]:
    if isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout)):
        return _UNREACHABLE
    return _LATE if isinstance(error, httpx2.TimeoutException) else _BROKEN


def _timeouts(scope: Scope, usual: Timeouts) -> Timeouts:
    """Return the timeouts of a request: one for a stream of events may be without an answer for as long as it likes."""
    accepted = ",".join(headers_of(scope, b"accept")).lower()
    streams = scope["method"] == "GET" and "text/event-stream" in accepted
    return Timeouts(connect_timeout=usual.connect_timeout, idle_timeout=None) if streams else usual
