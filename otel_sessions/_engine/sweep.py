"""One pass over the sessions: which sessions it looks at, which it ends, and when it lets the loop go on.

The pass goes in strides. It takes a stride out of the wheel, and ends each session or files it again, without an
`await` in between. So a pass that is cancelled loses no session, and leaves the rest to the next pass.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import islice
from math import inf, nextafter
from typing import Final, Generic

import anyio.lowlevel
from opentelemetry.context import Context

from otel_sessions._core.limits import Limits
from otel_sessions._core.session import DataT, Session, Shared
from otel_sessions._core.store import Store
from otel_sessions._core.words import EndReason

from .closing import Closer
from .ending import Batch

STRIDE: Final = 32
"""The most sessions that are looked at and ended together, with one reading of the clock."""
_SLICE: Final = 0.0005
"""Seconds of work before a pass lets the loop go on. A task whose timer is due waits for two slices: the loop first
sees the timer, then wakes the task after the pass."""
_NONE_CLEANED: Final = dict.fromkeys(EndReason, 0)

Due = defaultdict[EndReason, list[Session[DataT]]]
"""Sessions to end, by the reason for which they will be counted."""
Look = Callable[[list[Session[DataT]], float], None]
LimitsOf = Callable[[Session[DataT]], Limits]


class Sweep(Generic[DataT]):
    """The work of one pass, and its counts so far."""

    def __init__(self, store: Store[DataT], closer: Closer[DataT], cause: Context) -> None:
        self.batch = Batch()
        self.examined = 0
        self.cleaned = _NONE_CLEANED.copy()
        self._store = store
        self._closer = closer
        self._cause = cause
        self._slice_ends = time.perf_counter() + _SLICE

    async def end_due(self) -> None:
        """End the due sessions of the ticks that have come. File again the sessions that were used meanwhile."""
        now = self._store.clock()
        taken = self._store.wheel.take_due(now)
        while stride := list(islice(taken, STRIDE)):
            self.examined += len(stride)
            self._end_or_file(stride, now)
            if len(stride) == STRIDE:
                await self.yield_if_slice_used()

    async def end_all_due(self) -> None:
        """Do what `end_due` does, and also end the sessions that became due within the current tick."""
        await self.end_due()
        coming = self._store.wheel.coming(self._store.clock())
        await self.visit(coming, lambda stride, now: self.end_due_of(stride, now, own_limits))

    async def end_due_under(self, limits_of: LimitsOf[DataT]) -> None:
        """End the sessions that are due under other limits, wherever they are filed."""
        await self.visit(self._store.wheel, lambda stride, now: self.end_due_of(stride, now, limits_of))

    async def count_due_under(self, limits_of: LimitsOf[DataT]) -> None:
        """Count the sessions that `end_due_under` would end as cleaned. End no session."""

        def count(stride: list[Session[DataT]], now: float) -> None:
            for reason, sessions in _due_of(stride, now, limits_of).items():
                self.cleaned[reason] += len(sessions)

        await self.visit(self._store.wheel, count)

    async def end_everyone(self) -> None:
        """End all sessions, leased sessions included."""

        def end(stride: list[Session[DataT]], now: float) -> None:
            due: Due[DataT] = defaultdict(list)
            for session in stride:
                due[session._reason(now, EndReason.SHUTDOWN)].append(session)
            self.end(due, now)

        await self.visit(self._store.wheel, end)
        # Sessions that drain are not filed.
        await self.visit(list(self._store.sessions.values()), end)

    async def visit(self, sessions: Iterable[Session[DataT]], look: Look[DataT]) -> None:
        """Call `look` with the sessions that have not ended, a stride at a time, and with the clock's reading."""
        coming = iter(sessions)
        while seen := list(islice(coming, STRIDE)):
            stride = dict.fromkeys(seen)  # a session that has moved in the wheel meanwhile may come twice
            left = [session for session in stride if session.end_reason is None]
            self.examined += len(left)
            look(left, self._store.clock())
            if len(seen) == STRIDE:
                await self.yield_if_slice_used()

    def end_due_of(self, stride: list[Session[DataT]], now: float, limits_of: LimitsOf[DataT]) -> None:
        """End the sessions that are due under the given limits. An expired session that is leased starts to drain."""
        for session in stride:
            if session._leases and now >= session._created + session._shared.age:
                self._closer.drain(session, self._cause)
        self.end(_due_of(stride, now, limits_of), now)

    def end(self, due: Due[DataT], now: float) -> None:
        self._closer.end(due, self._cause, self.batch, now)
        for reason, sessions in due.items():
            self.cleaned[reason] += len(sessions)

    async def yield_if_slice_used(self) -> None:
        """Let the loop go on if the slice is used up. Called between two strides, not after the last stride.

        So a pass over few sessions is one step, and is over before a creator that waits for its places goes on.
        """
        if time.perf_counter() >= self._slice_ends:
            await anyio.lowlevel.checkpoint()
            self._slice_ends = time.perf_counter() + _SLICE

    def _end_or_file(self, stride: list[Session[DataT]], now: float) -> None:
        due: Due[DataT] = defaultdict(list)
        file = self._store.wheel.file
        for session in stride:
            limits = session._shared
            if not session._leases and (reason := session._due(now, limits)) is not None:
                due[reason].append(session)
            elif now < session._created + limits.age:
                # Always after now, even if a limit is too small to change the sum: else the pass would find it again.
                file(session, max(session._deadline(now, limits), nextafter(now, inf)), now)
            else:  # not filed again: its drain ends the session
                self._closer.drain(session, self._cause)
        self.end(due, now)


def _due_of(stride: list[Session[DataT]], now: float, limits_of: LimitsOf[DataT]) -> Due[DataT]:
    due: Due[DataT] = defaultdict(list)
    for session in stride:
        reason = None if session._leases else session._due(now, limits_of(session))
        if reason is not None:
            due[session._reason(now, reason)].append(session)
    return due


def own_limits(session: Session[DataT]) -> Limits:
    return session._shared


def limits_by(change: Callable[[Shared], Limits]) -> LimitsOf[DataT]:
    """Return a function that changes a session's limits, once for all sessions in a row that share the limits."""
    known: Shared | None = None
    limits: Limits

    def limits_of(session: Session[DataT]) -> Limits:
        nonlocal known, limits
        if session._shared is not known:
            known = session._shared
            limits = change(known)
        return limits

    return limits_of
