"""Export over OTLP if the environment names a collector.

The standard variables set up metrics, spans, logs, and metrics of the process: memory, CPU and garbage collection. If a
variable is not set, a shorter interval than the usual one applies: a short run may end before a minute has passed. A
collector that is gone delays the end of a program by at most `_FLUSH_SECONDS`.
"""

import logging
import os
import re
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from time import monotonic
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from opentelemetry import metrics, trace

from otel_sessions import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_NO_EXPORTER: Final = "none"
_PROTOCOL: Final = "OTEL_EXPORTER_OTLP_PROTOCOL"
_GRPC: Final = "grpc"
_PACKAGES: Final = {
    _GRPC: "opentelemetry.exporter.otlp.proto.grpc",
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http",
}
_SIGNALS: Final = {
    "METRICS": ("metric_exporter", "OTLPMetricExporter"),
    "TRACES": ("trace_exporter", "OTLPSpanExporter"),
    "LOGS": ("_log_exporter", "OTLPLogExporter"),
}
"""The module and the class of each exporter, by the signal's name in the standard variables."""
_GRPC_PORT: Final = 4317
_DEFAULTS: Final = {
    "OTEL_METRIC_EXPORT_INTERVAL": "2000",  # milliseconds
    "OTEL_BSP_SCHEDULE_DELAY": "1000",  # milliseconds
    "OTEL_BLRP_SCHEDULE_DELAY": "1000",  # milliseconds
    "OTEL_EXPORTER_OTLP_TIMEOUT": "1",  # seconds, in Python's exporters
}
_CREDENTIALS: Final = re.compile(r"^([a-z][a-z0-9+.-]*://)?.*@", re.IGNORECASE)
"""Up to the last @, since an endpoint is often wrong because its password has a slash."""
_FLUSH_SECONDS: Final = 2.0
_PROCESS_METRICS: Final[dict[str, list[str] | None]] = {
    "process.cpu.time": ["user", "system"],
    "process.memory.usage": None,
    "process.thread.count": None,
    "process.open_file_descriptor.count": None,
    "cpython.gc.collections": None,
    "cpython.gc.collected_objects": None,
}


@contextmanager
def exporting(service_name: str) -> Iterator[None]:
    """Export telemetry during the block, if the environment names a collector. Flush the rest at the end.

    `service_name` is the name of the service unless the environment sets a name.
    """
    setups = {"METRICS": _export_metrics, "TRACES": _export_spans, "LOGS": _export_logs}
    signals = _asked(os.environ)
    if not signals:
        yield
        return
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    endpoints = {signal: _endpoint(signal, os.environ) for signal in signals}
    logging.getLogger("opentelemetry").addHandler(LostTelemetry(endpoints))
    logging.getLogger("opentelemetry").propagate = False
    resource = _resource(service_name)
    shutdowns = [setups[signal](resource) for signal in signals]
    try:
        yield
    finally:
        _shut_down(shutdowns)


def require_exporters(environ: Mapping[str, str] = os.environ) -> None:
    """Raise `ImportError` if an exporter is not installed, `ConfigError` if a variable of the export is wrong."""
    for signal in _asked(environ):
        _require_endpoint(signal, environ)
        import_module(_exporter_module(signal, environ))


def _export_metrics(resource: "Resource") -> Callable[[], None]:
    from opentelemetry.instrumentation.system_metrics import SystemMetricsInstrumentor
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    reader = PeriodicExportingMetricReader(_exporter("METRICS", os.environ))
    provider = MeterProvider([reader], resource, shutdown_on_exit=False)
    metrics.set_meter_provider(provider)
    SystemMetricsInstrumentor(config=_PROCESS_METRICS).instrument()
    return provider.shutdown


def _export_spans(resource: "Resource") -> Callable[[], None]:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_exporter("TRACES", os.environ)))
    trace.set_tracer_provider(provider)
    return provider.shutdown


def _export_logs(resource: "Resource") -> Callable[[], None]:
    from opentelemetry.instrumentation.logging.handler import LoggingHandler
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

    provider = LoggerProvider(resource, shutdown_on_exit=False)
    provider.add_log_record_processor(BatchLogRecordProcessor(_exporter("LOGS", os.environ)))
    logging.getLogger().addHandler(LoggingHandler(logger_provider=provider))
    logging.getLogger("otel_sessions").setLevel(logging.DEBUG)  # for a line about each pass
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # no line about each request
    return provider.shutdown


def _shut_down(shutdowns: list[Callable[[], None]]) -> None:
    """Flush all signals at once, and wait for at most `_FLUSH_SECONDS`."""
    threads = [threading.Thread(target=shutdown, daemon=True) for shutdown in shutdowns]
    for thread in threads:
        thread.start()
    end = monotonic() + _FLUSH_SECONDS
    for thread in threads:
        thread.join(max(0.0, end - monotonic()))


