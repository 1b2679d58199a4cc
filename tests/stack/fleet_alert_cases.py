"""Cases for the alerts of a fleet with a store: when each fires, when it does not, and what a restart does to it."""

from typing import Final

from .alert_case import MINUTE, USUAL, Case, Value, flat, ramp, restarted, steps

FLEET: Final = {"job": "p", "otel_sessions_manager_name": "m"}
REASON: Final = "otel_sessions_session_end_reason"
KIND: Final = "otel_sessions_fleet_resync_kind"
ENDED: Final = f'fleet_resyncs_total{{{KIND}="ended"}}'
CALLS: Final = "fleet_store_duration_seconds_count"
ANSWERED: Final = f'{CALLS}{{otel_sessions_fleet_store_operation="put",otel_sessions_fleet_store_outcome="answered"}}'
UNAVAILABLE: Final = ANSWERED.replace('"answered"', '"unavailable"')


def at(instance: str, name: str) -> str:
    """Return a series of another instance than the usual one."""
    metric, _, labels = name.partition("{")
    return f'{metric}{{instance="{instance}"{"," if labels else "}"}{labels}'


def books(created: Value, cleaned: Value, active: Value, instance: str = "i") -> dict[str, Value]:
    """Return the totals of a fleet as an instance has read them."""
    return {
        at(instance, "fleet_session_created"): created,
        at(instance, f'fleet_session_cleaned{{{REASON}="closed"}}'): cleaned,
        at(instance, f'fleet_session_cleaned{{{REASON}="orphaned"}}'): flat(3),
        at(instance, "fleet_session_active"): active,
    }


