"""The manager against an obviously right model: a dict of sessions with their deadlines, on both loops.

Hypothesis chooses what happens in which order; after every step the books balance, the cap holds, nothing visible is
expired or terminal, nothing leased was cleaned early, and every end happened once, for a reason that the model allows.
"""

import asyncio
import logging
import math
import sys
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import anyio
import anyio.from_thread
import hypothesis.strategies as st
import pytest
import trio.testing
from hypothesis import event, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from opentelemetry.sdk.metrics import MeterProvider

from otel_sessions import (
    UNSET,
    EndReason,
    Hold,
    ManagerClosed,
    PerClientAtCap,
    Session,
    SessionConfig,
    SessionExists,
    SessionManager,
    SessionNotFound,
    SessionPage,
    StoreUnavailable,
    TooManySessions,
    fingerprint,
)
from otel_sessions._engine.tasks import Tasks
from tests.doubles import FaultyClock, StoreFleet, refuse
from tests.signals import Export, PatientReader
from tests.virtual import VirtualLoop, settle

T = TypeVar("T")

CONFIG = SessionConfig(
    cleanup_interval=10.0,
    max_idle_time=20.0,
    max_session_age=60.0,
    max_sessions=5,
    max_sessions_per_client=3,
    emergency_idle_time=5.0,
    emergency_session_age=30.0,
    drain_timeout=4.0,
    max_unused_time=12.0,
)
TICK = 1.0
CLIENT_CAP = 3


class Driver(Protocol):
    """A loop that runs only while it is called, and whose time passes only in `advance`."""

    def call(self, function: Callable[[], Awaitable[T]]) -> T: ...
    def advance(self, seconds: float) -> None: ...
    def shut_down(self, manager: SessionManager[Any]) -> None: ...
    def close(self) -> None: ...


WRONG: list[Callable[[float], float]] = [
    lambda _: math.nan,
    lambda _: math.inf,
    lambda _: -math.inf,
    lambda now: now - 500.0,
]


class AsyncioDriver:
    def __init__(self) -> None:
        self._runner = asyncio.Runner(loop_factory=self._make_loop)

    def _make_loop(self) -> asyncio.AbstractEventLoop:
        return VirtualLoop()

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        async def run() -> T:
            return await function()

        return self._runner.run(run())

    def advance(self, seconds: float) -> None:
        self.call(lambda: anyio.sleep(seconds))
        self.call(settle)

    def shut_down(self, manager: SessionManager[Any]) -> None:
        self.call(manager.shutdown)
        self.call(settle)

    def close(self) -> None:
        self._runner.close()


class EagerAsyncioDriver(AsyncioDriver):
    """Tasks run as far as they can within the step that starts them; from Python 3.12 on."""

    def _make_loop(self) -> asyncio.AbstractEventLoop:
        loop = VirtualLoop()
        loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009  # not there before
        return loop


class TrioDriver:
    def __init__(self) -> None:
        self._clock = trio.testing.MockClock()
        self._starting = anyio.from_thread.start_blocking_portal("trio", {"clock": self._clock})
        self._portal = self._starting.__enter__()

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        return self._portal.call(function)

    def advance(self, seconds: float) -> None:
        self._jumping(lambda: anyio.sleep(seconds))

    def shut_down(self, manager: SessionManager[Any]) -> None:
        self._jumping(manager.shutdown)

    def _jumping(self, function: Callable[[], Awaitable[None]]) -> None:
        """Call a function while time jumps from timer to timer."""

        async def run() -> None:
            self._clock.autojump_threshold = 0
            await function()
            self._clock.autojump_threshold = math.inf
            await settle()

        self.call(run)

    def close(self) -> None:
        self._starting.__exit__(None, None, None)


