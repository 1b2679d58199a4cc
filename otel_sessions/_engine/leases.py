"""Leases: they keep a session from being idle while a request or a stream uses the session.

A pin is a count; any task may leave it, in any order. A hold is a pin with a callback for the end of the session. A
bound lease is a pin in a cancel scope of its own task. If a session is ended by force, the holders of holds and bound
leases have to leave, except the holder that ends the session.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final, Generic

import anyio

from otel_sessions._core.clock import never_failing
from otel_sessions._core.events import Event
from otel_sessions._core.exceptions import SessionNotFound
from otel_sessions._core.ids import fingerprint
from otel_sessions._core.loops import Home
from otel_sessions._core.session import OPENING, DataT, Session
from otel_sessions._core.store import Store, loop_closed
from otel_sessions._core.words import EndReason

from .quiet import Quiet

_logger = logging.getLogger("otel_sessions")

_ENTERED: Final[Any] = object()
"""Replaces the session id of a lease that was entered, since a lease is entered once."""

_held: ContextVar[tuple["Holder[Any]", ...]] = ContextVar("otel_sessions_held", default=())
"""The holds and bound leases of the running task and of the tasks that it was started from."""


class Leases(Generic[DataT]):
    """Who uses which session now."""

    def __init__(self, store: Store[DataT]) -> None:
        self._store = store
        self._books = store.books
        self._now = never_failing(store.clock)
        self._since: dict[Pin[DataT] | Holder[DataT], float] = {}
        """When each lease on a live session began, the oldest lease first."""
        self._leaving: dict[Holder[DataT], Callable[[Holder[DataT]], None]] = {}
        """For each holder that has to leave: the function to call when the holder has left."""
        self._quiet = Quiet()
        self.new_scope: Callable[[], anyio.CancelScope] = anyio.CancelScope
        self.is_here = self.is_loop_closed = _no
        self.require_here: Final = store.require_here

    def enter_loop(self, home: Home) -> None:
        """Serve the running loop. Learn its class of cancel scopes: `anyio.CancelScope` looks it up every time."""
        self.new_scope = type(anyio.CancelScope())
        self.is_here, self.is_loop_closed = home.is_here, home.is_closed

    def acquire(self, lease: "Pin[DataT] | Holder[DataT]", session_id: str | Session[DataT]) -> Session[DataT]:
        """Touch and lease a session, and return it.

        Raises `ManagerClosed`, and `SessionNotFound` with the reason for which the session is due or was ended.
        """
        store = self._store
        if not store.accepting:
            store.require_accepting()
        session = store.visible.get(session_id)  # type: ignore[arg-type]  # a session is not found
        if session is None:
            session = store.hidden(session_id)
        now, bucket = store.clock(), session._bucket
        if session._end is not None or bucket is None or now >= bucket.not_before:  # else the session is not due
            due = session._due(now, session._shared)
            if due is not None:
                raise SessionNotFound(session.id, due)
        session._last = self._since[lease] = now
        session._count = session._count + 1 if session._count else OPENING
        if session._leases:
            session._leases[lease] = None
        else:
            session._leases = {lease: None}
            self._books.add_leased()
        return session

    def oldest(self) -> float | None:
        """Return when the lease that has been held longest began, by the manager's clock; None without a lease.

        May be called on any thread.
        """
        try:
            return next(iter(self._since.values()), None)
        except RuntimeError:  # the manager's thread has changed the dict meanwhile
            return next(iter(self._since.copy().values()), None)

    def release(self, lease: "Pin[DataT] | Holder[DataT]", session: Session[DataT]) -> None:
        """Give a lease back. Idle time runs from now on. Nothing happens if the session was ended meanwhile."""
        if self._since.pop(lease, None) is None:
            return
        now = session._last = self._now()
        leases = session._leases
        assert leases is not None
        if len(leases) > 1:
            del leases[lease]
            return
        session._leases = None
        self._books.add_released()
        if self._quiet.awaited is not None:
            self._quiet.note()
        bucket = session._bucket
        may_be_due = session._end is not None or bucket is None or now >= bucket.not_before
        if may_be_due and session._due(now, session._shared) is not None:
            session._file_due()

    async def wait_quiet(self) -> None:
        """Return when no session is leased."""
        await self._quiet.wait(lambda: not self._books.leased)

    def bind(self, holder: "Holder[DataT]", session_id: str | Session[DataT]) -> Session[DataT]:
        """Lease a session and return it. The holder has to leave when the session is ended."""
        session = self.acquire(holder, session_id)
        outer = _held.get()
        # A holder that was left in another context is still listed in this context.
        _held.set((*[one for one in outer if one.session is not None], holder) if outer else (holder,))
        return session

    def unbind(self, holder: "Holder[DataT]", session: Session[DataT]) -> None:
        """Give the lease of a holder back."""
        held = _held.get()
        if held and held[-1] is holder:
            _held.set(held[:-1])
        try:
            self.release(holder, session)
        finally:
            if self._leaving and (on_left := self._leaving.pop(holder, None)) is not None:
                on_left(holder)

    def release_all(self, session: Session[DataT]) -> "list[Holder[DataT]]":
        """End all leases on a session that is about to end.

        Return the holders that have to leave: all except the holders of the running task and its ancestors.
        """
        leases, session._leases = session._leases or {}, None
        for lease in leases:
            del self._since[lease]
        self._books.add_released()
        self._quiet.note()
        held = _held.get()
        return [lease for lease in leases if isinstance(lease, Holder) and lease not in held]

    def forget(self) -> None:
        """Count every lease as given back, since the run is over without its loop."""
        for session in [lease.session for lease in self._since if lease.session is not None]:
            session._leases = None
        self._since.clear()

    def expel(self, holder: "Holder[DataT]", reason: EndReason, on_left: "Callable[[Holder[DataT]], None]") -> None:
        """Make a holder leave. `on_left(holder)` is called when its block is left, or at once if it is left already."""
        if holder.session is None:
            on_left(holder)
        else:
            self._leaving[holder] = on_left
            holder.end(reason)


class Pin(Generic[DataT]):
    """A lease for one `with` block; the value of the block is the session.

    Entering raises `SessionNotFound`, `ManagerClosed`, and `RuntimeError` on a second entry.
    """

    __slots__ = ("_leases", "_session_id", "session")

    def __init__(self, leases: Leases[DataT], session_id: str) -> None:
        self._leases = leases
        self._session_id = session_id
        self.session: Session[DataT] | None = None

    def __enter__(self) -> Session[DataT]:
        if self._session_id is _ENTERED:
            raise RuntimeError("a pin is entered once; call pin() again")
        if self._leases.is_loop_closed():
            raise loop_closed()
        session = self.session = self._leases.acquire(self, self._session_id)
        self._session_id = _ENTERED
        return session

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        session, self.session = self.session, None
        if session is not None:
            self._leases.release(self, session)


class Holder(ABC, Generic[DataT]):
    """A lease whose holder has to leave when the session is ended. `session` is None before and after the block.

    A task that was started in the block may keep the `Holder` in its context for long. So `session` is dropped.
    """

    __slots__ = ("_leases", "_session_id", "session")

    def __init__(self, leases: Leases[DataT], session_id: str | Session[DataT]) -> None:
        self._leases = leases
        self._session_id = session_id
        self.session: Session[DataT] | None = None

    @abstractmethod
    def end(self, reason: EndReason) -> None:
        """Ask the holder to leave its block."""


class Hold(Holder[DataT]):
    """A lease for one `with` block, with a callback for the end of the session.

    The value of the block is the session. Entering raises `SessionNotFound`, `ManagerClosed`, and `RuntimeError` on a
    second entry.
    """

    __slots__ = ("_on_end",)

    def __init__(
        self, leases: Leases[DataT], session_id: str | Session[DataT], on_end: Callable[[EndReason], object]
    ) -> None:
        self._leases = leases
        self._session_id = session_id
        self.session = None
        self._on_end: Callable[[EndReason], object] | None = on_end

    def __enter__(self) -> Session[DataT]:
        if self._session_id is _ENTERED:
            raise RuntimeError("a hold is entered once; call hold() again")
        if self._leases.is_loop_closed():
            raise loop_closed()
        session = self.session = self._leases.bind(self, self._session_id)
        self._session_id = _ENTERED
        return session

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        session, self.session, self._on_end = self.session, None, None
        if session is not None:
            self._leases.unbind(self, session)

    def end(self, reason: EndReason) -> None:
        assert self._on_end is not None
        assert self.session is not None
        session_id = self.session.id  # the callback may leave the block
        try:
            self._on_end(reason)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a cancelled future's error, for example
            session = fingerprint(session_id)
            _logger.warning(
                "the on_end of a hold of session %s (%s) failed",
                *(session, reason),
                exc_info=error,
                extra=Event.HOLDER_FAILED.extra,
            )


class Lease(Holder[DataT]):
    """A lease for one `async with` block, bound to its task; the value of the block is the session.

    Entering raises `SessionNotFound`, `ManagerClosed`, and `RuntimeError` on another event loop or on a second entry.
    Leaving raises `SessionNotFound` with the reason if the end of the session has cancelled the block.
    """

    __slots__ = ("_scope",)

    async def __aenter__(self) -> Session[DataT]:
        if self._session_id is _ENTERED:
            raise RuntimeError("a lease is entered once; call lease() again")
        leases = self._leases
        if not leases.is_here():
            leases.require_here()
        scope = self._scope = leases.new_scope()
        session = self.session = leases.bind(self, self._session_id)
        self._session_id = _ENTERED
        scope.__enter__()
        return session

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:  # `bool` would tell type checkers that the block may swallow any error
        session, self.session = self.session, None
        assert session is not None
        try:
            self._leases.unbind(self, session)
        finally:
            handled = bool(self._scope.__exit__(exc_type, exc, traceback))
        if handled and self._scope.cancelled_caught:
            raise SessionNotFound(session.id, session.end_reason) from None
        return handled

    def end(self, reason: EndReason) -> None:  # noqa: ARG002  # the block reads the reason from the session
        self._scope.cancel()


def _no() -> bool:
    return False
