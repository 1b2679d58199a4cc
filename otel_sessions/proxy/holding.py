"""The middleware where an exchange is a task of its own on asyncio, as in the proxy: a hold costs a part of a lease.

When somebody else ends the session, the hold cancels the task. A lease's cancel scope does the same on both loops, and
costs seven times as much.
"""

import asyncio
from contextlib import suppress
from typing import Any

from otel_sessions._core.exceptions import ManagerClosed, SessionNotFound
from otel_sessions._core.session import Session
from otel_sessions._core.words import EndReason
from otel_sessions.asgi import SessionLeaseMiddleware
from otel_sessions.asgi._exchange import Exchange
from otel_sessions.asgi._roles import Role
from otel_sessions.matchers import Scope


class _Cancelling:
    """Cancels the running task when its session is ended by somebody else."""

    def __init__(self) -> None:
        self.reason: EndReason | None = None
        task = asyncio.current_task()
        assert task is not None
        self._task = task

    def __call__(self, reason: EndReason) -> None:
        self.reason = reason
        self._task.cancel()

    def is_all(self) -> bool:
        """Take the cancellation back, and return whether it was the only one."""
        return self.reason is not None and self._task.uncancel() == 0


class HoldMiddleware(SessionLeaseMiddleware):
    """Leases sessions by `SessionManager.hold` where the exchange is HTTP. The answers are those of the middleware."""

    async def _lease(self, session: Session[Any], role: Role, inner: Scope, exchange: Exchange) -> None:
        if inner["type"] != "http":
            await super()._lease(session, role, inner, exchange)
            return
        exchange.role = role
        cancelling = _Cancelling()
        try:
            with self._manager.hold(session.id, cancelling):
                await exchange.run(self._app, inner)
            if cancelling.reason is not None:
                with suppress(asyncio.CancelledError):  # it has come too late to reach the app
                    await asyncio.sleep(0)
                cancelling.is_all()
        except (ManagerClosed, SessionNotFound) as error:
            await self._refuse(exchange, error)
        except asyncio.CancelledError:
            if not cancelling.is_all():
                raise
            await self._refuse(exchange, SessionNotFound(session.id, cancelling.reason))
        finally:
            await self._settle(role, inner)
