"""A run of the proxy under the load's whole story, and one of managers in trouble, as Prometheus, Jaeger and the logs
tell them."""

import json
import math
import re
import time
from collections.abc import Mapping
from typing import Any

import pytest

from otel_sessions._telemetry import fleet_signals, signals
from otel_sessions._telemetry.signals import Kind, Metric
from otel_sessions.proxy import measured
from tests.waiting import until

from .backends import Stack
from .conftest import FLEET_STORY, Story
from .troubled import SECRET

pytestmark = pytest.mark.stack

TRIGGER, OUTCOME = "otel_sessions_cleanup_trigger", "otel_sessions_cleanup_outcome"
STAGE = "otel_sessions_cleanup_stage"


def by(stack: Stack, at: float, query: str, *labels: str) -> dict[tuple[str, ...], float]:
    """Return the values of a query at a time, by the values of some labels, without those that are 0."""
    rows = stack.ask("query", query=query, time=f"{at:.3f}")["result"]
    values = {tuple(row["metric"][label] for label in labels): float(row["value"][1]) for row in rows}
    return {words: value for words, value in values.items() if value}


def plain(span: Mapping[str, Any]) -> dict[str, Any]:
    """Return a span's attributes."""
    return {tag["key"]: tag["value"] for tag in span["tags"]}


def instance_of(trace: Mapping[str, Any], span: Mapping[str, Any]) -> str:
    return str(plain(trace["processes"][span["processID"]])["service.instance.id"])


def test_every_phase_of_the_load_left_its_mark(story: Story) -> None:
    cleaned = story.books["cleaned"]

    assert story.books["created"] > 100
    assert story.books["rejected"]["max_sessions"] > 0
    assert cleaned["idle_timeout"] > 0
    assert cleaned["closed"] > 0
    assert story.books["peak_active"] == 40


def test_prometheus_has_the_same_books_by_reason(stack: Stack, story: Story) -> None:
    books = story.books
    reasons = by(
        stack, story.end, 'otel_sessions_session_cleaned_total{instance="story"}', "otel_sessions_session_end_reason"
    )
    refused = by(
        stack, story.end, 'otel_sessions_session_rejected_total{instance="story"}', "otel_sessions_rejection_reason"
    )

    assert stack.value('otel_sessions_session_created_total{instance="story"}', story.end) == books["created"]
    assert reasons == {(reason,): count for reason, count in books["cleaned"].items() if count}
    assert refused == {(reason,): count for reason, count in books["rejected"].items() if count}
    assert stack.value('sum(otel_sessions_session_active{instance="story"})', story.end) == books["active"] == 0


def test_prometheus_has_the_same_passes_and_each_lasted(stack: Stack, story: Story) -> None:
    assert stack.value('sum(otel_sessions_cleanup_runs_total{instance="story"})', story.end) == story.books["passes"]
    assert (
        stack.value('sum(otel_sessions_cleanup_duration_seconds_count{instance="story"})', story.end)
        == story.books["passes"]
    )


def test_prometheus_has_the_lifetime_of_every_session(stack: Stack, story: Story) -> None:
    lived = stack.value('sum(otel_sessions_session_duration_seconds_count{instance="story"})', story.end)

    assert lived == story.books["created"]


def in_prometheus(metric: Metric) -> str:
    """Return the name that Prometheus gives a metric of OTLP."""
    seconds = "_seconds" if metric.unit == "s" else ""
    ending = {Kind.COUNTER: "_total", Kind.HISTOGRAM: "_bucket"}.get(metric.kind, "")
    return f"{metric.name.replace('.', '_')}{seconds}{ending}"


@pytest.mark.parametrize("metric", [*signals.METRICS, *measured.METRICS], ids=lambda metric: metric.name)
def test_prometheus_has_every_metric_of_the_tables(stack: Stack, story: Story, metric: Metric) -> None:
    found = stack.series(f'{in_prometheus(metric)}{{instance="story"}}', story.start, story.end)

    assert found


@pytest.mark.parametrize("metric", fleet_signals.METRICS, ids=lambda metric: metric.name)
def test_prometheus_has_every_metric_of_a_fleet_with_a_store(stack: Stack, story: Story, metric: Metric) -> None:
    found = stack.series(f'{in_prometheus(metric)}{{instance="{FLEET_STORY}"}}', story.start, story.end)

    assert found


