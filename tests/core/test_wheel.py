"""The wheel alone, against a dict of deadlines. Times are eighths of a second, which floats hold exactly."""

import gc
import math
import tracemalloc
import weakref
from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from otel_sessions._core.wheel import Bucket, Wheel

eighths = st.integers(min_value=0, max_value=800).map(lambda n: n / 8)


class Entry:
    def __init__(self) -> None:
        self.id = str(id(self))
        self._bucket: Bucket[Entry] | None = None


def pop(wheel: Wheel[Entry], now: float) -> Entry | None:
    return next(wheel.take_due(now), None)


class WheelMachine(RuleBasedStateMachine):
    """Files, moves, removes and pops; the model knows each entry's deadline and when the last pass was."""

    entries = Bundle("entries")

    @initialize(width=st.sampled_from([0.125, 0.5, 1.0]), now=eighths)
    def start(self, width: float, now: float) -> None:
        self.width = width
        self.now = now
        self.wheel: Wheel[Entry] = Wheel(width)
        self.deadlines: dict[Entry, float] = {}

    @rule(target=entries, after=st.one_of(eighths, st.just(math.inf)))
    def file(self, after: float) -> Entry:
        entry = Entry()
        self._file(entry, self.now + after)
        return entry

    @rule(entry=entries, after=eighths)
    def move(self, entry: Entry, after: float) -> None:
        self._file(entry, self.now + after)

    @rule(entry=entries)
    def file_as_due_already(self, entry: Entry) -> None:
        self._file(entry, self.now - 1)

    @rule(entry=consumes(entries))
    def remove(self, entry: Entry) -> None:
        self.wheel.remove(entry)
        self.deadlines.pop(entry, None)
        assert entry._bucket is None

    @rule(seconds=eighths)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def look_at_the_coming_tick(self) -> None:
        coming = self.wheel.coming(self.now)
        due_in_it = {entry for entry in coming if self.deadlines[entry] <= self.now}
        self._take_all()
        assert due_in_it == {entry for entry, deadline in self.deadlines.items() if deadline <= self.now}

    @rule()
    def a_pass_takes_all_that_is_due_and_nothing_early(self) -> None:
        self._take_all()
        assert all(deadline > self.now - self.width for deadline in self.deadlines.values())

    def _file(self, entry: Entry, deadline: float) -> None:
        self.wheel.file(entry, deadline, self.now)
        self.deadlines[entry] = deadline
        assert entry._bucket is not None
        assert entry._bucket.not_before <= max(deadline, self.now)

    def _take_all(self) -> None:
        while (entry := pop(self.wheel, self.now)) is not None:
            assert self.deadlines.pop(entry) <= self.now, "early, or twice"

    @invariant()
    def each_entry_is_filed_once(self) -> None:
        deadlines: dict[Entry, float] = getattr(self, "deadlines", {})
        assert not deadlines or Counter(self.wheel) == Counter(deadlines.keys())
        for entry in deadlines:
            assert entry._bucket is not None
            assert entry._bucket[entry.id] is entry


TestWheel = WheelMachine.TestCase


def test_an_entry_that_is_due_already_is_found_even_by_a_pass_at_the_same_moment() -> None:
    wheel: Wheel[Entry] = Wheel(1.0)
    entry = Entry()
    assert pop(wheel, 10.5) is None
    wheel.file(entry, 10.5, now=10.5)
    assert pop(wheel, 10.5) is entry


def test_rounding_never_lets_one_pass_meet_an_entry_again() -> None:
    wheel: Wheel[Entry] = Wheel(0.1)
    entry = Entry()
    for step in range(1, 1000):
        now = step * 0.1
        deadline = math.nextafter(now, math.inf)
        wheel.file(entry, deadline, now)
        assert pop(wheel, now) is None


def test_a_removed_entry_leaves_nothing_behind() -> None:
    wheel: Wheel[Entry] = Wheel(1.0)
    entry = Entry()
    gone = weakref.ref(entry)
    wheel.file(entry, 50.0, now=0.0)
    wheel.remove(entry)
    del entry
    gc.collect()
    assert gone() is None
    assert pop(wheel, 100.0) is None


@pytest.mark.no_cover  # the same lines again and again
def test_ten_thousand_deadlines_that_come_and_go_leave_no_growth() -> None:
    wheel: Wheel[Entry] = Wheel(1.0)
    entry = Entry()

    def churn(first: int) -> None:
        for deadline in range(first, first + 5_000):
            wheel.file(entry, float(deadline), now=0.0)

    tracemalloc.start()
    try:
        churn(1)
        before, _ = tracemalloc.get_traced_memory()
        churn(5_001)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 10_000


def test_a_long_pause_walks_the_ticks_there_are_and_not_the_time_that_passed() -> None:
    wheel: Wheel[Entry] = Wheel(1.0)
    entries = [Entry() for _ in range(3)]
    for n, entry in enumerate(entries):
        wheel.file(entry, 1.0 + n, now=0.0)
    found = {pop(wheel, 1e12) for _ in range(3)}
    assert found == set(entries)
    assert pop(wheel, 1e12) is None


def test_many_entries_of_one_tick_lie_in_buckets_that_are_never_much_to_copy() -> None:
    wheel: Wheel[Entry] = Wheel(1.0)
    entries = [Entry() for _ in range(20_000)]
    for entry in entries:
        wheel.file(entry, 5.0, now=0.0)
    sizes = {len(entry._bucket) for entry in entries if entry._bucket is not None}
    assert max(sizes) < 6_000
    assert len(list(wheel.coming(4.5))) == 20_000
    assert Counter(wheel.take_due(5.0)) == Counter(entries)


def test_what_is_filed_as_due_while_the_due_ones_are_taken_is_taken_as_well() -> None:
    wheel: Wheel[Entry] = Wheel(1.0)
    first, late = Entry(), Entry()
    wheel.file(first, 1.0, now=0.0)
    due = wheel.take_due(2.0)
    assert next(due) is first
    wheel.file(late, 2.0, now=2.0)
    assert list(due) == [late]


def test_no_entry_is_filed_where_rounding_says_that_it_is_due_later_than_it_is() -> None:
    wheel: Wheel[Entry] = Wheel(0.1)
    entry = Entry()
    for step in range(1, 10_000):
        deadline = math.nextafter(step * 0.1, -math.inf if step % 2 else math.inf)
        wheel.file(entry, deadline, now=0.0)
        assert entry._bucket is not None
        assert entry._bucket.not_before <= deadline
