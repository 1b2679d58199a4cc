"""The cap: places are taken before sessions are made, given back once, and freed by emergency passes."""

import asyncio
import gc
import math
import random
import weakref
from typing import Any

import anyio
import pytest

from otel_sessions import (
    ConfigError,
    EndReason,
    ManagerClosed,
    Outcome,
    RejectionReason,
    Session,
    SessionConfig,
    SessionExists,
    SessionManager,
    TooManySessions,
    Trigger,
)
from tests.doubles import Ends, SlowHook
from tests.virtual import BACKENDS, Clock, settle

pytestmark = pytest.mark.anyio


class Creator:
    """Somebody who asks for a session: what came of it, and when."""

    def __init__(self, manager: SessionManager, client: str | None = None) -> None:
        self._manager = manager
        self._client = client
        self.scope = anyio.CancelScope()
        self.session: Session | None = None
        self.error: Exception | None = None
        self.answered_at: float | None = None

    async def __call__(self) -> None:
        with self.scope:
            try:
                self.session = await self._manager.create_session(client=self._client)
            except (TooManySessions, ManagerClosed) as error:
                self.error = error
            self.answered_at = anyio.current_time()


def config(**settings: Any) -> SessionConfig:
    """A cap that nothing but an emergency pass or the end of a session relieves."""
    return SessionConfig(**{"cleanup_interval": 1000, "max_session_age": None, **settings})


async def fill(manager: SessionManager, count: int) -> list[Session]:
    return [await manager.create_session() for _ in range(count)]


async def refusal(manager: SessionManager, client: str | None = None) -> TooManySessions:
    with pytest.raises(TooManySessions) as caught:
        await manager.create_session(client=client)
    return caught.value


class TestHolding:
    async def test_of_a_thousand_creators_at_one_below_the_cap_exactly_one_gets_in(self, clock: Clock) -> None:
        async with SessionManager(config(max_sessions=100), clock=clock) as manager:
            await fill(manager, 99)
            creators = [Creator(manager) for _ in range(1000)]

            async with anyio.create_task_group() as group:
                for creator in creators:
                    group.start_soon(creator)

            assert sum(creator.session is not None for creator in creators) == 1
            stats = manager.get_metrics()
            assert stats.rejected[RejectionReason.MAX_SESSIONS] == 999
            assert (stats.currently_active, stats.reserved, stats.peak_active) == (100, 0, 100)

    async def test_reserved_live_and_closing_sessions_never_exceed_the_cap(self, clock: Clock) -> None:
        dice = random.Random(7)  # noqa: S311  # which of the two comes first is no secret

        async def hook(session: Session, reason: EndReason) -> None:
            check()
            await anyio.sleep(dice.random())
            check()

        def check() -> None:
            stats = manager.get_metrics()
            assert stats.currently_active + stats.reserved <= 10
            assert stats.total_created == stats.total_cleaned + stats.currently_active

        async def client() -> None:
            for _ in range(20):
                with anyio.move_on_after(dice.random() * 3):
                    try:
                        async with manager.reserve() as place:
                            check()
                            await anyio.sleep(dice.random())
                            session = place.commit()
                            check()
                            await anyio.sleep(dice.random())
                            await manager.close_session(session.id)
                    except TooManySessions:
                        await anyio.sleep(dice.random())
                check()

        settings = config(max_sessions=10, emergency_idle_time=1, close_concurrency=3, close_timeout=2)
        async with SessionManager(settings, clock=clock, on_close=hook) as manager:
            async with anyio.create_task_group() as group:
                for _ in range(40):
                    group.start_soon(client)
            stats = manager.get_metrics()
            assert stats.reserved == 0
            assert stats.peak_active == 10
            assert stats.rejected[RejectionReason.MAX_SESSIONS] > 0
        assert manager.get_metrics().total_created == manager.get_metrics().total_cleaned > 20

    async def test_without_a_cap_there_is_always_a_place_and_nothing_to_evict(self, clock: Clock) -> None:
        async with SessionManager(config(max_sessions=None), clock=clock) as manager:
            await fill(manager, 2000)
            await anyio.sleep(400)
            assert (await manager.emergency_cleanup()).total_cleaned == 0
            assert len(manager) == 2000

    async def test_a_closing_session_keeps_its_place(self) -> None:
        async with SessionManager(config(max_sessions=1), on_close=SlowHook(3)) as manager:
            [session] = await fill(manager, 1)
            creator = Creator(manager)
            async with anyio.create_task_group() as group:
                group.start_soon(manager.close_session, session.id)
                await settle()
                begun = anyio.current_time()
                group.start_soon(creator)
            assert creator.answered_at == pytest.approx(begun + 3, abs=0.2)
            assert creator.session is not None

    async def test_a_place_that_a_hook_was_cut_off_for_is_free_again(self) -> None:
        settings = config(max_sessions=1, close_timeout=2)
        async with SessionManager(settings, on_close=SlowHook(1000)) as manager:
            [session] = await fill(manager, 1)
            await manager.close_session(session.id)
            await fill(manager, 1)

    async def test_a_cancelled_creator_leaks_no_place(self) -> None:
        async with SessionManager(config(max_sessions=1), on_close=SlowHook(3)) as manager:
            [session] = await fill(manager, 1)
            impatient, patient = Creator(manager), Creator(manager)
            async with anyio.create_task_group() as group:
                group.start_soon(manager.close_session, session.id)
                await settle()
                group.start_soon(impatient)
                await settle()
                impatient.scope.cancel()
                await settle()
                group.start_soon(patient)
            assert impatient.session is None
            assert patient.session is not None
            assert manager.get_metrics().reserved == 0

    async def test_a_creator_who_is_cancelled_just_as_a_place_is_given_leaks_none(self) -> None:
        async with SessionManager(config(max_sessions=2), on_close=SlowHook(3)) as manager:
            [session] = await fill(manager, 1)
            creator = Creator(manager)
            async with anyio.create_task_group() as group:
                async with manager.reserve():
                    group.start_soon(manager.close_session, session.id)
                    await settle()
                    group.start_soon(creator)
                    await settle()
                creator.scope.cancel()

            taken = 0 if creator.session is None else 1
            assert manager.get_metrics().reserved == 0
            assert len(manager) == taken
            await fill(manager, 2 - taken)

    async def test_a_creator_who_is_cancelled_hands_its_place_to_the_next(self, anyio_backend_name: str) -> None:
        async with SessionManager(config(max_sessions=3), on_close=SlowHook(4)) as manager:
            sessions = await fill(manager, 2)
            first, second = Creator(manager), Creator(manager)
            async with anyio.create_task_group() as group:
                async with manager.reserve():
                    for session in sessions:
                        group.start_soon(manager.close_session, session.id)
                    await settle()
                    for creator in (first, second):
                        group.start_soon(creator)
                        await settle()
                begun = anyio.current_time()
                first.scope.cancel()
                await settle()
                if first.session is None:  # asyncio cancels what has not run on yet, trio does not
                    assert second.answered_at == pytest.approx(begun, abs=0.2)
            assert second.session is not None
            assert manager.get_metrics().reserved == 0

    @pytest.mark.parametrize("anyio_backend", [("asyncio", BACKENDS["asyncio"]())], ids=["asyncio"])
    async def test_asyncios_own_cancellation_of_a_creator_just_as_a_place_is_given_leaks_none(self) -> None:
        async with SessionManager(config(max_sessions=2), on_close=SlowHook(3)) as manager:
            [session] = await fill(manager, 1)
            async with anyio.create_task_group() as group:
                async with manager.reserve():
                    group.start_soon(manager.close_session, session.id)
                    await settle()
                    creator = asyncio.create_task(manager.create_session())
                    await settle()
                creator.cancel()
            assert creator.cancelled()
            assert manager.get_metrics().reserved == 0
            await fill(manager, 2)

    async def test_a_cancelled_reservation_leaks_no_place(self) -> None:
        async with SessionManager(config(max_sessions=1)) as manager:
            with anyio.move_on_after(1):
                async with manager.reserve():
                    await anyio.sleep_forever()
            assert manager.get_metrics().reserved == 0
            await fill(manager, 1)


