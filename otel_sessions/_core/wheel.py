"""Which sessions may be due: a lazy one-level wheel of ticks. Pure: no clock, no I/O.

An entry is filed under the first tick at or after its deadline, and a touch never moves it: when the tick comes, the
pass files anew what was used meanwhile. So nothing comes out early, everything comes out once and at most one tick
late, and an entry that is taken out leaves nothing behind.
"""

import heapq
import math
from collections.abc import Iterator
from typing import Any, Final, Generic, Protocol, TypeVar

_FULL: Final = 5461
"""The most entries of a bucket: two thirds of 8,192, which a dict holds before it grows. Never much to copy at once."""


class Filed(Protocol):
    """What the wheel needs of an entry: a place to note its `Bucket`, None while it is not filed."""

    _bucket: Any

    def __hash__(self) -> int: ...


EntryT = TypeVar("EntryT", bound=Filed)


class Bucket(dict[EntryT, None]):
    """Entries of one tick. The deadline of none of them is before `not_before`."""

    __slots__ = ("not_before", "tick")

    def __init__(self, tick: float, not_before: float) -> None:
        super().__init__()
        self.tick: Final = tick
        self.not_before: Final = not_before


class Wheel(Generic[EntryT]):
    """Entries by the tick at which they may be due. `width` is the length of a tick in seconds."""

    def __init__(self, width: float) -> None:
        self._width = width
        self._buckets: dict[float, list[Bucket[EntryT]]] = {}
        """By tick; what has no deadline is at the one that never comes, infinity."""
        self._ticks: list[float] = []
        """A heap of the buckets' ticks, and of some whose buckets are gone."""

    def file(self, entry: EntryT, deadline: float, now: float) -> None:
        """File an entry, or move it, so that a pass at `deadline` or within a tick after it finds it.

        One that is due already is found by the next pass, even at `now`; one without a deadline (infinity) by none.
        """
        passed = math.floor(now / self._width)
        ticks = deadline / self._width
        # Rounding may put a deadline after now on a tick that has come: a pass would meet it over and over.
        tick = passed if deadline <= now else ticks if math.isinf(ticks) else max(math.ceil(ticks), passed + 1)
        self._put(entry, tick)

    def file_due(self, entry: EntryT) -> None:
        """File an entry, or move it, so that the next pass finds it, whatever time it is then."""
        self._put(entry, -math.inf)

    def _put(self, entry: EntryT, tick: float) -> None:
        self.remove(entry)
        buckets = self._buckets.get(tick)
        if buckets is None:
            buckets = self._buckets[tick] = []
            heapq.heappush(self._ticks, tick)
        if not buckets or len(buckets[-1]) >= _FULL:
            buckets.append(Bucket(tick, (tick - 1) * self._width))
        bucket = buckets[-1]
        bucket[entry] = None
        entry._bucket = bucket

    def remove(self, entry: EntryT) -> None:
        """Take an entry out; nothing happens if it is not filed."""
        bucket: Bucket[EntryT] | None = entry._bucket
        if bucket is not None:
            del bucket[entry]
            entry._bucket = None
            if not bucket:
                self._drop_empty(bucket.tick)

    def take_due(self, now: float) -> Iterator[EntryT]:
        """Take out the entries whose tick has come, one by one; what is filed for such a tick meanwhile, too."""
        passed = math.floor(now / self._width)
        while self._ticks and (tick := self._ticks[0]) <= passed:
            if tick not in self._buckets:
                heapq.heappop(self._ticks)
                continue
            bucket = self._buckets[tick][-1]
            while bucket:
                entry, _ = bucket.popitem()
                entry._bucket = None
                yield entry
            self._drop_empty(tick)

    def coming(self, now: float) -> Iterator[EntryT]:
        """Return the entries of the tick that `now` lies in: those that may be due although their tick has not come.

        A bucket is copied when its turn comes: what is filed or moved meanwhile comes, comes twice, or does not.
        """
        for bucket in self._buckets.get(math.floor(now / self._width) + 1, ()):
            yield from list(bucket)

    def __iter__(self) -> Iterator[EntryT]:
        """Return every entry that is filed, copied as by `coming`."""
        for buckets in list(self._buckets.values()):
            for bucket in buckets:
                yield from list(bucket)

    def _drop_empty(self, tick: float) -> None:
        """Drop a tick's empty buckets, and the tick with the last of them."""
        if left := [bucket for bucket in self._buckets.get(tick, ()) if bucket]:
            self._buckets[tick] = left
            return
        self._buckets.pop(tick, None)
        if len(self._ticks) > 2 * len(self._buckets) + 64:
            self._ticks = list(self._buckets)
            heapq.heapify(self._ticks)
