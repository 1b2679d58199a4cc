"""Cleanup passes: find what is to go, end it, wait for what that calls, report.

Finding is exclusive between passes and works for about a millisecond before it lets the loop go on; hooks run outside
of that, and the next pass never waits for them. Every pass has one span and one report, whatever happens in it.
"""

import heapq
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from math import inf
from types import MappingProxyType
from typing import Final, Generic

import anyio
import anyio.lowlevel
from opentelemetry import context as otel_context
from opentelemetry.context import Context

from ._books import Books
from ._callbacks import Callbacks
from ._capacity import Capacity
from ._closer import Batch, Closer
from ._roster import Roster
from ._tasks import Tasks
from .config import SessionConfig
from .session import UNSET, DataT, Limit, Limits, Session, Terms
from .stats import CleanupReport
from .telemetry import Telemetry
from .words import CleanupError, EndReason, Outcome, Trigger

_SLICE: Final = 0.0005
"""Seconds of work before a pass lets the loop go on. A task whose timer is due waits for two: the loop first sees the
timer, then wakes the task behind the pass."""
_STRIDE: Final = 32
"""Sessions from one look at the time to the next."""
_NONE_CLEANED: Final = dict.fromkeys(EndReason, 0)
_EMERGENCY_INTERVAL: Final = 1.0
"""Seconds between the starts of two emergency passes that creators ask for."""


class _Progress:
    """What a pass has done so far."""

    def __init__(self, cause: Context) -> None:
        self.cause = cause
        self.batch = Batch()
        self.examined = 0
        self.cleaned = _NONE_CLEANED.copy()
        self._slice_ends = time.perf_counter() + _SLICE

    def tired(self) -> bool:
        """Return whether it is time to let the loop go on; to be asked once in `_STRIDE` sessions."""
        return time.perf_counter() >= self._slice_ends

    async def rest(self) -> None:
        await anyio.lowlevel.checkpoint()
        self._slice_ends = time.perf_counter() + _SLICE


