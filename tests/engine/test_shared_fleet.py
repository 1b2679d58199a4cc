"""A manager in a fleet with one cap: two caps on its places, sessions that are hidden, registered, and told of.

The fleet is a double, so the store answers as the test wants.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest

from otel_sessions import (
    ConfigError,
    EndReason,
    Here,
    ManagerClosed,
    Peer,
    RejectionReason,
    Session,
    SessionConfig,
    SessionExists,
    SessionManager,
    SessionNotFound,
    StoreUnavailable,
    TooManySessions,
    fingerprint,
)
from otel_sessions._core import clock as clocks
from tests.doubles import Ends, Request, SlowHook, StoreFleet, hang
from tests.signals import Signals
from tests.virtual import Clock, VirtualLoop, settle

pytestmark = pytest.mark.anyio

CONFIG = SessionConfig(
    cleanup_interval=10.0,
    max_idle_time=100.0,
    max_session_age=1000.0,
    max_sessions=10,
    emergency_idle_time=20.0,
    close_timeout=5.0,
    drain_timeout=4.0,
    shutdown_timeout=30.0,
)


@pytest.fixture
def fleet() -> StoreFleet:
    return StoreFleet()


@pytest.fixture
async def manager(clock: Clock, fleet: StoreFleet, ends: Ends) -> AsyncIterator[SessionManager[None]]:
    async with SessionManager(CONFIG, clock=clock, fleet=fleet, on_close=ends) as manager:
        yield manager


async def refusal_of(manager: SessionManager[None], client: str | None = None) -> TooManySessions:
    with pytest.raises(TooManySessions) as caught:
        await manager.create_session(client=client)
    return caught.value


def balanced(manager: SessionManager[Any]) -> bool:
    stats = manager.get_metrics()
    return stats.total_created == stats.total_cleaned + stats.currently_active


class TestRoom:
    async def test_a_creator_is_refused_at_the_grant_and_told_that_the_fleet_is_full(
        self, manager: SessionManager[None], fleet: StoreFleet
    ) -> None:
        fleet.grant = 2
        await manager.create_session()
        async with manager.reserve():
            error = await refusal_of(manager)

        assert (error.limit, error.reason) == (2, RejectionReason.FLEET)
        assert manager.get_metrics().rejected[RejectionReason.FLEET] == 1
        assert manager.get_metrics().rejected[RejectionReason.MAX_SESSIONS] == 0

    async def test_a_refusal_says_when_another_process_may_have_given_a_place_back(
        self, manager: SessionManager[None], fleet: StoreFleet
    ) -> None:
        fleet.grant = 0
        assert (await refusal_of(manager)).retry_after == 5

        fleet.grant = 1
        await manager.create_session()
        assert (await refusal_of(manager)).retry_after == 5
        manager.set_max_sessions(1)
        assert (await refusal_of(manager)).retry_after == 10  # the own cap, as without a fleet

    async def test_the_own_cap_is_named_if_both_caps_are_reached(
        self, manager: SessionManager[None], fleet: StoreFleet
    ) -> None:
        fleet.grant = 2
        manager.set_max_sessions(2)
        for _ in range(2):
            await manager.create_session()

        assert (await refusal_of(manager)).reason is RejectionReason.MAX_SESSIONS

    async def test_a_process_without_a_grant_makes_no_session(
        self, manager: SessionManager[None], fleet: StoreFleet
    ) -> None:
        fleet.grant = 0

        assert (await refusal_of(manager)).limit == 0

    async def test_a_process_that_has_more_than_its_grant_names_the_grant(
        self, manager: SessionManager[None], fleet: StoreFleet
    ) -> None:
        for _ in range(3):
            await manager.create_session()
        fleet.grant = 2

        assert (await refusal_of(manager)).limit == 2

    async def test_a_manager_without_an_own_cap_keeps_to_the_grant(self, clock: Clock) -> None:
        config = SessionConfig(max_sessions=None)
        async with SessionManager(config, clock=clock, fleet=StoreFleet(grant=1)) as manager:
            await manager.create_session()

            assert (await refusal_of(manager)).limit == 1

    async def test_the_own_cap_cannot_be_raised_above_the_grant(
        self, manager: SessionManager[None], fleet: StoreFleet
    ) -> None:
        fleet.grant = 1
        await manager.create_session()
        manager.set_max_sessions(100)

        assert (await refusal_of(manager)).reason is RejectionReason.FLEET

    async def test_a_full_grant_is_named_before_a_client_that_is_full(self, clock: Clock) -> None:
        config = SessionConfig(max_sessions_per_client=1)
        async with SessionManager(config, clock=clock, fleet=StoreFleet(grant=1)) as manager:
            await manager.create_session(client="ada")

            assert (await refusal_of(manager, "ada")).reason is RejectionReason.FLEET

    async def test_a_pass_frees_own_idle_places_when_the_grant_is_used_up(
        self, manager: SessionManager[None], fleet: StoreFleet, ends: Ends
    ) -> None:
        fleet.grant = 2
        await manager.create_session("old")
        await anyio.sleep(1)
        await manager.create_session("newer")
        await anyio.sleep(30)
        await manager.create_session("new")

        assert ends.seen == [("old", EndReason.EVICTED)]

    async def test_no_session_is_evicted_for_a_process_that_may_have_no_place(
        self, manager: SessionManager[None], fleet: StoreFleet, ends: Ends
    ) -> None:
        await manager.create_session()
        await anyio.sleep(30)
        fleet.grant = 0
        await refusal_of(manager)
        await anyio.sleep(1)

        assert ends.seen == []

    async def test_a_client_keeps_its_session_if_the_end_of_it_would_make_no_room(self, clock: Clock) -> None:
        config = SessionConfig(max_sessions_per_client=1, per_client_at_cap="evict_oldest")
        fleet = StoreFleet()
        async with SessionManager(config, clock=clock, fleet=fleet) as manager:
            session = await manager.create_session(client="ada")
            fleet.grant = 0
            await refusal_of(manager, "ada")

            assert session.end_reason is None

    async def test_a_client_at_its_cap_gives_its_own_place_at_a_full_grant(self, clock: Clock) -> None:
        config = SessionConfig(max_sessions_per_client=1, per_client_at_cap="evict_oldest")
        async with SessionManager(config, clock=clock, fleet=StoreFleet(grant=1)) as manager:
            session = await manager.create_session(client="ada")
            await manager.create_session(client="ada")

            assert session.end_reason is EndReason.EVICTED

    async def test_a_creator_waits_for_the_place_of_a_closing_session(self, clock: Clock) -> None:
        fleet = StoreFleet(grant=1)
        async with SessionManager(CONFIG, clock=clock, fleet=fleet, on_close=SlowHook(3)) as manager:
            session = await manager.create_session()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(manager.close_session, session.id)
                await settle()
                begun = clock()
                await manager.create_session()

            assert clock() - begun == pytest.approx(3, abs=0.2)

    async def test_a_creator_that_waits_gets_in_as_soon_as_the_grant_grows(self, clock: Clock) -> None:
        fleet = StoreFleet(grant=1)
        async with SessionManager(CONFIG, clock=clock, fleet=fleet, on_close=SlowHook(3)) as manager:
            session = await manager.create_session()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(manager.close_session, session.id)
                tasks.start_soon(manager.create_session)
                await anyio.sleep(1)
                assert manager.get_metrics().waiting == 1
                fleet.give(2)
                await settle()

                assert manager.get_metrics().waiting == 0
                assert manager.get_metrics().currently_active == 2

    async def test_no_creator_waits_for_closing_sessions_above_the_grant(self, clock: Clock) -> None:
        fleet = StoreFleet()
        async with SessionManager(CONFIG, clock=clock, fleet=fleet, on_close=SlowHook(3)) as manager:
            session = await manager.create_session()
            await manager.create_session()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(manager.close_session, session.id)
                await settle()
                fleet.grant = 1
                begun = clock()
                await refusal_of(manager)

                assert clock() == begun


Asks = Callable[[SessionManager[None], str], Awaitable[object]]


async def get(manager: SessionManager[None], session_id: str) -> object:
    return manager.get(session_id)


async def touch(manager: SessionManager[None], session_id: str) -> object:
    return manager.touch(session_id)


async def contains(manager: SessionManager[None], session_id: str) -> object:
    return session_id in manager or None


async def pin(manager: SessionManager[None], session_id: str) -> object:
    with manager.pin(session_id) as session:
        return session


async def hold(manager: SessionManager[None], session_id: str) -> object:
    with manager.hold(session_id, print) as session:
        return session


async def lease(manager: SessionManager[None], session_id: str) -> object:
    async with manager.lease(session_id) as session:
        return session


async def find(manager: SessionManager[None], session_id: str) -> object:
    return await manager.find(fingerprint(session_id))


async def listed(manager: SessionManager[None], session_id: str) -> object:
    return next(iter(manager.sessions().sessions), None)


async def located_here(manager: SessionManager[None], session_id: str) -> object:
    return await manager.locate(session_id)


async def asked(ask: Asks, manager: SessionManager[None], session_id: str) -> object:
    try:
        return await ask(manager, session_id)
    except SessionNotFound as error:
        assert error.reason is None
        return None


class TestHiddenSessions:
    @pytest.mark.parametrize("ask", [get, touch, contains, pin, hold, lease, find, listed, located_here])
    async def test_a_hidden_session_is_handed_out_to_nobody_until_it_is_visible_again(
        self, manager: SessionManager[None], fleet: StoreFleet, ask: Asks
    ) -> None:
        await manager.create_session("a")
        await manager.close_session("a")  # the reason of an earlier end is not its reason
        session = await manager.create_session("a")
        fleet.hidden.add(session)
        count = session.metadata.message_count

        assert await asked(ask, manager, "a") is None
        assert session.metadata.message_count == count
        fleet.hidden.clear()
        assert await asked(ask, manager, "a") is not None

    async def test_a_hidden_session_is_active_and_takes_its_place(
        self, manager: SessionManager[None], fleet: StoreFleet
    ) -> None:
        fleet.grant = 1
        fleet.hidden.add(await manager.create_session())
        await refusal_of(manager)

        assert len(manager) == manager.get_metrics().currently_active == 1

    async def test_a_hidden_session_ends_by_its_own_timers(
        self, manager: SessionManager[None], fleet: StoreFleet, ends: Ends
    ) -> None:
        fleet.hidden.add(await manager.create_session("a"))
        await anyio.sleep(120)

        assert ends.seen == fleet.gone_for == [("a", EndReason.IDLE_TIMEOUT)]

    async def test_a_hidden_session_can_be_ended_by_hand(
        self, manager: SessionManager[None], fleet: StoreFleet, ends: Ends
    ) -> None:
        for name in "abc":
            fleet.hidden.add(await manager.create_session(name, client="ada" if name == "c" else None))

        assert await manager.close_session("a")
        assert await manager.close_session(fingerprint=fingerprint("b"))
        assert await manager.close_client("ada") == 1
        assert sorted(ends.seen) == [(name, EndReason.CLOSED) for name in "abc"]

    async def test_a_closing_session_stays_on_the_list(self, clock: Clock, fleet: StoreFleet) -> None:
        async with SessionManager(CONFIG, clock=clock, fleet=fleet, on_close=SlowHook(3)) as manager:
            session = await manager.create_session()
            fleet.hidden.add(session)
            fleet.run.end({EndReason.FENCED: [session.id]})

            assert len(manager.sessions().sessions) == 1

    async def test_the_id_of_a_hidden_session_is_in_use_until_it_is_due(
        self, manager: SessionManager[None], fleet: StoreFleet
    ) -> None:
        fleet.hidden.add(await manager.create_session("a", max_idle_time=1))
        with pytest.raises(SessionExists):
            await manager.create_session("a")
        await anyio.sleep(1)
        await manager.create_session("a")

        assert fleet.gone_for == [("a", EndReason.IDLE_TIMEOUT)]

    async def test_a_holder_keeps_a_session_that_is_hidden_meanwhile(
        self, manager: SessionManager[None], fleet: StoreFleet
    ) -> None:
        session = await manager.create_session()
        async with manager.lease(session.id):
            fleet.hidden.add(session)
            await anyio.sleep(1)
        assert session.end_reason is None

    async def test_an_id_that_is_hidden_here_leads_where_the_fleet_says(
        self, manager: SessionManager[None], fleet: StoreFleet
    ) -> None:
        session = await manager.create_session()
        assert await manager.locate(session.id) == Here()
        fleet.hidden.add(session)
        fleet.peer = Peer(name="w2", address="http://10.0.0.7:9001")

        assert await manager.locate(session.id) == fleet.peer


class TestRegistration:
    async def test_a_session_is_returned_when_the_store_knows_it(
        self, manager: SessionManager[None], fleet: StoreFleet, clock: Clock
    ) -> None:
        fleet.silent = True
        async with anyio.create_task_group() as tasks:
            made: list[Session] = []

            async def create() -> None:
                made.append(await manager.create_session())

            tasks.start_soon(create)
            await anyio.sleep(2)
            assert made == []
            fleet.answer()
        assert made == list(fleet.standing)

    async def test_an_id_that_another_process_has_ends_as_fenced(
        self, manager: SessionManager[None], fleet: StoreFleet, ends: Ends
    ) -> None:
        fleet.refusal = SessionExists("a")
        with pytest.raises(SessionExists):
            await manager.create_session("a")
        await settle()

        assert ends.seen == fleet.gone_for == [("a", EndReason.FENCED)]
        assert len(manager) == 0
        assert balanced(manager)

    async def test_a_session_that_the_store_does_not_take_ends_as_failed(
        self, manager: SessionManager[None], fleet: StoreFleet, ends: Ends
    ) -> None:
        fleet.refusal = StoreUnavailable(retry_after=2.5)
        with pytest.raises(StoreUnavailable) as caught:
            await manager.create_session("a")
        await settle()

        assert caught.value.retry_after == 2.5
        assert ends.seen == fleet.gone_for == [("a", EndReason.FAILED)]
        assert balanced(manager)

    async def test_a_session_that_others_claim_before_it_is_registered_ends_as_failed(
        self, manager: SessionManager[None], fleet: StoreFleet, ends: Ends
    ) -> None:
        async with manager.reserve() as place:
            session = place.commit("a")
        fleet.refusal = SessionNotFound("a")
        with pytest.raises(SessionNotFound):
            await session.registered()
        await settle()

        assert ends.seen == fleet.gone_for == [("a", EndReason.FAILED)]
        assert len(manager) == 0
        assert balanced(manager)

    async def test_an_error_of_the_fleet_ends_the_session_that_nobody_was_told_of(
        self, manager: SessionManager[None], fleet: StoreFleet
    ) -> None:
        fleet.refusal = RuntimeError("a bug")
        with pytest.raises(RuntimeError):
            await manager.create_session("a")
        await settle()

        assert fleet.gone_for == [("a", EndReason.CLOSED)]

    async def test_a_creator_that_is_cancelled_leaves_no_session(
        self, manager: SessionManager[None], fleet: StoreFleet, ends: Ends
    ) -> None:
        fleet.silent = True
        with anyio.move_on_after(1):
            await manager.create_session("a")
        await settle()

        assert ends.seen == fleet.gone_for == [("a", EndReason.CLOSED)]
        assert len(manager) == 0
        assert balanced(manager)

    async def test_a_session_that_is_closed_meanwhile_is_not_returned(
        self, manager: SessionManager[None], fleet: StoreFleet
    ) -> None:
        fleet.silent = True
        async with anyio.create_task_group() as tasks:

            async def create() -> None:
                with pytest.raises(SessionNotFound) as caught:
                    await manager.create_session("a")
                assert caught.value.reason is EndReason.CLOSED

            tasks.start_soon(create)
            await settle()
            await manager.close_session("a")

    async def test_a_shutdown_does_not_wait_for_a_store_that_registers_nothing(
        self, manager: SessionManager[None], fleet: StoreFleet, clock: Clock
    ) -> None:
        fleet.silent = True
        async with anyio.create_task_group() as tasks:

            async def create() -> None:
                with pytest.raises(ManagerClosed):
                    await manager.create_session("a")

            tasks.start_soon(create)
            await settle()
            begun = clock()
            await manager.shutdown()
            assert clock() == begun

    async def test_a_commit_does_not_wait_and_registered_does(
        self, manager: SessionManager[None], fleet: StoreFleet, clock: Clock
    ) -> None:
        fleet.silent = True
        async with manager.reserve() as place:
            session = place.commit("a")
        assert manager.get("a") is session
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 2)
            begun = clock()

            async def answer() -> None:
                await anyio.sleep(2)
                fleet.answer()

            tasks.start_soon(answer)
            await session.registered()
            assert clock() == begun + 2
        await session.registered()

    async def test_who_has_made_a_session_may_hold_it_while_the_fleet_hides_it(
        self, manager: SessionManager[None], fleet: StoreFleet
    ) -> None:
        async with manager.reserve() as place:
            session = place.commit("a")
        fleet.hidden.add(session)
        with pytest.raises(SessionNotFound), manager.hold("a", print):
            pass
        with manager.hold(session, print) as held:
            assert held is session
        await manager.close_session("a")
        with pytest.raises(SessionNotFound, match="closed"), manager.hold(session, print):
            pass

    async def test_a_committed_session_that_cannot_be_registered_is_ended(
        self, manager: SessionManager[None], fleet: StoreFleet
    ) -> None:
        fleet.refusal = StoreUnavailable()
        async with manager.reserve() as place:
            session = place.commit("a")
        with pytest.raises(StoreUnavailable):
            await session.registered()
        assert isinstance(session.failure, StoreUnavailable)
        with pytest.raises(SessionNotFound) as caught:
            await session.registered()

        assert caught.value.reason is EndReason.FAILED

    async def test_who_gives_up_waiting_for_a_committed_session_leaves_it(
        self, manager: SessionManager[None], fleet: StoreFleet
    ) -> None:
        fleet.silent = True
        async with manager.reserve() as place:
            session = place.commit("a")
        with anyio.move_on_after(1):
            await session.registered()

        assert manager.get("a") is session

    async def test_without_a_fleet_there_is_nothing_to_wait_for(self, clock: Clock) -> None:
        async with SessionManager(clock=clock) as manager:
            session = await manager.create_session()
            await manager.close_session(session.id)
            await session.registered()


async def by_a_pass(manager: SessionManager[None], fleet: StoreFleet) -> None:
    await anyio.sleep(120)


async def by_hand(manager: SessionManager[None], fleet: StoreFleet) -> None:
    await manager.close_session("a")


async def by_client(manager: SessionManager[None], fleet: StoreFleet) -> None:
    await manager.close_client("ada")


async def by_the_fleet(manager: SessionManager[None], fleet: StoreFleet) -> None:
    fleet.run.end({EndReason.FENCED: ["a"]})
    await settle()


async def by_shutdown(manager: SessionManager[None], fleet: StoreFleet) -> None:
    await manager.shutdown()


async def by_a_drain(manager: SessionManager[None], fleet: StoreFleet) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Request(manager, "a"))
        await anyio.sleep(1100)


async def by_failing(manager: SessionManager[None], fleet: StoreFleet) -> None:
    session = manager.get("a")
    assert session is not None
    session.fail("the upstream hung up")
    await anyio.sleep(20)


End = Callable[[SessionManager[None], StoreFleet], Awaitable[None]]
WAYS: list[tuple[End, EndReason]] = [
    (by_a_pass, EndReason.IDLE_TIMEOUT),
    (by_hand, EndReason.CLOSED),
    (by_client, EndReason.CLOSED),
    (by_the_fleet, EndReason.FENCED),
    (by_shutdown, EndReason.SHUTDOWN),
    (by_a_drain, EndReason.MAX_AGE),
    (by_failing, EndReason.FAILED),
]


class TestEnds:
    @pytest.mark.parametrize("with_hook", [False, True])
    @pytest.mark.parametrize(("end", "reason"), WAYS)
    async def test_the_fleet_is_told_once_of_each_session_that_is_gone(
        self, clock: Clock, fleet: StoreFleet, ends: Ends, end: End, reason: EndReason, with_hook: bool
    ) -> None:
        hook = ends if with_hook else None
        async with SessionManager(CONFIG, clock=clock, fleet=fleet, on_close=hook) as manager:
            await manager.create_session("a", client="ada")
            await end(manager, fleet)

            assert fleet.gone_for == [("a", reason)]
            assert not fleet.standing
            assert balanced(manager)
        assert fleet.gone_for == [("a", reason)]

    async def test_the_fleet_is_told_when_the_holders_have_left_and_the_hook_has_run(
        self, clock: Clock, fleet: StoreFleet
    ) -> None:
        async with SessionManager(CONFIG, clock=clock, fleet=fleet, on_close=SlowHook(2)) as manager:
            await manager.create_session("a")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(Request(manager, "a", lingers=1))
                await settle()
                fleet.run.end({EndReason.FENCED: ["a"]})
                await anyio.sleep(2.9)
                assert fleet.gone_for == []
                await anyio.sleep(0.2)
                assert fleet.gone_for == [("a", EndReason.FENCED)]

    async def test_a_session_whose_hook_hangs_is_gone_before_the_farewell(
        self, clock: Clock, fleet: StoreFleet
    ) -> None:
        config = SessionConfig(close_timeout=100.0, shutdown_timeout=10.0)
        async with SessionManager(config, clock=clock, fleet=fleet, on_close=hang) as manager:
            await manager.create_session("a")
            begun = clock()
            await manager.shutdown()

        assert clock() - begun <= 10
        assert fleet.gone_for == [("a", EndReason.SHUTDOWN)]
        assert "farewell with 0" in fleet.said
        assert balanced(manager)

    async def test_a_session_that_a_cut_off_pass_has_not_reached_is_gone_before_the_farewell(
        self, clock: Clock, fleet: StoreFleet
    ) -> None:
        config = SessionConfig(close_timeout=100.0, shutdown_timeout=10.0)
        async with SessionManager(config, clock=clock, fleet=fleet, on_close=hang) as manager:
            await manager.create_session("a")
            async with anyio.create_task_group() as tasks:
                passes = manager._running().passes
                await passes._finding.acquire()  # a pass that never ends
                tasks.start_soon(manager.shutdown)
                await anyio.sleep(20)
                passes._finding.release()

        assert fleet.gone_for == [("a", EndReason.SHUTDOWN)]
        assert "farewell with 0" in fleet.said

    @pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
    async def test_a_manager_whose_task_is_cancelled_tells_of_its_sessions_without_a_farewell(
        self, clock: Clock, fleet: StoreFleet
    ) -> None:
        async def work() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                fleet.said.append("work ends")

        async with SessionManager(CONFIG, clock=clock, fleet=fleet) as manager:
            await manager.create_session("a")
            fleet.run.start("work", work)
            await settle()
            [task] = [task for task in asyncio.all_tasks() if task.get_name() == "otel-sessions supervisor"]
            task.cancel()
            await anyio.sleep(1)

            assert fleet.gone_for == [("a", EndReason.SHUTDOWN)]
            assert fleet.said == ["enter", "begin", "leave", "work ends"]

    @pytest.mark.parametrize("closes", [False, True])
    def test_a_loop_that_dies_takes_its_sessions_with_it_and_the_fleet_knows(
        self, fleet: StoreFleet, closes: bool
    ) -> None:
        manager = SessionManager(CONFIG, fleet=fleet, on_close=hang)

        async def main() -> None:
            await manager.__aenter__()
            await manager.create_session("a")
            if closes:
                fleet.run.end({EndReason.FENCED: ["a"]})
                await asyncio.sleep(1)

        loop = VirtualLoop()
        loop.run_until_complete(main())
        loop.close()
        with pytest.raises(ManagerClosed):
            manager.reserve()

        assert fleet.gone_for == [("a", EndReason.FENCED if closes else EndReason.SHUTDOWN)]
        assert fleet.said == ["enter", "begin", "leave"]
        assert balanced(manager)

    async def test_a_forked_process_tells_nothing_of_the_sessions_of_its_parent(
        self, clock: Clock, fleet: StoreFleet
    ) -> None:
        manager = await SessionManager(CONFIG, clock=clock, fleet=fleet).__aenter__()
        await manager.create_session("a")
        manager.start_anew_after_fork()

        assert fleet.gone_for == []
        assert fleet.said == ["enter", "begin", "leave"]


class TestRun:
    async def test_the_fleet_knows_how_many_places_are_taken(
        self, manager: SessionManager[None], fleet: StoreFleet
    ) -> None:
        await manager.create_session()
        async with manager.reserve():
            assert fleet.run.taken == 2

    async def test_the_fleet_knows_the_limits_of_hooks_and_the_time(
        self, manager: SessionManager[None], fleet: StoreFleet, clock: Clock
    ) -> None:
        run = fleet.run

        assert (run.close_timeout, run.max_concurrent_closes) == (CONFIG.close_timeout, CONFIG.close_concurrency)
        assert run.clock() == clock()

    async def test_the_fleet_ends_the_sessions_that_there_are_each_once(
        self, manager: SessionManager[None], fleet: StoreFleet, ends: Ends
    ) -> None:
        for name in "ab":
            await manager.create_session(name)
        fleet.run.end({EndReason.FENCED: ["a", "a", "nobody"], EndReason.FAILED: ["a", "b"]})
        fleet.run.end({EndReason.CLOSED: ["a", "b"]})
        await settle()

        assert sorted(ends.seen) == [("a", EndReason.FENCED), ("b", EndReason.FAILED)]

    async def test_a_due_session_counts_as_due_but_a_fenced_one_as_fenced(
        self, manager: SessionManager[None], fleet: StoreFleet, ends: Ends
    ) -> None:
        for name in "ab":
            await manager.create_session(name, max_idle_time=1)
        await anyio.sleep(2)
        fleet.run.end({EndReason.FENCED: ["a"], EndReason.FAILED: ["b"]})
        await settle()

        assert sorted(ends.seen) == [("a", EndReason.FENCED), ("b", EndReason.IDLE_TIMEOUT)]

    async def test_the_work_of_the_fleet_goes_on_until_the_farewell_is_said(
        self, clock: Clock, fleet: StoreFleet
    ) -> None:
        fleet.farewell_takes = 3.0

        async def work() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                fleet.said.append("work ends")

        async with SessionManager(CONFIG, clock=clock, fleet=fleet) as manager:
            fleet.run.start("work", work)
            await manager.create_session()
            await settle()
        assert fleet.said == [
            *("enter", "begin", "wait_quiet", "farewell with 0", "farewell said", "work ends", "leave")
        ]

    async def test_a_store_that_hangs_delays_the_exit_by_the_shutdown_timeout_at_most(
        self, clock: Clock, fleet: StoreFleet
    ) -> None:
        fleet.farewell_takes = 1000.0
        begun = clock()
        async with SessionManager(CONFIG, clock=clock, fleet=fleet) as manager:
            await manager.create_session()

        assert clock() - begun <= 30
        assert fleet.said[-1] == "leave"
        assert balanced(manager)

    async def test_the_block_begins_when_the_fleet_is_ready(self, clock: Clock, fleet: StoreFleet) -> None:
        fleet.ready_takes, begun = 3.0, clock()
        async with SessionManager(CONFIG, clock=clock, fleet=fleet):
            assert clock() == begun + 3.0

    async def test_a_run_that_the_fleet_refuses_ends_before_its_block(self, clock: Clock, fleet: StoreFleet) -> None:
        manager = SessionManager(CONFIG, clock=clock, fleet=fleet)
        fleet.unready = ConfigError("the fleet's shards is 4")
        with pytest.raises(ConfigError, match="the fleet's shards is 4"):
            await manager.__aenter__()
        assert fleet.said[-1] == "leave"

        fleet.unready = None
        async with manager:
            await manager.create_session("a")
            assert "a" in manager

    async def test_an_entry_that_is_cancelled_ends_the_run(self, clock: Clock, fleet: StoreFleet) -> None:
        fleet.ready_takes = 100.0
        with anyio.move_on_after(1.0):
            await SessionManager(CONFIG, clock=clock, fleet=fleet).__aenter__()

        assert fleet.said[-1] == "leave"

    async def test_a_manager_that_is_entered_again_begins_again(
        self, clock: Clock, fleet: StoreFleet, signals: Signals
    ) -> None:
        manager = signals.manager(CONFIG, clock=clock, fleet=fleet)
        for _ in range(2):
            async with manager:
                session = await manager.create_session("a")
                fleet.hidden = {session}
                assert manager.get("a") is None
        assert fleet.said.count("begin") == 2
        assert fleet.gone_for == [("a", EndReason.SHUTDOWN)] * 2
        assert signals.export().is_balanced


class TestClock:
    def test_in_a_fleet_time_passes_while_the_machine_sleeps(self, fleet: StoreFleet) -> None:
        assert SessionManager(fleet=fleet)._clock is clocks.since_boot
        assert SessionManager()._clock is time.monotonic

    def test_the_time_since_the_start_of_the_machine_is_in_seconds(self) -> None:
        begun = time.monotonic()  # which stands still while the machine sleeps

        assert clocks.since_boot() >= begun > 0
