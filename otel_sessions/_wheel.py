"""Which sessions may be due: a lazy one-level wheel of ticks. Pure: no clock, no I/O.

An entry is filed under the first tick at or after its deadline, and a touch never moves it: when the tick comes, the
pass files anew what was used meanwhile. So nothing comes out early, everything comes out once and at most one tick
late, and an entry that is taken out leaves nothing behind.
"""

import heapq
import math
from typing import Generic, Protocol, TypeVar


class Filed(Protocol):
    """What the wheel needs of an entry: a place to note the tick under which it is filed."""

    _tick: int | None

    def __hash__(self) -> int: ...


EntryT = TypeVar("EntryT", bound=Filed)


class Wheel(Generic[EntryT]):
    """Entries by the tick at which they may be due. `width` is the length of a tick in seconds."""

    def __init__(self, width: float) -> None:
        self._width = width
        self._buckets: dict[int, dict[EntryT, None]] = {}
        self._ticks: list[int] = []
        """A heap of the buckets' ticks, and of some whose bucket is gone."""

    def file(self, entry: EntryT, deadline: float, now: float) -> None:
        """File an entry, or move it, so that a pass at `deadline` or within a tick after it finds it.

        One that is due already is found by the next pass, even at `now`; one without a deadline (infinity) by none.
        """
        self.remove(entry)
        if math.isinf(deadline / self._width):
            return
        passed = math.floor(now / self._width)
        # Rounding may put a deadline after now on a tick that has come: a pass would meet it over and over.
        tick = passed if deadline <= now else max(math.ceil(deadline / self._width), passed + 1)
        if tick not in self._buckets:
            self._buckets[tick] = {}
            heapq.heappush(self._ticks, tick)
        self._buckets[tick][entry] = None
        entry._tick = tick

    def remove(self, entry: EntryT) -> None:
        """Take an entry out; nothing happens if it is not filed."""
        if entry._tick is None:
            return
        bucket = self._buckets[entry._tick]
        del bucket[entry]
        self._drop_if_empty(entry._tick, bucket)
        entry._tick = None

    def pop(self, now: float) -> EntryT | None:
        """Take out an entry whose tick has come; None if there is none."""
        passed = math.floor(now / self._width)
        while self._ticks and self._ticks[0] <= passed:
            tick = self._ticks[0]
            if bucket := self._buckets.get(tick):
                entry, _ = bucket.popitem()
                entry._tick = None
                self._drop_if_empty(tick, bucket)
                return entry
            heapq.heappop(self._ticks)
        return None

    def coming(self, now: float) -> list[EntryT]:
        """Return the entries of the tick that `now` lies in: those that may be due although their tick has not come."""
        return list(self._buckets.get(math.floor(now / self._width) + 1, ()))

    def _drop_if_empty(self, tick: int, bucket: dict[EntryT, None]) -> None:
        if bucket:
            return
        del self._buckets[tick]
        if len(self._ticks) > 2 * len(self._buckets) + 64:
            self._ticks = list(self._buckets)
            heapq.heapify(self._ticks)
