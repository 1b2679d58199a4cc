"""The rows of "Sessions" about what surrounds the sessions: the requests, the process, and telemetry itself."""

from collections.abc import Callable
from functools import partial
from typing import Final

from grafana_foundation_sdk.builders import dashboard, prometheus
from grafana_foundation_sdk.models import units

from . import colors
from .asks import EACH, PROCESS, flow, latest, quantile, rate, recently, silent
from .panels import COUNT, NONE_IS_GOOD, curves, query

REQUESTS: Final = "http_server_request_duration_seconds"
A_SECOND: Final = "suffix:/s"
HERE: Final = 'instance=~"$collector"'
SILENT: Final = silent(f"otelcol_process_uptime_seconds_total{{{HERE}}}")
"""The collectors that are gone."""


def requests(board: dashboard.Dashboard) -> None:
    """Add the row of requests: their rate, their errors and their duration, and how many there are now."""
    count = f"{REQUESTS}_count"
    answered = rate(count, f"{EACH}, http_response_status_code", PROCESS)
    by_class = f'label_replace({answered}, "class", "${{1}}xx", "http_response_status_code", "(.).*")'
    by_class = f'label_replace({by_class}, "class", "no answer", "http_response_status_code", "")'
    asked, failed = recently(count, EACH, PROCESS), recently(count, EACH, f'{PROCESS}, error_type!=""')
    board.with_row(dashboard.Row("Requests, of every instance"))
    board.with_panel(
        curves(
            "Requests, by status",
            "Answers a second, by the class of their status. No answer: the client went away first.",
            A_SECOND,
            query(f"sum by ({EACH}, class) ({by_class})", "{{instance}} {{class}}"),
            words=colors.STATUSES,
            decimals=1,
            width=6,
        )
    )
    board.with_panel(
        curves(
            "Failed requests",
            "The share of the requests with a status from 500 on, with no answer, or with half of one.",
            units.PercentUnit,
            query(f"({failed} or {asked} * 0) / ({asked} > 0)", "{{instance}}"),
            steps=[(None, "green"), (0.01, "orange"), (0.05, "red")],
            decimals=2,
            width=6,
        )
    )
    board.with_panel(
        curves(
            "How long requests take",
            "Half, 95 and 99 of a hundred took no longer. Streams count with their whole length.",
            units.Seconds,
            *(
                query(quantile(share, REQUESTS, EACH, PROCESS), f"{{{{instance}}}} p{round(share * 100)}")
                for share in (0.5, 0.95, 0.99)
            ),
            width=6,
        )
    )
    active = f"sum by ({EACH}) ({latest('http_server_active_requests', PROCESS)})"
    about = "Requests and streams that are there now."
    board.with_panel(curves("Requests in flight", about, COUNT, query(active, "{{instance}}"), decimals=0, width=6))


def process(board: dashboard.Dashboard) -> None:
    cpu = flow("process_cpu_time_seconds_total", f"{EACH}, type", PROCESS)
    collections = flow("cpython_gc_collections_total", f"{EACH}, cpython_gc_generation", PROCESS)
    row = dashboard.Row("Process, of every instance")
    row.with_panel(
        curves("CPU", "Cores in use, by kind.", "suffix:cores", query(cpu, "{{instance}} {{type}}"), decimals=2)
    )
    row.with_panel(
        curves(
            "Garbage collections",
            "Of Python, by generation. Generation 2 is the one that costs.",
            A_SECOND,
            query(collections, "{{instance}} generation {{cpython_gc_generation}}"),
            decimals=2,
        )
    )
    row.with_panel(
        curves(
            "Open files and threads",
            "Sockets are files: a leak of connections shows here.",
            COUNT,
            query(latest("process_open_file_descriptor_count", PROCESS), "{{instance}} files"),
            query(latest("process_thread_count", PROCESS), "{{instance}} threads"),
            decimals=0,
        )
    )
    board.with_row(row)


def pipeline(board: dashboard.Dashboard) -> None:
    kinds = {"metric_points": "metrics", "spans": "traces", "log_records": "logs"}
    size, capacity = (latest(f"otelcol_exporter_queue_{what}", HERE, SILENT) for what in ("size", "capacity"))

    def flows(ask: Callable[[str], str], **verbs: str) -> list[prometheus.Dataquery]:
        return [
            query(ask(f"otelcol_{part}_{what}_total"), f"{{{{instance}}}} {kind} {verb}")
            for what, kind in kinds.items()
            for part, verb in verbs.items()
        ]

    def in_all(metric: str) -> str:  # a rate would miss the first loss, with which the series begins
        return f"sum by (instance) ({latest(metric, HERE, SILENT)})"

    row = dashboard.Row("Telemetry itself")
    row.with_panel(
        curves(
            "Into the collector and on",
            "What the collector took in and sent on: points, spans and lines, its own too. The curves should agree.",
            A_SECOND,
            *flows(partial(flow, by="instance", where=HERE, gone=SILENT), receiver_accepted="in", exporter_sent="on"),
            decimals=1,
        )
    )
    row.with_panel(
        curves(
            "Refused and lost since the start",
            "Refused: the collector is short of memory, senders keep it. Lost: a store did not take it in time.",
            COUNT,
            *flows(in_all, receiver_refused="refused", exporter_send_failed="lost"),
            steps=NONE_IS_GOOD,
            decimals=0,
        )
    )
    row.with_panel(
        curves(
            "Collector's queues",
            "What waits to be sent on, as a share of the room there is.",
            units.PercentUnit,
            query(f"{size} / ({capacity} > 0)", "{{instance}} {{exporter}}"),
            steps=[(None, "green"), (0.5, "orange"), (0.9, "red")],
            decimals=1,
        )
    )
    board.with_row(row)
