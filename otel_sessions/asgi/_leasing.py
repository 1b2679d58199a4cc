"""How the app runs in a session: under a lease. `SessionLeaseMiddleware` takes another way by `leasing=`.

A way returns the error that a session could not be leased, or was ended by force while the app ran. What the app itself
raises is raised.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from otel_sessions._core.exceptions import ManagerClosed, SessionError, SessionNotFound
from otel_sessions._core.session import Session
from otel_sessions._engine.manager import SessionManager
from otel_sessions.matchers import Scope

Run = Callable[[], Awaitable[None]]
"""Runs the app once."""
Leasing = Callable[[SessionManager[Any], Session[Any], Scope, Run], Awaitable[SessionError | None]]
"""Runs the app in a session. Returns why the session could not be leased or was ended, or None."""


async def run_leased(
    manager: SessionManager[Any],
    session: Session[Any],
    scope: Scope,  # noqa: ARG001  # the same for every kind of request
    run: Run,
) -> SessionError | None:
    """Run the app under a lease, on asyncio and trio."""
    entered = False
    try:
        async with manager.lease(session.id):
            entered = True
            await run()
    except (ManagerClosed, SessionNotFound) as error:
        if entered and not _tells_end_of(session, error):
            raise  # the app's own error
        return error
    return None


def _tells_end_of(session: Session[Any], error: SessionError) -> bool:
    return isinstance(error, SessionNotFound) and error.session_id == session.id and session.end_reason is not None
