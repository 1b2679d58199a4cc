"""The spans of what a fleet does with its store: rejoining, cleaning orphans, and telling the store again."""

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode, TracerProvider

from otel_sessions._core.books import Books
from otel_sessions._core.words import CleanupStage, OrphanOutcome
from otel_sessions._engine.owners import Reports
from otel_sessions._telemetry import fleet_signals as table
from otel_sessions.fleet.store_tracing import StoreTracing
from tests.broken_telemetry import BrokenTracer, GivingTracer, TracerOfBrokenSpans
from tests.signals import Signals, context_of

Work = Callable[[StoreTracing, BaseException | None], None]


def rejoin(tracing: StoreTracing, error: BaseException | None = None) -> None:
    tracing.rejoin().end(kept=7, dropped=2, put=1, error=error)


def orphans(tracing: StoreTracing, error: BaseException | None = None) -> None:
    tracing.orphans(epoch=12345).end({OrphanOutcome.CLEANED: 4, OrphanOutcome.FAILED: 1}, error=error)


def resync(tracing: StoreTracing, error: BaseException | None = None) -> None:
    tracing.resync(shard=3).end(put=5, ended=6, error=error)


ALL = {
    table.REJOIN_SPAN: (rejoin, table.REJOIN_ATTRIBUTES, {"kept": 7, "dropped": 2, "put": 1}),
    table.ORPHANS_SPAN: (
        orphans,
        table.ORPHANS_ATTRIBUTES,
        {"epoch": 12345, "cleaned": 4, "failed": 1, "taken": 0},
    ),
    table.RESYNC_SPAN: (resync, table.RESYNC_ATTRIBUTES, {"shard": 3, "put": 5, "ended": 6}),
}
EACH = pytest.mark.parametrize("name", ALL)


def tracing_to(provider: TracerProvider, books: Books | None = None) -> StoreTracing:
    return StoreTracing(Reports(manager="m", books=books or Books(None), tracer_provider=provider))


@EACH
def test_work_is_a_root_span_with_its_counts(signals: Signals, name: str) -> None:
    work, _, counts = ALL[name]
    with signals.tracer.start_as_current_span("of somebody else"):
        work(tracing_to(signals.tracer_provider))

    (span,) = signals.spans_named(name)
    assert (span.parent, span.kind, span.status.status_code) == (None, SpanKind.INTERNAL, StatusCode.UNSET)
    expected = {f"otel_sessions.fleet.{word}": count for word, count in counts.items()}
    assert span.attributes == {"otel_sessions.manager.name": "m", **expected}


@EACH
def test_work_that_is_broken_off_has_an_error_and_the_attributes_of_the_table(signals: Signals, name: str) -> None:
    work, attributes, _ = ALL[name]
    work(tracing_to(signals.tracer_provider), OSError())

    (span,) = signals.spans_named(name)
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "OSError"
    assert sorted(span.attributes or {}) == sorted(attribute.name for attribute in attributes)


def test_what_runs_under_a_span_belongs_to_its_trace(signals: Signals) -> None:
    work = tracing_to(signals.tracer_provider).orphans(1)
    with work.current(), signals.tracer.start_as_current_span("of a hook"):
        pass
    assert not trace.get_current_span().get_span_context().is_valid
    work.end({})

    ((hook,), (span,)) = (signals.spans_named("of a hook"), signals.spans_named(table.ORPHANS_SPAN))
    assert hook.parent == context_of(span)


@pytest.mark.parametrize("tracer", [None, BrokenTracer(), TracerOfBrokenSpans()], ids=["provider", "tracer", "span"])
@EACH
def test_a_provider_that_raises_is_counted_and_never_reaches_the_fleet(tracer: Any, name: str) -> None:
    books = Books(None)
    ALL[name][0](tracing_to(GivingTracer(tracer), books))

    assert books.totals().errors[CleanupStage.PASS, "RuntimeError"] > 0
