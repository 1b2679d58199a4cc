"""What a fleet with a store has to report at one moment: this process's place, and the totals of the whole fleet.

Counts grow with the process and never fall. Totals are what the store had at the last audits. Values only: whoever
reads them asks nobody.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from .words import LookupOutcome, OrphanOutcome, Resync

KeyT = TypeVar("KeyT")


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What the store has counted for all processes. `ended` is by end reason, the fleet's own reasons included.

    `active` is the number of records in the store: `created == sum(ended) + active` is true only if the store lost
    nothing. `limit` is the cap of the fleet. `granted` is the sum of the grants of all processes.
    """

    created: int = 0
    ended: Mapping[str, int] = field(default_factory=dict)
    active: int = 0
    limit: int = 0
    granted: int = 0


@dataclass(frozen=True, kw_only=True)
class FleetState:
    """One process of a fleet at one moment. `totals` is None until every shard was audited once.

    `living` and `dead` are numbers of members; `dead` ones are those whose sessions are not all cleaned. `dead_for` is
    the number of seconds since this process heard of the dead member that it has known longest; 0 without one.

    `grant` is how many sessions this process may have. `remaining` is for how many seconds it is still a member, 0
    while it is no member. `lease` is the configured length of a membership in seconds, 0 outside a run.

    `fenced` counts memberships that this process has lost. `late` counts writes that a part of the store refused, since
    the membership had ended by its clock. `resets` counts how often the store had forgotten the fleet.
    """

    living: int = 0
    dead: int = 0
    dead_for: float = 0.0
    grant: int = 0
    remaining: float = 0.0
    lease: float = 0.0
    totals: Totals | None = None
    orphans: Mapping[OrphanOutcome, int] = field(default_factory=dict)
    fenced: int = 0
    late: int = 0
    resyncs: Mapping[Resync, int] = field(default_factory=dict)
    lookups: Mapping[LookupOutcome, int] = field(default_factory=dict)
    resets: int = 0

    def __add__(self, other: "FleetState") -> "FleetState":
        """Return the state of several fleets of one name: counts and grants are added up, else the larger one counts.

        Totals are taken whole from one of them, so that they balance.
        """
        known = [totals for totals in (self.totals, other.totals) if totals is not None]
        return FleetState(
            living=max(self.living, other.living),
            dead=max(self.dead, other.dead),
            dead_for=max(self.dead_for, other.dead_for),
            grant=self.grant + other.grant,
            remaining=min((one.remaining for one in (self, other) if one.lease), default=0.0),
            lease=max(self.lease, other.lease),
            totals=max(known, key=lambda totals: totals.created, default=None),
            orphans=_sum(self.orphans, other.orphans),
            fenced=self.fenced + other.fenced,
            late=self.late + other.late,
            resyncs=_sum(self.resyncs, other.resyncs),
            lookups=_sum(self.lookups, other.lookups),
            resets=self.resets + other.resets,
        )

    def settled(self) -> "FleetState":
        """Return the state of a process whose run has ended: its counts stay, and it knows nothing of the fleet."""
        return replace(self, living=0, dead=0, dead_for=0.0, grant=0, remaining=0.0, lease=0.0, totals=None)


def _sum(left: Mapping[KeyT, int], right: Mapping[KeyT, int]) -> dict[KeyT, int]:
    return {key: left.get(key, 0) + right.get(key, 0) for key in {**left, **right}}
