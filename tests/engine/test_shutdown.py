"""The end of a manager: in full, in time, and nothing left, whatever the hooks and the callers do."""

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.abc
import pytest
import trio
import trio.testing

from otel_sessions import (
    EndReason,
    ManagerClosed,
    Outcome,
    Session,
    SessionConfig,
    SessionManager,
    SessionNotFound,
    Trigger,
)
from tests.doubles import Ends, Request, Sink, SlowHook, Stubborn, fail, hang
from tests.virtual import BACKENDS, Clock, VirtualLoop, settle

pytestmark = pytest.mark.anyio

on_asyncio = pytest.mark.parametrize("anyio_backend", [("asyncio", BACKENDS["asyncio"]())], ids=["asyncio"])

Hook = Callable[[Session[Any], EndReason], Awaitable[None]]


async def ignore_first_cancellation(session: Session[Any], reason: EndReason) -> None:
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        await anyio.sleep_forever()


def tasks_of_managers() -> list[str]:
    """Return the names of the tasks that managers have on the running loop."""
    if trio.lowlevel.in_trio_run():
        root = trio.lowlevel.current_root_task()
        assert root is not None
        names = [task.name for nursery in root.child_nurseries for task in nursery.child_tasks]
    else:
        names = [task.get_name() for task in asyncio.all_tasks()]
    return [name for name in names if name.startswith("otel-sessions")]


def assert_all_settled(manager: SessionManager) -> None:
    stats = manager.get_metrics()
    assert stats.total_created == stats.total_cleaned
    assert (stats.currently_active, stats.leased, stats.closing, stats.reserved) == (0, 0, 0, 0)


