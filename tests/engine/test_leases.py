"""Leases: what keeps a session, and who is cancelled when it is ended all the same."""

import asyncio
import gc
import time
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import pytest

from otel_sessions import (
    CleanupReport,
    EndReason,
    ManagerClosed,
    Outcome,
    Session,
    SessionConfig,
    SessionManager,
    SessionNotFound,
    SessionState,
)
from tests.doubles import CountingClock, Ends, Request, SlowHook
from tests.virtual import BACKENDS, Clock, settle

pytestmark = pytest.mark.anyio

CONFIG = SessionConfig(cleanup_interval=1, max_idle_time=10, max_session_age=100, drain_timeout=5, close_timeout=3)


async def clean_the_idle(manager: SessionManager) -> CleanupReport:
    return await manager.cleanup_stale_sessions(max_idle_time=15)


class TestHolding:
    async def test_a_pin_gives_the_session_and_counts_as_leased(self) -> None:
        async with SessionManager() as manager:
            session = await manager.create_session()

            with manager.pin(session.id) as pinned:
                assert pinned is session
                assert manager.get_metrics().leased == 1
            assert manager.get_metrics().leased == 0

    async def test_a_lease_gives_the_session_and_counts_as_leased(self) -> None:
        async with SessionManager() as manager:
            session = await manager.create_session()

            async with manager.lease(session.id) as leased:
                assert leased is session
                assert manager.get_metrics().leased == 1
            assert manager.get_metrics().leased == 0

    async def test_entering_is_a_touch_and_leaving_is_activity_only(self, clock: Clock) -> None:
        async with SessionManager(CONFIG, clock=clock) as manager:
            session = await manager.create_session()
            await anyio.sleep(4)

            with manager.pin(session.id):
                assert session.metadata.message_count == 1
                entered = session.metadata.last_activity
                await anyio.sleep(4)

            assert session.metadata.message_count == 1
            assert (session.metadata.last_activity - entered).total_seconds() == pytest.approx(4, abs=0.01)
            assert session.idle_for == pytest.approx(0)

    async def test_a_leased_session_is_never_idle(self, clock: Clock) -> None:
        async with SessionManager(CONFIG, clock=clock) as manager:
            session = await manager.create_session()

            async with manager.lease(session.id):
                await anyio.sleep(50)
                assert manager.get(session.id) is session
                assert session.idle_for == 0
                assert not session.is_stale(1)

    async def test_idle_time_runs_from_the_end_of_the_last_lease(self, clock: Clock, ends: Ends) -> None:
        async with SessionManager(CONFIG, clock=clock, on_close=ends) as manager:
            session = await manager.create_session()
            first, second = manager.pin(session.id), manager.pin(session.id)
            first.__enter__()
            second.__enter__()
            await anyio.sleep(20)
            first.__exit__(None, None, None)
            await anyio.sleep(20)
            second.__exit__(None, None, None)

            await anyio.sleep(9.5)
            assert session.id in manager
            await anyio.sleep(0.5)
            assert session.id not in manager
            await anyio.sleep(2.5)
            assert ends.seen == [(session.id, EndReason.IDLE_TIMEOUT)]

    async def test_pins_are_left_in_any_order_and_by_any_task(self) -> None:
        async with SessionManager() as manager:
            session = await manager.create_session()
            first, second = manager.pin(session.id), manager.pin(session.id)
            first.__enter__()
            second.__enter__()

            async def leave_first() -> None:
                first.__exit__(None, None, None)

            async with anyio.create_task_group() as group:
                group.start_soon(leave_first)
            assert manager.get_metrics().leased == 1
            second.__exit__(None, None, None)
            assert manager.get_metrics().leased == 0

    async def test_bound_leases_nest(self) -> None:
        async with SessionManager() as manager:
            session = await manager.create_session()

            async with manager.lease(session.id), manager.lease(session.id):
                assert manager.get_metrics().leased == 1
            assert manager.get_metrics().leased == 0
            assert session.metadata.message_count == 2

    async def test_a_pin_is_entered_once(self) -> None:
        async with SessionManager() as manager:
            session = await manager.create_session()
            pin = manager.pin(session.id)

            with pin, pytest.raises(RuntimeError, match="once"):
                pin.__enter__()
            assert manager.get_metrics().leased == 0

    async def test_a_lease_is_entered_once(self) -> None:
        async with SessionManager() as manager:
            session = await manager.create_session()
            lease = manager.lease(session.id)

            async with lease:
                with pytest.raises(RuntimeError, match="once"):
                    await lease.__aenter__()
            assert manager.get_metrics().leased == 0

    async def test_an_error_in_the_block_leaves_as_it_is(self) -> None:
        error = ValueError("mine")
        async with SessionManager() as manager:
            session = await manager.create_session()

            with pytest.raises(ValueError, match="mine") as caught:
                async with manager.lease(session.id):
                    raise error
            assert caught.value is error
            assert manager.get_metrics().leased == 0

    async def test_a_cancelled_holder_gives_its_lease_back(self) -> None:
        async with SessionManager() as manager:
            session = await manager.create_session()

            with anyio.move_on_after(1) as scope:
                async with manager.lease(session.id):
                    await anyio.sleep_forever()
            assert scope.cancelled_caught
            assert manager.get_metrics().leased == 0
            assert session.id in manager

    @pytest.mark.parametrize("kind", ["pin", "hold"])
    async def test_one_that_is_left_twice_by_hand_is_given_back_once(self, kind: str) -> None:
        async with SessionManager() as manager:
            session = await manager.create_session()
            use = manager.pin(session.id) if kind == "pin" else manager.hold(session.id, print)
            with manager.pin(session.id):
                with use:
                    pass
                use.__exit__(None, None, None)
                assert manager.get_metrics().leased == 1
            assert manager.get_metrics().leased == 0

    async def test_a_pin_and_a_lease_are_not_entered_again_after_they_were_left(self) -> None:
        async with SessionManager() as manager:
            session = await manager.create_session()
            pin, lease = manager.pin(session.id), manager.lease(session.id)
            with pin:
                pass
            with pytest.raises(RuntimeError, match="once"):
                pin.__enter__()
            async with lease:
                pass
            with pytest.raises(RuntimeError, match="once"):
                await lease.__aenter__()
            assert manager.get_metrics().leased == 0

    async def test_one_that_was_refused_may_be_entered_when_its_session_is_there(self) -> None:
        async with SessionManager() as manager:
            pin = manager.pin("later")
            with pytest.raises(SessionNotFound):
                pin.__enter__()
            session = await manager.create_session("later")
            with pin as pinned:
                assert pinned is session

    async def test_entering_and_leaving_read_the_clock_once_each(self) -> None:
        clock = CountingClock()
        async with SessionManager(clock=clock) as manager:
            session = await manager.create_session()
            before = clock.readings
            with manager.pin(session.id):
                assert clock.readings == before + 1
            assert clock.readings == before + 2
            with manager.hold(session.id, print):
                assert clock.readings == before + 3
            assert clock.readings == before + 4
            async with manager.lease(session.id):
                assert clock.readings == before + 5
            assert clock.readings == before + 6

    @pytest.mark.parametrize("while_entering", [True, False])
    async def test_a_clock_that_raises_leaves_no_lease_behind(self, while_entering: bool) -> None:
        def clock() -> float:
            if broken:
                raise OSError("no clock")
            return time.monotonic()

        broken = False
        async with SessionManager(clock=clock) as manager:
            session = await manager.create_session()
            broken = while_entering
            with suppress(OSError), manager.pin(session.id):
                broken = True
            broken = while_entering
            with suppress(OSError), manager.hold(session.id, print):
                broken = True
            broken = while_entering
            with suppress(OSError):
                async with manager.lease(session.id):
                    broken = True
            broken = False
            assert manager.get_metrics().leased == 0
            assert await manager.close_session(session.id)


