"""What one process of a fleet with a store has to report at a moment. It asks nobody, on any thread."""

from dataclasses import replace

from otel_sessions._core.fleet_state import FleetState, Totals

from .replica import Replica
from .running import Counts, Running


def state_of(counts: Counts, running: Running | None) -> FleetState:
    """Return the state of a process, from what all its runs have counted and from the run under way."""
    state = FleetState(
        orphans=dict(counts.orphans),
        fenced=counts.fenced,
        resyncs=dict(counts.tally.resyncs),
        lookups=dict(counts.lookups),
        resets=counts.resets,
        late=counts.tally.late,
    )
    return state if running is None else _in_run(state, running)


def _in_run(state: FleetState, running: Running) -> FleetState:
    parts = running.parts
    now, member = parts.run.clock(), parts.replica.membership
    return replace(
        state,
        living=member.all_living,
        dead=member.all_dead,
        dead_for=max((now - first for first in list(running.dead_since.values())), default=0.0),
        grant=running.grant,
        remaining=member.remaining(now),
        lease=parts.lease,
        totals=_totals(parts.replica, parts.cap),
    )


def _totals(replica: Replica, cap: int) -> Totals | None:
    shards = replica.shards
    if not shards.is_complete():
        return None
    return Totals(
        created=shards.created,
        ended=shards.ended,
        active=shards.active,
        limit=cap,
        granted=replica.membership.granted,
    )