def test_the_books_of_the_fleet_balance_in_every_single_sample(stack: Stack, story: Story) -> None:
    here = f'{{instance="{FLEET_STORY}"}}'
    created, cleaned, active = (
        f"sum(otel_sessions_fleet_session_{what}{here})" for what in ("created", "cleaned", "active")
    )
    (points,) = stack.series(f"{created} - {cleaned} - {active}", story.start, story.end).values()

    assert len(points) > 20
    assert {value for _, value in points} == {0.0}


def test_prometheus_has_no_metric_of_ours_that_is_in_no_table(stack: Stack, story: Story) -> None:
    names = stack.ask("label/__name__/values", **{"match[]": '{instance="story"}'})
    known = {in_prometheus(metric).removesuffix("_bucket") for metric in (*signals.METRICS, *measured.METRICS)}
    ours = {name for name in names if name.startswith(("otel_sessions_", "http_"))}

    assert {re.sub("_(bucket|count|sum)$", "", name) for name in ours} == known


def test_the_books_balance_in_every_single_sample(stack: Stack, story: Story) -> None:
    query = (
        'sum(otel_sessions_session_created_total{instance="story"})'
        ' - sum(otel_sessions_session_cleaned_total{instance="story"})'
        ' - sum(otel_sessions_session_active{instance="story"})'
    )
    (points,) = stack.series(query, story.start, story.end).values()

    assert len(points) > 20
    assert {value for _, value in points} == {0.0}


def test_the_cap_holds_in_every_single_sample(stack: Stack, story: Story) -> None:
    query = (
        'sum(otel_sessions_session_active{instance="story"}) + sum(otel_sessions_session_reserved{instance="story"})'
    )
    (points,) = stack.series(query, story.start, story.end).values()

    assert max(value for _, value in points) <= 40


def test_an_exemplar_leads_to_the_trace_of_its_pass(stack: Stack, story: Story) -> None:
    exemplars = until(
        lambda: stack.exemplars(
            'otel_sessions_cleanup_duration_seconds_bucket{instance="story"}', story.start, time.time()
        ),
        bool,
    )
    spans = until(
        lambda: [span for trace_id in exemplars for span in stack.trace(trace_id)],
        lambda found: len(found) == len(exemplars),
    )

    for span in spans:
        tags = {tag["key"]: tag["value"] for tag in span["tags"]}
        assert span["operationName"] == "otel_sessions.cleanup"
        assert tags["otel_sessions.manager.name"] == "proxy"
        assert tags["otel_sessions.cleanup.trigger"] in ("interval", "emergency", "shutdown")
        assert tags["otel_sessions.cleanup.outcome"] == "success"
        for count in ("examined", "cleaned", "hook_errors", "remaining"):
            assert isinstance(tags[f"otel_sessions.cleanup.{count}"], int)


def test_every_pass_is_a_trace_and_all_their_sessions_add_up(stack: Stack, story: Story) -> None:
    def passes() -> list[dict[str, Any]]:
        traces = stack.search_traces(service="otel-sessions-proxy", operation="otel_sessions.cleanup", limit=1000)
        return [plain(span) for trace in traces for span in trace["spans"] if instance_of(trace, span) == "story"]

    spans = until(passes, lambda found: len(found) == story.books["passes"])
    by_hand = story.books["cleaned"]["closed"]

    assert sum(tags["otel_sessions.cleanup.cleaned"] for tags in spans) == story.books["created"] - by_hand


def test_the_lines_of_a_pass_carry_its_trace_id_to_lokis_address(stack: Stack, story: Story) -> None:
    exemplars = set(
        stack.exemplars('otel_sessions_cleanup_duration_seconds_bucket{instance="story"}', story.start, time.time())
    )
    lines = until(
        lambda: [line for line in stack.logs() if line.trace_id in exemplars],
        lambda found: {line.trace_id for line in found} == exemplars,
    )

    for line in lines:
        assert line.service == "otel-sessions-proxy"
        assert line.body.startswith("cleanup pass (")
        assert line.attributes["otel_sessions.manager.name"] == "proxy"


def test_the_load_tells_its_phases_in_the_logs(stack: Stack, story: Story) -> None:
    said = [line.body for line in stack.logs() if line.service == "otel-sessions-load"]

    for phase in ("ramp", "steady", "burst", "abandonment", "recovery"):
        assert f"phase {phase}" in said


