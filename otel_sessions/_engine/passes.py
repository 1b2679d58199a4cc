"""Cleanup passes: find what is to go, end it, wait for what that calls, report.

Finding is exclusive between passes and works for about a millisecond before it lets the loop go on; hooks run outside
of that, and the next pass never waits for them. Every pass has one span and one report, whatever happens in it.
"""

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Generic

import anyio
from opentelemetry import context as otel_context
from opentelemetry.context import Context

from otel_sessions._core.books import Books
from otel_sessions._core.clock import latest
from otel_sessions._core.config import SessionConfig
from otel_sessions._core.limits import UNSET, Limit
from otel_sessions._core.session import DataT
from otel_sessions._core.stats import CleanupReport, Counts
from otel_sessions._core.store import Store
from otel_sessions._core.words import CleanupError, Outcome, Trigger
from otel_sessions._telemetry.telemetry import Telemetry

from .closing import Closer
from .eviction import Eviction
from .hooks import Hooks
from .places import Places
from .sweep import Sweep, limits_by
from .tasks import Tasks


class Passes(Generic[DataT]):
    """The cleanup passes of one manager."""

    def __init__(
        self,
        config: SessionConfig,
        store: Store[DataT],
        closer: Closer[DataT],
        places: Places[DataT],
        hooks: Hooks[DataT],
        books: Books,
        telemetry: Telemetry,
        tasks: Tasks,
    ) -> None:
        self.last: CleanupReport | None = None
        self.last_at = store.clock()
        """When the last pass had found what was to go, by the manager's clock; the start before there was one."""
        self._store = store
        self._closer = closer
        self._places = places
        self._hooks = hooks
        self._books = books
        self._telemetry = telemetry
        self._tasks = tasks
        self._finding = anyio.Lock(fast_acquire=True)
        self._emergency = Eviction(config, store, places, books)
        self._interval_finding: object = None
        self._emergency_finding: object = None
        """The pass that looks for what to end, until it has done so or is over, however it ends."""

    def start_anew(self) -> None:
        """Forget the passes of another process."""
        self.last, self.last_at = None, latest(self._store.clock)

    async def manual(self, idle: Limit, age: Limit) -> CleanupReport:
        """End what is due, or what is under other limits, in the caller's own task."""

        async def end_due(sweep: Sweep[DataT]) -> None:
            if idle is UNSET and age is UNSET:
                await sweep.end_all_due()
            else:
                await sweep.end_due_under(limits_by(lambda shared: shared.replaced(idle, age)))

        return await self._run(Trigger.MANUAL, end_due, otel_context.get_current())

    async def emergency(self) -> CleanupReport:
        """Free places, in the caller's own task."""
        self._emergency.start(self._store.clock())
        return await self._run(Trigger.EMERGENCY, self._emergency.free_places, otel_context.get_current())

    async def shutdown(self) -> CleanupReport:
        """End every session."""
        return await self._run(Trigger.SHUTDOWN, lambda sweep: sweep.end_everyone(), Context())

    async def preview(self, idle: Limit, age: Limit) -> CleanupReport:
        """Report what `manual` would do, and do nothing."""
        started = time.perf_counter()
        sweep = Sweep(self._store, self._closer, Context())
        async with self._finding:  # what a pass files anew meanwhile would come twice
            await sweep.count_due_under(limits_by(lambda shared: shared.replaced(idle, age)))
        remaining = self._books.active - sum(sweep.cleaned.values())
        return _report(Trigger.MANUAL, Outcome.SUCCESS, sweep, remaining, time.perf_counter() - started)

    def start_interval(self) -> bool:
        """Start an interval pass in a task of its own, unless the last one has not done with finding yet."""
        if self._interval_finding is not None:
            return False
        self._interval_finding = finding = object()
        found = partial(self._note_interval_found, finding)
        self._tasks.start("otel-sessions interval pass", partial(self._interval, found), on_end=found)
        return True

    @property
    def finding(self) -> bool:
        """Whether an emergency pass is finding what to end, so that a place may be free in a moment."""
        return self._emergency_finding is not None

    def request(self) -> None:
        """Start an emergency pass in a task of its own, unless one started less than a second ago."""
        if self._emergency_finding is None and self._emergency.start_again(self._store.clock()):
            self._emergency_finding = finding = object()
            found = partial(self._note_emergency_found, finding)
            relieve = partial(self._relieve, otel_context.get_current(), found)
            self._tasks.start("otel-sessions emergency pass", relieve, on_end=found)

    def retry_after(self) -> float | None:
        """Return the seconds until a creator may be lucky, None if that is unknown."""
        return self._emergency.retry_after()

    async def _interval(self, found: Callable[[], None]) -> None:
        async def end_due(sweep: Sweep[DataT]) -> None:
            await sweep.end_due()
            found()

        await self._run(Trigger.INTERVAL, end_due, Context())

    def _note_interval_found(self, finding: object) -> None:
        if self._interval_finding is finding:
            self._interval_finding = None

    async def _relieve(self, cause: Context, found: Callable[[], None]) -> None:
        async def free_places(sweep: Sweep[DataT]) -> None:
            await self._emergency.free_places(sweep)
            found()

        await self._run(Trigger.EMERGENCY, free_places, cause)

    def _note_emergency_found(self, finding: object) -> None:
        if self._emergency_finding is finding:
            self._emergency_finding = None
            self._places.dismiss_uncovered()

    async def _run(
        self, trigger: Trigger, find: Callable[[Sweep[DataT]], Awaitable[None]], caller: Context
    ) -> CleanupReport:
        started = time.perf_counter()
        span = self._telemetry.start_pass(trigger, caller)
        sweep = Sweep(self._store, self._closer, span.context)
        outcome, error = Outcome.CANCELLED, None
        try:
            async with self._finding:
                await find(sweep)
                self.last_at = self._store.clock()
            if not self._hooks.calling:
                await sweep.batch.wait()
            if not sweep.batch.cut:
                outcome = Outcome.PARTIAL if sweep.batch.errors else Outcome.SUCCESS
        except Exception as failure:
            outcome, error = Outcome.ERROR, failure
            self._books.add_error(CleanupError.PASS)
        finally:
            report = _report(trigger, outcome, sweep, self._books.active, time.perf_counter() - started)
            self.last = report
            self._books.add_run(trigger, outcome)
            span.end(report, error)
        return report


def _report(trigger: Trigger, outcome: Outcome, sweep: Sweep[Any], remaining: int, duration: float) -> CleanupReport:
    return CleanupReport(
        trigger=trigger,
        outcome=outcome,
        examined=sweep.examined,
        cleaned=Counts(sweep.cleaned),
        hook_errors=sweep.batch.errors,
        remaining=remaining,
        duration=duration,
    )
