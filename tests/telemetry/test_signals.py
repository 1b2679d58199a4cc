"""The table of the signals: what managers export agrees with it, and its words are bounded."""

import logging
from typing import Any, NoReturn

import anyio
import pytest

from otel_sessions import EndReason, Outcome, Session, SessionConfig, SessionManager, Trigger
from otel_sessions._telemetry import signals as table
from tests.doubles import FaultyClock
from tests.signals import ERROR, STAGE, Export, Hook, Signals, series
from tests.virtual import Clock, settle

from .tables import assert_described

pytestmark = pytest.mark.anyio

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
MOST_SERIES = 2000
"""What the SDKs keep apart by default (OpenTelemetry's specification of the metrics SDK, cardinality limits)."""


def error_of(name: str) -> Exception:
    made: type[Exception] = type(name, (Exception,), {})
    return made()


class Failing:
    """A close hook that raises an error of another class each time."""

    def __init__(self, classes: int) -> None:
        self.names = [f"Error{number}" for number in range(classes)]

    async def __call__(self, session: Session[Any], reason: EndReason) -> None:
        raise error_of(self.names.pop(0))


async def end_sessions(manager: SessionManager[None], count: int) -> None:
    for _ in range(count):
        session = await manager.create_session()
        await manager.close_session(session.id)


class TestTable:
    async def test_what_is_exported_is_what_the_table_says(self, signals: Signals, faulty_clock: FaultyClock) -> None:
        config = SessionConfig(max_sessions=1)
        async with signals.manager(config, clock=faulty_clock, on_close=Hook(1.0, OSError())) as manager:
            await manager.create_session("an id")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(manager.close_session, "an id")
                await settle()
                await manager.create_session()
            faulty_clock.break_down()
            await manager.cleanup_stale_sessions()
            faulty_clock.mend()
        export = signals.export()

        described = {metric.name: metric for metric in table.METRICS}
        assert set(export.metrics) == set(described)
        for name, metric in export.metrics.items():
            assert_described(metric, described[name])

    @pytest.mark.parametrize("metric", table.METRICS, ids=lambda metric: metric.name)
    def test_no_metric_can_have_as_many_series_as_an_sdk_folds(self, metric: table.Metric) -> None:
        assert metric.most_series < MOST_SERIES

    async def test_the_attributes_of_the_span_are_those_of_the_table(
        self, signals: Signals, faulty_clock: FaultyClock
    ) -> None:
        async with signals.manager(clock=faulty_clock) as manager:
            faulty_clock.break_down()
            await manager.cleanup_stale_sessions()
            faulty_clock.mend()

        aborted, done = signals.spans()
        attributes = [attribute.name for attribute in table.SPAN_ATTRIBUTES]
        assert sorted(aborted.attributes or {}) == sorted(attributes)
        assert sorted(done.attributes or {}) == sorted(set(attributes) - {ERROR})

    async def test_metrics_and_spans_name_the_conventions_that_they_follow(
        self, signals: Signals, clock: Clock
    ) -> None:
        async with signals.manager(clock=clock) as manager:
            await manager.cleanup_stale_sessions()
            export = signals.export()

        (span, _) = signals.spans()
        assert span.instrumentation_scope is not None
        assert (export.schemas, span.instrumentation_scope.schema_url) == ({SCHEMA}, SCHEMA)


class TestErrorsOfManyClasses:
    async def test_five_hundred_classes_are_told_apart_and_the_rest_is_one(
        self, signals: Signals, clock: Clock
    ) -> None:
        async with signals.manager(clock=clock, on_close=Failing(510)) as manager:
            await end_sessions(manager, 510)
            errors = signals.export().values("cleanup.errors")
            counted = manager.get_metrics().cleanup_errors

        assert (len(errors), errors[series(stage="hook", error="_OTHER")]) == (500 + 3, 10)
        assert sum(errors.values()) == counted == 510

    async def test_all_managers_of_a_provider_share_the_bound(self, signals: Signals, clock: Clock) -> None:
        for name in ("one", "two", "three"):
            async with signals.manager(name=name, clock=clock, on_close=Failing(200)) as manager:
                await end_sessions(manager, 200)
                live = signals.export()
        left = signals.export()

        for export in (live, left):
            errors = export.values("cleanup.errors")
            assert len(errors) == 500 + 3 * 3
            assert (sum(errors.values()), errors[series("three", stage="hook", error="_OTHER")]) == (600, 100)

    async def test_a_series_that_was_told_apart_goes_on(self, signals: Signals, clock: Clock) -> None:
        for _ in range(2):
            async with signals.manager(clock=clock, on_close=Failing(501)) as manager:
                await end_sessions(manager, 501)
        export = signals.export()

        assert export.value("cleanup.errors", stage="hook", error="Error0") == 2
        assert export.value("cleanup.errors", stage="hook", error="_OTHER") == 2

    async def test_the_books_that_go_on_after_a_run_keep_their_errors(self, signals: Signals, clock: Clock) -> None:
        manager = signals.manager(clock=clock, on_close=Failing(2))
        for _ in range(2):
            async with manager:
                await end_sessions(manager, 1)

        assert signals.export().not_zero("cleanup.errors") == {"Error0 hook": 1, "Error1 hook": 1}


