import importlib.metadata
import json
import logging
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import anyio
import anyio.lowlevel
import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    Gauge,
    Histogram,
    InMemoryMetricReader,
    Sum,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from otel_sessions import (
    EndReason,
    ManagerClosed,
    Outcome,
    RejectionReason,
    Session,
    SessionConfig,
    SessionManager,
    SessionNotFound,
    TooManySessions,
    Trigger,
)
from tests.doubles import FaultyClock, Sink
from tests.signals import (
    CONFIG,
    TRIGGER,
    Exporting,
    Hook,
    Series,
    Signals,
    churn,
    context_of,
    series,
)
from tests.virtual import Clock, settle

pytestmark = pytest.mark.anyio


REASONS = ["idle_timeout", "max_age", "closed", "failed", "evicted", "shutdown"]
STATES = ["unleased", "leased", "closing"]
REJECTIONS = ["max_sessions", "max_sessions_per_client", "shutdown"]
TRIGGERS = ["interval", "emergency", "manual", "shutdown"]
OUTCOMES = ["success", "partial", "error", "cancelled"]
ERRORS = ["timeout", "hook", "sink", "pass", "_OTHER"]


# The contract of the metrics


async def test_every_metric_has_its_kind_and_its_unit(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock) as manager:
        await manager.create_session("an id")
        await manager.close_session("an id")
        await manager.cleanup_stale_sessions()

        export = signals.export()

    kinds = {
        name: (type(metric.data), getattr(metric.data, "is_monotonic", None), metric.unit)
        for name, metric in export.metrics.items()
    }
    assert kinds == {
        "otel_sessions.session.created": (Sum, True, "{session}"),
        "otel_sessions.session.cleaned": (Sum, True, "{session}"),
        "otel_sessions.session.active": (Sum, False, "{session}"),
        "otel_sessions.session.reserved": (Sum, False, "{session}"),
        "otel_sessions.session.limit": (Sum, False, "{session}"),
        "otel_sessions.session.rejected": (Sum, True, "{session}"),
        "otel_sessions.session.duration": (Histogram, None, "s"),
        "otel_sessions.cleanup.runs": (Sum, True, "{run}"),
        "otel_sessions.cleanup.errors": (Sum, True, "{error}"),
        "otel_sessions.cleanup.overdue": (Gauge, None, "s"),
        "otel_sessions.cleanup.duration": (Histogram, None, "s"),
    }


async def test_every_metric_is_described(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock) as manager:
        await manager.create_session("an id")
        await manager.close_session("an id")
        await manager.cleanup_stale_sessions()

        assert all(metric.description for metric in signals.export().metrics.values())


async def test_all_metrics_stand_in_one_scope_with_the_version_of_the_distribution(
    signals: Signals, clock: Clock
) -> None:
    async with signals.manager(clock=clock):
        assert signals.export().scopes == {("otel_sessions", importlib.metadata.version("otel-sessions"))}


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("session.created", {series(): 0}),
        ("session.cleaned", {series(reason=reason): 0 for reason in REASONS}),
        ("session.active", {series(state=state): 0 for state in STATES}),
        ("session.reserved", {series(): 0}),
        ("session.limit", {series(): 1000}),
        ("session.rejected", {series(rejection=rejection): 0 for rejection in REJECTIONS}),
        ("cleanup.runs", {series(trigger=trigger, outcome=outcome): 0 for trigger in TRIGGERS for outcome in OUTCOMES}),
        ("cleanup.errors", {series(error=error): 0 for error in ERRORS}),
        ("cleanup.overdue", {series(): 0}),
    ],
)
async def test_every_word_of_a_metric_is_reported_from_the_start(
    signals: Signals, clock: Clock, metric: str, expected: dict[Series, int]
) -> None:
    async with signals.manager(clock=clock):
        assert signals.export().values(metric) == expected


