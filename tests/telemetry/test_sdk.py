"""What the settings of an SDK do to the signals: temporality, views, exponential histograms and sampling."""

from collections.abc import Sequence

import anyio
import pytest
from opentelemetry.sdk.metrics import (
    Counter,
    Histogram,
    MeterProvider,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
    UpDownCounter,
)
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ExponentialHistogramDataPoint,
)
from opentelemetry.sdk.metrics.view import DropAggregation, ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from otel_sessions import SessionManager
from tests.signals import CONFIG, NAME, REASON, Export, PatientReader, Signals, context_of, series
from tests.virtual import Clock

pytestmark = pytest.mark.anyio

DELTA = AggregationTemporality.DELTA
CUMULATIVE = AggregationTemporality.CUMULATIVE
ALL_KINDS = (Counter, UpDownCounter, Histogram, ObservableCounter, ObservableUpDownCounter, ObservableGauge)
PREFERENCES = {
    "delta": {kind: CUMULATIVE if kind in (UpDownCounter, ObservableUpDownCounter) else DELTA for kind in ALL_KINDS},
    "lowmemory": {kind: DELTA if kind in (Counter, Histogram) else CUMULATIVE for kind in ALL_KINDS},
}
"""What `OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE` means (the specification of the OTLP metrics exporter)."""


class Setup:
    """A manager under a provider with settings of its own."""

    def __init__(self, clock: Clock, *, preference: str | None = None, views: Sequence[View] = ()) -> None:
        temporality = None if preference is None else PREFERENCES[preference]
        self.reader = PatientReader(preferred_temporality=temporality)  # type: ignore[arg-type]
        provider = MeterProvider([self.reader], views=views, shutdown_on_exit=False)
        self.manager = SessionManager[None](CONFIG, meter_provider=provider, clock=clock)

    def export(self) -> Export:
        return Export(self.reader)


async def make(manager: SessionManager[None], count: int) -> None:
    for _ in range(count):
        await manager.create_session()


class TestTemporality:
    async def test_with_delta_counters_say_what_is_new_and_levels_stay_levels(self, clock: Clock) -> None:
        setup = Setup(clock, preference="delta")
        async with setup.manager as manager:
            await make(manager, 5)
            exports = [setup.export()]
            await make(manager, 4)
            exports += [setup.export(), setup.export()]

        assert [export.value("session.created") for export in exports] == [5, 4, 0]
        assert [export.value("session.active", state="unleased") for export in exports] == [5, 9, 9]
        assert [export.value("session.limit") for export in exports] == [1000, 1000, 1000]

    async def test_with_delta_the_sums_of_all_exports_balance(self, clock: Clock) -> None:
        setup = Setup(clock, preference="delta")
        created = cleaned = 0.0
        async with setup.manager as manager:
            for number in range(6):
                session = await manager.create_session()
                if number % 2:
                    await manager.close_session(session.id)
                export = setup.export()
                created += export.sums("session.created")["default"]
                cleaned += export.sums("session.cleaned")["default"]

                assert created - cleaned == export.sums("session.active")["default"]

    async def test_with_low_memory_observed_counters_stay_cumulative(self, clock: Clock) -> None:
        setup = Setup(clock, preference="lowmemory")
        async with setup.manager as manager:
            await make(manager, 5)
            exports = [setup.export()]
            await make(manager, 4)
            exports.append(setup.export())

        assert [export.value("session.created") for export in exports] == [5, 9]
        assert all(export.is_balanced for export in exports)

    async def test_with_delta_a_histogram_has_what_ended_since_the_last_export(self, clock: Clock) -> None:
        setup = Setup(clock, preference="delta")
        async with setup.manager as manager:
            counts = []
            for ended in (3, 1):
                await make(manager, ended)
                for session_id in list(manager._store.sessions):
                    await manager.close_session(session_id)
                counts.append(setup.export().histogram("session.duration")[series(reason="closed")].count)

        assert counts == [3, 1]