class TestWaiting:
    async def test_creators_wait_first_come_first_served_while_hooks_run(self) -> None:
        settings = config(max_sessions=3, close_concurrency=1)
        async with SessionManager(settings, on_close=SlowHook(1)) as manager:
            sessions = await fill(manager, 3)
            creators = [Creator(manager) for _ in range(3)]
            async with anyio.create_task_group() as group:
                for session in sessions:
                    group.start_soon(manager.close_session, session.id)
                await anyio.sleep(0.5)
                begun = anyio.current_time()
                for creator in creators:
                    group.start_soon(creator)
                    await anyio.sleep(0.01)
            answers = [creator.answered_at or 0.0 for creator in creators]
            assert answers == pytest.approx([begun + 0.5, begun + 1.5, begun + 2.5], abs=0.01)
            assert all(creator.session for creator in creators)

    async def test_who_is_not_covered_by_a_closing_session_is_refused_at_once(self, clock: Clock) -> None:
        async with SessionManager(config(max_sessions=3), clock=clock, on_close=SlowHook(3)) as manager:
            sessions = await fill(manager, 3)
            await refusal(manager)  # so that no emergency pass starts within the next second
            creators = [Creator(manager) for _ in range(4)]
            async with anyio.create_task_group() as group:
                for session in sessions[:2]:
                    group.start_soon(manager.close_session, session.id)
                await settle()
                for creator in creators:
                    group.start_soon(creator)
                    await settle()
                assert [bool(creator.error) for creator in creators] == [False, False, True, True]
            assert [bool(creator.session) for creator in creators] == [True, True, False, False]

    async def test_a_creator_waits_no_longer_than_close_timeout(self) -> None:
        settings = config(max_sessions=2, close_concurrency=1, close_timeout=2)
        async with SessionManager(settings, on_close=SlowHook(1.5)) as manager:
            sessions = await fill(manager, 2)
            lucky, late = Creator(manager), Creator(manager)
            async with anyio.create_task_group() as group:
                for session in sessions:
                    group.start_soon(manager.close_session, session.id)
                await settle()
                begun = anyio.current_time()
                for creator in (lucky, late):
                    group.start_soon(creator)
                    await settle()
            assert lucky.session is not None
            assert isinstance(late.error, TooManySessions)
            assert late.answered_at == pytest.approx(begun + 2, abs=0.2)
            assert manager.get_metrics().rejected[RejectionReason.MAX_SESSIONS] == 1
            assert manager.get_metrics().reserved == 0

    async def test_nobody_overtakes_a_creator_who_waits(self) -> None:
        async with SessionManager(config(max_sessions=2), on_close=SlowHook(3)) as manager:
            [session] = await fill(manager, 1)
            waiting, late = Creator(manager), Creator(manager)
            async with anyio.create_task_group() as group:
                async with manager.reserve():
                    group.start_soon(manager.close_session, session.id)
                    await settle()
                    group.start_soon(waiting)
                    await settle()
                group.start_soon(late)  # a place has come back by now, but it is not for the latecomer
                await settle()
                assert waiting.session is not None
                assert late.answered_at is None
            assert late.session is not None

    async def test_who_waits_is_told_when_the_manager_shuts_down(self) -> None:
        async with SessionManager(config(max_sessions=1), on_close=SlowHook(3)) as manager:
            [session] = await fill(manager, 1)
            creator = Creator(manager)
            async with anyio.create_task_group() as group:
                group.start_soon(manager.close_session, session.id)
                await settle()
                group.start_soon(creator)
                await settle()
                begun = anyio.current_time()
                group.start_soon(manager.shutdown)
            assert isinstance(creator.error, ManagerClosed)
            assert creator.answered_at == pytest.approx(begun, abs=0.2)
            stats = manager.get_metrics()
            assert stats.rejected[RejectionReason.SHUTDOWN] == 1
            assert stats.reserved == 0


