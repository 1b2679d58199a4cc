"""What a session's end calls, and that nothing it does keeps the session, its place or the manager."""

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from otel_sessions import (
    EndReason,
    ManagerClosed,
    Outcome,
    Session,
    SessionConfig,
    SessionExists,
    SessionManager,
    SessionState,
    TooManySessions,
)
from tests.doubles import Ends, Sink, SlowHook, Stubborn, fail, hang
from tests.virtual import BACKENDS, Clock, settle

pytestmark = pytest.mark.anyio

CONFIG = SessionConfig(cleanup_interval=1000, max_idle_time=10, close_timeout=5)

Hook = Callable[[Session[Any], EndReason], Awaitable[None]]


class TestCalling:
    async def test_a_hook_gets_the_session_and_its_reason_once(self) -> None:
        calls: list[tuple[Session[str], EndReason]] = []

        async def hook(session: Session[str], reason: EndReason) -> None:
            calls.append((session, reason))

        async with SessionManager[str](CONFIG, on_close=hook) as manager:
            session = await manager.create_session(data="upstream")
            assert await manager.close_session(session.id)
        assert calls == [(session, EndReason.CLOSED)]
        assert calls[0][0].data == "upstream"

    async def test_a_session_is_out_of_sight_and_closing_before_its_hook_and_closed_after_it(self) -> None:
        seen: list[object] = []

        async def hook(session: Session, reason: EndReason) -> None:
            seen.extend([session.state, session.end_reason, session.id in manager, len(manager)])

        async with SessionManager(CONFIG, on_close=hook) as manager:
            session = await manager.create_session()
            await manager.close_session(session.id)
            assert seen == [SessionState.CLOSING, EndReason.CLOSED, False, 1]
            assert session.state is SessionState.CLOSED
            assert len(manager) == 0

    async def test_a_session_that_had_failed_is_failed_after_its_hook(self) -> None:
        async with SessionManager(CONFIG) as manager:
            session = await manager.create_session()
            session.fail("upstream hung up")
            assert await manager.close_session(session.id)
            assert session.state is SessionState.FAILED
            assert manager.get_metrics().cleaned_by_reason[EndReason.FAILED] == 1

    async def test_the_sink_comes_before_the_hook(self) -> None:
        order: list[str] = []

        async def note(session: Session, reason: EndReason) -> None:
            await anyio.sleep(1)
            order.append("sink")

        async def hook(session: Session, reason: EndReason) -> None:
            order.append("hook")

        async with SessionManager(CONFIG, on_close=hook, sink=Sink(note)) as manager:
            session = await manager.create_session()
            await manager.close_session(session.id)
        assert order == ["sink", "hook"]

    async def test_a_sink_needs_no_hook(self) -> None:
        sink = Sink()
        async with SessionManager(CONFIG, sink=sink) as manager:
            session = await manager.create_session()
            await manager.close_session(session.id)
            assert sink.exported == [session.id]

    async def test_of_many_who_close_a_session_one_learns_that_it_did(self, ends: Ends) -> None:
        answers: list[bool] = []

        async def close() -> None:
            answers.append(await manager.close_session(session.id))

        async with SessionManager(CONFIG, on_close=ends) as manager:
            session = await manager.create_session()
            async with anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(close)
            assert sorted(answers) == [False] * 9 + [True]
            assert len(ends.seen) == 1
            assert not await manager.close_session("nobody")

    async def test_a_closer_waits_for_the_hook_and_the_others_do_not(self) -> None:
        hook = SlowHook(2)
        async with SessionManager(CONFIG, on_close=hook) as manager, anyio.create_task_group() as group:
            session = await manager.create_session()
            begun = anyio.current_time()
            group.start_soon(manager.close_session, session.id)
            await anyio.sleep(1)
            assert not await manager.close_session(session.id)
            assert anyio.current_time() - begun == pytest.approx(1)

    async def test_a_closer_who_is_cancelled_leaves_the_hook_running(self, ends: Ends) -> None:
        hook = SlowHook(2, ends)
        async with SessionManager(CONFIG, on_close=hook) as manager:
            session = await manager.create_session()
            with anyio.move_on_after(1):
                await manager.close_session(session.id)
            assert ends.seen == []
            await anyio.sleep(1.5)
            assert ends.seen == [(session.id, EndReason.CLOSED)]

    async def test_a_hook_sees_no_context_of_whoever_ended_its_session(self) -> None:
        user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")
        seen: list[str] = []

        async def hook(session: Session, reason: EndReason) -> None:
            seen.append(user.get())

        user.set("creator")
        async with SessionManager(CONFIG, on_close=hook) as manager:
            session = await manager.create_session()
            user.set("closer")
            await manager.close_session(session.id)
        assert seen == ["nobody"]

    async def test_hooks_run_at_shutdown_unless_they_are_switched_off_and_the_sink_always_does(
        self, ends: Ends
    ) -> None:
        sink = Sink()
        async with SessionManager(SessionConfig(cleanup_on_shutdown=False), on_close=ends, sink=sink) as manager:
            session = await manager.create_session()
        assert ends.seen == []
        assert sink.exported == [session.id]

        async with SessionManager(on_close=ends, sink=sink) as manager:
            session = await manager.create_session()
        assert ends.seen == [(session.id, EndReason.SHUTDOWN)]


