"""What the metrics of a manager say, and that every single export is balanced."""

import importlib.metadata
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Gauge, Histogram, Sum

from otel_sessions import (
    EndReason,
    ManagerClosed,
    Outcome,
    PerClientAtCap,
    RejectionReason,
    Session,
    SessionConfig,
    SessionManager,
    TooManySessions,
    Trigger,
)
from tests.broken_telemetry import GivingMeter, MeterOfBrokenHistograms
from tests.doubles import FaultyClock, Sink
from tests.signals import (
    CONFIG,
    Exporting,
    Hook,
    PatientReader,
    Series,
    Signals,
    churn,
    context_of,
    series,
)
from tests.virtual import Clock, settle

pytestmark = pytest.mark.anyio


REASONS = ["idle_timeout", "max_age", "closed", "failed", "evicted", "shutdown", "fenced"]
STATES = ["unleased", "leased", "closing"]
REJECTIONS = ["max_sessions", "max_sessions_per_client", "shutdown", "fleet"]
TRIGGERS = ["interval", "emergency", "manual", "shutdown"]
OUTCOMES = ["success", "partial", "error", "cancelled"]
FORWARDED = ["answered", "not_owner", "not_peer", "gone", "unavailable", "refused", "left"]
STAGES = ["hook", "sink", "pass"]


SESSION_BUCKETS = (
    *(1, 2, 5, 10, 15, 30, 45, 60, 90, 120, 300, 600, 1200, 1800, 2700),
    *(3600, 3900, 4500, 7200, 14400, 43200, 86400, 90000),
)
WAIT_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
CLEANUP_BUCKETS = (0.00001, 0.00005, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)


async def use_every_instrument(manager: SessionManager[None]) -> None:
    """Make a session, let a creator wait for its place, and run a pass."""
    await manager.create_session("an id")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(manager.close_session, "an id")
        await settle()
        await manager.create_session()
    await manager.cleanup_stale_sessions()


FULL_AT_ONE = SessionConfig(cleanup_interval=50.0, max_sessions=1)


