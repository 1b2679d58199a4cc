"""The rows of "Fleet" below its first screen: the members, what was put right, requests elsewhere, and the store."""

from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import units

from . import colors
from .asks import EACH, MANAGER, NAMED, REASON, WHO, latest, quantile, rate, recently
from .fleet_asks import FLEET_NAMED, UNACCOUNTED, happened_at_each, of_fleet
from .panels import COUNT, NONE_IS_GOOD, SESSIONS, buckets, counted, curves, durations, query

STORE: Final = "otel_sessions_fleet_store_duration_seconds"
OPERATION: Final = "otel_sessions_fleet_store_operation"
OUTCOME: Final = "otel_sessions_fleet_store_outcome"
A_SECOND: Final = "suffix:/s"
MEMBERS: Final = "count:members"


def membership(board: dashboard.Dashboard) -> None:
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
            counted(happened_at_each("fenced"), NAMED),
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


def put_right(board: dashboard.Dashboard) -> None:
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
            counted(happened_at_each("orphans", outcome), f"{NAMED} {{{{{outcome}}}}}"),
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
            counted(happened_at_each("resyncs", kind), f"{NAMED} {{{{{kind}}}}}"),
            counted(happened_at_each("resets"), f"{NAMED} resets"),
            words=colors.RESYNCS,
            decimals=0,
            width=6,
        )
    )


def requests(board: dashboard.Dashboard) -> None:
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


def store(board: dashboard.Dashboard) -> None:
    calls = rate(f"{STORE}_count", WHO)
    asked, failing = (
        recently(f"{STORE}_count", WHO, where) for where in (MANAGER, f'{MANAGER}, {OUTCOME}!="answered"')
    )
    board.with_row(dashboard.Row("The store, of every instance"))
    board.with_panel(
        curves("Calls to the store", "Calls a second.", A_SECOND, query(calls, NAMED), decimals=1, width=6)
    )
    board.with_panel(
        curves(
            "How long calls take",
            "Half and 99 of a hundred calls took no longer.",
            units.Seconds,
            *(query(quantile(share, STORE, WHO), f"{NAMED} p{round(share * 100)}") for share in (0.5, 0.99)),
            width=6,
        )
    )
    board.with_panel(
        curves(
            "Calls without an answer",
            "The share of the calls that the store did not answer in time.",
            units.PercentUnit,
            query(f"({failing} or {asked} * 0) / ({asked} > 0)", NAMED),
            steps=[(None, "green"), (0.01, "orange"), (0.1, "red")],
            decimals=1,
            width=6,
        )
    )
    board.with_panel(
        curves(
            "Writes refused as late",
            "Within each window: the clock of a part of the store had passed the end of the membership already.",
            "count:writes",
            counted(happened_at_each("late"), NAMED),
            steps=NONE_IS_GOOD,
            decimals=0,
            width=6,
        )
    )


def each(board: dashboard.Dashboard) -> None:
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
