"""The dashboard "Fleet", of a fleet with a store: its totals, its members, what it puts right, and its store.

Each process reports the same totals, read from the store a moment apart. So the totals are the largest over the
instances, and what is unaccounted for is computed for each instance before.
"""

from typing import Final

from grafana_foundation_sdk.builders import dashboard, stat
from grafana_foundation_sdk.models import units

from . import boards, colors
from .asks import EACH, MANAGER, NAMED, REASON, WHO, alerts_firing, latest, quantile, rate
from .panels import (
    COUNT,
    NEUTRAL,
    NONE_IS_GOOD,
    SESSIONS,
    Steps,
    buckets,
    counted,
    curves,
    dashed,
    durations,
    figures,
    fixed,
    having,
    now,
    query,
)

FLEET: Final = "job, otel_sessions_manager_name"
"""The labels that tell one fleet from another."""
FLEET_NAMED: Final = "{{job}}/{{otel_sessions_manager_name}}"
STORE: Final = "otel_sessions_fleet_store_duration_seconds"
OPERATION: Final = "otel_sessions_fleet_store_operation"
OUTCOME: Final = "otel_sessions_fleet_store_outcome"
A_SECOND: Final = "suffix:/s"
MEMBERS: Final = "count:members"


def of_fleet(metric: str, *labels: str) -> str:
    """Return a total of the whole fleet: the largest that an instance reports, also by labels."""
    return f"max by ({', '.join([FLEET, *labels])}) ({latest(f'otel_sessions_fleet_{metric}')})"


def of_each(metric: str) -> str:
    """Return a number of each instance, the sum over its words."""
    return f"sum by ({WHO}) ({latest(f'otel_sessions_fleet_{metric}')})"


def members(state: str) -> str:
    where = f'{MANAGER}, otel_sessions_fleet_member_state="{state}"'
    return f"max by ({FLEET}) ({latest('otel_sessions_fleet_members', where)})"


def happened(metric: str, *labels: str) -> str:
    """Return how much a counter of each instance has risen within `$__interval`, also by labels."""
    by = ", ".join([WHO, *labels])
    return f"sum by ({by}) (increase(otel_sessions_fleet_{metric}_total{{{MANAGER}}}[$__interval]))"


UNACCOUNTED: Final = f"abs({of_each('session_created')} - {of_each('session_cleaned')} - {of_each('session_active')})"


def fleet() -> dashboard.Dashboard:
    variables = [
        boards.source_variable("metrics", "Metrics", "prometheus"),
        *(boards.job(), boards.instance(), boards.manager(), boards.window()),
    ]
    about = "Several replicas with one cap and one set of books: who is a member, and what was put right."
    board = boards.board("Fleet", boards.FLEET_UID, about, variables).refresh("5s")
    board.annotation(boards.alerts("$instance")).annotation(boards.died())
    board.link(boards.link("Sessions", boards.SESSIONS_UID)).link(boards.link("Runbook", boards.RUNBOOK_UID))
    for add in (_first_screen, _membership, _put_right, _requests, _store, _each):
        add(board)
    return board


def _first_screen(board: dashboard.Dashboard) -> None:
    for panel in _figures():
        board.with_panel(panel)
    cap = [dashed(), fixed("red"), having("custom.fillOpacity", 0)]
    board.with_panel(
        curves(
            "Sessions of the whole fleet",
            "Sessions that the store has, and places that it has given to processes. Both stay below the cap.",
            SESSIONS,
            query(of_fleet("session_active"), f"{FLEET_NAMED} active"),
            query(of_fleet("session_granted"), f"{FLEET_NAMED} granted"),
            query(f"{of_fleet('session_limit')} > 0", f"{FLEET_NAMED} cap"),
            decimals=0,
            width=12,
            height=10,
        ).override_by_regexp("/ cap$/", cap)
    )
    active = f"sum by ({WHO}) ({latest('otel_sessions_session_active')})"
    board.with_panel(
        curves(
            "Grant and sessions, of every instance",
            "How many sessions each process may have, dashed, and how many it has.",
            SESSIONS,
            query(of_each("grant"), f"{NAMED} grant"),
            query(f"{active} and {of_each('grant')}", f"{NAMED} sessions"),
            decimals=0,
            width=12,
            height=10,
        ).override_by_regexp("/ grant$/", [dashed(), having("custom.fillOpacity", 0)])
    )


