"""How places are freed at the cap: due sessions end, then the longest idle sessions, until a tenth of the cap is free.

A leased session is never evicted, nor is a session within the emergency limits. This module also knows when another
pass can free a place.
"""

import heapq
from collections import defaultdict
from math import inf
from typing import Final, Generic

from otel_sessions._core.config import SessionConfig
from otel_sessions._core.limits import Limits
from otel_sessions._core.session import DataT, Session
from otel_sessions._core.store import Store
from otel_sessions._core.words import EndReason

from .places import Places
from .sweep import STRIDE, Due, LimitsOf, Sweep, limits_by, own_limits

_PAUSE: Final = 1.0
"""Seconds between the starts of two emergency passes that creators request."""


class Eviction(Generic[DataT]):
    """The emergency passes of one manager: when they may start, and what they do."""

    def __init__(self, config: SessionConfig, store: Store[DataT], places: Places[DataT]) -> None:
        self._store = store
        self._places = places
        self._books = store.books
        self._limits = Limits.emergency(config)
        self._cleanup_interval = config.cleanup_interval
        self._started_at = -inf
        self._next_chance_at = inf
        """When a pass may start and an unleased session can go; infinity if this time is unknown."""

    def start(self, now: float) -> None:
        """Note that a pass starts."""
        self._started_at = now
        self._next_chance_at = max(self._next_chance_at, now + _PAUSE)

    def start_again(self, now: float) -> bool:
        """Note that a pass starts and return True, unless a pass started less than a second ago."""
        if now - self._started_at < _PAUSE:
            return False
        self.start(now)
        return True

    def retry_after(self) -> float | None:
        """Return the seconds until a place may be free, at most `cleanup_interval`, or None if unknown."""
        if self._next_chance_at == inf:
            return None
        wait = self._next_chance_at - self._store.clock()
        return self._cleanup_interval if wait > self._cleanup_interval else max(0.0, wait)

    async def free_places(self, sweep: Sweep[DataT]) -> None:
        """End the due sessions, then evict the longest idle sessions until a tenth of the cap is free or closing.

        Places that creators take meanwhile count as free: the pass frees places for these creators.
        """
        taken = self._places.taken
        evictable: _Evictable[DataT] = _Evictable(self._limits)

        def look(stride: list[Session[DataT]], now: float) -> None:
            past = evictable.past_limits(stride, now)
            sweep.end_due_of(past, now, own_limits)
            evictable.add(past)

        await sweep.visit(self._store.wheel, look)
        while evictable and (wanted := self._wanted(taken)) > 0:
            now = self._store.clock()
            sweep.end(evictable.pop(min(wanted, STRIDE), now), now)
            if self._wanted(taken) > 0:
                await sweep.yield_if_slice_used()
        next_place_at = self._store.clock() if evictable else evictable.next_at
        self._next_chance_at = max(next_place_at, self._started_at + _PAUSE)

    def _wanted(self, taken: int) -> int:
        """Return the number of places still to be freed. `taken` is `Places.taken` at the start of the pass."""
        return self._places.missing - (self._places.taken - taken + self._books.closing)


class _Evictable(Generic[DataT]):
    """Unleased sessions past their limits, emergency limits included. The longest idle session goes first.

    `next_at` is when the next other unleased session will be past its limits; infinity if no session ever will.
    """

    def __init__(self, emergency: Limits) -> None:
        self.next_at = inf
        self._limits_of: LimitsOf[DataT] = limits_by(lambda shared: shared.tightened(emergency))
        self._heap: list[tuple[float, int, Session[DataT]]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def past_limits(self, stride: list[Session[DataT]], now: float) -> list[Session[DataT]]:
        """Return the sessions past their limits, emergency limits included. All due sessions are among them."""
        past = []
        for session in stride:
            deadline = session._deadline(now, self._limits_of(session))
            if now >= deadline or session._end is not None:
                past.append(session)
            elif deadline < self.next_at and not session._leases:
                self.next_at = deadline
        return past

    def add(self, past: list[Session[DataT]]) -> None:
        for session in past:
            if session.end_reason is None and not session._leases:
                heapq.heappush(self._heap, (session._last, len(self._heap), session))

    def pop(self, most: int, now: float) -> Due[DataT]:
        """Take out at most `most` sessions. Return the sessions among them that may still go, by reason."""
        due: Due[DataT] = defaultdict(list)
        first = dict.fromkeys(heapq.heappop(self._heap)[2] for _ in range(min(most, len(self._heap))))
        for session in first:
            if session.end_reason is None and not session._leases and session._due(now, self._limits_of(session)):
                due[session._reason(now, EndReason.EVICTED)].append(session)
        return due