class TestRefusing:
    async def test_an_unknown_session_is_not_found_without_a_reason(self) -> None:
        async with SessionManager() as manager:
            with pytest.raises(SessionNotFound) as caught:
                await manager.lease("nobody").__aenter__()
            assert caught.value.reason is None

    async def test_an_ended_session_is_not_found_with_its_reason(self) -> None:
        async with SessionManager() as manager:
            session = await manager.create_session()
            await manager.close_session(session.id)

            with pytest.raises(SessionNotFound) as caught:
                manager.pin(session.id).__enter__()
            assert caught.value.reason is EndReason.CLOSED

    async def test_a_closing_session_is_not_found_with_the_reason_it_closes_for(self) -> None:
        seen: list[EndReason | None] = []

        async def ask(session: Session, reason: EndReason) -> None:
            try:
                manager.pin(session.id).__enter__()
            except SessionNotFound as error:
                seen.append(error.reason)

        async with SessionManager(on_close=ask) as manager:
            session = await manager.create_session()
            await manager.close_session(session.id)
        assert seen == [EndReason.CLOSED]

    async def test_what_no_pass_has_ended_yet_is_not_found_with_the_reason_it_will_count_for(
        self, clock: Clock
    ) -> None:
        config = SessionConfig(cleanup_interval=1000, max_idle_time=10, max_session_age=100)
        async with SessionManager(config, clock=clock) as manager:
            session = await manager.create_session("all three, in the end")

            def reason() -> EndReason | None:
                with pytest.raises(SessionNotFound) as caught:
                    manager.pin(session.id).__enter__()
                return caught.value.reason

            await anyio.sleep(10)
            assert reason() is EndReason.IDLE_TIMEOUT
            await anyio.sleep(90)
            assert reason() is EndReason.MAX_AGE
            session.fail("broken")
            assert reason() is EndReason.FAILED
            assert (await manager.cleanup_stale_sessions()).cleaned[EndReason.FAILED] == 1

    async def test_a_manager_that_does_not_run_gives_no_lease(self) -> None:
        manager = SessionManager()
        with pytest.raises(ManagerClosed):
            manager.pin("any").__enter__()
        async with manager:
            session = await manager.create_session()
        with pytest.raises(ManagerClosed):
            await manager.lease(session.id).__aenter__()

    async def test_a_failed_session_is_hidden_at_once_and_ended_when_its_holder_has_left(
        self, clock: Clock, ends: Ends
    ) -> None:
        async with SessionManager(CONFIG, clock=clock, on_close=ends) as manager:
            session = await manager.create_session()
            async with manager.lease(session.id):
                session.fail("upstream hung up")
                assert manager.get(session.id) is None
                await anyio.sleep(20)
                assert ends.seen == []
            await anyio.sleep(1.5)
            assert ends.seen == [(session.id, EndReason.FAILED)]
            assert session.state is SessionState.FAILED


