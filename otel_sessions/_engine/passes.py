"""Cleanup passes: find the sessions to end, end them, wait for their hooks, report.

Only one pass at a time finds sessions. It works for about a millisecond, then lets the loop go on. The next pass never
waits for the hooks of this pass. Every pass has one span and one report, whatever happens in it.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic

import anyio
from opentelemetry import context as otel_context
from opentelemetry.context import Context

from otel_sessions._core.clock import latest
from otel_sessions._core.config import SessionConfig
from otel_sessions._core.limits import UNSET, Limit
from otel_sessions._core.session import DataT
from otel_sessions._core.stats import CleanupReport, Counts
from otel_sessions._core.store import Store
from otel_sessions._core.words import CleanupStage, Outcome, Trigger, type_of
from otel_sessions._telemetry.telemetry import Telemetry

from .closing import Closer
from .eviction import Eviction
from .hooks import Hooks
from .places import Places
from .sweep import Sweep, limits_by
from .tasks import Tasks

Find = Callable[[Sweep[DataT]], Awaitable[None]]
"""What a pass does with its sweep: it finds the sessions to end, and ends them."""


class _Finding:
    """Whether a pass is finding sessions to end. Finding stops when the pass has found them or is over."""

    def __init__(self, on_found: Callable[[], None] = lambda: None) -> None:
        self._on_found = on_found
        self._pass: object = None

    @property
    def goes_on(self) -> bool:
        return self._pass is not None

    def begin(self) -> Callable[[], None]:
        """Begin, and return the function that stops the finding. The function works once, for this pass only."""
        begun = self._pass = object()

        def found() -> None:
            if self._pass is begun:
                self._pass = None
                self._on_found()

        return found


class Passes(Generic[DataT]):
    """The cleanup passes of one manager."""

    def __init__(
        self,
        config: SessionConfig,
        store: Store[DataT],
        closer: Closer[DataT],
        places: Places[DataT],
        hooks: Hooks[DataT],
        telemetry: Telemetry,
        tasks: Tasks,
    ) -> None:
        self.last: CleanupReport | None = None
        self.last_at = store.clock()
        """When the last pass had found its sessions, by the manager's clock; at first, when the run began."""
        self._store = store
        self._closer = closer
        self._hooks = hooks
        self._books = store.books
        self._telemetry = telemetry
        self._tasks = tasks
        self._finding = anyio.Lock(fast_acquire=True)
        self._eviction = Eviction(config, store, places)
        self._interval_finding = _Finding()
        self._emergency_finding = _Finding(places.dismiss_uncovered)

    def start_anew(self) -> None:
        """Forget the passes of another process."""
        self.last, self.last_at = None, latest(self._store.clock)

    async def manual(self, idle: Limit, age: Limit) -> CleanupReport:
        """End the sessions that are due, maybe under other limits, in the caller's own task."""

        async def end_due(sweep: Sweep[DataT]) -> None:
            if idle is UNSET and age is UNSET:
                await sweep.end_all_due()
            else:
                await sweep.end_due_under(limits_by(lambda shared: shared.replaced(idle, age)))

        return await self._run(Trigger.MANUAL, end_due, otel_context.get_current())

    async def emergency(self) -> CleanupReport:
        """Free places, in the caller's own task."""
        self._eviction.start(self._store.clock())
        return await self._run(Trigger.EMERGENCY, self._eviction.free_places, otel_context.get_current())

    async def shutdown(self) -> CleanupReport:
        """End every session."""
        return await self._run(Trigger.SHUTDOWN, lambda sweep: sweep.end_everyone(), Context())

    async def preview(self, idle: Limit, age: Limit) -> CleanupReport:
        """Report what `manual` would do, and do nothing."""
        started = time.perf_counter()
        sweep = Sweep(self._store, self._closer, Context())
        async with self._finding:  # a session that a pass files again meanwhile would be counted twice
            await sweep.count_due_under(limits_by(lambda shared: shared.replaced(idle, age)))
        remaining = self._books.active - sum(sweep.cleaned.values())
        return _report(Trigger.MANUAL, Outcome.SUCCESS, sweep, remaining, time.perf_counter() - started)

    def start_interval(self) -> bool:
        """Start an interval pass in its own task and return True, unless the last interval pass is still finding."""
        if self._interval_finding.goes_on:
            return False
        self._start(Trigger.INTERVAL, self._interval_finding, Sweep.end_due, Context())
        return True

    @property
    def finding(self) -> bool:
        """Whether an emergency pass is finding sessions to end, so that a place may be free soon."""
        return self._emergency_finding.goes_on

    def request(self) -> None:
        """Start an emergency pass in its own task, unless an emergency pass started less than a second ago."""
        if not self._emergency_finding.goes_on and self._eviction.start_again(self._store.clock()):
            cause = otel_context.get_current()
            self._start(Trigger.EMERGENCY, self._emergency_finding, self._eviction.free_places, cause)

    def retry_after(self) -> float | None:
        """Return the seconds until a place may be free, or None if this number is unknown."""
        return self._eviction.retry_after()

    def _start(self, trigger: Trigger, finding: "_Finding", find: Find[DataT], cause: Context) -> None:
        found = finding.begin()

        async def find_and_note(sweep: Sweep[DataT]) -> None:
            await find(sweep)
            found()

        async def run() -> None:
            await self._run(trigger, find_and_note, cause)

        self._tasks.start(f"otel-sessions {trigger} pass", run, on_end=found)

    async def _run(self, trigger: Trigger, find: Find[DataT], caller: Context) -> CleanupReport:
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
            self._books.add_error(CleanupStage.PASS, type_of(failure))
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
