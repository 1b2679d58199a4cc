"""The cap: a place is taken before a session is made, and comes back when the session is gone.

`reserved + live + closing <= max_sessions` at every moment, because a place is taken in one step with the check. A
place that comes back goes straight to the creator who has waited longest, so nobody overtakes; the place of a client's
session goes first to a creator of that client who waits for it (`clients`). How places are freed when all are taken is
decided elsewhere (`eviction`, through `Relief`).
"""

from collections.abc import Sequence
from itertools import islice
from types import TracebackType
from typing import Any, Final, Generic, Protocol, Self, overload

import anyio

from otel_sessions._core.books import Books
from otel_sessions._core.config import SessionConfig
from otel_sessions._core.exceptions import TooManySessions
from otel_sessions._core.ids import new_id, require_text
from otel_sessions._core.session import UNSET, DataT, Limit, Session, Unset, checked
from otel_sessions._core.store import Roster
from otel_sessions._core.words import RejectionReason

from .clients import Clients, Waiter

_HANDOVER: Final = 0.01
"""Seconds for a place to come back from a hook that has run out of time at the same moment as who waits for it."""


class Relief(Protocol):
    """Who frees places when all are taken."""

    @property
    def finding(self) -> bool:
        """Whether an emergency pass is looking for what to end, so that a place may be free in a moment."""

    def request(self) -> None:
        """Start an emergency pass, unless one started less than a second ago."""

    def may_wait(self) -> bool:
        """Return whether the running task may wait for a place: a close hook may not."""

    def retry_after(self) -> float | None:
        """Return the seconds until the next place may be free, None if that is unknown."""

    def evict(self, session: Session[Any], now: float) -> None:
        """End a session, so that its place comes back once it is gone."""


class Capacity(Generic[DataT]):
    """The places of one run of a manager."""

    def __init__(self, config: SessionConfig, roster: Roster[DataT], books: Books) -> None:
        self._max_sessions = config.max_sessions
        self._close_timeout = config.close_timeout
        self._roster = roster
        self._books = books
        self.relief: Relief
        self._clients: Clients[DataT] = Clients(config)
        self._waiters: dict[Waiter, None] = {}
        self.taken = 0
        """How many places were taken, ever."""
        self.over = False
        """Whether the run is over: places that are given back then count for nothing."""

    @property
    def free(self) -> int | None:
        """How many places are free, None without a cap."""
        return None if self._max_sessions is None else self._max_sessions - self._books.active - self._books.reserved

    def take(self, client: str | None) -> Waiter | None:
        """Reserve a place. If one is to be waited for, return who waits: for `wait`, before anything else happens.

        Raises `TooManySessions` if there is none, and `ManagerClosed` once the manager shuts down.
        """
        self.require_accepting()
        if client is not None and self._clients.is_full(client):
            return self._take_from(client)
        if self._is_full() and not self._is_relieved():
            if not self._is_covered():
                raise self._refusal()
            self._clients.enter(client)
            waiter = Waiter(client, own=False)
            self._waiters[waiter] = None
            self._books.add_waiting()
            return waiter
        if client is not None:
            self._clients.enter(client)
        self._books.add_reserved()
        self.taken += 1
        return None

    def require_accepting(self) -> None:
        """Raise `ManagerClosed` unless new sessions are accepted; one that is refused by a shutdown is counted."""
        if not self._roster.accepting:
            self._books.add_rejected(RejectionReason.SHUTDOWN)
            self._roster.require_accepting()

    def give_back(self, client: str | None) -> None:
        """Return a reserved place that became no session."""
        if self.over:
            return
        self._books.add_unreserved()
        if not self._hand_over(client):
            self._clients.leave(client)
            self._pass_on(1)

    def settle(self, session: Session[DataT]) -> None:
        """Note which session a place has become."""
        if self._clients.evicts:
            self._clients.add(session)

    def freed(self, sessions: Sequence[Session[DataT]]) -> None:
        """Note that places are free: their sessions are gone."""
        places = len(sessions)
        if self._clients.max_sessions_per_client is not None:
            for session in sessions:
                self._clients.remove(session)
                if self._hand_over(session.client):
                    places -= 1
                else:
                    self._clients.leave(session.client)
        self._pass_on(places)

    def move(self, client: str | None, new_client: str | None) -> None:
        """Count a reserved place for another client; raise `TooManySessions` if that one's cap is reached."""
        if client != new_client:
            if self._clients.is_full(new_client):
                raise self._client_refusal()
            self._clients.leave(client)
            self._clients.enter(new_client)

    def dismiss_uncovered(self) -> None:
        """Refuse the creators whose turn the closing sessions do not cover, last come first."""
        while len(self._waiters) > self._closing():
            self._dismiss(next(reversed(self._waiters)))

    def close(self) -> None:
        """Refuse all who wait: the manager shuts down."""
        for waiter in [*reversed(self._waiters), *self._clients.all_waiters()]:
            self._dismiss(waiter)

    def end(self) -> None:
        """Take back the places that are reserved still: the run is over."""
        self.over = True
        while self._books.reserved:
            self._books.add_unreserved()

    async def wait(self, waiter: Waiter) -> None:
        """Wait for the place that `take` could not reserve yet.

        Raises `TooManySessions` if it does not come in time, and `ManagerClosed` once the manager shuts down.
        """
        try:
            with anyio.move_on_after(self._close_timeout + _HANDOVER):
                await waiter.answered.wait()
            if not waiter.granted:
                self.require_accepting()
                raise self._client_refusal() if waiter.own else self._refusal()
        except BaseException:
            if waiter.granted:
                self.give_back(waiter.client)
            else:
                self._dismiss(waiter)
            raise

    def _take_from(self, client: str) -> Waiter | None:
        """Take the place of one of the client's own sessions; return who waits for it, None if it is free already."""
        clients = self._clients
        if clients.evicts and self.relief.may_wait():
            now = self._roster.clock()
            coming = clients.has_place_coming(client)
            session = None if coming else clients.first_to_go(client, now)
            if coming or session is not None:
                waiter = Waiter(client, own=True)
                clients.queue(waiter)
                self._books.add_waiting()
                if session is not None:
                    self.relief.evict(session, now)
                return None if waiter.granted else waiter
        raise self._refusal() if self._is_full() else self._client_refusal()

    def _is_full(self) -> bool:
        return self._max_sessions is not None and self._books.active + self._books.reserved >= self._max_sessions

    def _is_relieved(self) -> bool:
        """Ask for places to be freed; return whether there is one at once, as eager tasks bring it about."""
        self.relief.request()
        return not self._is_full()

    def _is_covered(self) -> bool:
        """Return whether one more creator may wait."""
        assert self._max_sessions is not None
        covered = len(self._waiters) < self._closing() or self.relief.finding
        return covered and len(self._waiters) < self._max_sessions and self.relief.may_wait()

    def _closing(self) -> int:
        """Return how many places are about to come back for whoever comes first."""
        return self._books.closing - self._clients.waiting

    def _hand_over(self, client: str | None) -> bool:
        """Give a place that comes back to a creator of its client who waits for it; return whether there is one."""
        waiter = self._clients.next_waiter(client)
        if waiter is None:
            return False
        self._clients.discard(waiter)
        self._grant(waiter)
        return True

    def _pass_on(self, places: int) -> None:
        for waiter in list(islice(self._waiters, places)):
            del self._waiters[waiter]
            self._grant(waiter)

    def _grant(self, waiter: Waiter) -> None:
        self._books.add_answered()
        self._books.add_reserved()
        self.taken += 1
        waiter.granted = True
        waiter.answered.set()

    def _dismiss(self, waiter: Waiter) -> None:
        """Let a creator wait no longer; nothing happens if it does not."""
        if waiter in self._waiters:
            del self._waiters[waiter]
            self._clients.leave(waiter.client)
        elif self._clients.is_waiting(waiter):
            self._clients.discard(waiter)
        else:
            return
        self._books.add_answered()
        waiter.answered.set()

    def _refusal(self) -> TooManySessions:
        retry_after = self.relief.retry_after()
        self._books.add_rejected(RejectionReason.MAX_SESSIONS)
        assert self._max_sessions is not None
        return TooManySessions(self._max_sessions, retry_after)

    def _client_refusal(self) -> TooManySessions:
        self._books.add_rejected(RejectionReason.MAX_SESSIONS_PER_CLIENT)
        assert self._clients.max_sessions_per_client is not None
        return TooManySessions(self._clients.max_sessions_per_client, None, RejectionReason.MAX_SESSIONS_PER_CLIENT)


