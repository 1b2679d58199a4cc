"""What one process of a fleet knows and has to say: its membership, its sessions, its lanes, and the dead. Pure.

What always holds: a session is visible only while the process's lease runs and the session's epoch is the process's.
Whoever moves the bytes asks for `calls`, and tells of each call that it was answered or that it failed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from .lanes import Lane, News, Tally
from .membership import Membership, Terms
from .orphans import Claimed, Cleaning, Settled, Suspicions
from .scripts import AUDIT, BEAT, CLAIM, JOIN, PAGE
from .steps import End, Put, Step
from .store import Call, Keys, Value
from .totals import Shards

_BEATS_IN_A_LEASE: Final = 3
_HURRIES_IN_A_LEASE: Final = 30
"""How often a process that has refused somebody may ask for a larger grant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resynced:
    """A shard that `differs` from what this process knows, or that is told again what it lost: sessions, and ends."""

    shard: int
    differs: bool
    put: int = 0
    ended: int = 0


Event: TypeAlias = Claimed | Settled | Resynced | tuple[str, News]
Party: TypeAlias = Membership | Lane | Cleaning | Suspicions


@dataclass(kw_only=True, slots=True)
class _Held:
    put: Put
    epoch: int | None = None
    """The epoch under which the store has the session, or None while it does not."""


