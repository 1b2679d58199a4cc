"""Every metric and span that only a manager of a fleet with a store has, as one table. `signals` has all others.

The totals of the fleet are what its store has counted. Each process reports the same totals, so take the largest, and
never their sum. No address, epoch or id is on a metric.
"""

from typing import Final

from otel_sessions._core.words import (
    OTHER,
    EndReason,
    FleetEndReason,
    LookupOutcome,
    MemberState,
    OrphanOutcome,
    Resync,
    StoreOperation,
    StoreOutcome,
)

from .signals import ERROR_TYPE, MANAGER_NAME, REASON, Attribute, Kind, Metric, words_of

MAX_FAILING: Final = 200
"""How many pairs of a manager and an operation are told apart by their failed calls for a meter provider."""

MEMBER_STATE: Final = "otel_sessions.fleet.member.state"
ORPHAN_OUTCOME: Final = "otel_sessions.fleet.orphan.outcome"
RESYNC: Final = "otel_sessions.fleet.resync.kind"
LOOKUP_OUTCOME: Final = "otel_sessions.fleet.lookup.outcome"
STORE_OPERATION: Final = "otel_sessions.fleet.store.operation"
STORE_OUTCOME: Final = "otel_sessions.fleet.store.outcome"

FLEET_REASONS: Final = (*(reason for reason in EndReason if reason.value != "fenced"), *FleetEndReason)
"""The end reasons in the books of a fleet. A session that is `fenced` at one process goes on, or ends, at another."""

CREATED: Final = Metric(
    name="otel_sessions.fleet.session.created",
    kind=Kind.GAUGE,
    unit="{session}",
    description="Sessions that all processes have created, as the store has counted them.",
)
CLEANED: Final = Metric(
    name="otel_sessions.fleet.session.cleaned",
    kind=Kind.GAUGE,
    unit="{session}",
    description="Sessions that were cleaned anywhere in the fleet, as the store has counted them, by end reason.",
    attributes=(Attribute(name=REASON, words=(*(word.value for word in FLEET_REASONS), OTHER)),),
)
ACTIVE: Final = Metric(
    name="otel_sessions.fleet.session.active",
    kind=Kind.GAUGE,
    unit="{session}",
    description="Sessions that the store has.",
)
LIMIT: Final = Metric(
    name="otel_sessions.fleet.session.limit",
    kind=Kind.GAUGE,
    unit="{session}",
    description="The cap on the sessions of the whole fleet.",
)
GRANTED: Final = Metric(
    name="otel_sessions.fleet.session.granted",
    kind=Kind.GAUGE,
    unit="{session}",
    description="Places under the cap that the store has given to processes.",
)
RESETS: Final = Metric(
    name="otel_sessions.fleet.resets",
    kind=Kind.COUNTER,
    unit="{reset}",
    description="How often this process found that the store had forgotten the fleet. Its totals begin anew then.",
)
MEMBERS: Final = Metric(
    name="otel_sessions.fleet.members",
    kind=Kind.GAUGE,
    unit="{process}",
    description="Processes of the fleet, by state; dead are those whose sessions are not all cleaned.",
    attributes=(words_of(MEMBER_STATE, MemberState),),
)
OLDEST_DEAD: Final = Metric(
    name="otel_sessions.fleet.dead.oldest",
    kind=Kind.GAUGE,
    unit="s",
    description="For how long the sessions of the process that died first have not all been cleaned; 0 without one.",
)
GRANT: Final = Metric(
    name="otel_sessions.fleet.grant",
    kind=Kind.UP_DOWN_COUNTER,
    unit="{session}",
    description="How many sessions this process may have.",
)
REMAINING: Final = Metric(
    name="otel_sessions.fleet.membership.remaining",
    kind=Kind.GAUGE,
    unit="s",
    description="For how long this process stays a member without an answer of the store; 0 while it is no member.",
)
LEASE: Final = Metric(
    name="otel_sessions.fleet.membership.lease",
    kind=Kind.GAUGE,
    unit="s",
    description="The configured length of a membership; 0 once the manager has ended.",
)
ORPHANS: Final = Metric(
    name="otel_sessions.fleet.orphans",
    kind=Kind.COUNTER,
    unit="{session}",
    description="Sessions of dead processes that this process has claimed, by what became of them.",
    attributes=(words_of(ORPHAN_OUTCOME, OrphanOutcome),),
)
FENCED: Final = Metric(
    name="otel_sessions.fleet.fenced",
    kind=Kind.COUNTER,
    unit="{membership}",
    description="Memberships that this process has lost, since the store did not hear of it in time.",
)
LATE: Final = Metric(
    name="otel_sessions.fleet.late",
    kind=Kind.COUNTER,
    unit="{write}",
    description="Writes that a part of the store refused, since by its clock the membership had ended.",
)
RESYNCS: Final = Metric(
    name="otel_sessions.fleet.resyncs",
    kind=Kind.COUNTER,
    unit="{session}",
    description="Sessions of which the store was told again, since it had lost what it knew, by kind.",
    attributes=(words_of(RESYNC, Resync),),
)
LOOKUPS: Final = Metric(
    name="otel_sessions.fleet.lookups",
    kind=Kind.COUNTER,
    unit="{lookup}",
    description="Searches for the owner of a session that is not here, by outcome.",
    attributes=(words_of(LOOKUP_OUTCOME, LookupOutcome),),
)
STORE_DURATION: Final = Metric(
    name="otel_sessions.fleet.store.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    description="How long calls to the store took.",
    attributes=(
        Attribute(name=STORE_OPERATION, words=(*(word.value for word in StoreOperation), OTHER)),
        Attribute(
            name=STORE_OUTCOME,
            words=(StoreOutcome.ANSWERED.value,),
            further=f"`{StoreOutcome.UNAVAILABLE.value}` if no answer came in time",
        ),
    ),
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
    further=MAX_FAILING,
)