class TestEmergencies:
    async def test_the_longest_idle_go_until_a_tenth_is_free(self, clock: Clock, ends: Ends) -> None:
        settings = config(max_sessions=40, emergency_idle_time=100)
        async with SessionManager(settings, clock=clock, on_close=ends) as manager:
            sessions = []
            for _ in range(40):
                sessions += await fill(manager, 1)
                await anyio.sleep(1)
            for session in sessions[:10]:
                session.touch()
                await anyio.sleep(1)
            await anyio.sleep(100)

            session = await manager.create_session()
            assert session.id in manager
            await settle()
            assert set(ends.seen) == {(session.id, EndReason.EVICTED) for session in sessions[10:14]}
            assert len(manager) == 37

    async def test_of_a_small_cap_one_place_is_freed(self, clock: Clock) -> None:
        async with SessionManager(config(max_sessions=5, emergency_idle_time=100), clock=clock) as manager:
            await fill(manager, 5)
            await anyio.sleep(100)
            await fill(manager, 1)
            assert manager.get_metrics().cleaned_by_reason[EndReason.EVICTED] == 1

    async def test_the_emergency_age_counts_too(self, clock: Clock) -> None:
        settings = config(max_sessions=2, max_session_age=5000, emergency_idle_time=None, emergency_session_age=50)
        async with SessionManager(settings, clock=clock) as manager:
            old, _ = await fill(manager, 2)
            await anyio.sleep(49)
            old.touch()
            await refusal(manager)
            await anyio.sleep(1.5)
            await fill(manager, 1)
            assert manager.get_metrics().cleaned_by_reason[EndReason.EVICTED] == 1

    async def test_a_leased_session_is_never_evicted(self, clock: Clock) -> None:
        async with SessionManager(config(max_sessions=2, emergency_idle_time=100), clock=clock) as manager:
            leased, idle = await fill(manager, 2)
            with manager.pin(leased.id):
                await anyio.sleep(1000)
                await fill(manager, 1)
                assert leased.id in manager
                assert idle.id not in manager
                assert (await refusal(manager)).limit == 2

    async def test_a_session_that_has_switched_a_limit_off_is_not_evicted_by_it(self, clock: Clock) -> None:
        settings = config(max_sessions=3, emergency_idle_time=100, emergency_session_age=200)
        async with SessionManager(settings, clock=clock) as manager:
            endless = await manager.create_session(max_idle_time=None, max_session_age=None)
            calm = await manager.create_session(max_idle_time=None)
            steady = await manager.create_session(max_session_age=None)
            await anyio.sleep(100)
            steady.touch()
            await refusal(manager)
            await anyio.sleep(99)
            steady.touch()
            await refusal(manager)
            await anyio.sleep(1.5)

            await fill(manager, 1)
            assert calm.id not in manager
            await anyio.sleep(98.5)
            await fill(manager, 1)
            assert steady.id not in manager
            assert endless.id in manager

    async def test_what_is_due_goes_first_under_its_own_reason_and_without_limit(self, clock: Clock) -> None:
        settings = config(max_sessions=10, max_idle_time=500, emergency_idle_time=100)
        async with SessionManager(settings, clock=clock) as manager:
            stale = await fill(manager, 3)
            failed = (await fill(manager, 1))[0]
            await anyio.sleep(400)
            fresh = await fill(manager, 6)
            await anyio.sleep(100)
            failed.fail("upstream hung up")

            await fill(manager, 1)
            cleaned = manager.get_metrics().cleaned_by_reason
            assert cleaned[EndReason.IDLE_TIMEOUT] == 3
            assert cleaned[EndReason.FAILED] == 1
            assert cleaned[EndReason.EVICTED] == 0
            assert all(session.id in manager for session in fresh)
            assert not any(session.id in manager for session in stale)

    async def test_an_emergency_limit_above_the_normal_one_acts_as_the_normal_one(self, clock: Clock) -> None:
        settings = config(max_sessions=2, max_idle_time=50, emergency_idle_time=300)
        async with SessionManager(settings, clock=clock) as manager:
            await fill(manager, 2)
            await anyio.sleep(50)
            await fill(manager, 1)
            assert manager.get_metrics().cleaned_by_reason[EndReason.IDLE_TIMEOUT] == 2

    @pytest.mark.parametrize(("own", "evicted"), [(1000.0, True), (300.0, True), (None, False)])
    async def test_that_holds_for_a_session_with_a_limit_of_its_own_too(
        self, clock: Clock, own: float | None, evicted: bool
    ) -> None:
        settings = config(max_sessions=1, max_idle_time=100, emergency_idle_time=250)
        async with SessionManager(settings, clock=clock) as manager:
            session = await manager.create_session(max_idle_time=own)
            await anyio.sleep(99)
            retry_after = (await refusal(manager)).retry_after
            assert (retry_after == pytest.approx(1)) == evicted
            await anyio.sleep(1)
            if evicted:
                await manager.create_session()
                assert session.end_reason is EndReason.EVICTED
            else:
                await refusal(manager)

    async def test_an_emergency_age_above_the_normal_one_acts_as_the_normal_one_for_every_session(
        self, clock: Clock
    ) -> None:
        settings = config(max_sessions=1, max_session_age=100, emergency_session_age=250, emergency_idle_time=None)
        async with SessionManager(settings, clock=clock) as manager:
            session = await manager.create_session(max_session_age=1000)
            await anyio.sleep(99)
            session.touch()
            await refusal(manager)
            await anyio.sleep(1)
            await manager.create_session()
            assert session.end_reason is EndReason.EVICTED

    async def test_an_emergency_limit_that_is_off_evicts_nobody_whatever_the_normal_one_is(self, clock: Clock) -> None:
        settings = config(max_sessions=1, max_idle_time=100, emergency_idle_time=None, emergency_session_age=None)
        async with SessionManager(settings, clock=clock) as manager:
            await manager.create_session(max_idle_time=1000)
            await anyio.sleep(500)
            await refusal(manager)

    async def test_an_emergency_limit_without_a_normal_one_stands_for_itself(self, clock: Clock) -> None:
        settings = config(max_sessions=1, max_idle_time=None, emergency_idle_time=250)
        async with SessionManager(settings, clock=clock) as manager:
            session = await manager.create_session(max_idle_time=1000)
            await anyio.sleep(249)
            await refusal(manager)
            await anyio.sleep(1)
            await manager.create_session()
            assert session.end_reason is EndReason.EVICTED

    async def test_passes_start_at_most_once_a_second(self, clock: Clock) -> None:
        async with SessionManager(config(max_sessions=5), clock=clock) as manager:
            await fill(manager, 5)
            for _ in range(40):
                await refusal(manager)
                await anyio.sleep(0.25)
            assert manager.get_metrics().cleanup_runs == 10

    async def test_once_a_second_is_by_the_managers_clock_which_stands_still_when_it_is_put_back(
        self, clock: Clock
    ) -> None:
        async with SessionManager(config(max_sessions=5), clock=clock) as manager:
            await fill(manager, 5)
            for jump in (0.0, 0.0, 1.0, 0.0, -100.0, 99.0, 2.0):
                clock.skew += jump
                await refusal(manager)
            assert manager.get_metrics().cleanup_runs == 3

    async def test_a_flood_at_the_cap_does_the_same_work_for_each_refusal_at_any_size(self, clock: Clock) -> None:
        reads = 0

        def counting_clock() -> float:
            nonlocal reads
            reads += 1
            return clock()

        async with SessionManager(config(max_sessions=1000), clock=counting_clock) as manager:
            await fill(manager, 1000)
            await refusal(manager)
            reads = 0
            for _ in range(5000):
                await refusal(manager)

            stats = manager.get_metrics()
            assert stats.rejected[RejectionReason.MAX_SESSIONS] == 5001
            assert stats.cleanup_runs == 1
            assert stats.last_cleanup is not None
            assert stats.last_cleanup.examined == 1000
            assert reads < 4 * 5001

    async def test_creators_of_one_moment_share_one_pass_and_what_it_frees(self, clock: Clock) -> None:
        async with SessionManager(config(max_sessions=30, emergency_idle_time=100), clock=clock) as manager:
            await fill(manager, 30)
            await anyio.sleep(100)
            creators = [Creator(manager) for _ in range(100)]
            begun = anyio.current_time()
            async with anyio.create_task_group() as group:
                for creator in creators:
                    group.start_soon(creator)
            assert sum(creator.session is not None for creator in creators) == 3
            assert all(creator.answered_at == pytest.approx(begun, abs=0.2) for creator in creators)
            assert manager.get_metrics().cleanup_runs == 1
            assert len(manager) == 30

    async def test_creators_wait_for_the_hooks_of_the_evicted(self, clock: Clock) -> None:
        settings = config(max_sessions=30, emergency_idle_time=100, close_concurrency=1)
        async with SessionManager(settings, clock=clock, on_close=SlowHook(1)) as manager:
            await fill(manager, 30)
            await anyio.sleep(100)
            creators = [Creator(manager) for _ in range(5)]
            begun = anyio.current_time()
            async with anyio.create_task_group() as group:
                for creator in creators:
                    group.start_soon(creator)
            served = sorted(creator.answered_at or 0.0 for creator in creators if creator.session)
            assert served == pytest.approx([begun + 1, begun + 2, begun + 3], abs=0.01)
            refused = [creator.answered_at for creator in creators if creator.error]
            assert refused == pytest.approx([begun, begun], abs=0.01)

    @pytest.mark.usefixtures("restless")
    async def test_the_pass_is_the_managers_own_and_goes_on_without_the_creator(self, clock: Clock) -> None:
        async with SessionManager(config(max_sessions=320, emergency_idle_time=100), clock=clock) as manager:
            await fill(manager, 320)
            await anyio.sleep(100)
            creator = Creator(manager)
            async with anyio.create_task_group() as group:
                group.start_soon(creator)
                for _ in range(6):
                    await anyio.lowlevel.checkpoint()
                creator.scope.cancel()
                await settle()
            assert creator.session is None
            report = manager.get_metrics().last_cleanup
            assert report is not None
            assert (report.trigger, report.outcome) == (Trigger.EMERGENCY, Outcome.SUCCESS)
            assert report.cleaned[EndReason.EVICTED] == 32

    async def test_by_hand_below_the_cap_nothing_is_evicted_while_a_tenth_is_free(self, clock: Clock) -> None:
        async with SessionManager(config(max_sessions=20, emergency_idle_time=100), clock=clock) as manager:
            await fill(manager, 18)
            await anyio.sleep(100)
            assert (await manager.emergency_cleanup()).total_cleaned == 0

            await fill(manager, 1)
            report = await manager.emergency_cleanup()
            assert report.cleaned[EndReason.EVICTED] == 1
            assert report.trigger is Trigger.EMERGENCY
            assert len(manager) == 18

    async def test_a_place_that_is_closing_counts_as_freed(self, clock: Clock) -> None:
        settings = config(max_sessions=20, emergency_idle_time=100)
        async with SessionManager(settings, clock=clock, on_close=SlowHook(4)) as manager:
            sessions = await fill(manager, 20)
            await anyio.sleep(100)
            async with anyio.create_task_group() as group:
                group.start_soon(manager.close_session, sessions[7].id)
                await settle()
                group.start_soon(manager.emergency_cleanup)
            assert manager.get_metrics().cleaned_by_reason[EndReason.EVICTED] == 1

    async def test_a_pass_by_hand_counts_for_the_one_a_second(self, clock: Clock) -> None:
        async with SessionManager(config(max_sessions=5), clock=clock) as manager:
            await fill(manager, 5)
            await manager.emergency_cleanup()
            await refusal(manager)
            assert manager.get_metrics().cleanup_runs == 1


