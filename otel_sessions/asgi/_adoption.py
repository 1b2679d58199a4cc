"""The session of an app that runs already: it begins with the app's own answer, and is held until the app is done.

Who ends the session from inside the app goes on, as under any other lease. Whoever else ends it cancels the app.
"""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import anyio

from otel_sessions._core.exceptions import SessionError, SessionNotFound
from otel_sessions._core.session import Session
from otel_sessions._core.words import EndReason
from otel_sessions._engine.leases import Hold
from otel_sessions._engine.manager import SessionManager

_inside: ContextVar[tuple["Adoption", ...]] = ContextVar("otel_sessions_inside", default=())
"""The adoptions in whose apps this task runs. A hold alone would not tell: the app's tasks are older than the hold."""


class Adoption:
    """Runs an app, and holds the session that the app's answer makes. `lost` says why there is no session any more."""

    def __init__(self) -> None:
        self.ran = False
        self.lost: SessionError | None = None
        self._scope = anyio.CancelScope()
        self._hold: Hold[Any] | None = None

    async def run(self, app: Callable[[], Awaitable[None]]) -> None:
        """Run the app; what it raises is raised as it is, unless the session was lost."""
        self.ran = True
        outer = _inside.get()
        _inside.set((*outer, self))
        try:
            with self._scope:
                await app()
        except Exception:
            if self.lost is None:
                raise
        finally:
            _inside.set(outer)
            self._leave()

    def commit(self, make: Callable[[], Session[Any]], manager: SessionManager[Any]) -> Session[Any]:
        """Make the session and hold it. If there can be no session after all, there is no answer either."""
        try:
            session = make()
            hold = manager.hold(session.id, partial(self._end, session.id))
            hold.__enter__()
        except SessionError as error:
            self._lose(error)
            raise
        self._hold = hold
        return session

    def _end(self, session_id: str, reason: EndReason) -> None:
        """Take note that the session ends. Called in the context of whoever ends it."""
        if self in _inside.get():
            self._leave()
        else:
            self._lose(SessionNotFound(session_id, reason))

    def _lose(self, error: SessionError) -> None:
        self.lost = error.with_traceback(None)  # its frames hold this adoption, and the session with it
        self._scope.cancel()

    def _leave(self) -> None:
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.__exit__(None, None, None)
