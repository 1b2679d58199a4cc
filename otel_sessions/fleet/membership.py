"""This process's place in the fleet: its epoch, its lease on that place, and its grant. Pure; time is passed in.

What always holds: the grant here is never larger than the grant in the store, since it grows there first and shrinks
here first. The lease here ends before the lease in the store, since it runs from before the sending, less a tenth for
clocks that run at another rate.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from .scripts import BEAT, FORMAT, JOIN, LEAVE
from .store import Call, Keys, Value, numbers, text

_MARGIN: Final = 0.9
_NEVER: Final = float("-inf")


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a process tells the fleet when it joins.

    `process` must be new at each start of a program: who joins under a name in use takes the place of its user. `lease`
    is in seconds. `spare` is the number of places that the process likes to have free beyond those in use.
    """

    process: str
    address: str
    cap: int
    lease: float = 15.0
    spare: int = 1


class Refused(Exception):
    """The fleet has other data than this process can work with. `found` is what the store has of `what`."""

    def __init__(self, what: str, found: str) -> None:
        super().__init__(f"the fleet's {what} is {found}")
        self.what: Final = what
        self.found: Final = found


class Membership:
    """Joins, then beats; after a refusal it joins anew. At most one call is under way.

    `epoch` is None until the process has joined. `deadline` is the end of the lease by the store's clock, in
    milliseconds. `dead` are epochs whose sessions are to be cleaned. `former` is the number of this process's own
    epochs that are not buried. `joins` is the number of the join that this process has made or is about to make.
    `granted` is the sum of all grants; `all_living` and `all_dead` are the numbers of epochs in the fleet.
    """

    def __init__(self, terms: Terms, keys: Keys, digits: Callable[[], int]) -> None:
        self._terms: Final = terms
        self._keys: Final = keys
        self._digits: Final = digits
        """Return a random number below 1,000."""
        self._beats = 0
        self._call: Call | None = None
        self._sent = _NEVER
        self._ends = _NEVER
        self._pressed = False
        self._answered_beat_sent = _NEVER
        """When the last beat that was answered was sent."""
        self.joins = 1
        self.epoch: int | None = None
        self.deadline = 0
        self.grant = 0
        self.former = 0
        self.version = 0
        self.granted = 0
        self.all_living = 0
        self.all_dead = 0
        self.dead: tuple[int, ...] = ()

    def is_living(self, now: float) -> bool:
        """Return whether this process may serve what it owns: the lease has not ended."""
        return now < self._ends

    def remaining(self, now: float) -> float:
        """Return the seconds until the lease ends, or 0 if it has ended."""
        return max(0.0, self._ends - now)

    def store_time(self, now: float) -> float:
        """Return the time by the store's clock, in seconds since 1970, late by one trip at most.

        The process must have had an answer to a beat.
        """
        return self.deadline / 1000 - self._terms.lease + now - self._answered_beat_sent

    def places(self) -> int:
        """Return how many sessions this process may have. While a former epoch is not buried: no more than it has."""
        return 0 if self.former else self.grant

    def call(self, used: int, refused: bool, now: float) -> Call:
        """Return the next call: a join or a beat. It replaces a call that was not answered."""
        self._sent = now
        self._call = self._join(used) if self.epoch is None else self._beat(self.epoch, used, refused)
        return self._call

    def answer(self, call: Call, answer: Sequence[Value]) -> None:
        """Take an answer. An answer to a call that was replaced changes nothing."""
        if call is not self._call:
            return
        self._call = None
        match text(answer[0]):
            case "OK" if call.script is JOIN:
                self._joined(int(answer[1]))
            case "OK":
                self._beaten(numbers(answer[1:]))
            case "FENCED" | "OLD":
                self.give_up()
            case word:
                raise Refused(word.lower(), text(answer[1]))

    def give_up(self) -> None:
        """The store refuses this epoch: serve nothing, and join anew."""
        self.epoch, self._ends, self.joins, self._call = None, _NEVER, self.joins + 1, None

    def leave(self) -> Call | None:
        """End the lease and return the call that says so, or None if the process has not joined."""
        epoch, self.epoch, self._ends, self._call = self.epoch, None, _NEVER, None
        return epoch if epoch is None else Call(script=LEAVE, keys=self._keys.fleet, args=(epoch,))

    def _join(self, used: int) -> Call:
        terms = self._terms
        args = (terms.process, self.joins, terms.address, used, terms.cap, self._keys.shards)
        return Call(script=JOIN, keys=self._keys.fleet, args=(*args, self._lease, self._digits(), FORMAT))

    @property
    def _lease(self) -> int:
        return int(self._terms.lease * 1000)

    def _joined(self, epoch: int) -> None:
        self.epoch = epoch
        self._beats = 0

    def _beat(self, epoch: int, used: int, refused: bool) -> Call:
        self._beats += 1
        spare = (1 if refused else 0) if self._pressed else self._terms.spare
        want = used + spare if self._pressed else max(self.grant, used + spare)
        self.grant = min(self.grant, want)
        args = (epoch, self._beats, want, used, int(refused), self._lease)
        return Call(script=BEAT, keys=self._keys.fleet, args=args)

    def _beaten(self, values: Sequence[int]) -> None:
        self.grant, self.deadline, self.version, pressed, self.former = values[:5]
        self.granted, self.all_living, self.all_dead, *dead = values[5:]
        self.dead = tuple(dead)
        self._pressed = bool(pressed)
        self._ends = self._sent + self._terms.lease * _MARGIN
        self._answered_beat_sent = self._sent