class TestClosingByHand:
    async def test_the_holder_who_closes_goes_on_and_learns_that_the_hook_has_run(self, ends: Ends) -> None:
        slow = SlowHook(1, ends)
        async with SessionManager(CONFIG, on_close=slow) as manager:
            session = await manager.create_session()
            async with manager.lease(session.id):
                assert await manager.close_session(session.id)
                assert ends.seen == [(session.id, EndReason.CLOSED)]
                await anyio.sleep(1)  # not cancelled
            assert len(manager) == 0

    async def test_other_holders_are_cancelled(self) -> None:
        async with SessionManager(CONFIG) as manager, anyio.create_task_group() as group:
            session = await manager.create_session()
            other = Request(manager, session.id)
            group.start_soon(other)
            await settle()

            async with manager.lease(session.id):
                assert await manager.close_session(session.id)
            assert other.reason is EndReason.CLOSED

    async def test_a_child_task_of_the_holder_counts_as_the_holder(self) -> None:
        async with SessionManager(CONFIG) as manager:
            session = await manager.create_session()
            closed: list[bool] = []

            async def close() -> None:
                async with manager.lease(session.id):
                    closed.append(await manager.close_session(session.id))
                    await anyio.lowlevel.checkpoint()

            async with manager.lease(session.id):
                async with anyio.create_task_group() as group:
                    group.start_soon(close)
                await anyio.sleep(1)  # not cancelled
            assert closed == [True]

    async def test_the_lease_of_a_sibling_is_cancelled(self) -> None:
        async with SessionManager(CONFIG) as manager:
            session = await manager.create_session()
            sibling = Request(manager, session.id)
            async with manager.lease(session.id), anyio.create_task_group() as group:
                group.start_soon(sibling)
                await settle()
                group.start_soon(manager.close_session, session.id)
            assert sibling.reason is EndReason.CLOSED

    async def test_a_lease_that_was_left_protects_nobody(self) -> None:
        async with SessionManager(CONFIG) as manager, anyio.create_task_group() as group:
            session = await manager.create_session()
            async with manager.lease(session.id):
                pass
            other = Request(manager, session.id)
            group.start_soon(other)
            await settle()

            await manager.close_session(session.id)
            assert other.reason is EndReason.CLOSED

    async def test_it_is_hidden_and_no_longer_leased_before_the_holders_have_left(self) -> None:
        async with SessionManager(CONFIG) as manager, anyio.create_task_group() as group:
            session = await manager.create_session()
            group.start_soon(Request(manager, session.id, lingers=2))
            await settle()

            group.start_soon(manager.close_session, session.id)
            await anyio.sleep(1)
            assert session.id not in manager
            assert manager.get_metrics().leased == 0
            assert manager.get_metrics().closing == 1

    async def test_the_hook_starts_once_the_holders_have_left(self, ends: Ends) -> None:
        async with SessionManager(CONFIG, on_close=ends) as manager, anyio.create_task_group() as group:
            session = await manager.create_session()
            requests = [Request(manager, session.id, lingers=2), Request(manager, session.id, lingers=1)]
            for request in requests:
                group.start_soon(request)
            await settle()

            begun = anyio.current_time()
            assert await manager.close_session(session.id)
            assert anyio.current_time() - begun == pytest.approx(2, abs=0.01)
            assert all(request.error for request in requests)
            assert ends.seen == [(session.id, EndReason.CLOSED)]

    async def test_the_hook_starts_after_close_timeout_if_a_holder_does_not_leave(self, ends: Ends) -> None:
        async with SessionManager(CONFIG, on_close=ends) as manager:
            session = await manager.create_session()
            async with anyio.create_task_group() as group:
                request = Request(manager, session.id, lingers=60)
                group.start_soon(request)
                await settle()

                begun = anyio.current_time()
                assert await manager.close_session(session.id)
                assert anyio.current_time() - begun == pytest.approx(3, abs=0.01)
                assert request.error is None
                assert ends.seen == [(session.id, EndReason.CLOSED)]
            assert request.reason is EndReason.CLOSED
            assert ends.seen == [(session.id, EndReason.CLOSED)]

    async def test_a_holder_of_two_leases_is_cancelled_out_of_both_at_once(self) -> None:
        async def request() -> None:
            with pytest.raises(SessionNotFound) as caught:
                async with manager.lease(session.id), manager.lease(session.id):
                    await anyio.sleep_forever()
            reasons.append(caught.value.reason)

        reasons: list[EndReason | None] = []
        async with SessionManager(CONFIG) as manager:
            session = await manager.create_session()
            async with anyio.create_task_group() as group:
                group.start_soon(request)
                await settle()
                await manager.close_session(session.id)
        assert reasons == [EndReason.CLOSED]

    async def test_the_holder_of_another_session_is_left_alone(self) -> None:
        async with SessionManager(CONFIG) as manager, anyio.create_task_group() as group:
            session, others = await manager.create_session(), await manager.create_session()
            other = Request(manager, others.id)
            group.start_soon(other)
            await settle()

            await manager.close_session(session.id)
            await anyio.sleep(1)
            assert other.error is None
            group.cancel_scope.cancel()

    async def test_what_the_body_raises_on_its_way_out_comes_first(self) -> None:
        async def request() -> None:
            async with manager.lease(session.id):
                try:
                    await anyio.sleep_forever()
                finally:
                    raise ConnectionError("while cleaning up")

        async def expect_its_error() -> None:
            with pytest.raises(ConnectionError):
                await request()

        async with SessionManager(CONFIG) as manager, anyio.create_task_group() as group:
            session = await manager.create_session()
            group.start_soon(expect_its_error)
            await settle()
            await manager.close_session(session.id)

    async def test_what_a_task_group_in_the_body_raises_on_its_way_out_comes_first(self) -> None:
        async def complain() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                raise ConnectionError("while cleaning up")

        async def request() -> None:
            async with manager.lease(session.id), anyio.create_task_group() as group:
                group.start_soon(complain)
                group.start_soon(anyio.sleep_forever)

        async def expect_its_error() -> None:
            with pytest.raises(ExceptionGroup) as caught:
                await request()
            assert [type(error) for error in caught.value.exceptions] == [ConnectionError]

        async with SessionManager(CONFIG) as manager, anyio.create_task_group() as group:
            session = await manager.create_session()
            group.start_soon(expect_its_error)
            await settle()
            await manager.close_session(session.id)

    async def test_a_holder_who_is_cancelled_by_others_too_obeys_them(self) -> None:
        async def request() -> None:
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                async with manager.lease(session.id):
                    await anyio.sleep_forever()
            caught.append(scope.cancelled_caught)

        scopes: list[anyio.CancelScope] = []
        caught: list[bool] = []
        async with SessionManager(CONFIG) as manager:
            session = await manager.create_session()
            async with anyio.create_task_group() as group:
                group.start_soon(request)
                await settle()
                scopes[0].cancel()
                await manager.close_session(session.id)
        assert caught == [True]

    async def test_a_closer_who_is_cancelled_leaves_the_holders_to_go_all_the_same(self, ends: Ends) -> None:
        async with SessionManager(CONFIG, on_close=ends) as manager, anyio.create_task_group() as group:
            session = await manager.create_session()
            other = Request(manager, session.id)
            group.start_soon(other)
            await settle()

            with anyio.CancelScope() as scope:
                scope.cancel()
                await manager.close_session(session.id)
            await settle()
            assert other.reason is EndReason.CLOSED
            assert ends.seen == [(session.id, EndReason.CLOSED)]

    async def test_releasing_a_pin_after_the_end_does_nothing(self) -> None:
        async with SessionManager() as manager:
            session = await manager.create_session("same id")
            with manager.pin(session.id):
                assert await manager.close_session(session.id)
                last_activity = session.metadata.last_activity
                await manager.create_session("same id")
                with manager.pin("same id"):
                    before = manager.get_metrics()
            assert session.metadata.last_activity == last_activity
            assert before.leased == 1
            assert manager.get_metrics().leased == 0


