"""A leased session for every exchange of an ASGI app, named by a header.

A request that names no session opens one, and its response carries the new id. For as long as the app behind runs, and
no longer, the session is leased and stands at `scope["otel_sessions.session"]`. A session whose id never left in a
response is closed, so a failed opening leaves nothing behind. Ending sessions otherwise is the app's business.
"""

import math
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from typing import Any, Final, TypeVar, cast

import anyio

from .exceptions import ManagerClosed, SessionError, SessionNotFound, TooManySessions
from .manager import SessionManager
from .session import Session

Scope = MutableMapping[str, object]
Message = MutableMapping[str, object]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

SESSION: Final = "otel_sessions.session"
"""The key of the scope under which the session stands."""

_DataT = TypeVar("_DataT")
_Headers = list[tuple[bytes, bytes]]


class SessionLeaseMiddleware:
    """Puts every HTTP request and every WebSocket of `app` into a session of `manager`.

        app = SessionLeaseMiddleware(app, manager, header="x-session-id")

    `manager` must run while requests are served, as in the app's lifespan; a new session has the data None. The lease
    spans the whole exchange, so a session is never idle while a request uses it.

    - An unknown or ended id is answered 404.
    - At the cap, 503 with `Retry-After` in whole seconds, where that is known.
    - While the manager does not run, 503.
    - A session that is ended by force takes its exchange with it: 404 if no response has started, else the response
      stays incomplete.

    A WebSocket is closed with 1008 where a request gets 404, and with 1013 where it gets 503.
    """

    def __init__(self, app: ASGIApp, manager: SessionManager[_DataT | None], *, header: str = "x-session-id") -> None:
        self._app = app
        self._manager: SessionManager[Any] = manager
        self._header = header.lower().encode("latin-1")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            exchange = _Exchange(receive, send)
        elif scope["type"] == "websocket":
            exchange = _WebSocket(receive, send)
        else:
            await self._app(scope, receive, send)
            return
        named = self._named(scope)
        if named is None:
            await self._open(scope, exchange)
        else:
            await self._use(named, scope, exchange)

    def _named(self, scope: Scope) -> str | None:
        for name, value in cast("Iterable[tuple[bytes, bytes]]", scope["headers"]):
            if name == self._header:
                return value.decode("latin-1")
        return None

    async def _open(self, scope: Scope, exchange: "_Exchange") -> None:
        """Run the app in a new session, which is closed again if its id was never announced."""
        try:
            session = await self._manager.create_session(data=None)
        except (ManagerClosed, TooManySessions) as error:
            await exchange.refuse(error)
            return
        exchange.announce((self._header, session.id.encode("latin-1")))
        try:
            await self._use(session.id, scope, exchange)
        finally:
            if not exchange.started:
                with anyio.CancelScope(shield=True), suppress(ManagerClosed):
                    await self._manager.close_session(session.id)

    async def _use(self, session_id: str, scope: Scope, exchange: "_Exchange") -> None:
        """Run the app while a lease is held, and answer for a session that is not there or is gone meanwhile."""
        session: Session[Any] | None = None
        try:
            async with self._manager.lease(session_id) as session:
                # A copy: servers keep their scope while a connection idles, and would keep the session with it.
                await self._app({**scope, SESSION: session}, exchange.receive, exchange.send)
        except (ManagerClosed, SessionNotFound) as error:
            if session is not None and not _tells_end_of(session, error):
                raise  # the app's own
            await exchange.refuse(error)


def _tells_end_of(session: Session[Any], error: SessionError) -> bool:
    return isinstance(error, SessionNotFound) and error.session_id == session.id and session.end_reason is not None


class _Exchange:
    """One request: what passes between server and app, and the answer where the app is not asked or has lost its
    session."""

    starts = "http.response.start"

    def __init__(self, receive: Receive, send: Send) -> None:
        self.receive = receive
        self._send = send
        self._announced: _Headers = []
        self.started = False

    def announce(self, header: tuple[bytes, bytes]) -> None:
        """Add a header to the response, in place of one that the app may set under the same name."""
        self._announced = [header]

    async def send(self, message: Message) -> None:
        if message["type"] == self.starts:
            self.started = True
            message = {**message, "headers": self._announced + self._others(message)}
        await self._send(message)

    async def refuse(self, error: SessionError) -> None:
        """Answer for `error`, unless a response has started."""
        if self.started:
            return
        status, text = (
            (404, b"no such session\n") if isinstance(error, SessionNotFound) else (503, b"try again later\n")
        )
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(text))]
        if isinstance(error, TooManySessions) and error.retry_after is not None:
            headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after))))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": text})

    def _others(self, message: Message) -> _Headers:
        headers = cast("Iterable[tuple[bytes, bytes]]", message.get("headers", ()))
        announced = {name for name, _ in self._announced}
        return [(name, value) for name, value in headers if name.lower() not in announced]


class _WebSocket(_Exchange):
    """One WebSocket: as a request, but it may also end before it is accepted, and is closed rather than left."""

    starts = "websocket.accept"

    def __init__(self, receive: Receive, send: Send) -> None:
        super().__init__(self._watch(receive), send)
        self._over = False

    def _watch(self, receive: Receive) -> Receive:
        async def watched() -> Message:
            message = await receive()
            self._over = self._over or message["type"] == "websocket.disconnect"
            return message

        return watched

    async def send(self, message: Message) -> None:
        self._over = self._over or message["type"] in ("websocket.close", "websocket.http.response.start")
        await super().send(message)

    async def refuse(self, error: SessionError) -> None:
        """Close for `error`, unless one side has done so."""
        if not self._over:
            code = 1008 if isinstance(error, SessionNotFound) else 1013
            await self._send({"type": "websocket.close", "code": code})
