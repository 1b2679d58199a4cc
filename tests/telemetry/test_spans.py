"""The spans of cleanup passes, what runs and is logged under them, and what no signal shows."""

import importlib.metadata
import json
import logging
from collections.abc import Iterator, Mapping

import anyio
import anyio.lowlevel
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from otel_sessions import EndReason, Session, SessionConfig, SessionNotFound
from tests.doubles import FaultyClock, Sink
from tests.signals import CONFIG, TRIGGER, Hook, Signals, context_of
from tests.virtual import Clock

pytestmark = pytest.mark.anyio


class TestSpans:
    async def test_there_is_one_span_for_each_pass(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock) as manager:
            await anyio.sleep(CONFIG.cleanup_interval + 1)
            await manager.cleanup_stale_sessions()
            await manager.emergency_cleanup()

        triggers = [span.attributes[TRIGGER] for span in signals.spans() if span.attributes]
        assert triggers == ["interval", "manual", "emergency", "shutdown"]

    async def test_a_span_is_internal_and_named_for_the_cleanup(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock) as manager:
            await manager.cleanup_stale_sessions()

            span = signals.span()
            assert (span.name, span.kind) == ("otel_sessions.cleanup", SpanKind.INTERNAL)

    async def test_a_span_stands_in_the_scope_with_the_version_of_the_distribution(
        self, signals: Signals, clock: Clock
    ) -> None:
        async with signals.manager(clock=clock) as manager:
            await manager.cleanup_stale_sessions()

            scope = signals.span().instrumentation_scope
            assert scope is not None
            assert (scope.name, scope.version) == ("otel_sessions", importlib.metadata.version("otel-sessions"))

    async def test_a_span_has_the_report_of_its_pass(self, signals: Signals, clock: Clock) -> None:
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

    async def test_a_span_has_its_manager_and_its_trigger_from_the_start(self, signals: Signals, clock: Clock) -> None:
        seen: list[Mapping[str, object]] = []

        async def look(session: Session[None], reason: EndReason) -> None:
            span = trace.get_current_span()
            assert isinstance(span, ReadableSpan)
            seen.append(dict(span.attributes or {}))

        async with signals.manager(clock=clock, on_close=look) as manager:
            (await manager.create_session()).fail("upstream hung up")
            await manager.cleanup_stale_sessions()

        assert seen == [{"otel_sessions.manager.name": "default", "otel_sessions.cleanup.trigger": "manual"}]

    async def test_a_pass_that_finds_nothing_has_a_span_too(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock):
            await anyio.sleep(CONFIG.cleanup_interval + 1)

            attributes = signals.span().attributes
            assert attributes is not None
            assert attributes["otel_sessions.cleanup.cleaned"] == 0

    async def test_an_orderly_pass_leaves_the_status_unset(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock, on_close=Hook(error=ValueError("no"))) as manager:
            (await manager.create_session()).fail("upstream hung up")
            await manager.cleanup_stale_sessions()

            assert signals.span().status.status_code is StatusCode.UNSET

    async def test_the_spans_of_a_manager_that_is_entered_within_a_span_are_roots_all_the_same(
        self, signals: Signals, clock: Clock
    ) -> None:
        with signals.tracer.start_as_current_span("startup"):
            async with signals.manager(clock=clock) as manager:
                await anyio.sleep(CONFIG.cleanup_interval + 1)
                await manager.cleanup_stale_sessions()
                await manager.emergency_cleanup()

        assert [span.parent for span in signals.spans()] == [None, None, None, None]

    async def test_an_interval_and_the_shutdown_pass_are_linked_to_nothing(
        self, signals: Signals, clock: Clock
    ) -> None:
        with signals.tracer.start_as_current_span("startup"):
            async with signals.manager(clock=clock):
                await anyio.sleep(CONFIG.cleanup_interval + 1)

        assert [list(span.links) for span in signals.spans()] == [[], []]

    async def test_a_manual_pass_is_linked_to_its_caller(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock) as manager:
            with signals.tracer.start_as_current_span("request") as request:
                await manager.cleanup_stale_sessions()

            span = signals.span()
            assert [link.context for link in span.links] == [context_of(request)]
            assert context_of(span).trace_id != context_of(request).trace_id

    async def test_a_manual_pass_without_a_span_around_it_is_linked_to_nothing(
        self, signals: Signals, clock: Clock
    ) -> None:
        async with signals.manager(clock=clock) as manager:
            await manager.cleanup_stale_sessions()

            assert list(signals.span().links) == []

    async def test_an_emergency_pass_by_hand_is_linked_to_its_caller(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock) as manager:
            with signals.tracer.start_as_current_span("request") as request:
                await manager.emergency_cleanup()

            assert [link.context for link in signals.span().links] == [context_of(request)]

    async def test_an_emergency_pass_at_the_cap_is_linked_to_the_creator(self, signals: Signals, clock: Clock) -> None:
        config = SessionConfig(cleanup_interval=10_000, max_sessions=1, emergency_idle_time=20)
        async with signals.manager(config, clock=clock) as manager:
            await manager.create_session()
            await anyio.sleep(20)
            with signals.tracer.start_as_current_span("request") as request:
                await manager.create_session()

            span = signals.span()
            assert (span.parent, [link.context for link in span.links]) == (None, [context_of(request)])

    async def test_an_aborted_pass_has_the_status_error_and_the_class_of_the_exception(
        self, signals: Signals, faulty_clock: FaultyClock
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
        self, signals: Signals, faulty_clock: FaultyClock
    ) -> None:
        async with signals.manager(clock=faulty_clock) as manager:
            faulty_clock.break_down()
            await manager.cleanup_stale_sessions()
            faulty_clock.mend()

            span = signals.span()
            assert (span.status.description, list(span.events)) == (None, [])

    async def test_a_cancelled_pass_ends_its_span_without_an_error(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock, on_close=Hook(4.0)) as manager:
            (await manager.create_session()).fail("upstream hung up")
            with anyio.move_on_after(1):
                await manager.cleanup_stale_sessions()

            span = signals.span()
            assert span.attributes is not None
            assert span.attributes["otel_sessions.cleanup.outcome"] == "cancelled"
            assert (span.status.status_code, "error.type" in span.attributes) == (StatusCode.UNSET, False)

    async def test_there_are_no_spans_but_the_passes(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock, on_close=Hook()) as manager:
            await manager.create_session("an id")
            with manager.pin("an id"):
                pass
            async with manager.lease("an id"):
                pass
            await manager.close_session("an id")

            assert signals._exporter.get_finished_spans() == ()


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