class TestDraining:
    async def test_at_max_age_no_new_lease_is_given_and_the_holder_keeps_its_own(self, clock: Clock) -> None:
        async with SessionManager(CONFIG, clock=clock) as manager, anyio.create_task_group() as group:
            session = await manager.create_session(max_session_age=20)
            request = Request(manager, session.id)
            group.start_soon(request)
            await anyio.sleep(20)

            assert session.id not in manager
            with pytest.raises(SessionNotFound) as caught:
                manager.pin(session.id).__enter__()
            assert caught.value.reason is EndReason.MAX_AGE
            await anyio.sleep(3)
            assert request.error is None
            group.cancel_scope.cancel()

    async def test_holders_are_cancelled_drain_timeout_after_the_pass_that_found_the_session(
        self, clock: Clock, ends: Ends
    ) -> None:
        async with SessionManager(CONFIG, clock=clock, on_close=ends) as manager, anyio.create_task_group() as group:
            session = await manager.create_session(max_session_age=20)
            begun = anyio.current_time()
            request = Request(manager, session.id)
            group.start_soon(request)
            await anyio.sleep(30)

            assert request.reason is EndReason.MAX_AGE
            assert request.left_at is not None
            assert 25 <= request.left_at - begun <= 27.01  # age, at most a tick and an interval, drain
            assert ends.seen == [(session.id, EndReason.MAX_AGE)]

    async def test_a_drain_starts_once_however_many_passes_come(self, clock: Clock) -> None:
        async with SessionManager(CONFIG, clock=clock) as manager, anyio.create_task_group() as group:
            session = await manager.create_session(max_session_age=20)
            request = Request(manager, session.id)
            group.start_soon(request)
            await anyio.sleep(20)
            begun = anyio.current_time()
            for _ in range(8):
                await manager.cleanup_stale_sessions()
                await manager.cleanup_stale_sessions(max_idle_time=1)
                await anyio.sleep(1)
            assert request.left_at is not None
            assert request.left_at - begun == pytest.approx(5, abs=1)

    async def test_a_pass_by_hand_starts_the_drain_of_what_expired_within_the_tick(self, clock: Clock) -> None:
        config = SessionConfig(cleanup_interval=1000, max_session_age=20.25, drain_timeout=5)
        async with SessionManager(config, clock=clock) as manager, anyio.create_task_group() as group:
            session = await manager.create_session()
            request = Request(manager, session.id)
            group.start_soon(request)
            await anyio.sleep(20.5)
            await manager.cleanup_stale_sessions()
            await anyio.sleep(6)
            assert request.reason is EndReason.MAX_AGE

    async def test_a_failed_session_drains_at_its_age_as_any_other(self, clock: Clock) -> None:
        async with SessionManager(CONFIG, clock=clock) as manager, anyio.create_task_group() as group:
            session = await manager.create_session(max_session_age=20)
            request = Request(manager, session.id)
            group.start_soon(request)
            await anyio.sleep(1)
            session.fail("upstream hung up")
            await anyio.sleep(18)
            assert request.error is None
            await anyio.sleep(9)
            assert request.reason is EndReason.FAILED

    async def test_leaving_within_the_drain_lets_the_next_pass_end_it(self, clock: Clock, ends: Ends) -> None:
        config = SessionConfig(cleanup_interval=1000, max_session_age=20, drain_timeout=500)
        async with SessionManager(config, clock=clock, on_close=ends) as manager:
            session = await manager.create_session()
            with manager.pin(session.id):
                await anyio.sleep(20)
                assert (await manager.cleanup_stale_sessions()).total_cleaned == 0
            assert ends.seen == []
            assert (await manager.cleanup_stale_sessions()).cleaned[EndReason.MAX_AGE] == 1
            await anyio.sleep(501)
            assert ends.seen == [(session.id, EndReason.MAX_AGE)]

    @pytest.mark.parametrize("with_hook", [False, True])
    async def test_nothing_is_left_of_a_drain_within_which_a_pass_has_ended_the_session(
        self, clock: Clock, ends: Ends, with_hook: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Data:
            pass

        config = SessionConfig(cleanup_interval=1000, max_session_age=20, drain_timeout=500)
        on_close = ends if with_hook else None
        async with SessionManager[Data](config, clock=clock, on_close=on_close) as manager:
            session = await manager.create_session(data=Data())
            data = weakref.ref(session.data)
            with manager.pin(session.id):
                await anyio.sleep(20)
                await manager.cleanup_stale_sessions()
                await settle()  # the drain counts down
            assert (await manager.cleanup_stale_sessions()).total_cleaned == 1
            del session
            gc.collect()
            assert data() is None
            await anyio.sleep(501)
        assert caplog.records == []

    async def test_leaving_within_the_drain_lets_the_next_interval_pass_end_it(self, clock: Clock, ends: Ends) -> None:
        config = SessionConfig(cleanup_interval=1, max_session_age=20, drain_timeout=500)
        async with SessionManager(config, clock=clock, on_close=ends) as manager:
            session = await manager.create_session()
            with manager.pin(session.id):
                await anyio.sleep(30)
            await anyio.sleep(1.5)
            assert ends.seen == [(session.id, EndReason.MAX_AGE)]

    async def test_a_session_that_is_closed_within_its_drain_counts_for_its_age_and_once(
        self, clock: Clock, ends: Ends
    ) -> None:
        async with SessionManager(CONFIG, clock=clock, on_close=ends) as manager:
            session = await manager.create_session(max_session_age=20)
            async with manager.lease(session.id):
                await anyio.sleep(22)
                assert await manager.close_session(session.id)
                await anyio.sleep(10)  # the drain's own end is not this session's any more
            assert ends.seen == [(session.id, EndReason.MAX_AGE)]

    async def test_a_pin_is_not_cancelled_but_its_session_ends(self, clock: Clock, ends: Ends) -> None:
        async with SessionManager(CONFIG, clock=clock, on_close=ends) as manager:
            session = await manager.create_session(max_session_age=20)
            with manager.pin(session.id):
                await anyio.sleep(30)
                assert ends.seen == [(session.id, EndReason.MAX_AGE)]
                assert manager.get_metrics().leased == 0
            assert manager.get_metrics().leased == 0

    async def test_without_a_drain_the_pass_itself_cancels(self, clock: Clock) -> None:
        config = SessionConfig(cleanup_interval=1000, max_session_age=20, drain_timeout=0)
        async with SessionManager(config, clock=clock) as manager, anyio.create_task_group() as group:
            session = await manager.create_session()
            request = Request(manager, session.id)
            group.start_soon(request)
            await anyio.sleep(20)
            await manager.cleanup_stale_sessions()
            await settle()
            assert request.reason is EndReason.MAX_AGE

    async def test_each_session_drains_on_its_own_time(self, clock: Clock, ends: Ends) -> None:
        async with SessionManager(CONFIG, clock=clock, on_close=ends) as manager:
            first = await manager.create_session(max_session_age=20)
            second = await manager.create_session(max_session_age=23)
            with manager.pin(first.id), manager.pin(second.id):
                await anyio.sleep(27.5)
                assert ends.seen == [(first.id, EndReason.MAX_AGE)]
                await anyio.sleep(3)
                assert ends.seen[1:] == [(second.id, EndReason.MAX_AGE)]


@pytest.mark.usefixtures("restless")
class TestRaces:
    async def test_a_session_that_is_leased_or_touched_while_a_pass_runs_is_not_evicted(self, clock: Clock) -> None:
        config = SessionConfig(max_sessions=320, emergency_idle_time=10, cleanup_interval=1000)
        async with SessionManager(config, clock=clock) as manager:
            sessions = [await manager.create_session() for _ in range(320)]
            leased, touched = sessions[0], sessions[1]
            await anyio.sleep(20)

            async def use() -> None:
                for _ in range(8):  # the pass has looked at both by now, and has not chosen yet
                    await anyio.lowlevel.checkpoint()
                assert not any(session.end_reason for session in sessions)
                manager.pin(leased.id).__enter__()
                touched.touch()

            async with anyio.create_task_group() as group:
                group.start_soon(manager.create_session)
                group.start_soon(use)

            assert leased.id in manager
            assert touched.id in manager
            assert manager.get_metrics().cleaned_by_reason[EndReason.EVICTED] == 32

    async def test_an_old_session_that_is_leased_while_a_pass_runs_is_not_evicted(self, clock: Clock) -> None:
        config = SessionConfig(max_sessions=320, emergency_session_age=10, cleanup_interval=1000)
        async with SessionManager(config, clock=clock) as manager:
            sessions = [await manager.create_session() for _ in range(320)]
            await anyio.sleep(20)

            async def lease() -> None:
                for _ in range(8):
                    await anyio.lowlevel.checkpoint()
                assert not any(session.end_reason for session in sessions)
                for session in sessions[:20]:
                    manager.pin(session.id).__enter__()

            async with anyio.create_task_group() as group:
                group.start_soon(manager.create_session)
                group.start_soon(lease)

            assert not any(session.end_reason for session in sessions[:20])
            assert manager.get_metrics().cleaned_by_reason[EndReason.EVICTED] == 32

    @pytest.mark.parametrize("sweep", [SessionManager.emergency_cleanup, clean_the_idle], ids=["emergency", "limits"])
    async def test_a_session_that_is_closed_while_a_pass_looks_is_not_ended_by_it_as_well(
        self, clock: Clock, sweep: Callable[[SessionManager], Awaitable[CleanupReport]]
    ) -> None:
        config = SessionConfig(max_sessions=320, emergency_idle_time=10, cleanup_interval=1000)
        async with SessionManager(config, clock=clock) as manager:
            sessions = [await manager.create_session() for _ in range(320)]
            await anyio.sleep(20)
            reports = []

            async def clean() -> None:
                reports.append(await sweep(manager))

            async def close() -> None:
                for _ in range(4):
                    await anyio.lowlevel.checkpoint()
                for session in (*sessions[:5], *sessions[-5:]):
                    await manager.close_session(session.id)

            async with anyio.create_task_group() as group:
                group.start_soon(clean)
                group.start_soon(close)

            (report,) = reports
            stats = manager.get_metrics()
            assert report.outcome is Outcome.SUCCESS
            assert stats.cleaned_by_reason[EndReason.CLOSED] > 0
            assert stats.total_cleaned == report.total_cleaned + stats.cleaned_by_reason[EndReason.CLOSED]
            assert stats.total_cleaned == sum(session.end_reason is not None for session in sessions)

    async def test_a_session_that_fails_while_a_pass_looks_is_ended_once(self, clock: Clock) -> None:
        async with SessionManager(SessionConfig(cleanup_interval=1000), clock=clock) as manager:
            sessions = [await manager.create_session() for _ in range(42)]
            sessions[0].fail("filed by itself, behind all others")
            reports = []

            async def clean() -> None:
                reports.append(await manager.cleanup_stale_sessions(max_idle_time=100))

            async with anyio.create_task_group() as group:
                group.start_soon(clean)
                while manager.get_metrics().last_cleanup is None:
                    await anyio.lowlevel.checkpoint()
                    sessions[-1].fail("the pass has it before it, and finds it once more with the first one")

            assert [(report.outcome, report.total_cleaned) for report in reports] == [(Outcome.SUCCESS, 2)]
            assert len(manager) == 40

    async def test_a_session_that_is_closed_while_a_pass_runs_is_ended_once(self, clock: Clock, ends: Ends) -> None:
        config = SessionConfig(max_sessions=320, emergency_idle_time=10, cleanup_interval=1000, max_idle_time=15)
        async with SessionManager(config, clock=clock, on_close=ends) as manager:
            sessions = [await manager.create_session() for _ in range(320)]
            await anyio.sleep(12)

            async def close_all() -> None:
                for _ in range(8):
                    await anyio.lowlevel.checkpoint()
                for session in sessions:
                    group.start_soon(manager.close_session, session.id)

            async with anyio.create_task_group() as group:
                group.start_soon(manager.emergency_cleanup)
                group.start_soon(close_all)
            await anyio.sleep(1)

            assert sorted(ends.seen) == sorted((session.id, EndReason.CLOSED) for session in sessions)
            assert len(manager) == 0

    @pytest.mark.parametrize("anyio_backend", [("asyncio", BACKENDS["asyncio"]())], ids=["asyncio"])
    async def test_asyncios_own_cancellation_of_a_holder_is_not_taken_for_the_end_of_its_session(self) -> None:
        async def request() -> None:
            async with manager.lease(session.id):
                await anyio.sleep_forever()

        async with SessionManager(CONFIG) as manager:
            session = await manager.create_session()
            task = asyncio.create_task(request())
            await settle()
            task.cancel()
            await manager.close_session(session.id)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()
