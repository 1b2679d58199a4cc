"""Passes HTTP requests on to the upstream and its answers back, part by part, both ways at once.

Nothing is collected: a slow reader slows the writer. A client that leaves takes the upstream's call with it, also while
the answer's head is still awaited.
"""

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, cast

import anyio
import httpx2

from otel_sessions.asgi import SESSION, Message, Receive, Send
from otel_sessions.matchers import Headers, Scope, header, headers_of
from otel_sessions.session import Session

from .headers import end_to_end
from .rules import Rules, Timeouts
from .upstream import Upstream

_logger = logging.getLogger("otel_sessions.proxy")

_ABOUT_ONE_REQUEST: Final = frozenset(
    {b"accept", b"content-encoding", b"content-length", b"content-type", b"last-event-id", b"mcp-session-id"}
)
_TOO_LARGE: Final = "the request is larger than this proxy passes on"
_UNREACHABLE: Final = "the upstream cannot be reached"
_BROKEN: Final = "the upstream broke off before it answered"
_LATE: Final = "the upstream did not answer in time"


@dataclass(slots=True)
class Peer:
    """What the proxy remembers of a session: how to take leave of the upstream on its behalf.

    `headers` are those of the session's last request, credentials included. Kept in memory only, and shown by nothing.
    """

    target: bytes = field(repr=False)
    headers: Headers = field(repr=False)
    told: bool = False
    """Whether the upstream knows already that the session is over."""

    @property
    def credentials(self) -> Headers:
        """What the upstream needs to see to believe that a DELETE comes from the session's client."""
        return [(name, value) for name, value in self.headers if name not in _ABOUT_ONE_REQUEST]


class _Gone(Exception):
    """The client has left."""


class _TooLarge(Exception):
    """The request has more bytes than it may."""


