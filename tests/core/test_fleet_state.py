"""The state of a fleet with a store: several of one name become one, and a run that has ended keeps its counts."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from otel_sessions._core.fleet_state import FleetState, Totals
from otel_sessions._core.words import LookupOutcome, OrphanOutcome, Resync

NUMBERS = st.integers(0, 1000)
SECONDS = st.floats(0, 60, allow_nan=False)
TOTALS = st.builds(
    lambda ended, active: Totals(created=sum(ended.values()) + active, ended=ended, active=active),
    st.dictionaries(st.sampled_from(["closed", "orphaned", "lost"]), NUMBERS),
    NUMBERS,
)
STATES = st.builds(
    FleetState,
    living=NUMBERS,
    dead=NUMBERS,
    dead_for=SECONDS,
    grant=NUMBERS,
    remaining=SECONDS,
    lease=SECONDS,
    totals=st.none() | TOTALS,
    orphans=st.dictionaries(st.sampled_from(OrphanOutcome), NUMBERS),
    fenced=NUMBERS,
    late=NUMBERS,
    resyncs=st.dictionaries(st.sampled_from(Resync), NUMBERS),
    lookups=st.dictionaries(st.sampled_from(LookupOutcome), NUMBERS),
    resets=NUMBERS,
)


def counts(state: FleetState) -> list[int]:
    words = [state.orphans.get(word, 0) for word in OrphanOutcome]
    words += [state.resyncs.get(word, 0) for word in Resync]
    words += [state.lookups.get(word, 0) for word in LookupOutcome]
    return [*words, state.fenced, state.late, state.resets]


@given(STATES, STATES)
def test_of_two_states_counts_are_added_up_and_totals_balance(one: FleetState, other: FleetState) -> None:
    both = one + other

    assert counts(both) == [mine + theirs for mine, theirs in zip(counts(one), counts(other), strict=True)]
    assert both.totals in (one.totals, other.totals)
    assert (both.totals is None) == (one.totals is None and other.totals is None)
    if both.totals is not None:
        assert both.totals.created == sum(both.totals.ended.values()) + both.totals.active
        assert both.totals.created == max(state.totals.created for state in (one, other) if state.totals)


@given(STATES, STATES)
def test_what_is_worst_of_two_members_is_not_hidden(one: FleetState, other: FleetState) -> None:
    both = one + other

    members = [state for state in (one, other) if state.lease]
    assert both.remaining == min((state.remaining for state in members), default=0.0)
    assert (both.dead, both.dead_for) == (max(one.dead, other.dead), max(one.dead_for, other.dead_for))


@given(STATES)
def test_a_run_that_has_ended_keeps_its_counts_and_knows_nothing_of_the_fleet(state: FleetState) -> None:
    left = state.settled()

    assert counts(left) == counts(state)
    assert counts(left + FleetState()) == counts(state)
    nothing = FleetState()
    assert replace(left, orphans={}, fenced=0, late=0, resyncs={}, lookups={}, resets=0) == nothing
