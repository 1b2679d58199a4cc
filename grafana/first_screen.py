"""The first screen of "Sessions": six figures for each instance, its memory against its limit, and its sessions.

Its figures are of the end of the dashboard's time. Who is gone by then is shown as gone for 15 minutes.
"""

from typing import Final

from grafana_foundation_sdk.builders import dashboard, stat, timeseries
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import units

from .asks import ACTIVE, CLEANED, CREATED, EACH, LIMIT, MANAGER, MEMORY, NAMED, PROCESS, SILENT, WHO, latest
from .panels import SESSIONS, alerts, called, curves, dashed, figures, fixed, having, now, query

GONE: Final = "15m"
"""How long an instance that is gone stays on the screen."""
SEEN: Final = f"sum by ({EACH}) (last_over_time(process_memory_usage_bytes{{{PROCESS}}}[{GONE}]))"
NOW: Final = f"sum by ({EACH}) ({MEMORY})"
"""Summed, although each instance has one: what has lost its name would be another series than what has it."""
BEGUN_ANEW: Final = f"sum by ({EACH}) (resets(process_cpu_time_seconds_total{{{PROCESS}}}[5m])) > 0"
"""The instances whose process is another one than five minutes ago."""
OLD: Final = f"sum by ({EACH}) (last_over_time(process_memory_usage_bytes{{{PROCESS}}}[15m] offset 5m))"
"""The instances that were there more than five minutes ago."""
UNKNOWN, STARTING, RESTARTED, NOT_THERE = 96, 97, 98, 99
"""What stands for a change that cannot be told, for want of a second sample for example.

A change is never more than the memory now. But it may be less than minus 100 % of it.
"""
CREATED_EACH: Final = f"sum by ({EACH}) ({latest('otel_sessions_session_created_total')})"


def first_screen(board: dashboard.Dashboard) -> None:
    for figure in (_memory_now, _memory_change, _filled, _created, _unaccounted):
        board.with_panel(figure())
    board.with_panel(alerts("$instance", "$collector"))
    board.with_panel(_memory()).with_panel(_active())


def _memory_now() -> stat.Panel:
    return figures(
        "Memory now",
        "The process's resident memory. An instance that ended within 15 minutes is shown as gone.",
        units.BytesIEC,
        query(f"{NOW} or {SEEN} * 0", "{{instance}}"),
        mappings=[called(0, 0, "gone", "purple")],
        decimals=1,
        sparkline=True,
    )


def _memory_change() -> stat.Panel:
    """Return how memory has changed; whether it is too much is said only of an instance that is old enough.

    Every start takes memory. So the color of a young instance, and what it is called, gives no verdict.
    """
    change = f"sum by ({EACH}) (delta(process_memory_usage_bytes{{{PROCESS}}}[5m])) / {NOW}"
    panel = figures(
        "Memory, change in 5 min",
        "As a share of the memory now. Under a load that is steady, it stays within 5 %. "
        "An instance that is younger shows the change since its start, in blue.",
        units.PercentUnit,
        now(
            f"(({change} or {NOW} * 0 + {UNKNOWN}) and {OLD} unless {BEGUN_ANEW})"
            f" or ({SEEN} * 0 + {NOT_THERE} unless {NOW})",
            "{{instance}}",
        ),
        now(
            f"({NOW} * 0 + {RESTARTED} and {BEGUN_ANEW}) or (({change} or {NOW} * 0 + {STARTING}) unless {OLD})",
            "{{instance}}, since its start",
        ),
        steps=[(None, "blue"), (-0.05, "green"), (0.05, "orange"), (0.25, "red")],
        mappings=[
            called(NOT_THERE, NOT_THERE, "gone", "purple"),
            called(RESTARTED, RESTARTED, "restarted", "blue"),
            called(STARTING, STARTING, "starting", "blue"),
            called(UNKNOWN, UNKNOWN, "unknown", "blue"),
        ],
        decimals=1,
    )
    return panel.override_by_regexp("/ since its start$/", [fixed("blue")])


def _filled() -> stat.Panel:
    """Return the fill of the cap. A manager without a cap, and one that was killed, show their sessions."""
    cap = f'count_values by ({WHO}) ("cap", {LIMIT} > 0)'
    killed = f"sum by ({EACH}) (last_over_time(otel_sessions_session_active{{{MANAGER}}}[{GONE}])) > 0"
    in_sessions = having("unit", SESSIONS)
    panel = figures(
        "Active of cap",
        "The share of the cap that is taken: never above 100 %. Without a cap, the number of sessions.",
        units.PercentUnit,
        now(f"{ACTIVE} / on ({WHO}) group_left (cap) ({cap} * 0 + on ({WHO}) group_left () ({LIMIT} > 0))", CAPPED),
        now(f"{ACTIVE} unless {LIMIT}", "{{instance}}, NO CAP"),
        now(f"{killed} and on ({EACH}) {SILENT}", "{{instance}} GONE with"),
        steps=[(None, "green"), (0.9, "orange"), (1.0001, "red")],
    )
    panel.override_by_regexp("/NO CAP$/", [in_sessions, fixed("orange")])
    return panel.override_by_regexp("/GONE with$/", [in_sessions, fixed("purple")])


CAPPED: Final = "{{instance}}, of {{cap}}"


def _created() -> stat.Panel:
    return figures(
        "Created so far",
        "Sessions that the process has ever created. This rises for as long as it runs.",
        SESSIONS,
        now(CREATED_EACH, "{{instance}}"),
    )


def _unaccounted() -> stat.Panel:
    return figures(
        "Unaccounted for",
        "Created minus cleaned minus active. Anything but 0 is a session lost without a count.",
        SESSIONS,
        now(f"abs({CREATED} - {CLEANED} - {ACTIVE})", NAMED),
        steps=[(None, "green"), (0.5, "red")],
        decimals=0,
    )


def _memory() -> timeseries.Panel:
    panel = curves(
        "Memory of every instance",
        "Left: the process's resident memory, flat under any load. Right, dashed: the sessions it has ever created. "
        "At the red line the system kills it.",
        units.BytesIEC,
        query(MEMORY, "{{instance}}"),
        query(CREATED_EACH, "{{instance}} created"),
        query("vector($memory_limit) * 1024 * 1024 > 0", "memory limit"),
        width=14,
        height=11,
    ).line_width(2)
    right = [
        having("custom.axisPlacement", "right"),
        having("unit", SESSIONS),
        having("custom.fillOpacity", 0),
        having("custom.lineWidth", 1),
        dashed(),
    ]
    panel.override_by_regexp("/ created$/", right)
    return panel.override_by_name("memory limit", [fixed("red"), dashed(), having("custom.fillOpacity", 0)])


def _active() -> timeseries.Panel:
    panel = curves(
        "Active sessions and the cap",
        "Sessions that are there, closing ones included. They never pass the cap.",
        SESSIONS,
        query(ACTIVE, NAMED),
        query(f"{LIMIT} > 0", f"{NAMED} cap"),
        decimals=0,
        width=10,
        height=11,
    ).line_width(2)
    limit: list[models.DynamicConfigValue] = [dashed(), fixed("red"), having("custom.fillOpacity", 0)]
    return panel.override_by_regexp("/ cap$/", limit)
