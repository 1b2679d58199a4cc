"""What a lane tells the store of single sessions, and the queue in which it waits for its turn.

What always holds: a session that ends before the store was told of it leaves nothing in the queue. So the queue is
never longer than the sessions that live here and those that the store still has, however long the store is away.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias


@dataclass(frozen=True, kw_only=True)
class Put:
    """Register a session. `nonce` tells this registration from an earlier one of the same id."""

    ref: str
    nonce: int
    blob: bytes = b""


@dataclass(frozen=True, kw_only=True)
class End:
    """Count a session ended under a reason, and forget it."""

    ref: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Reclaim:
    """Take a session over from former epochs of this process. The first of them is thought to be its owner."""

    put: Put
    formers: tuple[int, ...]

    @property
    def ref(self) -> str:
        return self.put.ref


Step: TypeAlias = Put | End | Reclaim


class Waiting:
    """The steps that wait, in the order in which they are told."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self._steps: Final[OrderedDict[int, Step]] = OrderedDict()
        self._puts: Final[dict[str, int]] = {}
        """The number under which the last put of an id waits."""
        self._ends: Final[dict[str, int]] = {}
        """The number under which the last end of an id waits."""
        self._number = 0
        for step in steps:
            self.add(step)

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self._steps.values())

    def add(self, step: Step) -> None:
        """Add a step behind all others. The end of a session whose put still waits takes the put away."""
        number = self._puts.pop(step.ref, None)
        if number is not None and isinstance(step, End):
            del self._steps[number]
            return
        self._insert(step)
        if (numbers := self._numbers_of(step)) is not None:
            numbers[step.ref] = self._number

    def add_first(self, step: Step) -> None:
        """Add a step before all others. What waits for a later session with the same id stays the last of its kind."""
        self._insert(step)
        self._steps.move_to_end(self._number, last=False)
        if (numbers := self._numbers_of(step)) is not None:
            numbers.setdefault(step.ref, self._number)

    def has_end(self, ref: str) -> bool:
        """Return whether the end of a session waits. A later session may have the same id."""
        return ref in self._ends

    def first(self) -> Step:
        return next(iter(self._steps.values()))

    def pop(self) -> Step:
        """Take the first step."""
        number, step = self._steps.popitem(last=False)
        numbers = self._numbers_of(step)
        if numbers is not None and numbers.get(step.ref) == number:
            del numbers[step.ref]
        return step

    def _insert(self, step: Step) -> None:
        self._number += 1
        self._steps[self._number] = step

    def _numbers_of(self, step: Step) -> dict[str, int] | None:
        match step:
            case Put():
                return self._puts
            case End():
                return self._ends
            case _:
                return None