class LostTelemetry(logging.Handler):
    """Writes to stderr that an export has failed, once for each endpoint: a dead collector must not fill the screen.

    `endpoints` has the endpoint of each signal. The line names an endpoint without its credentials, path and query,
    since they may be secret.
    """

    def __init__(self, endpoints: Mapping[str, str]) -> None:
        super().__init__(logging.ERROR)
        self._endpoints = endpoints
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line. Never raises, since the exporter calls this method."""
        try:
            self._tell(record)
        except Exception:
            with suppress(OSError, ValueError):  # no traceback, since it could contain secrets
                sys.stderr.write("telemetry is lost: an export failed, and its error cannot be shown\n")

    def _tell(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        places = {_place(endpoint) for endpoint in self._concerned(record.name, message)}
        if places <= self._told:
            return
        self._told |= places
        where = " and ".join(sorted(places))
        with suppress(OSError):  # the terminal has closed
            sys.stderr.write(f"telemetry is lost: the export to {where} failed: {self._public(message)}\n")

    def _concerned(self, logger: str, message: str) -> list[str]:
        """Return the endpoints that a record is about, or all endpoints if the record names none of them."""
        named = [
            endpoint
            for signal, endpoint in self._endpoints.items()
            if f".{_SIGNALS[signal][0]}" in logger or urlsplit(_as_url(endpoint)).netloc in message
        ]
        return named or list(self._endpoints.values())

    def _public(self, message: str) -> str:
        for endpoint in self._endpoints.values():
            netloc = urlsplit(_as_url(endpoint)).netloc
            message = message.replace(endpoint, _place(endpoint)).replace(netloc, netloc.rpartition("@")[2])
        return message


def _place(endpoint: str) -> str:
    """Return the scheme, the host and the port of an endpoint."""
    parts = urlsplit(_as_url(endpoint))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}".removeprefix("://")


def _as_url(endpoint: str) -> str:
    """Return an endpoint as a URL. An endpoint of gRPC may have no scheme."""
    return endpoint if "//" in endpoint else f"//{endpoint}"


def _asked(environ: Mapping[str, str]) -> list[str]:
    """Return the signals that have an endpoint and are not switched off."""
    return [
        signal
        for signal in _SIGNALS
        if _endpoint(signal, environ) and environ.get(f"OTEL_{signal}_EXPORTER", "").strip() != _NO_EXPORTER
    ]


def _endpoint(signal: str, environ: Mapping[str, str]) -> str:
    return (environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or environ.get(ENDPOINT, "")).strip()


def _resource(service_name: str) -> "Resource":
    """Return the environment's resource. Add a service name, and an instance of host and random end, if missing.

    A process id is no such end: containers of one host name often have the same.
    """
    from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource

    resource = Resource.create()
    named = not str(resource.attributes[SERVICE_NAME]).startswith("unknown_service")
    own = {} if named else {SERVICE_NAME: service_name}
    instance = {SERVICE_INSTANCE_ID: f"{socket.gethostname()}-{secrets.token_hex(4)}"}
    return Resource(instance).merge(resource).merge(Resource(own))


def _exporter(signal: str, environ: Mapping[str, str]) -> Any:
    return getattr(import_module(_exporter_module(signal, environ)), _SIGNALS[signal][1])()


def _exporter_module(signal: str, environ: Mapping[str, str]) -> str:
    return f"{_PACKAGES[_protocol(signal, environ)]}.{_SIGNALS[signal][0]}"


def _protocol(signal: str, environ: Mapping[str, str]) -> str:
    variable = f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL"
    protocol = environ.get(variable) or environ.get(_PROTOCOL) or _usual_protocol(_endpoint(signal, environ))
    if protocol not in _PACKAGES:
        raise ConfigError(f"{_PROTOCOL} takes {' or '.join(_PACKAGES)}, not {protocol!r}")
    return protocol


def _usual_protocol(endpoint: str) -> str:
    """Return the protocol that collectors usually speak on the port of an endpoint."""
    return _GRPC if urlsplit(_as_url(endpoint)).port == _GRPC_PORT else "http/protobuf"


def _require_endpoint(signal: str, environ: Mapping[str, str]) -> None:
    """Raise `ConfigError`, which names the variable, if the endpoint of a signal is wrong."""
    own, endpoint = f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", _endpoint(signal, environ)
    variable = own if environ.get(own) else ENDPOINT
    public = _CREDENTIALS.sub(r"\1", endpoint)
    if not _is_url(endpoint):
        raise ConfigError(f"{variable} takes a URL, not {public!r}")
    parts = urlsplit(_as_url(endpoint))
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":
        raise ConfigError(
            f"{variable} takes a URL with at most one @, directly before the host; in a user name, a password or a "
            f"path, write / ? # and @ as %2F %3F %23 and %40"
        )
    if _protocol(signal, environ) != _GRPC and parts.scheme not in ("http", "https"):
        raise ConfigError(f"{variable} takes a URL that starts with http:// or https://, not {public!r}")


def _is_url(endpoint: str) -> bool:
    """Return whether an endpoint has a host and a usable port, or is a gRPC target like `unix:///run/collector`."""
    try:
        parts = urlsplit(_as_url(endpoint))
        host, port = parts.hostname, parts.port
    except ValueError:
        return False
    if port == 0 or not endpoint.isprintable() or " " in endpoint:
        return False
    return bool(host) or parts.scheme not in ("", "http", "https")