class Passes(Generic[DataT]):
    """The cleanup passes of one manager; also frees places for `_capacity` when all are taken."""

    def __init__(
        self,
        config: SessionConfig,
        roster: Roster[DataT],
        closer: Closer[DataT],
        capacity: Capacity[DataT],
        callbacks: Callbacks[DataT],
        books: Books,
        telemetry: Telemetry,
        tasks: Tasks,
    ) -> None:
        self.last: CleanupReport | None = None
        self.last_at = roster.clock()
        """When the last pass had found what was to go, by the manager's clock; the start before there was one."""
        self._config = config
        self._roster = roster
        self._closer = closer
        self._capacity = capacity
        capacity.relief = self
        self._callbacks = callbacks
        self._books = books
        self._telemetry = telemetry
        self._tasks = tasks
        self._finding = anyio.Lock(fast_acquire=True)
        self._emergency_limits = Limits.emergency(config)
        self._emergency_at: float | None = None
        self._interval_finding: object = None
        self._emergency_finding: object = None
        """The pass that looks for what to end, until it has done so or is over, however it ends."""
        self._next_place_at: float | None = None

    async def manual(self, idle: Limit, age: Limit) -> CleanupReport:
        """End what is due, or what is under other limits, in the caller's own task."""
        if idle is UNSET and age is UNSET:
            return await self._run(Trigger.MANUAL, self._end_all_due, otel_context.get_current())

        under: Callable[[Session[DataT]], Limits] = _limits_by(lambda terms: terms.replaced(idle, age))

        async def end_under_limits(progress: _Progress) -> None:
            def look(session: Session[DataT], now: float) -> None:
                self._judge(session, now, under(session), progress)

            await self._visit(self._roster.wheel, progress, look)

        return await self._run(Trigger.MANUAL, end_under_limits, otel_context.get_current())

    async def emergency(self) -> CleanupReport:
        """Free places, in the caller's own task."""
        self._emergency_at = self._roster.clock()
        return await self._run(Trigger.EMERGENCY, self._free_places, otel_context.get_current())

    async def shutdown(self) -> CleanupReport:
        """End every session."""
        return await self._run(Trigger.SHUTDOWN, self._end_everyone, Context())

    async def preview(self, idle: Limit, age: Limit) -> CleanupReport:
        """Report what `manual` would do, and do nothing."""
        started = time.perf_counter()
        progress = _Progress(Context())
        under: Callable[[Session[DataT]], Limits] = _limits_by(lambda terms: terms.replaced(idle, age))

        def look(session: Session[DataT], now: float) -> None:
            reason = None if session._pins else session._due(now, under(session))
            if reason is not None:
                progress.cleaned[session._reason(now, reason)] += 1

        async with self._finding:  # what a pass files anew meanwhile would come twice
            await self._visit(self._roster.wheel, progress, look)
        remaining = self._books.active - sum(progress.cleaned.values())
        return _report(Trigger.MANUAL, Outcome.SUCCESS, progress, remaining, time.perf_counter() - started)

    def start_interval(self) -> bool:
        """Start an interval pass in a task of its own, unless the last one has not done with finding yet."""
        if self._interval_finding is not None:
            return False
        self._interval_finding = finding = object()
        found = partial(self._note_interval_found, finding)
        self._tasks.start("otel-sessions interval pass", partial(self._interval, found), on_end=found)
        return True

    def request(self) -> bool:
        """Start an emergency pass in a task of its own, unless one started less than a second ago.

        Return whether one is finding what to end, so that a place may be free in a moment.
        """
        now, last = self._roster.clock(), self._emergency_at
        if self._emergency_finding is None and (last is None or not 0 <= now - last < _EMERGENCY_INTERVAL):
            self._emergency_at = now
            self._emergency_finding = finding = object()
            found = partial(self._note_emergency_found, finding)
            relieve = partial(self._relieve, otel_context.get_current(), found)
            self._tasks.start("otel-sessions emergency pass", relieve, on_end=found)
        return self._emergency_finding is not None

    def may_wait(self) -> bool:
        return not self._callbacks.calling

    def retry_after(self) -> float | None:
        """Return the seconds until a creator may be lucky: an unleased session can go, and a pass may start."""
        if self._next_place_at is None or self._emergency_at is None:
            return None
        wait = max(self._next_place_at, self._emergency_at + _EMERGENCY_INTERVAL) - self._roster.clock()
        return max(0.0, min(wait, self._config.cleanup_interval))

    async def _interval(self, found: Callable[[], None]) -> None:
        async def end_due(progress: _Progress) -> None:
            await self._end_due(progress)
            found()

        await self._run(Trigger.INTERVAL, end_due, Context())

    def _note_interval_found(self, finding: object) -> None:
        if self._interval_finding is finding:
            self._interval_finding = None

    async def _relieve(self, cause: Context, found: Callable[[], None]) -> None:
        async def free_places(progress: _Progress) -> None:
            await self._free_places(progress)
            found()

        await self._run(Trigger.EMERGENCY, free_places, cause)

    def _note_emergency_found(self, finding: object) -> None:
        if self._emergency_finding is finding:
            self._emergency_finding = None
            self._capacity.dismiss_uncovered()

    async def _run(
        self, trigger: Trigger, find: Callable[[_Progress], Awaitable[None]], caller: Context
    ) -> CleanupReport:
        started = time.perf_counter()
        span = self._telemetry.start_pass(trigger, caller)
        progress = _Progress(span.context)
        outcome, error = Outcome.CANCELLED, None
        try:
            async with self._finding:
                await find(progress)
                self.last_at = self._roster.clock()
            if not self._callbacks.calling:
                await progress.batch.wait()
            if not progress.batch.cut:
                outcome = Outcome.PARTIAL if progress.batch.errors else Outcome.SUCCESS
        except Exception as failure:
            outcome, error = Outcome.ERROR, failure
            self._books.add_error(CleanupError.PASS)
        finally:
            report = _report(trigger, outcome, progress, self._books.active, time.perf_counter() - started)
            self.last = report
            self._books.add_run(trigger, outcome)
            span.end(report, error)
        return report

    async def _end_due(self, progress: _Progress) -> None:
        """End what the wheel says is due; file anew what was used since it was filed."""
        now, wheel, end = self._roster.clock(), self._roster.wheel, self._closer.end
        for session in wheel.take_due(now):
            progress.examined += 1
            limits = session._terms
            if not session._pins and (reason := session._due(now, limits)) is not None:
                end(session, reason, progress.cause, progress.batch, now)
                progress.cleaned[reason] += 1
            elif now < session._created + limits.age:
                wheel.file(session, session._deadline(now, limits), now)
            else:  # not filed any more: its drain ends it
                self._closer.drain(session, progress.cause)
            if not progress.examined % _STRIDE and progress.tired():
                await progress.rest()

    async def _end_all_due(self, progress: _Progress) -> None:
        """Like `_end_due`, but exact: also what became due within the tick that is not over."""
        await self._end_due(progress)
        coming = self._roster.wheel.coming(self._roster.clock())
        await self._visit(coming, progress, lambda session, now: self._judge(session, now, session._terms, progress))

    async def _end_everyone(self, progress: _Progress) -> None:
        def end(session: Session[DataT], now: float) -> None:
            self._end(session, now, session._reason(now, EndReason.SHUTDOWN), progress)

        await self._visit(self._roster.wheel, progress, end)
        # What drains is not filed.
        await self._visit(list(self._roster.sessions.values()), progress, end)

    async def _free_places(self, progress: _Progress) -> None:
        """End what is due, then evict the longest idle until a tenth of the cap is free or closing.

        Places that creators take meanwhile count as free: it is for them that they were freed.
        """
        evictable: list[tuple[float, int, Session[DataT]]] = []
        taken = self._capacity.taken
        next_deadline = inf
        tightened: Callable[[Session[DataT]], Limits]
        tightened = _limits_by(lambda terms: terms.tightened(self._emergency_limits))

        def look(session: Session[DataT], now: float) -> None:
            nonlocal next_deadline
            self._judge(session, now, session._terms, progress)
            if session.end_reason is not None or session._pins:
                return
            limits = tightened(session)
            if session._due(now, limits) is not None:
                heapq.heappush(evictable, (session._last, progress.examined, session))
            else:
                next_deadline = min(next_deadline, session._deadline(now, limits))

        await self._visit(self._roster.wheel, progress, look)
        steps = 0
        while evictable and self._wants_places(taken):
            _, _, session = heapq.heappop(evictable)
            now = self._roster.clock()
            limits = tightened(session)
            if session.end_reason is None and not session._pins and session._due(now, limits) is not None:
                self._end(session, now, session._reason(now, EndReason.EVICTED), progress)
            steps += 1
            if not steps % _STRIDE and progress.tired():
                await progress.rest()
        self._next_place_at = self._roster.clock() if evictable else None if next_deadline == inf else next_deadline

    def _wants_places(self, taken: int) -> bool:
        free, limit = self._capacity.free, self._config.max_sessions
        if free is None or limit is None:
            return False
        return free + self._capacity.taken - taken + self._books.closing < max(1, limit // 10)

    async def _visit(
        self,
        sessions: Iterable[Session[DataT]],
        progress: _Progress,
        look: Callable[[Session[DataT], float], None],
    ) -> None:
        for number, session in enumerate(sessions, start=1):
            if session.end_reason is None:  # it may have ended while the pass let the loop go on
                progress.examined += 1
                look(session, self._roster.clock())
            if not number % _STRIDE and progress.tired():
                await progress.rest()

    def _judge(self, session: Session[DataT], now: float, limits: Limits, progress: _Progress) -> None:
        """End a session that is due under `limits`; a leased one starts to drain once it is as old as it may be."""
        if session._pins:
            if now >= session._created + session._terms.age:
                self._closer.drain(session, progress.cause)
        elif (reason := session._due(now, limits)) is not None:
            self._end(session, now, session._reason(now, reason), progress)

    def _end(self, session: Session[DataT], now: float, reason: EndReason, progress: _Progress) -> None:
        self._closer.end(session, reason, progress.cause, progress.batch, now)
        progress.cleaned[reason] += 1


def _limits_by(change: Callable[[Terms], Limits]) -> Callable[[Session[DataT]], Limits]:
    """Return a session's limits as `change` makes them of its terms, once for all in a row that share them."""
    known: Terms | None = None
    limits: Limits

    def limits_of(session: Session[DataT]) -> Limits:
        nonlocal known, limits
        if session._terms is not known:
            known = session._terms
            limits = change(known)
        return limits

    return limits_of


def _report(trigger: Trigger, outcome: Outcome, progress: _Progress, remaining: int, duration: float) -> CleanupReport:
    return CleanupReport(
        trigger=trigger,
        outcome=outcome,
        examined=progress.examined,
        cleaned=MappingProxyType(progress.cleaned),
        hook_errors=progress.batch.errors,
        remaining=remaining,
        duration=duration,
    )
