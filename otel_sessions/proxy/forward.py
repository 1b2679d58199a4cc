"""Passes HTTP requests on to the upstream, and then its answers back, part by part.

Nothing is collected: a slow reader slows the writer. A client that leaves takes the upstream's call with it, also while
the answer's head is still awaited; but not where that head may name a new session, which is then ended there.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final, NamedTuple

import anyio

from otel_sessions._core.events import Event
from otel_sessions._http.client import (
    Call,
    CallClosed,
    CallLimits,
    CannotConnect,
    Head,
    Outline,
    TimedOut,
    UpstreamError,
)
from otel_sessions.asgi import OPENING, SESSION, Message, Receive, Send
from otel_sessions.asgi._exchange import BODY_FOLLOWS
from otel_sessions.asgi._repeated import RepeatedAnswer
from otel_sessions.asgi._roles import ENDS
from otel_sessions.matchers import AdoptingMatcher, Headers, Scope, header, pairs_of

from .body import is_event_stream, pass_events, pass_parts
from .exchange import Stalled, is_left, watch
from .headers import end_to_end
from .leading_back import LeadingBack
from .peer import Marked, peer_of
from .rules import STALLED, TOO_LARGE, Rules, target_of
from .shape import Shaped, shape_in, shaped_in
from .upstream import Body, Upstream, limits_of

_logger = logging.getLogger("otel_sessions.proxy")

PLAIN: Final = ((b"content-type", b"text/plain; charset=utf-8"),)
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
        self._repeat = upstream.client.repeat
        self._rules = rules
        self._matcher = matcher
        self._close_timeout = close_timeout
        self._limits = limits_of(rules.timeouts)
        self._unlimited = limits_of(replace(rules.timeouts, idle_timeout=None))
        self._lead_back = LeadingBack(upstream.hostname, upstream.port) if rules.rewrite_host else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            asked = self._asked(scope)
            body: Body = None
            if asked.has_body:
                body = _body(await receive(), receive, self._rules.max_body)
            await self._pass_on(scope, asked, body, send)
        except (_Gone, CallClosed):
            return
        except Refused as error:
            await refuse(send, error.status, error.text)
        except Stalled:
            await refuse(send, *STALLED)
        except UpstreamError as error:
            await answer(send, *_trouble(error))

    async def _pass_on(self, scope: Scope, asked: "_Asked", body: Body, send: Send) -> None:
        with self._repeat(asked.outline, body, limits=asked.limits) as call:
            watch(scope, self._patient(call) if _is_opening(scope) else call.close)
            head = await call.head()
            self._note(scope, asked, head.status)
            passed, streams = head.found if isinstance(head.found, _Passed) else _passed(head)
            if self._lead_back is not None:
                passed = self._lead_back(passed, scope["scheme"], (header(scope, b"host") or "").encode("latin-1"))
            start: Message = {"type": "http.response.start", "status": head.status, "headers": passed}
            whole = call.rest()
            start[BODY_FOLLOWS] = whole is not None
            if is_left(scope):
                await _tell_nobody(send, start)
                return
            await send(start)
            if whole is not None:
                await send({"type": "http.response.body", "body": whole})
                return
            try:
                if streams:
                    await pass_events(call, passed, send, self._rules.comment_after)
                else:
                    await pass_parts(call, send, asked.limits.head_timeout)
            except CallClosed:
                raise
            except UpstreamError as error:  # the answer has started, and is left incomplete, as it came
                _trouble(error)
            except (Refused, Stalled):
                return  # so is the answer to a body that turns out wrong behind the head of its answer

    def _patient(self, call: Call) -> Callable[[], None]:
        """Return what closes a call whose client leaves: some time later, if its answer may still name a session."""

        def leave() -> None:
            if call.has_head:
                call.close()
            else:
                asyncio.get_running_loop().call_later(self._close_timeout, call.close)

        return leave

    def _asked(self, scope: Scope) -> "_Asked":
        """Return what the upstream is asked. It is made once for a head that is repeated."""
        shaped = shaped_in(scope)
        if shaped is None:
            return self._made(scope)
        if not isinstance(shaped.outgoing, _Asked):
            shaped.outgoing = _changed(shaped) or self._made(scope)
        return shaped.outgoing

    def _made(self, scope: Scope) -> "_Asked":
        headers = self._rules.headers(scope, self._upstream.host)
        return _Asked(
            headers=Marked(headers),
            outline=self._upstream.outline(str(scope["method"]).encode("latin-1"), target_of(scope), headers),
            has_body=_has_body(scope),
            limits=self._unlimited if _streams(scope) else self._limits,
        )

    def _note(self, scope: Scope, asked: "_Asked", status: int) -> None:
        """Note what the upstream says of the session that a request is in. The middleware then knows if it ends."""
        if self._matcher is None:
            return
        peer = peer_of(scope)
        if peer is not None:
            peer.note(asked.headers, status)
            ends = scope[ENDS] = self._matcher.ends(scope, status)
            if ends:
                peer.told = True


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """What the upstream is asked, but for the body, and how long its answer may take."""

    headers: Marked
    outline: Outline
    has_body: bool
    limits: CallLimits


def _changed(shaped: Shaped) -> _Asked | None:
    """Return what is asked by what was asked before, if only lines have changed that are passed on as they are."""
    like, shaped.like = shaped.like, None
    if like is None or not isinstance(like[0], _Asked):
        return None
    before, changes = like[0], like[1]
    outline = before.outline.changed(changes)
    if outline is None:
        return None
    headers = before.headers.changed(changes)
    return _Asked(headers=headers, outline=outline, has_body=before.has_body, limits=before.limits)


class _Passed(NamedTuple):
    """The headers of an answer that are passed on, and whether the answer is a stream of events."""

    headers: Headers
    is_event_stream: bool


def _passed(head: Head) -> _Passed:
    """Return what is passed on of the head of an answer. It is found once for a head that is repeated."""
    headers = RepeatedAnswer(end_to_end([(name.lower(), value) for name, value in head.headers]))
    head.found = passed = _Passed(headers, is_event_stream(headers))
    return passed


async def _tell_nobody(send: Send, start: Message) -> None:
    """Show the middleware an answer whose client has left: a cancelled exchange gets no session."""
    with anyio.CancelScope() as left:
        left.cancel()
        await send(start)


def _body(message: Message, receive: Receive, most: int | None) -> Body:
    """Return a request's body by its first message: as a whole if it has come as a whole, else in parts.

    Raises `_Gone` if the client has left, and `Refused` for more than `most` bytes.
    """
    if message["type"] == "http.disconnect":
        raise _Gone
    first: bytes = message.get("body", b"")
    if most is not None and len(first) > most:
        raise Refused(*TOO_LARGE)
    return _body_in_parts(first, receive, most) if message.get("more_body", False) else first


async def _body_in_parts(first: bytes, receive: Receive, most: int | None) -> AsyncIterator[bytes]:
    part, total, more = first, len(first), True
    while True:
        if part:
            yield part
        if not more:
            return
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        part, more = message.get("body", b""), bool(message.get("more_body", False))
        total += len(part)
        if most is not None and total > most:
            raise Refused(*TOO_LARGE)


async def refuse(send: Send, status: HTTPStatus, text: str) -> None:
    """Answer a request whose body is not read to its end, so that its connection cannot go on."""
    await answer(send, status, text, (b"connection", b"close"))


async def answer(send: Send, status: HTTPStatus, text: str, *more: tuple[bytes, bytes]) -> None:
    """Answer in the proxy's own words."""
    body = f"{text}\n".encode()
    headers = [*PLAIN, (b"content-length", b"%d" % len(body)), *more]
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def refuse_websocket(receive: Receive, send: Send, status: HTTPStatus, text: str) -> None:
    """Refuse a handshake of a WebSocket in the proxy's own words."""
    await receive()
    await deny(send, status, PLAIN, f"{text}\n".encode())


