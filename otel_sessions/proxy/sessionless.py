"""Exchanges in no session. At a shutdown they get as much time to end as leases get; then they are cancelled."""

from typing import Final

import anyio

from otel_sessions._core.exceptions import ManagerClosed
from otel_sessions.asgi import SESSION, ASGIApp, Receive, Send
from otel_sessions.asgi._exchange import exchange_of
from otel_sessions.matchers import Scope, SessionMatcher

_ENDING_SECONDS: Final = 2.0
"""Seconds for a cancelled exchange to end: longer than an exchange waits for its client."""


class Sessionless:
    """Wraps an app, behind the middleware. It can end exchanges that the manager does not end."""

    def __init__(self, app: ASGIApp, matcher: SessionMatcher) -> None:
        self._app = app
        self._matcher = matcher
        self._open: set[anyio.CancelScope] = set()
        self._quiet: anyio.Event | None = None
        """Set while no exchange is open. None before the first exchange."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get(SESSION) is not None:
            await self._app(scope, receive, send)
            return
        if not self._open:
            self._quiet = anyio.Event()
        cut = anyio.CancelScope()
        self._open.add(cut)
        try:
            await self._run(scope, receive, send, cut)
        finally:
            self._open.discard(cut)
            if not self._open and self._quiet is not None:
                self._quiet.set()

    async def end(self, seconds: float) -> None:
        """Wait until no exchange is open, for at most `seconds`. Then cancel the open exchanges."""
        await self._wait(seconds)
        for cut in self._open:
            cut.cancel()
        await self._wait(_ENDING_SECONDS)

    async def _run(self, scope: Scope, receive: Receive, send: Send, cut: anyio.CancelScope) -> None:
        exchange = exchange_of(scope, receive, send)
        with cut:
            await self._app(scope, exchange.receive, exchange.send)
        if cut.cancelled_caught:
            error = ManagerClosed("the proxy is shutting down")
            await exchange.refuse(error, self._matcher.refusal(error))

    async def _wait(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            while self._quiet is not None and not self._quiet.is_set():
                await self._quiet.wait()
