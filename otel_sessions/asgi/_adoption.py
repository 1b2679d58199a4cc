"""A lease for an app that runs already: its session begins with the app's own answer."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from anyio.abc import TaskGroup

from otel_sessions._core.exceptions import ManagerClosed, SessionError, SessionNotFound
from otel_sessions._core.session import Session
from otel_sessions._engine.manager import SessionManager


class Holder:
    """Holds a lease from a task beside the app, and cancels the app when the lease is lost."""

    def __init__(self, manager: SessionManager[Any]) -> None:
        self.ran = False
        self.lost: SessionError | None = None
        self._manager = manager
        self._over = anyio.Event()
        self._tasks: TaskGroup | None = None

    async def run(self, app: Callable[[], Awaitable[None]]) -> None:
        """Run the app; what it raises is raised as it is, unless the session was lost."""
        self.ran = True
        failure: Exception | None = None
        async with anyio.create_task_group() as self._tasks:
            try:
                await app()
            except Exception as error:  # the task group would wrap it
                failure = error
            finally:
                self._over.set()
        try:
            if failure is not None and self.lost is None:
                raise failure
        finally:
            del failure  # its traceback holds this frame

    def commit(self, make: Callable[[], Session[Any]]) -> Session[Any]:
        """Make the session and hold it. If there can be no session after all, there is no answer either."""
        assert self._tasks is not None
        try:
            session = make()
        except SessionError as error:
            self._lose(error)
            raise
        self._tasks.start_soon(self._hold, session.id)
        return session

    async def _hold(self, session_id: str) -> None:
        try:
            async with self._manager.lease(session_id):
                await self._over.wait()
        except (ManagerClosed, SessionNotFound) as error:
            self._lose(error)

    def _lose(self, error: SessionError) -> None:
        assert self._tasks is not None
        self.lost = error.with_traceback(None)  # its frames hold this holder, and the session with it
        self._tasks.cancel_scope.cancel()