class TestRetryAfter:
    async def test_it_is_when_the_first_unleased_session_can_be_evicted(self, clock: Clock) -> None:
        settings = config(max_sessions=2, emergency_idle_time=300, cleanup_interval=60)
        async with SessionManager(settings, clock=clock) as manager:
            await fill(manager, 1)
            await anyio.sleep(100)
            await fill(manager, 1)
            await anyio.sleep(180)

            retry_after = (await refusal(manager)).retry_after
            assert retry_after == pytest.approx(20)
            await anyio.sleep(10)
            assert (await refusal(manager)).retry_after == pytest.approx(10)
            await anyio.sleep(10.01)
            await fill(manager, 1)

    async def test_it_is_not_before_the_next_pass_may_start(self, clock: Clock) -> None:
        settings = config(max_sessions=2, emergency_idle_time=300, cleanup_interval=60)
        async with SessionManager(settings, clock=clock) as manager:
            await fill(manager, 2)
            await anyio.sleep(299.75)
            assert (await refusal(manager)).retry_after == pytest.approx(1)
            await anyio.sleep(0.5)
            assert (await refusal(manager)).retry_after == pytest.approx(0.5)
            await anyio.sleep(0.51)
            await fill(manager, 1)

    async def test_it_is_never_above_the_cleanup_interval(self, clock: Clock) -> None:
        settings = config(max_sessions=2, emergency_idle_time=300, cleanup_interval=60)
        async with SessionManager(settings, clock=clock) as manager:
            await fill(manager, 2)
            assert (await refusal(manager)).retry_after == 60

    async def test_it_is_unknown_while_all_sessions_are_leased(self, clock: Clock) -> None:
        async with SessionManager(config(max_sessions=2), clock=clock) as manager:
            first, second = await fill(manager, 2)
            with manager.pin(first.id), manager.pin(second.id):
                assert (await refusal(manager)).retry_after is None

    async def test_it_is_unknown_while_no_limit_could_free_a_place(self, clock: Clock) -> None:
        async with SessionManager(config(max_sessions=1), clock=clock) as manager:
            await manager.create_session(max_idle_time=None, max_session_age=None)
            assert (await refusal(manager)).retry_after is None

    async def test_a_place_left_over_after_evictions_is_there_as_soon_as_a_pass_may_start(self, clock: Clock) -> None:
        async with SessionManager(config(max_sessions=20, emergency_idle_time=100), clock=clock) as manager:
            await fill(manager, 20)
            await anyio.sleep(100)
            await fill(manager, 2)
            assert (await refusal(manager)).retry_after == pytest.approx(1)
            await anyio.sleep(1.01)
            await fill(manager, 1)