async def test_the_histograms_have_their_own_boundaries(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock) as manager:
        await manager.create_session("an id")
        await manager.close_session("an id")
        await manager.cleanup_stale_sessions()

        export = signals.export()

    assert [tuple(point.explicit_bounds) for point in export.histogram("session.duration").values()] == [
        (1, 5, 10, 30, 60, 300, 600, 1800, 3600, 14400, 43200, 86400)
    ]
    assert [tuple(point.explicit_bounds) for point in export.histogram("cleanup.duration").values()] == [
        (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
    ]


async def test_a_manager_counts_from_its_entry(signals: Signals, clock: Clock) -> None:
    manager = signals.manager(clock=clock)
    with pytest.raises(ManagerClosed):
        await manager.create_session()

    before = signals.export()
    async with manager:
        during = signals.export()

    assert (before.metrics, during.sums("session.created")) == ({}, {"default": 0})


# What moves them


async def test_sessions_are_counted_when_they_are_made(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock) as manager:
        await manager.create_session()
        await manager.create_session()

        assert signals.export().value("session.created") == 2


async def end_by_idle_timeout(manager: SessionManager[None], session: Session[None]) -> None:
    await anyio.sleep(100)
    await manager.cleanup_stale_sessions()


async def end_by_max_age(manager: SessionManager[None], session: Session[None]) -> None:
    await anyio.sleep(1000)
    await manager.cleanup_stale_sessions()


async def end_by_closing(manager: SessionManager[None], session: Session[None]) -> None:
    await manager.close_session(session.id)


async def end_by_failing(manager: SessionManager[None], session: Session[None]) -> None:
    session.fail("upstream hung up")
    await manager.cleanup_stale_sessions()


async def end_by_eviction(manager: SessionManager[None], session: Session[None]) -> None:
    await anyio.sleep(20)
    await manager.emergency_cleanup()


async def end_by_shutdown(manager: SessionManager[None], session: Session[None]) -> None:
    await manager.shutdown()


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (end_by_idle_timeout, "idle_timeout"),
        (end_by_max_age, "max_age"),
        (end_by_closing, "closed"),
        (end_by_failing, "failed"),
        (end_by_eviction, "evicted"),
        (end_by_shutdown, "shutdown"),
    ],
)
async def test_a_session_that_ends_is_counted_and_measured_under_its_reason(
    signals: Signals, clock: Clock, end: Any, reason: str
) -> None:
    config = SessionConfig(
        cleanup_interval=10_000, max_sessions=1, max_idle_time=100, max_session_age=1000, emergency_idle_time=20
    )
    async with signals.manager(config, clock=clock) as manager:
        session = await manager.create_session(max_idle_time=None if reason == "max_age" else 100)
        await end(manager, session)
    export = signals.export()

    assert export.not_zero("session.cleaned") == {reason: 1}
    assert {key: point.count for key, point in export.histogram("session.duration").items()} == {
        series(reason=reason): 1
    }


async def test_a_session_is_active_as_what_it_is(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock, on_close=Hook(4.0)) as manager, anyio.create_task_group() as tasks:
        for session_id in ("unleased", "leased", "closing"):
            await manager.create_session(session_id)
        with manager.pin("leased"):
            tasks.start_soon(manager.close_session, "closing")
            await settle()

            assert signals.export().not_zero("session.active") == {"unleased": 1, "leased": 1, "closing": 1}


async def test_a_leased_session_that_is_ended_counts_as_closing_only(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock, on_close=Hook(4.0)) as manager, anyio.create_task_group() as tasks:
        await manager.create_session("an id")
        with manager.pin("an id"):
            tasks.start_soon(manager.close_session, "an id")
            await settle()

            assert signals.export().not_zero("session.active") == {"closing": 1}


async def test_a_place_is_reserved_until_it_is_a_session(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock) as manager, manager.reserve() as place:
        before = signals.export()
        place.commit()
        after = signals.export()

    assert [(e.value("session.reserved"), e.value("session.created")) for e in (before, after)] == [(1, 0), (0, 1)]


async def test_a_place_that_is_given_back_is_not_reserved(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock) as manager:
        async with manager.reserve():
            pass

        assert signals.export().value("session.reserved") == 0


async def test_the_limit_is_the_cap(signals: Signals, clock: Clock) -> None:
    async with signals.manager(SessionConfig(max_sessions=7), clock=clock):
        assert signals.export().value("session.limit") == 7


async def test_without_a_cap_there_is_no_limit(signals: Signals, clock: Clock) -> None:
    async with signals.manager(SessionConfig(max_sessions=None), clock=clock):
        assert "otel_sessions.session.limit" not in signals.export().metrics


async def test_refusals_are_counted_by_reason(signals: Signals, clock: Clock) -> None:
    config = SessionConfig(max_sessions=2, max_sessions_per_client=1)
    async with signals.manager(config, clock=clock, on_close=Hook(1.0)) as manager:
        await manager.create_session(client="one")
        with pytest.raises(TooManySessions):
            await manager.create_session(client="one")
        await manager.create_session(client="two")
        with pytest.raises(TooManySessions):
            await manager.create_session(client="three")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(manager.shutdown)
            await settle()
            with pytest.raises(ManagerClosed):
                await manager.create_session()
    export = signals.export()

    assert export.not_zero("session.rejected") == {"max_sessions": 1, "max_sessions_per_client": 1, "shutdown": 1}


async def test_a_session_is_measured_from_its_start_to_its_closing_mark(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock, on_close=Hook(3.0)) as manager:
        session = await manager.create_session()
        await anyio.sleep(7)
        await manager.close_session(session.id)

        point = signals.export().histogram("session.duration")[series(reason="closed")]
        assert point.count == 1
        assert point.sum == pytest.approx(7)


async def test_each_session_that_ends_with_others_is_measured(signals: Signals, clock: Clock) -> None:
    async with signals.manager(SessionConfig(cleanup_interval=10_000, max_idle_time=100), clock=clock) as manager:
        for _ in range(50):
            await manager.create_session()
            await anyio.sleep(1)
        await anyio.sleep(100)
        await manager.cleanup_stale_sessions()

        point = signals.export().histogram("session.duration")[series(reason="idle_timeout")]
        assert point.count == 50
        assert point.min == pytest.approx(101)
        assert point.max == pytest.approx(150)
        assert point.sum == pytest.approx(sum(range(101, 151)))


