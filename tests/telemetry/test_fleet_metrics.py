"""What a manager reports of a fleet with a store: as the table says, from its state alone, and never without one."""

import gc
import weakref
from typing import Any

import pytest
from opentelemetry import trace

from otel_sessions import SessionManager
from otel_sessions._core.fleet_state import FleetState, Totals
from otel_sessions._core.words import (
    LookupOutcome,
    MemberState,
    OrphanOutcome,
    Resync,
    StoreOperation,
    StoreOutcome,
)
from otel_sessions._telemetry import fleet_signals as table
from otel_sessions._telemetry.signals import METRICS
from otel_sessions.fleet import scripts
from tests.broken_telemetry import GivingMeter, MeterOfBrokenHistograms
from tests.measured_fleet import STATE, MeasuredFleet
from tests.programs import output_of
from tests.signals import NAME, Export, Signals
from tests.virtual import Clock

from .tables import assert_described

pytestmark = pytest.mark.anyio

MOST_SERIES = 2000
FLEET = {metric.name for metric in table.METRICS}
ANSWERED, UNAVAILABLE = StoreOutcome.ANSWERED, StoreOutcome.UNAVAILABLE


def words(export: Export, metric: str, manager: str = "default") -> dict[str, float]:
    """Return all values of a metric of the fleet by their words, those at 0 too."""
    return {
        " ".join(value for key, value in sorted(attributes) if key != NAME): value
        for attributes, value in export.values(f"fleet.{metric}").items()
        if (NAME, manager) in attributes
    }


def one(export: Export, metric: str, manager: str = "default") -> float:
    """Return the value of a metric of the fleet that has no words."""
    return words(export, metric, manager)[""]


def calls(signals: Signals) -> dict[tuple[str, str, str], int]:
    """Return how many calls to a store were recorded, by manager, operation and outcome."""
    points = signals.export().histogram("fleet.store.duration")
    return {
        (str(about[NAME]), str(about[table.STORE_OPERATION]), str(about[table.STORE_OUTCOME])): point.count
        for about, point in ((dict(attributes), point) for attributes, point in points.items())
    }


class TestTable:
    async def test_what_a_fleet_exports_is_what_the_table_says(self, signals: Signals, clock: Clock) -> None:
        fleet = MeasuredFleet()
        async with signals.manager(clock=clock, fleet=fleet):
            for outcome in StoreOutcome:
                fleet.called(StoreOperation.PUT, outcome, 0.001)
            export = signals.export()

        described = {metric.name: metric for metric in table.METRICS}
        assert set(export.metrics) - {metric.name for metric in METRICS} == set(described)
        for name in described:
            assert_described(export.metrics[name], described[name])

    @pytest.mark.parametrize("metric", table.METRICS, ids=lambda metric: metric.name)
    def test_no_metric_can_have_as_many_series_as_an_sdk_folds(self, metric: Any) -> None:
        assert metric.most_series < MOST_SERIES

    def test_an_operation_is_the_name_of_a_script(self) -> None:
        assert [word.value for word in StoreOperation] == [script.name for script in scripts.ALL]