class TestClients:
    async def test_each_client_has_a_cap_of_its_own(self) -> None:
        async with SessionManager(config(max_sessions_per_client=2)) as manager:
            for client in ("ada", "ada", "bob", "bob"):
                await manager.create_session(client=client)
            for client in ("ada", "bob"):
                assert (await refusal(manager, client)).reason is RejectionReason.MAX_SESSIONS_PER_CLIENT

    async def test_a_full_client_is_refused_without_a_pass_and_without_a_hint(self, clock: Clock) -> None:
        async with SessionManager(config(max_sessions=5, max_sessions_per_client=2), clock=clock) as manager:
            for _ in range(2):
                await manager.create_session(client="ada")

            error = await refusal(manager, "ada")
            assert error.limit == 2
            assert error.reason is RejectionReason.MAX_SESSIONS_PER_CLIENT
            assert error.retry_after is None
            stats = manager.get_metrics()
            assert stats.rejected[RejectionReason.MAX_SESSIONS_PER_CLIENT] == 1
            assert stats.cleanup_runs == 0

    async def test_the_whole_cap_is_named_when_both_are_full(self, clock: Clock) -> None:
        async with SessionManager(config(max_sessions=3, max_sessions_per_client=1), clock=clock) as manager:
            for client in ("ada", "bob", "eve"):
                await manager.create_session(client=client)

            error = await refusal(manager, "ada")
            assert error.limit == 3
            assert error.reason is RejectionReason.MAX_SESSIONS
            assert manager.get_metrics().rejected[RejectionReason.MAX_SESSIONS_PER_CLIENT] == 0

    async def test_sessions_without_a_client_are_not_counted_against_one_another(self) -> None:
        async with SessionManager(config(max_sessions_per_client=1)) as manager:
            await fill(manager, 10)

    async def test_an_ended_session_gives_its_clients_place_back(self) -> None:
        async with SessionManager(config(max_sessions_per_client=1)) as manager:
            session = await manager.create_session(client="ada")
            await manager.close_session(session.id)
            await manager.create_session(client="ada")

    async def test_sessions_that_a_pass_ends_together_give_the_places_of_their_clients_back(self, clock: Clock) -> None:
        async with SessionManager(config(max_sessions_per_client=20, max_idle_time=10), clock=clock) as manager:
            for number in range(40):
                await manager.create_session(client="ada" if number % 2 else "grace")
            await anyio.sleep(10)
            assert (await manager.cleanup_stale_sessions()).total_cleaned == 40
            for client in ("ada", "grace"):
                for _ in range(20):
                    await manager.create_session(client=client)
                await refusal(manager, client)

    async def test_a_reservation_that_is_left_gives_its_clients_place_back(self) -> None:
        async with SessionManager(config(max_sessions_per_client=1)) as manager:
            async with manager.reserve(client="ada"):
                await refusal(manager, "ada")
            await manager.create_session(client="ada")

    async def test_a_refused_creator_gives_its_clients_place_back(self, clock: Clock) -> None:
        async with SessionManager(config(max_sessions=1, max_sessions_per_client=1), clock=clock) as manager:
            [session] = await fill(manager, 1)
            assert (await refusal(manager, "ada")).reason is RejectionReason.MAX_SESSIONS
            await manager.close_session(session.id)
            await manager.create_session(client="ada")

    async def test_a_cancelled_creator_gives_its_clients_place_back(self) -> None:
        settings = config(max_sessions=1, max_sessions_per_client=1)
        async with SessionManager(settings, on_close=SlowHook(3)) as manager:
            [session] = await fill(manager, 1)
            creator = Creator(manager, "ada")
            async with anyio.create_task_group() as group:
                group.start_soon(manager.close_session, session.id)
                await settle()
                group.start_soon(creator)
                await settle()
                creator.scope.cancel()
            await manager.create_session(client="ada")

    async def test_a_place_may_be_committed_for_another_client(self) -> None:
        async with SessionManager(config(max_sessions_per_client=1)) as manager:
            async with manager.reserve(client="10.0.0.7") as place:
                session = place.commit(client="ada")
            assert session.client == "ada"
            await refusal(manager, "ada")
            await manager.create_session(client="10.0.0.7")

    async def test_a_place_may_be_committed_for_the_client_it_was_reserved_for(self) -> None:
        async with SessionManager(config(max_sessions_per_client=1)) as manager:
            async with manager.reserve(client="ada") as place:
                session = place.commit(client="ada")
            await refusal(manager, "ada")
            await manager.close_session(session.id)
            await manager.create_session(client="ada")

    async def test_a_place_that_the_other_clients_cap_refuses_is_kept(self) -> None:
        async with SessionManager(config(max_sessions_per_client=1)) as manager:
            await manager.create_session(client="ada")
            async with manager.reserve(client="10.0.0.7") as place:
                with pytest.raises(TooManySessions) as caught:
                    place.commit(client="ada")
                assert caught.value.reason is RejectionReason.MAX_SESSIONS_PER_CLIENT
                await refusal(manager, "10.0.0.7")
                place.commit(client=None)
            await manager.create_session(client="10.0.0.7")

    async def test_a_client_who_has_nothing_is_forgotten(self, clock: Clock) -> None:
        class Name(str):
            __slots__ = ("__weakref__",)

        settings = config(max_sessions=1, max_sessions_per_client=1)
        async with SessionManager(settings, clock=clock) as manager:
            names = [Name(f"client {number}") for number in range(20)]
            for name in names:
                session = await manager.create_session(client=name)
                await refusal(manager, Name("another one"))
                await manager.close_session(session.id)
            seen = [weakref.ref(name) for name in names]
            del names, name, session
            gc.collect()
            assert not any(ref() for ref in seen)