def _figures() -> tuple[stat.Panel, ...]:
    alerts = figures(
        "Alerts firing",
        "Click the number for what to do.",
        COUNT,
        now(f"count({alerts_firing('$instance')}) or vector(0)", "alerts"),
        steps=[(None, "green"), (0.5, "red")],
        decimals=0,
        named=False,
    )
    full: Steps = [(None, "green"), (0.9, "orange"), (1.0001, "red")]
    active, granted, limit = (of_fleet(f"session_{what}") for what in ("active", "granted", "limit"))
    return (
        _figure("Living members", "Processes that are members now.", MEMBERS, members("living"), NEUTRAL),
        _figure(
            "Dead members",
            "Processes that are gone and whose sessions are not all cleaned. Soon after a death, this is 0 again.",
            MEMBERS,
            members("dead"),
            [(None, "green"), (0.5, "orange")],
        ),
        _figure(
            "Active of the fleet's cap",
            "The share of the cap that is taken.",
            units.PercentUnit,
            f"{active} / ({limit} > 0)",
            full,
        ),
        _figure(
            "Granted of the fleet's cap",
            "The share of the cap that processes may use. It is never above 100 %.",
            units.PercentUnit,
            f"{granted} / ({limit} > 0)",
            [(None, "blue"), (1.0001, "red")],
        ),
        _figure(
            "Unaccounted for in the fleet",
            "Created minus cleaned minus active, in the store. Anything but 0 is a session lost without a count.",
            SESSIONS,
            f"max by ({FLEET}) ({UNACCOUNTED})",
            [(None, "green"), (0.5, "red")],
        ),
        alerts.data_links([dashboard.DashboardLink("What to do").url(f"/d/{boards.RUNBOOK_UID}")]),
    )


def _figure(title: str, about: str, unit: str, expression: str, steps: Steps) -> stat.Panel:
    decimals = 1 if unit == units.PercentUnit else 0
    return figures(title, about, unit, now(expression, FLEET_NAMED), steps=steps, decimals=decimals)


def _membership(board: dashboard.Dashboard) -> None:
    lease = f"max by ({WHO}) ({latest('otel_sessions_fleet_membership_lease_seconds')})"
    remaining = f"min by ({WHO}) ({latest('otel_sessions_fleet_membership_remaining_seconds')})"
    dead = f"max by ({WHO}) ({latest('otel_sessions_fleet_dead_oldest_seconds')})"
    state = "otel_sessions_fleet_member_state"
    board.with_row(dashboard.Row("Members"))
    board.with_panel(
        curves(
            "Members, by state",
            "What the store says. A process that dies is dead until its sessions are cleaned.",
            MEMBERS,
            query(of_fleet("members", state), f"{FLEET_NAMED} {{{{{state}}}}}"),
            words=colors.MEMBERS,
            decimals=0,
            width=6,
        )
    )
    board.with_panel(
        curves(
            "Membership remaining",
            "The share of the lease for which a process stays a member if the store falls silent now.",
            units.PercentUnit,
            query(f"{remaining} / ({lease} > 0)", NAMED),
            steps=[(None, "red"), (0.3333, "green")],
            decimals=0,
            width=6,
        )
    )
    board.with_panel(
        curves(
            "Memberships lost",
            "Within each window: a process was silent for a lease, and had to join anew.",
            "count:memberships",
            counted(happened("fenced"), NAMED),
            steps=NONE_IS_GOOD,
            decimals=0,
            width=6,
        )
    )
    board.with_panel(
        curves(
            "Oldest dead member",
            "In leases: for how long the sessions of a dead process have not all been cleaned.",
            "suffix:leases",
            query(f"{dead} / ({lease} > 0)", NAMED),
            steps=[(None, "green"), (2, "orange"), (5, "red")],
            decimals=1,
            width=6,
        )
    )