class Replica:
    """One process, from its start to its end. `span` is for how many seconds a claim is.

    `draw` returns a random number from 0 up to its argument, less one.
    """

    def __init__(
        self,
        terms: Terms,
        keys: Keys,
        draw: Callable[[int], int],
        *,
        span: float,
        tally: Tally | None = None,
    ) -> None:
        self._terms: Final = terms
        self._keys: Final = keys
        self._draw: Final = draw
        self._span: Final = int(span * 1000)
        self._held: dict[str, _Held] = {}
        self._tally: Final = tally or Tally()
        self.shards: Final = Shards(keys.shards)
        self._lanes: list[Lane] = [self._new_lane(shard, 0) for shard in range(keys.shards)]  # no epoch: they wait
        self._cleanings: dict[int, Cleaning] = {}
        self._doubts_deaths = False
        """The store may have forgotten who is dead. Until the next beat is answered, this process cleans nothing."""
        self._suspicions: Final = Suspicions(keys, terms.lease)
        self._suspect: Call | None = None
        self._under_way: dict[Call, Party] = {}
        self._next_beat = self._last_beat = float("-inf")
        self._audits = 0
        self.join_of_lanes = 0
        """The number of the join under which sessions are registered now."""
        self.membership: Final = Membership(terms, keys, lambda: draw(1000))

    def __len__(self) -> int:
        """Return how many sessions this process has, visible or not."""
        return len(self._held)

    def refs(self) -> list[str]:
        """Return the sessions that this process has, visible or not."""
        return list(self._held)

    def is_idle(self) -> bool:
        """Return whether the store has all that this process has to say of its sessions, and no audit is wanted."""
        return all(lane.is_idle() for lane in self._lanes)

    def has_rejoined(self) -> bool:
        """Return whether the process is a member, and knows of each session of its former epochs what became of it."""
        return self.membership.epoch is not None and not any(lane.is_reclaiming() for lane in self._lanes)

    def is_cleaning(self, epoch: int) -> bool:
        """Return whether this process still looks for orphans of a dead epoch."""
        return epoch in self._cleanings

    def is_visible(self, ref: str, now: float) -> bool:
        """Return whether a session may be served. It costs two comparisons."""
        held = self._held.get(ref)
        return held is not None and held.epoch == self.membership.epoch and self.membership.is_living(now)

    def has_room(self, now: float) -> bool:
        """Return whether one more session is within the grant."""
        return self.membership.is_living(now) and len(self._held) < self.membership.places()

    def register(self, ref: str, blob: bytes = b"") -> None:
        """Have a session. It is visible once the store knows it. Before the process has joined, the session waits.

        The caller has asked `has_room`, or does without.
        """
        put = Put(ref=ref, nonce=self._draw(2**52), blob=blob)
        self._held[ref] = _Held(put=put)
        self._lane(ref).add(put)

    def end(self, ref: str, reason: str) -> None:
        """Have a session no longer, and count it ended under a reason. A session that is lost counts elsewhere."""
        if self._held.pop(ref, None) is None:
            return
        self._lane(ref).add(End(ref=ref, reason=reason))

    def settle(self, claimed: Claimed) -> bool:
        """The hook of an orphan has run. Return False if others have settled it, and buried its epoch."""
        if cleaning := self._cleanings.get(claimed.owner):
            cleaning.settle(claimed)
        return cleaning is not None

    def check_all(self) -> None:
        """The connection was lost: the store may have lost its last writes. Compare with every shard."""
        self._doubts_deaths = True
        for lane in self._lanes:
            lane.check()

    def calls(self, now: float, *, taken: int = 0, refused: bool = False, room: int = 32) -> list[Call]:
        """Return the calls to send now. While a call is under way, its party makes no other.

        `taken` is the number of places in use, if more than sessions use places. `refused` says that somebody was
        refused a place lately. `room` is for how many orphans hooks are free; what calls under way may claim needs room
        as well.
        """
        calls: list[Call] = []
        room -= sum(map(_claims, self._under_way))
        busy = set(map(id, self._under_way.values()))
        for party in self._parties():
            if id(party) not in busy and (call := self._call_of(party, now, taken, refused, room)) is not None:
                self._under_way[call] = party
                room -= _claims(call)
                calls.append(call)
        return calls

    def failed(self, call: Call) -> None:
        """No answer came in time. The same is asked again, at once."""
        if isinstance(self._under_way.pop(call, None), Membership):
            self._next_beat = float("-inf")

    def answer(self, call: Call, answer: Sequence[Value], now: float) -> list[Event]:
        """Take an answer, and return what it means for sessions and orphans. After `failed` an answer says nothing."""
        party = self._under_way.pop(call, None)
        match party:
            case Membership():
                self._heard(call, answer, now)
            case Lane():
                return self._written(party, call, answer, now)
            case Cleaning():
                return self._cleaned(party, call, answer)
            case _:
                pass
        return []

    def _lane(self, ref: str) -> Lane:
        return self._lanes[self._keys.shard_of(ref)]

    def _parties(self) -> list[Party]:
        return [self.membership, *self._lanes, *self._cleanings.values(), self._suspicions]

    def _call_of(self, party: Party, now: float, taken: int, refused: bool, room: int) -> Call | None:
        match party:
            case Membership():
                return self._beat(now, max(taken, len(self._held)), refused)
            case Lane():
                return party.call(self.membership.deadline) if self.membership.is_living(now) else None
            case Cleaning():
                return self._clean(party, room) if self._may_clean() else None
            case _:
                call, self._suspect = self._suspect, None
                return call

    def _beat(self, now: float, used: int, refused: bool) -> Call | None:
        soonest = self._last_beat + self._terms.lease / _HURRIES_IN_A_LEASE
        if now < (min(soonest, self._next_beat) if refused else self._next_beat):
            return None
        self._last_beat, self._next_beat = now, now + self._terms.lease / _BEATS_IN_A_LEASE
        return self.membership.call(used, refused, now)

    def _may_clean(self) -> bool:
        """What this process can take over is not an orphan. So it takes over first."""
        return self.has_rejoined() and not self._doubts_deaths

    def _heard(self, call: Call, answer: Sequence[Value], now: float) -> None:
        self.membership.answer(call, answer)
        epoch = self.membership.epoch
        if epoch is None or call.script is JOIN:
            self._next_beat = now
        if epoch is not None and call.script is JOIN:
            self._succeed(epoch)
        elif epoch is not None and call.script is BEAT:
            self._beaten()

    def _succeed(self, epoch: int) -> None:
        """Begin the lanes of a new epoch with what those of the last one leave."""
        self.join_of_lanes = self.membership.joins
        steps = [lane.steps_for_successor() for lane in self._lanes]
        self._lanes = [self._new_lane(shard, epoch, first) for shard, first in enumerate(steps)]

    def _new_lane(self, shard: int, epoch: int, steps: Sequence[Step] = ()) -> Lane:
        return Lane(self._keys, shard, epoch, steps, self._tally)

    def _beaten(self) -> None:
        self._lanes[self._audits % self._keys.shards].check()
        self._audits += 1
        self._doubts_deaths = False
        self._drop_cleanings()
        for cleaning in self._cleanings.values():
            cleaning.wake()
        for dead in self.membership.dead:
            if dead not in self._cleanings:
                start = self._draw(self._keys.shards)
                self._cleanings[dead] = Cleaning(self._keys, dead, start=start, span=self._span)

    def _is_named(self, dead: int) -> bool:
        """Who is not named as dead any more is buried, or lives again in a store that went back: then it may serve."""
        named = self.membership.dead
        return dead in named or self.membership.all_dead > len(named)  # a beat does not name all of many

    def _clean(self, cleaning: Cleaning, room: int) -> Call | None:
        return cleaning.call(room) if self._is_named(cleaning.dead) else cleaning.settlement()

    def _drop_cleanings(self) -> None:
        """Keep those of whom a beat has named, and those that have hooks to tell of."""
        kept = {dead: one for dead, one in self._cleanings.items() if self._is_named(dead) or one.is_settling}
        self._cleanings = kept

    def _written(self, lane: Lane, call: Call, answer: Sequence[Value], now: float) -> list[Event]:
        events: list[Event] = []
        for ref, news in lane.answer(call, answer):
            if news is News.REGISTERED:
                self._held[ref].epoch = lane.epoch
            else:
                del self._held[ref]
            events.append((ref, news))
        if lane.fenced:
            if lane.epoch == self.membership.epoch:
                self.membership.give_up()
                self._next_beat = now
            return events
        if call.script is AUDIT:
            self.shards.audited(lane.shard, lane.books, lane.active)
            self._suspect = self._suspicions.audited(lane.shard, lane.owners, now) or self._suspect
        if call.script in (AUDIT, PAGE):
            events.append(_resynced(lane))
        return events

    def _cleaned(self, cleaning: Cleaning, call: Call, answer: Sequence[Value]) -> list[Event]:
        events: list[Event] = list(cleaning.answer(call, answer))
        if cleaning.is_done:
            self._cleanings.pop(cleaning.dead, None)
        return events


def _resynced(lane: Lane) -> Resynced:
    found = lane.differences
    return Resynced(shard=lane.shard, differs=lane.is_mending, put=len(found.missing), ended=len(found.left_over))


def _claims(call: Call) -> int:
    """Return how many orphans a call may bring."""
    return int(call.args[1]) if call.script is CLAIM else 0