class TestLogs:
    async def test_a_pass_that_goes_well_is_a_line_for_who_wants_it_under_its_span(
        self, signals: Signals, clock: Clock, lines: TraceIds
    ) -> None:
        async with signals.manager(clock=clock) as manager:
            (await manager.create_session()).fail("upstream hung up")
            with signals.tracer.start_as_current_span("request"):
                await manager.cleanup_stale_sessions()

            says = "cleanup pass (manual) success: cleaned 1, examined 1, hook errors 0, remaining 0"
            assert lines.seen == [(logging.DEBUG, says, context_of(signals.span()).trace_id)]

    async def test_an_aborted_pass_is_logged_under_its_span(
        self, signals: Signals, faulty_clock: FaultyClock, lines: TraceIds
    ) -> None:
        async with signals.manager(clock=faulty_clock) as manager:
            faulty_clock.break_down()
            await manager.cleanup_stale_sessions()
            faulty_clock.mend()

            (aborted,) = [(level, trace_id) for level, text, trace_id in lines.seen if "was aborted" in text]
            assert aborted == (logging.ERROR, context_of(signals.span()).trace_id)

    async def test_a_hook_that_fails_is_logged_under_the_span_of_its_pass(
        self, signals: Signals, clock: Clock, lines: TraceIds
    ) -> None:
        async with signals.manager(clock=clock, on_close=Hook(error=ValueError("broken"))) as manager:
            (await manager.create_session()).fail("upstream hung up")
            await manager.cleanup_stale_sessions()

            (failed,) = [trace_id for _, text, trace_id in lines.seen if "the hook of session" in text]
            assert failed == context_of(signals.span()).trace_id

    async def test_what_is_logged_leaves_the_callers_own_span_current(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock) as manager:
            with signals.tracer.start_as_current_span("request") as request:
                await manager.cleanup_stale_sessions()

                assert trace.get_current_span() is request