@dataclass(eq=False)
class Model:
    """What must be true of one session."""

    session: Session[str]
    created: float
    last: float
    client: str | None
    idle: float
    age: float
    own_idle: bool
    own_age: bool
    pins: int = 0
    failed_at: float = math.inf
    unleased_since: float = -math.inf
    messages: int = 0
    leases: int = 0
    begun: dict[object, float] = field(default_factory=dict)
    """When each of its leases began."""

    @property
    def idle_limit(self) -> float:
        """Its idle limit, or that of a session that has had neither a second lease nor a touch."""
        is_unused = self.messages == self.leases <= 1
        return min(self.idle, 12.0) if is_unused else self.idle

    def due(self, now: float) -> bool:
        return (
            now >= self.failed_at
            or now >= self.created + self.age
            or (not self.pins and now >= self.last + self.idle_limit)
        )


@dataclass(eq=False)
class Holder:
    """A task with a bound lease."""

    model: Model
    leave: anyio.Event
    cancelled_for: list[EndReason | None] = field(default_factory=list)
    left: bool = False


@dataclass(eq=False)
class Reading:
    """A list that is read a page at a time."""

    there: list[Session[str]]
    seen: list[str] = field(default_factory=list)
    next: str | None = None


class Told:
    """What a hold tells; it is left in that moment."""

    hold: Hold[str]

    def __init__(self) -> None:
        self.reasons: list[EndReason] = []

    def __call__(self, reason: EndReason) -> None:
        self.reasons.append(reason)
        self.hold.__exit__(None, None, None)


limits = st.one_of(st.just(UNSET), st.none(), st.sampled_from([3.0, 8.0, 40.0]))
pauses = st.sampled_from([0.5, 2.5, 6.0, 11.0, 21.0, 35.0, 65.0])


