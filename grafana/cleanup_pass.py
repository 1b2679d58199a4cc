"""The dashboard "Cleanup pass": the latest passes, and of one of them its trace, its lines, and what it cleaned."""

from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import units

from .panels import (
    MANAGER,
    NEUTRAL,
    PROCESS,
    REASON,
    SESSIONS_A_SECOND,
    TRACES,
    JaegerQuery,
    buckets,
    curves,
    described,
    durations,
    label_variable,
    lines,
    query,
    rate,
    source_variable,
)
from .sessions import alerts, link

UID: Final = "otel-sessions-pass"
LINES: Final = '{service_name=~"$service"} | service_instance_id=~"$instance"'
PHASES: Final = '{service_name="otel-sessions-load"} |= "phase"'


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
        label_variable("service", "Service", f'label_values({created}{{job=~"$job"}}, service_name)', many=False),
        dashboard.TextBoxVariable("trace").label("Trace id").default_value(""),
    ):
        board.with_variable(variable)
    _passes(board)
    _one(board)
    return board


def _passes(board: dashboard.Dashboard) -> None:
    not_closed = f'{MANAGER}, {REASON}!="closed"'
    recent = described(
        dashboard.Panel(),
        "Recent passes",
        "The latest cleanup passes. Click a trace id to see that pass below.",
        units.Short,
        NEUTRAL,
        12,
        10,
    )
    search = JaegerQuery(queryType="search", service="$service", operation="otel_sessions.cleanup", limit=50)
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
            "Sessions that ended otherwise than by being closed by hand.",
            SESSIONS_A_SECOND,
            query(rate("otel_sessions_session_cleaned_total", REASON, not_closed), f"{{{{{REASON}}}}}"),
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
            '{service_name=~".+"} | trace_id="$trace" | trace_id!=""',
            width=12,
            height=12,
        )
    )
    board.with_row(dashboard.Row("All lines"))
    about = "The latest lines; one of a pass leads to its trace."
    board.with_panel(lines("Lines of the proxy and its manager", about, LINES, width=16, height=10))
    about = "Which phase of its story the demo's load is in. Empty where there is no demo."
    board.with_panel(lines("What the load does", about, PHASES, width=8, height=10))
