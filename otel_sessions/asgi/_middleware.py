"""A leased session for every exchange of an ASGI app.

For as long as the app behind runs, and no longer, the session is leased and stands at `scope["otel_sessions.session"]`.
None stands there if the exchange is in no session, or if an app that makes ids has not answered yet. Which session it
is, a matcher says. An opening that is refused or fails leaves no session behind. A session that is ended by force takes
its exchange with it.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from inspect import isasyncgenfunction, iscoroutinefunction
from types import CoroutineType
from typing import Any, Final

import anyio

from otel_sessions._core.config import check_seconds
from otel_sessions._core.exceptions import ConfigError, ManagerClosed, SessionError, SessionNotFound, TooManySessions
from otel_sessions._core.ids import fingerprint
from otel_sessions._core.session import Session
from otel_sessions._engine.manager import SessionManager
from otel_sessions._http.addresses import names_address
from otel_sessions.matchers import (
    AdoptingMatcher,
    HeaderMatcher,
    IssuingMatcher,
    Match,
    Opens,
    Scope,
    SessionMatcher,
    pairs_of,
)

from ._adoption import Adoption
from ._client import ClientAddress
from ._exchange import ASGIApp, Exchange, Receive, Send, exchange_of
from ._roles import OPENING, SESSION, Adopting, Asking, Only, Opening, Outside, Renewals, Role, Using
from ._skipping import Skips, skips

_NO_USER: Final = (
    "private=True takes a client= that names one user: an address is shared by all who are behind it; "
    "return the user's id, as the app has authenticated it"
)

_logger = logging.getLogger("otel_sessions")

Stray = Callable[[str, Scope], Awaitable[None]]
"""Ends a session that the app has made and that is no session here: its id, and the scope of the request."""


class SessionLeaseMiddleware:
    """Puts HTTP requests and WebSockets of `app` into sessions of `manager`, as `matcher` finds them.

        app = SessionLeaseMiddleware(app, manager, CookieMatcher(), data=lambda scope: Basket())

    The manager must run while requests are served, as in the app's lifespan. The lease spans the whole exchange,
    streams included. A request counts as one message. Each message of a WebSocket counts, too, and so does each part
    of an event stream that is more than comments.

    - `data` makes what a new session carries, from the scope; None without it. It must not be an async function, which
      is a `ConfigError`: a session never exists without its data. The app may fill the data later.
    - `client` says whose a session is, from the scope, for `max_sessions_per_client`. With `private`, a session is
      unknown to every client but its own; `client` must then name one user, so a text with an address in it is a
      `ConfigError`.
    - `skip` names requests that are in no session: paths in which `*` stands for any text, or a function of the scope.
      Under a mount, as with `Mount("/mcp", ...)`, paths begin behind it, as the mounted app's own routes do.
    - `stream_idle_timeout` ends a stream or WebSocket on which nothing but comments has passed either way for so many
      seconds; None for never.
    - `on_stray` should end a session in the app that can be no session here. It is awaited with the id of the session
      and the scope of its request. Without `on_stray` such sessions go on, and the first one is logged.

    Answers of this middleware's own:

    - An unknown or ended id is 404, unless the matcher lets the request open a session. `OPTIONS` never opens one.
    - At the cap, 503 with `Retry-After` in whole seconds, if that is known; but what opens no session is served. 503
      while the manager shuts down. If it was never entered, `ManagerClosed` is raised, for the server's log.
    - An id that the manager makes is announced unless the app refuses (400 and above) or raises; then there is no
      session. An id that the app makes is a session from the app's answer on; its place is kept until then.
    - A session that is ended by force cancels the app: the answer is 404 if none has started, an event stream ends, any
      other response stays incomplete, a WebSocket is closed with 1001.
    - A WebSocket is refused with the same answers if the server can do that, else it is closed with 1008 or 1013.

    The app sees exactly one id under the matcher's name: that of the request's own session, or no id.
    """

    def __init__(
        self,
        app: ASGIApp,
        manager: SessionManager[Any],
        matcher: SessionMatcher | None = None,
        *,
        client: Callable[[Scope], str | None] = lambda _: None,
        data: Callable[[Scope], Any] | None = None,
        private: bool = False,
        skip: Skips | Iterable[str] = (),
        stream_idle_timeout: float | None = None,
        on_stray: Stray | None = None,
    ) -> None:
        self._app = app
        self._manager = manager
        self._matcher: SessionMatcher = HeaderMatcher() if matcher is None else matcher
        self._issuing = self._matcher if isinstance(self._matcher, IssuingMatcher) else None
        self._adopting = self._matcher if isinstance(self._matcher, AdoptingMatcher) else None
        if self._issuing is None and self._adopting is None:
            raise ConfigError(f"matcher takes an IssuingMatcher or an AdoptingMatcher, not {matcher!r}")
        if private and isinstance(client, ClientAddress):
            raise ConfigError(_NO_USER)
        for key, function in (("client", client), ("data", data), ("skip", skip)):
            _require_sync(key, function)
        self._client = client
        self._data = data
        self._private = private
        self._skips = skips(skip)
        self._stream_idle_timeout = (
            None if stream_idle_timeout is None else check_seconds("stream_idle_timeout", stream_idle_timeout)
        )
        self._on_stray = on_stray
        self._renewals = Renewals(manager)
        self._has_warned = False

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif self._skips(scope):
            await self._pass(scope, exchange_of(scope, receive, send))
        else:
            exchange = exchange_of(scope, receive, send, self._stream_idle_timeout)
            match = self._matcher.match(scope)
            session = self._live(match, scope) if match.session_ids else None
            if session is None:
                await self._serve_outside(match, scope, exchange)
            else:
                inner = self._inner(scope, session)
                await self._lease(session, self._role_in(session, inner), inner, exchange)

    async def _serve_outside(self, match: Match, scope: Scope, exchange: Exchange) -> None:
        """Serve a request that is in no session yet."""
        if await self._may_open(match, scope, exchange):
            await self._open(match, scope, exchange)
        elif match.session_ids and scope.get("method") != "OPTIONS":
            await self._refuse(exchange, self._why_unknown(match.session_ids[0]))
        else:
            await self._pass(scope, exchange)

    # Deciding

    def _live(self, match: Match, scope: Scope) -> Session[Any] | None:
        """Return the first session that a request names, if it is live and this client's."""
        client = self._owner(scope) if self._private else None
        for session_id in match.session_ids:
            session = self._manager.get(session_id)
            if session is not None and not (self._private and session.client != client):
                return session
        return None

    def _owner(self, scope: Scope) -> str | None:
        client: object = self._client(scope)
        if client is None:
            return None
        if not isinstance(client, str):
            kind = type(client).__name__
            raise ConfigError(f"client takes a function that returns a text or None, not {kind}")
        if self._private and names_address(client):
            raise ConfigError(_NO_USER)
        return client

    async def _may_open(self, match: Match, scope: Scope, exchange: Exchange) -> bool:
        if match.opens is Opens.NO or scope.get("method") == "OPTIONS":
            return False
        if match.opens is not Opens.BY_BODY or self._adopting is None:
            return True
        is_http = scope["type"] == "http"  # a WebSocket's handshake has no body
        decided = await exchange.body_opens(self._adopting.body_opens) if is_http else None
        return not match.session_ids if decided is None else decided

    def _why_unknown(self, session_id: str) -> SessionError:
        """Return why a client gets no session under an id: there is none, or it is another client's."""
        unknown: SessionError = SessionNotFound(session_id)
        if self._manager.get(session_id) is None:
            try:
                with self._manager.pin(session_id):
                    pass  # pragma: no cover  # `get` has just said that there is none
            except (ManagerClosed, SessionNotFound) as error:
                unknown = error
        return unknown

    def _role_in(self, session: Session[Any], inner: Scope) -> Role:
        if self._adopting is not None:
            return Asking(self._adopting, session, inner)
        assert self._issuing is not None
        return Using(self._issuing, session, inner, self._renewals)

    def _role_for(self, session: Session[Any], match: Match, inner: Scope) -> Role:
        """Return the role of the exchange that has opened a session."""
        if self._adopting is not None:
            return Asking(self._adopting, session, inner, once=True)
        assert self._issuing is not None
        return Only(session) if match.opens is Opens.FOR_EXCHANGE else Opening(self._issuing, session, inner)

    def _inner(self, scope: Scope, session: Session[Any] | None) -> Scope:
        """Return a scope for the app. A copy: servers keep theirs while a connection idles, and the session with it."""
        session_id = None if session is None else session.id
        return {**scope, SESSION: session, "headers": self._matcher.towards_app(pairs_of(scope), session_id)}

    # Running the app

    async def _pass(self, scope: Scope, exchange: Exchange) -> None:
        """Run the app in no session."""
        inner = self._inner(scope, None)
        exchange.role = Outside() if self._adopting is None else Asking(self._adopting, None, inner)
        try:
            await exchange.run(self._app, inner)
        finally:
            await self._end_stray(exchange.role, inner)

    async def _open(self, match: Match, scope: Scope, exchange: Exchange) -> None:
        """Run the app in a new session."""
        if self._adopting is not None and match.opens is not Opens.FOR_EXCHANGE:
            await self._adopt(self._adopting, scope, exchange)
            return
        try:
            session = await self._manager.create_session(
                data=self._make(self._inner(scope, None)), client=self._owner(scope)
            )
        except (ManagerClosed, TooManySessions) as error:
            await self._refuse(exchange, error)
            return
        inner = self._inner(scope, session)
        await self._lease(session, self._role_for(session, match, inner), inner, exchange)

    async def _lease(self, session: Session[Any], role: Role, inner: Scope, exchange: Exchange) -> None:
        """Run the app while a lease is held, answer for a session that is gone meanwhile, and settle what is left."""
        exchange.role = role
        entered = False
        try:
            async with self._manager.lease(session.id):
                entered = True
                await exchange.run(self._app, inner)
        except (ManagerClosed, SessionNotFound) as error:
            if entered and not _tells_end_of(session, error):
                raise  # the app's own
            await self._refuse(exchange, error)
        finally:
            await self._settle(role, inner)

    async def _adopt(self, matcher: AdoptingMatcher, scope: Scope, exchange: Exchange) -> None:
        """Run the app with a place for a session, which becomes one if the app's answer names its id."""
        adoption, inner = Adoption(), self._inner(scope, None)
        inner[OPENING] = True
        try:
            async with self._manager.reserve(client=self._owner(scope)) as place:

                def commit(session_id: str) -> Session[Any]:
                    data = self._make(inner)  # what it raises is the embedder's own
                    return adoption.commit(lambda: place.commit(session_id, data=data), self._manager)

                exchange.role = Adopting(matcher, inner, commit, place.give_back)
                await adoption.run(partial(exchange.run, self._app, inner))
        except (ManagerClosed, TooManySessions) as error:
            if adoption.ran:
                raise  # the app's own
            await self._refuse(exchange, error)
        finally:
            await self._settle(exchange.role, inner)
        if adoption.lost is not None:
            await self._refuse(exchange, adoption.lost)

    # Ending

    async def _refuse(self, exchange: Exchange, error: SessionError) -> None:
        """Answer for a session that is unknown or cannot be had. Raises `ManagerClosed` if the manager never ran."""
        if isinstance(error, ManagerClosed) and not error.entered:
            raise error
        await exchange.refuse(error, self._matcher.refusal(error))

    async def _settle(self, role: Role, scope: Scope) -> None:
        """Close the session of an exchange that is over, if its role says so, and end what the app has made besides."""
        if role.closes and role.session is not None:
            with anyio.CancelScope(shield=True), suppress(ManagerClosed):
                await self._manager.close_session(role.session.id)
        await self._end_stray(role, scope)

    async def _end_stray(self, role: Role, scope: Scope) -> None:
        """End a session of the app's that is no session here, within `close_timeout`."""
        stray = role.stray
        if stray is None or stray in self._manager:
            return
        if self._on_stray is None:
            self._warn_of_strays(stray)
            return
        try:
            with anyio.CancelScope(shield=True), anyio.fail_after(self._manager.config.close_timeout):
                await self._on_stray(stray, scope)
        except Exception:
            _logger.warning(
                "session %s goes on in the app, and no manager counts it", fingerprint(stray), exc_info=True
            )

    def _warn_of_strays(self, stray: str) -> None:
        """Warn once: clients choose how many there are."""
        if not self._has_warned:
            self._has_warned = True
            _logger.warning(
                "session %s goes on in the app, and no manager counts it; give on_stray= to end such sessions",
                fingerprint(stray),
            )

    def _make(self, scope: Scope) -> Any:
        made = None if self._data is None else self._data(scope)
        if isinstance(made, CoroutineType):  # of an async function that a plain one has called
            made.close()
            raise ConfigError("data takes a plain function, not one that returns a coroutine")
        return made


def _require_sync(key: str, function: object) -> None:
    """Raise `ConfigError` for an async function: its result is needed at once."""
    call = getattr(function, "__call__", None)  # noqa: B004  # the method of an object that can be called
    if any(is_async(each) for is_async in (iscoroutinefunction, isasyncgenfunction) for each in (function, call)):
        raise ConfigError(f"{key} takes a plain function, not an async one: {function!r}")


def _tells_end_of(session: Session[Any], error: SessionError) -> bool:
    return isinstance(error, SessionNotFound) and error.session_id == session.id and session.end_reason is not None
