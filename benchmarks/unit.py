"""The u of the targets: get and touch of a bare dict of 1,000 live sessions, in the process of what is measured."""

import secrets
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from .by_hand import BareDict
from .timing import Timed, batches, beside, best

LIVE: Final = 1_000
BATCH: Final = 10_000

ItemT = TypeVar("ItemT")


class Unit:
    """A bare dict of its own; `ready` fills it."""

    def __init__(self) -> None:
        self._ids = [secrets.token_urlsafe(32) for _ in range(LIVE)]
        self._bare = BareDict(LIVE, 0.0)

    @classmethod
    async def ready(cls) -> "Unit":
        unit = cls()
        await unit._bare.create(unit._ids)
        return unit

    async def seconds(self) -> float:
        """Return what u takes at this moment."""
        return await best(self._bare.use, batches(self._ids, 9, BATCH))

    async def of(self, work: Timed[ItemT], items: Sequence[Sequence[ItemT]]) -> float:
        """Return how many u an item takes, by turns with u itself."""
        _, ratio = await beside(work, iter(items), self._bare.use, self._batches(len(items)))
        return ratio

    def _batches(self, count: int) -> Iterator[Sequence[str]]:
        return batches(self._ids, count, BATCH)
