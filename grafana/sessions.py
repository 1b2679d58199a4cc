"""The dashboard "Sessions": its first screen, then who comes and goes, what cleanup does, and each instance by itself.

Books subtract raw values, since an `increase` misses a series' first step. Nothing is summed over instances: what one
of them does wrong would drown. What is stacked stands in a row of its own for each instance.
"""

from typing import Final

from grafana_foundation_sdk.builders import dashboard, timeseries
from grafana_foundation_sdk.models import units

from . import boards, colors
from .around import pipeline, process, requests
from .asks import EACH, MANAGER, NAMED, REASON, WHO, happened, latest, quantile, rate, recently
from .first_screen import first_screen
from .panels import (
    COUNT,
    ERRORS,
    NONE_IS_GOOD,
    PASSES,
    SESSIONS,
    SESSIONS_A_SECOND,
    bars,
    buckets,
    counted,
    curves,
    durations,
    having,
    query,
    stacked,
)

LIFETIME: Final = "otel_sessions_session_duration_seconds"
REJECTION: Final = "otel_sessions_rejection_reason"
STAGE: Final = "otel_sessions_cleanup_stage, error_type"
STAGE_NAMED: Final = f"{NAMED} {{{{otel_sessions_cleanup_stage}}}}: {{{{error_type}}}}"
BY_REASON: Final = f"{{{{{REASON}}}}}"


def sessions() -> dashboard.Dashboard:
    variables = [
        boards.source_variable("metrics", "Metrics", "prometheus"),
        boards.source_variable("logs", "Logs", "loki"),
        *(boards.job(), boards.instance(), boards.manager(), boards.window(), boards.memory_limit()),
        boards.label_variable("collector", "Collector", "label_values(otelcol_process_uptime_seconds_total, instance)"),
    ]
    about = "Sessions of a proxy: bounded, accounted for, and why each one ended."
    board = boards.board("Sessions", boards.SESSIONS_UID, about, variables).refresh("5s")
    board.annotation(boards.alerts("$instance", "$collector")).annotation(boards.died()).annotation(boards.phases())
    board.link(boards.link("Cleanup passes", boards.PASSES_UID)).link(boards.link("Fleet", boards.FLEET_UID))
    board.link(boards.link("Runbook", boards.RUNBOOK_UID))
    for add in (first_screen, _traffic, _cleanup, requests, _each, process, pipeline):
        add(board)
    return board


def _traffic(board: dashboard.Dashboard) -> None:
    refused = rate("otel_sessions_session_rejected_total", f"{WHO}, {REJECTION}")
    created = rate("otel_sessions_session_created_total", WHO)
    board.with_row(dashboard.Row("Coming and going, of every instance"))
    board.with_panel(
        curves(
            "Created",
            "Sessions created a second.",
            SESSIONS_A_SECOND,
            query(created, NAMED),
            decimals=2,
            width=6,
        )
    )
    board.with_panel(
        curves(
            "Refused, by reason",
            "Sessions refused a second. Refusals that go on mean that the cap is too low.",
            SESSIONS_A_SECOND,
            query(refused, f"{NAMED} {{{{{REJECTION}}}}}"),
            words=colors.REJECTIONS,
            decimals=2,
            width=6,
        )
    )
    board.with_panel(_waiting())
    board.with_panel(
        curves(
            "Oldest lease",
            "For how long the lease that was given first has been held. A leased session is never idle.",
            units.Seconds,
            query(f"max by ({WHO}) ({latest('otel_sessions_lease_oldest_seconds')})", NAMED),
            steps=[(None, "green"), (4 * 3600, "red")],
            width=6,
        )
    )


def _waiting() -> timeseries.Panel:
    panel = curves(
        "Waiting at the cap",
        "Left: creators that wait for a place, and places that are reserved. Right: how long 95 of 100 waited at most.",
        COUNT,
        query(f"sum by ({WHO}) ({latest('otel_sessions_session_pending')})", f"{NAMED} waiting"),
        query(f"sum by ({WHO}) ({latest('otel_sessions_session_reserved')})", f"{NAMED} reserved"),
        query(quantile(0.95, "otel_sessions_session_wait_time_seconds", WHO), f"{NAMED} p95 wait"),
        width=6,
    )
    return panel.override_by_regexp(
        "/ wait$/", [having("custom.axisPlacement", "right"), having("unit", units.Seconds)]
    )


