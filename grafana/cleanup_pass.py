"""The dashboard "Cleanup pass": the latest passes, and of one of them its trace, its lines, and what it cleaned."""

from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import units

from .panels import (
    NEUTRAL,
    PROCESS,
    REASON,
    SESSIONS,
    TRACES,
    JaegerQuery,
    buckets,
    curves,
    described,
    durations,
    increase,
    label_variable,
    lines,
    query,
    source_variable,
)
from .sessions import alerts, link

UID: Final = "otel-sessions-pass"
LINES: Final = '{service_name="$job"} | service_instance_id=~"$instance"'


def cleanup_pass() -> dashboard.Dashboard:
    created = "otel_sessions_session_created_total"
    board = (
        dashboard.Dashboard("Cleanup pass")
        .uid(UID)
        .description("The latest cleanup passes; of the one whose trace id is chosen, its trace and its log lines.")
        .tags(["otel-sessions"])
        .time("now-15m", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .annotation(alerts())
        .link(link("Sessions", "/d/otel-sessions"))
    )
    for variable in (
        source_variable("metrics", "Metrics", "prometheus"),
        source_variable("traces", "Traces", "jaeger"),
        source_variable("logs", "Logs", "loki"),
        label_variable("job", "Job", f"label_values({created}, job)", many=False),
        label_variable("instance", "Instance", f'label_values({created}{{job=~"$job"}}, instance)'),
        label_variable("manager", "Manager", f"label_values({created}{{{PROCESS}}}, otel_sessions_manager_name)"),
        dashboard.TextBoxVariable("trace").label("Trace id"),
    ):
        board.with_variable(variable)
    _passes(board)
    _one(board)
    return board


def _passes(board: dashboard.Dashboard) -> None:
    recent = described(
        dashboard.Panel(),
        "Recent passes",
        "The latest cleanup passes. Click a trace id to see that pass below.",
        units.Short,
        NEUTRAL,
        12,
        10,
    )
    search = JaegerQuery(queryType="search", service="$job", operation="otel_sessions.cleanup", limit=50)
    here = models.DynamicConfigValue(
        id_val="links",
        value=[
            {
                "title": "Show this pass",
                "url": f"/d/{UID}?var-trace=${{__value.raw}}&${{__url_time_range}}&${{job:queryparam}}",
            }
        ],
    )
    board.with_panel(recent.type("table").datasource(TRACES).with_target(search).override_by_name("Trace ID", [here]))
    board.with_panel(
        durations(
            "How long passes took",
            "Close hooks and exports included. A dot is one pass: click it.",
            buckets("otel_sessions_cleanup_duration_seconds_bucket"),
            width=6,
            height=10,
        )
    )
    board.with_panel(
        curves(
            "What passes cleaned, by reason",
            "Sessions that ended, by reason.",
            SESSIONS,
            query(increase("otel_sessions_session_cleaned_total", REASON), f"{{{{{REASON}}}}}"),
            stacked=True,
            width=6,
            height=10,
        )
    )


def _one(board: dashboard.Dashboard) -> None:
    board.with_row(dashboard.Row("The chosen pass"))
    trace = described(
        dashboard.Panel(),
        "Its trace",
        "The span of the pass: what started it, how many sessions it examined and cleaned, how many hooks failed.",
        units.Short,
        NEUTRAL,
        12,
        12,
    )
    board.with_panel(trace.type("traces").datasource(TRACES).with_target(JaegerQuery(query="$trace")))
    board.with_panel(
        lines(
            "Its lines",
            "What was logged under the pass, hooks included.",
            f'{LINES} | trace_id="$trace"',
            width=12,
            height=12,
        )
    )
    board.with_row(dashboard.Row("All lines"))
    board.with_panel(
        lines(
            "Lines of the proxy and its manager",
            "The latest lines; one of a pass leads to its trace.",
            LINES,
            width=24,
            height=10,
        )
    )
