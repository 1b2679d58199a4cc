"""A session that begins while the app runs: with the app's answer. The session is held until the app returns.

If a task of the app ends the session, the app goes on, as under any other lease. Any other end cancels the app.
"""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import anyio

from otel_sessions._core.exceptions import ManagerClosed, SessionError, SessionNotFound
from otel_sessions._core.session import Session
from otel_sessions._core.words import EndReason
from otel_sessions._engine.leases import Hold
from otel_sessions._engine.manager import SessionManager

_inside: ContextVar[tuple["Adoption", ...]] = ContextVar("otel_sessions_inside", default=())
"""The adoptions whose apps this task is part of. The hold cannot tell: the app's tasks are older than the hold."""


class Adoption:
    """Runs an app, and holds the session that the app's answer opens. `lost` is the error if the session is lost."""

    def __init__(self) -> None:
        self.ran = False
        self.lost: SessionError | None = None
        self._scope = anyio.CancelScope()
        self._hold: Hold[Any] | None = None

    async def run(self, app: Callable[[], Awaitable[None]]) -> None:
        """Run the app. An error of the app is raised as it is, unless the session was lost."""
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
        """Make the session and hold it. If this raises `SessionError`, the app is cancelled and its answer dropped."""
        try:
            session = make()
            hold = manager.hold(session, partial(self._end, session.id))
            hold.__enter__()
        except SessionError as error:
            self._lose(error)
            raise
        self._hold = hold
        return session

    async def registered(self) -> None:
        """Wait until a fleet's store knows the session. If this raises, the app is cancelled and its answer dropped.

        An app that has ended its session meanwhile goes on.
        """
        session = None if self._hold is None else self._hold.session
        if session is None:
            return
        try:
            await session.registered()
        except (ManagerClosed, SessionNotFound):  # it was ended meanwhile: `_end` was told, unless by the app itself
            if self.lost is not None:
                raise
        except SessionError as error:
            self._lose(error)
            raise

    def _end(self, session_id: str, reason: EndReason) -> None:
        """Note that the session ends. Called in the context of the task that ends the session."""
        if self in _inside.get():
            self._leave()
        else:
            self._lose(SessionNotFound(session_id, reason))

    def _lose(self, error: SessionError) -> None:
        self.lost = error.with_traceback(None)  # the frames would keep this adoption and the session in memory
        self._scope.cancel()

    def _leave(self) -> None:
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.__exit__(None, None, None)