class Forwarder:
    """The ASGI app behind the middleware."""

    def __init__(self, upstream: Upstream, rules: Rules) -> None:
        self._upstream = upstream
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._rules.refusal(scope)
        if refused is not None:
            await answer(send, *refused)
            return
        request = _Request(scope, receive, self._rules.max_body)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(request.watch, tasks.cancel_scope)
            await self._pass_on(scope, request, send)
            tasks.cancel_scope.cancel()

    async def _pass_on(self, scope: Scope, request: "_Request", send: Send) -> None:
        headers = self._rules.headers(scope, self._upstream.host)
        if SESSION not in scope:  # nobody has checked whose it is
            headers = [(name, value) for name, value in headers if name != b"mcp-session-id"]
        target = target_of(scope)
        _remember(scope, target, headers)
        started = False
        try:
            async with self._upstream.ask(
                str(scope["method"]), target, headers, request.body(), _timeouts(scope, self._rules.timeouts)
            ) as response:
                started = True
                _note_end(scope, response.status_code)
                await _answer_with(response, send, self._rules.comment_after)
        except _Gone:
            return
        except _TooLarge:
            await answer(send, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            await self._fail(send, started, HTTPStatus.BAD_GATEWAY, _UNREACHABLE, error)
        except httpx2.TimeoutException as error:
            await self._fail(send, started, HTTPStatus.GATEWAY_TIMEOUT, _LATE, error)
        except httpx2.TransportError as error:
            await self._fail(send, started, HTTPStatus.BAD_GATEWAY, _BROKEN, error)

    async def _fail(self, send: Send, started: bool, status: HTTPStatus, text: str, error: Exception) -> None:
        """Say what is wrong with the upstream; an answer that has started is left incomplete, as it came."""
        _logger.warning("%s: %s", text, type(error).__name__)
        if not started:
            await answer(send, status, text)


class _Request:
    """A client's request: its body as it comes, and whether the client is still there."""

    def __init__(self, scope: Scope, receive: Receive, most: int | None) -> None:
        self._receive = receive
        self._most = most
        self._has_body = _has_body(scope)
        self._read = anyio.Event()
        if not self._has_body:
            self._read.set()

    def body(self) -> AsyncIterator[bytes] | None:
        return self._parts() if self._has_body else None

    async def watch(self, exchange: anyio.CancelScope) -> None:
        """Cancel the exchange when the client leaves; what it sends is read by others first."""
        await self._read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        exchange.cancel()

    async def _parts(self) -> AsyncIterator[bytes]:
        total = 0
        more = True
        while more:
            message: Message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            part, more = cast("bytes", message.get("body", b"")), bool(message.get("more_body", False))
            total += len(part)
            if self._most is not None and total > self._most:
                raise _TooLarge
            if part:
                yield part
        self._read.set()


class _Body:
    """The body of an answer on its way to the client, undecoded."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._sending = False
        self._tail = b"\n\n"
        self._quiet_since = anyio.current_time()

    async def pass_on(self, parts: AsyncIterator[bytes]) -> None:
        async for part in parts:
            await self._part(part)
            self._tail = (self._tail + part)[-4:]
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def comment(self, seconds: float) -> None:
        """Say something now and then in a stream of events that is silent, so that a client that is gone is found.

        Only between two events: a line in the midst of one would be a part of it.
        """
        while True:
            await anyio.sleep_until(self._quiet_since + seconds)
            between = self._tail.endswith((b"\n\n", b"\r\r", b"\r\n\r\n"))
            if self._sending or not between or anyio.current_time() < self._quiet_since + seconds:
                await anyio.sleep(seconds)
            else:
                await self._part(b":\n\n")

    async def _part(self, part: bytes) -> None:
        self._sending = True
        await self._send({"type": "http.response.body", "body": part, "more_body": True})
        self._sending = False
        self._quiet_since = anyio.current_time()


async def _answer_with(response: httpx2.Response, send: Send, comment_after: float | None) -> None:
    """Pass an answer back: its head at once, its body as it comes."""
    head = end_to_end([(name.lower(), value) for name, value in response.headers.raw])
    await send({"type": "http.response.start", "status": response.status_code, "headers": head})
    body, parts = _Body(send), cast("AsyncIterator[bytes]", response.stream)
    if comment_after is None or not _is_plain_event_stream(head):
        await body.pass_on(parts)
        return
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(body.comment, comment_after)
        await body.pass_on(parts)
        tasks.cancel_scope.cancel()


def _is_plain_event_stream(head: Headers) -> bool:
    kinds = dict(head)
    return kinds.get(b"content-type", b"").startswith(b"text/event-stream") and b"content-encoding" not in kinds


async def answer(send: Send, status: HTTPStatus, text: str) -> None:
    """Answer in the proxy's own words."""
    body = f"{text}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": body})


def target_of(scope: Scope) -> bytes:
    """Return the path and the query as the client wrote them."""
    path = cast("bytes", scope.get("raw_path") or str(scope["path"]).encode())
    query = cast("bytes", scope.get("query_string", b""))
    return path + (b"?" + query if query else b"")


def _has_body(scope: Scope) -> bool:
    return header(scope, b"transfer-encoding") is not None or (header(scope, b"content-length") or "0") != "0"


def _timeouts(scope: Scope, usual: Timeouts) -> Timeouts:
    """Return the timeouts of a request: a stream of events may be silent for as long as it likes."""
    accepted = ",".join(headers_of(scope, b"accept"))
    return Timeouts(connect=usual.connect, idle=None) if "text/event-stream" in accepted else usual


def _peer(scope: Scope) -> Peer | None:
    session = cast("Session[Peer] | None", scope.get(SESSION))
    return session.data if session is not None and isinstance(session.data, Peer) else None


def _remember(scope: Scope, target: bytes, headers: Headers) -> None:
    peer = _peer(scope)
    if peer is not None:
        peer.target, peer.headers = target, headers


def _note_end(scope: Scope, status: int) -> None:
    peer = _peer(scope)
    if peer is not None and (status == HTTPStatus.NOT_FOUND or (scope["method"] == "DELETE" and status < 300)):
        peer.told = True
