"""The proxy's own metrics: each request is measured once, by OpenTelemetry's conventions for HTTP servers."""

import asyncio
import gc
import logging
import weakref
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import pytest
from opentelemetry.metrics import Meter, NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Histogram, Sum

from otel_sessions._http.addresses import read_network
from otel_sessions.asgi import ASGIApp, Message, Receive, Send
from otel_sessions.asgi._leaving import LEAVING
from otel_sessions.matchers import Scope
from otel_sessions.proxy.headers import Trust
from otel_sessions.proxy.measured import METRICS, Measured, note_refused
from tests.broken_telemetry import GivingMeter, MeterOfBrokenHistograms
from tests.signals import Export, PatientReader

pytestmark = pytest.mark.anyio

TRUST = Trust(networks=(read_network("10.0.0.0/8"),))
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
MOST_SERIES = 2000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the proxy's


async def receive() -> Message:
    return {"type": "http.disconnect"}


async def send(message: Message) -> None:
    pass


def request(method: str = "GET", **more: Any) -> dict[str, Any]:
    return {"type": "http", "method": method, "scheme": "http", "headers": [], "client": ("10.0.0.7", 1), **more}


def answering(status: int, *parts: bytes, is_complete: bool = True) -> ASGIApp:
    """Return an app that answers with a status and with parts of a body."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        if is_complete:
            await send({"type": "http.response.body", "body": b""})

    return app


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that returns without an answer."""


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    raise OSError("of the app")


def saying(*messages: Message) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


class Left:
    """Stands for an exchange whose client has left."""

    is_gone = True


LEFT: dict[str, Any] = {LEAVING: Left()}


class Metrics:
    """A provider, and what the requests that were measured with it have left there."""

    def __init__(self) -> None:
        self.reader = PatientReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)

    @contextmanager
    def measured(self, app: ASGIApp) -> Iterator[Measured]:
        with Measured(app, TRUST, self.provider) as measured:
            yield measured

    def export(self) -> Export:
        return Export(self.reader)

    def points(self, metric: str) -> list[dict[str, Any]]:
        found = self.export().metrics.get(metric)
        return [dict(point.attributes or {}) for point in (found.data.data_points if found else [])]

    async def ask(self, app: ASGIApp, scope: Scope) -> dict[str, Any]:
        """Return the attributes of the one series that a request leaves."""
        with self.measured(app) as measured, suppress(OSError):
            await measured(scope, receive, send)
        (point,) = self.points("http.server.request.duration")
        return point


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def attributes(method: str = "GET", status: int = 200, **more: str) -> dict[str, Any]:
    told: dict[str, Any] = {"http.request.method": method, "url.scheme": "http"}
    if status:
        told["http.response.status_code"] = status
    return told | {key.replace("_", "."): value for key, value in more.items()}


async def test_a_request_that_goes_well_has_its_method_scheme_and_status(metrics: Metrics) -> None:
    assert await metrics.ask(answering(200), request()) == attributes()