def _put_right(board: dashboard.Dashboard) -> None:
    outcome, kind = "otel_sessions_fleet_orphan_outcome", "otel_sessions_fleet_resync_kind"
    board.with_row(dashboard.Row("The books, and what was put right"))
    board.with_panel(
        curves(
            "Cleaned in the whole fleet, by reason",
            "What the store has counted since it began. It falls only if the store has forgotten.",
            SESSIONS,
            query(of_fleet("session_cleaned", REASON), f"{FLEET_NAMED} {{{{{REASON}}}}}"),
            words=colors.REASONS,
            decimals=0,
            width=6,
        )
    )
    board.with_panel(
        curves(
            "Unaccounted for, by instance",
            "Created minus cleaned minus active of the fleet, as each instance has read them.",
            SESSIONS,
            query(UNACCOUNTED, NAMED),
            steps=NONE_IS_GOOD,
            decimals=0,
            width=6,
        )
    )
    board.with_panel(
        curves(
            "Orphans, by outcome",
            "Within each window: sessions of dead processes, at the process that took care of them.",
            SESSIONS,
            counted(happened("orphans", outcome), f"{NAMED} {{{{{outcome}}}}}"),
            words=colors.ORPHANS,
            decimals=0,
            width=6,
        )
    )
    board.with_panel(
        curves(
            "Resyncs and resets",
            "Within each window: what the store had lost and was told again, and how often it had forgotten all.",
            COUNT,
            counted(happened("resyncs", kind), f"{NAMED} {{{{{kind}}}}}"),
            counted(happened("resets"), f"{NAMED} resets"),
            words=colors.RESYNCS,
            decimals=0,
            width=6,
        )
    )


def _requests(board: dashboard.Dashboard) -> None:
    forwarded, found = "otel_sessions_fleet_outcome", "otel_sessions_fleet_lookup_outcome"
    board.with_row(dashboard.Row("Requests at another process than their session's"))
    board.with_panel(
        curves(
            "Forwarded, by outcome",
            "Requests and WebSockets a second that were passed on to another process.",
            A_SECOND,
            query(rate("otel_sessions_fleet_forwarded_total", f"{WHO}, {forwarded}"), f"{NAMED} {{{{{forwarded}}}}}"),
            words=colors.FORWARDED,
            decimals=2,
            width=12,
        )
    )
    board.with_panel(
        curves(
            "Look-ups, by outcome",
            "How the owners of sessions were found, a second. Only found and none have cost a call to the store.",
            A_SECOND,
            query(rate("otel_sessions_fleet_lookups_total", f"{WHO}, {found}"), f"{NAMED} {{{{{found}}}}}"),
            words=colors.LOOKUPS,
            decimals=2,
            width=12,
        )
    )


def _store(board: dashboard.Dashboard) -> None:
    calls = rate(f"{STORE}_count", WHO)
    failing = rate(f"{STORE}_count", WHO, f'{MANAGER}, {OUTCOME}!="answered"')
    board.with_row(dashboard.Row("The store, of every instance"))
    board.with_panel(
        curves("Calls to the store", "Calls a second.", A_SECOND, query(calls, NAMED), decimals=1, width=8)
    )
    board.with_panel(
        curves(
            "How long calls take",
            "Half and 99 of a hundred calls took no longer.",
            units.Seconds,
            *(query(quantile(share, STORE, WHO), f"{NAMED} p{round(share * 100)}") for share in (0.5, 0.99)),
            width=8,
        )
    )
    board.with_panel(
        curves(
            "Calls without an answer",
            "The share of the calls that the store did not answer in time.",
            units.PercentUnit,
            query(f"({failing} or {calls} * 0) / ({calls} > 0)", NAMED),
            steps=[(None, "green"), (0.01, "orange"), (0.1, "red")],
            decimals=1,
            width=8,
        )
    )


def _each(board: dashboard.Dashboard) -> None:
    """Add a row that repeats for each instance."""
    board.with_row(dashboard.Row("$instance").repeat("instance"))
    about = "Calls to the store within each window, by how long they took."
    board.with_panel(durations("How long calls to the store take", about, buckets(STORE, MANAGER), width=8, height=8))
    board.with_panel(
        curves(
            "Calls, by operation",
            "Calls a second, by the script that the store ran.",
            A_SECOND,
            query(rate(f"{STORE}_count", f"{EACH}, {OPERATION}"), f"{{{{{OPERATION}}}}}"),
            decimals=1,
        )
    )
    board.with_panel(
        curves(
            "Slowest calls, by operation",
            "99 of a hundred calls took no longer.",
            units.Seconds,
            query(quantile(0.99, STORE, f"{EACH}, {OPERATION}"), f"{{{{{OPERATION}}}}}"),
        )
    )