async def deny(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Refuse a handshake that has been received with an HTTP answer."""
    await send({"type": "websocket.http.response.start", "status": int(status), "headers": list(headers)})
    await send({"type": "websocket.http.response.body", "body": body})


def _is_opening(scope: Scope) -> bool:
    """Return whether the answer may still make a session, for which a place is kept."""
    return OPENING in scope and scope[SESSION] is None


def _has_body(scope: Scope) -> bool:
    headers, shape = pairs_of(scope), shape_in(scope)
    return b"transfer-encoding" in shape.at or (shape.first(headers, b"content-length") or b"0") != b"0"


def _trouble(error: UpstreamError) -> tuple[HTTPStatus, str]:
    """Log what is wrong with the upstream, and return it for its client."""
    trouble = _LATE if isinstance(error, TimedOut) else _BROKEN
    if isinstance(error, CannotConnect):
        trouble = _UNREACHABLE
    why = error if isinstance(error, CannotConnect) else type(error).__name__
    _logger.warning("%s: %s", trouble[1], why, extra=Event.UPSTREAM_FAILED.extra)
    return trouble


def _streams(scope: Scope) -> bool:
    """Return whether a request asks for a stream of events, which may be silent for as long as it likes."""
    if scope["method"] != "GET":
        return False
    accepted = shape_in(scope).values(pairs_of(scope), b"accept")
    return b"text/event-stream" in b",".join(accepted).lower()
