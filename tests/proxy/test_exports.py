"""What a running proxy sends to its collector is what the tables of the signals say, and nothing else."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_sessions._core.events import Event
from otel_sessions._telemetry import signals
from otel_sessions._telemetry.signals import Kind, Metric
from otel_sessions.proxy import measured
from tests.exchanges import INITIALIZE

from .conftest import Origin, StartProxy

pytestmark = pytest.mark.processes

JSON = {"content-type": "application/json"}
TABLE = {metric.name: metric for metric in (*signals.METRICS, *measured.METRICS)}
SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
RARE = {signals.WAIT_TIME.name}
"""Metrics of what does not happen in this run."""


class Collector(ThreadingHTTPServer):
    """Takes what is exported to it over OTLP."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taking)
        self.taken: dict[str, list[bytes]] = {"/v1/metrics": [], "/v1/traces": [], "/v1/logs": []}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def scopes(self, path: str, request: type[Any], resources: str, scopes: str) -> Iterator[Any]:
        """Yield what has come from this package, scope by scope."""
        for body in self.taken[path]:
            for resource in getattr(request.FromString(body), resources):
                yield from (one for one in getattr(resource, scopes) if one.scope.name.startswith("otel_sessions"))

    def metrics(self) -> list[Any]:
        """Return the scopes of all exports of metrics."""
        return list(self.scopes("/v1/metrics", ExportMetricsServiceRequest, "resource_metrics", "scope_metrics"))

    def spans(self) -> list[Any]:
        found = self.scopes("/v1/traces", ExportTraceServiceRequest, "resource_spans", "scope_spans")
        return [span for scope in found for span in scope.spans]

    def lines(self) -> list[Any]:
        found = self.scopes("/v1/logs", ExportLogsServiceRequest, "resource_logs", "scope_logs")
        return [line for scope in found for line in scope.log_records]


class _Taking(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        self.server.taken[self.path].append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def collecting() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            collector.shutdown()
            thread.join()


def words(attributes: Any) -> dict[str, str]:
    return {one.key: str(getattr(one.value, one.value.WhichOneof("value"))) for one in attributes}


def kind_of(metric: Any) -> Kind:
    data = metric.WhichOneof("data")
    if data == "sum":
        return Kind.COUNTER if metric.sum.is_monotonic else Kind.UP_DOWN_COUNTER
    return {"gauge": Kind.GAUGE, "histogram": Kind.HISTOGRAM}[data]


def assert_described(metric: Any, described: Metric) -> None:
    told = (metric.name, kind_of(metric), metric.unit, metric.description)
    assert told == (described.name, described.kind, described.unit, described.description)
    known = {attribute.name: attribute for attribute in described.attributes}
    for point in getattr(metric, metric.WhichOneof("data")).data_points:
        if described.kind is Kind.HISTOGRAM:
            assert tuple(point.explicit_bounds) == described.buckets
        for name, value in words(point.attributes).items():
            if name == signals.MANAGER_NAME:
                assert described.is_of_a_manager
            else:
                assert value in known[name].words or known[name].further


def live(proxy_url: str, http: httpx2.Client) -> None:
    """Open and end sessions, and ask for what is refused and for what is not there."""
    ids = [http.post(f"{proxy_url}/mcp", headers=JSON, content=INITIALIZE).headers["mcp-session-id"] for _ in range(3)]
    http.delete(f"{proxy_url}/mcp", headers={"mcp-session-id": ids[0]})
    http.request("PROPFIND", f"{proxy_url}/mcp")
    http.request("BREW", f"{proxy_url}/mcp")
    http.get(f"{proxy_url}/mcp", headers={"mcp-session-id": "of nobody"})


@pytest.fixture
def collector(start: StartProxy, http: httpx2.Client, origin: Origin) -> Iterator[Collector]:
    """A collector to which a proxy has sent all that it had to say."""
    with collecting() as collector:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_EXPORTER_OTLP_TIMEOUT": "30"}
        with start("--cleanup-interval", "0.2", **environ) as proxy:
            live(proxy.url, http)
            assert proxy.process.terminate() == 0
        yield collector
    origin.until_none("sessions")


def test_every_signal_of_a_running_proxy_is_as_the_tables_say(collector: Collector) -> None:
    scopes = collector.metrics()
    found = {metric.name: metric for scope in scopes for metric in scope.metrics}

    assert {scope.schema_url for scope in scopes} == {SCHEMA}
    assert set(TABLE) - RARE <= set(found) <= set(TABLE)
    for name, metric in found.items():
        assert_described(metric, TABLE[name])

    spans = collector.spans()
    known = {attribute.name for attribute in signals.SPAN_ATTRIBUTES}
    assert {span.name for span in spans} == {signals.SPAN}
    assert {name for span in spans for name in words(span.attributes)} <= known

    lines = collector.lines()
    assert lines
    assert {line.event_name for line in lines} <= set(Event)


def test_the_last_export_of_a_running_proxy_balances_and_has_each_request(collector: Collector) -> None:
    last = {metric.name: metric for metric in collector.metrics()[-1].metrics}

    def total(name: str) -> int:
        return sum(point.as_int for point in last[name].sum.data_points)

    requests = {
        (told["http.request.method"], told.get("http.response.status_code")): point.count
        for point in last["http.server.request.duration"].histogram.data_points
        for told in [words(point.attributes)]
    }
    assert total("otel_sessions.session.created") == total("otel_sessions.session.cleaned") == 3
    assert total("otel_sessions.session.active") == total("http.server.active_requests") == 0
    assert requests[("POST", "200")] == 3
    assert requests[("_OTHER", "405")] == requests[("_OTHER", "501")] == 1
    assert {method for method, _ in requests} == {"POST", "DELETE", "GET", "_OTHER"}
    assert sum(requests.values()) == 7
