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
from otel_sessions._core.loops import Home
from otel_sessions._core.session import Session
from otel_sessions._core.stats import CleanupReport
from otel_sessions._core.words import CleanupError, EndReason, Outcome, Trigger
from otel_sessions._version import __version__

from . import providers
from .instruments import ERROR_TYPE, MANAGER_NAME, OUTCOME, REASON, SCOPE, TRIGGER, create_instruments

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
            self._tracer = trace.get_tracer(SCOPE, __version__, tracer_provider)

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
        next_pass_at = self._next_pass_at
        if next_pass_at is None or self._passes:
            return 0.0
        try:
            return max(0.0, self._clock() - next_pass_at)
        except Exception:  # one clock must not stop the export of other managers; this thread must not write books
            _logger.exception("the clock of manager %r failed during an export", self.name)
            return 0.0

    def start_pass(self, trigger: Trigger, cause: Context) -> "PassSpan":
        """Open the span of a pass: a root span, linked to the span that caused the pass."""
        span: Span = INVALID_SPAN
        with self.guarded:
            caller = trace.get_current_span(cause).get_span_context()
            span = self._tracer.start_span(
                f"{SCOPE}.cleanup",
                context=Context(),
                links=[Link(caller)] if caller.is_valid else None,
                attributes={MANAGER_NAME: self.name, TRIGGER: _TEXTS[trigger]},
            )
        started = PassSpan(self, span)
        self._passes.add(started)
        return started

    def record_pass(self, started: "PassSpan", report: CleanupReport) -> None:
        self._passes.discard(started)
        self._registration.metrics.cleanup_duration.record(
            report.duration,
            {MANAGER_NAME: self._registration.name, TRIGGER: _TEXTS[report.trigger], OUTCOME: _TEXTS[report.outcome]},
            started.context,
        )

    def open(self, home: Home, clock: Callable[[], float]) -> None:
        """Report the manager as running, on the loop `home` and with this clock."""
        self._home = home
        self._clock = clock
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
        self._registration.close()


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
        _logger.error("the telemetry of manager %r failed", self._name, exc_info=error)
        self._books.add_error(CleanupError.OTHER)


class PassSpan:
    """The span of one cleanup pass, open until `end`. The hooks of the pass run under `context`."""

    def __init__(self, telemetry: Telemetry, span: Span) -> None:
        self._telemetry = telemetry
        self._span = span
        self.context: Final = trace.set_span_in_context(span, Context())

    def end(self, report: CleanupReport, error: BaseException | None) -> None:
        """Record the duration, the log line and the report in the span. `error` is what aborted the pass, or None."""
        with self._telemetry.guarded:
            self._telemetry.record_pass(self, report)
        with self._telemetry.guarded:
            self._log(report, error)
        with self._telemetry.guarded:
            self._span.set_attributes(
                {
                    OUTCOME: _TEXTS[report.outcome],
                    "otel_sessions.cleanup.examined": report.examined,
                    "otel_sessions.cleanup.cleaned": report.total_cleaned,
                    "otel_sessions.cleanup.hook_errors": report.hook_errors,
                    "otel_sessions.cleanup.remaining": report.remaining,
                }
            )
            if error is not None:
                self._span.set_attribute(ERROR_TYPE, type(error).__qualname__)
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
                _logger.error("a cleanup pass (%s) was aborted", report.trigger, exc_info=error, extra=about)
                return
            _logger.debug(
                "cleanup pass (%s) %s: cleaned %d, examined %d, hook errors %d, remaining %d",
                *(report.trigger, report.outcome, report.total_cleaned),
                *(report.examined, report.hook_errors, report.remaining),
                extra=about,
            )


@contextmanager
def under(context: Context) -> Iterator[None]:
    """Make `context` current for a block, so that log lines in the block carry the trace id of its span."""
    token = otel_context.attach(context)
    try:
        yield
    finally:
        otel_context.detach(token)