@pytest.mark.parametrize("method", ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"])
async def test_the_nine_methods_are_told_apart(metrics: Metrics, method: str) -> None:
    assert await metrics.ask(answering(200), request(method)) == attributes(method)


@pytest.mark.parametrize("method", ["BREW", "get", "_OTHER", "", "QUERY"])
async def test_any_other_method_is_other(metrics: Metrics, method: str) -> None:
    assert await metrics.ask(answering(200), request(method)) == attributes("_OTHER")


@pytest.mark.parametrize(
    ("status", "counted"), [(204, 204), (299, 200), (306, 306), (399, 300), (451, 451), (499, 400), (418, 418)]
)
async def test_a_status_outside_the_registry_counts_as_its_class(metrics: Metrics, status: int, counted: int) -> None:
    assert await metrics.ask(answering(status), request()) == attributes(status=counted)


@pytest.mark.parametrize(("status", "counted"), [(500, 500), (503, 503), (599, 500), (999, 500)])
async def test_a_status_from_500_on_is_an_error_of_that_type(metrics: Metrics, status: int, counted: int) -> None:
    assert await metrics.ask(answering(status), request()) == attributes(status=counted, error_type=str(counted))


@pytest.mark.parametrize("app", [silent, failing])
async def test_a_request_without_an_answer_is_the_500_that_the_server_gives(metrics: Metrics, app: ASGIApp) -> None:
    assert await metrics.ask(app, request()) == attributes(status=500, error_type="500")


async def test_a_client_that_leaves_before_the_answer_is_an_error_without_a_status(metrics: Metrics) -> None:
    assert await metrics.ask(silent, request(**LEFT)) == attributes(status=0, error_type="client_disconnected")


async def test_a_request_that_the_server_cancels_has_no_status(metrics: Metrics) -> None:
    async def hanging(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep_forever()

    with metrics.measured(hanging) as measured:
        task = asyncio.create_task(_awaited(measured(request(), receive, send)))
        await anyio.lowlevel.checkpoint()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert metrics.points("http.server.request.duration") == [attributes(status=0, error_type="client_disconnected")]


async def test_an_answer_that_is_not_completed_is_an_error(metrics: Metrics) -> None:
    app = answering(200, b"a part", is_complete=False)

    assert await metrics.ask(app, request()) == attributes(error_type="incomplete_answer")


async def test_a_stream_that_its_client_leaves_is_no_error(metrics: Metrics) -> None:
    app = answering(200, b"a part", is_complete=False)

    assert await metrics.ask(app, request(**LEFT)) == attributes()


@pytest.mark.parametrize(
    ("sender", "scheme"), [("10.0.0.7", "https"), ("192.0.2.1", "http")], ids=["trusted", "not trusted"]
)
async def test_the_scheme_is_what_a_trusted_proxy_says(metrics: Metrics, sender: str, scheme: str) -> None:
    scope = request(client=(sender, 1), headers=[(b"x-forwarded-proto", b"https")])

    assert (await metrics.ask(answering(200), scope))["url.scheme"] == scheme


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([{"type": "websocket.accept"}, {"type": "websocket.close"}], 101),
        ([{"type": "websocket.close"}], 403),
        (
            [
                {"type": "websocket.http.response.start", "status": 404, "headers": []},
                {"type": "websocket.http.response.body", "body": b""},
            ],
            404,
        ),
    ],
    ids=["accepted", "closed", "refused"],
)
async def test_a_websocket_is_the_get_that_begins_it(metrics: Metrics, messages: list[Message], status: int) -> None:
    scope = {"type": "websocket", "scheme": "ws", "headers": [], "client": ("10.0.0.7", 1)}

    assert await metrics.ask(saying(*messages), scope) == attributes(status=status)


@pytest.mark.parametrize(("status", "more"), [(400, {}), (501, {"error_type": "501"})])
async def test_a_head_that_cannot_be_read_is_a_request_of_another_method(
    metrics: Metrics, status: int, more: dict[str, str]
) -> None:
    with metrics.measured(answering(200)) as measured:
        note_refused(measured, "http", status)

    assert metrics.points("http.server.request.duration") == [attributes("_OTHER", status, **more)]


@pytest.mark.parametrize("app", [answering(200), Measured(answering(200), TRUST)], ids=["not measured", "not started"])
async def test_without_a_provider_a_refusal_is_not_measured(metrics: Metrics, app: ASGIApp) -> None:
    note_refused(app, "http", 400)

    assert metrics.points("http.server.request.duration") == []