class TestHooks:
    async def test_a_hook_runs_under_the_span_of_its_interval_pass(self, signals: Signals, clock: Clock) -> None:
        hook = Hook()
        async with signals.manager(clock=clock, on_close=hook) as manager:
            (await manager.create_session()).fail("upstream hung up")
            await anyio.sleep(CONFIG.cleanup_interval + 1)

            assert hook.spans == [context_of(signals.span())]

    async def test_a_hook_runs_under_the_span_of_its_manual_pass(self, signals: Signals, clock: Clock) -> None:
        hook = Hook()
        async with signals.manager(clock=clock, on_close=hook) as manager:
            (await manager.create_session()).fail("upstream hung up")
            with signals.tracer.start_as_current_span("request"):
                await manager.cleanup_stale_sessions()

            assert hook.spans == [context_of(signals.span())]

    async def test_a_hook_runs_under_the_span_of_the_shutdown(self, signals: Signals, clock: Clock) -> None:
        hook = Hook()
        async with signals.manager(clock=clock, on_close=hook) as manager:
            await manager.create_session()

        assert hook.spans == [context_of(signals.span())]

    async def test_a_sink_runs_under_the_span_of_its_pass(self, signals: Signals, clock: Clock) -> None:
        hook = Hook()
        async with signals.manager(clock=clock, sink=Sink(hook)) as manager:
            (await manager.create_session()).fail("upstream hung up")
            await manager.cleanup_stale_sessions()

            assert hook.spans == [context_of(signals.span())]

    async def test_a_hook_after_a_drain_runs_under_the_span_of_the_pass_that_began_it(
        self, signals: Signals, clock: Clock
    ) -> None:
        hook = Hook()
        config = SessionConfig(cleanup_interval=50.0, max_session_age=60.0, drain_timeout=10.0)
        async with signals.manager(config, clock=clock, on_close=hook) as manager:
            await manager.create_session("an id")
            with pytest.raises(SessionNotFound):
                async with manager.lease("an id"):
                    await anyio.sleep(1000)

        interval_passes = [
            span for span in signals.spans() if span.attributes and span.attributes[TRIGGER] == "interval"
        ]
        assert hook.spans == [context_of(interval_passes[1])]

    async def test_a_hook_runs_under_the_span_of_the_closer(self, signals: Signals, clock: Clock) -> None:
        hook = Hook()
        async with signals.manager(clock=clock, on_close=hook) as manager:
            await manager.create_session("an id")
            with signals.tracer.start_as_current_span("request") as request:
                await manager.close_session("an id")

        assert hook.spans == [context_of(request)]

    async def test_a_hook_of_a_closer_without_a_span_runs_under_none(self, signals: Signals, clock: Clock) -> None:
        hook = Hook()
        async with signals.manager(clock=clock, on_close=hook) as manager:
            await manager.create_session("an id")
            await manager.close_session("an id")

        assert hook.spans == [trace.INVALID_SPAN_CONTEXT]

    async def test_a_hook_runs_under_the_span_of_whoever_takes_its_id(self, signals: Signals, clock: Clock) -> None:
        hook = Hook()
        async with signals.manager(clock=clock, on_close=hook) as manager:
            (await manager.create_session("an id")).fail("upstream hung up")
            with signals.tracer.start_as_current_span("request") as request:
                await manager.create_session("an id")
            taken_over = list(hook.spans)

        assert taken_over == [context_of(request)]


class TestSecrets:
    async def test_no_id_no_client_and_no_text_of_an_exception_is_on_a_metric_or_a_span(
        self, signals: Signals, faulty_clock: FaultyClock
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
