"""Caches that can forget what is idle, each used as its own documentation says.

What a cache gets wrong, or cannot do, is in its `caveat` and stands beside its row;
`tests/benchmarks/test_benchmarks.py` holds it to that. Each has twice the places that it needs, so that it drops
nothing that is in use.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import cachebox
import cachetools
import moka_py

from .contestant import DATA, Contestant


class _Cachebox(Contestant):
    """What its two caches share, which are filled and used each in loops of its own."""

    own_clock = True
    _cache: cachebox.VTTLCache[str, Any] | cachebox.TTLCache[str, Any]

    async def expire(self) -> None:
        self._cache.expire(reuse=True)

    def __len__(self) -> int:
        return len(self._cache)

    def holds(self, session_id: str) -> bool:
        return self._cache.get(session_id) is not None


class CacheboxVTTL(_Cachebox):
    name = "cachebox VTTLCache"
    caveat = "a read renews nothing: each use inserts the value again; when full it drops somebody's session"

    def __init__(self, places: int, idle: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(places, idle, clock)
        self._cache: cachebox.VTTLCache[str, Any] = cachebox.VTTLCache(2 * places)

    async def create(self, ids: Sequence[str]) -> None:
        insert, idle = self._cache.insert, self.idle
        for session_id in ids:
            insert(session_id, DATA, idle)

    async def use(self, ids: Sequence[str]) -> None:
        insert, idle, cache = self._cache.insert, self.idle, self._cache
        for session_id in ids:
            insert(session_id, cache[session_id], idle)

    async def churn(self, ids: Sequence[str]) -> None:
        insert, idle, cache = self._cache.insert, self.idle, self._cache
        for session_id in ids:
            insert(session_id, DATA, idle)
            del cache[session_id]


class CacheboxTTL(_Cachebox):
    name = "cachebox TTLCache"
    correct = False
    caveat = (
        "does not expire what is idle correctly, so it is no rival: a read renews nothing: each use inserts the value "
        "again, which keeps its place in the queue, so what is due behind one in use is hidden but never removed; to "
        "take it out first would mend that, and moves up to half of the others; when full it drops somebody's session; "
        "with sweep_interval a thread makes the same pass, and the loop waits for it"
    )

    def __init__(self, places: int, idle: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(places, idle, clock)
        self._cache: cachebox.TTLCache[str, Any] = cachebox.TTLCache(2 * places, idle)

    async def create(self, ids: Sequence[str]) -> None:
        insert = self._cache.insert
        for session_id in ids:
            insert(session_id, DATA)

    async def use(self, ids: Sequence[str]) -> None:
        insert, cache = self._cache.insert, self._cache
        for session_id in ids:
            insert(session_id, cache[session_id])

    async def churn(self, ids: Sequence[str]) -> None:
        insert, cache = self._cache.insert, self._cache
        for session_id in ids:
            insert(session_id, DATA)
            del cache[session_id]


class Moka(Contestant):
    name = "moka-py, idle"
    caveat = "every read renews, a mere look too; when full it drops somebody's session"
    own_clock = True

    def __init__(self, places: int, idle: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(places, idle, clock)
        self._cache: moka_py.Moka[str, object] = moka_py.Moka(2 * places, tti=idle)

    async def create(self, ids: Sequence[str]) -> None:
        put = self._cache.set
        for session_id in ids:
            put(session_id, DATA)

    async def use(self, ids: Sequence[str]) -> None:
        get = self._cache.get
        for session_id in ids:
            get(session_id)

    async def churn(self, ids: Sequence[str]) -> None:
        put, remove = self._cache.set, self._cache.remove
        for session_id in ids:
            put(session_id, DATA)
            remove(session_id)

    async def expire(self) -> None:
        self._cache.run_pending_tasks()

    def __len__(self) -> int:
        return self._cache.count()

    def holds(self, session_id: str) -> bool:
        return self._cache.get(session_id) is not None


class Cachetools(Contestant):
    name = "cachetools TTLCache"
    caveat = "a read renews nothing: each use sets the value again; when full it drops somebody's session"

    def __init__(self, places: int, idle: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(places, idle, clock)
        self._cache: cachetools.TTLCache[str, object] = cachetools.TTLCache(2 * places, idle, clock)

    async def create(self, ids: Sequence[str]) -> None:
        cache = self._cache
        for session_id in ids:
            cache[session_id] = DATA

    async def use(self, ids: Sequence[str]) -> None:
        cache = self._cache
        for session_id in ids:
            cache[session_id] = cache[session_id]

    async def churn(self, ids: Sequence[str]) -> None:
        cache = self._cache
        for session_id in ids:
            cache[session_id] = DATA
            del cache[session_id]

    async def expire(self) -> None:
        self._cache.expire()

    def __len__(self) -> int:
        return int(self._cache.currsize)

    def holds(self, session_id: str) -> bool:
        return self._cache.get(session_id) is not None