def test_passes_in_trouble_are_counted_by_trigger_and_outcome(stack: Stack, troubled: Mapping[str, Any]) -> None:
    runs = by(
        stack,
        troubled["end"],
        'otel_sessions_cleanup_runs_total{otel_sessions_manager_name="troubled"}',
        TRIGGER,
        OUTCOME,
    )

    assert runs == {
        ("manual", "success"): 1,
        ("manual", "partial"): 3,
        ("manual", "error"): 1,
        ("manual", "cancelled"): 1,
        ("emergency", "success"): 1,
        ("shutdown", "success"): 1,
    }
    assert sum(runs.values()) == troubled["runs"]


def test_errors_are_counted_by_stage_and_type(stack: Stack, troubled: Mapping[str, Any]) -> None:
    errors = by(
        stack,
        troubled["end"],
        'otel_sessions_cleanup_errors_total{otel_sessions_manager_name="troubled"}',
        STAGE,
        "error_type",
    )

    assert errors == {
        ("hook", "ValueError"): 1,
        ("hook", "timeout"): 2,
        ("sink", "OSError"): 1,
        ("pass", "OSError"): 1,
    }
    assert sum(errors.values()) == troubled["errors"]


def test_the_books_of_managers_in_trouble_are_the_same_in_prometheus(stack: Stack, troubled: Mapping[str, Any]) -> None:
    here = 'otel_sessions_manager_name="troubled"'
    reasons = by(
        stack, troubled["end"], f"otel_sessions_session_cleaned_total{{{here}}}", "otel_sessions_session_end_reason"
    )
    refused = by(
        stack, troubled["end"], f"otel_sessions_session_rejected_total{{{here}}}", "otel_sessions_rejection_reason"
    )

    assert stack.value(f"otel_sessions_session_created_total{{{here}}}", troubled["end"]) == troubled["created"]
    assert reasons == {(reason,): count for reason, count in troubled["cleaned"].items() if count}
    assert refused == {(reason,): count for reason, count in troubled["rejected"].items() if count}


def test_an_aborted_pass_is_a_trace_with_an_error(stack: Stack, troubled: Mapping[str, Any]) -> None:
    tags = json.dumps({"otel_sessions.cleanup.outcome": "error"})
    traces = until(lambda: stack.search_traces(service="otel-sessions-proxy", tags=tags, limit=20), bool)

    ((span,),) = [trace["spans"] for trace in traces]
    found = {tag["key"]: tag["value"] for tag in span["tags"]}
    assert found["error.type"] == "OSError"
    assert found["error"] is True


def test_what_fails_in_a_pass_is_a_line_under_its_trace(stack: Stack, troubled: Mapping[str, Any]) -> None:
    events = ("otel_sessions.cleanup.call_failed", "otel_sessions.cleanup.aborted")

    def failures() -> dict[tuple[str, str], str]:
        return {
            (line.severity, line.body.split(" of session")[0]): line.trace_id
            for line in stack.logs()
            if line.event in events
        }

    found = until(failures, lambda found: len(found) >= 3)

    assert set(found) == {
        ("WARN", "the hook"),
        ("WARN", "the sink"),
        ("ERROR", "a cleanup pass (manual) was aborted"),
    }
    for trace_id in found.values():
        assert [span["operationName"] for span in stack.trace(trace_id)] == ["otel_sessions.cleanup"]


def test_no_session_id_leaves_on_any_signal(stack: Stack, troubled: Mapping[str, Any]) -> None:
    traces = stack.search_traces(service="otel-sessions-proxy", operation="otel_sessions.cleanup", limit=1000)
    series = stack.ask("series", **{"match[]": '{job="otel-sessions-proxy"}'})
    told = stack.received_logs.read_text()

    assert "troubled" in json.dumps(traces)
    assert "troubled" in json.dumps(series)
    assert "the hook of session" in told
    assert SECRET not in json.dumps(traces) + json.dumps(series) + told


def test_a_pass_that_is_late_shows_how_late(stack: Stack, troubled: Mapping[str, Any]) -> None:
    late = stack.value('max_over_time(otel_sessions_cleanup_overdue_seconds{otel_sessions_manager_name="late"}[1h])')

    assert late > 300
    assert not math.isnan(late)
