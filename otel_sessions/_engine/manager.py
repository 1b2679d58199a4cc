"""The public face: a `SessionManager` gives sessions, leases and reservations, and ends sessions that are due.

One event loop owns a running manager: the loop that entered the manager. Outside the `async with` block, methods that
need a running manager raise `ManagerClosed`. Each entry begins a run without sessions; the books go on from run to run.
"""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, overload

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from otel_sessions._core.books import Books
from otel_sessions._core.clock import latest, since_boot, steady
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
from .directory import Directory
from .ending import CloseHook
from .hooks import SessionSink
from .leases import Hold, Lease, Leases, Pin
from .owners import Fleet, Here, Peer, Reports, enter, locate, measure
from .supervisor import Supervisor


class SessionManager(Directory[DataT]):
    """Keeps at most `config.max_sessions` sessions, and ends the sessions that are stale, expired, closed or failed.

        async with SessionManager[Upstream](SessionConfig(max_sessions=10_000), on_close=hang_up) as manager:
            session = await manager.create_session(data=upstream)
            async with manager.lease(session.id) as session:
                ...

    With a `fleet`, as `fleet.StaticPeers`, ids that are made here begin with the name of this process. If the fleet has
    one cap for all its processes, a session counts under both caps, and is served only while this process owns it.

    When a session ends, a task of the manager awaits `sink.export(session, reason)`, then `on_close(session, reason)`,
    each for at most `close_timeout` seconds. `name` tells managers apart on metrics. A provider that is None is the
    global provider, even if that provider is set later. `clock` returns seconds and must work on any thread. A reading
    that is not finite or goes back counts as the last good reading. Without `clock`, time is monotonic. With a fleet it
    includes the time for which the machine has slept, where the system has such a clock.

    A manager may be entered again when it has ended, also on another event loop. If its loop is closed inside the
    block, the manager has ended, and its sessions count as `shutdown`. The copy in a forked process has ended, too.
    """

    def __init__(
        self,
        config: SessionConfig | None = None,
        *,
        name: str = "default",
        on_close: CloseHook[DataT] | None = None,
        sink: SessionSink[DataT] | None = None,
        fleet: Fleet | None = None,
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.config = SessionConfig() if config is None else config
        self.name = name
        self.fleet = fleet
        self._of_embedder = (on_close, sink, fleet)
        self._providers = (meter_provider, tracer_provider)
        own_clock = time.monotonic if fleet is None else since_boot
        self._clock = own_clock if clock is None else clock
        self._books = Books(self.config.max_sessions)
        self._telemetry: Telemetry | None = None
        self._supervisor: Supervisor[DataT] | None = None
        self._abandoned = 0  # blocks that were never left, because their loop was closed inside them
        self._take(Store(self.config, steady(self._clock), self._books))

    def _take(self, store: Store[DataT]) -> None:
        """Use the sessions in this store from now on."""
        self._now = store.clock
        self._store = store
        self._leases = Leases(store)
        self._sessions = store.visible

    async def __aenter__(self) -> Self:
        """Start the background task. Raises `ManagerClosed` if the manager runs, and what fleet and clock raise.

        With a fleet that has a store, wait until this process has joined, or until the store does not answer.
        """
        last = clock = None
        if self._supervisor is not None:
            self._notice_closed_loop(self._supervisor)
            if not self._supervisor.over:
                raise ManagerClosed(f"session manager {self.name!r} runs already; leave its block first")
            clock = steady(self._clock)
            clock()  # a clock that raises leaves the manager as it is
            last = self._supervisor.passes.last
        if self.fleet is not None:
            reports = Reports(manager=self.name, books=self._books, tracer_provider=self._providers[1])
            enter(self.fleet, reports)  # the same holds for a fleet that raises
        if clock is not None:
            self._take(Store(self.config, clock, self._books))
        if self._telemetry is None:
            self._telemetry = Telemetry(self._books, self._now, self.name, *self._providers)
        measure(self.fleet, self._telemetry)
        supervisor = Supervisor(self.config, self._store, self._leases, self._telemetry, *self._of_embedder)
        supervisor.passes.last = last
        self._sessions = self._store.visible
        self._supervisor = supervisor
        supervisor.start()
        forks.add(self)
        await supervisor.wait_ready()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Shut down in full, even if the block was cancelled. This takes at most `shutdown_timeout` seconds."""
        supervisor = self._supervisor
        assert supervisor is not None
        self._notice_closed_loop(supervisor)
        if self._abandoned and (supervisor.disowned or is_collected(exc)):
            self._abandoned -= 1  # the block of a run that is over: it is collected now, and must not await
            return
        if supervisor.over:
            return
        self._store.require_here()
        supervisor.ask()
        await supervisor.wait_stopped()

    async def shutdown(self) -> None:
        """Refuse new sessions, let leases drain, end every session and stop the background task. Wait for the end.

        May be called again and by many at once. Returns within `shutdown_timeout` seconds of the first call. Does
        nothing before the first entry. In a close hook it requests the shutdown and returns at once. Raises
        `RuntimeError` on another event loop than the manager's.
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
        """Make a session and return it. Make an id if no `session_id` is given.

        `max_sessions_per_client` counts the sessions of `client`. `max_idle_time` and `max_session_age`, in seconds,
        replace the configured limits for this session; None switches a limit off. At the cap, the method waits up to
        `close_timeout` seconds for a place that is about to be free. At the client's cap, `"evict_oldest"` ends the
        client's longest idle session, and the method waits for the place in the same way. If the session of the given
        id is due, the method ends this session, waits for its close hook, and uses the id again.

        Raises `TooManySessions` and `SessionExists`. Raises `ConfigError` if a limit is wrong, and `TypeError` if the
        id is not a `str`. Raises `ManagerClosed`, and `RuntimeError` on another event loop than the manager's.

        With a fleet that has a store, the method waits until the store knows the session. It raises what
        `Session.registered` raises then. If it raises or is cancelled, the session is ended.
        """
        supervisor = self._running_here()
        admission = supervisor.admission
        idle, age = checked(max_idle_time, max_session_age)
        if session_id is not None:
            admission.require_accepting()  # first: a refusal must end no session
            await self._vacate(supervisor, session_id)
        if (waiter := admission.take(client)) is not None:
            await admission.wait(waiter)
        try:
            session = admission.commit(session_id, data, client, idle, age, reserved_for=client)
        except BaseException:
            admission.give_back(client)
            raise
        if supervisor.registration is not None:
            await supervisor.registration.introduce(session)
        return session

    def reserve(self, *, client: str | None = None) -> Reservation[DataT]:
        """Return a reservation, for an id that is known later: `async with manager.reserve() as place`.

        `place.commit(id, data=...)` makes the session. If the block ends without a commit, the place is given back.
        Raises `ManagerClosed`. Entering waits for a place and raises as `Reservation.__aenter__` says.
        """
        return Reservation(self._running().admission, client)

    def get(self, session_id: str) -> Session[DataT] | None:
        """Return a session, or None if no session has this id or it is stale, expired, failed or ended. No touch."""
        session = self._sessions.get(session_id)
        if session is None or session._end is not None:
            return None
        now, bucket = self._now(), session._bucket
        # The most frequent call: mostly, the bucket says that the session is not due, without a look at its limits.
        if (bucket is not None and now < bucket.not_before) or session._due(now, session._shared) is None:
            return session
        return None

    def touch(self, session_id: str) -> Session[DataT] | None:
        """Touch a session and return it. If `get` would return None, return None and change nothing.

        This does `get` and `Session.touch` in one step, with one reading of the clock.
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
        """Return a lease for one `with` block; the value of the block is the session. Entering is a touch.

        Any task may leave the block, in any order. Entering raises `SessionNotFound` and `ManagerClosed`.
        """
        return Pin(self._leases, session_id)

    def hold(self, session_id: str | Session[DataT], on_end: Callable[[EndReason], object]) -> Hold[DataT]:
        """Return a pin for one `with` block, with a callback for the end of the session. Entering is a touch.

        Give a session itself to hold what you have just committed: a fleet hides its id until the store knows it.

        `on_end(reason)` asks the holder to leave the block soon, and may leave the block itself. It is called at most
        once, and never after the block: if `close_session`, a shutdown or the end of a drain ends the session. A drain
        begins when a pass finds the session expired, and lasts `drain_timeout` seconds. The session is hidden before
        the call. Its close hook starts when all holders have left, or `close_timeout` seconds later.

        `on_end` is not called if the holder itself ends the session, in the block or in a task started there. `on_end`
        runs in the task that ends the session, and must neither block nor raise. An exception is logged and changes
        nothing else. Enter and leave the block on the manager's own loop. Entering raises `SessionNotFound` and
        `ManagerClosed`. Raises `TypeError` if `on_end` cannot be called.
        """
        if not callable(on_end):
            raise TypeError(f"on_end takes a function of the end reason, not {on_end!r}")
        return Hold(self._leases, session_id, on_end)

    def lease(self, session_id: str) -> Lease[DataT]:
        """Return a lease for one `async with` block; the value of the block is the session. Entering is a touch.

        The lease is bound to its task. If the session is ended by force, the block is cancelled and raises
        `SessionNotFound` with the reason. Entering raises as `Lease` says.
        """
        return Lease(self._leases, session_id)

    async def locate(self, session_id: str) -> Here | Peer | None:
        """Return which process an id leads to: `Here`, a `Peer`, which may have ended the session since, or None.

        Raises `PeerUnavailable`, `ManagerClosed`, and `RuntimeError` on another event loop than the manager's.
        """
        self._running_here()
        return await locate(session_id, self, self.fleet)

    def set_max_sessions(self, max_sessions: int | None) -> None:
        """Set the cap while the manager runs; None switches the cap off. Later runs of this manager keep the cap.

        Creators that wait get the places that a higher cap adds. A cap below the number of sessions evicts no session;
        new sessions are refused until a place is free. Raises `ConfigError` if the cap is wrong, `ManagerClosed`, and
        `RuntimeError` on another event loop than the manager's.
        """
        self._running_here().places.set_max_sessions(CAP.check("max_sessions", max_sessions))

    # Cleanup

    async def cleanup_stale_sessions(
        self, *, max_idle_time: Limit = UNSET, max_session_age: Limit = UNSET
    ) -> CleanupReport:
        """Run a cleanup pass now. Return its report when its close hooks and exports have ended.

        The keywords, in seconds, replace the configured limits for sessions without limits of their own; None switches
        a limit off. Raises `ConfigError` if a limit is wrong, `ManagerClosed`, and `RuntimeError` on another event
        loop than the manager's.
        """
        idle, age = checked(max_idle_time, max_session_age)
        return await self._running_here().passes.manual(idle, age)

    async def preview_cleanup(self, *, max_idle_time: Limit = UNSET, max_session_age: Limit = UNSET) -> CleanupReport:
        """Report what `cleanup_stale_sessions` would end now. The preview ends, counts and traces nothing.

        Raises what `cleanup_stale_sessions` raises.
        """
        idle, age = checked(max_idle_time, max_session_age)
        return await self._running_here().passes.preview(idle, age)

    async def emergency_cleanup(self) -> CleanupReport:
        """Run an emergency pass now. Return its report when its close hooks and exports have ended.

        The pass ends due sessions, then sessions past the emergency limits, longest idle first, until a tenth of the
        cap is free. Raises `ManagerClosed`, and `RuntimeError` on another event loop than the manager's.
        """
        return await self._running_here().passes.emergency()

    def get_metrics(self) -> SessionStats:
        """Return the statistics at this moment. Works on any thread, also before and after a run of the manager."""
        totals = self._books.totals()
        if self._has_lost_its_loop():
            totals = totals.settled()
        passes = self._supervisor.passes if self._supervisor is not None else None
        last, since = (passes.last, max(0.0, latest(self._now) - passes.last_at)) if passes else (None, 0.0)
        peak = self._books.peak_active
        return statistics(totals, peak_active=peak, last_cleanup=last, seconds_since_cleanup=since)

    def __len__(self) -> int:
        """Return the number of sessions, closing sessions included."""
        return 0 if self._has_lost_its_loop() else self._books.active

    def __contains__(self, session_id: object) -> bool:
        return isinstance(session_id, str) and self.get(session_id) is not None

    def __repr__(self) -> str:
        return f"<SessionManager {self.name!r} {len(self)} sessions>"

    def _running(self) -> Supervisor[DataT]:
        """Return the current run. Raises `ManagerClosed` if the manager is not running."""
        supervisor = self._supervisor
        if supervisor is None:
            raise never_entered(f"session manager {self.name!r}")
        self._notice_closed_loop(supervisor)
        if supervisor.over:
            raise ManagerClosed(f"session manager {self.name!r} is not running any more; enter it again to use it")
        return supervisor

    def _running_here(self) -> Supervisor[DataT]:
        """Return the current run. Raises `ManagerClosed` without a run, `RuntimeError` on another loop."""
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
            books = self._books.succeeded()
            supervisor.write_off()
            self._go_on_in(books)

    def _go_on_in(self, books: Books) -> None:
        """Report `books` instead of the books of the run, which is over."""
        assert self._telemetry is not None
        self._books = books
        self._telemetry.go_on_in(books)

    def start_anew_after_fork(self) -> None:
        """Begin with empty books in a forked process, since the counts belong to the parent process."""
        assert self._supervisor is not None
        self._supervisor.disown()
        self._go_on_in(Books(self._books.limit))
        self._supervisor.passes.start_anew()

    async def _vacate(self, supervisor: Supervisor[DataT], session_id: str) -> None:
        """Free an id: end its session if it is due and unleased. Raises `SessionExists` if the id is in use."""
        session = self._store.sessions.get(session_id)
        if session is not None and not session._leases and session._due(self._now(), session._shared):
            await self._end(supervisor, session)
        self._store.require_vacant(session_id)
