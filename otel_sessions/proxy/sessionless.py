"""Exchanges in no session. At a shutdown they get as much time to end as leases get; then they are cancelled.

asyncio only, where each exchange is a task of its own, as in the proxy.
"""

import asyncio
from collections.abc import Awaitable
from typing import Final

from otel_sessions._core.exceptions import ManagerClosed
from otel_sessions.asgi import SESSION, ASGIApp, Receive, Send
from otel_sessions.asgi._exchange import exchange_of
from otel_sessions.matchers import Scope, SessionMatcher

from .holding import Cancelling

_ENDING_SECONDS: Final = 2.0
"""Seconds for a cancelled exchange to end: longer than an exchange waits for its client."""


class Sessionless:
    """Wraps an app, behind the middleware. It can end exchanges that the manager does not end."""

    def __init__(self, app: ASGIApp, matcher: SessionMatcher) -> None:
        self._app = app
        self._matcher = matcher
        self._open: set[Cancelling] = set()
        self._quiet: asyncio.Event | None = None
        """Set when no exchange is open. None until somebody waits for that."""

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope.get(SESSION) is not None:
            return self._app(scope, receive, send)
        return self._run(scope, receive, send)

    async def end(self, seconds: float) -> None:
        """Wait until no exchange is open, for at most `seconds`. Then cancel the open exchanges."""
        await self._wait(seconds)
        for cancel in self._open:
            cancel()
        await self._wait(_ENDING_SECONDS)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        cancelling = Cancelling()
        exchange = exchange_of(scope, receive, send)
        self._open.add(cancelling)
        try:
            await self._app(scope, exchange.receive, exchange.send)
            if cancelling.has_cancelled:
                await cancelling.settle()
        except asyncio.CancelledError:
            if not cancelling.is_all():
                raise
            error = ManagerClosed("the proxy is shutting down")
            await exchange.refuse(error, self._matcher.refusal(error))
        finally:
            self._open.discard(cancelling)
            if self._quiet is not None and not self._open:
                self._quiet.set()

    async def _wait(self, seconds: float) -> None:
        while self._open:
            self._quiet = asyncio.Event()
            try:
                async with asyncio.timeout(seconds):
                    await self._quiet.wait()
            except TimeoutError:
                return