class TestSettingTheCap:
    async def test_a_higher_cap_gives_its_places_to_those_who_wait_and_then_to_others(self) -> None:
        async with SessionManager(config(max_sessions=1), on_close=SlowHook(3)) as manager:
            (session,) = await fill(manager, 1)
            creators = [Creator(manager), Creator(manager)]
            async with anyio.create_task_group() as group:
                group.start_soon(manager.close_session, session.id)
                await settle()
                group.start_soon(creators[0])
                await settle()
                manager.set_max_sessions(3)
                await settle()
                group.start_soon(creators[1])
                await settle()
                assert [creator.session is not None for creator in creators] == [True, True]
            assert manager.get_metrics().waiting == 0
            await fill(manager, 1)
            assert (await refusal(manager)).limit == 3

    async def test_below_the_live_count_nothing_is_evicted_and_nobody_gets_in(self, clock: Clock, ends: Ends) -> None:
        async with SessionManager(config(max_sessions=5), clock=clock, on_close=ends) as manager:
            sessions = await fill(manager, 5)
            manager.set_max_sessions(3)
            assert (await refusal(manager)).limit == 3
            for session in sessions[:2]:
                assert await manager.close_session(session.id)
                assert (await refusal(manager)).limit == 3
            assert await manager.close_session(sessions[2].id)
            await manager.create_session()
            assert (len(manager), [reason for _, reason in ends.seen]) == (3, [EndReason.CLOSED] * 3)

    async def test_whose_place_a_lower_cap_takes_away_waits_for_the_next_one(self) -> None:
        async with SessionManager(config(max_sessions=3, close_timeout=10), on_close=SlowHook(3)) as manager:
            sessions = await fill(manager, 3)
            creator = Creator(manager)
            begun = anyio.current_time()
            async with anyio.create_task_group() as group:
                group.start_soon(manager.close_session, sessions[0].id)
                await settle()
                group.start_soon(creator)
                await settle()
                manager.set_max_sessions(2)
                await anyio.sleep(4)
                assert creator.answered_at is None
                await manager.close_session(sessions[1].id)
            assert creator.session is not None
            assert creator.answered_at is not None
            assert creator.answered_at - begun > 6  # the first session's place is gone after 3 s

    async def test_at_a_lowered_cap_no_session_is_evicted_for_another_of_its_client(self, ends: Ends) -> None:
        settings = config(max_sessions=4, max_sessions_per_client=2, per_client_at_cap="evict_oldest")
        async with SessionManager(settings, on_close=ends) as manager:
            await fill(manager, 2)
            for _ in range(2):
                await manager.create_session(client="c")
            manager.set_max_sessions(3)
            assert (await refusal(manager, "c")).limit == 3
            assert ends.seen == []
            manager.set_max_sessions(4)
            await manager.create_session(client="c")
            assert [reason for _, reason in ends.seen] == [EndReason.EVICTED]

    async def test_without_a_cap_everybody_gets_in(self) -> None:
        async with SessionManager(config(max_sessions=1)) as manager:
            await fill(manager, 1)
            manager.set_max_sessions(None)
            await fill(manager, 20)
            manager.set_max_sessions(20)
            assert (await refusal(manager)).limit == 20

    async def test_an_emergency_pass_frees_a_tenth_of_the_cap_as_it_is_now(self, clock: Clock) -> None:
        async with SessionManager(config(max_sessions=10, emergency_idle_time=5), clock=clock) as manager:
            await fill(manager, 10)
            manager.set_max_sessions(40)
            await fill(manager, 30)
            await anyio.sleep(6)
            assert (await manager.emergency_cleanup()).total_cleaned == 4

    async def test_it_goes_on_when_the_manager_is_entered_again(self) -> None:
        manager = SessionManager(config(max_sessions=5))
        async with manager:
            manager.set_max_sessions(2)
        async with manager:
            await fill(manager, 2)
            assert (await refusal(manager)).limit == 2

    @pytest.mark.parametrize("wrong", [0, -1, 2.5, "3", True, math.inf])
    async def test_a_wrong_cap_is_refused_and_changes_nothing(self, wrong: Any) -> None:
        async with SessionManager(config(max_sessions=1)) as manager:
            with pytest.raises(ConfigError, match="max_sessions takes"):
                manager.set_max_sessions(wrong)
            await fill(manager, 1)
            assert (await refusal(manager)).limit == 1

    async def test_only_a_running_managers_cap_is_set(self) -> None:
        with pytest.raises(ManagerClosed):
            SessionManager().set_max_sessions(5)


