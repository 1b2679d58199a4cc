"""Telemetry that fails, or is not there, disturbs nothing."""

import logging
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from opentelemetry import trace

from otel_sessions import EndReason, Outcome, SessionManager, Trigger
from tests.broken_telemetry import (
    BrokenTracer,
    GivingMeter,
    GivingTracer,
    MeterOfBrokenHistograms,
    MeterWithoutHistograms,
    TracerOfBrokenSpans,
)
from tests.signals import CONFIG, Hook, Signals
from tests.virtual import Clock

pytestmark = pytest.mark.anyio


BROKEN: dict[str, Callable[[], dict[str, Any]]] = {
    "get_tracer": lambda: {"tracer_provider": GivingTracer(None)},
    "start_span": lambda: {"tracer_provider": GivingTracer(BrokenTracer())},
    "span": lambda: {"tracer_provider": GivingTracer(TracerOfBrokenSpans())},
    "get_meter": lambda: {"meter_provider": GivingMeter(None)},
    "create_histogram": lambda: {"meter_provider": GivingMeter(MeterWithoutHistograms("broken"))},
    "record": lambda: {"meter_provider": GivingMeter(MeterOfBrokenHistograms("broken"))},
}


class TestBrokenTelemetry:
    @pytest.mark.parametrize("broken", BROKEN)
    async def test_an_error_of_telemetry_never_reaches_the_caller(
        self, signals: Signals, clock: Clock, broken: str
    ) -> None:
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
        self, signals: Signals, clock: Clock, broken: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with signals.manager(clock=clock, **BROKEN[broken]()) as manager:
            await manager.cleanup_stale_sessions()

        handled = [record for record in caplog.records if record.name == "otel_sessions"]
        assert handled
        assert {record.levelno for record in handled} == {logging.WARNING}
        assert {vars(record)["event.name"] for record in handled} == {"otel_sessions.telemetry.failed"}
        assert len(handled) == manager.get_metrics().cleanup_errors

    @pytest.mark.parametrize(
        "tracer", [None, BrokenTracer(), TracerOfBrokenSpans()], ids=["get_tracer", "start_span", "span"]
    )
    async def test_an_error_of_tracing_is_an_error_of_the_pass_on_the_metric(
        self, signals: Signals, clock: Clock, tracer: trace.Tracer | None
    ) -> None:
        async with signals.manager(clock=clock, tracer_provider=GivingTracer(tracer)) as manager:
            await manager.cleanup_stale_sessions()

            assert list(signals.export().not_zero("cleanup.errors")) == ["RuntimeError pass"]

    async def test_a_span_whose_attributes_fail_is_ended_all_the_same(self, signals: Signals, clock: Clock) -> None:
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

    async def test_a_second_manager_of_a_broken_meter_provider_works_too(self, clock: Clock) -> None:
        provider = GivingMeter(None)
        for _ in range(2):
            async with SessionManager(CONFIG, meter_provider=provider, clock=clock) as manager:
                await manager.create_session()

            assert manager.get_metrics().cleaned_by_reason[EndReason.SHUTDOWN] == 1

    async def test_a_session_whose_duration_cannot_be_recorded_is_counted(self, signals: Signals, clock: Clock) -> None:
        provider = GivingMeter(MeterOfBrokenHistograms("broken"))
        async with signals.manager(clock=clock, meter_provider=provider) as manager:
            await manager.create_session("an id")

            assert await manager.close_session("an id")
            assert (len(manager), manager.get_metrics().cleanup_errors) == (0, 1)


class TestWithoutAnSdk:
    async def test_without_providers_the_global_ones_are_used(self, clock: Clock) -> None:
        async with SessionManager(CONFIG, clock=clock) as manager:
            await manager.create_session()
            report = await manager.cleanup_stale_sessions()

        assert (report.trigger, report.outcome) == (Trigger.MANUAL, Outcome.SUCCESS)

    @pytest.mark.processes
    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_a_manager_works_where_no_sdk_is_installed(self, backend: str) -> None:
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
