"""One process's writes to one shard. At most one call is under way; what comes meanwhile is the next call.

What always holds: calls are numbered in the order of sending, and a call that was not answered is repeated under its
number. So the store refuses late copies, and an audit between two calls compares exactly.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

from otel_sessions._core.words import Resync

from .healing import Differences, Healing
from .scripts import END, MOST, PUT, RECLAIM
from .steps import End, Put, Reclaim, Step, Waiting
from .store import Argument, Call, Keys, Value, numbers, text


class News(Enum):
    """What a lane learned of a session."""

    REGISTERED = "registered"
    TAKEN = "taken"
    """Another owner has this id."""
    LOST = "lost"
    """Others have claimed this session, and run its hook. A session that was never registered may have been lost on the
    way to the store: then nobody else runs its hook."""


@dataclass(kw_only=True)
class Tally:
    """What lanes count. `late` is how often a shard called a write too late, `resyncs` what was told again.

    Of the sessions of former epochs, `kept` go on, `dropped` were claimed by others, `forgotten` are put again.
    """

    resyncs: Counter[Resync] = field(default_factory=Counter)
    late: int = 0
    kept: int = 0
    dropped: int = 0
    forgotten: int = 0


class Lane:
    """The sessions that one epoch has in one shard, by all answered calls, and the steps that wait.

    `tally` counts for all lanes of a process.
    """

    def __init__(
        self, keys: Keys, shard: int, epoch: int, steps: Iterable[Step] = (), tally: Tally | None = None
    ) -> None:
        self._keys: Final = keys
        self.shard: Final = shard
        self.epoch: Final = epoch
        self._waiting: Final = Waiting(steps)
        self._kept: dict[str, Put] = {}
        self._number = 0
        self._steps: list[Step] = []
        """The steps of the call under way, or of the call that is to be repeated."""
        self._call: Call | None = None
        self._healing = Healing(keys, shard, epoch)
        self._deadline = 0
        self._late: int | None = None
        """The deadline for which the store said that it has passed."""
        self._tally: Final = tally or Tally()
        self.differences = Differences()
        """What the last audit has shown."""
        self.fenced = False
        """True once the store refused a call: the process must join anew."""

    def add(self, step: Step) -> None:
        """Let a step wait for its turn."""
        self._waiting.add(step)

    def check(self) -> None:
        """Compare with the store as soon as no call is under way, and mend what differs."""
        if not self._steps:
            self._call = None  # a question under way is asked anew
        self._healing.start()

    @property
    def owners(self) -> tuple[int, ...]:
        """All owners in this shard, by the last audit."""
        return self._healing.owners

    @property
    def books(self) -> Mapping[str, int]:
        """What this shard has counted, by the last audit: `created`, and the ended by reason."""
        return self._healing.books

    @property
    def active(self) -> int:
        """How many sessions this shard has, of all owners, by the last audit."""
        return self._healing.active

    @property
    def is_mending(self) -> bool:
        """Whether an audit has shown that the shard has other records, and they are being read."""
        return self._healing.is_mending

    def is_reclaiming(self) -> bool:
        """Return whether a session of a former epoch waits to be taken over."""
        return any(isinstance(step, Reclaim) for step in (*self._steps, *self._waiting))

    def is_idle(self) -> bool:
        """Return whether nothing waits and nothing is to be checked."""
        return not (self._waiting or self._steps or self._healing.is_wanted)

    def call(self, deadline: int) -> Call | None:
        """Return the next call, or None if nothing waits. It replaces a call that was not answered.

        `deadline` is the end of the process's lease by the store's clock, in milliseconds. After a write that was too
        late for a deadline, the lane waits for the next deadline.
        """
        self._deadline = deadline
        if not self._steps and (check := self._healing.call()) is not None:
            self._call = check
        elif (self._steps or self._waiting) and deadline != self._late:
            self._call = self._write(deadline)
        else:
            self._call = None
        return self._call

    def answer(self, call: Call, answer: Sequence[Value]) -> list[tuple[str, News]]:
        """Take an answer, and return what it says of sessions that have not ended here meanwhile.

        An answer to a call that was replaced says nothing. Of an id that was used again it tells only once the store
        was told of the later session.
        """
        if call is not self._call:
            return []
        self._call = None
        match text(answer[0]):
            case "LATE":
                self._late = self._deadline
                self._tally.late += 1
            case "OK" if self._steps:
                news = self._written(numbers(answer[1:]))
                return [(ref, what) for ref, what in news if not self._waiting.has_end(ref)]
            case "OK":
                self._heal(answer)
            case _:  # FENCED or OLD
                self.fenced = True
        return []

    def steps_for_successor(self) -> list[Step]:
        """Return what the lane of the process's next epoch begins with: reclaim what is here, then what waited."""
        mine = [Reclaim(put=put, formers=(self.epoch,)) for put in self._kept.values()]
        return [*mine, *map(self._in_doubt, self._steps), *self._waiting]

    def _in_doubt(self, step: Step) -> Step:
        """Return what finds out whether a step of the last call was done."""
        match step:
            case Put():
                return Reclaim(put=step, formers=(self.epoch,))
            case Reclaim(formers=formers):
                return replace(step, formers=(self.epoch, *formers))
            case _:
                return step

    def _write(self, deadline: int) -> Call:
        if not self._steps:
            self._steps = self._next_steps()
            self._number += 1
        first, shard, mine = self._steps[0], self._keys.shard(self.shard), self._keys.owned(self.shard, self.epoch)
        args: list[Argument] = [self.epoch, self._number]
        match first:
            case End():
                args += [word for step in self._steps if isinstance(step, End) for word in (step.ref, step.reason)]
                return Call(script=END, keys=(*shard, mine), args=tuple(args))
            case Put():
                puts = [step for step in self._steps if isinstance(step, Put)]
                args += [deadline, *(word for put in puts for word in (put.ref, put.nonce, put.blob))]
                return Call(script=PUT, keys=(*shard, mine), args=tuple(args))
            case _:
                former, settled = first.formers[0], self._keys.settled(self.shard)
                reclaims = [step.put for step in self._steps if isinstance(step, Reclaim)]
                args += [deadline, former, *(word for put in reclaims for word in (put.ref, put.nonce))]
                theirs = self._keys.owned(self.shard, former)
                return Call(script=RECLAIM, keys=(*shard, mine, theirs, settled), args=tuple(args))

    def _next_steps(self) -> list[Step]:
        """Take the steps of the next call: those of one kind, in the order in which they came."""
        steps = [self._waiting.pop()]
        while self._waiting and len(steps) < MOST and self._belong_together(steps[0], self._waiting.first()):
            steps.append(self._waiting.pop())
        return steps

    @staticmethod
    def _belong_together(one: Step, other: Step) -> bool:
        if isinstance(one, Reclaim) and isinstance(other, Reclaim):
            return one.formers == other.formers
        return type(one) is type(other)

    def _written(self, results: list[int]) -> list[tuple[str, News]]:
        steps, self._steps = self._steps, []
        match steps[0]:
            case End():
                self._ended(step for step in steps if isinstance(step, End))
                return []
            case Put():
                puts = [step for step in steps if isinstance(step, Put)]
                return [news for put, owner in zip(puts, results, strict=True) for news in self._put(put, owner)]
            case _:
                reclaims = [step for step in steps if isinstance(step, Reclaim)]
                pairs = zip(reclaims, results, strict=True)
                return [news for step, result in pairs for news in self._reclaimed(step, result)]

    def _ended(self, ends: Iterable[End]) -> None:
        for end in ends:
            self._kept.pop(end.ref, None)
            self._healing.remember(end.ref, end.reason)

    def _put(self, put: Put, owner: int) -> list[tuple[str, News]]:
        if owner == 0:
            self._kept[put.ref] = put
            return [(put.ref, News.REGISTERED)]
        if owner == self.epoch:  # an ended session with this id came back with a store that went back
            self._waiting.add_first(put)
            self._healing.start()
            return []
        return [(put.ref, News.TAKEN)]

    def _reclaimed(self, step: Reclaim, result: int) -> list[tuple[str, News]]:
        if result == 1:
            self._kept[step.ref] = step.put
            self._tally.kept += 1
            return [(step.ref, News.REGISTERED)]
        if result == 0 and self._waiting.has_end(step.ref):  # the end has come there, and its answer was lost
            return []
        if result == 0:  # the store forgot the session, or a put in doubt never came there
            self._waiting.add_first(step.put)
            self._tally.resyncs[Resync.PUT] += 1
            self._tally.forgotten += 1
            return []
        if result in step.formers:
            others = tuple(former for former in step.formers if former != result)
            self._waiting.add_first(replace(step, formers=(result, *others)))
            return []
        self._tally.dropped += 1
        return [(step.ref, News.LOST)]

    def _heal(self, answer: Sequence[Value]) -> None:
        nonces = {ref: put.nonce for ref, put in self._kept.items()}
        self.differences = differences = self._healing.answer(answer, nonces)
        self._tally.resyncs.update({Resync.PUT: len(differences.missing), Resync.ENDED: len(differences.left_over)})
        for ref in differences.missing:
            self._waiting.add_first(self._kept.pop(ref))
        for ref, reason in differences.left_over:
            self._waiting.add_first(End(ref=ref, reason=reason))
