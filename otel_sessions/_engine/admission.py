"""Who gets in: a creator takes a place, asks for room, waits for a place that is about to be free, or is refused.

No `await` stands between a check and the change that relies on it, so the cap holds. A creator inside a close hook
never waits: the place may be the place of the hook's own session.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Generic, Self, overload

import anyio
from opentelemetry import context as otel_context

from otel_sessions._core.config import SessionConfig
from otel_sessions._core.exceptions import TooManySessions
from otel_sessions._core.ids import require_text
from otel_sessions._core.limits import UNSET, Limit, Unset, checked
from otel_sessions._core.session import DataT, Session
from otel_sessions._core.store import Store
from otel_sessions._core.words import EndReason, RejectionReason
from otel_sessions._telemetry.telemetry import Telemetry

from .clients import Waiter
from .closing import Closer
from .ending import Batch
from .hooks import Hooks
from .passes import Passes
from .places import Places

_HANDOVER: Final = 0.01
"""Seconds. A hook and a creator may run out of time at the same moment; the place is handed over within this time."""


class Admission(Generic[DataT]):
    """Decides who gets a place, in one run of a manager."""

    def __init__(
        self,
        config: SessionConfig,
        store: Store[DataT],
        places: Places[DataT],
        passes: Passes[DataT],
        closer: Closer[DataT],
        hooks: Hooks[DataT],
        telemetry: Telemetry,
        new_id: Callable[[], str],
    ) -> None:
        self._new_id = new_id
        self._close_timeout = config.close_timeout
        self._store = store
        self._books = store.books
        self._places = places
        self._passes = passes
        self._closer = closer
        self._hooks = hooks
        self._telemetry = telemetry

    def require_here(self) -> None:
        """Raise `RuntimeError` on another loop than the run's, and `ManagerClosed` if the run's loop is closed."""
        self._store.require_here()

    def require_accepting(self) -> None:
        """Raise `ManagerClosed`, and count the refusal, unless new sessions are accepted."""
        if not self._store.accepting:
            self._books.add_rejected(RejectionReason.SHUTDOWN)
            self._store.require_accepting()

    def take(self, client: str | None) -> Waiter | None:
        """Reserve a place and return None, or return a waiter, which the caller must pass to `wait` at once.

        Raises `TooManySessions` if no place is free or about to be free. Raises `ManagerClosed` during a shutdown.
        """
        self.require_accepting()
        places = self._places
        if client is not None and places.clients.is_full(client):
            return self._take_from(client)
        if places.is_full and not self._is_relieved():
            if not self._may_wait():
                raise self._refusal()
            return places.queue(client)
        places.take(client)
        return None

    async def wait(self, waiter: Waiter) -> None:
        """Wait for the place that `take` could not reserve yet.

        Raises `TooManySessions` if the place does not come in time, and `ManagerClosed` during a shutdown.
        """
        try:
            await self._answer(waiter)
            if not waiter.granted:
                self.require_accepting()
                raise self._client_refusal() if waiter.own else self._refusal()
        except BaseException:
            if waiter.granted:
                self._places.give_back(waiter.client)
            else:
                self._places.dismiss(waiter)
            raise

    async def _answer(self, waiter: Waiter) -> None:
        """Wait for the answer until the time is up. Record how long this took, also for a creator that gives up."""
        began, cancelled = anyio.current_time(), anyio.get_cancelled_exc_class()
        try:
            with anyio.move_on_after(self._close_timeout + _HANDOVER):
                await waiter.answered.wait()
        except cancelled:  # and no other error: there is no loop to ask for the time if the loop has died
            self._telemetry.creator_waited(anyio.current_time() - began)
            raise
        self._telemetry.creator_waited(anyio.current_time() - began)

    def give_back(self, client: str | None) -> None:
        """Give back a reserved place that did not become a session."""
        self._places.give_back(client)

    def commit(
        self,
        session_id: str | None,
        data: Any,
        client: str | None,
        max_idle_time: Limit,
        max_session_age: Limit,
        *,
        reserved_for: str | None,
    ) -> Session[Any]:
        """Turn a reserved place into a session. If this raises, the place stays reserved."""
        self.require_accepting()
        if session_id is None:
            session_id = self._new_id()
        else:
            require_text(session_id)
        self._store.require_vacant(session_id)
        now = self._store.clock()
        shared = self._store.shared_at(now).owned(max_idle_time, max_session_age)
        if client != reserved_for:
            if self._places.clients.is_full(client):
                raise self._client_refusal()
            self._places.move(reserved_for, client)
        self._books.add_unreserved()  # first, so that no other thread sees more than the cap
        session = self._store.add(session_id, data, client, shared, now)
        self._places.settle(session)
        return session

    def _take_from(self, client: str) -> Waiter | None:
        """Take the place of one of the client's own sessions. Return its waiter, or None if the place came at once."""
        clients = self._places.clients
        if clients.evicts and not self._hooks.calling and not self._places.is_overfull:
            now = self._store.clock()
            coming = clients.has_place_coming(client)
            session = None if coming else clients.first_to_go(client, now)
            if coming or session is not None:
                waiter = self._places.queue_for_own(client)
                if session is not None:
                    self._evict(session, now)
                return None if waiter.granted else waiter
        raise self._refusal() if self._places.is_full else self._client_refusal()

    def _evict(self, session: Session[DataT], now: float) -> None:
        reason = session._reason(now, EndReason.EVICTED)
        self._closer.end({reason: [session]}, otel_context.get_current(), Batch(), now)

    def _is_relieved(self) -> bool:
        """Request an emergency pass. Return whether the pass has freed a place at once, as it may with eager tasks."""
        self._passes.request()
        return not self._places.is_full

    def _may_wait(self) -> bool:
        """Return whether one more creator may wait: a closing session or a running pass may free a place for it."""
        places = self._places
        covered = places.waiting < places.coming or self._passes.finding
        if not covered or self._hooks.calling:
            return False
        limit = places.limit
        return limit is None or places.waiting < limit

    def _refusal(self) -> TooManySessions:
        retry_after = self._places.retry_after(self._passes.retry_after())
        limit, reason = self._places.why_full()
        self._books.add_rejected(reason)
        return TooManySessions(limit, retry_after, reason)

    def _client_refusal(self) -> TooManySessions:
        self._books.add_rejected(RejectionReason.MAX_SESSIONS_PER_CLIENT)
        limit = self._places.clients.max_sessions_per_client
        assert limit is not None
        return TooManySessions(limit, None, RejectionReason.MAX_SESSIONS_PER_CLIENT)


