"""Export over OTLP where the environment names a collector; nothing at all where it does not.

What the standard variables set stays as it is. Where they do not, the demo's own seconds apply, because the usual
ones, a minute between exports, would outlast it. A collector that is gone delays the end by `_FLUSH_SECONDS` at most.
"""

import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from opentelemetry import metrics, trace

from otel_sessions import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_PROTOCOL: Final = "OTEL_EXPORTER_OTLP_PROTOCOL"
_PACKAGES: Final = {
    "grpc": "opentelemetry.exporter.otlp.proto.grpc",
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http",
}
_GRPC_PORT: Final = 4317
_DEFAULTS: Final = {
    "OTEL_METRIC_EXPORT_INTERVAL": "2000",  # milliseconds
    "OTEL_BSP_SCHEDULE_DELAY": "1000",  # milliseconds
    "OTEL_EXPORTER_OTLP_TIMEOUT": "1",  # seconds, in Python's exporters
}
_FLUSH_SECONDS: Final = 3.0


@contextmanager
def exporting(service_name: str) -> Iterator[None]:
    """Export metrics and spans during the block, and what is left at its end, if the environment asks for it.

    `service_name` is the resource's name unless the environment has one.
    """
    if not _asked(os.environ):
        yield
        return
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    logging.getLogger("opentelemetry").addHandler(_FirstError())
    logging.getLogger("opentelemetry").propagate = False
    resource = _resource(service_name)
    reader = PeriodicExportingMetricReader(_exporter("metric", os.environ))
    meters = MeterProvider([reader], resource, shutdown_on_exit=False)
    tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
    tracers.add_span_processor(BatchSpanProcessor(_exporter("trace", os.environ)))
    metrics.set_meter_provider(meters)
    trace.set_tracer_provider(tracers)
    try:
        yield
    finally:
        flushes = [threading.Thread(target=provider.shutdown, daemon=True) for provider in (meters, tracers)]
        for flush in flushes:
            flush.start()
        for flush in flushes:
            flush.join(_FLUSH_SECONDS / len(flushes))


def require_exporters(environ: Mapping[str, str] = os.environ) -> None:
    """Raise `ImportError` or `ConfigError` if the export that the environment asks for cannot work here."""
    if _asked(environ):
        for signal in ("metric", "trace"):
            import_module(_exporter_module(signal, environ))


class _FirstError(logging.Handler):
    """Says once that an export has failed: a collector that is gone would fill the screen."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)

    def emit(self, record: logging.LogRecord) -> None:
        self.setLevel(logging.CRITICAL)
        print(f"telemetry is lost: {record.getMessage()}", file=sys.stderr)


def _asked(environ: Mapping[str, str]) -> bool:
    return bool(environ.get(_ENDPOINT, "").strip())


def _resource(service_name: str) -> "Resource":
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource

    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        return resource.merge(Resource({SERVICE_NAME: service_name}))
    return resource


def _exporter(signal: str, environ: Mapping[str, str]) -> Any:
    kind = {"metric": "OTLPMetricExporter", "trace": "OTLPSpanExporter"}[signal]
    return getattr(import_module(_exporter_module(signal, environ)), kind)()


def _exporter_module(signal: str, environ: Mapping[str, str]) -> str:
    variable = {"metric": "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "trace": "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"}[signal]
    protocol = environ.get(variable) or environ.get(_PROTOCOL) or _usual_protocol(environ[_ENDPOINT])
    if protocol not in _PACKAGES:
        raise ConfigError(f"{_PROTOCOL} takes {' or '.join(_PACKAGES)}, not {protocol!r}")
    return f"{_PACKAGES[protocol]}.{signal}_exporter"


def _usual_protocol(endpoint: str) -> str:
    """Return what collectors speak on the port of an endpoint."""
    try:
        return "grpc" if urlsplit(endpoint).port == _GRPC_PORT else "http/protobuf"
    except ValueError as error:
        raise ConfigError(f"{_ENDPOINT} takes a URL, not {endpoint!r}") from error
