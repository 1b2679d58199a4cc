"""What every contestant can do, each in the loops of its own, so that none pays for an adapter."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import ClassVar, Self

DATA = object()
"""What every session carries. One for all: a session's memory is counted without its data."""


class Contestant(ABC):
    """A store of at most `places` values, each forgotten once it was idle for `idle` seconds."""

    name: ClassVar[str]
    caveat: ClassVar[str] = ""
    expires: ClassVar[bool] = True
    correct: ClassVar[bool] = True
    """Whether it removes what was idle for too long, and nothing that was used; else its caveat says what it does."""
    own_clock: ClassVar[bool] = False
    """Whether it reads a clock of its own, whatever it is given."""

    def __init__(self, places: int, idle: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.places = places
        self.idle = idle
        self.clock = clock

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    @abstractmethod
    async def create(self, ids: Sequence[str]) -> None:
        """Make a session under each id."""

    @abstractmethod
    async def use(self, ids: Sequence[str]) -> None:
        """Get each session and touch it, without a check: all of them are there."""

    async def touch(self, ids: Sequence[str]) -> None:
        """Get and touch each session in one step, where there is such a step; else as `use` does."""
        await self.use(ids)

    @abstractmethod
    async def churn(self, ids: Sequence[str]) -> None:
        """Make a session under each id, and end it before the next one is made."""

    @abstractmethod
    async def expire(self) -> None:
        """Remove what is due."""

    @abstractmethod
    def __len__(self) -> int:
        """Return how many sessions it holds, due ones that it has not removed included."""

    @abstractmethod
    def holds(self, session_id: str) -> bool:
        """Return whether a get finds the session. May count as its use."""
