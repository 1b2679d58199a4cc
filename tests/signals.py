"""What managers report, as the SDK's providers collect it: metrics by their short names, and the passes' spans.

Exports of other threads are here too, and what keeps a manager busy meanwhile.
"""

import threading
from collections.abc import Callable
from typing import Any, Self

import anyio
import anyio.lowlevel
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    Metric,
    MetricReader,
    MetricsData,
    NumberDataPoint,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext

from otel_sessions import EndReason, Session, SessionConfig, SessionManager
from tests.waiting import NEVER

CONFIG = SessionConfig(
    cleanup_interval=50.0, max_idle_time=100.0, max_session_age=1000.0, close_timeout=5.0, drain_timeout=10.0
)

NAME = "otel_sessions.manager.name"
REASON = "otel_sessions.session.end_reason"
STATE = "otel_sessions.session.state"
REJECTION = "otel_sessions.rejection.reason"
TRIGGER = "otel_sessions.cleanup.trigger"
OUTCOME = "otel_sessions.cleanup.outcome"
FORWARDED = "otel_sessions.fleet.outcome"
STAGE = "otel_sessions.cleanup.stage"
ERROR = "error.type"

Series = frozenset[tuple[str, Any]]


def series(manager: str = "default", **words: str) -> Series:
    """Return the attributes of a manager's time series: `series(reason="closed")`."""
    keys = {
        "reason": REASON,
        "state": STATE,
        "rejection": REJECTION,
        "trigger": TRIGGER,
        "outcome": OUTCOME,
        "stage": STAGE,
        "forwarded": FORWARDED,
        "error": ERROR,
    }
    return frozenset({NAME: manager, **{keys[word]: value for word, value in words.items()}}.items())


class PatientReader(MetricReader):
    """A reader in memory that does not give up: a collection takes as long as a busy machine needs."""

    def __init__(self, preferred_temporality: dict[type, AggregationTemporality] | None = None) -> None:
        super().__init__(preferred_temporality)
        self._asking = threading.Lock()
        self._received: MetricsData | None = None

    def get_metrics_data(self) -> MetricsData | None:
        """Return what there is to export now, or None if there is nothing."""
        with self._asking:
            self._received = None
            self.collect(timeout_millis=float(NEVER) * 1000)
            return self._received

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 0, **_: Any) -> None:
        self._received = metrics_data

    def shutdown(self, timeout_millis: float = 0, **_: Any) -> None:
        """Do nothing: there is no thread to end."""


class Export:
    """One collection of a reader, to be asked by the metrics' names without `otel_sessions.`"""

    def __init__(self, reader: PatientReader) -> None:
        self.data = reader.get_metrics_data()
        scopes = [
            scope for resource in (self.data.resource_metrics if self.data else []) for scope in resource.scope_metrics
        ]
        self.scopes = {(scope.scope.name, scope.scope.version) for scope in scopes}
        self.schemas = {scope.schema_url for scope in scopes}
        self.metrics: dict[str, Metric] = {metric.name: metric for scope in scopes for metric in scope.metrics}

    def values(self, metric: str) -> dict[Series, float]:
        return self.numbers(f"otel_sessions.{metric}")

    def numbers(self, name: str) -> dict[Series, float]:
        """Return the values of a metric that is named in full."""
        return {
            frozenset((point.attributes or {}).items()): point.value
            for point in self.metrics[name].data.data_points
            if isinstance(point, NumberDataPoint)
        }

    def histogram(self, metric: str) -> dict[Series, HistogramDataPoint]:
        found = self.metrics.get(f"otel_sessions.{metric}")
        return {
            frozenset((point.attributes or {}).items()): point
            for point in (found.data.data_points if found else [])
            if isinstance(point, HistogramDataPoint)
        }

    def value(self, metric: str, manager: str = "default", **words: str) -> float:
        return self.values(metric)[series(manager, **words)]

    def sums(self, metric: str) -> dict[str, float]:
        """Return the sum of a metric's time series for each manager."""
        sums: dict[str, float] = {}
        for attributes, value in self.values(metric).items():
            name = dict(attributes)[NAME]
            sums[name] = sums.get(name, 0) + value
        return sums

    def not_zero(self, metric: str, manager: str = "default") -> dict[str, float]:
        """Return what is not at 0 by its words, joined with a space."""
        return {
            " ".join(value for key, value in sorted(attributes) if key != NAME): value
            for attributes, value in self.values(metric).items()
            if value and (NAME, manager) in attributes
        }

    @property
    def is_balanced(self) -> bool:
        created, cleaned, active = map(self.sums, ("session.created", "session.cleaned", "session.active"))
        return created == {name: cleaned[name] + active[name] for name in created}