async def test_each_session_that_could_not_be_measured_is_an_error(clock: Clock) -> None:
    broken = GivingMeter(MeterOfBrokenHistograms("broken"))
    config = SessionConfig(cleanup_interval=10_000, max_idle_time=100)
    async with SessionManager(config, clock=clock, meter_provider=broken) as manager:
        for _ in range(3):
            await manager.create_session()
        await anyio.sleep(100)
        report = await manager.cleanup_stale_sessions()

        assert (report.outcome, report.total_cleaned) == (Outcome.SUCCESS, 3)
        assert manager.get_metrics().cleanup_errors == 3 + 1  # the pass itself cannot be measured either


async def test_an_interval_pass_that_is_late_is_overdue(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock):
        await settle()
        clock.skew += CONFIG.cleanup_interval + 7

        assert signals.export().value("cleanup.overdue") == pytest.approx(7, abs=0.5)


async def test_an_interval_pass_that_is_not_due_yet_is_on_time(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock):
        await settle()
        clock.skew += CONFIG.cleanup_interval - 1

        assert signals.export().value("cleanup.overdue") == 0


async def test_nothing_is_overdue_after_a_pass_on_time(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock):
        await anyio.sleep(CONFIG.cleanup_interval + 1)

        assert signals.export().value("cleanup.overdue") == 0


async def test_nothing_is_overdue_while_a_pass_runs(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock, on_close=Hook(4.0)) as manager, anyio.create_task_group() as tasks:
        session = await manager.create_session()
        session.fail("upstream hung up")
        tasks.start_soon(manager.cleanup_stale_sessions)
        await settle()
        clock.skew += CONFIG.cleanup_interval + 7

        assert signals.export().value("cleanup.overdue") == 0


# Runs


async def test_an_interval_pass_is_a_run(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock):
        await anyio.sleep(CONFIG.cleanup_interval + 1)

        assert signals.export().not_zero("cleanup.runs") == {"success interval": 1}


async def test_a_manual_and_an_emergency_pass_are_runs(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock) as manager:
        await manager.cleanup_stale_sessions()
        await manager.emergency_cleanup()

        assert signals.export().not_zero("cleanup.runs") == {"success manual": 1, "success emergency": 1}


async def test_the_shutdown_is_a_run(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock):
        pass

    assert signals.export().not_zero("cleanup.runs") == {"success shutdown": 1}


async def test_a_preview_is_no_run_and_has_no_span(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock) as manager:
        await manager.preview_cleanup()

        assert (signals.export().not_zero("cleanup.runs"), signals.spans()) == ({}, [])


async def test_a_pass_whose_hook_fails_is_partial(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock, on_close=Hook(error=OSError())) as manager:
        session = await manager.create_session()
        session.fail("upstream hung up")
        await manager.cleanup_stale_sessions()

        assert signals.export().not_zero("cleanup.runs") == {"partial manual": 1}


async def test_a_pass_whose_clock_fails_is_an_error(signals: Signals, faulty_clock: FaultyClock) -> None:
    async with signals.manager(clock=faulty_clock) as manager:
        faulty_clock.break_down()
        await manager.cleanup_stale_sessions()
        faulty_clock.mend()

        assert signals.export().not_zero("cleanup.runs") == {"error manual": 1}


async def test_a_pass_whose_caller_gives_up_is_cancelled(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock, on_close=Hook(4.0)) as manager:
        session = await manager.create_session()
        session.fail("upstream hung up")
        with anyio.move_on_after(1):
            await manager.cleanup_stale_sessions()

        assert signals.export().not_zero("cleanup.runs") == {"cancelled manual": 1}


async def test_a_shutdown_that_runs_out_of_time_is_cancelled(signals: Signals, clock: Clock) -> None:
    config = SessionConfig(shutdown_timeout=3.0, close_timeout=60.0)
    async with signals.manager(config, clock=clock, on_close=Hook(30.0)) as manager:
        await manager.create_session()
    export = signals.export()

    assert export.not_zero("cleanup.runs") == {"cancelled shutdown": 1}
    assert export.not_zero("session.cleaned") == {"shutdown": 1}


async def test_a_run_is_measured_with_its_trigger_and_its_outcome(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock) as manager:
        report = await manager.cleanup_stale_sessions()

        histogram = signals.export().histogram("cleanup.duration")
        assert {key: (point.count, point.sum) for key, point in histogram.items()} == {
            series(trigger="manual", outcome="success"): (1, report.duration)
        }


async def test_a_run_is_measured_by_a_timer_of_its_own(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock, on_close=Hook(4.0)) as manager:
        session = await manager.create_session()
        session.fail("upstream hung up")
        report = await manager.cleanup_stale_sessions()

    assert 0 < report.duration < 4


async def test_the_exemplar_of_a_runs_duration_leads_to_its_span(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock) as manager:
        with signals.tracer.start_as_current_span("request"):
            await manager.cleanup_stale_sessions()

        (point,) = signals.export().histogram("cleanup.duration").values()
        span = context_of(signals.span())
        assert [(e.trace_id, e.span_id) for e in point.exemplars] == [(span.trace_id, span.span_id)]


# Errors


async def test_a_hook_that_hangs_is_a_timeout(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock, on_close=Hook(60.0)) as manager:
        await manager.create_session("an id")
        await manager.close_session("an id")

        assert signals.export().not_zero("cleanup.errors") == {"timeout": 1}