class NewErrors:
    """Raises an error of another class at each reading of the clock."""

    def __init__(self) -> None:
        self.raised = 0

    def __call__(self, now: float) -> NoReturn:
        self.raised += 1
        raise error_of(f"Error{self.raised}")


class TestAbortedPasses:
    async def test_the_duration_of_a_pass_says_why_it_was_aborted(
        self, signals: Signals, faulty_clock: FaultyClock
    ) -> None:
        async with signals.manager(clock=faulty_clock) as manager:
            faulty_clock.break_down()
            await manager.cleanup_stale_sessions()
            faulty_clock.mend()
            await manager.cleanup_stale_sessions()

            assert set(signals.export().histogram("cleanup.duration")) == {
                series(trigger="manual", outcome="error", error="OSError"),
                series(trigger="manual", outcome="success"),
            }

    async def test_a_pass_that_is_cancelled_has_no_error_type(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock, on_close=Hook(4.0)) as manager:
            (await manager.create_session()).fail("upstream hung up")
            with anyio.move_on_after(1):
                await manager.cleanup_stale_sessions()

            assert set(signals.export().histogram("cleanup.duration")) == {
                series(trigger="manual", outcome="cancelled")
            }

    async def test_three_hundred_kinds_of_aborted_passes_are_told_apart(
        self, signals: Signals, faulty_clock: FaultyClock
    ) -> None:
        async with signals.manager(clock=faulty_clock) as manager:
            faulty_clock.wrong = NewErrors()
            for _ in range(310):
                await manager.cleanup_stale_sessions()
            faulty_clock.mend()
            points = signals.export().histogram("cleanup.duration")

        other = series(trigger="manual", outcome="error", error="_OTHER")
        assert (len(points), points[other].count) == (300 + 1, 310 - 300)


class TestLogs:
    async def test_a_failure_that_the_manager_handles_is_a_warning_with_its_stage_and_type(
        self, signals: Signals, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with signals.manager(clock=clock, on_close=Hook(error=OSError())) as manager:
            await end_sessions(manager, 1)

        [record] = caplog.records
        told = vars(record)
        assert record.levelno == logging.WARNING
        assert told["event.name"] == "otel_sessions.cleanup.call_failed"
        assert (told[STAGE], told[ERROR]) == ("hook", "OSError")

    async def test_a_hook_that_runs_out_of_time_is_logged_as_a_timeout(
        self, signals: Signals, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with signals.manager(clock=clock, on_close=Hook(60.0)) as manager:
            await end_sessions(manager, 1)

        [record] = caplog.records
        assert (record.levelno, vars(record)[ERROR]) == (logging.WARNING, "timeout")

    async def test_a_pass_is_logged_with_its_trigger_its_outcome_and_its_event(
        self, signals: Signals, faulty_clock: FaultyClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "otel_sessions")
        async with signals.manager(clock=faulty_clock) as manager:
            await manager.cleanup_stale_sessions()
            faulty_clock.break_down()
            await manager.cleanup_stale_sessions()
            faulty_clock.mend()
            lines = [
                (record.levelname, vars(record)["event.name"], vars(record)["otel_sessions.cleanup.outcome"])
                for record in caplog.records
            ]

        assert lines == [
            ("DEBUG", "otel_sessions.cleanup.ended", Outcome.SUCCESS.value),
            ("ERROR", "otel_sessions.cleanup.aborted", Outcome.ERROR.value),
        ]


def test_every_pair_of_words_of_a_run_is_in_the_table() -> None:
    words = [attribute.words for attribute in table.CLEANUP_RUNS.attributes]

    assert words == [tuple(Trigger), tuple(Outcome)]


def test_an_export_that_has_no_metrics_has_no_schema(signals: Signals) -> None:
    assert Export(signals.reader).schemas == set()