class TestFailing:
    async def test_a_hook_that_raises_is_logged_and_counted_and_the_session_is_gone(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with SessionManager(CONFIG, on_close=fail) as manager:
            session = await manager.create_session()
            assert await manager.close_session(session.id)
            stats = manager.get_metrics()
            assert (stats.currently_active, stats.total_cleaned, stats.cleanup_errors) == (0, 1, 1)
        [record] = caplog.records
        assert record.levelno == logging.WARNING
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], ConnectionError)
        assert session.id not in record.getMessage()

    async def test_a_hook_that_hangs_is_cut_off_at_close_timeout_and_counted(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        left = anyio.Event()

        async def hook(session: Session, reason: EndReason) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                left.set()

        async with SessionManager(CONFIG, on_close=hook) as manager:
            session = await manager.create_session()
            begun = anyio.current_time()
            assert await manager.close_session(session.id)
            assert anyio.current_time() - begun == pytest.approx(5)
            assert manager.get_metrics().cleanup_errors == 1
            await settle()
            assert left.is_set()
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "cut off" in caplog.text

    async def test_a_timeout_of_the_hooks_own_is_counted_once(self) -> None:
        async def hook(session: Session, reason: EndReason) -> None:
            with anyio.fail_after(1):
                await anyio.sleep_forever()

        async with SessionManager(CONFIG, on_close=hook) as manager:
            session = await manager.create_session()
            begun = anyio.current_time()
            await manager.close_session(session.id)
            assert anyio.current_time() - begun == pytest.approx(1)
            assert manager.get_metrics().cleanup_errors == 1

    async def test_a_sink_that_raises_is_counted_and_the_hook_runs(self, clock: Clock, ends: Ends) -> None:
        async with SessionManager(CONFIG, clock=clock, on_close=ends, sink=Sink(fail)) as manager:
            session = await manager.create_session()
            await anyio.sleep(10)
            report = await manager.cleanup_stale_sessions()
            assert report.outcome is Outcome.PARTIAL
            assert report.hook_errors == 1
            assert ends.seen == [(session.id, EndReason.IDLE_TIMEOUT)]

    async def test_a_sink_that_hangs_is_cut_off_and_the_hook_gets_its_own_time(self, clock: Clock) -> None:
        slow = SlowHook(4)
        async with SessionManager(CONFIG, clock=clock, on_close=slow, sink=Sink(hang)) as manager:
            await manager.create_session()
            await anyio.sleep(10)
            begun = anyio.current_time()
            report = await manager.cleanup_stale_sessions()
            assert anyio.current_time() - begun == pytest.approx(9)
            assert report.hook_errors == 1

    async def test_one_session_can_give_two_errors(self, clock: Clock) -> None:
        async with SessionManager(CONFIG, clock=clock, on_close=fail, sink=Sink(fail)) as manager:
            await manager.create_session()
            await anyio.sleep(10)
            report = await manager.cleanup_stale_sessions()
            assert report.hook_errors == 2
            assert report.total_cleaned == 1
            assert manager.get_metrics().cleanup_errors == 2

    async def test_a_hook_that_fails_in_several_tasks_while_it_is_cut_off_harms_nobody(self) -> None:
        async def complain() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                raise ConnectionError("while cleaning up")

        async def hook(session: Session, reason: EndReason) -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(complain)
                group.start_soon(anyio.sleep_forever)

        async with SessionManager(CONFIG, on_close=hook) as manager:
            for _ in range(2):
                session = await manager.create_session()
                assert await manager.close_session(session.id)
                await settle()
            assert manager.get_metrics().cleanup_errors == 2
            assert len(manager) == 0

    async def test_a_hook_that_is_no_coroutine_function_fails_like_any_other(self) -> None:
        def hook(session: Session, reason: EndReason) -> None:
            pass

        async with SessionManager(CONFIG, on_close=hook) as manager:  # type: ignore[arg-type]  # the embedder's slip
            session = await manager.create_session()
            assert await manager.close_session(session.id)
            assert manager.get_metrics().cleanup_errors == 1

    @pytest.mark.parametrize("anyio_backend", [("asyncio", BACKENDS["asyncio"]())], ids=["asyncio"])
    async def test_a_hook_that_cancels_itself_has_failed(self) -> None:
        async def hook(session: Session, reason: EndReason) -> None:
            raise asyncio.CancelledError

        async with SessionManager(CONFIG, on_close=hook) as manager:
            session = await manager.create_session()
            begun = anyio.current_time()
            assert await manager.close_session(session.id)
            assert anyio.current_time() == begun
            assert manager.get_metrics().cleanup_errors == 1


class TestConcurrency:
    @pytest.mark.parametrize("limit", [1, 3, 32])
    async def test_close_concurrency_holds_for_the_whole_manager(self, clock: Clock, limit: int) -> None:
        running = 0
        most = 0

        async def hook(session: Session, reason: EndReason) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await anyio.sleep(1)
            running -= 1

        config = SessionConfig(max_idle_time=10, close_concurrency=limit, close_timeout=100, shutdown_timeout=1000)
        async with SessionManager(config, clock=clock, on_close=hook) as manager:
            for _ in range(20):
                await manager.create_session()
            await anyio.sleep(10)
            fresh = [await manager.create_session() for _ in range(20)]
            begun = anyio.current_time()
            async with anyio.create_task_group() as group:
                group.start_soon(manager.cleanup_stale_sessions)
                for session in fresh:
                    group.start_soon(manager.close_session, session.id)
            assert most == limit
            assert anyio.current_time() - begun == pytest.approx(-(-40 // limit))

    async def test_a_hook_that_overstays_frees_its_slot_and_its_place_at_close_timeout(self, ends: Ends) -> None:
        stubborn = Stubborn()

        async def hook(session: Session, reason: EndReason) -> None:
            if session.id == "stubborn":
                await stubborn(session, reason)
            await ends(session, reason)

        config = SessionConfig(max_sessions=2, close_concurrency=1, close_timeout=5)
        async with SessionManager(config, on_close=hook) as manager, anyio.create_task_group() as group:
            for session_id in ("stubborn", "next"):
                await manager.create_session(session_id)
                group.start_soon(manager.close_session, session_id)
                await settle()
            await anyio.sleep(4.5)
            assert ends.seen == []
            await anyio.sleep(1)
            assert ends.seen == [("next", EndReason.CLOSED)]
            assert len(manager) == 0
            stubborn.released.set()

    async def test_a_hook_that_ignores_its_first_cancellation_is_asked_again_with_every_tick(
        self, anyio_backend_name: str
    ) -> None:
        stubborn = Stubborn()
        config = SessionConfig(cleanup_interval=10, close_timeout=5)
        async with SessionManager(config, on_close=stubborn) as manager:
            session = await manager.create_session()
            await manager.close_session(session.id)
            await anyio.sleep(1)
            if anyio_backend_name == "asyncio":  # a trio scope stays cancelled, and this hook shields itself
                assert stubborn.cancellations == 1
                await anyio.sleep(20)
                assert stubborn.cancellations == 3
            stubborn.released.set()
            await anyio.sleep(10)
            assert manager.get_metrics().cleanup_errors == 1


class TestCallingBack:
    """Hooks that call the manager they belong to: nothing waits for itself."""

    async def call_from_hook(
        self, call: Callable[[SessionManager, Session], Awaitable[object]], config: SessionConfig = CONFIG
    ) -> list[object]:
        """Close one of two sessions whose hook makes a call; return what came of it, before the hook's time is over."""
        results: list[object] = []

        async def hook(session: Session, reason: EndReason) -> None:
            if session.id == "first":
                try:
                    results.append(await call(manager, session))
                except Exception as error:
                    results.append(error)

        async with SessionManager(config, on_close=hook) as manager:
            await manager.create_session("first")
            await manager.create_session("second")
            begun = anyio.current_time()
            assert await manager.close_session("first")
            assert anyio.current_time() == begun
            assert manager.get_metrics().cleanup_errors == 0
        stats = manager.get_metrics()
        assert stats.total_created == stats.total_cleaned
        assert stats.reserved == 0
        return results

    async def test_a_hook_may_create_a_session(self) -> None:
        [session] = await self.call_from_hook(lambda manager, _: manager.create_session())
        assert isinstance(session, Session)

    async def test_a_hook_that_creates_at_the_cap_is_refused_at_once(self) -> None:
        config = SessionConfig(max_sessions=2, close_concurrency=1)
        [error] = await self.call_from_hook(lambda manager, _: manager.create_session(), config)
        assert isinstance(error, TooManySessions)

    async def test_a_hook_that_reserves_at_the_cap_is_refused_at_once(self) -> None:
        config = SessionConfig(max_sessions=2, close_concurrency=1)
        [error] = await self.call_from_hook(lambda manager, _: manager.reserve().__aenter__(), config)
        assert isinstance(error, TooManySessions)

    async def test_a_hook_cannot_take_the_id_that_is_closing(self) -> None:
        [error] = await self.call_from_hook(lambda manager, session: manager.create_session(session.id))
        assert isinstance(error, SessionExists)

    async def test_a_hook_that_closes_its_own_session_is_too_late(self) -> None:
        [closed] = await self.call_from_hook(lambda manager, session: manager.close_session(session.id))
        assert closed is False

    async def test_a_hook_may_close_another_session_without_waiting_for_its_hook(self) -> None:
        config = SessionConfig(close_concurrency=1)
        [closed] = await self.call_from_hook(lambda manager, _: manager.close_session("second"), config)
        assert closed is True

    async def test_a_hook_may_clean_up_without_waiting_for_other_hooks(self) -> None:
        async def clean(manager: SessionManager, session: Session) -> object:
            with manager.pin("second") as second:
                second.fail("upstream hung up")
            return (await manager.cleanup_stale_sessions()).total_cleaned

        assert await self.call_from_hook(clean, SessionConfig(close_concurrency=1)) == [1]

    async def test_a_hook_may_ask_for_a_preview(self) -> None:
        async def preview(manager: SessionManager, session: Session) -> object:
            return (await manager.preview_cleanup()).total_cleaned

        assert await self.call_from_hook(preview) == [0]

    async def test_a_hook_may_run_an_emergency_cleanup_without_waiting_for_other_hooks(self) -> None:
        async def clean(manager: SessionManager, session: Session) -> object:
            with manager.pin("second") as second:
                second.fail("upstream hung up")
            return (await manager.emergency_cleanup()).total_cleaned

        assert await self.call_from_hook(clean, SessionConfig(close_concurrency=1)) == [1]

    async def test_a_hook_may_lease_another_session(self) -> None:
        async def lease(manager: SessionManager, session: Session) -> object:
            async with manager.lease("second") as leased:
                await anyio.lowlevel.checkpoint()
            return leased.id

        assert await self.call_from_hook(lease) == ["second"]

    async def test_a_hook_may_ask_for_the_shutdown_and_goes_on(self, ends: Ends) -> None:
        async def hook(session: Session, reason: EndReason) -> None:
            await manager.shutdown()
            with pytest.raises(ManagerClosed):
                await manager.create_session()
            await anyio.sleep(1)
            await ends(session, reason)

        async with SessionManager(CONFIG, on_close=hook) as manager:
            for session_id in ("first", "second"):
                await manager.create_session(session_id)
            assert await manager.close_session("first")
            await manager.shutdown()
            assert sorted(ends.seen) == [("first", EndReason.CLOSED), ("second", EndReason.SHUTDOWN)]
        assert manager.get_metrics().cleanup_errors == 0

    async def test_a_task_that_a_hook_started_counts_as_the_hook(self) -> None:
        async def close(manager: SessionManager, session: Session) -> object:
            answers: list[bool] = []

            async def child() -> None:
                answers.append(await manager.close_session("second"))

            async with anyio.create_task_group() as group:
                group.start_soon(child)
            return answers

        assert await self.call_from_hook(close, SessionConfig(close_concurrency=1)) == [[True]]

    async def test_a_sink_may_call_the_manager_too(self) -> None:
        async def close_second(session: Session, reason: EndReason) -> None:
            await manager.close_session("second")

        config = SessionConfig(close_concurrency=1)
        async with SessionManager(config, sink=Sink(close_second)) as manager:
            for session_id in ("first", "second"):
                await manager.create_session(session_id)
            begun = anyio.current_time()
            assert await manager.close_session("first")
            assert anyio.current_time() == begun

    async def test_hooks_of_two_managers_may_call_each_other(self) -> None:
        async def in_turn(session: Session, reason: EndReason) -> None:
            await other.close_session(session.id)

        async def and_back(session: Session, reason: EndReason) -> None:
            await manager.close_session("last")

        config = SessionConfig(close_concurrency=1)
        async with (
            SessionManager(config, on_close=in_turn) as manager,
            SessionManager(config, on_close=and_back) as other,
        ):
            for session_id in ("first", "last"):
                await manager.create_session(session_id)
                await other.create_session(session_id)
            begun = anyio.current_time()
            assert await manager.close_session("first")
            await settle()
            assert len(manager) == 0
            assert anyio.current_time() - begun < 1

    async def test_a_hook_of_one_manager_waits_for_the_hooks_of_another(self, ends: Ends) -> None:
        slow = SlowHook(2, ends)

        async def hook(session: Session, reason: EndReason) -> None:
            assert await upstreams.close_session("upstream")
            await ends(session, reason)

        async with (
            SessionManager(CONFIG, on_close=slow) as upstreams,
            SessionManager(CONFIG, on_close=hook) as manager,
        ):
            await upstreams.create_session("upstream")
            session = await manager.create_session("session")
            await manager.close_session(session.id)
            assert [session_id for session_id, _ in ends.seen] == ["upstream", "session"]

    async def test_an_interval_pass_waits_for_no_hook_that_closes_a_session_it_is_about_to_end(
        self, clock: Clock, ends: Ends
    ) -> None:
        async def hook(session: Session, reason: EndReason) -> None:
            for other in sessions:
                await manager.close_session(other.id)
            await ends(session, reason)

        config = SessionConfig(cleanup_interval=1, max_idle_time=10, close_concurrency=2)
        async with SessionManager(config, clock=clock, on_close=hook) as manager:
            sessions = [await manager.create_session() for _ in range(10)]
            await anyio.sleep(5)
            sessions += [await manager.create_session() for _ in range(10)]
            await anyio.sleep(7)
            assert len(manager) == 0
            assert len(ends.seen) == 20
            assert manager.get_metrics().cleanup_errors == 0