class Signals:
    """The SDK's providers, and what managers that are given them have reported."""

    def __init__(self) -> None:
        self.reader = PatientReader()
        self.meter_provider = MeterProvider([self.reader], shutdown_on_exit=False)
        self._exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.tracer_provider.get_tracer("tests")

    def manager(self, config: SessionConfig = CONFIG, **settings: Any) -> SessionManager[None]:
        settings = {"meter_provider": self.meter_provider, "tracer_provider": self.tracer_provider, **settings}
        return SessionManager[None](config, **settings)

    def export(self) -> Export:
        return Export(self.reader)

    def spans(self) -> list[ReadableSpan]:
        """Return the passes' spans that have ended, in order."""
        return [span for span in self._exporter.get_finished_spans() if span.name == "otel_sessions.cleanup"]

    def spans_named(self, name: str) -> list[ReadableSpan]:
        """Return the spans of a name that have ended, in order."""
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def span(self) -> ReadableSpan:
        (span,) = self.spans()
        return span


class Hook:
    """A close hook that sleeps, then raises, and remembers the spans that it ran under."""

    def __init__(self, seconds: float = 0.0, error: Exception | None = None) -> None:
        self.seconds = seconds
        self.error = error
        self.spans: list[SpanContext] = []

    async def __call__(self, session: Session[Any], reason: EndReason) -> None:
        self.spans.append(trace.get_current_span().get_span_context())
        await anyio.sleep(self.seconds)
        if self.error is not None:
            raise self.error


def context_of(span: ReadableSpan | trace.Span) -> SpanContext:
    context = span.get_span_context()
    assert context is not None
    return context


class Exporting(threading.Thread):
    """A thread that exports over and over until it is left."""

    def __init__(self, reader: PatientReader) -> None:
        super().__init__()
        self._reader = reader
        self._enough = threading.Event()
        self.exports: list[Export] = []

    def run(self) -> None:
        while not self._enough.is_set():
            self.exports.append(Export(self._reader))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self.join()


async def churn(manager: SessionManager[None], times: int) -> None:
    """Make sessions and end them in every way, with leases and reservations in between."""
    for number in range(times):
        session = await manager.create_session()
        with manager.pin(session.id):
            await anyio.lowlevel.checkpoint()
        async with manager.reserve():
            if number % 3 == 0:
                await manager.close_session(session.id)
        if number % 3 == 1:
            session.fail("upstream hung up")
            await manager.cleanup_stale_sessions()


class Interrupted(metrics.MeterProvider):
    """A provider that lets something else happen whenever an instrument is made."""

    def __init__(self, provider: metrics.MeterProvider, happen: Callable[[], object]) -> None:
        self._provider = provider
        self._happen = happen

    def get_meter(self, name: str, version: str | None = None, *_: Any, **__: Any) -> metrics.Meter:
        meter = self._provider.get_meter(name, version)
        happen = self._happen
        create = meter.create_observable_counter

        def create_observable_counter(*args: Any, **keywords: Any) -> metrics.ObservableCounter:
            happen()
            return create(*args, **keywords)

        meter.create_observable_counter = create_observable_counter  # type: ignore[method-assign]
        return meter
