"""A leased session for every exchange of an ASGI app.

For as long as the app behind runs, and no longer, the session is leased and stands at `scope["otel_sessions.session"]`;
None stands there while an app that makes ids has not answered yet, and nothing where an exchange is in no session.
Which session that is, a matcher says. An opening that is refused or fails leaves no session behind; a session that is
ended by force takes its exchange with it.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar, overload

import anyio

from otel_sessions.exceptions import ManagerClosed, SessionError, SessionNotFound, TooManySessions
from otel_sessions.manager import SessionManager
from otel_sessions.matchers import HeaderMatcher, Scope, SessionMatcher
from otel_sessions.session import Session

from ._adoption import Holder
from ._exchange import SESSION, ASGIApp, Exchange, Receive, Send, exchange_of

_DataT = TypeVar("_DataT")


class SessionLeaseMiddleware:
    """Puts HTTP requests and WebSockets of `app` into sessions of `manager`, as `matcher` finds them.

        app = SessionLeaseMiddleware(app, manager, CookieMatcher(), data=lambda scope: Basket())

    `manager` must run while requests are served, as in the app's lifespan. From the scope, `data` makes what a new
    session carries (None without it), and `client` says whose it is, for `max_sessions_per_client`; where it is
    `private`, it is unknown to every other client. The lease spans the whole exchange, streams included, and every
    message of a stream is a touch.

    - An unknown or ended id is 404, or a new session where the matcher says so.
    - At the cap, 503 with `Retry-After` in whole seconds, where that is known; 503 while the manager does not run.
    - An id that the app makes is the session's from the app's answer on, the place is kept until then; an id that is
      made here is announced unless the app refuses (400 and above) or raises, and then there is no session.
    - A session that is ended by force cancels the app: the answer is 404 if none has started, a stream of events ends,
      any other response stays incomplete; a WebSocket is closed with 1001.

    A WebSocket is refused with the same answer where the server can do that, else closed with 1008 or 1013.
    """

    @overload
    def __init__(
        self,
        app: ASGIApp,
        manager: SessionManager[_DataT | None],
        matcher: SessionMatcher | None = None,
        *,
        client: Callable[[Scope], str | None] = ...,
        data: None = None,
        private: bool = False,
    ) -> None: ...
    @overload
    def __init__(
        self,
        app: ASGIApp,
        manager: SessionManager[_DataT],
        matcher: SessionMatcher | None = None,
        *,
        client: Callable[[Scope], str | None] = ...,
        data: Callable[[Scope], _DataT],
        private: bool = False,
    ) -> None: ...
    def __init__(
        self,
        app: ASGIApp,
        manager: SessionManager[Any],
        matcher: SessionMatcher | None = None,
        *,
        client: Callable[[Scope], str | None] = lambda _: None,
        data: Callable[[Scope], Any] | None = None,
        private: bool = False,
    ) -> None:
        self._app = app
        self._manager = manager
        self._matcher: SessionMatcher = HeaderMatcher() if matcher is None else matcher
        self._client = client
        self._data = data
        self._private = private

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        match = self._matcher.match(scope)
        exchange = exchange_of(scope, receive, send)
        named = match.session_id
        if match.opens and (named is None or not self._may_use(named, scope)):
            await (self._open if self._matcher.mints else self._await_id)(scope, exchange)
        elif named is None:
            await self._app(scope, receive, send)
        elif self._is_anothers(named, scope):
            await self._refuse(exchange, SessionNotFound(named))
        else:
            await self._use(named, scope, exchange)

    def _may_use(self, session_id: str, scope: Scope) -> bool:
        return session_id in self._manager and not self._is_anothers(session_id, scope)

    def _is_anothers(self, session_id: str, scope: Scope) -> bool:
        """Return whether the session is there, but not for the client that asks."""
        session = self._manager.get(session_id) if self._private else None
        return session is not None and session.client != self._client(scope)

    async def _use(self, session_id: str, scope: Scope, exchange: Exchange) -> None:
        """Run the app while a lease is held; close the session afterwards if the answer was its end."""

        def note_start(exchange: Exchange, status: int) -> None:
            exchange.ends = self._matcher.ends({**scope, SESSION: exchange.session}, status)

        exchange.on_start = note_start
        try:
            await self._run(session_id, scope, exchange)
        finally:
            if exchange.ends:
                await self._close(session_id)

    async def _open(self, scope: Scope, exchange: Exchange) -> None:
        """Run the app in a new session, which is closed again if its id was never announced."""
        try:
            session = await self._manager.create_session(data=self._make(scope), client=self._client(scope))
        except (ManagerClosed, TooManySessions) as error:
            await self._refuse(exchange, error)
            return

        def announce(exchange: Exchange, status: int) -> None:
            if status < 400:
                exchange.headers = self._matcher.announce(session.id, scope, exchange.headers)
                exchange.keeps = True

        exchange.on_start = announce
        try:
            await self._run(session.id, scope, exchange)
        finally:
            if not exchange.keeps:
                await self._close(session.id)

    async def _await_id(self, scope: Scope, exchange: Exchange) -> None:
        """Run the app with a place for a session, which becomes one when the app's answer has its id."""
        holder = Holder(self._manager)
        inner = {**scope, SESSION: None}
        try:
            async with self._manager.reserve(client=self._client(scope)) as place:

                def commit(exchange: Exchange, status: int) -> None:
                    session_id = self._matcher.established(status, exchange.headers)
                    if session_id is None:
                        place.give_back()
                    else:
                        exchange.session = inner[SESSION] = place.commit(session_id, data=self._make(scope))
                        holder.hold(session_id)

                exchange.on_start = partial(holder.guard, commit)
                await holder.run(partial(self._app, inner, exchange.receive, exchange.send))
        except (ManagerClosed, TooManySessions) as error:
            if holder.ran:
                raise  # the app's own
            await self._refuse(exchange, error)
        if holder.lost is not None:
            await self._refuse(exchange, holder.lost)

    async def _run(self, session_id: str, scope: Scope, exchange: Exchange) -> None:
        """Run the app while a lease is held, and answer for a session that is not there or is gone meanwhile."""
        session: Session[Any] | None = None
        try:
            async with self._manager.lease(session_id) as session:
                exchange.session = session
                # A copy: servers keep their scope while a connection idles, and would keep the session with it.
                await self._app({**scope, SESSION: session}, exchange.receive, exchange.send)
        except (ManagerClosed, SessionNotFound) as error:
            if session is not None and not _tells_end_of(session, error):
                raise  # the app's own
            await self._refuse(exchange, error)

    async def _refuse(self, exchange: Exchange, error: SessionError) -> None:
        await exchange.refuse(error, self._matcher.refusal(error))

    async def _close(self, session_id: str) -> None:
        with anyio.CancelScope(shield=True), suppress(ManagerClosed):
            await self._manager.close_session(session_id)

    def _make(self, scope: Scope) -> Any:
        return None if self._data is None else self._data(scope)


def _tells_end_of(session: Session[Any], error: SessionError) -> bool:
    return isinstance(error, SessionNotFound) and error.session_id == session.id and session.end_reason is not None
