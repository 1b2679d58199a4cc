"""The places of each client: their number, and with `evict_oldest` the session whose place a new session may take.

A client is kept while it has a place. The sessions of each client are kept for `evict_oldest` only, and a search looks
at the sessions of one client. `admission` decides who waits and which session ends.
"""

from typing import Generic

import anyio

from otel_sessions._core.config import SessionConfig
from otel_sessions._core.session import DataT, Session
from otel_sessions._core.words import PerClientAtCap


class Waiter:
    """A creator that waits for a place, until `answered`. `own` is True if only a place of its own client will do."""

    def __init__(self, client: str | None, own: bool) -> None:
        self.client = client
        self.own = own
        self.answered = anyio.Event()
        self.granted = False


class Clients(Generic[DataT]):
    """The places of a manager's clients, `max_sessions_per_client` for each. Without this cap nothing is counted."""

    def __init__(self, config: SessionConfig) -> None:
        self.max_sessions_per_client = config.max_sessions_per_client
        self.evicts = (
            self.max_sessions_per_client is not None and config.per_client_at_cap == PerClientAtCap.EVICT_OLDEST
        )
        self.waiting = 0
        """The number of creators that wait for a place of their own client."""
        self._places: dict[str, int] = {}
        self._sessions: dict[str, dict[Session[DataT], None]] = {}
        self._waiters: dict[str, dict[Waiter, None]] = {}

    def is_full(self, client: str | None) -> bool:
        return (
            self.max_sessions_per_client is not None
            and client is not None
            and self._places.get(client, 0) >= self.max_sessions_per_client
        )

    def enter(self, client: str | None) -> None:
        """Count one more place of a client."""
        if client is not None and self.max_sessions_per_client is not None:
            self._places[client] = self._places.get(client, 0) + 1

    def leave(self, client: str | None) -> None:
        """Count one place of a client less."""
        if client is None or self.max_sessions_per_client is None:
            return
        self._places[client] -= 1
        if not self._places[client]:
            del self._places[client]

    def add(self, session: Session[DataT]) -> None:
        if session.client is not None:
            self._sessions.setdefault(session.client, {})[session] = None

    def remove(self, session: Session[DataT]) -> None:
        if self.evicts and session.client is not None:
            sessions = self._sessions[session.client]
            del sessions[session]
            if not sessions:
                del self._sessions[session.client]

    def has_place_coming(self, client: str) -> bool:
        """Return whether a client has more closing sessions than creators that wait for their places."""
        closing = sum(1 for session in self._sessions.get(client, ()) if session.end_reason is not None)
        return closing > len(self._waiters.get(client, ()))

    def first_to_go(self, client: str, now: float) -> Session[DataT] | None:
        """Return a client's unleased session that is due, else its longest idle unleased session, or None."""
        unleased = (s for s in self._sessions.get(client, ()) if s.end_reason is None and not s._leases)
        return min(unleased, key=lambda s: (s._due(now, s._shared) is None, s._last), default=None)

    def queue(self, waiter: Waiter) -> None:
        """Let a creator wait for a place of its client, behind the creators that wait already."""
        assert waiter.client is not None
        self._waiters.setdefault(waiter.client, {})[waiter] = None
        self.waiting += 1

    def is_waiting(self, waiter: Waiter) -> bool:
        return waiter in self._waiters.get(waiter.client or "", ())

    def discard(self, waiter: Waiter) -> None:
        assert waiter.client is not None
        waiters = self._waiters[waiter.client]
        del waiters[waiter]
        if not waiters:
            del self._waiters[waiter.client]
        self.waiting -= 1

    def next_waiter(self, client: str | None) -> Waiter | None:
        """Return the creator that has waited longest for a place of a client, or None."""
        return next(iter(self._waiters.get(client or "", ())), None)

    def all_waiters(self) -> list[Waiter]:
        return [waiter for waiters in self._waiters.values() for waiter in waiters]
