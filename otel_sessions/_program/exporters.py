"""Which exporter each signal has, by OpenTelemetry's own variables.

Without a word in `OTEL_METRICS_EXPORTER` and its like, a signal goes out over OTLP, and only if an endpoint is set.
Wrong words, wrong addresses and missing packages are refused before a program starts.
"""

import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from math import inf
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from otel_sessions import ConfigError

from .sockets import listen_as

if TYPE_CHECKING:
    from opentelemetry.sdk._logs.export import LogRecordExporter
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader
    from opentelemetry.sdk.trace.export import SpanExporter

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
OTLP: Final = "otlp"
MODULES: Final = {"METRICS": "metric_exporter", "TRACES": "trace_exporter", "LOGS": "_log_exporter"}
"""The module of each OTLP exporter, by the signal's name in the variables."""
PROMETHEUS: Final = "prometheus"
CONSOLE: Final = "console"
_NONE: Final = "none"
_WORDS: Final = {
    "METRICS": (OTLP, PROMETHEUS, CONSOLE, _NONE),
    "TRACES": (OTLP, CONSOLE, _NONE),
    "LOGS": (OTLP, CONSOLE, _NONE),
}
_PROTOCOL: Final = "OTEL_EXPORTER_OTLP_PROTOCOL"
_GRPC: Final = "grpc"
_PACKAGES: Final = {
    _GRPC: "opentelemetry.exporter.otlp.proto.grpc",
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http",
}
_GRPC_PORT: Final = 4317
_HOST_VARIABLE: Final = "OTEL_EXPORTER_PROMETHEUS_HOST"
_PORT_VARIABLE: Final = "OTEL_EXPORTER_PROMETHEUS_PORT"
_PORTS: Final = range(1, 65536)
_BATCHES: Final = ("SCHEDULE_DELAY", "MAX_QUEUE_SIZE", "MAX_EXPORT_BATCH_SIZE", "EXPORT_TIMEOUT")
_WHOLE: Final = {
    "TRACES": [f"OTEL_BSP_{name}" for name in _BATCHES],
    "LOGS": [f"OTEL_BLRP_{name}" for name in _BATCHES],
}
"""Variables of a signal that take whole numbers. Of most wrong values the SDK only logs that it takes its default."""
_POSITIVE: Final = {"METRICS": ["OTEL_METRIC_EXPORT_INTERVAL", "OTEL_METRIC_EXPORT_TIMEOUT"]}
"""Variables of a signal that take numbers, besides those of OTLP."""
_CREDENTIALS: Final = re.compile(r"^([a-z][a-z0-9+.-]*://)?.*@", re.IGNORECASE)
"""Up to the last @, since an endpoint is often wrong because its password has a slash."""


def require_exporters(environ: Mapping[str, str] = os.environ) -> None:
    """Raise `ImportError` if an exporter is not installed, `ConfigError` if a variable of the export is wrong."""
    for signal, word in asked(environ).items():
        _require_numbers(_WHOLE.get(signal, ()), "a whole number above 0", int, environ)
        _require_numbers(_POSITIVE.get(signal, ()), "a positive number", float, environ)
        if word == OTLP:
            timeouts = ("OTEL_EXPORTER_OTLP_TIMEOUT", f"OTEL_EXPORTER_OTLP_{signal}_TIMEOUT")
            _require_numbers(timeouts, "a positive number", float, environ)
            _require_endpoint(signal, environ)
            import_module(_otlp_module(signal, environ))
        elif word == PROMETHEUS:
            _prometheus_address(environ)
            _require_prometheus()


