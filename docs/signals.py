"""The tables of the page of signals: from the tables in the code, and from each log line of the package.

`tests/telemetry/test_signals.py` holds what managers export against the same tables.
"""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import otel_sessions
from otel_sessions._core.events import Event
from otel_sessions._telemetry import fleet_signals
from otel_sessions._telemetry.signals import (
    FORWARD_ATTRIBUTES,
    METRICS,
    SCOPE,
    SPAN_ATTRIBUTES,
    TAKE_ATTRIBUTES,
    Attribute,
    Kind,
    Metric,
)
from otel_sessions.proxy import measured

from .marked import replaced, table

PATH: Final = Path(__file__).parent / "reference" / "signals.md"

_PACKAGE: Final = Path(otel_sessions.__file__).parent
_EMBEDDED: Final = ("_core", "_engine", "_telemetry", "admin", "asgi", "fleet", "sinks")
"""The folders whose lines an embedder may see."""
_MOST_WORDS: Final = 16
_LEVELS: Final = ("debug", "info", "warning", "error")


def page() -> str:
    """Return the page as it should be now."""
    columns = ("metric", "instrument", "unit", "what it says", "series at most")
    lines = ("event name", "level", "message")
    tables = {
        "the metrics": table(columns, [_metric(metric) for metric in METRICS]),
        "the attributes": table(("attribute", "values", "on which metrics"), _attributes(METRICS)),
        "the buckets": table(("histogram", "upper bounds of its buckets"), _buckets(METRICS)),
        "the fleet's metrics": table(columns, [_metric(metric) for metric in fleet_signals.METRICS]),
        "the fleet's attributes": table(
            ("attribute", "values", "on which metrics"), _attributes(fleet_signals.METRICS)
        ),
        "the fleet's buckets": table(("histogram", "upper bounds of its buckets"), _buckets(fleet_signals.METRICS)),
        "the span of a rejoin": _span(fleet_signals.REJOIN_ATTRIBUTES),
        "the span of orphans": _span(fleet_signals.ORPHANS_ATTRIBUTES),
        "the span of a resync": _span(fleet_signals.RESYNC_ATTRIBUTES),
        "the span": _span(SPAN_ATTRIBUTES),
        "the client span": _span(FORWARD_ATTRIBUTES),
        "the server span": _span(TAKE_ATTRIBUTES),
        "the lines": table(lines, sorted(set(log_lines(*_EMBEDDED)))),
        "the proxy's metrics": table(columns, [_metric(metric) for metric in measured.METRICS]),
        "the proxy's attributes": table(("attribute", "values", "on which metrics"), _attributes(measured.METRICS)),
        "the proxy's buckets": table(("histogram", "upper bounds of its buckets"), _buckets(measured.METRICS)),
        "the proxy's lines": table(lines, sorted(set(log_lines("proxy")))),
    }
    return replaced(PATH.read_text(encoding="utf-8"), tables)


def log_lines(*folders: str) -> Iterator[tuple[str, str, str]]:
    """Yield the event name, the level and the message of each log line. Raises `ValueError` if a line has no event."""
    for path in sorted(one for folder in folders for one in (_PACKAGE / folder).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "_logger"
                and node.func.attr != "isEnabledFor"
            ):
                if node.func.attr not in _LEVELS:
                    raise ValueError(f"{path.name}:{node.lineno}: a line is written by one of {_LEVELS}")
                for text in _texts_of(node.args[0]):
                    yield f"`{_event_of(node, path)}`", node.func.attr.upper(), f"`{text}`"


def _texts_of(said: ast.expr) -> list[object]:
    """Return what a line may say: one text, or one of two, or anything."""
    match said:
        case ast.Constant(value=text):
            return [text]
        case ast.IfExp(body=one, orelse=other):
            return [*_texts_of(one), *_texts_of(other)]
        case _:
            return ["%s"]


def _event_of(call: ast.Call, path: Path) -> str:
    for keyword in call.keywords:
        for node in ast.walk(keyword.value) if keyword.arg == "extra" else ():
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Event":
                return Event[node.attr].value
    raise ValueError(f"{path.name}:{call.lineno}: this log line has no event name: give it extra=Event.….extra")


def _metric(metric: Metric) -> tuple[str, ...]:
    return f"`{metric.name}`", metric.kind.value, f"`{metric.unit}`", metric.description, f"{metric.most_series:,}"


def _span(attributes: Sequence[Attribute]) -> str:
    return table(("attribute", "values"), [(f"`{one.name}`", _values(one)) for one in attributes])


def _attributes(metrics: Sequence[Metric]) -> list[tuple[str, ...]]:
    """Return each attribute with its values and its metrics."""
    owners: dict[Attribute, list[str]] = {}
    for metric in metrics:
        for attribute in metric.attributes:
            owners.setdefault(attribute, []).append(f"`{metric.name.removeprefix(f'{SCOPE}.')}`")
    return [(f"`{one.name}`", _values(one), ", ".join(names)) for one, names in owners.items()]


def _values(attribute: Attribute) -> str:
    words = [f"`{word}`" for word in attribute.words]
    if len(words) > _MOST_WORDS:
        words = [f"{words[0]} to {words[-1]}, {len(words)} values"]
    return ", ".join([*words, attribute.further] if attribute.further else words)


def _buckets(metrics: Sequence[Metric]) -> list[tuple[str, ...]]:
    return [
        (f"`{metric.name}`", ", ".join(f"{bound:g}" if bound >= 0.0001 else f"{bound:.5f}" for bound in metric.buckets))
        for metric in metrics
        if metric.kind is Kind.HISTOGRAM
    ]
