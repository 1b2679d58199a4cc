"""The cap: a place is taken before a session is made, and comes back when the session is gone.

`reserved + live + closing <= max_sessions` at every moment, because a place is taken in one step with the check. A
place that comes back goes straight to the creator who has waited longest, so nobody overtakes. How places are freed
when all are taken is decided elsewhere (`_emergency`, through `Relief`).
"""

from collections.abc import Sequence
from itertools import islice
from types import TracebackType
from typing import Any, Generic, Protocol, Self, overload

import anyio

from ._books import Books
from ._ids import new_id
from ._roster import Roster
from .config import SessionConfig, check_limit
from .exceptions import TooManySessions
from .session import UNSET, DataT, Limit, Session, Unset
from .words import RejectionReason


class Relief(Protocol):
    """Who frees places when all are taken."""

    def request(self) -> bool:
        """Start an emergency pass unless one started less than a second ago; return whether one is marking now."""

    def may_wait(self) -> bool:
        """Return whether the running task may wait for a place: a close hook may not."""

    def retry_after(self) -> float | None:
        """Return the seconds until the next place may be free, None if that is unknown."""


class _Waiter:
    """A creator who waits for a place, until `answered`."""

    def __init__(self) -> None:
        self.answered = anyio.Event()
        self.granted = False


class Capacity(Generic[DataT]):
    """The places of one manager."""

    def __init__(self, config: SessionConfig, roster: Roster[DataT], books: Books) -> None:
        self._limit = config.max_sessions
        self._client_limit = config.max_sessions_per_client
        self._patience = config.close_timeout
        self._roster = roster
        self._books = books
        self.relief: Relief
        self._clients: dict[str | None, int] = {}
        self._waiters: dict[_Waiter, None] = {}
        self.taken = 0
        """How many places were taken, ever."""

    @property
    def free(self) -> int | None:
        """How many places are free, None without a cap."""
        return None if self._limit is None else self._limit - self._books.active - self._books.reserved

    def take(self, client: str | None) -> bool:
        """Reserve a place; return False if places are about to be free and one is to be waited for.

        Raises `TooManySessions` if there is none, and `ManagerClosed` once the manager shuts down.
        """
        self.require_accepting()
        client_full = client is not None and self._client_full(client)
        if self._limit is not None and self._books.active + self._books.reserved >= self._limit:
            if client_full or not self._may_queue():
                raise self._refusal()
            return False
        if client_full:
            raise self._client_refusal()
        self._enter_client(client)
        self._books.add_reserved()
        self.taken += 1
        return True

    def require_accepting(self) -> None:
        """Raise `ManagerClosed` unless new sessions are accepted; one that is refused by a shutdown is counted."""
        if not self._roster.accepting:
            self._books.add_rejected(RejectionReason.SHUTDOWN)
            self._roster.require_accepting()

    def give_back(self, client: str | None) -> None:
        """Return a reserved place that became no session."""
        self._books.add_unreserved()
        self._leave_client(client)
        self._pass_on(1)

    def freed(self, sessions: Sequence[Session[DataT]]) -> None:
        """Note that places are free: their sessions are gone."""
        if self._client_limit is not None:
            for session in sessions:
                self._leave_client(session.client)
        self._pass_on(len(sessions))

    def _pass_on(self, places: int) -> None:
        for waiter in list(islice(self._waiters, places)):
            del self._waiters[waiter]
            self._books.add_reserved()
            self.taken += 1
            waiter.granted = True
            waiter.answered.set()

    def move(self, client: str | None, new_client: str | None) -> None:
        """Count a reserved place for another client; raise `TooManySessions` if that one's cap is reached."""
        if client != new_client:
            if self._client_full(new_client):
                raise self._client_refusal()
            self._leave_client(client)
            self._enter_client(new_client)

    def dismiss_uncovered(self) -> None:
        """Refuse the creators whose turn the closing sessions do not cover, last come first."""
        while len(self._waiters) > self._books.closing:
            self._waiters.popitem()[0].answered.set()

    def close(self) -> None:
        """Refuse all who wait: the manager shuts down."""
        while self._waiters:
            self._waiters.popitem()[0].answered.set()

    def _may_queue(self) -> bool:
        assert self._limit is not None
        covered = self.relief.request() or len(self._waiters) < self._books.closing
        return covered and len(self._waiters) < self._limit and self.relief.may_wait()

    async def wait(self, client: str | None) -> None:
        """Reserve a place once one is free, when `take` says so and before anything else happens."""
        self._enter_client(client)
        waiter = _Waiter()
        self._waiters[waiter] = None
        try:
            with anyio.move_on_after(self._patience):
                await waiter.answered.wait()
            if not waiter.granted:
                self.require_accepting()
                raise self._refusal()
        except BaseException:
            self._waiters.pop(waiter, None)
            if waiter.granted:
                self.give_back(client)
            else:
                self._leave_client(client)
            raise

    def _refusal(self) -> TooManySessions:
        self._books.add_rejected(RejectionReason.MAX_SESSIONS)
        assert self._limit is not None
        return TooManySessions(self._limit, self.relief.retry_after())

    def _client_refusal(self) -> TooManySessions:
        self._books.add_rejected(RejectionReason.MAX_SESSIONS_PER_CLIENT)
        assert self._client_limit is not None
        return TooManySessions(self._client_limit, None, RejectionReason.MAX_SESSIONS_PER_CLIENT)

    def _client_full(self, client: str | None) -> bool:
        return self._client_limit is not None and self._clients.get(client, 0) >= self._client_limit

    def _enter_client(self, client: str | None) -> None:
        if client is not None and self._client_limit is not None:
            self._clients[client] = self._clients.get(client, 0) + 1

    def _leave_client(self, client: str | None) -> None:
        if client is None or self._client_limit is None:
            return
        self._clients[client] -= 1
        if not self._clients[client]:
            del self._clients[client]


class Place(Generic[DataT]):
    """A reserved place for one session. Leaving the block without `commit` gives it back, if `give_back` has not."""

    def __init__(self, capacity: Capacity[DataT], roster: Roster[DataT], books: Books, client: str | None) -> None:
        self._capacity = capacity
        self._roster = roster
        self._books = books
        self._client = client
        self._entered = False
        self._reserved = False

    async def __aenter__(self) -> Self:
        """Take the place; raises `TooManySessions` and `ManagerClosed`."""
        if self._entered:
            raise RuntimeError("a place is entered once; call reserve() again")
        self._entered = True
        if not self._capacity.take(self._client):
            await self._capacity.wait(self._client)
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
        self: "Place[None]",
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
        `TooManySessions` (the cap of another `client`) and `ManagerClosed` (during a shutdown); the place is kept
        then, for another try.
        """
        if not self._reserved:
            raise RuntimeError("a place is committed once, inside its `async with` block, and not after give_back")
        self._capacity.require_accepting()
        idle = max_idle_time if max_idle_time is UNSET else check_limit("max_idle_time", max_idle_time)
        age = max_session_age if max_session_age is UNSET else check_limit("max_session_age", max_session_age)
        session_id = new_id() if session_id is None else session_id
        self._roster.require_vacant(session_id)
        now = self._roster.clock()
        terms = self._roster.terms_at(now).owned(idle, age)
        if client is not UNSET:
            self._capacity.move(self._client, client)
            self._client = client
        self._reserved = False
        self._books.add_unreserved()
        return self._roster.add(session_id, data, self._client, terms, now)