class TestEnding:
    async def test_leaving_the_block_ends_every_session_and_the_background_task(self, ends: Ends) -> None:
        async with SessionManager(on_close=ends) as manager:
            sessions = [await manager.create_session() for _ in range(3)]
            await settle()
            assert tasks_of_managers() == ["otel-sessions supervisor"]
        assert tasks_of_managers() == []
        assert set(ends.seen) == {(session.id, EndReason.SHUTDOWN) for session in sessions}
        assert_all_settled(manager)

    async def test_the_shutdown_pass_is_a_run_with_a_report(self) -> None:
        async with SessionManager() as manager:
            await manager.create_session()
        stats = manager.get_metrics()
        assert stats.cleanup_runs == 1
        assert stats.last_cleanup is not None
        assert stats.last_cleanup.trigger is Trigger.SHUTDOWN
        assert stats.last_cleanup.outcome is Outcome.SUCCESS
        assert stats.last_cleanup.cleaned[EndReason.SHUTDOWN] == 1
        assert stats.last_cleanup.examined == 1

    async def test_a_session_that_is_due_at_the_shutdown_counts_for_its_own_reason(self, clock: Clock) -> None:
        async with SessionManager(SessionConfig(max_idle_time=10), clock=clock) as manager:
            await manager.create_session()
            await anyio.sleep(10)
            await manager.create_session()
        cleaned = manager.get_metrics().cleaned_by_reason
        assert (cleaned[EndReason.IDLE_TIMEOUT], cleaned[EndReason.SHUTDOWN]) == (1, 1)

    async def test_without_anything_to_wait_for_it_takes_no_time(self) -> None:
        async with SessionManager() as manager:
            for _ in range(1000):
                await manager.create_session()
            begun = anyio.current_time()
        assert anyio.current_time() == begun

    async def test_a_manager_that_runs_is_not_entered_again(self) -> None:
        manager = SessionManager()
        async with manager:
            with pytest.raises(ManagerClosed, match="runs already") as caught:
                await manager.__aenter__()
            assert caught.value.entered
            await manager.create_session()

    async def test_before_the_block_shutdown_does_nothing(self) -> None:
        manager = SessionManager()
        await manager.shutdown()
        async with manager:
            await manager.create_session()

    async def test_it_may_be_asked_for_again_and_by_many_at_once(self, ends: Ends) -> None:
        slow = SlowHook(2, ends)
        async with SessionManager(on_close=slow) as manager:
            session = await manager.create_session()
            begun = anyio.current_time()
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(manager.shutdown)
            assert anyio.current_time() - begun == pytest.approx(2)
            await manager.shutdown()
            assert anyio.current_time() - begun == pytest.approx(2)
        await manager.shutdown()
        assert ends.seen == [(session.id, EndReason.SHUTDOWN)]
        assert manager.get_metrics().cleanup_runs == 1

    async def test_whoever_gives_up_waiting_for_it_does_not_stop_it(self, ends: Ends) -> None:
        slow = SlowHook(2, ends)
        async with SessionManager(on_close=slow) as manager:
            await manager.create_session()
            with anyio.move_on_after(1):
                await manager.shutdown()
            await anyio.sleep(1.5)
            assert len(ends.seen) == 1
            assert tasks_of_managers() == []

    async def test_before_and_after_the_block_what_needs_it_raises_and_the_rest_answers(self) -> None:
        manager = SessionManager()

        async def use() -> None:
            with pytest.raises(ManagerClosed):
                await manager.create_session()
            with pytest.raises(ManagerClosed):
                manager.reserve()
            with pytest.raises(ManagerClosed):
                manager.pin("any").__enter__()
            with pytest.raises(ManagerClosed):
                await manager.lease("any").__aenter__()
            for call in (manager.cleanup_stale_sessions, manager.preview_cleanup, manager.emergency_cleanup):
                with pytest.raises(ManagerClosed):
                    await call()
            with pytest.raises(ManagerClosed):
                await manager.close_session("any")
            assert manager.get("any") is None
            assert "any" not in manager
            assert len(manager) == 0
            assert manager.get_metrics().currently_active == 0

        await use()
        assert manager.get_metrics().seconds_since_cleanup == 0
        async with manager:
            await manager.create_session("any")
        await use()
        assert manager.get_metrics().total_created == 1

    async def test_while_it_drains_new_sessions_and_leases_are_refused_and_the_rest_works(self) -> None:
        async with SessionManager(SessionConfig(drain_timeout=5)) as manager, anyio.create_task_group() as group:
            held, other = await manager.create_session(), await manager.create_session()
            with manager.pin(held.id):
                group.start_soon(manager.shutdown)
                await anyio.sleep(1)
                with pytest.raises(ManagerClosed):
                    await manager.create_session()
                with pytest.raises(ManagerClosed):
                    manager.pin(other.id).__enter__()
                with pytest.raises(ManagerClosed):
                    await manager.lease(other.id).__aenter__()
                assert manager.get(held.id) is held
                assert other.id in manager
                assert len(manager) == 2
                assert await manager.close_session(other.id)
                assert (await manager.cleanup_stale_sessions()).remaining == 1


