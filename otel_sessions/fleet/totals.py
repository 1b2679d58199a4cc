"""What the store has counted for the whole fleet, from the audits of its shards.

What always holds: all that is said of one shard comes from one answer, so it balances. Shards are audited in turn.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final

_CREATED: Final = "created"


class Shards:
    """The books of all shards, each as its last audit showed them."""

    def __init__(self, number: int) -> None:
        self._number: Final = number
        self._books: dict[int, Mapping[str, int]] = {}
        self._active: dict[int, int] = {}
        self.resets = 0
        """How often a shard had counted less than before: the store has forgotten."""

    def audited(self, shard: int, books: Mapping[str, int], active: int) -> None:
        """Take the answer of one audit."""
        if books.get(_CREATED, 0) < self._books.get(shard, {}).get(_CREATED, 0):
            self.resets += 1
        self._books[shard], self._active[shard] = books, active

    def is_complete(self) -> bool:
        """Return whether each shard was audited once."""
        return len(self._books) == self._number

    @property
    def created(self) -> int:
        return sum(books.get(_CREATED, 0) for books in list(self._books.values()))

    @property
    def ended(self) -> dict[str, int]:
        """How many sessions have ended, by reason."""
        counts = Counter[str]()
        for books in list(self._books.values()):
            counts.update(books)
        del counts[_CREATED]
        return dict(counts)

    @property
    def active(self) -> int:
        """How many sessions the store has."""
        return sum(list(self._active.values()))