class TestContract:
    async def test_every_metric_has_its_kind_and_its_unit(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(FULL_AT_ONE, clock=clock, on_close=Hook(1.0)) as manager:
            await use_every_instrument(manager)

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
            "otel_sessions.session.pending": (Sum, False, "{request}"),
            "otel_sessions.session.wait_time": (Histogram, None, "s"),
            "otel_sessions.session.limit": (Sum, False, "{session}"),
            "otel_sessions.session.rejected": (Sum, True, "{session}"),
            "otel_sessions.session.duration": (Histogram, None, "s"),
            "otel_sessions.lease.oldest": (Gauge, None, "s"),
            "otel_sessions.cleanup.runs": (Sum, True, "{run}"),
            "otel_sessions.cleanup.errors": (Sum, True, "{error}"),
            "otel_sessions.cleanup.interval": (Gauge, None, "s"),
            "otel_sessions.cleanup.overdue": (Gauge, None, "s"),
            "otel_sessions.cleanup.duration": (Histogram, None, "s"),
            "otel_sessions.fleet.forwarded": (Sum, True, "{request}"),
        }

    async def test_every_metric_is_described(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(FULL_AT_ONE, clock=clock, on_close=Hook(1.0)) as manager:
            await use_every_instrument(manager)

            assert all(metric.description for metric in signals.export().metrics.values())

    async def test_all_metrics_stand_in_one_scope_with_the_version_of_the_distribution(
        self, signals: Signals, clock: Clock
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
            (
                "cleanup.runs",
                {series(trigger=trigger, outcome=outcome): 0 for trigger in TRIGGERS for outcome in OUTCOMES},
            ),
            ("cleanup.errors", {series(stage=stage, error="_OTHER"): 0 for stage in STAGES}),
            ("session.pending", {series(): 0}),
            ("lease.oldest", {series(): 0}),
            ("cleanup.interval", {series(): 50}),
            ("cleanup.overdue", {series(): 0}),
            ("fleet.forwarded", {series(forwarded=outcome): 0 for outcome in FORWARDED}),
        ],
    )
    async def test_every_word_of_a_metric_is_reported_from_the_start(
        self, signals: Signals, clock: Clock, metric: str, expected: dict[Series, int]
    ) -> None:
        async with signals.manager(clock=clock):
            assert signals.export().values(metric) == expected

    async def test_the_histograms_have_their_own_boundaries(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(FULL_AT_ONE, clock=clock, on_close=Hook(1.0)) as manager:
            await use_every_instrument(manager)

            export = signals.export()

        def bounds(metric: str) -> set[tuple[float, ...]]:
            return {tuple(point.explicit_bounds) for point in export.histogram(metric).values()}

        assert bounds("session.duration") == {SESSION_BUCKETS}
        assert bounds("session.wait_time") == {WAIT_BUCKETS}
        assert bounds("cleanup.duration") == {CLEANUP_BUCKETS}

    async def test_a_manager_counts_from_its_entry(self, signals: Signals, clock: Clock) -> None:
        manager = signals.manager(clock=clock)
        with pytest.raises(ManagerClosed):
            await manager.create_session()

        before = signals.export()
        async with manager:
            during = signals.export()

        assert (before.metrics, during.sums("session.created")) == ({}, {"default": 0})

    def test_the_words_of_the_contract_are_those_of_the_package(self) -> None:
        assert (list(EndReason), list(Trigger), list(Outcome), list(RejectionReason)) == (
            REASONS,
            TRIGGERS,
            OUTCOMES,
            REJECTIONS,
        )


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


async def refused_at_shutdown(manager: SessionManager[None]) -> None:
    with pytest.raises(ManagerClosed):
        await manager.create_session()


async def end_by_shutdown(manager: SessionManager[None], session: Session[None]) -> None:
    await manager.shutdown()


class TestWhatMovesThem:
    async def test_sessions_are_counted_when_they_are_made(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock) as manager:
            await manager.create_session()
            await manager.create_session()

            assert signals.export().value("session.created") == 2

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
        self, signals: Signals, clock: Clock, end: Any, reason: str
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

    async def test_a_session_is_active_as_what_it_is(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock, on_close=Hook(4.0)) as manager, anyio.create_task_group() as tasks:
            for session_id in ("unleased", "leased", "closing"):
                await manager.create_session(session_id)
            with manager.pin("leased"):
                tasks.start_soon(manager.close_session, "closing")
                await settle()

                assert signals.export().not_zero("session.active") == {"unleased": 1, "leased": 1, "closing": 1}

    async def test_a_leased_session_that_is_ended_counts_as_closing_only(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock, on_close=Hook(4.0)) as manager, anyio.create_task_group() as tasks:
            await manager.create_session("an id")
            with manager.pin("an id"):
                tasks.start_soon(manager.close_session, "an id")
                await settle()

                assert signals.export().not_zero("session.active") == {"closing": 1}

    async def test_a_place_is_reserved_until_it_is_a_session(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock) as manager, manager.reserve() as place:
            before = signals.export()
            place.commit()
            after = signals.export()

        assert [(e.value("session.reserved"), e.value("session.created")) for e in (before, after)] == [(1, 0), (0, 1)]

    async def test_a_place_that_is_given_back_is_not_reserved(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock) as manager:
            async with manager.reserve():
                pass

            assert signals.export().value("session.reserved") == 0

    async def test_the_limit_is_the_cap(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(SessionConfig(max_sessions=7), clock=clock):
            assert signals.export().value("session.limit") == 7

    async def test_without_a_cap_there_is_no_limit(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(SessionConfig(max_sessions=None), clock=clock):
            assert "otel_sessions.session.limit" not in signals.export().metrics

    async def test_refusals_are_counted_by_reason(self, signals: Signals, clock: Clock) -> None:
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

    async def test_a_session_is_measured_from_its_start_to_its_closing_mark(
        self, signals: Signals, clock: Clock
    ) -> None:
        async with signals.manager(clock=clock, on_close=Hook(3.0)) as manager:
            session = await manager.create_session()
            await anyio.sleep(7)
            await manager.close_session(session.id)

            point = signals.export().histogram("session.duration")[series(reason="closed")]
            assert point.count == 1
            assert point.sum == pytest.approx(7)

    async def test_each_session_that_ends_with_others_is_measured(self, signals: Signals, clock: Clock) -> None:
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

    async def test_each_session_that_could_not_be_measured_is_an_error(self, clock: Clock) -> None:
        broken = GivingMeter(MeterOfBrokenHistograms("broken"))
        config = SessionConfig(cleanup_interval=10_000, max_idle_time=100)
        async with SessionManager(config, clock=clock, meter_provider=broken) as manager:
            for _ in range(3):
                await manager.create_session()
            await anyio.sleep(100)
            report = await manager.cleanup_stale_sessions()

            assert (report.outcome, report.total_cleaned) == (Outcome.SUCCESS, 3)
            assert manager.get_metrics().cleanup_errors == 3 + 1  # the pass itself cannot be measured either

    async def test_a_creator_is_pending_while_it_waits_at_the_cap(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(FULL_AT_ONE, clock=clock, on_close=Hook(2.0)) as manager:
            await manager.create_session("an id")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(manager.close_session, "an id")
                await settle()
                tasks.start_soon(manager.create_session)
                await settle()
                during = signals.export()
            after = signals.export()

        assert (during.value("session.pending"), after.value("session.pending")) == (1, 0)

    async def test_a_creator_that_waits_for_its_clients_own_place_is_pending(
        self, signals: Signals, clock: Clock
    ) -> None:
        config = SessionConfig(max_sessions_per_client=1, per_client_at_cap=PerClientAtCap.EVICT_OLDEST)
        async with signals.manager(config, clock=clock, on_close=Hook(2.0)) as manager:
            await manager.create_session(client="a client")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(manager.create_session, client="a client"))
                await settle()
                during = signals.export()
            point = signals.export().histogram("session.wait_time")[series()]

        assert during.value("session.pending") == 1
        assert (point.count, point.sum) == pytest.approx((1, 2))

    async def test_a_wait_is_measured_until_the_place_comes(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(FULL_AT_ONE, clock=clock, on_close=Hook(2.0)) as manager:
            await use_every_instrument(manager)

            point = signals.export().histogram("session.wait_time")[series()]
            assert (point.count, point.sum) == pytest.approx((1, 2), abs=0.2)

    async def test_a_wait_that_is_refused_is_measured_too(self, signals: Signals, clock: Clock) -> None:
        config = SessionConfig(max_sessions=1, close_timeout=5.0)
        async with signals.manager(config, clock=clock, on_close=Hook(4.0)) as manager:
            await manager.create_session("an id")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(manager.close_session, "an id")
                await settle()
                tasks.start_soon(refused_at_shutdown, manager)
                await anyio.sleep(1)
                tasks.start_soon(manager.shutdown)

        point = signals.export().histogram("session.wait_time")[series()]
        assert (point.count, point.sum) == pytest.approx((1, 1))

    async def test_a_wait_whose_creator_gives_up_is_measured_too(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(FULL_AT_ONE, clock=clock, on_close=Hook(4.0)) as manager:
            await manager.create_session("an id")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(manager.close_session, "an id")
                await settle()
                with anyio.move_on_after(3):
                    await manager.create_session()

            export = signals.export()
            point = export.histogram("session.wait_time")[series()]
            assert (point.count, point.sum) == pytest.approx((1, 3))
            assert export.value("session.pending") == 0

    async def test_a_creator_that_does_not_wait_has_no_wait_time(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(FULL_AT_ONE, clock=clock) as manager:
            await manager.create_session()
            before = signals.export()
            for _ in range(3):  # the first one waits for the emergency pass
                with pytest.raises(TooManySessions):
                    await manager.create_session()

            assert before.histogram("session.wait_time") == {}
            assert signals.export().histogram("session.wait_time")[series()].count == 1

    async def test_the_configured_interval_is_reported(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(SessionConfig(cleanup_interval=0.0005), clock=clock):
            during = signals.export()

        assert during.value("cleanup.interval") == 0.0005
        assert signals.export().value("cleanup.interval") == 0

    async def test_an_interval_pass_that_is_late_is_overdue(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock):
            await settle()
            clock.skew += CONFIG.cleanup_interval + 7

            assert signals.export().value("cleanup.overdue") == pytest.approx(7, abs=0.5)

    async def test_an_interval_pass_that_is_not_due_yet_is_on_time(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock):
            await settle()
            clock.skew += CONFIG.cleanup_interval - 1

            assert signals.export().value("cleanup.overdue") == 0

    async def test_nothing_is_overdue_after_a_pass_on_time(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock):
            await anyio.sleep(CONFIG.cleanup_interval + 1)

            assert signals.export().value("cleanup.overdue") == 0

    async def test_nothing_is_overdue_while_a_pass_runs(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock, on_close=Hook(4.0)) as manager, anyio.create_task_group() as tasks:
            session = await manager.create_session()
            session.fail("upstream hung up")
            tasks.start_soon(manager.cleanup_stale_sessions)
            await settle()
            clock.skew += CONFIG.cleanup_interval + 7

            assert signals.export().value("cleanup.overdue") == 0


class TestRuns:
    async def test_an_interval_pass_is_a_run(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock):
            await anyio.sleep(CONFIG.cleanup_interval + 1)

            assert signals.export().not_zero("cleanup.runs") == {"success interval": 1}

    async def test_a_manual_and_an_emergency_pass_are_runs(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock) as manager:
            await manager.cleanup_stale_sessions()
            await manager.emergency_cleanup()

            assert signals.export().not_zero("cleanup.runs") == {"success manual": 1, "success emergency": 1}

    async def test_the_shutdown_is_a_run(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock):
            pass

        assert signals.export().not_zero("cleanup.runs") == {"success shutdown": 1}

    async def test_a_preview_is_no_run_and_has_no_span(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock) as manager:
            await manager.preview_cleanup()

            assert (signals.export().not_zero("cleanup.runs"), signals.spans()) == ({}, [])

    async def test_a_pass_whose_hook_fails_is_partial(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock, on_close=Hook(error=OSError())) as manager:
            session = await manager.create_session()
            session.fail("upstream hung up")
            await manager.cleanup_stale_sessions()

            assert signals.export().not_zero("cleanup.runs") == {"partial manual": 1}

    async def test_a_pass_whose_clock_fails_is_an_error(self, signals: Signals, faulty_clock: FaultyClock) -> None:
        async with signals.manager(clock=faulty_clock) as manager:
            faulty_clock.break_down()
            await manager.cleanup_stale_sessions()
            faulty_clock.mend()

            assert signals.export().not_zero("cleanup.runs") == {"error manual": 1}

    async def test_a_pass_whose_caller_gives_up_is_cancelled(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock, on_close=Hook(4.0)) as manager:
            session = await manager.create_session()
            session.fail("upstream hung up")
            with anyio.move_on_after(1):
                await manager.cleanup_stale_sessions()

            assert signals.export().not_zero("cleanup.runs") == {"cancelled manual": 1}

    async def test_a_shutdown_that_runs_out_of_time_is_cancelled(self, signals: Signals, clock: Clock) -> None:
        config = SessionConfig(shutdown_timeout=3.0, close_timeout=60.0)
        async with signals.manager(config, clock=clock, on_close=Hook(30.0)) as manager:
            await manager.create_session()
        export = signals.export()

        assert export.not_zero("cleanup.runs") == {"cancelled shutdown": 1}
        assert export.not_zero("session.cleaned") == {"shutdown": 1}

    async def test_a_run_is_measured_with_its_trigger_and_its_outcome(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock) as manager:
            report = await manager.cleanup_stale_sessions()

            histogram = signals.export().histogram("cleanup.duration")
            assert {key: (point.count, point.sum) for key, point in histogram.items()} == {
                series(trigger="manual", outcome="success"): (1, report.duration)
            }

    async def test_a_run_is_measured_by_a_timer_of_its_own(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock, on_close=Hook(4.0)) as manager:
            session = await manager.create_session()
            session.fail("upstream hung up")
            report = await manager.cleanup_stale_sessions()

        assert 0 < report.duration < 4

    async def test_the_exemplar_of_a_runs_duration_leads_to_its_span(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock) as manager:
            with signals.tracer.start_as_current_span("request"):
                await manager.cleanup_stale_sessions()

            (point,) = signals.export().histogram("cleanup.duration").values()
            span = context_of(signals.span())
            assert [(e.trace_id, e.span_id) for e in point.exemplars] == [(span.trace_id, span.span_id)]


class TestErrors:
    async def test_a_hook_that_hangs_is_a_timeout(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock, on_close=Hook(60.0)) as manager:
            await manager.create_session("an id")
            await manager.close_session("an id")

            assert signals.export().not_zero("cleanup.errors") == {"timeout hook": 1}

    async def test_a_sink_that_hangs_is_a_timeout(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock, sink=Sink(Hook(60.0))) as manager:
            await manager.create_session("an id")
            await manager.close_session("an id")

            assert signals.export().not_zero("cleanup.errors") == {"timeout sink": 1}

    @pytest.mark.parametrize("error", [ValueError("no"), TimeoutError("its own")], ids=repr)
    async def test_a_hook_that_raises_is_a_hook_error(self, signals: Signals, clock: Clock, error: Exception) -> None:
        async with signals.manager(clock=clock, on_close=Hook(error=error)) as manager:
            await manager.create_session("an id")
            await manager.close_session("an id")

            assert signals.export().not_zero("cleanup.errors") == {f"{type(error).__name__} hook": 1}

    @pytest.mark.parametrize("error", [ValueError("no"), TimeoutError("its own")], ids=repr)
    async def test_a_sink_that_raises_is_a_sink_error(self, signals: Signals, clock: Clock, error: Exception) -> None:
        async with signals.manager(clock=clock, sink=Sink(Hook(error=error))) as manager:
            await manager.create_session("an id")
            await manager.close_session("an id")

            assert signals.export().not_zero("cleanup.errors") == {f"{type(error).__name__} sink": 1}

    async def test_one_session_can_give_two_errors(self, signals: Signals, clock: Clock) -> None:
        failing = Hook(error=ValueError("no"))
        async with signals.manager(clock=clock, sink=Sink(failing), on_close=failing) as manager:
            session = await manager.create_session()
            session.fail("upstream hung up")
            report = await manager.cleanup_stale_sessions()

            errors = signals.export().not_zero("cleanup.errors")
            assert (report.hook_errors, errors) == (2, {"ValueError sink": 1, "ValueError hook": 1})

    async def test_a_clock_that_raises_during_a_pass_is_a_pass_error(
        self, signals: Signals, faulty_clock: FaultyClock
    ) -> None:
        async with signals.manager(clock=faulty_clock) as manager:
            await settle()
            faulty_clock.break_down()
            await manager.cleanup_stale_sessions()
            faulty_clock.mend()

            assert signals.export().not_zero("cleanup.errors") == {"OSError pass": 1}

    async def test_an_interval_pass_that_is_aborted_is_not_the_last(
        self, signals: Signals, faulty_clock: FaultyClock
    ) -> None:
        async with signals.manager(clock=faulty_clock):
            await settle()
            await anyio.sleep(CONFIG.cleanup_interval - 1)
            faulty_clock.break_down()
            await anyio.sleep(2)
            faulty_clock.mend()
            await anyio.sleep(CONFIG.cleanup_interval)

            assert signals.export().not_zero("cleanup.runs") == {"error interval": 1, "success interval": 1}

    async def test_the_statistics_have_the_sum_of_the_errors(self, signals: Signals, faulty_clock: FaultyClock) -> None:
        failing = Hook(error=ValueError("no"))
        async with signals.manager(clock=faulty_clock, sink=Sink(failing), on_close=failing) as manager:
            await manager.create_session("an id")
            await manager.close_session("an id")
            faulty_clock.break_down()
            await manager.cleanup_stale_sessions()
            faulty_clock.mend()

            assert manager.get_metrics().cleanup_errors == 3

    async def test_a_manager_whose_clock_fails_on_an_export_takes_no_others_metrics_away(
        self, signals: Signals, clock: Clock, faulty_clock: FaultyClock
    ) -> None:
        async with signals.manager(name="sound", clock=clock), signals.manager(name="broken", clock=faulty_clock):
            await settle()
            faulty_clock.break_down()
            export = signals.export()
            faulty_clock.mend()

            assert export.value("session.limit", "sound") == 1000


class TestBalance:
    @pytest.mark.usefixtures("impatient_threads")
    async def test_every_export_of_another_thread_is_balanced(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock) as manager:
            with Exporting(signals.reader) as exporting:
                await churn(manager, 150)

        assert exporting.exports
        assert all(export.is_balanced for export in exporting.exports)

    @pytest.mark.usefixtures("impatient_threads")
    async def test_no_counter_falls_while_managers_come_and_go(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock):
            with Exporting(signals.reader) as exporting:
                for _ in range(20):
                    async with signals.manager(clock=clock) as manager:
                        await churn(manager, 6)

        exports = [*exporting.exports, signals.export()]
        created = [export.value("session.created") for export in exports]
        assert (created, created[-1]) == (sorted(created), 120)
        assert all(export.is_balanced for export in exports)

    async def test_two_readers_of_one_provider_get_a_balanced_export_each(self, clock: Clock) -> None:
        readers = PatientReader(), PatientReader()
        provider = MeterProvider(readers, shutdown_on_exit=False)
        async with SessionManager(CONFIG, meter_provider=provider, clock=clock) as manager:
            with Exporting(readers[0]) as first, Exporting(readers[1]) as second:
                await churn(manager, 50)

        assert all(export.is_balanced for export in [*first.exports, *second.exports])