async def test_a_sink_that_hangs_is_a_timeout(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock, sink=Sink(Hook(60.0))) as manager:
        await manager.create_session("an id")
        await manager.close_session("an id")

        assert signals.export().not_zero("cleanup.errors") == {"timeout": 1}


@pytest.mark.parametrize("error", [ValueError("no"), TimeoutError("its own")], ids=repr)
async def test_a_hook_that_raises_is_a_hook_error(signals: Signals, clock: Clock, error: Exception) -> None:
    async with signals.manager(clock=clock, on_close=Hook(error=error)) as manager:
        await manager.create_session("an id")
        await manager.close_session("an id")

        assert signals.export().not_zero("cleanup.errors") == {"hook": 1}


@pytest.mark.parametrize("error", [ValueError("no"), TimeoutError("its own")], ids=repr)
async def test_a_sink_that_raises_is_a_sink_error(signals: Signals, clock: Clock, error: Exception) -> None:
    async with signals.manager(clock=clock, sink=Sink(Hook(error=error))) as manager:
        await manager.create_session("an id")
        await manager.close_session("an id")

        assert signals.export().not_zero("cleanup.errors") == {"sink": 1}


async def test_one_session_can_give_two_errors(signals: Signals, clock: Clock) -> None:
    failing = Hook(error=ValueError("no"))
    async with signals.manager(clock=clock, sink=Sink(failing), on_close=failing) as manager:
        session = await manager.create_session()
        session.fail("upstream hung up")
        report = await manager.cleanup_stale_sessions()

        assert (report.hook_errors, signals.export().not_zero("cleanup.errors")) == (2, {"sink": 1, "hook": 1})


async def test_a_clock_that_raises_during_a_pass_is_a_pass_error(signals: Signals, faulty_clock: FaultyClock) -> None:
    async with signals.manager(clock=faulty_clock) as manager:
        await settle()
        faulty_clock.break_down()
        await manager.cleanup_stale_sessions()
        faulty_clock.mend()

        assert signals.export().not_zero("cleanup.errors") == {"pass": 1}


async def test_an_interval_pass_that_is_aborted_is_not_the_last(signals: Signals, faulty_clock: FaultyClock) -> None:
    async with signals.manager(clock=faulty_clock):
        await settle()
        await anyio.sleep(CONFIG.cleanup_interval - 1)
        faulty_clock.break_down()
        await anyio.sleep(2)
        faulty_clock.mend()
        await anyio.sleep(CONFIG.cleanup_interval)

        assert signals.export().not_zero("cleanup.runs") == {"error interval": 1, "success interval": 1}


async def test_the_statistics_have_the_sum_of_the_errors(signals: Signals, faulty_clock: FaultyClock) -> None:
    failing = Hook(error=ValueError("no"))
    async with signals.manager(clock=faulty_clock, sink=Sink(failing), on_close=failing) as manager:
        await manager.create_session("an id")
        await manager.close_session("an id")
        faulty_clock.break_down()
        await manager.cleanup_stale_sessions()
        faulty_clock.mend()

        assert manager.get_metrics().cleanup_errors == 3


async def test_a_manager_whose_clock_fails_on_an_export_takes_no_others_metrics_away(
    signals: Signals, clock: Clock, faulty_clock: FaultyClock
) -> None:
    async with signals.manager(name="sound", clock=clock), signals.manager(name="broken", clock=faulty_clock):
        await settle()
        faulty_clock.break_down()
        export = signals.export()
        faulty_clock.mend()

        assert export.value("session.limit", "sound") == 1000


# Spans


async def test_there_is_one_span_for_each_pass(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock) as manager:
        await anyio.sleep(CONFIG.cleanup_interval + 1)
        await manager.cleanup_stale_sessions()
        await manager.emergency_cleanup()

    triggers = [span.attributes[TRIGGER] for span in signals.spans() if span.attributes]
    assert triggers == ["interval", "manual", "emergency", "shutdown"]


async def test_a_span_is_internal_and_named_for_the_cleanup(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock) as manager:
        await manager.cleanup_stale_sessions()

        span = signals.span()
        assert (span.name, span.kind) == ("otel_sessions.cleanup", SpanKind.INTERNAL)


async def test_a_span_stands_in_the_scope_with_the_version_of_the_distribution(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock) as manager:
        await manager.cleanup_stale_sessions()

        scope = signals.span().instrumentation_scope
        assert scope is not None
        assert (scope.name, scope.version) == ("otel_sessions", importlib.metadata.version("otel-sessions"))


async def test_a_span_has_the_report_of_its_pass(signals: Signals, clock: Clock) -> None:
    failing = Hook(error=ValueError("no"))
    async with signals.manager(clock=clock, name="proxy", on_close=failing) as manager:
        for _ in range(3):
            (await manager.create_session()).fail("upstream hung up")
        await manager.create_session()
        await manager.cleanup_stale_sessions(max_idle_time=1000)

        assert signals.span().attributes == {
            "otel_sessions.manager.name": "proxy",
            "otel_sessions.cleanup.trigger": "manual",
            "otel_sessions.cleanup.outcome": "partial",
            "otel_sessions.cleanup.examined": 4,
            "otel_sessions.cleanup.cleaned": 3,
            "otel_sessions.cleanup.hook_errors": 3,
            "otel_sessions.cleanup.remaining": 1,
        }