class TestViews:
    async def test_an_exponential_histogram_needs_no_edges_of_ours(self, clock: Clock) -> None:
        view = View(
            instrument_name="otel_sessions.session.duration", aggregation=ExponentialBucketHistogramAggregation()
        )
        setup = Setup(clock, views=[view])
        async with setup.manager as manager:
            session = await manager.create_session()
            await anyio.sleep(7)
            await manager.close_session(session.id)

            (point,) = setup.export().metrics["otel_sessions.session.duration"].data.data_points
        assert isinstance(point, ExponentialHistogramDataPoint)
        assert (point.count, point.sum, point.max) == pytest.approx((1, 7, 7))

    async def test_a_view_that_drops_the_reason_keeps_the_total_and_the_balance(self, clock: Clock) -> None:
        view = View(instrument_name="otel_sessions.session.cleaned", attribute_keys={NAME})
        setup = Setup(clock, views=[view])
        async with setup.manager as manager:
            await make(manager, 3)
            (await manager.create_session()).fail("upstream hung up")
            await manager.close_session((await manager.create_session()).id)
            await manager.cleanup_stale_sessions()
            export = setup.export()

        assert export.values("session.cleaned") == {series(): 2}
        assert export.is_balanced

    async def test_a_view_that_drops_the_reason_of_a_histogram_adds_its_counts(self, clock: Clock) -> None:
        view = View(instrument_name="otel_sessions.session.duration", attribute_keys={NAME})
        setup = Setup(clock, views=[view])
        async with setup.manager as manager:
            (await manager.create_session()).fail("upstream hung up")
            await manager.close_session((await manager.create_session()).id)
            await manager.cleanup_stale_sessions()
            points = setup.export().histogram("session.duration")

        assert {key: point.count for key, point in points.items()} == {series(): 2}

    async def test_a_metric_that_a_view_drops_takes_no_other_along(self, clock: Clock) -> None:
        view = View(instrument_name="otel_sessions.cleanup.*", aggregation=DropAggregation())
        setup = Setup(clock, views=[view])
        async with setup.manager as manager:
            await make(manager, 3)
            exports = [setup.export(), setup.export()]

        assert not [name for name in exports[0].metrics if ".cleanup." in name]
        assert [export.value("session.created") for export in exports] == [3, 3]
        assert all(export.is_balanced for export in exports)

    async def test_a_view_that_renames_a_metric_keeps_its_words(self, clock: Clock) -> None:
        view = View(instrument_name="otel_sessions.session.cleaned", name="otel_sessions.ended")
        setup = Setup(clock, views=[view])
        async with setup.manager as manager:
            await manager.close_session((await manager.create_session()).id)

            assert {dict(key)[REASON]: value for key, value in setup.export().values("ended").items() if value} == {
                "closed": 1
            }


class TestSampling:
    async def test_a_sampler_that_drops_every_span_changes_no_metric(self, signals: Signals, clock: Clock) -> None:
        exporter = InMemorySpanExporter()
        tracers = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
        tracers.add_span_processor(SimpleSpanProcessor(exporter))
        async with signals.manager(clock=clock, tracer_provider=tracers) as manager:
            (await manager.create_session()).fail("upstream hung up")
            await manager.cleanup_stale_sessions()
            export = signals.export()

        (point,) = export.histogram("cleanup.duration").values()
        assert exporter.get_finished_spans() == ()
        assert (point.count, list(point.exemplars)) == (1, [])
        assert export.not_zero("cleanup.runs") == {"success manual": 1}
        assert export.is_balanced

    async def test_an_exemplar_of_a_sampled_pass_points_at_its_span(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock) as manager:
            await manager.cleanup_stale_sessions()

            (point,) = signals.export().histogram("cleanup.duration").values()
            span = context_of(signals.span())
            assert [(e.trace_id, e.span_id) for e in point.exemplars] == [(span.trace_id, span.span_id)]
