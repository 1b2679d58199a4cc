"""The session manager, without and with the OpenTelemetry SDK, as an embedder uses it."""

import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData

from otel_sessions import EndReason, SessionConfig, SessionManager, TooManySessions

from .contestant import DATA, Contestant


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

    async def touch(self, ids: Sequence[str]) -> None:
        touch = self.manager.touch
        for session_id in ids:
            touch(session_id)

    async def pin(self, ids: Sequence[str]) -> None:
        pin = self.manager.pin
        for session_id in ids:
            with pin(session_id):
                pass

    async def hold(self, ids: Sequence[str]) -> None:
        hold = self.manager.hold
        for session_id in ids:
            with hold(session_id, _ignore):
                pass

    async def lease(self, ids: Sequence[str]) -> None:
        lease = self.manager.lease
        for session_id in ids:
            async with lease(session_id):
                pass

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


def _ignore(_reason: EndReason) -> None:
    """Do nothing: no session is ended while it is held."""


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