class Reservation(Generic[DataT]):
    """A reserved place for one session. If the block ends without `commit`, the place is given back."""

    def __init__(self, admission: Admission[DataT], client: str | None) -> None:
        self._admission = admission
        self._client = client
        self._entered = False
        self._reserved = False

    async def __aenter__(self) -> Self:
        """Take a place. At the cap, wait up to `close_timeout` seconds for a place that is about to be free.

        Raises `TooManySessions`, `ManagerClosed`, and `RuntimeError` on another event loop than the manager's or on a
        second entry.
        """
        if self._entered:
            raise RuntimeError("a reservation is entered once; call reserve() again")
        self._admission.require_here()
        self._entered = True
        if (waiter := self._admission.take(self._client)) is not None:
            await self._admission.wait(waiter)
        self._reserved = True
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.give_back()

    def give_back(self) -> None:
        """Give the place back before the block ends, unless it has become a session. No commit is possible then."""
        if self._reserved:
            self._reserved = False
            self._admission.give_back(self._client)

    @overload
    def commit(
        self: "Reservation[None]",
        session_id: str | None = None,
        *,
        data: None = None,
        client: str | Unset | None = UNSET,
        max_idle_time: Limit = UNSET,
        max_session_age: Limit = UNSET,
    ) -> Session[None]: ...
    @overload
    def commit(
        self,
        session_id: str | None = None,
        *,
        data: DataT,
        client: str | Unset | None = UNSET,
        max_idle_time: Limit = UNSET,
        max_session_age: Limit = UNSET,
    ) -> Session[DataT]: ...
    def commit(
        self,
        session_id: str | None = None,
        *,
        data: Any = None,
        client: str | Unset | None = UNSET,
        max_idle_time: Limit = UNSET,
        max_session_age: Limit = UNSET,
    ) -> Session[Any]:
        """Turn the place into a session that is visible at once, and return the session.

        Works once, inside the block. If no `session_id` is given, an id is made. `client` replaces the client of the
        reservation. The other keywords are as for `SessionManager.create_session`.

        Raises `SessionExists`, `ConfigError` if a limit is wrong, `TypeError` if the id is not a `str`, and
        `ManagerClosed` during a shutdown. Raises `TooManySessions` if another `client` is at its cap: a commit cannot
        wait, so it evicts no session. After these errors the place is still reserved. Raises `RuntimeError` if the
        place is not reserved.
        """
        if not self._reserved:
            raise RuntimeError("a place is committed once, inside its `async with` block, and not after give_back")
        idle, age = checked(max_idle_time, max_session_age)
        client = self._client if client is UNSET else client
        session = self._admission.commit(session_id, data, client, idle, age, reserved_for=self._client)
        self._reserved = False
        return session
