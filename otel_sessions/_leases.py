"""Leases: what keeps a session from being idle while a request or a stream uses it.

A pin is arithmetic and may be held and left by any task in any order. A bound lease is a pin in a cancel scope of its
own task, so that a session that is ended by force takes its holders with it, but never the one who ends it.
"""

from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Generic

import anyio

from ._books import Books
from ._roster import Roster
from .exceptions import SessionNotFound
from .session import DataT, Session

_held: ContextVar[tuple["Lease[Any]", ...]] = ContextVar("otel_sessions_held", default=())
"""The bound leases of the running task and of those it was started from."""


class Leases(Generic[DataT]):
    """Who uses which session now."""

    def __init__(self, roster: Roster[DataT], books: Books) -> None:
        self._roster = roster
        self._books = books
        self._bound: dict[Session[DataT], list[Lease[DataT]]] = {}
        self._quiet: anyio.Event | None = None

    def acquire(self, session_id: str) -> Session[DataT]:
        """Return a session with a lease on it. Raises `ManagerClosed` or `SessionNotFound`."""
        self._roster.require_accepting()
        session = self._roster.usable(session_id)
        session.touch()
        session._pins += 1
        if session._pins == 1:
            self._books.add_leased()
        return session

    def release(self, session: Session[DataT]) -> None:
        """Give a lease back: idle time runs from here. Nothing happens if the session was ended meanwhile."""
        if session.end_reason is not None:
            return
        session._pins -= 1
        if not session._pins:
            self._books.add_released()
            self.note_released()
        session._last = self._roster.clock()
        if not session._pins and session._due(session._last, session._terms) is not None:
            session._file_due()

    def note_released(self) -> None:
        """Wake whoever waits for quiet, if that was the last session leased."""
        if self._quiet is not None and not self._books.leased:
            self._quiet.set()

    async def wait_quiet(self) -> None:
        """Return when no session is leased."""
        while self._books.leased:
            self._quiet = anyio.Event()
            await self._quiet.wait()

    def bind(self, lease: "Lease[DataT]", session: Session[DataT]) -> None:
        self._bound.setdefault(session, []).append(lease)

    def unbind(self, lease: "Lease[DataT]", session: Session[DataT]) -> None:
        leases = self._bound[session]
        leases.remove(lease)
        if not leases:
            del self._bound[session]

    def take_away(self, session: Session[DataT]) -> "list[Lease[DataT]]":
        """End all leases on a session that is about to end.

        Return the bound ones whose holders have to leave: all but the running task and its ancestors.
        """
        session._pins = 0
        self._books.add_released()
        self.note_released()
        return [lease for lease in self._bound.get(session, ()) if lease not in _held.get()]


class Pin(Generic[DataT]):
    """A lease for one `with` block; its value is the session."""

    __slots__ = ("_leases", "_session", "_session_id")

    def __init__(self, leases: Leases[DataT], session_id: str) -> None:
        self._leases = leases
        self._session_id = session_id
        self._session: Session[DataT] | None = None

    def __enter__(self) -> Session[DataT]:
        if self._session is not None:
            raise RuntimeError("a pin is entered once; call pin() again")
        self._session = self._leases.acquire(self._session_id)
        return self._session

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._session is not None
        self._leases.release(self._session)


class Lease(Generic[DataT]):
    """A lease for one `async with` block, bound to its task; its value is the session."""

    def __init__(self, leases: Leases[DataT], session_id: str) -> None:
        self._leases = leases
        self._session_id = session_id
        self._entered = False
        self._session: Session[DataT] | None = None
        self._on_left: Callable[[Lease[DataT]], None] | None = None

    async def __aenter__(self) -> Session[DataT]:
        if self._entered:
            raise RuntimeError("a lease is entered once; call lease() again")
        self._session = self._leases.acquire(self._session_id)
        self._entered = True
        self._leases.bind(self, self._session)
        _held.set((*_held.get(), self))
        self._scope = anyio.CancelScope()
        self._scope.__enter__()
        return self._session

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:  # a plain bool tells type checkers that it may swallow any error of the block
        # What was started in the block may keep this lease in its context for long: it must not keep the session.
        session, self._session = self._session, None
        assert session is not None
        _held.set(tuple(lease for lease in _held.get() if lease is not self))
        self._leases.unbind(self, session)
        try:
            self._leases.release(session)
        finally:
            if self._on_left is not None:
                self._on_left(self)
                self._on_left = None
            handled = bool(self._scope.__exit__(exc_type, exc, traceback))
        if self._scope.cancelled_caught:
            raise SessionNotFound(self._session_id, session.end_reason) from None
        return handled

    def revoke(self, on_left: "Callable[[Lease[DataT]], None]") -> None:
        """Cancel the holder; `on_left` is called with this lease once its block is left."""
        self._on_left = on_left
        self._scope.cancel()
