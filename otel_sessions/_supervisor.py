"""The one background task: it ticks, starts interval passes, and winds the manager down.

It opens no scope in anybody's task, survives every error, and whatever ends it, a shutdown, its cancellation or the
loop's end, leaves balanced books and no session behind.
"""

import logging
from math import floor
from typing import Generic

import anyio
from opentelemetry.context import Context

from ._books import Books
from ._callbacks import Callbacks, CloseHook
from ._capacity import Capacity
from ._closer import Batch, Closer
from ._leases import Leases
from ._passes import Passes
from ._roster import Roster
from ._tasks import Tasks
from .config import SessionConfig
from .session import DataT
from .sink import SessionSink
from .telemetry import Telemetry
from .words import CleanupError, EndReason

_logger = logging.getLogger("otel_sessions")


class Supervisor(Generic[DataT]):
    """A running manager: what it consists of, and the task that drives it until `stopped`."""

    def __init__(
        self,
        config: SessionConfig,
        roster: Roster[DataT],
        leases: Leases[DataT],
        books: Books,
        telemetry: Telemetry,
        on_close: CloseHook[DataT] | None,
        sink: SessionSink[DataT] | None,
    ) -> None:
        self.stopped = anyio.Event()
        self._main_task = Tasks()
        self.tasks = Tasks()
        self.capacity = Capacity(config, roster, books)
        self.callbacks = Callbacks(config, on_close, sink, books, self.tasks)
        self.closer = Closer(config, roster, leases, self.capacity, self.callbacks, telemetry, self.tasks)
        self.passes = Passes(config, roster, self.closer, self.capacity, self.callbacks, books, telemetry, self.tasks)
        self._config = config
        self._roster = roster
        self._leases = leases
        self._books = books
        self._telemetry = telemetry
        self._asked = anyio.Event()
        self._asked_at = 0.0

    def start(self) -> None:
        self._roster.accepting = True
        self._main_task.start("otel-sessions supervisor", self._main)

    def ask(self) -> None:
        """Ask for the shutdown; new sessions and leases are refused from here on."""
        if not self._asked.is_set():
            self._asked_at = anyio.current_time()
            self._asked.set()
            self._refuse()

    def _refuse(self) -> None:
        self._roster.accepting = False
        self.capacity.close()

    async def _main(self) -> None:
        try:
            await self._tick()
            await self._wind_down()
        finally:
            self._settle()
            self.stopped.set()

    async def _tick(self) -> None:
        interval = self._config.cleanup_interval
        next_tick = anyio.current_time() + interval
        while True:
            if (now := self._read_clock()) is not None:
                self._books.next_pass_at = now + next_tick - anyio.current_time()
            with anyio.CancelScope(deadline=next_tick):
                await self._asked.wait()
                return
            self.callbacks.press()
            self.passes.start_interval()
            missed = floor((anyio.current_time() - next_tick) / interval)
            next_tick += (missed + 1) * interval

    def _read_clock(self) -> float | None:
        try:
            return self._roster.clock()
        except Exception:
            _logger.exception("the clock of the session manager failed")
            self._books.add_error(CleanupError.OTHER)
            return None

    async def _wind_down(self) -> None:
        config = self._config
        deadline = self._asked_at + config.shutdown_timeout
        # The last tenth, at most a second, is for cancelled hooks to leave.
        work_until = deadline - min(1.0, config.shutdown_timeout / 10)
        # Hooks get their close_timeout, or half of the time where there is not enough for both.
        drain = min(
            config.drain_timeout, max(config.shutdown_timeout - config.close_timeout, config.shutdown_timeout / 2)
        )
        with anyio.CancelScope(deadline=self._asked_at + drain):
            await self._leases.wait_quiet()
        self.callbacks.runs_hooks = config.cleanup_on_shutdown
        with anyio.CancelScope(deadline=work_until):
            await self.passes.shutdown()
            await self.closer.wait_idle()
        self.tasks.cancel()
        with anyio.CancelScope(deadline=deadline):
            await self.tasks.wait_empty()
        await self.callbacks.dismiss(deadline)

    def _settle(self) -> None:
        """End at once, without hooks, whatever is left; after a proper shutdown that is nothing."""
        self._refuse()
        self.callbacks.close()
        now = self._read_clock() or 0.0
        for session in list(self._roster.sessions.values()):
            self.closer.end(session, EndReason.SHUTDOWN, Context(), Batch(), now)
        self.closer.abandon()
        self.tasks.cancel()
        self._books.next_pass_at = None
        self._telemetry.close()