class TestDraining:
    async def test_it_waits_for_leases_to_be_given_back(self) -> None:
        async with SessionManager(SessionConfig(drain_timeout=10)) as manager:
            first, second = await manager.create_session(), await manager.create_session()

            async def request(session: Session, seconds: float) -> None:
                async with manager.lease(session.id):
                    await anyio.sleep(seconds)

            async with anyio.create_task_group() as group:
                group.start_soon(request, first, 2)
                group.start_soon(request, second, 4)
                await settle()
                begun = anyio.current_time()
                await manager.shutdown()
                assert anyio.current_time() - begun == pytest.approx(4, abs=0.2)
        assert_all_settled(manager)

    async def test_bound_holders_that_outlast_the_drain_are_cancelled(self, ends: Ends) -> None:
        async with (
            SessionManager(SessionConfig(drain_timeout=5), on_close=ends) as manager,
            anyio.create_task_group() as group,
        ):
            session = await manager.create_session()
            request = Request(manager, session.id)
            group.start_soon(request)
            await settle()
            begun = anyio.current_time()
            await manager.shutdown()
            assert anyio.current_time() - begun == pytest.approx(5)
            assert request.error is not None
            assert request.error.reason is EndReason.SHUTDOWN
            assert ends.seen == [(session.id, EndReason.SHUTDOWN)]

    async def test_the_hook_starts_after_the_holders_have_left(self) -> None:
        order: list[str] = []

        async def hook(session: Session, reason: EndReason) -> None:
            order.append("hook")

        async def request() -> None:
            async with manager.lease(session.id):
                try:
                    await anyio.sleep_forever()
                finally:
                    with anyio.CancelScope(shield=True):
                        await anyio.sleep(1)
                    order.append("left")

        async def expect_the_end() -> None:
            with pytest.raises(SessionNotFound):
                await request()

        config = SessionConfig(drain_timeout=0)
        async with SessionManager(config, on_close=hook) as manager, anyio.create_task_group() as group:
            session = await manager.create_session()
            group.start_soon(expect_the_end)
            await settle()
            await manager.shutdown()
        assert order == ["left", "hook"]

    async def test_pins_are_not_waited_for_beyond_the_drain_and_do_nothing_afterwards(self) -> None:
        async with SessionManager(SessionConfig(drain_timeout=5)) as manager:
            session = await manager.create_session()
            pin = manager.pin(session.id)
            pin.__enter__()
        assert_all_settled(manager)
        pin.__exit__(None, None, None)
        assert_all_settled(manager)

    async def test_it_does_not_wait_for_the_lease_of_a_session_that_was_ended_meanwhile(self) -> None:
        async with SessionManager(SessionConfig(drain_timeout=10)) as manager, anyio.create_task_group() as group:
            session = await manager.create_session()
            request = Request(manager, session.id)
            group.start_soon(request)
            await settle()
            begun = anyio.current_time()
            group.start_soon(manager.shutdown)
            await anyio.sleep(1)
            await manager.close_session(session.id)
            await manager.shutdown()
            assert anyio.current_time() - begun == pytest.approx(1, abs=0.2)

    async def test_it_does_not_wait_for_a_holder_who_has_ended_its_session_itself(self) -> None:
        async def request() -> None:
            async with manager.lease(session.id):
                await anyio.sleep(1)
                await manager.close_session(session.id)

        async with SessionManager(SessionConfig(drain_timeout=10)) as manager, anyio.create_task_group() as group:
            session = await manager.create_session()
            group.start_soon(request)
            await settle()
            begun = anyio.current_time()
            await manager.shutdown()
            assert anyio.current_time() - begun == pytest.approx(1, abs=0.2)

    async def test_a_drain_timeout_of_zero_waits_for_nobody(self) -> None:
        async with SessionManager(SessionConfig(drain_timeout=0)) as manager, anyio.create_task_group() as group:
            session = await manager.create_session()
            request = Request(manager, session.id)
            group.start_soon(request)
            await settle()
            begun = anyio.current_time()
            await manager.shutdown()
            assert anyio.current_time() - begun < 0.2
            await settle()
            assert request.error is not None

    async def test_a_holder_may_end_the_manager_and_is_cancelled_after_the_drain(self) -> None:
        async def request() -> None:
            async with manager.lease(session.id):
                await manager.shutdown()

        async with SessionManager(SessionConfig(drain_timeout=5)) as manager:
            session = await manager.create_session()
            with pytest.raises(SessionNotFound) as caught:
                await request()
            assert caught.value.reason is EndReason.SHUTDOWN
            await manager.shutdown()
        assert_all_settled(manager)

    async def test_drain_and_hooks_share_the_shutdown_timeout(self, ends: Ends) -> None:
        slow = SlowHook(4, ends)
        config = SessionConfig(drain_timeout=100, close_timeout=5, shutdown_timeout=12)
        async with SessionManager(config, on_close=slow) as manager:
            session = await manager.create_session()
            manager.pin(session.id).__enter__()
            begun = anyio.current_time()
        assert anyio.current_time() - begun <= 12
        assert ends.seen == [(session.id, EndReason.SHUTDOWN)]