def asked(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the word of each signal that has an exporter: otlp, prometheus or console. Raises `ConfigError`."""
    words = {signal: _word(signal, environ) for signal in _WORDS}
    return {signal: word for signal, word in words.items() if word != _NONE}


def endpoint(signal: str, environ: Mapping[str, str]) -> str:
    """Return where a signal goes over OTLP: without a variable, to the usual port of a collector on this machine."""
    return _given_endpoint(signal, environ) or f"http://localhost:{_GRPC_PORT if _says_grpc(signal, environ) else 4318}"


def listen_for_prometheus(environ: Mapping[str, str]) -> socket.socket | None:
    """Return a listening socket where Prometheus scrapes several processes, or None unless it is to scrape.

    Raises `ConfigError` if nobody can listen there.
    """
    return (
        listen_as(_PORT_VARIABLE, _prometheus_address(environ)) if asked(environ).get("METRICS") == PROMETHEUS else None
    )


def metric_reader(environ: Mapping[str, str], *, is_one_of_several: bool = False) -> "MetricReader":
    """Return the reader of metrics. Of several processes, none listens for Prometheus by itself.

    Raises `ConfigError` if Prometheus is to scrape where nobody can listen.
    """
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader

    word = _word("METRICS", environ)
    if word == PROMETHEUS:
        return _prometheus_reader(None if is_one_of_several else _prometheus_address(environ))
    exporter: MetricExporter = (
        ConsoleMetricExporter() if word == CONSOLE else _otlp_exporter("METRICS", "OTLPMetricExporter", environ)
    )
    return PeriodicExportingMetricReader(exporter)


def span_exporter(environ: Mapping[str, str]) -> "SpanExporter":
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    console = _word("TRACES", environ) == CONSOLE
    exporter: SpanExporter = ConsoleSpanExporter() if console else _otlp_exporter("TRACES", "OTLPSpanExporter", environ)
    return exporter


def log_exporter(environ: Mapping[str, str]) -> "LogRecordExporter":
    from opentelemetry.sdk._logs.export import ConsoleLogRecordExporter

    console = _word("LOGS", environ) == CONSOLE
    exporter: LogRecordExporter = (
        ConsoleLogRecordExporter() if console else _otlp_exporter("LOGS", "OTLPLogExporter", environ)
    )
    return exporter


def as_url(endpoint: str) -> str:
    """Return an endpoint as a URL. An endpoint of gRPC may have no scheme."""
    return endpoint if "//" in endpoint else f"//{endpoint}"


def _word(signal: str, environ: Mapping[str, str]) -> str:
    variable, words = f"OTEL_{signal}_EXPORTER", _WORDS[signal]
    word = environ.get(variable, "").strip()
    if not word:
        return OTLP if _given_endpoint(signal, environ) else _NONE
    if word not in words:
        raise ConfigError(f"{variable} takes {', '.join(words[:-1])} or {words[-1]}, not {word!r}")
    return word


def _given_endpoint(signal: str, environ: Mapping[str, str]) -> str:
    return (environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or environ.get(ENDPOINT, "")).strip()


def _prometheus_reader(address: tuple[str, int] | None) -> "MetricReader":
    """Return a reader for the registry of Prometheus, under the names that a Prometheus makes of OTLP.

    Answer GET /metrics at the address, if there is one.
    """
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR, REGISTRY, start_http_server

    for collector in (GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR):
        REGISTRY.unregister(collector)  # the process's metrics have names of OpenTelemetry's already
    if address is not None:
        host, port = address
        try:
            start_http_server(port, host)
        except OSError as error:
            raise ConfigError(f"{_PORT_VARIABLE}: cannot listen on {host}:{port}: {error.strerror or error}") from error
    return PrometheusMetricReader(scope_info_enabled=False)


def _require_prometheus() -> None:
    try:
        import_module("opentelemetry.exporter.prometheus")
    except ModuleNotFoundError as error:
        needed = "pip install 'otel-sessions[prometheus]'"
        raise ConfigError(f"OTEL_METRICS_EXPORTER=prometheus needs {error.name}; {needed}") from error


def _prometheus_address(environ: Mapping[str, str]) -> tuple[str, int]:
    """Return where Prometheus scrapes. Raises `ConfigError` if the port is none."""
    host = environ.get(_HOST_VARIABLE, "").strip() or "localhost"
    port = environ.get(_PORT_VARIABLE, "").strip() or "9464"
    if not (port.isascii() and port.isdigit() and int(port) in _PORTS):
        raise ConfigError(f"{_PORT_VARIABLE} takes a port from 1 to 65535, not {port!r}")
    return host, int(port)


def _otlp_exporter(signal: str, name: str, environ: Mapping[str, str]) -> Any:
    return getattr(import_module(_otlp_module(signal, environ)), name)()


def _otlp_module(signal: str, environ: Mapping[str, str]) -> str:
    return f"{_PACKAGES[_protocol(signal, environ)]}.{MODULES[signal]}"


def _protocol(signal: str, environ: Mapping[str, str]) -> str:
    protocol = _given_protocol(signal, environ) or _usual_protocol(_given_endpoint(signal, environ))
    if protocol not in _PACKAGES:
        raise ConfigError(f"{_PROTOCOL} takes {' or '.join(_PACKAGES)}, not {protocol!r}")
    return protocol


def _given_protocol(signal: str, environ: Mapping[str, str]) -> str:
    return environ.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL") or environ.get(_PROTOCOL) or ""


def _says_grpc(signal: str, environ: Mapping[str, str]) -> bool:
    return _given_protocol(signal, environ) == _GRPC


def _usual_protocol(endpoint: str) -> str:
    """Return the protocol that collectors usually speak on the port of an endpoint."""
    return _GRPC if urlsplit(as_url(endpoint)).port == _GRPC_PORT else "http/protobuf"


def _require_numbers(
    names: Iterable[str], expected: str, read: Callable[[str], float], environ: Mapping[str, str]
) -> None:
    """Raise `ConfigError`, which names the variable, if a number is wrong. An empty variable counts as unset."""
    for name in names:
        value = environ.get(name, "").strip()
        if value and not _is_positive(value, read):
            raise ConfigError(f"{name} takes {expected}, not {value!r}")


def _is_positive(value: str, read: Callable[[str], float]) -> bool:
    try:
        return 0 < read(value) < inf
    except ValueError:
        return False


def _require_endpoint(signal: str, environ: Mapping[str, str]) -> None:
    """Raise `ConfigError`, which names the variable, if the endpoint of a signal is wrong."""
    own, address = f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", endpoint(signal, environ)
    variable = own if environ.get(own) else ENDPOINT
    public = _CREDENTIALS.sub(r"\1", address)
    if not _is_url(address):
        raise ConfigError(f"{variable} takes a URL, not {public!r}")
    parts = urlsplit(as_url(address))
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
        parts = urlsplit(as_url(endpoint))
        host, port = parts.hostname, parts.port
    except ValueError:
        return False
    if port == 0 or not endpoint.isprintable() or " " in endpoint:
        return False
    return bool(host) or parts.scheme not in ("", "http", "https")
