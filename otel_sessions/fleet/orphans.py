"""The sessions of one dead epoch: claim them shard by shard, settle what was ended, then bury the epoch. Pure.

What always holds: a shard counts as empty only by an answer that came after the epoch was fenced there. The epoch is
buried when every shard was seen empty.
"""

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from .scripts import BURY, CLAIM, MOST, SETTLE, SUSPECT
from .store import Argument, Call, Keys, Value, numbers, raw, text


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A session of a dead epoch that this process is to end. `turn` grows with every claim: it is the token."""

    shard: int
    owner: int
    ref: str
    turn: int
    created: int
    """Milliseconds since 1970, by the store's clock."""
    nonce: int
    """It tells this session from others with the same id."""
    blob: bytes


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What the store said of an orphan whose hook has run. `counted` is False if another survivor had claimed it."""

    claimed: Claimed
    counted: bool


class Cleaning:
    """What one survivor does about one dead epoch. At most one call is under way.

    `start` is the shard to begin with, so that survivors begin at different ones. `span` is for how many milliseconds a
    claim is.
    """

    def __init__(self, keys: Keys, dead: int, *, start: int, span: int) -> None:
        self._keys: Final = keys
        self.dead: Final = dead
        self._span: Final = span
        self._shards: Final = deque((start + step) % keys.shards for step in range(keys.shards))
        """The shards that are not known to be empty. The first is next."""
        self._settled: list[Claimed] = []
        self._settling: list[Claimed] = []
        self._call: Call | None = None
        self._fruitless = 0
        """How many claims in a row found only what other survivors have claimed."""
        self.is_done = False

    def wake(self) -> None:
        """Time has passed: claims of other survivors may have run out."""
        self._fruitless = 0

    def settle(self, claimed: Claimed) -> None:
        """The session's hook has run."""
        self._settled.append(claimed)

    @property
    def is_settling(self) -> bool:
        """Whether the store has not yet heard of all hooks that have run."""
        return bool(self._settling or self._settled)

    def settlement(self) -> Call | None:
        """Return the next call that only settles, or None. It replaces a call that was not answered."""
        self._call = self._settle() if self.is_settling else None
        return self._call

    def call(self, room: int) -> Call | None:
        """Return the next call, for at most `room` more sessions. It replaces a call that was not answered.

        It is None while all that is left is claimed by other survivors, until `wake`; and without room for a session.
        """
        if self.is_settling:
            self._call = self._settle()
        elif self._shards and (room < 1 or self._fruitless >= len(self._shards)):
            self._call = None
        elif self._shards:
            self._call = self._claim(self._shards[0], min(room, MOST))
        else:
            self._call = Call(script=BURY, keys=self._keys.fleet, args=(self.dead,))
        return self._call

    def answer(self, call: Call, answer: Sequence[Value]) -> list[Claimed | Settled]:
        """Take an answer, and return what was claimed or settled. An answer to a replaced call says nothing."""
        if call is not self._call:
            return []
        self._call = None
        if call.script is SETTLE:
            settling, self._settling = self._settling, []
            pairs = zip(settling, numbers(answer[1:]), strict=True)
            return [Settled(claimed=claimed, counted=bool(counted)) for claimed, counted in pairs]
        if call.script is BURY:
            self.is_done = True
        else:
            return list(self._claimed(answer))
        return []

    def _settle(self) -> Call:
        if not self._settling:
            shard = self._settled[0].shard
            self._settling = [claimed for claimed in self._settled if claimed.shard == shard][:MOST]
            self._settled = [claimed for claimed in self._settled if claimed not in self._settling]
        shard = self._settling[0].shard
        args: list[Argument] = [self.dead]
        for claimed in self._settling:
            args += [claimed.ref, claimed.turn, claimed.nonce]
        keys = (*self._keys.shard(shard), self._keys.claimed(shard, self.dead), self._keys.settled(shard))
        return Call(script=SETTLE, keys=keys, args=tuple(args))

    def _claim(self, shard: int, most: int) -> Call:
        owned, claimed = self._keys.owned(shard, self.dead), self._keys.claimed(shard, self.dead)
        return Call(script=CLAIM, keys=(*self._keys.shard(shard), owned, claimed), args=(self.dead, most, self._span))

    def _claimed(self, answer: Sequence[Value]) -> list[Claimed]:
        shard = self._shards[0]
        self._fruitless = 0 if len(answer) > 2 else self._fruitless + 1
        if int(answer[1]) == 0:
            self._shards.popleft()
            self._fruitless = 0
        elif len(answer) == 2:  # all that is left is another survivor's
            self._shards.rotate(-1)
        return [
            Claimed(
                shard=shard,
                owner=self.dead,
                ref=text(ref),
                turn=int(turn),
                created=int(created),
                nonce=int(nonce),
                blob=raw(blob),
            )
            for ref, turn, created, nonce, blob in zip(*(answer[2 + part :: 5] for part in range(5)), strict=True)
        ]


class Suspicions:
    """Owners that audits show. An owner that stays for two leases is named to the store, which knows its members.

    A store that lost members would else keep their sessions for ever. The store waits one lease more, since it may have
    lost the member only now: an owner that is just coming back joins first, and takes its sessions over later.
    """

    def __init__(self, keys: Keys, lease: float) -> None:
        self._keys: Final = keys
        self._lease: Final = int(lease * 1000)
        self._patience: Final = 2 * lease
        self._seen: dict[tuple[int, int], float] = {}
        """When each owner was first seen, by shard and epoch."""

    def audited(self, shard: int, owners: Collection[int], now: float) -> Call | None:
        """Note the owners of a shard. Return the call that names those that stay, or None."""
        seen = {(shard, owner): self._seen.get((shard, owner), now) for owner in owners}
        self._seen = {key: first for key, first in self._seen.items() if key[0] != shard} | seen
        staying = [key for key, first in seen.items() if now - first >= self._patience][:MOST]
        for key in staying:
            self._seen[key] = now
        epochs = tuple(epoch for _, epoch in staying)
        return Call(script=SUSPECT, keys=self._keys.fleet, args=(self._lease, *epochs)) if epochs else None
