"""The dashboard "Sessions": is it bounded, who comes and goes, what cleanup does, and is telemetry itself well.

Books subtract raw values, since an `increase` misses a series' first step. Ratios are taken series by series over a
limit above 0, and gauges stay per instance, because a dead one lingers for five minutes.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

from grafana_foundation_sdk.builders import dashboard, prometheus
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import units

from .panels import (
    ERRORS,
    MANAGER,
    METRICS,
    NAMED,
    NONE_IS_GOOD,
    PASSES_A_MINUTE,
    PROCESS,
    REASON,
    SESSIONS,
    SESSIONS_A_SECOND,
    WHO,
    buckets,
    curves,
    durations,
    label_variable,
    now,
    query,
    rate,
    source_variable,
    verdict,
    words,
)

UID: Final = "otel-sessions"
ACTIVE: Final = f"sum by ({WHO}) (otel_sessions_session_active{{{MANAGER}}})"
LIMIT: Final = f"max by ({WHO}) (otel_sessions_session_limit{{{MANAGER}}})"
"""0 once the manager has ended, and absent where it has none."""
CREATED: Final = f"sum by ({WHO}) (otel_sessions_session_created_total{{{MANAGER}}})"
CLEANED: Final = f"sum by ({WHO}) (otel_sessions_session_cleaned_total{{{MANAGER}}})"
NO_LIMIT: Final = 99
"""What stands for the fill of a manager that has no cap."""
FILL: Final = f"max(({ACTIVE} / ({LIMIT} > 0)) or (({ACTIVE} unless {LIMIT}) * 0 + {NO_LIMIT}))"


def sessions() -> dashboard.Dashboard:
    board = (
        dashboard.Dashboard("Sessions")
        .uid(UID)
        .description("Sessions of a proxy: bounded, accounted for, and why each one ended.")
        .tags(["otel-sessions"])
        .time("now-15m", "now")
        .refresh("5s")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .annotation(alerts())
        .link(link("Cleanup passes", "/d/otel-sessions-pass"))
    )
    for variable in variables():
        board.with_variable(variable)
    for add in (_bounded, _traffic, _cleanup, _process, _pipeline):
        add(board)
    return board


def variables() -> list[dashboard.DatasourceVariable | dashboard.QueryVariable]:
    created = "otel_sessions_session_created_total"
    return [
        source_variable("metrics", "Metrics", "prometheus"),
        label_variable("job", "Job", f"label_values({created}, job)"),
        label_variable("instance", "Instance", f'label_values({created}{{job=~"$job"}}, instance)'),
        label_variable("manager", "Manager", f"label_values({created}{{{PROCESS}}}, otel_sessions_manager_name)"),
        label_variable("collector", "Collector", "label_values(otelcol_process_uptime_seconds_total, instance)"),
    ]


def alerts() -> dashboard.AnnotationQuery:
    """Return marks for the times when an alert was firing."""
    firing = 'ALERTS{alertstate="firing", alertname=~"OtelSessions.*"}'
    annotation = dashboard.AnnotationQuery().name("Alerts").datasource(METRICS).enable(True).icon_color("red")
    return annotation.expr(firing).title_format("{{alertname}}").text_format("{{instance}}").step("5s")


def link(title: str, url: str) -> dashboard.DashboardLink:
    return (
        dashboard.DashboardLink(title).url(url).include_vars(True).keep_time(True).type(models.DashboardLinkType.LINK)
    )


def _bounded(board: dashboard.Dashboard) -> None:
    fill: list[models.ValueMapping] = [
        words(NO_LIMIT, NO_LIMIT, "no cap: UNBOUNDED", "red"),
        words(1.0001, NO_LIMIT - 1, "OVER the cap", "red"),
        words(0.9, 1.0001, "bounded, nearly full", "orange"),
        words(0, 0.9, "bounded", "green"),
    ]
    books: list[models.ValueMapping] = [
        words(0, 0, "balanced", "green"),
        words(0.5, None, "DO NOT BALANCE", "red"),
    ]
    board.with_panel(
        verdict(
            "Are sessions bounded?",
            "The fullest of the chosen managers: its active sessions against its cap.",
            now(FILL),
            fill,
            [(None, "green"), (0.9, "orange"), (1.0001, "red")],
            unit=units.PercentUnit,
        )
    )
    board.with_panel(
        verdict(
            "Do the books balance?",
            "Created minus cleaned minus active sessions. Anything but 0 is a session lost without a count.",
            now(f"max(abs({CREATED} - {CLEANED} - {ACTIVE}))"),
            books,
            [(None, "green"), (0.5, "red")],
            unit=SESSIONS,
        )
    )
    board.with_panel(
        curves(
            "Active sessions and the cap",
            "Sessions that are there, closing ones included. They never pass the cap.",
            SESSIONS,
            query(ACTIVE, NAMED),
            query(f"{LIMIT} > 0", f"{NAMED} cap"),
            query(f"sum by ({WHO}) (otel_sessions_session_reserved{{{MANAGER}}})", f"{NAMED} reserved"),
        ).override_by_regexp(".* cap$", [_dashed(), _color("red")])
    )
    memory = curves(
        "Memory against sessions created",
        "The process's resident memory (left) stays flat while the sessions it has ever created (right) rise.",
        units.BytesIEC,
        query(f"process_memory_usage_bytes{{{PROCESS}}}", "{{instance}} memory"),
        query(f"sum by (job, instance) (otel_sessions_session_created_total{{{MANAGER}}})", "{{instance}} created"),
    )
    right = [
        _property("custom.axisPlacement", "right"),
        _property("unit", SESSIONS),
        _property("custom.fillOpacity", 0),
    ]
    board.with_panel(memory.override_by_regexp(".* created$", [*right, _dashed()]))


def _traffic(board: dashboard.Dashboard) -> None:
    lifetime = "otel_sessions_session_duration_seconds"
    mean = f"{rate(f'{lifetime}_sum', REASON)} / ({rate(f'{lifetime}_count', REASON)} > 0)"
    refused = rate("otel_sessions_session_rejected_total", "otel_sessions_rejection_reason")
    state = f"sum by ({WHO}, otel_sessions_session_state) (otel_sessions_session_active{{{MANAGER}}})"
    board.with_row(dashboard.Row("Coming and going"))
    board.with_panel(
        curves(
            "Created and refused",
            "Sessions created, and refused by reason. Refusals that go on mean that the cap is too low.",
            SESSIONS_A_SECOND,
            query(rate("otel_sessions_session_created_total"), "created"),
            query(refused, "refused: {{otel_sessions_rejection_reason}}"),
        )
    )
    board.with_panel(
        curves(
            "Cleaned, by reason",
            "Why sessions ended. Mostly idle_timeout means that clients do not say goodbye.",
            SESSIONS_A_SECOND,
            query(rate("otel_sessions_session_cleaned_total", REASON), f"{{{{{REASON}}}}}"),
            stacked=True,
        )
    )
    board.with_panel(
        curves(
            "Cleaned since the start, by reason",
            "The books, as they are: raw totals.",
            SESSIONS,
            query(f"sum by ({REASON}) (otel_sessions_session_cleaned_total{{{MANAGER}}})", f"{{{{{REASON}}}}}"),
            stacked=True,
        )
    )
    board.with_panel(
        curves(
            "In use or not",
            "Sessions by what is done with them: leased by a request or a stream, unleased, or closing.",
            SESSIONS,
            query(state, f"{NAMED} {{{{otel_sessions_session_state}}}}"),
            stacked=True,
        )
    )
    board.with_panel(
        curves(
            "Lifetimes",
            "How long sessions lived that ended within the last moments: half, 95 and 99 of a hundred.",
            units.Seconds,
            *(
                query(f"histogram_quantile({share}, {rate(f'{lifetime}_bucket', 'le')})", f"p{round(share * 100)}")
                for share in (0.5, 0.95, 0.99)
            ),
        )
    )
    board.with_panel(
        curves(
            "Mean lifetime, by reason",
            "Who is ended for its age has lived longest; who is evicted should have lived for a while.",
            units.Seconds,
            query(mean, f"{{{{{REASON}}}}}"),
        )
    )


def _cleanup(board: dashboard.Dashboard) -> None:
    runs = rate("otel_sessions_cleanup_runs_total", "otel_sessions_cleanup_trigger, otel_sessions_cleanup_outcome")
    overdue = f"max by ({WHO}) (otel_sessions_cleanup_overdue_seconds{{{MANAGER}}})"
    stage = "otel_sessions_cleanup_stage, error_type"
    errors = f"sum by ({stage}) (otel_sessions_cleanup_errors_total{{{MANAGER}}})"
    board.with_row(dashboard.Row("Cleanup"))
    board.with_panel(
        curves(
            "Passes, by trigger and outcome",
            "Interval passes come steadily; emergency passes mean that the cap was reached.",
            PASSES_A_MINUTE,
            query(f"{runs} * 60 > 0", "{{otel_sessions_cleanup_trigger}}: {{otel_sessions_cleanup_outcome}}"),
            width=6,
        )
    )
    board.with_panel(
        durations(
            "How long passes take",
            "Close hooks and exports included. A dot is one pass: click it to see its trace and its lines.",
            buckets("otel_sessions_cleanup_duration_seconds_bucket"),
            width=6,
            height=8,
        )
    )
    board.with_panel(
        curves(
            "How late the next pass is",
            "0 while cleanup runs on time. If this rises, the event loop is blocked or the task is gone.",
            units.Seconds,
            query(overdue, NAMED),
            steps=[(None, "green"), (10, "orange"), (120, "red")],
            width=6,
        )
    )
    board.with_panel(
        curves(
            "Errors since the start, by stage and type",
            "Close hooks, exports and passes that failed. Sessions are gone all the same; what they held may not be.",
            ERRORS,
            query(errors, "{{otel_sessions_cleanup_stage}}: {{error_type}}"),
            steps=NONE_IS_GOOD,
            width=6,
        )
    )


def _process(board: dashboard.Dashboard) -> None:
    cpu = rate("process_cpu_time_seconds_total", "instance, type", PROCESS)
    collections = rate("cpython_gc_collections_total", "instance, cpython_gc_generation", PROCESS)
    board.with_row(dashboard.Row("Process"))
    board.with_panel(
        curves(
            "Resident memory",
            "All that the process holds. With the cap it levels off; without cleanup it only rises.",
            units.BytesIEC,
            query(f"process_memory_usage_bytes{{{PROCESS}}}", "{{instance}}"),
            width=6,
        )
    )
    board.with_panel(curves("CPU", "Cores in use, by kind.", units.Short, query(cpu, "{{instance}} {{type}}"), width=6))
    board.with_panel(
        curves(
            "Garbage collections",
            "Of Python, by generation. Generation 2 is the one that costs.",
            "suffix: /s",
            query(collections, "{{instance}} generation {{cpython_gc_generation}}"),
            width=6,
        )
    )
    board.with_panel(
        curves(
            "Open files and threads",
            "Sockets are files: a leak of connections shows here.",
            units.Short,
            query(f"process_open_file_descriptor_count{{{PROCESS}}}", "{{instance}} files"),
            query(f"process_thread_count{{{PROCESS}}}", "{{instance}} threads"),
            width=6,
        )
    )


def _pipeline(board: dashboard.Dashboard) -> None:
    here = 'instance=~"$collector"'
    kinds = {"metric_points": "metrics", "spans": "traces", "log_records": "logs"}
    queue = f"otelcol_exporter_queue_size{{{here}}} / (otelcol_exporter_queue_capacity{{{here}}} > 0)"

    def flows(ask: Callable[[str], str], **verbs: str) -> list[prometheus.Dataquery]:
        return [
            query(ask(f"otelcol_{part}_{what}_total"), f"{kind} {verb}")
            for what, kind in kinds.items()
            for part, verb in verbs.items()
        ]

    def in_all(metric: str) -> str:
        return f"sum({metric}{{{here}}})"  # a rate would miss the first loss, with which the series begins

    board.with_row(dashboard.Row("Telemetry itself"))
    board.with_panel(
        curves(
            "Into the collector and on",
            "What the collector took in and what it sent on, in points, spans and lines. The curves should agree.",
            "suffix: /s",
            *flows(partial(rate, where=here), receiver_accepted="in", exporter_sent="on"),
        )
    )
    board.with_panel(
        curves(
            "Refused and lost since the start",
            "Refused: the collector is short of memory, senders keep it. Lost: a store did not take it in time.",
            units.Short,
            *flows(in_all, receiver_refused="refused", exporter_send_failed="lost"),
            steps=NONE_IS_GOOD,
        )
    )
    board.with_panel(
        curves(
            "Collector's queues",
            "What waits to be sent on, as a share of the room there is.",
            units.PercentUnit,
            query(queue, "{{exporter}}"),
            steps=[(None, "green"), (0.5, "orange"), (0.9, "red")],
        )
    )


def _property(name: str, value: object) -> models.DynamicConfigValue:
    return models.DynamicConfigValue(id_val=name, value=value)


def _dashed() -> models.DynamicConfigValue:
    return _property("custom.lineStyle", {"fill": "dash", "dash": [6, 4]})


def _color(name: str) -> models.DynamicConfigValue:
    return _property("color", {"mode": "fixed", "fixedColor": name})
