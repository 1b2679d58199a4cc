"""Export telemetry while a program runs, as OpenTelemetry's variables ask.

The variables set up metrics, spans, logs, and metrics of the process: memory, CPU and garbage collection. If a variable
is not set, a shorter interval than the usual one applies: a short run may end before a minute has passed. A collector
that is gone delays the end of a program by at most `_FLUSH_SECONDS`.
"""

import logging
import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from opentelemetry import metrics, trace

from otel_sessions import ConfigError

from . import exporters
from .exporters import MODULES, OTLP, as_url

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

_DEFAULTS: Final = {
    "OTEL_METRIC_EXPORT_INTERVAL": "2000",  # milliseconds
    "OTEL_BSP_SCHEDULE_DELAY": "1000",  # milliseconds
    "OTEL_BLRP_SCHEDULE_DELAY": "1000",  # milliseconds
    "OTEL_EXPORTER_OTLP_TIMEOUT": "1",  # seconds, in Python's exporters
}
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
def exporting(service_name: str, *, worker: int | None = None) -> Iterator[None]:
    """Export telemetry during the block, if the environment asks for it. Flush the rest at the end.

    `service_name` is the name of the service unless the environment sets a name. `worker` is the number of this process
    if it is one of several that share their environment: the number ends the name of its instance, and Prometheus
    scrapes all of them together. Raises `ConfigError` if Prometheus is to scrape an address on which nobody can listen,
    or if the SDK refuses a variable.
    """
    setups: dict[str, Callable[[Resource], Callable[[], None]]] = {
        "METRICS": partial(_export_metrics, is_one_of_several=worker is not None),
        "TRACES": _export_spans,
        "LOGS": _export_logs,
    }
    signals = exporters.asked(os.environ)
    if not signals:
        yield
        return
    for name, value in _DEFAULTS.items():
        os.environ[name] = os.environ.get(name, "").strip() or value
    endpoints = {signal: exporters.endpoint(signal, os.environ) for signal, word in signals.items() if word == OTLP}
    logging.getLogger("opentelemetry").addHandler(LostTelemetry(endpoints))
    logging.getLogger("opentelemetry").propagate = False
    shutdowns: list[Callable[[], None]] = []
    try:
        with _setting_up():
            resource = _resource(service_name, worker)
            shutdowns.extend(setups[signal](resource) for signal in signals)
        yield
    finally:
        _shut_down(shutdowns)


@contextmanager
def _setting_up() -> Iterator[None]:
    """Turn what the SDK raises about a variable into a `ConfigError`."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, OSError) as error:
        raise ConfigError(f"the export cannot be set up: {error}; check the variables OTEL_*") from error


def _export_metrics(resource: "Resource", *, is_one_of_several: bool) -> Callable[[], None]:
    from opentelemetry.instrumentation.system_metrics import SystemMetricsInstrumentor
    from opentelemetry.sdk.metrics import MeterProvider

    provider = MeterProvider(
        [exporters.metric_reader(os.environ, is_one_of_several=is_one_of_several)], resource, shutdown_on_exit=False
    )
    metrics.set_meter_provider(provider)
    SystemMetricsInstrumentor(config=_PROCESS_METRICS).instrument()
    return provider.shutdown


def _export_spans(resource: "Resource") -> Callable[[], None]:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporters.span_exporter(os.environ)))
    trace.set_tracer_provider(provider)
    return provider.shutdown


def _export_logs(resource: "Resource") -> Callable[[], None]:
    from opentelemetry.instrumentation.logging.handler import LoggingHandler
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

    provider = LoggerProvider(resource, shutdown_on_exit=False)
    provider.add_log_record_processor(BatchLogRecordProcessor(exporters.log_exporter(os.environ)))
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
            if f".{MODULES[signal]}" in logger or urlsplit(as_url(endpoint)).netloc in message
        ]
        return named or list(self._endpoints.values())

    def _public(self, message: str) -> str:
        for endpoint in self._endpoints.values():
            netloc = urlsplit(as_url(endpoint)).netloc
            message = message.replace(endpoint, _place(endpoint)).replace(netloc, netloc.rpartition("@")[2])
        return message


def _place(endpoint: str) -> str:
    """Return the scheme, the host and the port of an endpoint."""
    parts = urlsplit(as_url(endpoint))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}".removeprefix("://")


def _resource(service_name: str, worker: int | None) -> "Resource":
    """Return the environment's resource. Add a service name, and an instance of host and random end, if missing.

    A process id is no such end: containers of one host name often have the same.
    """
    from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource

    resource = Resource.create()
    named = not str(resource.attributes[SERVICE_NAME]).startswith("unknown_service")
    own = {} if named else {SERVICE_NAME: service_name}
    given = resource.attributes.get(SERVICE_INSTANCE_ID) or f"{socket.gethostname()}-{secrets.token_hex(4)}"
    instance = {SERVICE_INSTANCE_ID: str(given) if worker is None else f"{given}-{worker}"}
    return resource.merge(Resource({**own, **instance}))