class TestState:
    async def test_a_manager_without_a_store_exports_none_of_it(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock) as manager:
            await manager.create_session()
            export = signals.export()

        assert not FLEET & set(export.metrics)

    async def test_each_number_of_the_state_is_exported(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock, fleet=MeasuredFleet()):
            export = signals.export()

        of_reasons = {reason: count for reason, count in words(export, "session.cleaned").items() if count}
        assert of_reasons == {"closed": 50, "orphaned": 6}
        names = ("session.created", "session.active", "session.limit", "session.granted", "resets", "dead.oldest")
        assert [one(export, name) for name in names] == [90, 34, 100, 80, 1, 4.0]
        own = ("grant", "membership.remaining", "membership.lease", "fenced", "late")
        assert [one(export, name) for name in own] == [40, 12.5, 15.0, 2, 3]
        assert words(export, "members") == {"living": 3, "dead": 1}
        assert words(export, "orphans") == {"cleaned": 5, "failed": 1, "taken": 0}
        assert words(export, "resyncs") == {"put": 7, "ended": 0}
        assert words(export, "lookups") == {"hint": 8, "cache": 0, "found": 0, "none": 9, "refused": 0}

    async def test_every_word_is_there_from_the_start_at_zero(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock, fleet=MeasuredFleet(FleetState(totals=Totals()))):
            export = signals.export()

        expected: dict[str, set[str]] = {
            "session.cleaned": {*map(str, table.FLEET_REASONS), "_OTHER"},
            "members": {word.value for word in MemberState},
            "orphans": {word.value for word in OrphanOutcome},
            "resyncs": {word.value for word in Resync},
            "lookups": {word.value for word in LookupOutcome},
        }
        for metric, known in expected.items():
            assert words(export, metric) == dict.fromkeys(known, 0)

    async def test_totals_are_absent_until_they_are_known(self, signals: Signals, clock: Clock) -> None:
        fleet = MeasuredFleet(FleetState(lease=15.0))
        async with signals.manager(clock=clock, fleet=fleet):
            before = signals.export()
            fleet.change(totals=Totals(created=1, active=1))
            after = signals.export()

        totals = {name for name in FLEET if ".fleet.session." in name}
        assert len(totals) == 5
        assert FLEET - set(before.metrics) == totals | {table.STORE_DURATION.name}
        assert totals <= set(after.metrics)

    async def test_a_reason_of_another_release_counts_as_other_and_the_books_balance(
        self, signals: Signals, clock: Clock
    ) -> None:
        totals = Totals(created=9, ended={"closed": 2, "handed_over": 3, "_OTHER": 1}, active=3)
        async with signals.manager(clock=clock, fleet=MeasuredFleet(FleetState(totals=totals))):
            export = signals.export()

        cleaned = words(export, "session.cleaned")
        assert cleaned["_OTHER"] == 4
        assert one(export, "session.created") == sum(cleaned.values()) + one(export, "session.active")


class TestEnd:
    async def test_what_is_known_of_the_fleet_ends_with_the_run_and_counts_stay(
        self, signals: Signals, clock: Clock
    ) -> None:
        manager = signals.manager(clock=clock, fleet=MeasuredFleet())
        async with manager:
            signals.export()
        export = signals.export()

        assert words(export, "members") == {"living": 0, "dead": 0}
        for name in ("grant", "membership.remaining", "membership.lease", "dead.oldest"):
            assert one(export, name) == 0
        assert (one(export, "fenced"), one(export, "resets"), words(export, "resyncs")["put"]) == (2, 1, 7)
        assert "otel_sessions.fleet.session.created" not in export.metrics

    async def test_what_is_counted_between_the_last_export_and_the_end_is_not_lost(
        self, signals: Signals, clock: Clock
    ) -> None:
        fleet = MeasuredFleet()
        manager = signals.manager(clock=clock, fleet=fleet)
        async with manager:
            signals.export()
            fleet.change(fenced=3)
        fleet.change(resets=2)

        export = signals.export()
        assert (one(export, "fenced"), one(export, "resets")) == (3, 2)
        assert manager.name == "default"

    async def test_a_manager_that_is_garbage_leaves_its_last_counts_behind(
        self, signals: Signals, clock: Clock
    ) -> None:
        fleet = MeasuredFleet()
        manager = signals.manager(clock=clock, fleet=fleet)
        gone = weakref.ref(manager)
        async with manager:
            fleet.change(fenced=5)
        del manager, fleet.called
        gc.collect()

        assert gone() is None
        export = signals.export()
        assert (one(export, "fenced"), words(export, "members")) == (5, {"living": 0, "dead": 0})

    async def test_a_second_run_goes_on_under_the_same_series(self, signals: Signals, clock: Clock) -> None:
        fleet = MeasuredFleet()
        manager = signals.manager(clock=clock, fleet=fleet)
        for _ in range(2):
            async with manager:
                export = signals.export()

        assert (one(export, "fenced"), one(export, "grant"), words(export, "members")["living"]) == (2, 40, 3)

    @pytest.mark.processes
    def test_a_forked_process_has_nothing_of_its_parents_fleet(self) -> None:
        program = """
        import os
        import anyio
        from tests.measured_fleet import MeasuredFleet
        from tests.signals import Signals

        signals = Signals()

        async def main():
            async with signals.manager(fleet=MeasuredFleet()):
                signals.export()
                if (pid := os.fork()) == 0:
                    print(sorted(name for name in signals.export().metrics if ".fleet." in name), flush=True)
                    os._exit(0)
                os.waitpid(pid, 0)

        anyio.run(main)
        """
        assert output_of(program) == ["['otel_sessions.fleet.forwarded']"]


