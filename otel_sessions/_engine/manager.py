"""The public face: a `SessionManager` gives sessions, leases and reservations, and ends what is due.

One event loop owns a running manager: the loop that entered it. Outside of the `async with` block, what needs a running
manager raises `ManagerClosed`. Each entry begins a run, which starts empty; the books go on from run to run.
"""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, Self, overload

import anyio
from opentelemetry import context as otel_context
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from otel_sessions._core.books import Books
from otel_sessions._core.clock import latest, steady
from otel_sessions._core.config import SessionConfig
from otel_sessions._core.exceptions import ManagerClosed
from otel_sessions._core.forks import forks
from otel_sessions._core.limits import UNSET, Limit, checked
from otel_sessions._core.loops import is_collected
from otel_sessions._core.options import CAP
from otel_sessions._core.session import DataT, Session
from otel_sessions._core.stats import CleanupReport, SessionStats, statistics
from otel_sessions._core.store import Store, never_entered
from otel_sessions._core.words import EndReason
from otel_sessions._telemetry.telemetry import Telemetry

from .admission import Reservation
from .ending import Batch, CloseHook
from .hooks import SessionSink
from .leases import Hold, Lease, Leases, Pin
from .supervisor import Supervisor


class SessionManager(Generic[DataT]):
    """Keeps sessions, at most `config.max_sessions` of them, and ends those that are idle, too old, closed or failed.

        async with SessionManager[Upstream](SessionConfig(max_sessions=10_000), on_close=hang_up) as manager:
            session = await manager.create_session(data=upstream)
            async with manager.lease(session.id) as session:
                ...

    When a session ends, the manager awaits `sink.export(session, reason)`, then `on_close(session, reason)`. Each has
    `close_timeout` seconds, in a task of the manager's own. `name` tells managers apart on metrics. A provider that is
    None is the global provider, even if that is set later. `clock` returns seconds, on any thread. A reading that is
    not finite, or that goes back, counts as the last good reading.

    A manager may be entered again after it has ended, on another event loop, too. If its loop is closed inside the
    block, the manager has ended, and its sessions count as `shutdown`. In a forked process the copy has ended, too.
    """

    def __init__(
        self,
        config: SessionConfig | None = None,
        *,
        name: str = "default",
        on_close: CloseHook[DataT] | None = None,
        sink: SessionSink[DataT] | None = None,
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = SessionConfig() if config is None else config
        self.name = name
        self._on_close = on_close
        self._sink = sink
        self._providers = (meter_provider, tracer_provider)
        self._clock = clock
        self._books = Books(self.config.max_sessions)
        self._telemetry: Telemetry | None = None
        self._supervisor: Supervisor[DataT] | None = None
        self._abandoned = 0
        """How many blocks were never left, because their loop was closed inside of them."""
        self._take(Store(self.config, steady(clock), self._books))

    def _take(self, store: Store[DataT]) -> None:
        """Go on with these sessions."""
        self._now = store.clock
        self._store = store
        self._leases = Leases(store)
        self._sessions = store.sessions

    async def __aenter__(self) -> Self:
        """Start the background task. Raises `ManagerClosed` while the manager runs, and what its clock raises."""
        last = None
        if self._supervisor is not None:
            self._notice_closed_loop(self._supervisor)
            if not self._supervisor.over:
                raise ManagerClosed(f"session manager {self.name!r} runs already; leave its block first")
            clock = steady(self._clock)
            clock()  # one that fails leaves the manager as it is
            self._take(Store(self.config, clock, self._books))
            last = self._supervisor.passes.last
        if self._telemetry is None:
            self._telemetry = Telemetry(self._books, self._now, self.name, *self._providers)
        supervisor = Supervisor(self.config, self._store, self._leases, self._telemetry, self._on_close, self._sink)
        supervisor.passes.last = last
        self._supervisor = supervisor
        supervisor.start()
        forks.add(self)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Shut down, in full even if the block was cancelled; takes `shutdown_timeout` seconds at most."""
        supervisor = self._supervisor
        assert supervisor is not None
        self._notice_closed_loop(supervisor)
        if self._abandoned and (supervisor.disowned or is_collected(exc)):
            self._abandoned -= 1  # not the block of a run that goes on: it is collected now, and must not await
            return
        if supervisor.over:
            return
        self._store.require_here()
        supervisor.ask()
        cancelled: BaseException | None = None
        with anyio.CancelScope(shield=True):
            while not supervisor.stopped.is_set():
                try:
                    await supervisor.stopped.wait()
                except anyio.get_cancelled_exc_class() as error:  # asyncio's own cancellation passes the shield
                    cancelled = error
        if cancelled is not None:
            raise cancelled

    async def shutdown(self) -> None:
        """Refuse new sessions, let leases drain, end every session, and stop the background task.

        Many callers may call it. It returns within `shutdown_timeout` seconds of the first call. Before the block is
        entered it does nothing. A close hook that calls it does not wait. Raises `RuntimeError` on another event loop
        than the manager's.
        """
        supervisor = self._supervisor
        if supervisor is None:
            return
        self._notice_closed_loop(supervisor)
        if not supervisor.over:
            self._store.require_here()
            supervisor.ask()
            if not supervisor.hooks.calling:
                await supervisor.stopped.wait()

    # Sessions

    @overload
    async def create_session(
        self: "SessionManager[None]",
        session_id: str | None = None,
        *,
        data: None = None,
        client: str | None = None,
        max_idle_time: Limit = UNSET,
        max_session_age: Limit = UNSET,
    ) -> Session[None]: ...
    @overload
    async def create_session(
        self,
        session_id: str | None = None,
        *,
        data: DataT,
        client: str | None = None,
        max_idle_time: Limit = UNSET,
        max_session_age: Limit = UNSET,
    ) -> Session[DataT]: ...
    async def create_session(
        self,
        session_id: str | None = None,
        *,
        data: Any = None,
        client: str | None = None,
        max_idle_time: Limit = UNSET,
        max_session_age: Limit = UNSET,
    ) -> Session[Any]:
        """Make a session and return it. Without `session_id` the manager makes an unguessable id.

        `client` is whose session it is, for `max_sessions_per_client`. `max_idle_time` and `max_session_age` replace
        the configured limits for this session, in seconds; None switches a limit off. At the cap it waits for a place
        that is about to be free, for `close_timeout` seconds at most. With `per_client_at_cap="evict_oldest"` it also
        waits for the place of the client's longest idle session. If the session of this id is due, but not ended yet,
        it ends that session first.

        Raises `TooManySessions`, `SessionExists`, `ManagerClosed`, `ConfigError` for a wrong limit, `TypeError` for an
        id that is no text, and `RuntimeError` on another event loop.
        """
        supervisor = self._running_here()
        admission = supervisor.admission
        idle, age = checked(max_idle_time, max_session_age)
        if session_id is not None:
            admission.require_accepting()  # else it would end what is due for nothing
            await self._vacate(supervisor, session_id)
        if (waiter := admission.take(client)) is not None:
            await admission.wait(waiter)
        try:
            return admission.commit(session_id, data, client, idle, age, reserved_for=client)
        except BaseException:
            admission.give_back(client)
            raise

    def reserve(self, *, client: str | None = None) -> Reservation[DataT]:
        """Return a place for one session: `async with manager.reserve() as place`.

        Use it if the id is known only later. `place.commit(id, data=...)` makes the session. Leaving the block without
        `commit` gives the place back. Entering the block waits and raises as `create_session` does.
        """
        return Reservation(self._running().admission, client)

    def get(self, session_id: str) -> Session[DataT] | None:
        """Return a session, or None if it does not exist, or is stale, expired, failed or ended. It is no activity."""
        session = self._sessions.get(session_id)
        if session is None or session._end is not None:
            return None
        now, bucket = self._now(), session._bucket
        # No call is as frequent as this one: mostly, a look at where the session is filed is enough.
        if (bucket is not None and now < bucket.not_before) or session._due(now, session._shared) is None:
            return session
        return None

    def touch(self, session_id: str) -> Session[DataT] | None:
        """Note activity of a session and return it. Return None if `get` returns None; then nothing changes.

        It is `get` and `Session.touch` in one step, with one reading of the clock.
        """
        session = self._sessions.get(session_id)
        if session is None or session._end is not None:
            return None
        now, bucket = self._now(), session._bucket
        if (bucket is None or now >= bucket.not_before) and session._due(now, session._shared) is not None:
            return None
        session._last = now
        session._count += 1
        return session

    def pin(self, session_id: str) -> Pin[DataT]:
        """Return a lease for one `with` block, whose value is the session. Entering it is a touch.

        Any task may leave it, in any order. Entering raises `SessionNotFound` and `ManagerClosed`.
        """
        return Pin(self._leases, session_id)

    def hold(self, session_id: str, on_end: Callable[[EndReason], object]) -> Hold[DataT]:
        """Return a pin for one `with` block whose holder is told when the session is ended. Entering it is a touch.

        `on_end(reason)` asks the holder to leave the block soon; it may leave the block itself. It is called at most
        once, and never after the block is left. It is called if the session is ended in spite of the hold: by
        `close_session`, by a shutdown, or `drain_timeout` seconds after a pass has found it expired. The session is
        hidden then. Its close hook starts once all holders have left, or `close_timeout` seconds later.

        `on_end` is not called if the holder itself ends the session: inside the block, or in a task that was started
        there. It runs in the task of whoever ends the session, and must neither block nor raise. An exception is
        logged, and changes nothing else. Enter and leave the block on the manager's own loop. Entering raises
        `SessionNotFound` and `ManagerClosed`. Raises `TypeError` if `on_end` cannot be called.
        """
        if not callable(on_end):
            raise TypeError(f"on_end takes a function of the end reason, not {on_end!r}")
        return Hold(self._leases, session_id, on_end)

    def lease(self, session_id: str) -> Lease[DataT]:
        """Return a lease for one `async with` block, whose value is the session. Entering it is a touch.

        It is bound to its task: when the session is ended by force, the block is cancelled and raises
        `SessionNotFound` with the reason. Entering raises `SessionNotFound` and `ManagerClosed`.
        """
        return Lease(self._leases, session_id)

    async def close_session(self, session_id: str) -> bool:
        """End a session by hand. Return True to the one caller that ended it, after its hook or the hook's timeout.

        The session is hidden at once. Other tasks' leases are cancelled, never the caller's own. If there is no such
        session, return False at once. Raises `ManagerClosed`, and `RuntimeError` on another loop than the manager's.
        """
        supervisor = self._running_here()
        session = self._sessions.get(session_id)
        if session is None:
            return False
        await self._end(supervisor, session)
        return True

    def set_max_sessions(self, max_sessions: int | None) -> None:
        """Set the cap while the manager runs; None switches it off. It holds for later runs of this manager, too.

        Creators who wait get the places that a higher cap adds. A cap below the number of sessions evicts none; nobody
        gets in until there are fewer. Raises `ConfigError` for a wrong cap, `ManagerClosed`, and `RuntimeError` on
        another event loop than the manager's.
        """
        self._running_here().places.set_max_sessions(CAP.check("max_sessions", max_sessions))

    # Cleanup

    async def cleanup_stale_sessions(
        self, *, max_idle_time: Limit = UNSET, max_session_age: Limit = UNSET
    ) -> CleanupReport:
        """Run a cleanup pass now and return its report, hooks included.

        The keywords replace the configured limits, in seconds; None switches a limit off. A session keeps a limit of
        its own. Raises `ConfigError` for a wrong limit, `ManagerClosed`, and `RuntimeError` on another event loop than
        the manager's.
        """
        idle, age = checked(max_idle_time, max_session_age)
        return await self._running_here().passes.manual(idle, age)

    async def preview_cleanup(self, *, max_idle_time: Limit = UNSET, max_session_age: Limit = UNSET) -> CleanupReport:
        """Report what `cleanup_stale_sessions` would end now. Nothing is ended, counted or traced.

        Raises what `cleanup_stale_sessions` raises.
        """
        idle, age = checked(max_idle_time, max_session_age)
        return await self._running_here().passes.preview(idle, age)

    async def emergency_cleanup(self) -> CleanupReport:
        """Run the pass that makes room at the cap now, and return its report, hooks included.

        It ends what is due, then what is past the emergency limits, longest idle first, until a tenth of the cap is
        free. Raises `ManagerClosed`, and `RuntimeError` on another event loop than the manager's.
        """
        return await self._running_here().passes.emergency()

    def get_metrics(self) -> SessionStats:
        """Return the books at this moment. It works on any thread, and also before and after the manager runs."""
        totals = self._books.totals()
        if self._has_lost_its_loop():
            totals = totals.settled()
        passes = self._supervisor.passes if self._supervisor is not None else None
        return statistics(
            totals,
            peak_active=self._books.peak_active,
            last_cleanup=passes.last if passes else None,
            seconds_since_cleanup=max(0.0, latest(self._now) - passes.last_at) if passes else 0.0,
        )

    def __len__(self) -> int:
        """Return how many sessions there are, closing ones included."""
        return 0 if self._has_lost_its_loop() else self._books.active

    def __contains__(self, session_id: object) -> bool:
        return isinstance(session_id, str) and self.get(session_id) is not None

    def __repr__(self) -> str:
        return f"<SessionManager {self.name!r} {len(self)} sessions>"

    def _running(self) -> Supervisor[DataT]:
        """Return the run that goes on. Raises `ManagerClosed` without one."""
        supervisor = self._supervisor
        if supervisor is None:
            raise never_entered(f"session manager {self.name!r}")
        self._notice_closed_loop(supervisor)
        if supervisor.over:
            raise ManagerClosed(f"session manager {self.name!r} is not running any more; enter it again to use it")
        return supervisor

    def _running_here(self) -> Supervisor[DataT]:
        """Return the run that goes on. Raises `ManagerClosed` without one, `RuntimeError` on another loop."""
        supervisor, home = self._supervisor, self._store.home
        if supervisor is None or supervisor.over or home is None or not home.is_here():
            supervisor = self._running()
            self._store.require_here()
        return supervisor

    def _has_lost_its_loop(self) -> bool:
        home = self._store.home
        return home is not None and home.is_closed() and self._supervisor is not None and not self._supervisor.over

    def _notice_closed_loop(self, supervisor: Supervisor[DataT]) -> None:
        if self._has_lost_its_loop():
            self._abandoned += 1
            self._give_up(supervisor, self._books.succeeded())

    def _give_up(self, supervisor: Supervisor[DataT], books: Books) -> None:
        """Count the run as over, whose loop or process is gone; other books take the place of those it writes to."""
        assert self._telemetry is not None
        supervisor.disown()
        self._books = books
        self._telemetry.go_on_in(books)

    def start_anew_after_fork(self) -> None:
        """Begin with empty books in a process that was forked: all that they count is the parent's."""
        assert self._supervisor is not None
        self._give_up(self._supervisor, Books(self._books.limit))
        self._supervisor.passes.start_anew()

    async def _vacate(self, supervisor: Supervisor[DataT], session_id: str) -> None:
        """End the session that stands under an id, if it is due and nobody uses it; else raise `SessionExists`."""
        session = self._sessions.get(session_id)
        if session is not None and not session._pins and session._due(self._now(), session._shared):
            await self._end(supervisor, session)
        self._store.require_vacant(session_id)

    async def _end(self, supervisor: Supervisor[DataT], session: Session[DataT]) -> None:
        """End a session and wait for what that calls; a hook or a sink that ends one does not wait."""
        batch, now = Batch(), self._now()
        reason = session._reason(now, EndReason.CLOSED)
        supervisor.closer.end({reason: [session]}, otel_context.get_current(), batch, now)
        if not supervisor.hooks.calling:
            await batch.wait()