class TestReserving:
    async def test_a_place_that_is_given_back_early_is_free_at_once_and_makes_no_session(self) -> None:
        async with SessionManager(SessionConfig(max_sessions=1)) as manager:
            async with manager.reserve() as place:
                place.give_back()
                place.give_back()
                session = await manager.create_session()
                with pytest.raises(RuntimeError, match="not after give_back"):
                    place.commit()

            assert manager.get_metrics().reserved == 0
            assert manager.get(session.id) is session

    async def test_a_reserved_place_counts_until_it_is_committed(self) -> None:
        async with SessionManager(config(max_sessions=1)) as manager:
            async with manager.reserve() as place:
                assert manager.get_metrics().reserved == 1
                assert len(manager) == 0
                await refusal(manager)
                session = place.commit("chosen by the upstream")
                assert manager.get_metrics().reserved == 0
            assert manager.get("chosen by the upstream") is session

    async def test_leaving_without_a_commit_gives_the_place_back(self) -> None:
        async with SessionManager(config(max_sessions=1)) as manager:
            async with manager.reserve():
                pass
            assert manager.get_metrics().reserved == 0
            assert len(manager) == 0
            await fill(manager, 1)

    async def test_a_place_is_entered_once(self) -> None:
        async with SessionManager(config(max_sessions=2)) as manager:
            place = manager.reserve()
            async with place:
                with pytest.raises(RuntimeError, match="once"):
                    await place.__aenter__()
                assert manager.get_metrics().reserved == 1
            assert manager.get_metrics().reserved == 0

    async def test_a_place_is_committed_once(self) -> None:
        async with SessionManager() as manager, manager.reserve() as place:
            place.commit()
            with pytest.raises(RuntimeError, match="once"):
                place.commit()
            assert len(manager) == 1

    async def test_a_place_is_committed_inside_its_block(self) -> None:
        async with SessionManager() as manager:
            place = manager.reserve()
            with pytest.raises(RuntimeError, match="inside"):
                place.commit()
            async with place:
                pass
            with pytest.raises(RuntimeError, match="inside"):
                place.commit()
            assert len(manager) == 0

    async def test_a_commit_makes_an_id_if_none_is_given(self) -> None:
        async with SessionManager() as manager, manager.reserve() as place:
            session = place.commit()
            assert len(session.id) == 43

    async def test_a_commit_takes_the_sessions_own_limits(self, clock: Clock) -> None:
        async with SessionManager(clock=clock) as manager, manager.reserve() as place:
            session = place.commit(max_idle_time=5)
            await anyio.sleep(5)
            assert session.id not in manager

    @pytest.mark.parametrize("wrong", [{"max_idle_time": 0}, {"max_session_age": "1"}])
    async def test_a_commit_with_a_wrong_limit_keeps_the_place(self, wrong: dict[str, Any]) -> None:
        async with SessionManager() as manager, manager.reserve() as place:
            with pytest.raises(ConfigError):
                place.commit(**wrong)
            assert manager.get_metrics().reserved == 1
            place.commit()

    async def test_a_commit_of_an_id_that_is_taken_keeps_the_place(self) -> None:
        async with SessionManager() as manager:
            await manager.create_session("taken")
            async with manager.reserve() as place:
                with pytest.raises(SessionExists):
                    place.commit("taken")
                place.commit("free")
            assert len(manager) == 2

    async def test_a_commit_cannot_wait_for_an_id_that_is_due(self, clock: Clock) -> None:
        async with SessionManager(config(max_idle_time=5), clock=clock) as manager:
            await manager.create_session("stale")
            await anyio.sleep(5)
            async with manager.reserve() as place:
                with pytest.raises(SessionExists):
                    place.commit("stale")

    async def test_a_commit_during_the_shutdown_is_refused_and_counted(self) -> None:
        async with SessionManager() as manager:
            session = await manager.create_session()
            with manager.pin(session.id):
                async with anyio.create_task_group() as group, manager.reserve() as place:
                    group.start_soon(manager.shutdown)
                    await settle()
                    with pytest.raises(ManagerClosed):
                        place.commit()
                    assert manager.get_metrics().rejected[RejectionReason.SHUTDOWN] == 1
        assert manager.get_metrics().reserved == 0

    async def test_a_place_outlives_the_manager_without_harm(self) -> None:
        async with SessionManager() as manager:
            place = await manager.reserve().__aenter__()
        with pytest.raises(ManagerClosed):
            place.commit()
        await place.__aexit__(None, None, None)
        assert manager.get_metrics().reserved == 0

    async def test_a_creator_is_refused_before_the_block_and_after_it(self) -> None:
        manager = SessionManager()
        with pytest.raises(ManagerClosed):
            manager.reserve()
        async with manager:
            reservation = manager.reserve()
        with pytest.raises(ManagerClosed):
            await reservation.__aenter__()
        with pytest.raises(ManagerClosed):
            await manager.create_session()