class TestHooks:
    @pytest.mark.parametrize("hook", [fail, hang, ignore_first_cancellation])
    @pytest.mark.parametrize("shutdown_timeout", [30.0, 8.0, 2.0, 0.05])
    async def test_whatever_a_hook_does_no_task_is_left_and_the_books_balance(
        self, hook: Hook, shutdown_timeout: float
    ) -> None:
        config = SessionConfig(close_timeout=5, close_concurrency=2, shutdown_timeout=shutdown_timeout)
        async with SessionManager(config, on_close=hook) as manager:
            for _ in range(5):
                await manager.create_session()
            begun = anyio.current_time()
        assert anyio.current_time() - begun <= shutdown_timeout
        assert tasks_of_managers() == []
        assert_all_settled(manager)
        assert manager.get_metrics().cleaned_by_reason[EndReason.SHUTDOWN] == 5
        assert manager.get_metrics().cleanup_errors > 0

    async def test_a_hook_that_calls_shutdown_during_the_shutdown_goes_on(self, ends: Ends) -> None:
        async def hook(session: Session, reason: EndReason) -> None:
            await manager.shutdown()
            await ends(session, reason)

        async with SessionManager(on_close=hook) as manager:
            for _ in range(3):
                await manager.create_session()
            begun = anyio.current_time()
        assert anyio.current_time() == begun
        assert len(ends.seen) == 3
        assert tasks_of_managers() == []
        assert manager.get_metrics().cleanup_errors == 0

    @on_asyncio
    async def test_a_hook_that_ignores_its_cancellation_is_cancelled_again_every_second(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        endless = Stubborn()
        config = SessionConfig(close_timeout=2, drain_timeout=4, shutdown_timeout=20)
        async with SessionManager(config, on_close=endless) as manager:
            await manager.create_session("held")
            await manager.create_session("ended")
            with manager.pin("held"):
                await manager.close_session("ended")
                assert endless.cancellations == 1
                async with anyio.create_task_group() as group:
                    group.start_soon(manager.shutdown)
                    await anyio.sleep(0.5)
                    for seconds in (1, 2, 3):  # within the drain
                        await anyio.sleep(1)
                        assert endless.cancellations == 1 + seconds
                    await anyio.sleep(5)  # the second hook is cut off meanwhile
                    before = endless.cancellations
                    await anyio.sleep(10)
                    assert endless.cancellations == before + 2 * 10
        assert "2 close hooks or exports ignore their cancellation and outlive the manager" in caplog.text
        endless.released.set()
        await settle()

    @on_asyncio
    async def test_a_hook_that_gives_in_late_ends_the_shutdown_then(self, caplog: pytest.LogCaptureFixture) -> None:
        async def give_in_the_fifth_time(session: Session[Any], reason: EndReason) -> None:
            for _ in range(4):
                with contextlib.suppress(anyio.get_cancelled_exc_class()):
                    await anyio.sleep_forever()
            await anyio.sleep_forever()

        config = SessionConfig(close_timeout=2, shutdown_timeout=20)
        manager = SessionManager(config, on_close=give_in_the_fifth_time)
        async with manager:
            await manager.create_session()
            begun = anyio.current_time()
        assert anyio.current_time() == pytest.approx(begun + 2 + 3, abs=0.2)
        assert "outlive" not in caplog.text
        assert manager.get_metrics().cleaned_by_reason[EndReason.SHUTDOWN] == 1

    @pytest.mark.parametrize("shutdown_timeout", [30.0, 2.0])
    async def test_hooks_that_never_end_are_left_behind_in_time(
        self, shutdown_timeout: float, caplog: pytest.LogCaptureFixture
    ) -> None:
        endless = Stubborn()
        config = SessionConfig(close_timeout=5, close_concurrency=2, shutdown_timeout=shutdown_timeout)
        async with SessionManager(config, on_close=endless) as manager:
            for _ in range(5):
                await manager.create_session()
            begun = anyio.current_time()
        assert anyio.current_time() - begun <= shutdown_timeout
        assert_all_settled(manager)
        assert set(tasks_of_managers()) == {"otel-sessions hook"}
        assert "outlive the manager" in caplog.text

        endless.released.set()
        await settle()
        assert tasks_of_managers() == []

    async def test_sessions_whose_turn_does_not_come_in_time_are_counted_without_their_hook(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        called = 0

        async def slow(session: Session, reason: EndReason) -> None:
            nonlocal called
            called += 1
            await anyio.sleep(4)

        config = SessionConfig(close_timeout=5, close_concurrency=1, shutdown_timeout=10)
        async with SessionManager(config, on_close=slow) as manager:
            for _ in range(10):
                await manager.create_session()
            begun = anyio.current_time()
        assert anyio.current_time() - begun <= 10
        assert called == 3
        assert_all_settled(manager)
        report = manager.get_metrics().last_cleanup
        assert report is not None
        assert report.outcome is Outcome.CANCELLED
        assert "8 sessions are removed before their close hooks have ended" in caplog.text

    async def test_who_waits_for_such_a_hook_gets_an_answer(self) -> None:
        answers: list[object] = []

        async def close(session: Session) -> None:
            answers.append(await manager.close_session(session.id))

        async def clean() -> None:
            answers.append((await manager.cleanup_stale_sessions()).outcome)

        config = SessionConfig(close_timeout=100, shutdown_timeout=10)
        async with SessionManager(config, on_close=hang) as manager, anyio.create_task_group() as group:
            closed, failed = await manager.create_session(), await manager.create_session()
            group.start_soon(close, closed)
            await settle()
            failed.fail("upstream hung up")
            group.start_soon(clean)
            await settle()
            await manager.shutdown()
        assert sorted(answers, key=str) == [True, Outcome.CANCELLED]

    async def test_a_hook_that_is_running_already_fits_into_the_same_time(self, ends: Ends) -> None:
        slow = SlowHook(4, ends)
        async with SessionManager(on_close=slow) as manager, anyio.create_task_group() as group:
            session = await manager.create_session()
            group.start_soon(manager.close_session, session.id)
            await anyio.sleep(1)
            begun = anyio.current_time()
            await manager.shutdown()
            assert anyio.current_time() - begun == pytest.approx(3)
            assert ends.seen == [(session.id, EndReason.CLOSED)]

    async def test_a_sink_that_never_ends_does_not_stop_the_shutdown_either(self) -> None:
        endless = Stubborn()
        async with SessionManager(SessionConfig(shutdown_timeout=3), sink=Sink(endless)) as manager:
            await manager.create_session()
            begun = anyio.current_time()
        assert anyio.current_time() - begun <= 3
        assert_all_settled(manager)
        endless.released.set()
        await settle()
        assert tasks_of_managers() == []


class TestCallersBlock:
    async def test_an_exception_of_the_body_leaves_as_it_is(self, ends: Ends) -> None:
        error = ValueError("mine")

        async def block() -> None:
            async with SessionManager(on_close=ends) as manager:
                await manager.create_session()
                raise error

        with pytest.raises(ValueError, match="mine") as caught:
            await block()
        assert caught.value is error
        assert len(ends.seen) == 1
        assert tasks_of_managers() == []

    async def test_an_exception_after_a_shutdown_by_hand_leaves_as_it_is(self) -> None:
        error = ValueError("mine")

        async def block() -> None:
            async with SessionManager() as manager:
                await manager.shutdown()
                raise error

        with pytest.raises(ValueError, match="mine") as caught:
            await block()
        assert caught.value is error

    async def test_setup_and_teardown_may_run_in_different_tasks(self, ends: Ends) -> None:
        manager = SessionManager(on_close=ends)

        async def set_up() -> None:
            await manager.__aenter__()

        async def tear_down() -> None:
            await manager.__aexit__(None, None, None)

        async with anyio.create_task_group() as group:
            group.start_soon(set_up)
        await anyio.sleep(100)
        await manager.create_session()
        async with anyio.create_task_group() as group:
            group.start_soon(tear_down)
        assert len(ends.seen) == 1
        assert tasks_of_managers() == []

    async def test_cancelling_the_task_that_set_it_up_does_not_reach_the_manager(self, clock: Clock) -> None:
        manager = SessionManager(SessionConfig(cleanup_interval=10), clock=clock)

        async def set_up() -> None:
            with anyio.CancelScope() as scope:
                await manager.__aenter__()
                scope.cancel()
                await anyio.sleep_forever()

        async with anyio.create_task_group() as group:
            group.start_soon(set_up)
        await anyio.sleep(15)
        assert manager.get_metrics().cleanup_runs == 1
        await manager.__aexit__(None, None, None)

    async def test_a_cancelled_block_still_shuts_down_in_full(self, ends: Ends) -> None:
        slow = SlowHook(2, ends)
        begun = anyio.current_time()
        with anyio.move_on_after(1) as scope:
            async with SessionManager(on_close=slow) as manager:
                session = await manager.create_session()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert anyio.current_time() - begun == pytest.approx(3)
        assert ends.seen == [(session.id, EndReason.SHUTDOWN)]
        assert tasks_of_managers() == []

    async def test_a_block_that_is_cancelled_while_it_shuts_down_still_does_so_in_full(self, ends: Ends) -> None:
        slow = SlowHook(2, ends)
        begun = anyio.current_time()
        with anyio.move_on_after(1):
            async with SessionManager(on_close=slow) as manager:
                await manager.create_session()
        assert anyio.current_time() - begun == pytest.approx(2)
        assert len(ends.seen) == 1

    @on_asyncio
    @pytest.mark.parametrize("cancellations", [1, 2, 5])
    async def test_asyncios_own_cancellations_do_not_cut_it_short_and_are_raised_afterwards(
        self, ends: Ends, cancellations: int
    ) -> None:
        slow = SlowHook(4, ends)

        async def block() -> None:
            async with SessionManager(on_close=slow) as manager:
                await manager.create_session()
                await asyncio.sleep(1000)

        begun = anyio.current_time()
        task = asyncio.create_task(block())
        await settle()
        for _ in range(cancellations):
            task.cancel()
            await anyio.sleep(0.5)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert anyio.current_time() - begun == pytest.approx(4, abs=0.2)
        assert len(ends.seen) == 1
        assert tasks_of_managers() == []

    @on_asyncio
    async def test_asyncios_own_timeout_around_the_block_works(self, ends: Ends) -> None:
        async def block() -> None:
            async with asyncio.timeout(1), SessionManager(on_close=ends) as manager:
                await manager.create_session()
                await asyncio.sleep(1000)

        with pytest.raises(TimeoutError):
            await block()
        assert len(ends.seen) == 1

    @on_asyncio
    async def test_a_cancellation_during_the_exit_is_raised_when_all_is_done(self, ends: Ends) -> None:
        slow = SlowHook(2, ends)

        async def block() -> None:
            async with SessionManager(on_close=slow) as manager:
                await manager.create_session()

        task = asyncio.create_task(block())
        await anyio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(ends.seen) == 1

    async def test_the_fixture_idiom_works(self, manager_from_a_fixture: SessionManager) -> None:
        session = await manager_from_a_fixture.create_session()
        async with manager_from_a_fixture.lease(session.id):
            await anyio.sleep(100)


@pytest.fixture
async def manager_from_a_fixture() -> Any:
    async with SessionManager() as manager:
        yield manager
    assert_all_settled(manager)
    assert tasks_of_managers() == []


class TestCutOff:
    """The supervisor is ended from outside: as in a shutdown, without hooks."""

    @staticmethod
    def supervisor_task() -> "asyncio.Task[Any]":
        names = {"otel-sessions supervisor", "otel-sessions shutdown"}
        [task] = [task for task in asyncio.all_tasks() if task.get_name() in names]
        return task

    @on_asyncio
    async def test_a_cancelled_supervisor_ends_the_manager_without_hooks(self, ends: Ends) -> None:
        async with SessionManager(on_close=ends) as manager:
            await manager.create_session()
            await settle()
            self.supervisor_task().cancel()
            await anyio.sleep(1)
            assert_all_settled(manager)
            assert tasks_of_managers() == []
            with pytest.raises(ManagerClosed):
                await manager.create_session()
            await manager.shutdown()
        assert ends.seen == []
        assert manager.get_metrics().cleaned_by_reason[EndReason.SHUTDOWN] == 1

    @on_asyncio
    async def test_a_supervisor_that_is_cancelled_before_its_first_step_ends_the_manager(self, ends: Ends) -> None:
        manager = await SessionManager(on_close=ends).__aenter__()
        await manager.create_session()
        self.supervisor_task().cancel()
        with anyio.fail_after(100):
            await manager.shutdown()
        assert_all_settled(manager)
        assert tasks_of_managers() == []

    @on_asyncio
    async def test_a_supervisor_that_is_cancelled_before_its_first_step_releases_the_holders(self) -> None:
        manager = await SessionManager().__aenter__()
        session = await manager.create_session()
        errors: list[EndReason | None] = []

        async def request() -> None:
            async with manager.lease(session.id):
                self.supervisor_task().cancel()
                await anyio.sleep(100)

        try:
            await request()
        except SessionNotFound as error:
            errors.append(error.reason)
        assert errors == [EndReason.SHUTDOWN]
        assert_all_settled(manager)

    @on_asyncio
    async def test_holders_waiting_creators_closers_and_hooks_all_go_when_the_supervisor_does(self) -> None:
        answers: list[object] = []

        async def close(session: Session) -> None:
            answers.append(await manager.close_session(session.id))

        async def create() -> None:
            with pytest.raises(ManagerClosed):
                await manager.create_session()
            answers.append("refused")

        config = SessionConfig(max_sessions=2)
        async with SessionManager(config, on_close=hang) as manager:
            closing, held = await manager.create_session(), await manager.create_session()
            request = Request(manager, held.id)
            async with anyio.create_task_group() as group:
                group.start_soon(request)
                group.start_soon(close, closing)
                await settle()
                group.start_soon(create)
                await settle()
                self.supervisor_task().cancel()
            assert sorted(answers, key=str) == [True, "refused"]
            assert request.error is not None
            assert request.error.reason is EndReason.SHUTDOWN
            assert tasks_of_managers() == []
            assert_all_settled(manager)

    @on_asyncio
    async def test_a_supervisor_that_is_cancelled_while_it_shuts_down_ends_at_once(self) -> None:
        async with SessionManager(on_close=hang) as manager:
            await manager.create_session()
            async with anyio.create_task_group() as group:
                group.start_soon(manager.shutdown)
                await anyio.sleep(1)
                begun = anyio.current_time()
                self.supervisor_task().cancel()
            assert anyio.current_time() - begun < 0.2
            assert_all_settled(manager)
            await settle()
            assert tasks_of_managers() == []

    @pytest.mark.parametrize("waits", [0, 1])
    def test_the_end_of_trios_run_ends_the_manager_without_hooks(self, ends: Ends, waits: float) -> None:
        async def main() -> SessionManager:
            manager = await SessionManager(on_close=ends).__aenter__()
            session = await manager.create_session()
            manager.pin(session.id).__enter__()
            await manager.create_session()
            if waits:
                await trio.sleep(waits)
            return manager

        manager = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        assert ends.seen == []
        assert_all_settled(manager)
        assert manager.get_metrics().cleaned_by_reason[EndReason.SHUTDOWN] == 2

    def test_hooks_that_end_just_as_trios_run_does_are_counted_once(self) -> None:
        async def hook(session: Session, reason: EndReason) -> None:
            await trio.sleep(1)
            for _ in range(int(session.id)):
                await trio.lowlevel.checkpoint()

        async def main() -> SessionManager:
            manager = await SessionManager(SessionConfig(cleanup_interval=1), on_close=hook).__aenter__()
            for number in range(6):
                session = await manager.create_session(str(number))
                session.fail("upstream hung up")
            await trio.sleep(2)
            return manager

        for _ in range(50):  # trio shuffles who runs first
            manager = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
            assert_all_settled(manager)
            assert manager.get_metrics().cleaned_by_reason[EndReason.FAILED] == 6

    @pytest.mark.parametrize("waits", [0, 1])
    def test_the_end_of_asyncios_run_ends_the_manager_without_hooks(self, ends: Ends, waits: float) -> None:
        async def main() -> SessionManager:
            manager = await SessionManager(on_close=ends).__aenter__()
            session = await manager.create_session()
            manager.pin(session.id).__enter__()
            await manager.create_session()
            if waits:
                await asyncio.sleep(waits)
            return manager

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            manager = runner.run(main())
        assert ends.seen == []
        assert_all_settled(manager)
        assert manager.get_metrics().cleaned_by_reason[EndReason.SHUTDOWN] == 2

    @pytest.mark.parametrize("state", ["idle", "leased", "closing"])
    def test_a_manager_dropped_unfinished_with_its_loop_is_collectable_with_all_it_held(self, state: str) -> None:
        class Upstream:
            pass

        async def hang_up(session: Session[Upstream], reason: EndReason) -> None:
            await asyncio.sleep(1000)

        async def start() -> "tuple[weakref.ref[Any], ...]":
            manager = await SessionManager[Upstream](SessionConfig(), on_close=hang_up).__aenter__()
            session = await manager.create_session(data=Upstream())
            idle = await manager.create_session(data=Upstream())
            if state == "leased":
                manager.pin(session.id).__enter__()
            if state == "closing":
                closer = asyncio.create_task(manager.close_session(session.id))
                await asyncio.sleep(1)
                closer.cancel()
            await asyncio.sleep(1)
            return weakref.ref(manager), weakref.ref(session.data), weakref.ref(idle.data)

        loop = VirtualLoop()
        dropped = loop.run_until_complete(start())
        loop.close()
        del loop
        gc.collect()
        assert [ref() for ref in dropped] == [None, None, None]


class TestTrouble:
    async def test_a_clock_that_fails_does_not_keep_the_manager_from_ending(self) -> None:
        broken = False

        def clock() -> float:
            if broken:
                raise OSError("no time today")
            return anyio.current_time()

        manager = await SessionManager(clock=clock).__aenter__()
        await manager.create_session()
        await settle()
        broken = True
        with anyio.fail_after(100):
            await manager.shutdown()
        broken = False
        assert tasks_of_managers() == []
        assert_all_settled(manager)

    @pytest.mark.usefixtures("restless")
    async def test_a_running_pass_fits_into_the_shutdown(self, clock: Clock) -> None:
        async with SessionManager(SessionConfig(max_idle_time=10), clock=clock) as manager:
            for _ in range(320):
                await manager.create_session()
            await anyio.sleep(10)
            async with anyio.create_task_group() as group:
                group.start_soon(manager.cleanup_stale_sessions)
                while len(manager) == 320:
                    await anyio.lowlevel.checkpoint()
                assert len(manager) > 0
                group.start_soon(manager.shutdown)
        assert_all_settled(manager)
        assert manager.get_metrics().cleaned_by_reason[EndReason.IDLE_TIMEOUT] == 320

    async def test_two_managers_end_on_their_own(self, ends: Ends) -> None:
        async with SessionManager(name="one", on_close=ends) as one:
            async with SessionManager(name="two", on_close=ends) as two:
                await one.create_session("one")
                await two.create_session("two")
            assert ends.seen == [("two", EndReason.SHUTDOWN)]
            assert "one" in one