class Reservation(Generic[DataT]):
    """A reserved place for one session. Leaving the block without `commit` gives it back, if `give_back` has not."""

    def __init__(self, capacity: Capacity[DataT], roster: Roster[DataT], books: Books, client: str | None) -> None:
        self._capacity = capacity
        self._roster = roster
        self._books = books
        self._client = client
        self._entered = False
        self._reserved = False

    async def __aenter__(self) -> Self:
        """Take the place.

        Raises `TooManySessions`, `ManagerClosed`, and `RuntimeError` on another event loop than the manager's.
        """
        if self._entered:
            raise RuntimeError("a place is entered once; call reserve() again")
        self._roster.require_here()
        self._entered = True
        if (waiter := self._capacity.take(self._client)) is not None:
            await self._capacity.wait(waiter)
        self._reserved = True
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.give_back()

    @classmethod
    def taken(cls, capacity: Capacity[DataT], roster: Roster[DataT], books: Books, client: str | None) -> Self:
        """Return a place that was taken by hand, for whoever calls `give_back` in the end."""
        place = cls(capacity, roster, books, client)
        place._entered = place._reserved = True
        return place

    def give_back(self) -> None:
        """Return the place before the block ends, if it has become no session: nothing can be committed any more."""
        if self._reserved:
            self._reserved = False
            self._capacity.give_back(self._client)

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
        """Turn the place into a session, visible at once; a new id is made if none is given.

        Works once, inside the block. `client` replaces the one that the place was reserved for; the other keywords are
        those of `SessionManager.create_session`. Raises `SessionExists`, `ConfigError` (a wrong limit),
        `TooManySessions` (the cap of another `client`; nobody is evicted for it, since this cannot wait),
        `ManagerClosed` (during a shutdown) and `TypeError` (an id that is no text); the place is kept then, for
        another try.
        """
        if not self._reserved:
            raise RuntimeError("a place is committed once, inside its `async with` block, and not after give_back")
        self._capacity.require_accepting()
        idle, age = checked(max_idle_time, max_session_age)
        if session_id is None:
            session_id = new_id()
        else:
            require_text(session_id)
        self._roster.require_vacant(session_id)
        now = self._roster.clock()
        terms = self._roster.terms_at(now).owned(idle, age)
        if client is not UNSET:
            self._capacity.move(self._client, client)
            self._client = client
        self._reserved = False
        self._books.add_unreserved()
        session = self._roster.add(session_id, data, self._client, terms, now)
        self._capacity.settle(session)
        return session
