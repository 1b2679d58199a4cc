"""The roll alone, against a list. Its leaves are made small, so that a few entries fill many."""

from itertools import islice
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from otel_sessions import ConfigError
from otel_sessions._core import roll
from otel_sessions._core.roll import Leaf, Roll

NAMES = [str(n) for n in range(40)]


class Entry:
    def __init__(self, name: str, leaf: Leaf) -> None:
        self.name = name
        self.leaf = leaf


class Reader:
    """Reads a page at a time, and remembers who was there at the start."""

    def __init__(self, there: list[Entry]) -> None:
        self.there = there
        self.seen: list[Entry] = []
        self.position = 0


class RollMachine(RuleBasedStateMachine):
    entries = Bundle("entries")
    readers = Bundle("readers")

    @initialize()
    def start(self) -> None:
        self.was = roll.LEAF
        roll.LEAF = 8  # type: ignore[misc]
        self.there: dict[str, Entry] = {}
        self.order: list[Entry] = []
        self.elsewhere: dict[str, Entry] = {}
        self.roll: Roll[Entry] = Roll((self.there, self.elsewhere), lambda entry: entry.leaf)

    @rule(target=entries, names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=12, unique=True))
    def add(self, names: list[str]) -> Any:
        taken = {entry.name for entry in self.order}
        return multiple(*(self._add(name) for name in names if name not in taken))

    def _add(self, name: str) -> Entry:
        entry = self.there[name] = Entry(name, self.roll.leaf)
        self.order.append(entry)
        assert self.roll.add(name) == (self.roll.leaf is not entry.leaf)
        return entry

    @rule(target=entries, entry=consumes(entries))
    def move_to_the_other_place(self, entry: Entry) -> Entry:
        self.there.pop(entry.name, None)
        self.elsewhere[entry.name] = entry
        return entry

    @rule(entries=st.lists(consumes(entries), min_size=1, max_size=8))
    def discard(self, entries: list[Entry]) -> None:
        for entry in entries:
            self.there.pop(entry.name, None)
            self.elsewhere.pop(entry.name, None)
            self.order.remove(entry)
        self.roll.discard([entry.leaf for entry in entries])

    @rule(target=entries, entry=consumes(entries))
    def discard_and_add_again(self, entry: Entry) -> Any:
        self.discard([entry])
        return self._add(entry.name)

    @rule(target=readers)
    def begin_to_read(self) -> Reader:
        return Reader(list(self.order))

    @rule(reader=readers, most=st.integers(1, 9))
    def read_on(self, reader: Reader, most: int) -> None:
        for position, entry in islice(self.roll.walk(reader.position), most):
            assert position >= reader.position
            reader.position = position + 1
            if entry is not None:
                assert entry not in reader.seen
                reader.seen.append(entry)

    @rule(reader=consumes(readers))
    def read_to_the_end(self, reader: Reader) -> None:
        self.read_on(reader, 10_000)
        assert set(reader.there) & set(self.order) <= set(reader.seen)
        assert list(self.roll.walk(reader.position)) == []

    @invariant()
    def the_roll_has_everyone_in_order_and_little_else(self) -> None:
        if not hasattr(self, "roll"):
            return
        walked = list(self.roll.walk(0))
        assert [entry for _, entry in walked if entry is not None] == self.order
        assert len(walked) <= 4 * len(self.order)
        assert len(self.roll._leaves) <= len(self.order) + 1
        assert self.roll.position(self.roll.cursor(self.roll.end)) == self.roll.end

    def teardown(self) -> None:
        if hasattr(self, "was"):
            roll.LEAF = self.was  # type: ignore[misc]


TestRoll = RollMachine.TestCase


def test_a_cursor_of_another_roll_or_of_no_roll_is_refused() -> None:
    one: Roll[Entry] = Roll((), lambda entry: entry.leaf)
    other: Roll[Entry] = Roll((), lambda entry: entry.leaf)
    good = one.cursor(0)
    assert one.position(good) == 0
    token = good[:-1]
    wrong = ["", "x", "0", token, f"{good}0", f"0{good}", f" {good}", f"{token}-1", f"{token}0x0", token + "f" * 400]
    for cursor in [*wrong, one.cursor(1), other.cursor(0)]:
        with pytest.raises(ConfigError, match="list again from the start"):
            one.position(cursor)


def test_an_entry_that_is_added_again_in_the_same_leaf_stands_at_its_last_place() -> None:
    there: dict[str, Entry] = {}
    entries: Roll[Entry] = Roll((there,), lambda entry: entry.leaf)
    for name in "abcd":
        there[name] = Entry(name, entries.leaf)
        entries.add(name)
    again = there.pop("b")
    entries.discard([again.leaf])
    there["b"] = Entry("b", entries.leaf)
    entries.add("b")

    assert [(position, entry.name) for position, entry in entries.walk(0) if entry] == [
        *((0, "a"), (2, "c"), (3, "d")),
        (4, "b"),
    ]
    assert [position for position, _ in entries.walk(3)] == [3, 4]
