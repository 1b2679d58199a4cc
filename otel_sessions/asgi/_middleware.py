"""A leased session for every exchange of an ASGI app.

The session is leased exactly as long as the wrapped app runs, and stands at `scope["otel_sessions.session"]`. The value
is None if the exchange is in no session, or if an app that makes ids has not answered yet. A matcher finds the session.
If an opening is refused or fails, no session remains. If a session is ended by force, its exchanges end, too.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from inspect import isasyncgenfunction, iscoroutinefunction
from types import CoroutineType
from typing import Any, Final, Literal

import anyio

from otel_sessions._core.config import check_seconds
from otel_sessions._core.events import Event
from otel_sessions._core.exceptions import (
    ConfigError,
    ManagerClosed,
    PeerUnavailable,
    SessionError,
    SessionNotFound,
    StoreUnavailable,
    TooManySessions,
)
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
)

from ._adoption import Adoption
from ._client import ClientAddress
from ._elsewhere import FORWARDED, forward, forwarding_of, hinting, not_here, tell_part, tell_whole
from ._exchange import ASGIApp, Exchange, Looking, Receive, Send, exchange_of, look_freely, method_of
from ._hints import HintingMatcher
from ._leasing import Leasing, run_leased
from ._repeated import headers_in, match_in
from ._roles import OPENING, SESSION, Adopting, Asking, Only, Opening, Outside, Renewals, Renewing, Role, Staying
from ._skipping import Skips, skips

_NO_USER: Final = (
    "private=True takes a client= that names one user: several users may share an address; "
    "return the id of the user that the app has authenticated"
)

_logger = logging.getLogger("otel_sessions")

Stray = Callable[[str, Scope], Awaitable[None]]
"""Ends a session that the app has made but the manager does not have. Gets its id and the scope of its request."""


class SessionLeaseMiddleware:
    """Puts HTTP requests and WebSockets of `app` into sessions of `manager`. `matcher` finds the session of a request.

        app = SessionLeaseMiddleware(app, manager, CookieMatcher(), data=lambda scope: Basket())

    The manager must run while requests are served, for example in the app's lifespan. The lease lasts for the whole
    exchange, streams included. A request counts as one message. Each message of a WebSocket also counts, and each part
    of an event stream that has more than comments.

    - `data(scope)` returns the data of a new session. Without `data`, the data is None. A session never exists without
      its data, so `data` must not be async. The app may fill the data later.
    - `client(scope)` returns the name of the client, or None, for `max_sessions_per_client`. With `private`, a session
      is unknown to all other clients. `client` must then name one user: a text with an address is a `ConfigError`.
    - `skip` selects requests that are in no session. It is a list of paths in which `*` stands for any text, or a
      function of the scope. Under a mount, as `Mount("/mcp", ...)`, a path begins after the mount, as the routes of the
      mounted app do.
    - `stream_idle_timeout` is in seconds. A stream or WebSocket ends if nothing except comments has passed in either
      direction for this time. None means never.
    - `on_stray(session_id, scope)` should end a session that the app has made and that the manager cannot have. It is
      awaited for at most `close_timeout` seconds. Without `on_stray` such sessions go on, and the first one is logged.
    - `leasing` is how the app runs in a session. The proxy gives its own; the default works on asyncio and trio.
    - `looking(scope, receive)` returns what reads the start of a body that decides whether a session opens. The proxy
      gives its own, which has a deadline.

    The middleware itself answers in these cases:

    - An unknown or ended id gets 404, unless the matcher lets the request open a session. `OPTIONS` never opens one.
    - At the cap, or if the store of the fleet refuses it, a request that would open a session gets 503, with
      `Retry-After` in whole seconds if the time is known. Other requests are served. While the manager shuts down,
      requests that need a session get 503. If the manager was never entered, `ManagerClosed` is raised, for the
      server's log.
    - If a session is ended by force, the app is cancelled. The answer is 404 if no answer has started. An event stream
      ends in order, any other answer stays incomplete, and a WebSocket is closed with 1001.
    - A WebSocket is refused with the same answers if the server supports that. Else it is closed with 1008 or 1013.

    If the manager makes the id, the answer announces the id. If the app raises or answers 400 or above, the session is
    closed. If the app makes the id, a place is reserved, and the session begins with the app's answer. The app sees at
    most one id under the matcher's name: the id of the request's own session.

    Raises `ConfigError` if an argument is wrong.
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
        leasing: Leasing = run_leased,
        looking: Looking = look_freely,
    ) -> None:
        self._app = method_of(app)
        self._manager = manager
        self._matcher: SessionMatcher = HeaderMatcher() if matcher is None else matcher
        self._issuing = self._matcher if isinstance(self._matcher, IssuingMatcher) else None
        self._adopting = self._matcher if isinstance(self._matcher, AdoptingMatcher) else None
        if self._issuing is None and self._adopting is None:
            raise ConfigError(f"matcher takes an IssuingMatcher or an AdoptingMatcher, not {matcher!r}")
        self._fleet = forwarding_of(manager)
        if self._fleet is not None and self._adopting is not None:
            self._matcher = self._adopting = hinting(self._adopting, self._fleet)
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
        self._leasing = leasing
        self._looking = looking
        self._renewals = Renewals(manager)
        self._has_warned = False
        tell_part(manager, self)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        await self.serve(scope, receive, send)

    def serve(self, scope: Any, receive: Receive, send: Send) -> Awaitable[None]:
        """Return what serves an exchange when it is awaited, for callers that need no async `__call__`."""
        if scope["type"] not in ("http", "websocket"):
            if scope["type"] == "lifespan":
                tell_whole(self._manager, scope.get("app", self), scope.get("state"))
            return self._app(scope, receive, send)
        if self._fleet is not None:
            forwarded = scope.get(FORWARDED)
            if forwarded or (forwarded is None and self._fleet.is_forwarded(scope)):
                return self._fleet.take(scope, receive, send, self._serve_forwarded)
        if self._skips is not None and self._skips(scope):
            return self._pass(scope, exchange_of(scope, receive, send))
        exchange = exchange_of(scope, receive, send, self._stream_idle_timeout)
        match = match_in(scope, self._matcher)
        session = self._live(match.session_ids, scope) if match.session_ids else None
        if session is None:
            return self._serve_outside(match, scope, exchange)
        inner = self._inner(scope, session)
        return self._lease(session, self._role_in(session, inner), inner, exchange)

    async def _serve_outside(self, match: Match, scope: Scope, exchange: Exchange) -> None:
        """Serve a request that is not in a live session."""
        if self._fleet is not None and match.session_ids:
            try:
                answered = await exchange.run(partial(forward, self._fleet, match.session_ids, exchange), scope)
            except (PeerUnavailable, SessionNotFound) as error:
                await self._refuse(exchange, error)
                return
            if answered is not False:  # None for a silence that was too long
                return
        if await self._may_open(match, scope, exchange):
            await self._open(match, scope, exchange)
        elif match.session_ids and scope.get("method") != "OPTIONS":
            await self._refuse(exchange, self._why_unknown(match.session_ids[0]))
        else:
            await self._pass(scope, exchange)

    def _serve_forwarded(
        self, session_id: str, scope: Scope, receive: Receive, send: Send
    ) -> Awaitable[Literal[False] | None]:
        """Serve an exchange that another process has passed on, in the session of an id. The result is as in `Serve`.

        The scope belongs to this exchange alone.
        """
        own = self._adopting.own_id(session_id) if isinstance(self._adopting, HintingMatcher) else session_id
        session = self._live((own,), scope)
        if session is None:
            return not_here()
        exchange = exchange_of(scope, receive, send, self._stream_idle_timeout)
        scope[SESSION], scope["headers"] = session, headers_in(scope, self._matcher, session.id)
        return self._lease(session, self._role_in(session, scope), scope, exchange)

    # Deciding

    def _live(self, session_ids: tuple[str, ...], scope: Scope) -> Session[Any] | None:
        """Return the first of these sessions that is live and belongs to the client of a request, or None."""
        client = self._owner(scope) if self._private else None
        for session_id in session_ids:
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
            raise ConfigError(f"client takes a function that returns a str or None, not {kind}")
        if self._private and names_address(client):
            raise ConfigError(_NO_USER)
        return client

    async def _may_open(self, match: Match, scope: Scope, exchange: Exchange) -> bool:
        if match.opens is Opens.NO or scope.get("method") == "OPTIONS":
            return False
        if match.opens is not Opens.BY_BODY or self._adopting is None:
            return True
        is_http = scope["type"] == "http"  # a WebSocket's handshake has no body
        decided = await exchange.body_opens(self._adopting.body_opens, self._looking) if is_http else None
        return not match.session_ids if decided is None else decided

    def _why_unknown(self, session_id: str) -> SessionError:
        """Return why an id gives a client no session: the id is unknown, or the session belongs to another client."""
        unknown: SessionError = SessionNotFound(session_id)
        if self._manager.get(session_id) is None:
            try:
                with self._manager.pin(session_id):
                    pass  # pragma: no cover  # `get` has just returned None
            except (ManagerClosed, SessionNotFound) as error:
                unknown = error
        return unknown

    def _role_in(self, session: Session[Any], inner: Scope) -> Role:
        if self._adopting is not None:
            return Asking(self._adopting, session, inner)
        assert self._issuing is not None
        renew_after = self._issuing.renew_after
        if renew_after is None:
            return Staying(session)
        return Renewing(self._issuing, session, inner, self._renewals, renew_after)

    def _role_for(self, session: Session[Any], match: Match, inner: Scope) -> Role:
        """Return the role of the exchange that has opened a session."""
        if self._adopting is not None:
            return Asking(self._adopting, session, inner, once=True)
        assert self._issuing is not None
        return Only(session) if match.opens is Opens.FOR_EXCHANGE else Opening(self._issuing, session, inner)

    def _inner(self, scope: Scope, session: Session[Any] | None) -> Scope:
        """Return a copy of the scope for the app. Servers keep their scope, and would keep the session, while idle."""
        session_id = None if session is None else session.id
        return {**scope, SESSION: session, "headers": headers_in(scope, self._matcher, session_id)}

    # Running the app

    async def _pass(self, scope: Scope, exchange: Exchange) -> None:
        """Run the app in no session."""
        inner = self._inner(scope, None)
        exchange.role = Outside() if self._adopting is None else Asking(self._adopting, None, inner)
        try:
            await exchange.run(self._app, inner)
        finally:
            if exchange.role.stray is not None:
                await self._end_stray(exchange.role, inner)

    async def _open(self, match: Match, scope: Scope, exchange: Exchange) -> None:
        """Run the app in a new session."""
        if self._adopting is not None and match.opens is not Opens.FOR_EXCHANGE:
            await self._adopt(self._adopting, scope, exchange)
            return
        data, client = self._make(self._inner(scope, None)), self._owner(scope)
        try:
            session = await self._manager.create_session(data=data, client=client)
        except (ManagerClosed, SessionNotFound, StoreUnavailable, TooManySessions) as error:
            await self._refuse(exchange, error)
            return
        inner = self._inner(scope, session)
        await self._lease(session, self._role_for(session, match, inner), inner, exchange)

    async def _lease(self, session: Session[Any], role: Role, inner: Scope, exchange: Exchange) -> None:
        """Run the app under a lease. Answer if the session ends meanwhile. Then settle what the role says."""
        exchange.role = role
        try:
            error = await self._leasing(self._manager, session, inner, partial(exchange.run, self._app, inner))
            if error is not None:
                await self._refuse(exchange, error)
        finally:
            if role.closes or role.stray is not None:
                await self._settle(role, inner)

    async def _adopt(self, matcher: AdoptingMatcher, scope: Scope, exchange: Exchange) -> None:
        """Run the app with a reservation. It becomes a session if the app's answer names an id."""
        adoption, inner = Adoption(), self._inner(scope, None)
        inner[OPENING] = True
        try:
            async with self._manager.reserve(client=self._owner(scope)) as place:

                def commit(session_id: str) -> Session[Any]:
                    data = self._make(inner)  # outside `adoption.commit`: an error here is the embedder's
                    return adoption.commit(lambda: place.commit(session_id, data=data), self._manager)

                exchange.role = Adopting(matcher, inner, commit, place.give_back)
                if self._fleet is not None:
                    exchange.wait_before_start(adoption.registered)
                await adoption.run(partial(exchange.run, self._app, inner))
        except (ManagerClosed, TooManySessions) as error:
            if adoption.ran:
                raise  # the app's own error
            await self._refuse(exchange, error)
        finally:
            await self._settle(exchange.role, inner)
        if adoption.lost is not None:
            await self._refuse(exchange, adoption.lost)

    # Ending

    async def _refuse(self, exchange: Exchange, error: SessionError) -> None:
        """Send the matcher's refusal for an error. Raises `ManagerClosed` if the manager was never entered."""
        if isinstance(error, ManagerClosed) and not error.entered:
            raise error
        await exchange.refuse(error, self._matcher.refusal(error))

    async def _settle(self, role: Role, scope: Scope) -> None:
        """After an exchange, close its session if the role says so, and end a stray session of the app."""
        if role.closes and role.session is not None:
            with anyio.CancelScope(shield=True), suppress(ManagerClosed):
                await self._manager.close_session(role.session.id)
        await self._end_stray(role, scope)

    async def _end_stray(self, role: Role, scope: Scope) -> None:
        """End a session that the app has made and the manager does not have, within `close_timeout` seconds."""
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
                "on_stray failed: the app may still hold session %s, which the manager does not count",
                fingerprint(stray),
                exc_info=True,
                extra=Event.APP_STRAY_NOT_ENDED.extra,
            )

    def _warn_of_strays(self, stray: str) -> None:
        """Warn once, since clients choose the number of such sessions."""
        if not self._has_warned:
            self._has_warned = True
            _logger.warning(
                "the app holds session %s, which the manager does not count; give on_stray= to end such sessions",
                fingerprint(stray),
                extra=Event.APP_STRAY_SESSION.extra,
            )

    def _make(self, scope: Scope) -> Any:
        made = None if self._data is None else self._data(scope)
        if isinstance(made, CoroutineType):  # `data` is a plain function that calls an async function
            made.close()
            raise ConfigError("data takes a function that returns the data, not a coroutine")
        return made


def _require_sync(key: str, function: object) -> None:
    """Raise `ConfigError` if a function is async: its result is needed at once."""
    call = getattr(function, "__call__", None)  # noqa: B004  # the async method of a callable object
    if any(is_async(each) for is_async in (iscoroutinefunction, isasyncgenfunction) for each in (function, call)):
        raise ConfigError(f"{key} takes a plain function, not an async one: {function!r}")
