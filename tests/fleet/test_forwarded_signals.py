"""What a fleet reports of forwarded requests: a count by outcome, and the spans of both processes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import NoOpTracerProvider, SpanKind, StatusCode, format_span_id, format_trace_id
from websockets.asyncio.client import connect

from otel_sessions._telemetry import signals as table
from otel_sessions.asgi import ASGIApp, Receive, Send
from otel_sessions.matchers import HeaderMatcher
from tests.signals import Signals, context_of
from tests.waiting import PATIENCE

from .apps import Fleet, Process, fleet_of, free_socket, served, url_of

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

THEIRS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OUTCOMES = {"answered", "not_owner", "not_peer", "gone", "unavailable", "refused", "left"}
OUTCOME = "otel_sessions.fleet.outcome"


def app_of(name: str) -> ASGIApp:
    """An app that says which trace it sees, and answers with the status that its path names."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            return
        if scope["path"] == "/raise":
            raise ValueError
        named = dict(scope["headers"]).get(b"traceparent", b"")
        status = int(scope["path"].strip("/") or 200)
        headers = [(b"content-length", b"%d" % len(named))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": named})

    return app


@asynccontextmanager
async def reporting(signals: Signals, **settings: Any) -> AsyncIterator[Fleet]:
    providers = {"meter_provider": signals.meter_provider, "tracer_provider": signals.tracer_provider}
    async with fleet_of(app_of, HeaderMatcher, **{"reporting": providers, **settings}) as fleet:
        yield fleet


async def opened(process: Process) -> str:
    return str((await process.http.get("/")).headers["x-session-id"])


async def asked(process: Process, session_id: str, path: str = "/", method: str = "GET", **headers: str) -> Any:
    return await process.http.request(method, path, headers={"x-session-id": session_id, **headers})


def counted(signals: Signals, manager: str = "w2") -> dict[str, float]:
    """Return what is not at 0 for a manager, by outcome."""
    return signals.export().not_zero("fleet.forwarded", manager)


def spans(signals: Signals) -> tuple[ReadableSpan, ReadableSpan]:
    """Return the one client span and the one server span that there are."""
    (client,) = signals.spans_named("otel_sessions.fleet.forward")
    (server,) = signals.spans_named("otel_sessions.fleet.take")
    return client, server


class TestCount:
    async def test_every_outcome_is_there_from_the_start_at_zero(self, signals: Signals) -> None:
        async with reporting(signals):
            values = signals.export().values("fleet.forwarded")

        assert {dict(one)[OUTCOME] for one in values} == OUTCOMES
        assert set(values.values()) == {0}

    async def test_a_request_that_its_owner_answers_counts_where_it_was_passed_on(self, signals: Signals) -> None:
        async with reporting(signals) as fleet:
            await asked(fleet["w2"], await opened(fleet["w1"]))
            await asked(fleet["w2"], await opened(fleet["w2"]))

        assert (counted(signals), counted(signals, "w1")) == ({"answered": 1}, {})

    async def test_a_session_that_its_owner_does_not_have_is_not_owner(self, signals: Signals) -> None:
        async with reporting(signals) as fleet:
            await asked(fleet["w2"], "w1.forged")

        assert counted(signals) == {"not_owner": 1}

    async def test_an_id_that_leads_to_no_process_counts_nothing(self, signals: Signals) -> None:
        async with reporting(signals) as fleet:
            for unknown in ("w9.x", "x", "w2.x"):
                await asked(fleet["w2"], unknown)

        assert counted(signals) == {}

    async def test_an_address_where_nobody_listens_is_gone(self, signals: Signals) -> None:
        with free_socket() as nobody:
            async with reporting(signals, addresses={"w1": url_of(nobody)}) as fleet:
                await asked(fleet["w2"], "w1.x")

        assert counted(signals) == {"gone": 1}

    async def test_a_process_that_says_nothing_is_unavailable(self, signals: Signals) -> None:
        with free_socket() as silent:
            silent.listen()
            async with reporting(signals, addresses={"w1": url_of(silent)}, patience=0.05) as fleet:
                await asked(fleet["w2"], "w1.x")

        assert counted(signals) == {"unavailable": 1}

    async def test_a_process_with_another_secret_is_refused(self, signals: Signals) -> None:
        secrets = {"w1": "the secret of the process w1", "w2": "the secret of the process w2"}
        async with reporting(signals, secrets=secrets) as fleet:
            await asked(fleet["w2"], "w1.x")

        assert counted(signals) == {"refused": 1}

    async def test_another_service_at_the_address_is_not_a_peer(self, signals: Signals) -> None:
        async with (
            served(app_of("other"), free_socket()) as url,
            reporting(signals, addresses={"w1": url}) as fleet,
        ):
            await asked(fleet["w2"], "w1.x")

        assert counted(signals) == {"not_peer": 1}

    async def test_a_request_whose_client_leaves_is_left(self, signals: Signals) -> None:
        reached = asyncio.Event()

        def waiting(name: str) -> ASGIApp:
            async def app(scope: Any, receive: Receive, send: Send) -> None:
                if scope["path"] == "/wait":
                    reached.set()
                    await asyncio.Event().wait()
                await app_of(name)(scope, receive, send)

            return app

        providers = {"meter_provider": signals.meter_provider, "tracer_provider": signals.tracer_provider}
        async with fleet_of(waiting, HeaderMatcher, reporting=providers) as fleet:
            asking = asyncio.create_task(asked(fleet["w2"], await opened(fleet["w1"]), "/wait"))
            await reached.wait()
            asking.cancel()
            await fleet["w2"].fleet.wait_quiet()

        assert counted(signals) == {"left": 1}

    async def test_the_counts_of_all_runs_of_a_manager_go_on(self, signals: Signals) -> None:
        async with reporting(signals) as fleet:
            manager = fleet["w2"].manager
            for _ in range(2):
                await asked(fleet["w2"], "w1.x")
                await manager.__aexit__(None, None, None)
                await manager.__aenter__()

        assert counted(signals) == {"not_owner": 2}

    async def test_the_metric_carries_the_manager_and_the_outcome_alone(self, signals: Signals) -> None:
        async with reporting(signals) as fleet:
            await asked(fleet["w2"], await opened(fleet["w1"]))
        values = signals.export().values("fleet.forwarded")

        assert {name for one in values for name, _ in one} == {"otel_sessions.manager.name", OUTCOME}


class TestSpans:
    async def test_the_trace_of_the_client_goes_on_through_both_processes(self, signals: Signals) -> None:
        async with reporting(signals) as fleet:
            got = await asked(fleet["w2"], await opened(fleet["w1"]), traceparent=THEIRS)
        client, server = spans(signals)
        parents = [format_span_id(span.parent.span_id) for span in (client, server) if span.parent]
        trace_id, own = format_trace_id(context_of(server).trace_id), format_span_id(context_of(server).span_id)

        assert (client.kind, server.kind) == (SpanKind.CLIENT, SpanKind.SERVER)
        assert parents == [THEIRS.split("-")[2], format_span_id(context_of(client).span_id)]
        assert (trace_id, got.text) == (THEIRS.split("-")[1], f"00-{trace_id}-{own}-01")

    async def test_the_spans_say_what_happened_and_name_no_id_and_no_address(self, signals: Signals) -> None:
        async with reporting(signals) as fleet:
            session_id = await opened(fleet["w1"])
            await asked(fleet["w2"], session_id)
        client, server = spans(signals)
        about = {"http.request.method": "GET", "http.response.status_code": 200}

        assert client.attributes == {"otel_sessions.manager.name": "w2", **about, OUTCOME: "answered"}
        assert server.attributes == {"otel_sessions.manager.name": "w1", **about}
        assert session_id not in client.to_json() + server.to_json()

    async def test_the_attributes_of_the_spans_are_those_of_the_tables(self, signals: Signals) -> None:
        async with reporting(signals) as fleet:
            await asked(fleet["w2"], await opened(fleet["w1"]), "/500")
        client, server = spans(signals)

        assert set(client.attributes or {}) == {attribute.name for attribute in table.FORWARD_ATTRIBUTES}
        assert set(server.attributes or {}) == {attribute.name for attribute in table.TAKE_ATTRIBUTES}

    @pytest.mark.parametrize(
        ("path", "of_client", "of_server"),
        [("/200", None, None), ("/404", "404", None), ("/503", "503", "503"), ("/raise", "500", "ValueError")],
    )
    async def test_an_answer_is_an_error_as_the_conventions_say(
        self, path: str, of_client: str | None, of_server: str | None, signals: Signals
    ) -> None:
        async with reporting(signals) as fleet:
            await asked(fleet["w2"], await opened(fleet["w1"]), path)
        errors = [(span.attributes or {}).get("error.type") for span in spans(signals)]
        codes = [span.status.status_code is StatusCode.ERROR for span in spans(signals)]

        assert errors == [of_client, of_server]
        assert codes == [of_client is not None, of_server is not None]
        assert counted(signals) == {"answered": 1}

    async def test_a_request_that_is_not_answered_has_its_outcome_as_error_type(self, signals: Signals) -> None:
        with free_socket() as nobody:
            async with reporting(signals, addresses={"w1": url_of(nobody)}) as fleet:
                await asked(fleet["w2"], "w1.x")
        (client,) = signals.spans_named("otel_sessions.fleet.forward")

        assert (client.attributes or {})["error.type"] == "gone"

    async def test_a_method_of_its_own_is_other(self, signals: Signals) -> None:
        async with reporting(signals) as fleet:
            with fleet["w2"].fleet._tracing.forward({"method": "BREW", "headers": []}, _never):
                pass
        (client,) = signals.spans_named("otel_sessions.fleet.forward")

        assert (client.attributes or {})["http.request.method"] == "_OTHER"

    async def test_a_websocket_is_a_get_with_the_status_of_its_handshake(self, signals: Signals) -> None:
        async with reporting(signals) as fleet:
            headers = {"x-session-id": await opened(fleet["w1"])}
            async with connect(
                f"ws{fleet['w2'].url[4:]}/", additional_headers=headers, proxy=None, open_timeout=PATIENCE
            ) as socket:
                await socket.wait_closed()

        for span in spans(signals):
            about = span.attributes or {}
            assert (about["http.request.method"], about["http.response.status_code"]) == ("GET", 101)

    async def test_the_span_of_an_app_that_raises_has_the_500_of_its_answer(self, signals: Signals) -> None:
        async with reporting(signals) as fleet:
            await asked(fleet["w2"], await opened(fleet["w1"]), "/raise")

        for span in spans(signals):
            assert (span.attributes or {})["http.response.status_code"] == 500

    async def test_a_websocket_that_is_closed_before_it_is_accepted_is_a_403(self, signals: Signals) -> None:
        async with reporting(signals) as fleet:
            scope = {"type": "websocket", "headers": []}
            with fleet["w1"].fleet._tracing.take(scope, _never) as (_, answering):
                await answering({"type": "websocket.close"})
                await answering({"type": "websocket.close"})
        (server,) = signals.spans_named("otel_sessions.fleet.take")

        assert (server.attributes or {})["http.response.status_code"] == 403

    async def test_the_span_of_a_request_that_is_cancelled_has_no_status(self, signals: Signals) -> None:
        async with reporting(signals) as fleet:
            tracing = fleet["w1"].fleet._tracing
            with (
                pytest.raises(asyncio.CancelledError),
                tracing.take({"type": "http", "headers": []}, _never),
            ):
                raise asyncio.CancelledError
        (server,) = signals.spans_named("otel_sessions.fleet.take")

        assert "http.response.status_code" not in (server.attributes or {})

    async def test_where_the_app_has_a_span_already_there_is_no_second_server_span(self, signals: Signals) -> None:
        async with reporting(signals) as fleet:
            session_id = await opened(fleet["w1"])
            tracing = fleet["w1"].fleet._tracing
            scope = {"type": "http", "headers": []}
            with signals.tracer.start_as_current_span("of the app"), tracing.take(scope, _never) as (traced, _):
                assert traced is scope
            await asked(fleet["w2"], session_id)

        assert len(signals.spans_named("otel_sessions.fleet.take")) == 1

    async def test_a_request_goes_on_from_the_span_of_the_app_that_passes_it_on(self, signals: Signals) -> None:
        async with reporting(signals) as fleet:
            tracing = fleet["w2"].fleet._tracing
            scope = {"type": "http", "headers": [(b"traceparent", THEIRS.encode())]}
            with signals.tracer.start_as_current_span("of the app") as outer, tracing.forward(scope, _never):
                pass
        (client,) = signals.spans_named("otel_sessions.fleet.forward")

        assert client.parent == outer.get_span_context()


async def _never(message: Any) -> None:
    """A `send` that nothing is sent to."""


class Broken(NoOpTracerProvider):
    """A tracer provider whose tracers, or whose spans, raise."""

    def __init__(self, at: str) -> None:
        self._at = at

    def get_tracer(self, *_: Any, **__: Any) -> Any:
        if self._at == "tracer":
            self._fail()
        return self

    def start_span(self, *_: Any, **__: Any) -> Any:
        return self._fail()

    def _fail(self) -> NoReturn:
        raise OSError


class BrokenProvider:
    """A provider as an SDK's, which raises."""

    def __init__(self, at: str) -> None:
        self.get_tracer = Broken(at).get_tracer


class TestProviders:
    @pytest.mark.parametrize("at", ["tracer", "span"])
    async def test_a_provider_that_raises_never_reaches_a_request(self, at: str, signals: Signals) -> None:
        providers = {"meter_provider": signals.meter_provider, "tracer_provider": BrokenProvider(at)}
        async with reporting(signals, reporting=providers) as fleet:
            got = await asked(fleet["w2"], await opened(fleet["w1"]), traceparent=THEIRS)

        assert (got.status_code, got.text) == (200, THEIRS)
        assert counted(signals) == {"answered": 1}
        assert signals.export().value("cleanup.errors", "w2", stage="pass", error="OSError") > 0

    @pytest.mark.parametrize("provider", [None, NoOpTracerProvider()])
    async def test_without_a_provider_the_headers_pass_as_they_are(self, provider: Any, signals: Signals) -> None:
        async with reporting(signals, reporting={"tracer_provider": provider}) as fleet:
            got = await asked(fleet["w2"], await opened(fleet["w1"]), traceparent=THEIRS)

        assert got.text == THEIRS

    async def test_a_global_provider_that_cannot_be_loaded_makes_no_spans(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail() -> NoReturn:
            raise RuntimeError

        async with fleet_of(app_of, HeaderMatcher) as fleet:
            session_id = await opened(fleet["w1"])
            monkeypatch.setattr(trace, "get_tracer_provider", fail)
            got = await asked(fleet["w2"], session_id, traceparent=THEIRS)

        assert got.text == THEIRS
