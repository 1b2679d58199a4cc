"""The one background task: it ticks, starts interval passes, and winds the manager down.

It opens no cancel scope in a caller's task, and survives every error. It ends by a shutdown, by its cancellation or
with its loop. Each end leaves balanced books and no session.
"""

import logging
from collections import defaultdict
from contextlib import ExitStack
from functools import partial
from math import floor
from typing import Generic

import anyio
from opentelemetry.context import Context

from otel_sessions._core.clock import latest
from otel_sessions._core.config import SessionConfig
from otel_sessions._core.events import Event
from otel_sessions._core.ids import hinted, new_id
from otel_sessions._core.loops import Home
from otel_sessions._core.session import DataT, Session
from otel_sessions._core.store import Store
from otel_sessions._core.words import CleanupStage, EndReason, type_of
from otel_sessions._telemetry.telemetry import Telemetry

from .admission import Admission
from .closing import Closer
from .ending import Batch, CloseHook
from .hooks import Hooks, SessionSink
from .leases import Leases
from .owners import Fleet
from .passes import Passes
from .places import Places
from .shared import Registration, SharedPlaces, SharedRun
from .sharing import SharedFleet
from .tasks import Tasks

_SHORTEST_INTERVAL = 0.001
"""Seconds. A shorter cleanup interval would leave the loop no time for other work."""

_logger = logging.getLogger("otel_sessions")


