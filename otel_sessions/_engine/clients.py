"""The places of each client: how many it has, and with `evict_oldest`, whose place a new session of it may take.

A client is known for as long as it has a place. The sessions of each client are kept for `evict_oldest` only, and
finding one looks at the sessions of that client alone. Who waits, and which session ends, is decided in
`admission`.
"""

from typing import Generic

import anyio

from otel_sessions._core.config import SessionConfig
from otel_sessions._core.session import DataT, Session
from otel_sessions._core.words import PerClientAtCap


class Waiter:
    """A creator who waits for a place, until `answered`. `own` says that it is a place of its own client's."""

    def __init__(self, client: str | None, own: bool) -> None:
        self.client = client
        self.own = own
        self.answered = anyio.Event()
        self.granted = False


class Clients(Generic[DataT]):
    """The places of the clients of one manager, `max_sessions_per_client` for each; without it nothing is counted."""

    def __init__(self, config: SessionConfig) -> None:
        self.max_sessions_per_client = config.max_sessions_per_client
        self.evicts = (
            self.max_sessions_per_client is not None and config.per_client_at_cap == PerClientAtCap.EVICT_OLDEST
        )
        self.waiting = 0
        """How many creators wait for a place of their own client's."""
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
        """Count a place more."""
        if client is not None and self.max_sessions_per_client is not None:
            self._places[client] = self._places.get(client, 0) + 1

    def leave(self, client: str | None) -> None:
        """Count a place less."""
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
        """Return whether more sessions of a client are closing than creators wait for."""
        closing = sum(1 for session in self._sessions.get(client, ()) if session.end_reason is not None)
        return closing > len(self._waiters.get(client, ()))

    def first_to_go(self, client: str, now: float) -> Session[DataT] | None:
        """Return a client's unleased session that is due, else the one that has idled longest; None without one."""
        unleased = (s for s in self._sessions.get(client, ()) if s.end_reason is None and not s._pins)
        return min(unleased, key=lambda s: (s._due(now, s._shared) is None, s._last), default=None)

    def queue(self, waiter: Waiter) -> None:
        """Let a creator wait for a place of its client's, behind those who wait already."""
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
        """Return the creator who has waited longest for a place of a client's, None without one."""
        return next(iter(self._waiters.get(client or "", ())), None)

    def all_waiters(self) -> list[Waiter]:
        return [waiter for waiters in self._waiters.values() for waiter in waiters]
