"""The dashboards "Cleanup passes", a list with filters, and "One cleanup pass", where the links of a pass lead.

A trace panel without a trace id is an error. So the one pass has a dashboard of its own, which only links open.
"""

from typing import Final

from grafana_foundation_sdk.builders import dashboard, text
from grafana_foundation_sdk.models.text import TextMode

from . import boards, colors
from .asks import EACH, MANAGER, REASON, TRACES, rate
from .panels import (
    COUNT,
    NEUTRAL,
    SESSIONS_A_SECOND,
    JaegerQuery,
    buckets,
    curves,
    described,
    durations,
    having,
    lines,
    query,
)

LINES: Final = '{service_name=~"$service"} | service_instance_id=~"$instance"'
ANY: Final = "telemetry.sdk.name=opentelemetry"
"""A tag that all spans have: Jaeger's search has no other way to say "any". It finds nothing by a span's kind."""
TRIGGERS: Final = {
    "any trigger": ANY,
    **{trigger: f"otel_sessions.cleanup.trigger={trigger}" for trigger in colors.TRIGGERS},
}
OUTCOMES: Final = {
    "any outcome": ANY,
    **{outcome: f"otel_sessions.cleanup.outcome={outcome}" for outcome in colors.OUTCOMES},
}
"""What each choice asks of Jaeger, in its tags."""


def cleanup_passes() -> dashboard.Dashboard:
    about = "Which of the latest passes are listed. The other panels show all passes."
    variables = [
        boards.source_variable("metrics", "Metrics", "prometheus"),
        boards.source_variable("traces", "Traces", "jaeger"),
        boards.source_variable("logs", "Logs", "loki"),
        *(boards.job(many=False), boards.instance(), boards.manager(), boards.service(), boards.window()),
        boards.choice_variable("trigger", "Listed trigger", about, TRIGGERS, "any trigger"),
        boards.choice_variable("outcome", "Listed outcome", about, OUTCOMES, "any outcome"),
    ]
    about = "The latest cleanup passes, how long they took, and what they cleaned."
    board = boards.board("Cleanup passes", boards.PASSES_UID, about, variables).refresh("30s")
    board.annotation(boards.alerts("$instance")).annotation(boards.died())
    board.link(boards.link("Sessions", boards.SESSIONS_UID)).link(boards.link("Runbook", boards.RUNBOOK_UID))
    _passes(board)
    board.with_row(dashboard.Row("All lines"))
    about = "The latest lines; one of a pass leads to its trace. Loki's queries are not run in our tests."
    return board.with_panel(lines("Lines of the proxy and its manager", about, LINES, width=24, height=12))


def _passes(board: dashboard.Dashboard) -> None:
    about = "The latest cleanup passes. Click a trace id to see that pass."
    recent = described(dashboard.Panel(), "Recent passes", about, COUNT, NEUTRAL, 12, 12).type("table")
    search = JaegerQuery(
        queryType="search",
        service="$service",
        operation="otel_sessions.cleanup",
        tags="$trigger $outcome",
        limit=50,
    )
    lead = [
        {
            "title": "Show this pass",
            "url": f"/d/{boards.SINGLE_UID}?var-trace=${{__value.raw}}&${{__url_time_range}}",
        }
    ]
    recent.datasource(TRACES).with_target(search).override_by_name("Trace ID", [having("links", lead)])
    board.with_panel(recent)
    about = "Close hooks and exports included. A dot is one pass: click it."
    ask = buckets("otel_sessions_cleanup_duration_seconds", MANAGER)
    board.with_panel(durations("How long passes took", about, ask, width=12, height=12))
    not_closed = f'{MANAGER}, {REASON}!="closed"'
    board.with_panel(
        curves(
            "What passes cleaned, by reason",
            "Sessions that ended otherwise than by being closed by hand.",
            SESSIONS_A_SECOND,
            query(
                rate("otel_sessions_session_cleaned_total", f"{EACH}, {REASON}", not_closed),
                f"{{{{instance}}}} {{{{{REASON}}}}}",
            ),
            words=colors.REASONS,
            decimals=2,
            width=24,
        )
    )


def one_cleanup_pass() -> dashboard.Dashboard:
    variables = [
        boards.source_variable("traces", "Traces", "jaeger"),
        boards.source_variable("logs", "Logs", "loki"),
        dashboard.TextBoxVariable("trace").label("Trace id").default_value(""),
    ]
    about = "The trace and the lines of the cleanup pass whose trace id is chosen. Links lead here."
    board = boards.board("One cleanup pass", boards.SINGLE_UID, about, variables)
    board.link(boards.link("Cleanup passes", boards.PASSES_UID)).link(boards.link("Sessions", boards.SESSIONS_UID))
    how = "Choose a pass in [Cleanup passes](/d/otel-sessions-pass), or click a dot in *How long passes take*."
    hint = text.Panel().title("").description(about).mode(TextMode.MARKDOWN).content(how).transparent(True)
    board.with_panel(hint.span(24).height(2))
    about = "The span of the pass: what started it, how many sessions it examined and cleaned, how many hooks failed."
    trace = described(dashboard.Panel(), "Its trace", about, COUNT, NEUTRAL, 24, 12).type("traces").datasource(TRACES)
    board.with_panel(trace.with_target(JaegerQuery(query="$trace")))
    about = "What was logged under the pass, hooks included. Loki's queries are not run in our tests."
    expression = '{service_name=~".+"} | trace_id="$trace" | trace_id!=""'
    return board.with_panel(lines("Its lines", about, expression, width=24, height=12))
