"""What the store has counted for the whole fleet, and the verdict on it.

All numbers of `Books` are of one moment, since one script reads them: the demo's fleet has a single shard.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from otel_sessions.fleet.scripts import Script
from otel_sessions.fleet.store import Keys, Value, text

SHARDS: Final = 1
_SOURCE: Final = """
local answer = {
  redis.call('HLEN', KEYS[5]), redis.call('ZCARD', KEYS[2]), redis.call('ZCARD', KEYS[3]),
  redis.call('HGET', KEYS[4], 'granted') or 0, redis.call('HGET', KEYS[4], 'cap') or 0}
for _, value in ipairs(redis.call('HGETALL', KEYS[8])) do
  answer[#answer + 1] = value
end
return answer
"""
READ: Final = Script(name="demo", source=_SOURCE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Books:
    """The books of the fleet at one moment. `dead` counts replicas that have died and are not cleaned yet."""

    active: int = 0
    living: int = 0
    dead: int = 0
    granted: int = 0
    cap: int = 0
    created: int = 0
    ended: Mapping[str, int] = field(default_factory=dict)

    @property
    def total_ended(self) -> int:
        return sum(self.ended.values())

    @property
    def orphaned(self) -> int:
        """How many sessions of dead replicas others have ended."""
        return self.ended.get("orphaned", 0)

    @property
    def balance(self) -> bool:
        return self.created == self.total_ended + self.active

    @property
    def within_cap(self) -> bool:
        return self.active <= self.cap and self.granted <= self.cap


def keys_of(name: str) -> Sequence[str]:
    """Return the keys that `READ` reads, of the fleet with this name."""
    keys = Keys(name, SHARDS)
    return (*keys.fleet, *keys.shard(0))


def books_from(answer: Sequence[Value]) -> Books:
    """Return the books that an answer to `READ` shows."""
    active, living, dead, granted, cap = (int(value) for value in answer[:5])
    counts = {text(word): int(count) for word, count in zip(answer[5::2], answer[6::2], strict=True)}
    created = counts.pop("created", 0)
    return Books(active=active, living=living, dead=dead, granted=granted, cap=cap, created=created, ended=counts)


@dataclass(slots=True)
class Seen:
    """What was seen of the books during a run, look by look, and how many replicas were killed."""

    now: Books = field(default_factory=Books)
    looks: int = 0
    unbalanced: int = 0
    over: int = 0
    most: int = 0
    kills: int = 0

    def look(self, books: Books) -> None:
        """Take the books of one moment."""
        self.now = books
        self.looks += 1
        self.unbalanced += not books.balance
        self.over += not books.within_cap
        self.most = max(self.most, books.active)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether the fleet did what it promises, and the lines that say so."""

    passed: bool
    lines: Sequence[str]


def judge(seen: Seen, final: Books) -> Verdict:
    """Return the verdict on a run. `final` are the books after all replicas have stopped."""
    claims = (_books(seen, final), _cap(seen), _orphans(seen, final))
    return Verdict(passed=all(passed for passed, _ in claims), lines=[line for _, line in claims])


def _books(seen: Seen, final: Books) -> tuple[bool, str]:
    passed = not seen.unbalanced and final.balance and not final.active and final.created > 0
    if not final.created:
        return False, "The books TELL NOTHING: no session was created."
    claim = "The books balance" if passed else "The books DO NOT BALANCE"
    wrong = f" {seen.unbalanced} of {seen.looks} looks found another sum." if seen.unbalanced else ""
    return passed, (
        f"{claim}: {final.created} created = {final.total_ended} ended + {final.active} active, in the store, after "
        f"all replicas have stopped.{wrong}"
    )


def _cap(seen: Seen) -> tuple[bool, str]:
    passed = not seen.over and seen.looks > 0
    claim = "One cap holds" if passed else "The cap DOES NOT HOLD"
    wrong = f" {seen.over} looks found more sessions, or more granted places, than the cap has." if seen.over else ""
    return passed, (
        f"{claim}: at most {seen.most} of {seen.now.cap} sessions over all replicas, in {seen.looks} looks.{wrong}"
    )


def _orphans(seen: Seen, final: Books) -> tuple[bool, str]:
    if not seen.kills:
        return False, "Orphans TELL NOTHING: no replica was killed; try a longer --duration."
    passed = not seen.now.dead
    claim = "Orphans are cleaned" if passed else "Orphans ARE LEFT"
    left = "" if passed else f" {seen.now.dead} dead replicas still have places under the cap."
    return passed, (
        f"{claim}: {seen.kills} replicas were killed, and the others have ended {final.orphaned} sessions of "
        f"theirs.{left}"
    )
