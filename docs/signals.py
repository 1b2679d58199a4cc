"""The tables of the page of signals, from what a manager really reports.

A manager lives and ends under OpenTelemetry's SDK. The tables say what its readers have seen. So a signal that the code
gains, loses or renames changes the page.
"""

import ast
import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    Gauge,
    Histogram,
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    Sum,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import otel_sessions
from otel_sessions import SessionManager

from .marked import replaced, table

PATH: Final = Path(__file__).parent / "reference" / "signals.md"

_PACKAGE: Final = Path(otel_sessions.__file__).parent
_OWN: Final = ("_core", "_engine", "_telemetry", "asgi", "sinks")
"""The folders whose lines an embedder may see."""
_LEVELS: Final = ("debug", "info", "warning", "error", "exception")
_NAME: Final = "otel_sessions.manager.name"


def seen() -> tuple[list[Metric], list[ReadableSpan]]:
    """Return the metrics and the spans of one session's life."""
    reader, spans = InMemoryMetricReader(), InMemorySpanExporter()
    meters, tracers = MeterProvider([reader], shutdown_on_exit=False), TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(spans))

    async def live_and_end() -> None:
        async with SessionManager(meter_provider=meters, tracer_provider=tracers) as manager:
            await manager.create_session()

    asyncio.run(live_and_end())
    collected = reader.get_metrics_data()
    assert collected is not None
    metrics = [
        metric
        for resource in collected.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]
    return metrics, list(spans.get_finished_spans())


def page() -> str:
    """Return the page as it should be now."""
    metrics, spans = seen()
    tables = {
        "the metrics": table(
            ("metric", "instrument", "unit", "what it says"),
            [_metric(metric) for metric in sorted(metrics, key=_order)],
        ),
        "the attributes": table(("attribute", "values", "on which metrics"), _attributes_of(metrics)),
        "the buckets": table(("histogram", "upper bounds of its buckets"), _buckets(metrics)),
        "the span": table(("attribute", "type"), _attributes(spans)),
        "the lines": table(("level", "message"), sorted(set(_lines()))),
    }
    return replaced(PATH.read_text(encoding="utf-8"), tables)


def _order(metric: Metric) -> tuple[bool, bool]:
    """Return where a metric stands: sessions before passes, counts before times."""
    return ".session." not in metric.name, isinstance(metric.data, Histogram)


def _metric(metric: Metric) -> tuple[str, ...]:
    return f"`{metric.name}`", _instrument(metric), f"`{metric.unit}`", metric.description or ""


def _attributes_of(metrics: Sequence[Metric]) -> list[tuple[str, ...]]:
    """Return each attribute with its values, which the counters have from the start, and its metrics."""
    values: dict[str, dict[str, None]] = {}
    owners: dict[str, dict[str, None]] = {}
    for metric in metrics:
        for point in metric.data.data_points:
            for key, value in (point.attributes or {}).items():
                if key != _NAME:
                    values.setdefault(key, {})[f"`{value}`"] = None
                    owners.setdefault(key, {})[f"`{metric.name.removeprefix('otel_sessions.')}`"] = None
    return [(f"`{key}`", ", ".join(sorted(words)), ", ".join(sorted(owners[key]))) for key, words in values.items()]


def _buckets(metrics: Sequence[Metric]) -> list[tuple[str, ...]]:
    return [
        (f"`{metric.name}`", ", ".join(f"{bound:g}" for bound in point.explicit_bounds))
        for metric in metrics
        for point in metric.data.data_points[:1]
        if isinstance(point, HistogramDataPoint)
    ]


def _instrument(metric: Metric) -> str:
    if isinstance(metric.data, Sum):
        return "counter" if metric.data.is_monotonic else "up-down counter"
    return "gauge" if isinstance(metric.data, Gauge) else "histogram"


def _attributes(spans: Sequence[ReadableSpan]) -> list[tuple[str, ...]]:
    found: dict[str, str] = {}
    for span in spans:
        attributes: Mapping[str, object] = span.attributes or {}
        found |= {key: type(value).__name__ for key, value in attributes.items()}
    return [(f"`{key}`", kind) for key, kind in found.items()]


def _lines() -> Iterator[tuple[str, str]]:
    """Yield the level and the message of each log line that is written in the package's own words."""
    for path in sorted(one for folder in _OWN for one in (_PACKAGE / folder).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "_logger"
                and node.func.attr in _LEVELS
                and isinstance(said := node.args[0], ast.Constant)
                and isinstance(said.value, str)
                and said.value != "%s"
            ):
                yield node.func.attr.replace("exception", "error").upper(), f"`{said.value}`"