async def test_requests_under_way_are_active_by_method(metrics: Metrics) -> None:
    seen: list[dict[str, float]] = []

    def active() -> dict[str, float]:
        numbers = metrics.export().numbers("http.server.active_requests")
        return {dict(key)["http.request.method"]: value for key, value in numbers.items()}

    async def looking(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(active())
        await answering(200)(scope, receive, send)

    with metrics.measured(looking) as one, metrics.measured(looking) as other:
        await one(request("POST"), receive, send)
        await other(request("POST"), receive, send)
        await other(request("GET"), receive, send)
    after = active()

    assert seen == [{"POST": 1}, {"POST": 1}, {"POST": 0, "GET": 1}]
    assert after == {"POST": 0, "GET": 0}


async def test_the_metrics_are_of_the_kinds_and_units_that_the_conventions_name(metrics: Metrics) -> None:
    with metrics.measured(answering(200)) as measured:
        await measured(request(), receive, send)
    found = metrics.export().metrics

    duration, active = found["http.server.request.duration"], found["http.server.active_requests"]
    assert isinstance(duration.data, Histogram)
    assert tuple(duration.data.data_points[0].explicit_bounds) == BUCKETS
    assert isinstance(active.data, Sum)
    assert (duration.unit, active.unit, active.data.is_monotonic) == ("s", "{request}", False)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_no_metric_can_have_as_many_series_as_an_sdk_folds(metric: Any) -> None:
    assert metric.most_series < MOST_SERIES


async def test_whatever_requests_and_answers_say_the_series_stay_within_the_bound(metrics: Metrics) -> None:
    methods = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE", "BREW"]
    status, is_complete = 200, True

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if status:
            await answering(status, is_complete=is_complete)(scope, receive, send)

    with metrics.measured(app) as measured:
        for method in methods:
            for scheme in ("http", "https", "ftp"):
                scope = request(method, scheme=scheme)
                for status in range(200, 600):  # noqa: B007  # the app reads it
                    for is_complete in (True, False):  # noqa: B007
                        await measured(dict(scope), receive, send)
                status = 0
                await measured({**scope, **LEFT}, receive, send)

    assert len(metrics.points("http.server.request.duration")) <= METRICS[0].most_series


@pytest.mark.parametrize("provider", [None, NoOpMeterProvider()], ids=["no provider", "a no-op provider"])
async def test_without_a_provider_the_app_is_called_as_it_is(provider: Any) -> None:
    calls: list[tuple[Any, ...]] = []

    async def app(*arguments: Any) -> None:
        calls.append(arguments)

    scope = request()
    with Measured(app, TRUST, provider) as measured:
        await measured(scope, receive, send)

    assert [list(map(id, call)) for call in calls] == [[id(scope), id(receive), id(send)]]


async def test_a_provider_that_fails_is_logged_once_and_stops_no_request(caplog: pytest.LogCaptureFixture) -> None:
    meter: Meter = MeterOfBrokenHistograms("broken")
    answered: list[Message] = []

    async def keep(message: Message) -> None:
        answered.append(message)

    with Measured(answering(200), TRUST, GivingMeter(meter)) as measured:
        for _ in range(3):
            await measured(request(), receive, keep)

    [record] = caplog.records
    assert (record.levelno, vars(record)["event.name"]) == (logging.WARNING, "otel_sessions.telemetry.failed")
    assert len(answered) == 6


async def test_a_forked_process_begins_without_requests_under_way(metrics: Metrics) -> None:
    seen: list[list[float]] = []

    def active() -> list[float]:
        return list(metrics.export().numbers("http.server.active_requests").values())

    async def forking(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(active())
        measured.start_anew_after_fork()
        seen.append(active())

    with metrics.measured(forking) as measured:
        await measured(request(), receive, send)
    seen.append(active())

    assert seen == [[1], [0], [0]]


async def test_a_proxy_that_has_ended_is_not_kept(metrics: Metrics) -> None:
    with metrics.measured(answering(200)) as measured:
        await measured(request(), receive, send)
    kept = weakref.ref(measured)
    del measured
    gc.collect()

    assert kept() is None
    assert metrics.export().numbers("http.server.active_requests")


async def test_a_provider_that_nobody_uses_any_more_is_not_kept() -> None:
    provider = MeterProvider([PatientReader()], shutdown_on_exit=False)
    with Measured(answering(200), TRUST, provider) as measured:
        await measured(request(), receive, send)
    kept = weakref.ref(provider)
    del provider, measured
    gc.collect()

    assert kept() is None


async def _awaited(awaitable: Awaitable[None]) -> None:
    await awaitable