METRICS: Final = (
    *(CREATED, CLEANED, ACTIVE, LIMIT, GRANTED, RESETS, MEMBERS, OLDEST_DEAD, GRANT, REMAINING, LEASE),
    *(ORPHANS, FENCED, LATE, RESYNCS, LOOKUPS, STORE_DURATION),
)
"""All metrics of a fleet with a store. Each one also carries the name of the manager."""

REJOIN_SPAN: Final = "otel_sessions.fleet.rejoin"
"""The name of the span of a process that becomes a member again, until all of its sessions are settled."""
ORPHANS_SPAN: Final = "otel_sessions.fleet.orphans"
"""The name of the span of the sessions of one dead process that this process has claimed."""
RESYNC_SPAN: Final = "otel_sessions.fleet.resync"
"""The name of the span of one shard whose records are made as they should be."""

EPOCH: Final = "otel_sessions.fleet.epoch"
SHARD: Final = "otel_sessions.fleet.shard"
KEPT: Final = "otel_sessions.fleet.kept"
DROPPED: Final = "otel_sessions.fleet.dropped"
PUT: Final = "otel_sessions.fleet.put"
ENDED: Final = "otel_sessions.fleet.ended"
COUNTS_OF_ORPHANS: Final = {outcome: f"otel_sessions.fleet.{outcome.value}" for outcome in OrphanOutcome}

_MANAGER: Final = Attribute(name=MANAGER_NAME, further="the `name=` of the manager")
_ERROR: Final = Attribute(name=ERROR_TYPE, further="the class of an exception; only if the work was broken off")
REJOIN_ATTRIBUTES: Final = (
    _MANAGER,
    Attribute(name=KEPT, further="a number of sessions that go on"),
    Attribute(name=DROPPED, further="a number of sessions that another process has claimed"),
    Attribute(name=PUT, further="a number of sessions that the store had forgotten, and was told again"),
    _ERROR,
)
ORPHANS_ATTRIBUTES: Final = (
    _MANAGER,
    Attribute(name=EPOCH, further="the number that the store gave to the dead process"),
    *(Attribute(name=name, further="a number of sessions") for name in COUNTS_OF_ORPHANS.values()),
    _ERROR,
)
RESYNC_ATTRIBUTES: Final = (
    _MANAGER,
    Attribute(name=SHARD, further="the number of the shard"),
    Attribute(name=PUT, further="a number of sessions that the store had lost"),
    Attribute(name=ENDED, further="a number of sessions whose end the store had lost"),
    _ERROR,
)