class Supervisor(Generic[DataT]):
    """One run of a manager: its parts, and the background task until `stopped`."""

    def __init__(
        self,
        config: SessionConfig,
        store: Store[DataT],
        leases: Leases[DataT],
        telemetry: Telemetry,
        on_close: CloseHook[DataT] | None,
        sink: SessionSink[DataT] | None,
        fleet: Fleet | None,
    ) -> None:
        self.disowned = False
        """Whether the run is over because its loop or its process is gone."""
        self.over = False
        """Whether the run has ended. `stopped` wakes the tasks that wait for its end, on the manager's own loop."""
        self.stopped = anyio.Event()
        self._ticking = Tasks()
        self._winding_down = Tasks()
        self.tasks = Tasks()
        shared = self._shared = fleet if isinstance(fleet, SharedFleet) else None
        self.places: Places[DataT] = (
            Places(config, store.books) if shared is None else SharedPlaces(config, store.books, shared)
        )
        self.hooks = Hooks(config, on_close, sink, store.books, self.tasks)
        self.closer = Closer(config, store, leases, self.places, self.hooks, telemetry, self.tasks)
        self.passes = Passes(config, store, self.closer, self.places, self.hooks, telemetry, self.tasks)
        self.admission = Admission(
            config, store, self.places, self.passes, self.closer, self.hooks, telemetry, self._new_id
        )
        self.registration: Registration[DataT] | None = None
        """How sessions are registered with the fleet's store, None without a store."""
        if shared is not None:
            self.registration = Registration(store, self.closer, shared)
            store.share(shared.is_visible, self.registration.wait)
        self._fleet_work = Tasks()
        self._config = config
        self._fleet = fleet
        self._store = store
        self._leases = leases
        self._telemetry = telemetry
        self._asked = False

    def start(self) -> None:
        home = Home()
        self._store.open(home)
        self._leases.enter_loop(home)
        self._telemetry.open(home, self._store.clock, self._config.cleanup_interval, self._leases.oldest)
        self._ticking.start("otel-sessions supervisor", self._tick, on_end=self._note_tick_end)
        if self._shared is not None:
            self._shared.begin(SharedRun(self._config, self._store, self.places, self.closer, self._fleet_work))

    async def wait_ready(self) -> None:
        """Wait until the fleet is ready for the first session. If it refuses, end the run and raise its error."""
        if self._shared is None:
            return
        try:
            await self._shared.ready()
        except (Exception, anyio.get_cancelled_exc_class()):  # and not the end of the loop
            self.ask()
            await self.wait_stopped()
            raise

    def ask(self) -> None:
        """Ask for the shutdown. New sessions and leases are refused from now on."""
        if not self._asked:
            self._asked = True
            self._refuse()
            self._ticking.cancel()
            wind_down = partial(self._wind_down, anyio.current_time())
            self._winding_down.start("otel-sessions supervisor", wind_down, on_end=self._settle)

    async def wait_stopped(self) -> None:
        """Wait for `stopped`, also if the caller is cancelled. The cancellation is raised afterwards."""
        cancelled: BaseException | None = None
        with anyio.CancelScope(shield=True):
            while not self.stopped.is_set():
                try:
                    await self.stopped.wait()
                except anyio.get_cancelled_exc_class() as error:  # asyncio's own cancellation ignores the shield
                    cancelled = error
        if cancelled is not None:
            raise cancelled

    def disown(self) -> None:
        """Count the run as ended, since this is a forked process. The sessions belong to the parent."""
        self._let_go()
        self._leave_fleet()

    def write_off(self) -> None:
        """Count the run as ended, since its loop is closed. The fleet is told of the sessions that are lost."""
        left = [*self._store.sessions.values(), *self._store.closing.values()]
        self._let_go()
        if self._shared is not None:
            for session in left:
                self._shared.gone(session, session.end_reason or EndReason.SHUTDOWN)
        self._leave_fleet()

    def _let_go(self) -> None:
        self.disowned = self.over = self._asked = self.places.over = True
        self.hooks.forget()
        self.closer.forget()
        self._leases.forget()
        self._store.write_off()

    def _new_id(self) -> str:
        return new_id() if self._fleet is None else hinted(self._fleet.name, new_id())

    def _leave_fleet(self) -> None:
        if self._fleet is not None:
            self._fleet.leave()

    def _refuse(self) -> None:
        self._store.refuse()
        self.places.dismiss_all()

    def _note_tick_end(self) -> None:
        if not self._asked:  # cancelled from outside, or the loop ends
            self._asked = True
            self._settle()

    async def _tick(self) -> None:
        interval = max(self._config.cleanup_interval, _SHORTEST_INTERVAL)
        next_tick = anyio.current_time() + interval
        started = True
        while True:
            if started and (now := self._read_clock()) is not None:
                self._telemetry.expect_pass(now + next_tick - anyio.current_time())
            # No cancel scope here: if the loop died inside it, anyio would keep the scope and the manager forever.
            await anyio.sleep_until(next_tick)
            self.hooks.cancel_again()
            started = self.passes.start_interval()
            missed = max(0, floor((anyio.current_time() - next_tick) / interval))  # asyncio may wake a little early
            next_tick += (missed + 1) * interval

    def _read_clock(self) -> float | None:
        try:
            return self._store.clock()
        except Exception as error:
            _logger.warning("the clock of the session manager failed", exc_info=error, extra=Event.CLOCK_FAILED.extra)
            self._store.books.add_error(CleanupStage.PASS, type_of(error))
            return None

    async def _wind_down(self, begun: float) -> None:
        config = self._config
        deadline = begun + config.shutdown_timeout
        self.tasks.start("otel-sessions pressing", self.hooks.keep_cancelling)
        # The last tenth of the time, at most a second, is for cancelled hooks to end.
        work_until = deadline - min(1.0, config.shutdown_timeout / 10)
        # Before it, hooks get their close_timeout, or half of the time if drain and hooks do not both fit.
        hooks = min(config.close_timeout, (work_until - begun) / 2)
        with anyio.CancelScope(deadline=min(begun + config.drain_timeout, work_until - hooks)):
            await self._leases.wait_quiet()
            if self._fleet is not None:
                await self._fleet.wait_quiet()
        if not config.cleanup_on_shutdown:
            self.hooks.drop_hooks()
        await self._ticking.wait_empty()
        with anyio.CancelScope(deadline=work_until):
            await self.passes.shutdown()
            await self.closer.wait_none_closing()
        if self._shared is not None:
            await self._say_farewell(self._shared, work_until, deadline)
        self.tasks.cancel()
        self._fleet_work.cancel()
        with anyio.CancelScope(deadline=deadline):
            await self.tasks.wait_empty()
            await self._fleet_work.wait_empty()
        await self.hooks.cancel_all(deadline)

    async def _say_farewell(self, fleet: SharedFleet, work_until: float, deadline: float) -> None:
        """Let the fleet tell its store that all sessions are gone. Half of what time is left is for cancelled hooks."""
        if self._store.sessions or self._store.closing:  # their time is up
            self.hooks.close()
            self._end_everyone()
            self.closer.abandon()
        now = anyio.current_time()
        with anyio.CancelScope(deadline=max(work_until, now + (deadline - now) / 2)):
            await fleet.farewell()

    def _settle(self) -> None:
        """End all sessions that are left, at once and without hooks. A shutdown in full leaves no session."""
        with ExitStack() as rest:  # each step is done, whatever a holder or a log handler raises
            rest.callback(self._stop)
            rest.callback(self._telemetry.close)
            rest.callback(self._leave_fleet)
            rest.callback(self._fleet_work.cancel)
            rest.callback(self.tasks.cancel)
            rest.callback(self.places.end)
            rest.callback(self.closer.abandon)
            rest.callback(self._end_everyone)
            self._refuse()
            self.hooks.close()

    def _end_everyone(self) -> None:
        now = self._read_clock()
        now = latest(self._store.clock) if now is None else now
        due: dict[EndReason, list[Session[DataT]]] = defaultdict(list)
        for session in self._store.sessions.values():
            due[session._reason(now, EndReason.SHUTDOWN)].append(session)
        self.closer.end(due, Context(), Batch(), now)

    def _stop(self) -> None:
        self.over = True
        self.stopped.set()
