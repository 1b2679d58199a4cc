"""Whether the store still has what one epoch has in one shard, and if not, what differs.

A store that restarts, or fails over, may have lost its last writes. An audit compares count and digest; only if they
differ are the ids read, page by page. The lane sends nothing else meanwhile.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from .scripts import AUDIT, PAGE
from .store import Call, Keys, Value, text

_MODULUS: Final = 2**52
_REMEMBERED: Final = 1024


@dataclass(frozen=True, kw_only=True)
class Differences:
    """`missing` is what the store lost. `left_over` is what came back, with the reason under which it was ended."""

    missing: Sequence[str] = ()
    left_over: Sequence[tuple[str, str]] = ()


def digest(nonces: Mapping[str, int]) -> int:
    """Return the sum of the nonces, modulo 2^52, as the scripts compute it."""
    return sum(nonces.values()) % _MODULUS


class Healing:
    """One audit of one owner in one shard, and its pages if count or digest differ."""

    def __init__(self, keys: Keys, shard: int, epoch: int) -> None:
        self._audited_keys: Final = (*keys.shard(shard), keys.settled(shard))
        self._paged_keys: Final = (*keys.shard(shard), keys.owned(shard, epoch))
        self._epoch: Final = epoch
        self._cursor: int | None = None
        """The cursor of the next page, or None if an audit comes next."""
        self._stored: dict[str, int] = {}
        self._reasons: dict[str, str] = {}
        self.is_wanted = False
        self.owners: tuple[int, ...] = ()
        """All owners in this shard, by the last audit."""
        self.books: dict[str, int] = {}
        """What the shard has counted: `created`, and the ended by reason, by the last audit."""
        self.active = 0
        """How many sessions the shard has, of all owners, by the last audit."""

    @property
    def is_mending(self) -> bool:
        """Whether count or digest differ, and the ids are being read."""
        return self._cursor is not None

    def start(self) -> None:
        """Compare at the next opportunity, from the beginning."""
        self.is_wanted, self._cursor = True, None

    def remember(self, ref: str, reason: str) -> None:
        """Keep the reason of one of the last ended sessions, in case that the store forgets the end."""
        self._reasons.pop(ref, None)
        self._reasons[ref] = reason
        if len(self._reasons) > _REMEMBERED:
            del self._reasons[next(iter(self._reasons))]

    def call(self) -> Call | None:
        """Return the next question, or None if nothing is to be asked."""
        if not self.is_wanted:
            return None
        if self._cursor is None:
            return Call(script=AUDIT, keys=self._audited_keys, args=(self._epoch,))
        return Call(script=PAGE, keys=self._paged_keys, args=(self._epoch, self._cursor))

    def answer(self, answer: Sequence[Value], nonces: Mapping[str, int]) -> Differences:
        """Take an answer to the last question. `nonces` is what should be there. Return what differs, once known."""
        if self._cursor is None:
            self._audited(answer, nonces)
            return Differences()
        self._paged(answer)
        return self._compare(nonces) if self._cursor == 0 else Differences()

    def _audited(self, answer: Sequence[Value], nonces: Mapping[str, int]) -> None:
        count, stored, self.active, owners = (int(value) for value in answer[1:5])
        self.owners = tuple(int(value) for value in answer[5 : 5 + owners])
        books = answer[5 + owners :]
        words = (text(word) for word in books[::2])
        self.books = dict(zip(words, map(int, books[1::2]), strict=True))
        if (count, stored) == (len(nonces), digest(nonces)):
            self.is_wanted = False
        else:
            self._cursor, self._stored = 0, {}

    def _paged(self, answer: Sequence[Value]) -> None:
        self._cursor = int(answer[1])
        refs = (text(ref) for ref in answer[2::2])
        self._stored.update(zip(refs, map(int, answer[3::2]), strict=True))

    def _compare(self, nonces: Mapping[str, int]) -> Differences:
        self.is_wanted, self._cursor = False, None
        stored = self._stored
        left_over = [ref for ref, nonce in stored.items() if nonces.get(ref) != nonce]
        missing = [ref for ref, nonce in nonces.items() if stored.get(ref) != nonce]
        return Differences(missing=missing, left_over=[(ref, self._reasons.get(ref, "lost")) for ref in left_over])
