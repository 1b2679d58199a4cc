"""What a fleet with a store has to report at one moment: this process's place, and the totals of the whole fleet.

Counts grow with the process and never fall. Totals are what the store had at the last audits. Values only: whoever
reads them asks nobody.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from otel_sessions._core.words import LookupOutcome, OrphanOutcome, Resync


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What the store has counted for all processes. `ended` is by end reason, the fleet's own reasons included."""

    created: int = 0
    ended: Mapping[str, int] = field(default_factory=dict)
    active: int = 0
    limit: int = 0
    granted: int = 0


@dataclass(frozen=True, kw_only=True)
class FleetState:
    """One process of a fleet at one moment. `remaining` is in seconds, 0 while the process is no member.

    `totals` is None until every shard was audited once.
    """

    living: int = 0
    dead: int = 0
    grant: int = 0
    remaining: float = 0.0
    totals: Totals | None = None
    orphans: Mapping[OrphanOutcome, int] = field(default_factory=dict)
    fenced: int = 0
    resyncs: Mapping[Resync, int] = field(default_factory=dict)
    lookups: Mapping[LookupOutcome, int] = field(default_factory=dict)
    resets: int = 0