class TestSeveralManagers:
    async def test_counts_and_grants_of_one_name_are_added_up(self, signals: Signals, clock: Clock) -> None:
        other = MeasuredFleet(
            FleetState(living=4, dead=0, grant=2, remaining=3.0, lease=9.0, fenced=1, lookups={LookupOutcome.NONE: 1})
        )
        async with signals.manager(clock=clock, fleet=MeasuredFleet()), signals.manager(clock=clock, fleet=other):
            export = signals.export()

        assert (one(export, "grant"), one(export, "fenced"), one(export, "membership.lease")) == (42, 3, 15.0)
        assert one(export, "membership.remaining") == 3.0
        assert words(export, "members") == {"living": 4, "dead": 1}
        assert (words(export, "lookups")["none"], one(export, "session.created")) == (10, 90)

    async def test_of_two_totals_one_counts_as_a_whole(self, signals: Signals, clock: Clock) -> None:
        ahead = MeasuredFleet(FleetState(totals=Totals(created=91, ended={"closed": 61}, active=30)))
        async with signals.manager(clock=clock, fleet=MeasuredFleet()), signals.manager(clock=clock, fleet=ahead):
            export = signals.export()

        assert (one(export, "session.created"), one(export, "session.active")) == (91, 30)

    async def test_a_manager_without_a_store_hides_no_other_of_its_name(self, signals: Signals, clock: Clock) -> None:
        alone: dict[str, Any] = {"clock": clock}
        async with signals.manager(**alone), signals.manager(**alone, fleet=MeasuredFleet()), signals.manager(**alone):
            assert one(signals.export(), "grant") == 40


class TestCallsToTheStore:
    async def test_a_call_is_recorded_by_operation_and_outcome(self, signals: Signals, clock: Clock) -> None:
        fleet = MeasuredFleet()
        async with signals.manager(clock=clock, fleet=fleet):
            fleet.called(StoreOperation.BEAT, ANSWERED, 0.002)
            fleet.called(StoreOperation.BEAT, ANSWERED, 0.004)
            fleet.called(StoreOperation.PUT, UNAVAILABLE, 5.0)

        assert calls(signals) == {("default", "beat", "answered"): 2, ("default", "put", "unavailable"): 1}

    async def test_two_hundred_failing_operations_are_told_apart(self, signals: Signals, clock: Clock) -> None:
        fleet = MeasuredFleet()
        for number in range(20):  # each of them fails at every operation
            settings: dict[str, Any] = {"name": f"name {number}", "tracer_provider": trace.NoOpTracerProvider()}
            async with signals.manager(clock=clock, fleet=fleet, **settings):
                for operation in StoreOperation:
                    fleet.called(operation, UNAVAILABLE, 1.0)
                    fleet.called(operation, ANSWERED, 1.0)
        counted = calls(signals)

        failing = {key: count for key, count in counted.items() if key[2] == "unavailable"}
        assert sum(failing.values()) == 20 * len(StoreOperation)
        assert len([key for key in failing if key[1] != "_OTHER"]) == 200
        assert len(counted) - len(failing) == 20 * len(StoreOperation)


class TestTrouble:
    async def test_a_state_that_raises_stops_no_export_and_the_last_one_counts(
        self, signals: Signals, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        fleet = MeasuredFleet()
        async with signals.manager(clock=clock, fleet=fleet) as manager:
            signals.export()
            fleet.error = RuntimeError("no state")
            await manager.create_session()
            export = signals.export()

        assert (export.value("session.created"), one(export, "fenced")) == (1, 2)
        assert [vars(record)["event.name"] for record in caplog.records][:1] == ["otel_sessions.telemetry.failed"]

    async def test_a_state_that_raises_from_the_start_is_absent(self, signals: Signals, clock: Clock) -> None:
        fleet = MeasuredFleet()
        fleet.error = RuntimeError("no state")
        async with signals.manager(clock=clock, fleet=fleet):
            export = signals.export()

        assert not FLEET & set(export.metrics)
        assert export.is_balanced

    async def test_a_histogram_that_raises_never_reaches_the_fleet(self, clock: Clock) -> None:
        fleet = MeasuredFleet(STATE)
        provider = GivingMeter(MeterOfBrokenHistograms("broken"))
        async with SessionManager[None](clock=clock, fleet=fleet, meter_provider=provider) as manager:
            fleet.called(StoreOperation.PUT, ANSWERED, 1.0)

            assert manager.get_metrics().cleanup_errors == 1