FLEET_CASES: Final = [
    # ---- FleetBooksDoNotBalance
    Case(
        alert="OtelSessionsFleetBooksDoNotBalance",
        name="a record that nobody has counted, seen by both instances",
        at=5 * MINUTE,
        series={
            **books(flat(10), flat(4), flat(4)),
            **books(flat(10), flat(4), flat(4), "j"),
        },
        labels={"severity": "critical", **FLEET},
        says=(
            "The books of the fleet m of p do not balance",
            "1 sessions in the store are unaccounted for: created is not cleaned and active together.",
        ),
    ),
    Case(
        alert="OtelSessionsFleetBooksDoNotBalance",
        name="instances that read the store at different moments, and an instance without totals",
        at=9 * MINUTE,
        series={
            **books(ramp(60, start=7), ramp(60), flat(4)),
            **books(ramp(60, start=37), ramp(60, start=29), flat(5), "j"),
            at("k", "fleet_members"): flat(3),
        },
    ),
    Case(
        alert="OtelSessionsFleetBooksDoNotBalance",
        name="a store that begins anew, and a restart",
        at=10 * MINUTE,
        series={
            **books(steps((0, 507), (5 * MINUTE, 7)), steps((0, 500), (5 * MINUTE, 0)), flat(4)),
            **books(restarted(ramp(60, start=7), 6 * MINUTE), restarted(ramp(60), 6 * MINUTE), flat(4), "j"),
        },
    ),
    # ---- FleetMembershipEnding
    Case(
        alert="OtelSessionsFleetMembershipEnding",
        name="a store that hears nothing of an instance",
        at=10 * MINUTE,
        series={
            "fleet_membership_remaining_seconds": steps((0, 12), (5 * MINUTE, 4), (7 * MINUTE, 0)),
            "fleet_membership_lease_seconds": flat(15),
        },
        labels={"severity": "critical", **USUAL},
        says=(
            "i m is about to be no member of its fleet",
            "0s are left, less than a third of its lease. Then others may clean its sessions.",
        ),
    ),
    Case(
        alert="OtelSessionsFleetMembershipEnding",
        name="between two beats, late for half a minute, and a manager that has ended",
        at=10 * MINUTE,
        series={
            at("usual", "fleet_membership_remaining_seconds"): lambda seconds: 13.5 - seconds % 5,
            at("usual", "fleet_membership_lease_seconds"): flat(15),
            at("late", "fleet_membership_remaining_seconds"): steps((0, 12), (9.5 * MINUTE, 1)),
            at("late", "fleet_membership_lease_seconds"): flat(15),
            at("ended", "fleet_membership_remaining_seconds"): flat(0),
            at("ended", "fleet_membership_lease_seconds"): flat(0),
        },
    ),
    Case(
        alert="OtelSessionsFleetMembershipEnding",
        name="a restart joins anew",
        at=10 * MINUTE,
        series={
            "fleet_membership_remaining_seconds": steps((0, 0), (9 * MINUTE, 13)),
            "fleet_membership_lease_seconds": flat(15),
        },
    ),
    # ---- FleetResyncs
    Case(
        alert="OtelSessionsFleetResyncs",
        name="a store that came back without its last writes",
        at=10 * MINUTE,
        series={ENDED: ramp(8), ENDED.replace("ended", "put"): flat(0)},
        labels={"severity": "warning", **USUAL, KIND: "ended"},
        says=(
            "The store of i m had lost what it knew",
            "About 40 sessions within five minutes were told again, of the kind ended.",
        ),
    ),
    Case(
        alert="OtelSessionsFleetResyncs",
        name="a first loss, with which the series begins",
        at=10 * MINUTE,
        series={ENDED: steps((0, None), (7 * MINUTE, 40))},
        labels={"severity": "warning", **USUAL, KIND: "ended"},
        says=(
            "The store of i m had lost what it knew",
            "About 40 sessions within five minutes were told again, of the kind ended.",
        ),
    ),
    Case(
        alert="OtelSessionsFleetResyncs",
        name="half an hour ago, and never",
        at=35 * MINUTE,
        series={ENDED: steps((0, 0), (5 * MINUTE, 40)), at("j", ENDED): flat(0)},
    ),
    Case(
        alert="OtelSessionsFleetResyncs",
        name="a restart sets the count back to 0",
        at=20 * MINUTE,
        series={ENDED: steps((0, 40), (18 * MINUTE, 0))},
    ),
    # ---- FleetDeadNotCleaned
    Case(
        alert="OtelSessionsFleetDeadNotCleaned",
        name="a process that is dead for ten minutes",
        at=12 * MINUTE,
        series={
            "fleet_dead_oldest_seconds": lambda seconds: max(0.0, seconds - 2 * MINUTE),
            at("j", "fleet_dead_oldest_seconds"): lambda seconds: max(0.0, seconds - 3 * MINUTE),
            "fleet_membership_lease_seconds": flat(15),
            at("j", "fleet_membership_lease_seconds"): flat(15),
        },
        labels={"severity": "critical", **FLEET},
        says=(
            "The fleet m of p does not clean what a dead process has left",
            "The process has been dead for 10m 0s, more than five leases. Its places stay taken.",
        ),
    ),
    Case(
        alert="OtelSessionsFleetDeadNotCleaned",
        name="a process killed every minute, a long lease, and managers that have ended",
        at=12 * MINUTE,
        series={
            "fleet_dead_oldest_seconds": lambda seconds: max(0.0, seconds % MINUTE - 30),
            "fleet_membership_lease_seconds": flat(15),
            'fleet_dead_oldest_seconds{otel_sessions_manager_name="long"}': flat(200),
            'fleet_membership_lease_seconds{otel_sessions_manager_name="long"}': flat(60),
            'fleet_dead_oldest_seconds{otel_sessions_manager_name="ended"}': flat(0),
            'fleet_membership_lease_seconds{otel_sessions_manager_name="ended"}': flat(0),
        },
    ),
    Case(
        alert="OtelSessionsFleetDeadNotCleaned",
        name="a restart, after which all is cleaned",
        at=12 * MINUTE,
        series={
            "fleet_dead_oldest_seconds": steps((0, 400), (10 * MINUTE, 0)),
            "fleet_membership_lease_seconds": flat(15),
        },
    ),
    # ---- FleetStoreFailing
    Case(
        alert="OtelSessionsFleetStoreFailing",
        name="one call in four gets no answer",
        at=15 * MINUTE,
        series={ANSWERED: ramp(90), UNAVAILABLE: ramp(30)},
        labels={"severity": "warning", **USUAL},
        says=("The store does not answer i m", "25% of the calls of the last five minutes got no answer in time."),
    ),
    Case(
        alert="OtelSessionsFleetStoreFailing",
        name="the first calls without an answer, with which the series begins",
        at=13 * MINUTE,
        series={ANSWERED: ramp(90), UNAVAILABLE: steps((0, None), (10 * MINUTE, 150))},
        labels={"severity": "warning", **USUAL},
        says=("The store does not answer i m", "25% of the calls of the last five minutes got no answer in time."),
    ),
    Case(
        alert="OtelSessionsFleetStoreFailing",
        name="the first calls without an answer after a restart",
        at=23 * MINUTE,
        series={
            "session_created_total": restarted(ramp(60), 9 * MINUTE),
            ANSWERED: restarted(ramp(90), 9 * MINUTE),
            UNAVAILABLE: steps((0, 900), (9 * MINUTE, None), (20 * MINUTE, 150)),
        },
        labels={"severity": "warning", **USUAL},
        says=("The store does not answer i m", "25% of the calls of the last five minutes got no answer in time."),
    ),
    Case(
        alert="OtelSessionsFleetStoreFailing",
        name="one call in a hundred, a failover of some seconds, and no call at all",
        at=15 * MINUTE,
        series={
            at("few", ANSWERED): ramp(990),
            at("few", UNAVAILABLE): ramp(10),
            at("failover", ANSWERED): ramp(600),
            at("failover", UNAVAILABLE): steps((0, 0), (13 * MINUTE, 60)),
            at("idle", ANSWERED): flat(5),
            at("idle", UNAVAILABLE): flat(5),
        },
    ),
    Case(
        alert="OtelSessionsFleetStoreFailing",
        name="a restart, after which the store answers",
        at=20 * MINUTE,
        series={ANSWERED: restarted(ramp(60), 14 * MINUTE), UNAVAILABLE: steps((0, 900), (14 * MINUTE, 0))},
    ),
    # ---- FleetClock
    Case(
        alert="OtelSessionsFleetClock",
        name="a node whose clock is ahead",
        at=15 * MINUTE,
        series={"fleet_late_total": ramp(12)},
        labels={"severity": "warning", **USUAL},
        says=(
            "A clock in the store of i m runs ahead",
            "About 60 writes within five minutes were refused as late, although it is a member.",
        ),
    ),
    Case(
        alert="OtelSessionsFleetClock",
        name="all parts once, when the store was slow, and a late write now and then",
        at=15 * MINUTE,
        series={
            at("slow", "fleet_late_total"): steps((0, 0), (10 * MINUTE + 15, 16)),
            at("few", "fleet_late_total"): ramp(1),
        },
    ),
    Case(
        alert="OtelSessionsFleetClock",
        name="a restart sets the count back to 0",
        at=20 * MINUTE,
        series={"fleet_late_total": steps((0, 900), (14 * MINUTE, 0))},
    ),
]
