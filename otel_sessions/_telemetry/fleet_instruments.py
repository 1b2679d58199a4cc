"""What each metric of a fleet with a store reads out of the fleet's state. Each closed set of words is there at 0."""

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Final, TypeAlias, TypeVar

from otel_sessions._core.fleet_state import FleetState, Totals
from otel_sessions._core.words import OTHER, LookupOutcome, MemberState, OrphanOutcome, Resync

from . import fleet_signals as table
from .signals import REASON, Metric

WordT = TypeVar("WordT", bound=StrEnum)
Points: TypeAlias = Iterable[tuple[float, dict[str, str]]]
"""Values, and the attributes of each value."""


def _cleaned(totals: Totals) -> Points:
    """Return the ended sessions by reason. A reason that this release does not know counts as `_OTHER`."""
    counts = dict.fromkeys((*map(str, table.FLEET_REASONS), OTHER), 0)
    for reason, count in totals.ended.items():
        counts[reason if reason in counts else OTHER] += count
    return [(count, {REASON: reason}) for reason, count in counts.items()]


def _of_totals(read: Callable[[Totals], Points]) -> Callable[[FleetState], Points]:
    """Return what reads the totals. There are no points before the totals are known."""
    return lambda state: [] if state.totals is None else read(state.totals)


def _one(value: float) -> Points:
    return [(value, {})]


def _members(state: FleetState) -> Points:
    return _by(table.MEMBER_STATE, MemberState, {MemberState.LIVING: state.living, MemberState.DEAD: state.dead})


def _by(attribute: str, words: type[WordT], counts: Mapping[WordT, int]) -> Points:
    return [(counts.get(word, 0), {attribute: word.value}) for word in words]


READS: Final[Mapping[Metric, Callable[[FleetState], Points]]] = {
    table.CREATED: _of_totals(lambda totals: _one(totals.created)),
    table.CLEANED: _of_totals(_cleaned),
    table.ACTIVE: _of_totals(lambda totals: _one(totals.active)),
    table.LIMIT: _of_totals(lambda totals: _one(totals.limit)),
    table.GRANTED: _of_totals(lambda totals: _one(totals.granted)),
    table.RESETS: lambda state: _one(state.resets),
    table.MEMBERS: _members,
    table.OLDEST_DEAD: lambda state: _one(state.dead_for),
    table.GRANT: lambda state: _one(state.grant),
    table.REMAINING: lambda state: _one(state.remaining),
    table.LEASE: lambda state: _one(state.lease),
    table.ORPHANS: lambda state: _by(table.ORPHAN_OUTCOME, OrphanOutcome, state.orphans),
    table.FENCED: lambda state: _one(state.fenced),
    table.LATE: lambda state: _one(state.late),
    table.RESYNCS: lambda state: _by(table.RESYNC, Resync, state.resyncs),
    table.LOOKUPS: lambda state: _by(table.LOOKUP_OUTCOME, LookupOutcome, state.lookups),
}