async def test_a_span_has_its_manager_and_its_trigger_from_the_start(signals: Signals, clock: Clock) -> None:
    seen: list[Mapping[str, object]] = []

    async def look(session: Session[None], reason: EndReason) -> None:
        span = trace.get_current_span()
        assert isinstance(span, ReadableSpan)
        seen.append(dict(span.attributes or {}))

    async with signals.manager(clock=clock, on_close=look) as manager:
        (await manager.create_session()).fail("upstream hung up")
        await manager.cleanup_stale_sessions()

    assert seen == [{"otel_sessions.manager.name": "default", "otel_sessions.cleanup.trigger": "manual"}]


async def test_a_pass_that_finds_nothing_has_a_span_too(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock):
        await anyio.sleep(CONFIG.cleanup_interval + 1)

        attributes = signals.span().attributes
        assert attributes is not None
        assert attributes["otel_sessions.cleanup.cleaned"] == 0


async def test_an_orderly_pass_leaves_the_status_unset(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock, on_close=Hook(error=ValueError("no"))) as manager:
        (await manager.create_session()).fail("upstream hung up")
        await manager.cleanup_stale_sessions()

        assert signals.span().status.status_code is StatusCode.UNSET


async def test_the_spans_of_a_manager_that_is_entered_within_a_span_are_roots_all_the_same(
    signals: Signals, clock: Clock
) -> None:
    with signals.tracer.start_as_current_span("startup"):
        async with signals.manager(clock=clock) as manager:
            await anyio.sleep(CONFIG.cleanup_interval + 1)
            await manager.cleanup_stale_sessions()
            await manager.emergency_cleanup()

    assert [span.parent for span in signals.spans()] == [None, None, None, None]


async def test_an_interval_and_the_shutdown_pass_are_linked_to_nothing(signals: Signals, clock: Clock) -> None:
    with signals.tracer.start_as_current_span("startup"):
        async with signals.manager(clock=clock):
            await anyio.sleep(CONFIG.cleanup_interval + 1)

    assert [list(span.links) for span in signals.spans()] == [[], []]


async def test_a_manual_pass_is_linked_to_its_caller(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock) as manager:
        with signals.tracer.start_as_current_span("request") as request:
            await manager.cleanup_stale_sessions()

        span = signals.span()
        assert [link.context for link in span.links] == [context_of(request)]
        assert context_of(span).trace_id != context_of(request).trace_id


async def test_a_manual_pass_without_a_span_around_it_is_linked_to_nothing(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock) as manager:
        await manager.cleanup_stale_sessions()

        assert list(signals.span().links) == []


async def test_an_emergency_pass_by_hand_is_linked_to_its_caller(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock) as manager:
        with signals.tracer.start_as_current_span("request") as request:
            await manager.emergency_cleanup()

        assert [link.context for link in signals.span().links] == [context_of(request)]


async def test_an_emergency_pass_at_the_cap_is_linked_to_the_creator(signals: Signals, clock: Clock) -> None:
    config = SessionConfig(cleanup_interval=10_000, max_sessions=1, emergency_idle_time=20)
    async with signals.manager(config, clock=clock) as manager:
        await manager.create_session()
        await anyio.sleep(20)
        with signals.tracer.start_as_current_span("request") as request:
            await manager.create_session()

        span = signals.span()
        assert (span.parent, [link.context for link in span.links]) == (None, [context_of(request)])


async def test_an_aborted_pass_has_the_status_error_and_the_class_of_the_exception(
    signals: Signals, faulty_clock: FaultyClock
) -> None:
    async with signals.manager(clock=faulty_clock) as manager:
        faulty_clock.break_down()
        await manager.cleanup_stale_sessions()
        faulty_clock.mend()

        span = signals.span()
        assert span.attributes is not None
        assert (span.status.status_code, span.attributes["error.type"]) == (StatusCode.ERROR, "OSError")
        assert span.attributes["otel_sessions.cleanup.outcome"] == "error"


async def test_an_aborted_pass_has_neither_a_description_nor_an_event(
    signals: Signals, faulty_clock: FaultyClock
) -> None:
    async with signals.manager(clock=faulty_clock) as manager:
        faulty_clock.break_down()
        await manager.cleanup_stale_sessions()
        faulty_clock.mend()

        span = signals.span()
        assert (span.status.description, list(span.events)) == (None, [])


async def test_a_cancelled_pass_ends_its_span_without_an_error(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock, on_close=Hook(4.0)) as manager:
        (await manager.create_session()).fail("upstream hung up")
        with anyio.move_on_after(1):
            await manager.cleanup_stale_sessions()

        span = signals.span()
        assert span.attributes is not None
        assert span.attributes["otel_sessions.cleanup.outcome"] == "cancelled"
        assert (span.status.status_code, "error.type" in span.attributes) == (StatusCode.UNSET, False)


