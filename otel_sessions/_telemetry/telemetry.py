"""What is said of a manager: metrics, spans, and the log line of each pass. It reads the books and decides nothing.

Only the OpenTelemetry API is used: without an SDK, metrics and spans do nothing. An error of a provider is logged and
counted, and never reaches a session.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import INVALID_SPAN, Link, NoOpTracer, Span, Status, StatusCode, Tracer, TracerProvider

from otel_sessions._core.books import Books
from otel_sessions._core.events import Event
from otel_sessions._core.fleet_state import FleetState
from otel_sessions._core.loops import Home
from otel_sessions._core.session import Session
from otel_sessions._core.stats import CleanupReport
from otel_sessions._core.words import (
    CleanupStage,
    EndReason,
    Outcome,
    StoreOperation,
    StoreOutcome,
    Trigger,
    type_of,
)
from otel_sessions._version import __version__

from . import providers
from .fleet_signals import STORE_OPERATION, STORE_OUTCOME
from .instruments import create_instruments
from .signals import (
    CLEANED,
    ERROR_TYPE,
    EXAMINED,
    HOOK_ERRORS,
    MANAGER_NAME,
    OUTCOME,
    REASON,
    REMAINING,
    SCHEMA_URL,
    SCOPE,
    SPAN,
    TRIGGER,
)

_TEXTS: Final = {word: word.value for word in (*EndReason, *Trigger, *Outcome)}
"""The text of each word. This lookup is faster than `value`, and each end of a session needs it."""

_logger = logging.getLogger("otel_sessions")


class Telemetry:
    """One manager's signals, from each `open` until `close`, or until this object is garbage."""

    def __init__(
        self,
        books: Books,
        clock: Callable[[], float],
        name: str,
        meter_provider: MeterProvider | None,
        tracer_provider: TracerProvider | None,
    ) -> None:
        self._next_pass_at: float | None = None
        """When the next interval pass is due, by `clock`; None while no pass is expected."""
        self._clock = clock
        self._leased_since: Callable[[], float | None] = _no_lease
        self._state_of_fleet: Callable[[], FleetState | None] = _no_fleet
        self.interval = 0.0
        """The configured time between interval passes, in seconds."""
        self.name: Final = name
        self._home: Home | None = None
        self._passes: set[PassSpan] = set()
        """The spans of the passes that are running."""
        self.guarded: Final = _Guard(name, books)
        provider = providers.global_provider() if meter_provider is None else meter_provider
        self._registration = providers.enter(self, name, books, provider)
        self._tracer: Tracer = NoOpTracer()
        with self.guarded:
            self._registration.metrics.create_instruments_once(partial(create_instruments, provider=provider))
        with self.guarded:
            self._tracer = trace.get_tracer(SCOPE, __version__, tracer_provider, SCHEMA_URL)

    def sessions_ended(self, sessions: Iterable[Session[Any]], reason: EndReason, now: float) -> None:
        """Record the durations of sessions that end together."""
        registration = self._registration
        attributes = {MANAGER_NAME: registration.name, REASON: _TEXTS[reason]}
        for session in sessions:
            # A session that is made and fails during a pass may end at a time before its creation: the pass's `now`.
            age = now - session._created if now > session._created else 0.0
            try:
                registration.metrics.session_duration.record(age, attributes)
            except Exception as error:
                self.guarded.note(error)

    def expect_pass(self, at: float) -> None:
        """Note when the next interval pass is due, by the manager's clock."""
        self._next_pass_at = at

    def overdue(self) -> float:
        """Return how late the next interval pass is, in seconds; 0 on time and while a pass runs."""
        return 0.0 if self._passes else self._since(self._next_pass_at)

    def oldest_lease(self) -> float:
        """Return the age of the lease that has been held longest, in seconds; 0 without a lease."""
        return self._since(self._leased_since())

    def creator_waited(self, seconds: float) -> None:
        """Record how long a creator has waited for a place."""
        registration = self._registration
        with self.guarded:
            registration.metrics.wait_time.record(seconds, {MANAGER_NAME: registration.name})

    def join_fleet(self, state: Callable[[], FleetState]) -> None:
        """Report what `state` returns of a fleet with a store. It is called on any thread, also after the run."""
        self._state_of_fleet = state
        self._registration.join_fleet()

    def fleet_state(self) -> FleetState | None:
        """Return the state of the fleet, or None if it cannot be known."""
        try:
            return self._state_of_fleet()
        except Exception as error:  # as in `_since`
            _logger.warning(
                "the fleet of manager %r failed during an export",
                self.name,
                exc_info=error,
                extra=Event.TELEMETRY_FAILED.extra,
            )
            return None

    def store_called(self, operation: StoreOperation, outcome: StoreOutcome, seconds: float) -> None:
        """Record how long a call to the store of the fleet took."""
        name, metrics = self._registration.name, self._registration.metrics
        with self.guarded:
            about = {
                MANAGER_NAME: name,
                STORE_OPERATION: metrics.called_as(name, operation, outcome),
                STORE_OUTCOME: outcome.value,
            }
            metrics.store_duration.record(seconds, about)

    def start_pass(self, trigger: Trigger, cause: Context) -> "PassSpan":
        """Open the span of a pass: a root span, linked to the span that caused the pass."""
        span: Span = INVALID_SPAN
        with self.guarded:
            caller = trace.get_current_span(cause).get_span_context()
            span = self._tracer.start_span(
                SPAN,
                context=Context(),
                links=[Link(caller)] if caller.is_valid else None,
                attributes={MANAGER_NAME: self.name, TRIGGER: _TEXTS[trigger]},
            )
        started = PassSpan(self, span)
        self._passes.add(started)
        return started

    def record_pass(self, started: "PassSpan", report: CleanupReport, error: BaseException | None) -> None:
        self._passes.discard(started)
        name, metrics = self._registration.name, self._registration.metrics
        about = {MANAGER_NAME: name, TRIGGER: _TEXTS[report.trigger], OUTCOME: _TEXTS[report.outcome]}
        if error is not None:
            about[ERROR_TYPE] = metrics.aborted_by(name, report.trigger, type_of(error))
        metrics.cleanup_duration.record(report.duration, about, started.context)

    def open(
        self, home: Home, clock: Callable[[], float], interval: float, leased_since: Callable[[], float | None]
    ) -> None:
        """Report the manager as running, on the loop `home` and with this clock.

        `interval` is the configured time between interval passes, in seconds. `leased_since` returns when the oldest
        lease began, by the clock, on any thread; None without a lease.
        """
        self._home = home
        self._clock = clock
        self.interval = interval
        self._leased_since = leased_since
        self._passes.clear()
        self._registration.open()

    def go_on_in(self, books: Books) -> None:
        """Report the manager as ended, and read `books` from now on."""
        self.close()
        self._registration.go_on_in(books)
        self.guarded.count_in(books)

    def has_lost_its_loop(self) -> bool:
        """Return whether the loop of the manager is closed."""
        return self._home is not None and self._home.is_closed()

    def close(self) -> None:
        """Report the manager as ended. The sessions that it still holds count as `shutdown`."""
        self._next_pass_at = None
        self._leased_since = _no_lease
        self._registration.close()

    def _since(self, moment: float | None) -> float:
        """Return the seconds since a moment by the manager's clock; 0 before the moment, and without a moment."""
        if moment is None:
            return 0.0
        try:
            return max(0.0, self._clock() - moment)
        except Exception as error:  # it must not stop the export of other managers; this thread must not write books
            _logger.warning(
                "the clock of manager %r failed during an export",
                self.name,
                exc_info=error,
                extra=Event.CLOCK_FAILED.extra,
            )
            return 0.0