class TestIds:
    async def test_an_id_in_use_is_refused_before_capacity_and_is_no_rejection(self, clock: Clock) -> None:
        async with SessionManager(config(max_sessions=1), clock=clock) as manager:
            await manager.create_session("mine")
            with pytest.raises(SessionExists):
                await manager.create_session("mine")
            stats = manager.get_metrics()
            assert sum(stats.rejected.values()) == 0
            assert stats.cleanup_runs == 0

    async def test_an_id_whose_session_is_closing_is_refused(self) -> None:
        async with SessionManager(on_close=SlowHook(1)) as manager, anyio.create_task_group() as group:
            await manager.create_session("mine")
            group.start_soon(manager.close_session, "mine")
            await settle()
            with pytest.raises(SessionExists):
                await manager.create_session("mine")
            await anyio.sleep(2)
            await manager.create_session("mine")

    async def test_creating_over_a_session_that_is_due_ends_it_first_and_waits_for_its_hook(
        self, clock: Clock, ends: Ends
    ) -> None:
        hook = SlowHook(2, ends)
        settings = config(max_sessions=1, max_idle_time=5, max_sessions_per_client=1)
        async with SessionManager(settings, clock=clock, on_close=hook) as manager:
            old = await manager.create_session("mine", client="ada")
            await anyio.sleep(5)
            begun = anyio.current_time()
            new = await manager.create_session("mine", client="ada")
            assert anyio.current_time() - begun == pytest.approx(2, abs=0.01)
            assert ends.seen == [("mine", EndReason.IDLE_TIMEOUT)]
            assert new is not old
            assert manager.get("mine") is new

    async def test_an_expired_session_is_not_created_over_while_it_is_leased(self, clock: Clock) -> None:
        async with SessionManager(config(max_session_age=5), clock=clock) as manager:
            session = await manager.create_session("mine")
            with manager.pin(session.id):
                await anyio.sleep(5)
                with pytest.raises(SessionExists):
                    await manager.create_session("mine")

    async def test_of_two_who_create_over_the_same_session_one_gets_the_id(self, clock: Clock) -> None:
        outcomes: list[str] = []

        async def create() -> None:
            try:
                await manager.create_session("mine")
                outcomes.append("created")
            except SessionExists:
                outcomes.append("exists")

        settings = config(max_idle_time=5, max_sessions=2)
        async with SessionManager(settings, clock=clock, on_close=SlowHook(1)) as manager:
            await manager.create_session("mine")
            await anyio.sleep(5)
            async with anyio.create_task_group() as group:
                group.start_soon(create)
                group.start_soon(create)
            assert sorted(outcomes) == ["created", "exists"]
            assert manager.get_metrics().reserved == 0

    async def test_whoever_gives_up_creating_over_a_session_has_ended_it_all_the_same(
        self, clock: Clock, ends: Ends
    ) -> None:
        async with SessionManager(config(max_idle_time=5), clock=clock, on_close=ends) as manager:
            await manager.create_session("mine")
            await anyio.sleep(5)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await manager.create_session("mine")
            await settle()
            assert ends.seen == [("mine", EndReason.IDLE_TIMEOUT)]
            assert "mine" not in manager

    async def test_a_wrong_limit_is_an_error_of_the_caller_and_leaks_no_place(self) -> None:
        async with SessionManager(config(max_sessions=1)) as manager:
            with pytest.raises(ConfigError, match="max_idle_time"):
                await manager.create_session(max_idle_time=-1)
            await fill(manager, 1)


class TestRejections:
    async def test_each_refusal_is_counted_under_its_reason(self, clock: Clock) -> None:
        async with SessionManager(config(max_sessions=2, max_sessions_per_client=1), clock=clock) as manager:
            session = await manager.create_session(client="ada")
            await refusal(manager, "ada")
            await fill(manager, 1)
            await refusal(manager)
            with manager.pin(session.id):
                async with anyio.create_task_group() as group:
                    group.start_soon(manager.shutdown)
                    await settle()
                    with pytest.raises(ManagerClosed):
                        await manager.create_session()
                    with pytest.raises(ManagerClosed):
                        await manager.reserve().__aenter__()
        assert dict(manager.get_metrics().rejected) == {
            RejectionReason.MAX_SESSIONS: 1,
            RejectionReason.MAX_SESSIONS_PER_CLIENT: 1,
            RejectionReason.SHUTDOWN: 2,
            RejectionReason.FLEET: 0,
        }