def _cleanup(board: dashboard.Dashboard) -> None:
    runs = happened("otel_sessions_cleanup_runs_total", WHO)
    errors = happened("otel_sessions_cleanup_errors_total", f"{WHO}, {STAGE}")
    board.with_row(dashboard.Row("Cleanup, of every instance"))
    board.with_panel(
        curves(
            "Passes",
            "Cleanup passes within each window. By trigger and outcome, they stand in the row of the instance.",
            PASSES,
            counted(runs, NAMED),
            decimals=0,
            width=6,
        )
    )
    board.with_panel(
        curves(
            "How late the next pass is",
            "In intervals: 0 while cleanup runs on time. If this rises, the event loop is blocked or the task is gone.",
            "suffix:intervals",
            query(
                f"max by ({WHO}) ({latest('otel_sessions_cleanup_overdue_seconds')})"
                f" / (max by ({WHO}) ({latest('otel_sessions_cleanup_interval_seconds')}) > 0)",
                NAMED,
            ),
            steps=[(None, "green"), (1, "orange"), (2, "red")],
            decimals=1,
            width=6,
        )
    )
    board.with_panel(
        curves(
            "Errors, by stage and type",
            "Within each window: close hooks, exports and passes that failed. Their sessions are gone all the same.",
            ERRORS,
            counted(errors, STAGE_NAMED),
            steps=NONE_IS_GOOD,
            decimals=0,
            width=6,
        )
    )
    board.with_panel(
        curves(
            "Errors since the start, by stage and type",
            "Close hooks, exports and passes that failed. Sessions are gone all the same; what they held may not be.",
            ERRORS,
            query(f"sum by ({WHO}, {STAGE}) ({latest('otel_sessions_cleanup_errors_total')})", STAGE_NAMED),
            steps=NONE_IS_GOOD,
            decimals=0,
            width=6,
        )
    )


def _each(board: dashboard.Dashboard) -> None:
    """Add a row that repeats for each instance."""
    board.with_row(dashboard.Row("$instance").repeat("instance"))
    for panel in (_cleaned(), _cleaned_in_all(), _in_use(), _passes(), _lifetimes(), _mean_lifetime()):
        board.with_panel(panel)
    about = "Close hooks and exports included. A dot is one pass: click it to see its trace and its lines."
    ask = buckets("otel_sessions_cleanup_duration_seconds", MANAGER)
    board.with_panel(durations("How long passes take", about, ask, width=12, height=8))
    about = "Of the sessions that ended within each window."
    board.with_panel(durations("How long sessions lived", about, buckets(LIFETIME, MANAGER), width=12, height=8))


def _cleaned() -> timeseries.Panel:
    panel = curves(
        "Cleaned, by reason",
        "Why sessions ended. Mostly idle_timeout means that clients do not say goodbye.",
        SESSIONS_A_SECOND,
        query(rate("otel_sessions_session_cleaned_total", f"{EACH}, {REASON}"), BY_REASON),
        words=colors.REASONS,
        decimals=2,
    )
    return stacked(panel)


def _cleaned_in_all() -> timeseries.Panel:
    panel = curves(
        "Cleaned since the start, by reason",
        "The books, as they are: raw totals.",
        SESSIONS,
        query(f"sum by ({EACH}, {REASON}) ({latest('otel_sessions_session_cleaned_total')})", BY_REASON),
        words=colors.REASONS,
    )
    return stacked(panel)


def _in_use() -> timeseries.Panel:
    state = "otel_sessions_session_state"
    panel = curves(
        "In use or not",
        "Sessions by what is done with them: leased by a request or a stream, unleased, or closing.",
        SESSIONS,
        query(f"sum by ({EACH}, {state}) ({latest('otel_sessions_session_active')})", f"{{{{{state}}}}}"),
        words=colors.STATES,
        decimals=0,
    )
    return stacked(panel)


def _passes() -> timeseries.Panel:
    words = "otel_sessions_cleanup_trigger, otel_sessions_cleanup_outcome"
    panel = curves(
        "Passes, by trigger and outcome",
        "Cleanup passes within each window. Emergency passes mean that the cap was reached.",
        PASSES,
        counted(
            f"{happened('otel_sessions_cleanup_runs_total', f'{EACH}, {words}')} > 0",
            "{{otel_sessions_cleanup_trigger}}: {{otel_sessions_cleanup_outcome}}",
        ),
        words=colors.PASSES,
        decimals=0,
    )
    return bars(panel)


def _lifetimes() -> timeseries.Panel:
    return curves(
        "Lifetimes",
        "How long sessions lived that ended within the window: half, 95 and 99 of a hundred lived no longer.",
        units.Seconds,
        *(query(quantile(share, LIFETIME, EACH), f"p{round(share * 100)}") for share in (0.5, 0.95, 0.99)),
    )


def _mean_lifetime() -> timeseries.Panel:
    by = f"{EACH}, {REASON}"
    return curves(
        "Mean lifetime, by reason",
        "Who is ended for its age has lived longest; who is evicted should have lived for a while.",
        units.Seconds,
        query(f"{recently(f'{LIFETIME}_sum', by)} / ({recently(f'{LIFETIME}_count', by)} > 0)", BY_REASON),
        words=colors.REASONS,
    )