class ManagerMachine(RuleBasedStateMachine):
    driver_type: Callable[[], Driver]

    sessions = Bundle("sessions")
    places = Bundle("places")
    pins = Bundle("pins")
    holders = Bundle("holders")
    holds = Bundle("holds")

    @initialize(
        target=sessions,
        with_hook=st.booleans(),
        fleet=st.none() | st.builds(StoreFleet, grant=st.just(5)),
        at_cap=st.sampled_from(PerClientAtCap),
        ids=st.lists(st.none() | st.sampled_from("abc"), max_size=4, unique=True),
    )
    def start(self, ids: list[str | None], with_hook: bool, at_cap: PerClientAtCap, fleet: StoreFleet | None) -> Any:
        self.with_hook = with_hook
        self.fleet = fleet
        self.fenced: set[Session[str]] = set()
        self.evicts_oldest = at_cap is PerClientAtCap.EVICT_OLDEST
        self.driver = self.driver_type()
        self.clock = FaultyClock()
        self.own_cap: float = CONFIG.max_sessions or math.inf
        self.there = 0
        self.stopped_at = 0.0
        self.well_since = -math.inf
        self.clock_errors = 0
        self.meddled: set[Session[str]] = set()
        self.unsettled = False
        self.creating_for: str | None = None
        self.live: dict[Session[str], Model] = {}
        self.ended: dict[Session[str], EndReason] = {}
        self.reports: list[tuple[Session[str], EndReason]] = []
        self.failed_hooks = 0
        self.created = 0
        self.reserved: list[str | None] = []
        self.closing_by_hand: set[Session[str]] = set()
        self.reading: Reading | None = None
        self.evicting = False
        self.shutting_down = False
        self.pass_limits: tuple[float | None, float | None] = (None, None)
        self.unregistered: set[Session[str]] = set()
        self.tasks = Tasks()

        async def on_close(session: Session[str], reason: EndReason) -> None:
            self.reports.append((session, reason))
            if session.data == "raises":
                self.failed_hooks += 1
                raise RuntimeError("this hook always raises")
            if session.data == "meddles":
                for other in [other for other in self.live if other.end_reason is None][:1]:
                    self.meddled.add(other)
                    self.unsettled = True
                    await self.manager.close_session(other.id)

        async def enter() -> SessionManager[str]:
            self.clock.follow_running_loop()
            config = replace(CONFIG, per_client_at_cap=at_cap)
            self.reader = PatientReader()
            provider = MeterProvider([self.reader], shutdown_on_exit=False)
            hook = on_close if with_hook else None
            manager = SessionManager[str](config, on_close=hook, clock=self.clock, meter_provider=provider, fleet=fleet)
            return await manager.__aenter__()

        self.manager = self.driver.call(enter)
        made = [self.driver.call(partial(self.manager.create_session, i, data="fine")) for i in ids]
        return multiple(*(self._add(session, None, UNSET, UNSET) for session in made))

    # What clients and proxies do

    @rule(
        target=sessions,
        session_id=st.one_of(st.none(), st.sampled_from(["a", "b", "c"])),
        client=st.sampled_from([None, "x", "y"]),
        data=st.sampled_from(["fine", "raises", "meddles"]),
        idle=limits,
        age=limits,
    )
    def create(self, session_id: str | None, client: str | None, data: str, idle: Any, age: Any) -> Any:
        standing = next((m for m in self.live.values() if m.session.id == session_id), None)
        gives_way = standing is not None and not standing.pins and standing.due(self.now())
        free = len(self.live) - gives_way + len(self.reserved) < self.cap
        given = gives_way and standing is not None and standing.client == client
        client_full = client is not None and self._clients(client) - given >= CLIENT_CAP
        self.evicting = True
        self.creating_for = client
        try:
            session = self.driver.call(
                lambda: self.manager.create_session(
                    session_id, data=data, client=client, max_idle_time=idle, max_session_age=age
                )
            )
        except SessionExists:
            assert standing is not None
            assert not gives_way
            return multiple()
        except TooManySessions as error:
            assert client_full or not free, "refused although there is room"
            self.unsettled = True  # a pass that makes no room for this creator may go on
            assert error.limit == (CLIENT_CAP if free else self._limit_named(gives_way))
            assert not self._may_evict(client)
            event(f"refused: {error.reason}")
            return multiple()
        finally:
            self._take_reports()
            self.evicting = False
            self.creating_for = None
        assert standing is None or standing.session in self.ended
        return self._add(session, client, idle, age)

    @rule(cap=st.sampled_from([None, 3, 5, 8]))
    def set_the_cap(self, cap: int | None) -> None:
        async def set_it() -> None:
            self.manager.set_max_sessions(cap)

        self.driver.call(set_it)
        self.own_cap = math.inf if cap is None else cap

    @rule(target=places, client=st.sampled_from([None, "x", "y"]))
    def reserve(self, client: str | None) -> Any:
        self.evicting = True
        self.creating_for = client
        free = len(self.live) + len(self.reserved) < self.cap
        try:
            place = self.driver.call(lambda: self.manager.reserve(client=client).__aenter__())
        except TooManySessions:
            assert not free or (client is not None and self._clients(client) >= CLIENT_CAP)
            self.unsettled = True
            assert not self._may_evict(client)
            return multiple()
        finally:
            self._take_reports()
            self.evicting = False
            self.creating_for = None
        self.reserved.append(client)
        return place, client

    @rule(target=sessions, reserved=consumes(places), session_id=st.sampled_from(["a", "b", "c"]))
    def commit(self, reserved: Any, session_id: str) -> Any:
        place, client = reserved

        async def commit() -> Session[str] | None:
            try:
                return place.commit(session_id, data="fine")  # type: ignore[no-any-return]
            except SessionExists:
                return None
            finally:
                await place.__aexit__(None, None, None)

        session = self.driver.call(commit)
        self.reserved.remove(client)
        if session is None:
            assert any(model.session.id == session_id for model in self.live.values())
            return multiple()
        return self._add(session, client, UNSET, UNSET)

    @rule(reserved=consumes(places))
    def abandon(self, reserved: Any) -> None:
        place, client = reserved
        self.driver.call(lambda: place.__aexit__(None, None, None))
        self.reserved.remove(client)

    @rule(target=pins, model=sessions)
    def pin(self, model: Model) -> Any:
        pin = self.manager.pin(model.session.id)
        visible = self._visible(model.session.id)
        try:
            session = pin.__enter__()
        except SessionNotFound as error:
            assert visible is None
            assert (error.reason is None) == self._hides(model.session.id)
            return multiple()
        assert visible is not None
        assert session is visible.session
        self._lease(visible, pin)
        return pin, visible

    @rule(pin=consumes(pins))
    def release_a_pin_in_any_order(self, pin: Any) -> None:
        pin, model = pin
        pin.__exit__(None, None, None)
        self._release(model, pin)

    @rule(target=holders, model=sessions)
    def bind(self, model: Model) -> Any:
        visible = self._visible(model.session.id)
        if visible is None:
            return multiple()
        holder = Holder(visible, self.driver.call(self._event))

        async def hold() -> None:
            try:
                async with self.manager.lease(visible.session.id) as session:
                    assert session is visible.session
                    await holder.leave.wait()
            except SessionNotFound as error:
                holder.cancelled_for.append(error.reason)
            holder.left = True

        async def start() -> None:
            self.tasks.start("holder", hold)
            await settle()

        self.driver.call(start)
        self._lease(visible, holder)
        return holder

    @rule(holder=consumes(holders))
    def let_a_holder_leave(self, holder: Holder) -> None:
        async def leave() -> None:
            holder.leave.set()
            await settle()

        self.driver.call(leave)
        assert holder.left
        assert bool(holder.cancelled_for) == (holder.model.session not in self.live)
        self._release(holder.model, holder)

    @rule(target=holds, model=sessions)
    def hold(self, model: Model) -> Any:
        """A holder whose task is over, and who leaves as soon as it is told."""
        visible = self._visible(model.session.id)
        told = Told()
        told.hold = self.manager.hold(model.session.id, told)
        try:
            session = Context().run(told.hold.__enter__)
        except SessionNotFound as error:
            assert visible is None
            assert (error.reason is None) == self._hides(model.session.id)
            return multiple()
        assert visible is not None
        assert session is visible.session
        self._lease(visible, told)
        return told, visible

    @rule(held=consumes(holds))
    def leave_a_hold_in_any_order(self, held: Any) -> None:
        told, model = held
        # By a pass only after its drain, by others at once: it was told if it was ended, once, and for that reason.
        assert told.reasons == ([] if model.session in self.live else [self.ended[model.session]])
        told.hold.__exit__(None, None, None)
        if not told.reasons:
            self._release(model, told)

    @rule(model=sessions, closes=st.booleans())
    def close_or_clean_while_holding(self, model: Model, closes: bool) -> None:
        visible = self._visible(model.session.id)
        if visible is None:
            return
        told: list[EndReason] = []
        self.closing_by_hand = {visible.session}

        async def hold_and_close() -> None:
            with self.manager.hold(visible.session.id, told.append):
                if closes:
                    assert await self.manager.close_session(visible.session.id)
                else:
                    await self.manager.cleanup_stale_sessions()

        self._lease(visible, told)
        self.driver.call(hold_and_close)
        self._take_reports()
        self._release(visible, told)
        self.closing_by_hand = set()
        if closes:
            assert visible.session in self.ended
            assert told == []
        else:  # only the hook of another session may have ended it, and then its holder was told
            assert told == ([self.ended[visible.session]] if visible.session in self.ended else [])

    @rule(model=sessions)
    def touch_by_id(self, model: Model) -> None:
        visible = self._visible(model.session.id)
        before = model.session.metadata
        got = self.manager.touch(model.session.id)
        assert got is (visible.session if visible else None)
        if visible is None:
            assert model.session.metadata == before
        else:
            visible.last = self.now()
            visible.messages += 1

    @rule(model=sessions)
    def touch(self, model: Model) -> None:
        if model.session in self.live:
            model.session.touch()
            model.last = self.now()
            model.messages += 1

    @rule(model=sessions)
    def fail(self, model: Model) -> None:
        model.session.fail("the model said so")
        if model.session in self.live:
            model.failed_at = min(model.failed_at, self.now())

    @rule(model=sessions, by_fingerprint=st.booleans())
    def close(self, model: Model, by_fingerprint: bool) -> None:
        standing = next((m for m in self.live.values() if m.session.id == model.session.id), None)
        self.closing_by_hand = {standing.session} if standing else set()
        if by_fingerprint:
            named = fingerprint(model.session.id)
            closed = self.driver.call(lambda: self.manager.close_session(fingerprint=named))
        else:
            closed = self.driver.call(lambda: self.manager.close_session(model.session.id))
        assert closed == (standing is not None)
        self._take_reports()
        self.closing_by_hand = set()
        assert standing is None or standing.session in self.ended

    @rule(client=st.sampled_from(["x", "y"]))
    def close_client(self, client: str) -> None:
        theirs = {model.session for model in self.live.values() if model.client == client}
        meddled = len(self.meddled)
        self.closing_by_hand = theirs
        count = self.driver.call(lambda: self.manager.close_client(client))
        self._take_reports()
        self.closing_by_hand = set()
        assert theirs <= self.ended.keys()
        assert count == len(theirs) or len(self.meddled) > meddled

    # What people see

    @rule(limit=st.sampled_from([1, 2, 100]), client=st.sampled_from([None, "x"]))
    def list_all_page_by_page(self, limit: int, client: str | None) -> None:
        pages = [self._page(client=client, limit=limit)]
        while (after := pages[-1].next) is not None:
            pages.append(self._page(client=client, limit=limit, after=after))
        listed = [info for page in pages for info in page.sessions]
        wanted = [model for model in self._shown() if client in (None, model.client)]
        assert all(len(page.sessions) <= limit for page in pages)
        assert [info.fingerprint for info in listed] == [fingerprint(model.session.id) for model in wanted]
        assert [info.message_count for info in listed] == [model.messages for model in wanted]
        assert [info.leases for info in listed] == [model.pins for model in wanted]
        assert [info.state for info in listed] == [model.session.state for model in wanted]

    @rule(limit=st.sampled_from([1, 2]))
    def read_one_page_and_let_others_come_and_go(self, limit: int) -> None:
        reading = self.reading = self.reading or Reading(there=[model.session for model in self._shown()])
        page = self._page(limit=limit, after=reading.next)
        reading.seen += [info.fingerprint for info in page.sessions]
        reading.next = page.next
        if page.next is None:
            stayed = [fingerprint(session.id) for session in reading.there if session in self.live]
            assert [reading.seen.count(one) for one in stayed] == [1] * len(stayed)
            event(f"read while others came and went: {len(stayed)}")
            self.reading = None

    # What the fleet does

    @rule(grant=st.sampled_from([0, 2, 4, 6, 100]))
    def the_fleet_gives_or_takes_places(self, grant: int) -> None:
        if self.fleet is not None:
            fleet = self.fleet

            async def give() -> None:
                fleet.give(grant)

            self.driver.call(give)

    @rule(model=sessions, hides=st.booleans())
    def the_fleet_hides_or_shows_a_session(self, model: Model, hides: bool) -> None:
        if self.fleet is not None and model.session in self.live and self.reading is None:
            self.fleet.hidden -= {model.session}
            self.fleet.hidden |= {model.session} if hides else set()

    @rule(model=sessions)
    def the_fleet_loses_a_session(self, model: Model) -> None:
        if self.fleet is None:
            return
        standing = next((m.session for m in self.live.values() if m.session.id == model.session.id), None)
        fleet, self.fenced = self.fleet, {*self.fenced, *([standing] if standing else [])}

        async def lose() -> None:
            fleet.run.end({EndReason.FENCED: [model.session.id, "nobody"]})
            await settle()

        self.driver.call(lose)
        self._take_reports()
        assert standing is None or standing in self.ended

    @rule(
        error=st.sampled_from([SessionExists("a"), StoreUnavailable(), None]),
        client=st.sampled_from([None, "x"]),
        data=st.sampled_from(["fine", "raises"]),
    )
    def the_store_does_not_take_a_session(self, error: Exception | None, client: str | None, data: str) -> None:
        """It refuses the session, or the creator gives up."""
        if self.fleet is None:
            return
        fleet, before = self.fleet, set(self.live)
        fleet.silent, fleet.refusal = error is None, error
        self.unregistered = set()
        self.evicting, self.creating_for = True, client
        register = fleet.register

        def note(session: Session[Any]) -> None:
            self.unregistered.add(session)
            self._add(session, client, UNSET, UNSET)
            register(session)

        fleet.register = note  # type: ignore[method-assign]

        async def create() -> None:
            async def give_up() -> None:
                await settle()
                tasks.cancel_scope.cancel()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(give_up)
                with pytest.raises((SessionExists, StoreUnavailable, TooManySessions)):
                    await self.manager.create_session(data=data, client=client)
            await settle()

        self.driver.call(create)
        self._take_reports()
        fleet.register = register  # type: ignore[method-assign]
        fleet.silent, fleet.refusal = False, None
        self.evicting = False
        self.creating_for = None
        assert self.unregistered <= self.ended.keys()
        assert set(self.live) <= before
        event(f"not registered: {len(self.unregistered)}")

    # What time and operators do

    @rule(seconds=pauses)
    def advance(self, seconds: float) -> None:
        self.driver.advance(seconds)
        self._take_reports()
        now = self.now()
        for model in self.live.values():
            if not model.pins:
                late = now - CONFIG.cleanup_interval - TICK
                if late < self.well_since:
                    continue
                assert late < model.unleased_since or not model.due(late), "an interval pass has missed it"

    @rule()
    def preview_and_clean(self) -> None:
        due = [m for m in self.live.values() if not m.pins and m.due(self.now())]
        meddled = len(self.meddled)
        preview = self.driver.call(self.manager.preview_cleanup)
        assert preview.total_cleaned == len(due)
        report = self.driver.call(self.manager.cleanup_stale_sessions)
        self._take_reports()
        assert report.cleaned == preview.cleaned or len(self.meddled) > meddled
        assert all(model.session in self.ended for model in due)

    @rule(idle=limits, age=limits)
    def clean_under_other_limits(self, idle: Any, age: Any) -> None:
        self.pass_limits = tuple(
            None if limit is UNSET else math.inf if limit is None else limit for limit in (idle, age)
        )  # type: ignore[assignment]
        before, meddled = set(self.live), len(self.meddled)
        preview = self.driver.call(lambda: self.manager.preview_cleanup(max_idle_time=idle, max_session_age=age))
        report = self.driver.call(lambda: self.manager.cleanup_stale_sessions(max_idle_time=idle, max_session_age=age))
        self._take_reports()
        self.pass_limits = (None, None)
        if len(self.meddled) == meddled:
            assert report.total_cleaned == preview.total_cleaned == len(before - set(self.live))

    @rule()
    def emergency(self) -> None:
        self.evicting = True
        meddled = len(self.meddled)
        report = self.driver.call(self.manager.emergency_cleanup)
        self._take_reports()
        self.evicting = False
        assert report.remaining == len(self.live) or len(self.meddled) > meddled

    @rule(wrong=st.sampled_from(WRONG))
    def let_the_clock_give_wrong_readings(self, wrong: Callable[[float], float]) -> None:
        if self.clock.wrong is None:
            self.stopped_at = self.clock()
            self.manager.get_metrics()  # so that this is the last good reading
        self.clock.wrong = wrong

    @rule()
    def let_the_clock_be_well_again(self) -> None:
        if self.clock.wrong is not None:
            self.clock.wrong = None
            self.well_since = self.clock()

    @rule(seconds=pauses)
    def let_the_clock_raise_for_a_while(self, seconds: float) -> None:
        errors, failed = self.manager.get_metrics().cleanup_errors, self.failed_hooks
        before = self.clock.wrong
        if before is None:
            self.stopped_at = self.clock()
        self.clock.wrong = refuse
        self.driver.advance(seconds)
        self.clock.wrong = before
        self.well_since = self.clock.true()
        self.clock_errors += self.manager.get_metrics().cleanup_errors - errors - (self.failed_hooks - failed)
        self._take_reports()

    @rule()
    def export(self) -> None:
        """The metrics say what the model knows; a manager that is not asked says it all the same."""
        self._take_reports()
        export = Export(self.reader)
        begun = [began for model in self.live.values() for began in model.begun.values()]
        assert export.is_balanced
        assert export.value("session.pending") == 0
        assert sum(export.values("cleanup.errors").values()) == self.failed_hooks + self.clock_errors
        if self.clock.wrong is None:
            oldest = max((self.now() - began for began in begun), default=0.0)
            assert export.value("lease.oldest") == pytest.approx(oldest)

    # What must always be true

    @invariant()
    def the_books_balance_and_the_cap_holds(self) -> None:
        if not hasattr(self, "manager"):
            return
        self._take_reports()
        stats = self.manager.get_metrics()
        assert stats.total_created == self.created
        assert stats.total_created == stats.total_cleaned + stats.currently_active
        assert stats.currently_active == len(self.live) == len(self.manager)
        assert stats.total_cleaned == len(self.ended) == sum(stats.cleaned_by_reason.values())
        assert stats.reserved == len(self.reserved)
        there = stats.currently_active + stats.reserved
        assert there <= max(self.cap, self.there), "somebody got in above the cap"
        if self.fleet is not None:
            assert self.fleet.run.taken == there
            assert set(self.fleet.standing) == set(self.live), "the fleet was told wrongly who is gone"
            assert len(self.fleet.gone_for) == len(self.ended)
        self.there = there
        assert stats.leased == sum(1 for model in self.live.values() if model.pins)
        assert stats.closing == 0
        assert stats.waiting == 0
        assert stats.cleanup_errors == self.failed_hooks + self.clock_errors

    @invariant()
    def what_is_visible_is_alive_and_what_is_not_is_not(self) -> None:
        for model in getattr(self, "live", {}).values():
            got = self.manager.get(model.session.id)
            assert (got is model.session) == (not model.due(self.now()) and not self._hides(model.session.id))
            assert (model.session.id in self.manager) == (got is not None)
            assert got is not None or self.manager.touch(model.session.id) is None
            assert model.session.metadata.message_count == model.messages

    def teardown(self) -> None:
        """Every run ends in a shutdown, whatever is leased, reserved or draining then."""
        if not hasattr(self, "manager"):
            return
        self.shutting_down = True
        self.driver.shut_down(self.manager)
        self._take_reports()
        stats = self.manager.get_metrics()
        assert not self.live
        assert stats.total_created == stats.total_cleaned == len(self.ended)
        assert stats.closing == stats.leased == len(self.tasks) == 0
        with pytest.raises(ManagerClosed):
            self.driver.call(lambda: self.manager.create_session(data="late"))
        self.driver.close()

    def _page(self, **keywords: Any) -> SessionPage:
        async def read() -> SessionPage:
            return self.manager.sessions(**keywords)

        return self.driver.call(read)

    # The model's own arithmetic

    def now(self) -> float:
        """The time by the manager's clock: it stands still while the readings are wrong."""
        return self.clock() if self.clock.wrong is None else self.stopped_at

    @property
    def cap(self) -> float:
        """How many places there may be: the own cap or the grant, whichever is smaller."""
        return min(self.own_cap, math.inf if self.fleet is None else self.fleet.grant)

    def _limit_named(self, gives_way: bool) -> float:
        """The limit that a refusal names: the own cap if it is reached, else the grant, or less if less is taken."""
        taken = len(self.live) + len(self.reserved)
        return self.own_cap if taken >= self.own_cap else min(self.cap, taken)

    def _hides(self, session_id: str) -> bool:
        """Whether the fleet hides the live session that has this id."""
        return self.fleet is not None and any(
            session.id == session_id for session in self.fleet.hidden if session in self.live
        )

    def _shown(self) -> list[Model]:
        return [model for model in self.live.values() if not self._hides(model.session.id)]

    def _may_evict(self, client: str | None) -> bool:
        own = [model for model in self.live.values() if model.client == client and not model.pins]
        if len(self.live) + len(self.reserved) > self.cap:
            return False
        return client is not None and self.evicts_oldest and self._clients(client) >= CLIENT_CAP and bool(own)

    async def _event(self) -> anyio.Event:
        return anyio.Event()

    def _clients(self, client: str) -> int:
        return sum(1 for model in self.live.values() if model.client == client) + self.reserved.count(client)

    def _visible(self, session_id: str) -> Model | None:
        return next(
            (m for m in self._shown() if m.session.id == session_id and not m.due(self.now())),
            None,
        )

    def _add(self, session: Session[str], client: str | None, idle: Any, age: Any) -> Model:
        now = self.now()
        self.created += 1
        model = Model(
            session,
            created=now,
            last=now,
            client=client,
            idle=20.0 if idle is UNSET else math.inf if idle is None else idle,
            age=60.0 if age is UNSET else math.inf if age is None else age,
            own_idle=idle is not UNSET,
            own_age=age is not UNSET,
        )
        self.live[session] = model
        return model

    def _lease(self, model: Model, lease: object) -> None:
        model.begun[id(lease)] = self.now()
        model.pins += 1
        model.leases += 1
        model.messages += 1
        model.last = self.now()

    def _release(self, model: Model, lease: object) -> None:
        del model.begun[id(lease)]
        if model.session in self.live:
            model.pins -= 1
            model.last = self.now()
            model.unleased_since = self.now()

    def _take_reports(self) -> None:
        while self.unsettled:  # a hook waits for no other hook
            self.unsettled = False
            self.driver.call(settle)
        if not self.with_hook:
            self.reports = [(session, session.end_reason) for session in self.live if session.end_reason is not None]
        for session, reason in self.reports:
            assert session not in self.ended, "ended twice"
            model = self.live.pop(session)
            at = model.created + session.age
            if session in self.unregistered:  # refused by the store, or its creator has given up
                assert reason in (EndReason.FENCED, EndReason.FAILED, EndReason.CLOSED)
            else:
                assert self._allows(model, reason, at), f"{reason} at {at}: {model}"
            assert session.end_reason is reason
            self.ended[session] = reason
            event(f"ended: {reason}")
        self.reports.clear()

    def _allows(self, model: Model, reason: EndReason, at: float) -> bool:
        by_hand = model.session in self.closing_by_hand or self.shutting_down or model.session in self.meddled
        idle, age = self.pass_limits
        idle = model.idle_limit if idle is None or model.own_idle else min(idle, model.idle_limit)
        age = model.age if age is None or model.own_age else min(age, model.age)
        # Drains run on the loop's time, which goes on while the clock stands still.
        drain = CONFIG.drain_timeout if self.well_since == -math.inf and self.clock.wrong is None else 0.0
        match reason:
            case EndReason.FAILED:
                drained = at >= model.created + model.age + drain
                return at >= model.failed_at and (not model.pins or by_hand or drained)
            case EndReason.MAX_AGE:
                grace = drain if model.pins and not by_hand else 0.0
                return at >= model.created + (model.age if model.pins else age) + grace
            case EndReason.IDLE_TIMEOUT:
                return not model.pins and at >= model.last + idle
            case EndReason.CLOSED:
                return by_hand and not model.due(at)
            case EndReason.FENCED:
                return model.session in self.fenced
            case EndReason.SHUTDOWN:
                return self.shutting_down and not model.due(at)
            case EndReason.EVICTED:
                # A limit that the session itself has switched off has no emergency value either.
                by_idle = model.idle < math.inf and at >= model.last + 5.0
                by_age = model.age < math.inf and at >= model.created + 30.0
                by_client = self.evicts_oldest and model.client is not None and model.client == self.creating_for
                return self.evicting and not model.pins and (by_idle or by_age or by_client)


class OnAsyncio(ManagerMachine):
    driver_type = AsyncioDriver


class OnTrio(ManagerMachine):
    driver_type = TrioDriver


class OnEagerAsyncio(ManagerMachine):
    driver_type = EagerAsyncioDriver


needs_eager_tasks = pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio has them from Python 3.12 on")


@pytest.mark.no_cover  # the same lines again and again
@pytest.mark.parametrize("machine", [OnAsyncio, OnTrio, pytest.param(OnEagerAsyncio, marks=needs_eager_tasks)])
def test_the_manager_does_what_a_dict_would(machine: type[ManagerMachine], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="otel_sessions")  # the hooks that raise are meant to
    run_state_machine_as_test(machine, settings=settings(max_examples=60, stateful_step_count=50, deadline=None))
