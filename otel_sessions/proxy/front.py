"""The first step of each request: the refusals that need no session, then the middleware."""

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from otel_sessions._core.events import Event
from otel_sessions._engine.manager import SessionManager
from otel_sessions._http.addresses import names_address
from otel_sessions.asgi import ASGIApp, Receive, Send, SessionLeaseMiddleware
from otel_sessions.matchers import Headers, Scope, header

from . import websocket
from .exchange import Stalled
from .farewell import Farewell
from .forward import answer, refuse
from .headers import scheme_of
from .holding import run_held
from .opening import OpeningTime
from .peer import Peer
from .rules import STALLED, Refusal, target_of
from .settings import Settings
from .shape import shaped_in
from .upstream import Upstream

_NO_OWNER: Final = (HTTPStatus.BAD_REQUEST, "the header for the user's name contains an address, not a user")
_ALLOW: Final = ((b"allow", b"GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH"),)
"""What a 405 has to say (RFC 9110, 15.5.6)."""

_logger = logging.getLogger("otel_sessions.proxy")


class Front:
    """The ASGI app in front of the middleware. The middleware wraps `app`.

    `farewell` is None if the upstream makes no sessions.
    """

    def __init__(
        self,
        settings: Settings,
        upstream: Upstream,
        manager: SessionManager[Peer],
        app: ASGIApp,
        remember: Callable[[bytes, Headers], Peer],
        farewell: Farewell | None,
    ) -> None:
        self._rules = settings.rules
        self._trust = settings.rules.trust
        self._trusts = not self._trust.is_empty
        self._owner = None if settings.owner_header is None else settings.owner_header.lower().encode("latin-1")
        self._has_warned = False
        self._upstream = upstream
        self._remember = remember
        self._farewell = farewell
        self._leased = SessionLeaseMiddleware(
            app,
            manager,
            settings.matcher,
            client=self._client,
            data=self._data,
            private=self._owner is not None,
            skip=settings.skip,
            stream_idle_timeout=settings.stream_idle_timeout,
            on_stray=None if farewell is None else self._end_stray,
            leasing=run_held,
            looking=OpeningTime(settings.rules.timeouts.idle_timeout).look,
        )

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if self._trusts:
            scope["scheme"] = scheme_of(scope, self._trust)
        refused = self._refusal(scope)
        if refused is None and self._owner is not None:
            refused = self._refused_owner(scope)
        if scope["type"] == "http":
            return self._serve(scope, receive, send) if refused is None else _answer_refused(send, *refused)
        return self._leased(scope, receive, send) if refused is None else websocket.refuse(receive, send, *refused)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._leased.serve(scope, receive, send)
        except Stalled:  # while the middleware read the start of the body
            await refuse(send, *STALLED)

    def _refusal(self, scope: Scope) -> Refusal | None:
        """Return why a request is not passed on, or None. A head that is repeated is judged once."""
        shaped = shaped_in(scope)
        if shaped is None:
            return self._rules.refusal(scope)
        if not shaped.refusal:
            shaped.refusal = (self._rules.refusal(scope),)
        return shaped.refusal[0]

    def _refused_owner(self, scope: Scope) -> Refusal | None:
        """Return the refusal of a request whose owner is an address, or None: users behind it would share a session."""
        owner = self._client(scope)
        if owner is None or not names_address(owner):
            return None
        if not self._has_warned:
            self._has_warned = True
            _logger.warning(
                "requests are refused: the header of --owner-header has an address in it, not a user",
                extra=Event.PROXY_OWNER_IS_ADDRESS.extra,
            )
        return _NO_OWNER

    def _client(self, scope: Scope) -> str | None:
        if self._owner is None:
            return self._trust.client(scope)
        return header(scope, self._owner) if self._trust.sent(scope) else None

    def _data(self, scope: Scope) -> Peer:
        headers = () if self._farewell is None else self._rules.headers(scope, self._upstream.host)
        return self._remember(target_of(scope), headers)

    async def _end_stray(self, session_id: str, scope: Scope) -> None:
        assert self._farewell is not None
        await self._farewell.to_stray(session_id, target_of(scope), self._rules.headers(scope, self._upstream.host))


async def _answer_refused(send: Send, status: HTTPStatus, text: str) -> None:
    await answer(send, status, text, *(_ALLOW if status is HTTPStatus.METHOD_NOT_ALLOWED else ()))