async def test_there_are_no_spans_but_the_passes(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock, on_close=Hook()) as manager:
        await manager.create_session("an id")
        with manager.pin("an id"):
            pass
        async with manager.lease("an id"):
            pass
        await manager.close_session("an id")

        assert signals._exporter.get_finished_spans() == ()


# What is logged under the span


class TraceIds(logging.Handler):
    """Keeps, of every line of ours, its level, its text and the trace under which it was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, str, int]] = []

    def emit(self, record: logging.LogRecord) -> None:
        trace_id = trace.get_current_span().get_span_context().trace_id
        self.seen.append((record.levelno, record.getMessage(), trace_id))


@pytest.fixture
def lines() -> Iterator[TraceIds]:
    logger, handler = logging.getLogger("otel_sessions"), TraceIds()
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


async def test_a_pass_that_goes_well_is_a_line_for_who_wants_it_under_its_span(
    signals: Signals, clock: Clock, lines: TraceIds
) -> None:
    async with signals.manager(clock=clock) as manager:
        (await manager.create_session()).fail("upstream hung up")
        with signals.tracer.start_as_current_span("request"):
            await manager.cleanup_stale_sessions()

        says = "cleanup pass (manual) success: cleaned 1, examined 1, hook errors 0, remaining 0"
        assert lines.seen == [(logging.DEBUG, says, context_of(signals.span()).trace_id)]


async def test_an_aborted_pass_is_logged_under_its_span(
    signals: Signals, faulty_clock: FaultyClock, lines: TraceIds
) -> None:
    async with signals.manager(clock=faulty_clock) as manager:
        faulty_clock.break_down()
        await manager.cleanup_stale_sessions()
        faulty_clock.mend()

        (aborted,) = [(level, trace_id) for level, text, trace_id in lines.seen if "was aborted" in text]
        assert aborted == (logging.ERROR, context_of(signals.span()).trace_id)


async def test_a_hook_that_fails_is_logged_under_the_span_of_its_pass(
    signals: Signals, clock: Clock, lines: TraceIds
) -> None:
    async with signals.manager(clock=clock, on_close=Hook(error=ValueError("broken"))) as manager:
        (await manager.create_session()).fail("upstream hung up")
        await manager.cleanup_stale_sessions()

        (failed,) = [trace_id for _, text, trace_id in lines.seen if "the hook of session" in text]
        assert failed == context_of(signals.span()).trace_id


async def test_what_is_logged_leaves_the_callers_own_span_current(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock) as manager:
        with signals.tracer.start_as_current_span("request") as request:
            await manager.cleanup_stale_sessions()

            assert trace.get_current_span() is request


# What hooks run under


async def test_a_hook_runs_under_the_span_of_its_interval_pass(signals: Signals, clock: Clock) -> None:
    hook = Hook()
    async with signals.manager(clock=clock, on_close=hook) as manager:
        (await manager.create_session()).fail("upstream hung up")
        await anyio.sleep(CONFIG.cleanup_interval + 1)

        assert hook.spans == [context_of(signals.span())]


async def test_a_hook_runs_under_the_span_of_its_manual_pass(signals: Signals, clock: Clock) -> None:
    hook = Hook()
    async with signals.manager(clock=clock, on_close=hook) as manager:
        (await manager.create_session()).fail("upstream hung up")
        with signals.tracer.start_as_current_span("request"):
            await manager.cleanup_stale_sessions()

        assert hook.spans == [context_of(signals.span())]


async def test_a_hook_runs_under_the_span_of_the_shutdown(signals: Signals, clock: Clock) -> None:
    hook = Hook()
    async with signals.manager(clock=clock, on_close=hook) as manager:
        await manager.create_session()

    assert hook.spans == [context_of(signals.span())]


async def test_a_sink_runs_under_the_span_of_its_pass(signals: Signals, clock: Clock) -> None:
    hook = Hook()
    async with signals.manager(clock=clock, sink=Sink(hook)) as manager:
        (await manager.create_session()).fail("upstream hung up")
        await manager.cleanup_stale_sessions()

        assert hook.spans == [context_of(signals.span())]


async def test_a_hook_after_a_drain_runs_under_the_span_of_the_pass_that_began_it(
    signals: Signals, clock: Clock
) -> None:
    hook = Hook()
    config = SessionConfig(cleanup_interval=50.0, max_session_age=60.0, drain_timeout=10.0)
    async with signals.manager(config, clock=clock, on_close=hook) as manager:
        await manager.create_session("an id")
        with pytest.raises(SessionNotFound):
            async with manager.lease("an id"):
                await anyio.sleep(1000)

    interval_passes = [span for span in signals.spans() if span.attributes and span.attributes[TRIGGER] == "interval"]
    assert hook.spans == [context_of(interval_passes[1])]


async def test_a_hook_runs_under_the_span_of_the_closer(signals: Signals, clock: Clock) -> None:
    hook = Hook()
    async with signals.manager(clock=clock, on_close=hook) as manager:
        await manager.create_session("an id")
        with signals.tracer.start_as_current_span("request") as request:
            await manager.close_session("an id")

    assert hook.spans == [context_of(request)]


async def test_a_hook_of_a_closer_without_a_span_runs_under_none(signals: Signals, clock: Clock) -> None:
    hook = Hook()
    async with signals.manager(clock=clock, on_close=hook) as manager:
        await manager.create_session("an id")
        await manager.close_session("an id")

    assert hook.spans == [trace.INVALID_SPAN_CONTEXT]


async def test_a_hook_runs_under_the_span_of_whoever_takes_its_id(signals: Signals, clock: Clock) -> None:
    hook = Hook()
    async with signals.manager(clock=clock, on_close=hook) as manager:
        (await manager.create_session("an id")).fail("upstream hung up")
        with signals.tracer.start_as_current_span("request") as request:
            await manager.create_session("an id")
        taken_over = list(hook.spans)

    assert taken_over == [context_of(request)]


# What never shows


async def test_no_id_no_client_and_no_text_of_an_exception_is_on_a_metric_or_a_span(
    signals: Signals, faulty_clock: FaultyClock
) -> None:
    failing = Hook(error=ValueError("s3cret text"))
    with signals.tracer.start_as_current_span("request"):
        async with signals.manager(clock=faulty_clock, sink=Sink(failing), on_close=failing) as manager:
            for number in range(3):
                await manager.create_session(f"s3cret id {number}", client="s3cret client")
            (await manager.create_session()).fail(RuntimeError("s3cret failure"))
            await manager.close_session("s3cret id 0")
            await manager.cleanup_stale_sessions()
            await manager.emergency_cleanup()
            faulty_clock.break_down()
            await manager.cleanup_stale_sessions()
            faulty_clock.mend()
    data = signals.export().data
    assert data is not None

    shown = data.to_json() + "".join(span.to_json() for span in signals.spans())

    assert "s3cret" not in shown
    assert len(json.loads(data.to_json())["resource_metrics"]) == 1


# Exports are balanced


@pytest.mark.usefixtures("impatient_threads")
async def test_every_export_of_another_thread_is_balanced(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock) as manager:
        with Exporting(signals.reader) as exporting:
            await churn(manager, 150)

    assert exporting.exports
    assert all(export.is_balanced for export in exporting.exports)


@pytest.mark.usefixtures("impatient_threads")
async def test_no_counter_falls_while_managers_come_and_go(signals: Signals, clock: Clock) -> None:
    async with signals.manager(clock=clock):
        with Exporting(signals.reader) as exporting:
            for _ in range(20):
                async with signals.manager(clock=clock) as manager:
                    await churn(manager, 6)

    exports = [*exporting.exports, signals.export()]
    created = [export.value("session.created") for export in exports]
    assert (created, created[-1]) == (sorted(created), 120)
    assert all(export.is_balanced for export in exports)


async def test_two_readers_of_one_provider_get_a_balanced_export_each(clock: Clock) -> None:
    readers = InMemoryMetricReader(), InMemoryMetricReader()
    provider = MeterProvider(readers, shutdown_on_exit=False)
    async with SessionManager(CONFIG, meter_provider=provider, clock=clock) as manager:
        with Exporting(readers[0]) as first, Exporting(readers[1]) as second:
            await churn(manager, 50)

    assert all(export.is_balanced for export in [*first.exports, *second.exports])


# Telemetry that fails


class BrokenTracer(trace.NoOpTracer):
    def start_span(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("no span")


class BrokenSpan(trace.NonRecordingSpan):
    def set_attributes(self, attributes: Any) -> NoReturn:
        raise RuntimeError("no attributes")

    def end(self, end_time: int | None = None) -> NoReturn:
        raise RuntimeError("no end")


class TracerOfBrokenSpans(trace.NoOpTracer):
    def start_span(self, *_: Any, **__: Any) -> trace.Span:
        return BrokenSpan(trace.INVALID_SPAN_CONTEXT)


class GivingTracer(trace.TracerProvider):
    def __init__(self, tracer: trace.Tracer | None) -> None:
        self._tracer = tracer

    def get_tracer(self, *_: Any, **__: Any) -> trace.Tracer:
        if self._tracer is None:
            raise RuntimeError("no tracer")
        return self._tracer


class BrokenHistogram(metrics.NoOpHistogram):
    def record(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("no record")


class MeterOfBrokenHistograms(metrics.NoOpMeter):
    def create_histogram(self, name: str, *_: Any, **__: Any) -> metrics.Histogram:
        return BrokenHistogram(name)


class MeterWithoutHistograms(metrics.NoOpMeter):
    def create_histogram(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("no histogram")


class GivingMeter(metrics.MeterProvider):
    def __init__(self, meter: metrics.Meter | None) -> None:
        self._meter = meter

    def get_meter(self, *_: Any, **__: Any) -> metrics.Meter:
        if self._meter is None:
            raise RuntimeError("no meter")
        return self._meter


BROKEN: dict[str, Callable[[], dict[str, Any]]] = {
    "get_tracer": lambda: {"tracer_provider": GivingTracer(None)},
    "start_span": lambda: {"tracer_provider": GivingTracer(BrokenTracer())},
    "span": lambda: {"tracer_provider": GivingTracer(TracerOfBrokenSpans())},
    "get_meter": lambda: {"meter_provider": GivingMeter(None)},
    "create_histogram": lambda: {"meter_provider": GivingMeter(MeterWithoutHistograms("broken"))},
    "record": lambda: {"meter_provider": GivingMeter(MeterOfBrokenHistograms("broken"))},
}


@pytest.mark.parametrize("broken", BROKEN)
async def test_an_error_of_telemetry_never_reaches_the_caller(signals: Signals, clock: Clock, broken: str) -> None:
    hook = Hook()
    async with signals.manager(clock=clock, on_close=hook, **BROKEN[broken]()) as manager:
        await manager.create_session("closed")
        await manager.close_session("closed")
        (await manager.create_session("failed")).fail("upstream hung up")
        report = await manager.cleanup_stale_sessions()
        await manager.create_session("left")

    assert (report.outcome, len(hook.spans)) == (Outcome.SUCCESS, 3)
    assert manager.get_metrics().cleaned_by_reason == {
        **dict.fromkeys(EndReason, 0),
        EndReason.CLOSED: 1,
        EndReason.FAILED: 1,
        EndReason.SHUTDOWN: 1,
    }


@pytest.mark.parametrize("broken", BROKEN)
async def test_an_error_of_telemetry_is_counted_and_logged(
    signals: Signals, clock: Clock, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with signals.manager(clock=clock, **BROKEN[broken]()) as manager:
        await manager.cleanup_stale_sessions()

    errors = [record for record in caplog.records if record.name == "otel_sessions" and record.levelno == logging.ERROR]
    assert errors
    assert len(errors) == manager.get_metrics().cleanup_errors


@pytest.mark.parametrize(
    "tracer", [None, BrokenTracer(), TracerOfBrokenSpans()], ids=["get_tracer", "start_span", "span"]
)
async def test_an_error_of_tracing_is_of_another_type_on_the_metric(
    signals: Signals, clock: Clock, tracer: trace.Tracer | None
) -> None:
    async with signals.manager(clock=clock, tracer_provider=GivingTracer(tracer)) as manager:
        await manager.cleanup_stale_sessions()

        assert list(signals.export().not_zero("cleanup.errors")) == ["_OTHER"]


async def test_a_span_whose_attributes_fail_is_ended_all_the_same(signals: Signals, clock: Clock) -> None:
    ended = []

    class Span(trace.NonRecordingSpan):
        def set_attributes(self, attributes: Any) -> NoReturn:
            raise RuntimeError("no attributes")

        def end(self, end_time: int | None = None) -> None:
            ended.append(self)

    class Tracer(trace.NoOpTracer):
        def start_span(self, *_: Any, **__: Any) -> trace.Span:
            return Span(trace.INVALID_SPAN_CONTEXT)

    async with signals.manager(clock=clock, tracer_provider=GivingTracer(Tracer())) as manager:
        await manager.cleanup_stale_sessions()

        assert len(ended) == 1


async def test_a_second_manager_of_a_broken_meter_provider_works_too(clock: Clock) -> None:
    provider = GivingMeter(None)
    for _ in range(2):
        async with SessionManager(CONFIG, meter_provider=provider, clock=clock) as manager:
            await manager.create_session()

        assert manager.get_metrics().cleaned_by_reason[EndReason.SHUTDOWN] == 1


async def test_a_session_whose_duration_cannot_be_recorded_is_counted(signals: Signals, clock: Clock) -> None:
    provider = GivingMeter(MeterOfBrokenHistograms("broken"))
    async with signals.manager(clock=clock, meter_provider=provider) as manager:
        await manager.create_session("an id")

        assert await manager.close_session("an id")
        assert (len(manager), manager.get_metrics().cleanup_errors) == (0, 1)


# Without an SDK


async def test_without_providers_the_global_ones_are_used(clock: Clock) -> None:
    async with SessionManager(CONFIG, clock=clock) as manager:
        await manager.create_session()
        report = await manager.cleanup_stale_sessions()

    assert (report.trigger, report.outcome) == (Trigger.MANUAL, Outcome.SUCCESS)


@pytest.mark.processes
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_manager_works_where_no_sdk_is_installed(backend: str) -> None:
    program = f"""
        import sys

        class NoSdk:
            def find_spec(self, name, path=None, target=None):
                if name.startswith("opentelemetry.sdk"):
                    raise ModuleNotFoundError(name)

        sys.meta_path.insert(0, NoSdk())

        import anyio
        from otel_sessions import SessionManager, TooManySessions

        async def main():
            async with SessionManager() as manager:
                session = await manager.create_session()
                async with manager.lease(session.id):
                    session.touch()
                session.fail("upstream hung up")
                report = await manager.cleanup_stale_sessions()
                await manager.create_session()
            print(report.total_cleaned, manager.get_metrics().total_cleaned, manager.get_metrics().cleanup_errors)

        anyio.run(main, backend={backend!r})
        assert not any(name.startswith("opentelemetry.sdk") for name in sys.modules)
    """

    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False
    )

    assert (run.stdout, run.stderr, run.returncode) == ("1 2 0\n", "", 0)


def test_the_words_of_the_contract_are_those_of_the_package() -> None:
    assert (list(EndReason), list(Trigger), list(Outcome), list(RejectionReason)) == (
        REASONS,
        TRIGGERS,
        OUTCOMES,
        REJECTIONS,
    )
