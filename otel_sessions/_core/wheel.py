"""Which sessions may be due: a lazy one-level wheel of ticks. It reads no clock and does no I/O.

An entry is filed under the first tick at or after its deadline, and a touch never moves the entry. When the tick comes,
the pass files again the entries that were used meanwhile. So each entry comes out once, never early and at most one
tick late. The wheel keeps nothing of an entry that is taken out. Entries are kept by their ids, which no two entries
share: a dict takes a third less memory if all its keys are texts.
"""

import heapq
import math
from collections.abc import Iterator
from typing import Any, Final, Generic, Protocol, TypeVar

_FULL: Final = 5461
"""The most entries of a bucket: two thirds of 8,192, where a dict grows. So copying a bucket never takes long."""


class Filed(Protocol):
    """What the wheel needs of an entry: an id, and an attribute for its `Bucket`, None while it is not filed."""

    _bucket: Any

    @property
    def id(self) -> str: ...


EntryT = TypeVar("EntryT", bound=Filed)


class Bucket(dict[str, EntryT]):
    """Entries of one tick by their ids. While the time is before `not_before`, no entry is due."""

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
        """By tick. Entries without a deadline are at the tick that never comes, infinity."""
        self._ticks: list[float] = []
        """A heap of the buckets' ticks. It may also hold ticks whose buckets are gone."""

    def file(self, entry: EntryT, deadline: float, now: float) -> None:
        """File an entry, or move it, so that passes find it from `deadline` on, at most one tick late.

        If the entry is due already, the next pass finds it, even at `now`. If `deadline` is infinity, no pass finds it.
        """
        passed = math.floor(now / self._width)
        ticks = deadline / self._width
        # Rounding may put a later deadline on a tick that has come: a pass would find the entry over and over.
        tick = passed if deadline <= now else ticks if math.isinf(ticks) else max(math.ceil(ticks), passed + 1)
        self._put(entry, tick)

    def file_due(self, entry: EntryT) -> None:
        """File an entry, or move it, so that the next pass finds it at any time."""
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
        bucket[entry.id] = entry
        entry._bucket = bucket

    def remove(self, entry: EntryT) -> None:
        """Take an entry out. Nothing happens if the entry is not filed."""
        bucket: Bucket[EntryT] | None = entry._bucket
        if bucket is not None:
            del bucket[entry.id]
            entry._bucket = None
            if not bucket:
                self._drop_empty(bucket.tick)

    def take_due(self, now: float) -> Iterator[EntryT]:
        """Take out and yield the entries whose tick has come, also entries that are filed for such a tick meanwhile."""
        passed = math.floor(now / self._width)
        while self._ticks and (tick := self._ticks[0]) <= passed:
            if tick not in self._buckets:
                heapq.heappop(self._ticks)
                continue
            bucket = self._buckets[tick][-1]
            while bucket:
                _, entry = bucket.popitem()
                entry._bucket = None
                yield entry
            self._drop_empty(tick)

    def coming(self, now: float) -> Iterator[EntryT]:
        """Yield the entries of the tick that `now` lies in. They may be due although their tick has not come.

        Each bucket is copied when it is reached. An entry that is filed or moved during iteration may be yielded once,
        twice or not at all.
        """
        for bucket in self._buckets.get(math.floor(now / self._width) + 1, ()):
            yield from list(bucket.values())

    def __iter__(self) -> Iterator[EntryT]:
        """Yield every filed entry. Buckets are copied as in `coming`."""
        for buckets in list(self._buckets.values()):
            for bucket in buckets:
                yield from list(bucket.values())

    def _drop_empty(self, tick: float) -> None:
        """Drop the empty buckets of a tick, and the tick itself if no bucket is left."""
        if left := [bucket for bucket in self._buckets.get(tick, ()) if bucket]:
            self._buckets[tick] = left
            return
        self._buckets.pop(tick, None)
        if len(self._ticks) > 2 * len(self._buckets) + 64:
            self._ticks = list(self._buckets)
            heapq.heapify(self._ticks)
