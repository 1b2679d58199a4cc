"""How an app runs where each exchange is a task of its own on asyncio, as in the proxy: a hold costs a part of a lease.

When somebody else ends the session, the task is cancelled. A lease's cancel scope does the same on both loops, and
costs seven times as much.
"""

import asyncio
from contextlib import suppress
from typing import Any

from otel_sessions._core.exceptions import ManagerClosed, SessionError, SessionNotFound
from otel_sessions._core.session import Session
from otel_sessions._core.words import EndReason
from otel_sessions._engine.manager import SessionManager
from otel_sessions.asgi._leasing import Run, run_leased
from otel_sessions.matchers import Scope


class Cancelling:
    """Cancels the running task when it is called, and knows whether a cancellation is its own."""

    __slots__ = ("_task", "has_cancelled")

    def __init__(self) -> None:
        self.has_cancelled = False
        task = asyncio.current_task()
        assert task is not None
        self._task = task

    def __call__(self) -> None:
        self.has_cancelled = True
        self._task.cancel()

    def is_all(self) -> bool:
        """Take the cancellation back, and return whether it was the only one."""
        return self.has_cancelled and self._task.uncancel() == 0

    async def settle(self) -> None:
        """Take back a cancellation that has come too late to reach the app."""
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        self._task.uncancel()


async def run_held(manager: SessionManager[Any], session: Session[Any], scope: Scope, run: Run) -> SessionError | None:
    """Run the app under a hold where the exchange is HTTP, else under a lease."""
    if scope["type"] != "http":
        return await run_leased(manager, session, scope, run)
    cancelling = _Ended()
    try:
        with manager.hold(session.id, cancelling.end):
            await run()
    except (ManagerClosed, SessionNotFound) as error:
        return error
    except asyncio.CancelledError:
        if not cancelling.is_all():
            raise
        return SessionNotFound(session.id, cancelling.reason)
    if cancelling.has_cancelled:
        await cancelling.settle()
    return None


class _Ended(Cancelling):
    """Cancels the task because its session is ended, and keeps the reason."""

    __slots__ = ("reason",)
    reason: EndReason

    def end(self, reason: EndReason) -> None:
        self.reason = reason
        self()