class _Guard:
    """Logs and counts an exception that leaves its block, and suppresses the exception."""

    def __init__(self, name: str, books: Books) -> None:
        self._name = name
        self._books = books

    def count_in(self, books: Books) -> None:
        self._books = books

    def __enter__(self) -> None:
        return None

    def __exit__(self, exc_type: object, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, Exception):
            return False
        self.note(error)
        return True

    def note(self, error: Exception) -> None:
        _logger.warning(
            "the telemetry of manager %r failed", self._name, exc_info=error, extra=Event.TELEMETRY_FAILED.extra
        )
        self._books.add_error(CleanupStage.PASS, type_of(error))


class PassSpan:
    """The span of one cleanup pass, open until `end`. The hooks of the pass run under `context`."""

    def __init__(self, telemetry: Telemetry, span: Span) -> None:
        self._telemetry = telemetry
        self._span = span
        self.context: Final = trace.set_span_in_context(span, Context())

    def end(self, report: CleanupReport, error: BaseException | None) -> None:
        """Record the duration, the log line and the report in the span. `error` is what aborted the pass, or None."""
        with self._telemetry.guarded:
            self._telemetry.record_pass(self, report, error)
        with self._telemetry.guarded:
            self._log(report, error)
        with self._telemetry.guarded:
            self._span.set_attributes(
                {
                    OUTCOME: _TEXTS[report.outcome],
                    EXAMINED: report.examined,
                    CLEANED: report.total_cleaned,
                    HOOK_ERRORS: report.hook_errors,
                    REMAINING: report.remaining,
                }
            )
            if error is not None:
                self._span.set_attribute(ERROR_TYPE, type_of(error))
                self._span.set_status(Status(StatusCode.ERROR))
        with self._telemetry.guarded:
            self._span.end()

    def _log(self, report: CleanupReport, error: BaseException | None) -> None:
        """Log the pass under its span. If logs are kept with trace ids, people find the span by the line."""
        if error is None and not _logger.isEnabledFor(logging.DEBUG):
            return
        about = {MANAGER_NAME: self._telemetry.name, TRIGGER: report.trigger.value, OUTCOME: report.outcome.value}
        with under(self.context):
            if error is not None:
                _logger.error(
                    "a cleanup pass (%s) was aborted",
                    report.trigger,
                    exc_info=error,
                    extra={**Event.CLEANUP_ABORTED.extra, **about, ERROR_TYPE: type_of(error)},
                )
                return
            _logger.debug(
                "cleanup pass (%s) %s: cleaned %d, examined %d, hook errors %d, remaining %d",
                *(report.trigger, report.outcome, report.total_cleaned),
                *(report.examined, report.hook_errors, report.remaining),
                extra={**Event.CLEANUP_ENDED.extra, **about},
            )


def _no_lease() -> None:
    """Return None: there is no lease."""


def _no_fleet() -> None:
    """Return None: there is no fleet with a store."""


@contextmanager
def under(context: Context) -> Iterator[None]:
    """Make `context` current for a block, so that log lines in the block carry the trace id of its span."""
    token = otel_context.attach(context)
    try:
        yield
    finally:
        otel_context.detach(token)
