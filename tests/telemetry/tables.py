"""How an exported metric is held against its row in a table of signals."""

from opentelemetry.sdk.metrics.export import Gauge, Histogram, Metric, Sum

from otel_sessions._telemetry import signals as table
from tests.signals import NAME


def kind_of(metric: Metric) -> table.Kind:
    if isinstance(metric.data, Sum):
        return table.Kind.COUNTER if metric.data.is_monotonic else table.Kind.UP_DOWN_COUNTER
    assert isinstance(metric.data, Gauge | Histogram)
    return table.Kind.GAUGE if isinstance(metric.data, Gauge) else table.Kind.HISTOGRAM


def assert_described(metric: Metric, described: table.Metric) -> None:
    """Assert that an exported metric is as the table describes it, and so is every attribute of every series."""
    assert (metric.name, kind_of(metric), metric.unit) == (described.name, described.kind, described.unit)
    assert metric.description == described.description
    known = {attribute.name: attribute for attribute in described.attributes}
    for point in metric.data.data_points:
        for name, value in (point.attributes or {}).items():
            assert name == NAME or value in known[name].words or known[name].further
