"""The order in which sessions were made, for people who list sessions a page at a time.

Each entry has a position, which only grows and never changes. So a reader that keeps a position meets every entry that
stays exactly once, whatever comes and goes meanwhile. The roll keeps ids, in leaves. It tidies a leaf up when most of
its entries are gone, so it never holds more than four ids for each entry.
"""

import re
import secrets
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from operator import attrgetter
from typing import Final, Generic, TypeVar

from .exceptions import ConfigError

LEAF: Final = 512
"""How many entries are added to a leaf before the next one begins."""
_MOST_FOR_EACH: Final = 4
_HEX: Final = re.compile(r"[0-9a-f]{1,16}")

EntryT = TypeVar("EntryT")


class Leaf:
    """The ids of entries that were added one after the other, at the positions from `first` on.

    `live` counts the entries that are still there. `steps` are the distances of the ids from `first`; None stands for
    0, 1, 2 and so on.
    """

    __slots__ = ("first", "ids", "live", "next", "steps")

    def __init__(self, first: int) -> None:
        self.first: Final = first
        self.ids: list[str] = []
        self.steps: array[int] | None = None
        self.next = self.live = 0


class Roll(Generic[EntryT]):
    """Entries in the order in which they were added. Whoever adds an entry remembers `leaf`, where the entry is.

    An entry is there while one of `places` has it by its id. `leaf_of` returns the leaf that an entry was added to.
    """

    def __init__(self, places: Sequence[Mapping[str, EntryT]], leaf_of: Callable[[EntryT], Leaf]) -> None:
        self._places = places
        self._leaf_of = leaf_of
        self._token = secrets.token_hex(4)
        self._leaves = [Leaf(0)]

    @property
    def leaf(self) -> Leaf:
        """The leaf that the next entry is added to."""
        return self._leaves[-1]

    @property
    def end(self) -> int:
        """The position of the next entry."""
        return self.leaf.first + self.leaf.next

    def add(self, entry_id: str) -> bool:
        """Add an entry to `leaf`. Return whether the leaf is full, so that another leaf comes next."""
        leaf = self._leaves[-1]
        leaf.ids.append(entry_id)
        if leaf.steps is not None:
            leaf.steps.append(leaf.next)
        leaf.live += 1
        leaf.next += 1
        if leaf.next < LEAF:
            return False
        leaf.ids = leaf.ids[:]  # without the room to grow
        self._leaves.append(Leaf(leaf.first + LEAF))
        return True

    def discard(self, leaves: Iterable[Leaf]) -> None:
        """Note that entries are gone from all places: one entry of each of these leaves."""
        for leaf, gone in Counter(leaves).items():  # together, since entries that go together are mostly of one leaf
            leaf.live -= gone
            if not leaf.live or leaf.live * _MOST_FOR_EACH < len(leaf.ids):
                self._tidy(leaf)

    def walk(self, position: int) -> Iterator[tuple[int, EntryT | None]]:
        """Yield the positions of the ids from a position on, each with its entry, or with None if the entry is gone.

        Nothing may be added or discarded during the walk.
        """
        for leaf in islice(self._leaves, max(0, self._index(position)), None):
            for step, entry_id in _entries(leaf, position - leaf.first):
                yield leaf.first + step, self._find(entry_id, leaf)

    def cursor(self, position: int) -> str:
        """Return a position as a text for a person or a program to hand back."""
        return f"{self._token}{position:x}"

    def position(self, cursor: str) -> int:
        """Return the position of a cursor. Raises `ConfigError` if the cursor is not from this roll."""
        digits = cursor.removeprefix(self._token)
        if _HEX.fullmatch(digits) and self.cursor(position := int(digits, 16)) == cursor and position <= self.end:
            return position
        raise ConfigError("after takes the `next` of a page from this run of the manager; list again from the start")

    def _index(self, position: int) -> int:
        """Return the index of the last leaf that begins at a position or before it, -1 if there is no such leaf."""
        return bisect_right(self._leaves, position, key=attrgetter("first")) - 1

    def _find(self, entry_id: str, leaf: Leaf) -> EntryT | None:
        """Return the entry that has this id and was added to this leaf, or None if it is gone."""
        for place in self._places:
            entry = place.get(entry_id)
            if entry is not None and self._leaf_of(entry) is leaf:
                return entry
        return None

    def _tidy(self, leaf: Leaf) -> None:
        if not leaf.live and leaf is not self.leaf:
            del self._leaves[self._index(leaf.first)]
            return
        there = {entry_id for place in self._places if place for entry_id in place.keys() & leaf.ids}
        kept = [
            (step, name) for step, name in _entries(leaf, 0) if name in there and self._find(name, leaf) is not None
        ]
        leaf.steps = array("H", (step for step, _ in kept))
        leaf.ids = [entry_id for _, entry_id in kept]


def _entries(leaf: Leaf, first_step: int) -> list[tuple[int, str]]:
    """Return the ids of a leaf from a step on, with their steps. An id that was added again stands at its last step."""
    steps = range(leaf.next) if leaf.steps is None else leaf.steps
    last = dict(zip(leaf.ids, steps, strict=True))
    if len(last) == len(leaf.ids):
        return list(islice(zip(steps, leaf.ids, strict=True), bisect_left(steps, first_step), None))
    return sorted((step, entry_id) for entry_id, step in last.items() if step >= first_step)
