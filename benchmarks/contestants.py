"""Who is measured: the session manager, what one would write by hand, and caches that can forget what is idle.

Each keeps a value under an id and is used as its own documentation says. Its loops are written out here, so that no
contestant pays for an adapter: `use` is a get and a touch of every id. What a contestant gets wrong, or cannot do, is
in `caveat` and stands beside its row. `tests/test_benchmarks.py` holds them to it.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, ClassVar, Self

import cachebox
import cachetools
import moka_py
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData

from otel_sessions import SessionConfig, SessionManager, TooManySessions

DATA = object()
"""What every session carries. One for all: a session's memory is counted without its data."""


class Contestant(ABC):
    """A store of at most `places` values, each forgotten once it was idle for `idle` seconds."""

    name: ClassVar[str]
    caveat: ClassVar[str] = ""
    expires: ClassVar[bool] = True
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
        """Get each session and touch it. Fails for one that is not there."""

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


class Ours(Contestant):
    name = "otel-sessions"

    def __init__(self, places: int, idle: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(places, idle, clock)
        # Passes run when the measurement asks; the loop's own time is real and must not come between.
        config = SessionConfig(
            max_sessions=places, max_idle_time=idle, cleanup_interval=86400.0, shutdown_timeout=600.0, drain_timeout=0
        )
        provider = self._meter_provider()
        self.manager = SessionManager[object](config, clock=clock, meter_provider=provider)
        self._running = AsyncExitStack()

    def _meter_provider(self) -> MeterProvider | None:
        return None

    async def __aenter__(self) -> Self:
        await self._running.enter_async_context(self.manager)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._running.aclose()

    async def create(self, ids: Sequence[str]) -> None:
        create = self.manager.create_session
        for session_id in ids:
            await create(session_id, data=DATA)

    async def use(self, ids: Sequence[str]) -> None:
        get = self.manager.get
        for session_id in ids:
            get(session_id).touch()  # type: ignore[union-attr]  # it is there, and a check would be measured

    async def churn(self, ids: Sequence[str]) -> None:
        create, close = self.manager.create_session, self.manager.close_session
        for session_id in ids:
            await create(session_id, data=DATA)
            await close(session_id)

    async def expire(self) -> None:
        await self.manager.cleanup_stale_sessions()

    def __len__(self) -> int:
        return len(self.manager)

    def holds(self, session_id: str) -> bool:
        return session_id in self.manager

    async def refuse(self, count: int) -> None:
        """Ask so many times for a session when every place is taken."""
        create = self.manager.create_session
        for _ in range(count):
            try:
                await create(data=DATA)
            except TooManySessions:
                continue
            raise RuntimeError("a session was made past the cap")


class OursWithSdk(Ours):
    name = "otel-sessions, SDK"
    caveat = "with the OpenTelemetry SDK's meter provider: a record for each ended session"

    def _meter_provider(self) -> MeterProvider:
        self._reader = InMemoryMetricReader()
        return SdkMeterProvider(metric_readers=[self._reader])

    async def collect(self) -> MetricsData:
        """Collect every metric once."""
        data = self._reader.get_metrics_data()
        if data is None:
            raise RuntimeError("there was nothing to collect")
        return data


class BareSession:
    """What a session is at least: its data, and when it was used last."""

    __slots__ = ("clock", "data", "last")

    def __init__(self, data: object, clock: Callable[[], float]) -> None:
        self.data = data
        self.clock = clock
        self.last = clock()

    def touch(self) -> None:
        self.last = self.clock()


class BareDict(Contestant):
    name = "bare dict"
    caveat = "expires nothing; behind a get() and a touch() that reads the clock: the M of the targets"
    expires = False

    def __init__(self, places: int, idle: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(places, idle, clock)
        self._sessions: dict[str, BareSession] = {}

    def get(self, session_id: str) -> BareSession | None:
        return self._sessions.get(session_id)

    def add(self, session_id: str, data: object) -> BareSession:
        session = self._sessions[session_id] = BareSession(data, self.clock)
        return session

    def remove(self, session_id: str) -> None:
        del self._sessions[session_id]

    async def create(self, ids: Sequence[str]) -> None:
        add = self.add
        for session_id in ids:
            add(session_id, DATA)

    async def use(self, ids: Sequence[str]) -> None:
        get = self.get
        for session_id in ids:
            get(session_id).touch()  # type: ignore[union-attr]  # it is there, and a check would be measured

    async def churn(self, ids: Sequence[str]) -> None:
        add, remove = self.add, self.remove
        for session_id in ids:
            add(session_id, DATA)
            remove(session_id)

    async def expire(self) -> None:
        return None

    def __len__(self) -> int:
        return len(self._sessions)

    def holds(self, session_id: str) -> bool:
        return self.get(session_id) is not None


class FullScan(BareDict):
    name = "full scan"
    caveat = "the bare dict, each pass over all of it at once; what is due is handed out until then"
    expires = True

    async def expire(self) -> None:
        now = self.clock()
        due = [session_id for session_id, session in self._sessions.items() if now >= session.last + self.idle]
        for session_id in due:
            del self._sessions[session_id]


class Cachebox(Contestant):
    name = "cachebox VTTLCache"
    caveat = "a read renews nothing: each use inserts the value again; when full it drops somebody's session"
    own_clock = True

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

    async def expire(self) -> None:
        self._cache.expire(reuse=True)

    def __len__(self) -> int:
        return len(self._cache)

    def holds(self, session_id: str) -> bool:
        return self._cache.get(session_id) is not None


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
            if get(session_id) is None:
                raise KeyError(session_id)

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


ALL: tuple[type[Contestant], ...] = (Ours, OursWithSdk, BareDict, FullScan, Cachebox, Moka, Cachetools)
BY_NAME = {contestant.name: contestant for contestant in ALL}
