"""`SessionManager.hold`: a pin whose holder is told by a callback when the session is ended."""

import asyncio
import gc
import logging
import weakref
from collections.abc import Callable
from contextvars import Context, copy_context

import anyio
import pytest

from otel_sessions import (
    EndReason,
    Hold,
    ManagerClosed,
    Session,
    SessionConfig,
    SessionManager,
    SessionNotFound,
)
from tests.doubles import Ends
from tests.virtual import Clock, settle

pytestmark = pytest.mark.anyio

CONFIG = SessionConfig(cleanup_interval=1, max_idle_time=10, max_session_age=100, drain_timeout=5, close_timeout=3)


class Exchange:
    """A request on a hold, entered by a task of its own that is over: it leaves when it is told to, or by `leave`."""

    def __init__(self, manager: SessionManager, session_id: str, lingers: bool = False) -> None:
        self._lingers = lingers
        self.told: list[EndReason] = []
        self.told_at: float | None = None
        self.hold = manager.hold(session_id, self._on_end)
        self.session: Session = Context().run(self.hold.__enter__)

    def leave(self) -> None:
        self.hold.__exit__(None, None, None)

    def _on_end(self, reason: EndReason) -> None:
        self.told.append(reason)
        self.told_at = anyio.current_time()
        if not self._lingers:
            self.leave()


class TestHolding:
    async def test_a_callback_that_cannot_be_called_is_refused_at_once(self, clock: Clock) -> None:
        async with SessionManager(CONFIG, clock=clock) as manager:
            session = await manager.create_session()
            with pytest.raises(TypeError, match="on_end takes a function of the end reason, not None"):
                manager.hold(session.id, None)  # type: ignore[arg-type]

    async def test_a_hold_gives_the_session_counts_as_leased_and_keeps_it_from_being_idle(self, clock: Clock) -> None:
        told: list[EndReason] = []
        async with SessionManager(CONFIG, clock=clock) as manager:
            session = await manager.create_session()
            with manager.hold(session.id, told.append) as held:
                assert held is session
                await anyio.sleep(50)
                assert (session.idle_for, manager.get_metrics().leased) == (0, 1)
            assert manager.get_metrics().leased == 0
            await anyio.sleep(9.5)
            assert session.id in manager
            await anyio.sleep(2.5)
            assert session.end_reason is EndReason.IDLE_TIMEOUT
        assert told == []

    async def test_entering_is_a_touch_and_leaving_is_activity_only(self, clock: Clock) -> None:
        async with SessionManager(CONFIG, clock=clock) as manager:
            session = await manager.create_session()
            await anyio.sleep(4)
            with manager.hold(session.id, print):
                entered = session.metadata
                await anyio.sleep(4)
            left = session.metadata
            assert (entered.message_count, left.message_count) == (1, 1)
            assert (left.last_activity - entered.last_activity).total_seconds() == pytest.approx(4, abs=0.01)

    async def test_holds_pins_and_leases_of_one_session_nest_and_are_left_in_any_order(self) -> None:
        async with SessionManager() as manager:
            session = await manager.create_session()
            first, second = manager.hold(session.id, print), manager.hold(session.id, print)
            first.__enter__()
            async with manager.lease(session.id):
                second.__enter__()
                first.__exit__(None, None, None)
                with manager.pin(session.id):
                    assert manager.get_metrics().leased == 1
            assert manager.get_metrics().leased == 1
            second.__exit__(None, None, None)
            assert manager.get_metrics().leased == 0

    async def test_a_hold_is_entered_once_also_after_it_was_left(self) -> None:
        async with SessionManager() as manager:
            session = await manager.create_session()
            hold = manager.hold(session.id, print)
            with hold, pytest.raises(RuntimeError, match="once"):
                hold.__enter__()
            with pytest.raises(RuntimeError, match="once"):
                hold.__enter__()
            assert manager.get_metrics().leased == 0

    async def test_an_error_in_the_block_leaves_as_it_is(self) -> None:
        async with SessionManager() as manager:
            session = await manager.create_session()
            with pytest.raises(ValueError, match="mine"), manager.hold(session.id, print):
                raise ValueError("mine")
            assert manager.get_metrics().leased == 0

    async def test_what_is_not_there_is_not_found_and_a_manager_that_does_not_run_says_so(self, clock: Clock) -> None:
        async with SessionManager(CONFIG, clock=clock) as manager:
            session = await manager.create_session(max_session_age=5)
            await anyio.sleep(5)
            with pytest.raises(SessionNotFound) as caught:
                manager.hold(session.id, print).__enter__()
            assert caught.value.reason is EndReason.MAX_AGE
        with pytest.raises(ManagerClosed):
            manager.hold(session.id, print).__enter__()

    async def test_a_hold_that_was_left_keeps_nothing_of_the_session(self) -> None:
        class Data:
            pass

        async with SessionManager[Data]() as manager:
            session = await manager.create_session(data=Data())
            data = weakref.ref(session.data)
            hold = manager.hold(session.id, print)
            with hold:
                kept = copy_context()  # as a task that was started here does
            await manager.close_session(session.id)
            del session
            gc.collect()
            assert data() is None
            assert hold is not None
            assert kept is not None


class TestBeingTold:
    async def test_the_holder_is_told_once_and_at_once_when_the_session_is_closed(self) -> None:
        async with SessionManager(CONFIG) as manager:
            session = await manager.create_session()
            exchange = Exchange(manager, session.id)
            closed_at = anyio.current_time()
            assert await manager.close_session(session.id)
            assert (exchange.told, exchange.told_at) == ([EndReason.CLOSED], closed_at)
            assert len(manager) == 0

    async def test_it_is_told_when_the_session_is_hidden_and_before_the_hook_starts(self, ends: Ends) -> None:
        def look(reason: EndReason) -> None:
            seen.append((session.id in manager, session.end_reason, manager.get_metrics().closing, list(ends.seen)))
            hold.__exit__(None, None, None)

        seen: list[object] = []
        async with SessionManager(CONFIG, on_close=ends) as manager:
            session = await manager.create_session()
            hold = manager.hold(session.id, look)
            Context().run(hold.__enter__)
            await manager.close_session(session.id)
        assert seen == [(False, EndReason.CLOSED, 1, [])]
        assert ends.seen == [(session.id, EndReason.CLOSED)]

    async def test_the_hook_starts_once_every_holder_has_left(self, ends: Ends) -> None:
        async with SessionManager(CONFIG, on_close=ends) as manager, anyio.create_task_group() as group:
            session = await manager.create_session()
            exchanges = [Exchange(manager, session.id, lingers=True) for _ in range(2)]
            group.start_soon(manager.close_session, session.id)
            await anyio.sleep(1)
            assert manager.get_metrics().leased == 0
            exchanges[0].leave()
            await anyio.sleep(1)
            assert ends.seen == []
            exchanges[1].leave()
            await settle()
            assert ends.seen == [(session.id, EndReason.CLOSED)]
            assert [exchange.told for exchange in exchanges] == [[EndReason.CLOSED]] * 2

    async def test_the_hook_starts_after_close_timeout_if_a_holder_stays_and_it_is_told_once(self, ends: Ends) -> None:
        async with SessionManager(CONFIG, on_close=ends) as manager:
            session = await manager.create_session()
            exchange = Exchange(manager, session.id, lingers=True)
            begun = anyio.current_time()
            assert await manager.close_session(session.id)
            assert anyio.current_time() - begun == pytest.approx(3, abs=0.01)
            assert ends.seen == [(session.id, EndReason.CLOSED)]
            exchange.leave()
            await settle()
        assert (exchange.told, len(ends.seen)) == ([EndReason.CLOSED], 1)

    async def test_a_holder_that_has_left_is_not_told(self) -> None:
        async with SessionManager(CONFIG) as manager:
            session = await manager.create_session()
            exchange = Exchange(manager, session.id)
            exchange.leave()
            await manager.close_session(session.id)
        assert exchange.told == []

    async def test_a_holder_whose_block_another_ones_callback_leaves_is_not_told(self, ends: Ends) -> None:
        def leave_both(reason: EndReason) -> None:
            told.append("first")
            first.__exit__(None, None, None)
            second.__exit__(None, None, None)

        told: list[str] = []
        async with SessionManager(CONFIG, on_close=ends) as manager:
            session = await manager.create_session()
            first = manager.hold(session.id, leave_both)
            second = manager.hold(session.id, lambda _: told.append("second"))
            Context().run(first.__enter__)
            Context().run(second.__enter__)
            begun = anyio.current_time()
            await manager.close_session(session.id)
            assert anyio.current_time() == pytest.approx(begun, abs=0.01)
        assert (told, ends.seen) == (["first"], [(session.id, EndReason.CLOSED)])

    async def test_the_holder_of_another_session_is_not_told(self) -> None:
        async with SessionManager(CONFIG) as manager:
            session, others = await manager.create_session(), await manager.create_session()
            exchange = Exchange(manager, others.id)
            await manager.close_session(session.id)
            assert exchange.told == []
            exchange.leave()

    async def test_a_failure_tells_nobody_and_the_session_ends_when_its_holder_has_left(
        self, clock: Clock, ends: Ends
    ) -> None:
        async with SessionManager(CONFIG, clock=clock, on_close=ends) as manager:
            session = await manager.create_session()
            exchange = Exchange(manager, session.id)
            session.fail("upstream hung up")
            await anyio.sleep(20)
            assert (exchange.told, ends.seen) == ([], [])
            exchange.leave()
            await anyio.sleep(1.5)
            assert ends.seen == [(session.id, EndReason.FAILED)]

    async def test_at_max_age_the_holder_is_told_after_the_drain_and_nobody_new_gets_a_hold(
        self, clock: Clock, ends: Ends
    ) -> None:
        async with SessionManager(CONFIG, clock=clock, on_close=ends) as manager:
            session = await manager.create_session(max_session_age=20)
            begun = anyio.current_time()
            exchange = Exchange(manager, session.id)
            await anyio.sleep(20)
            with pytest.raises(SessionNotFound):
                manager.hold(session.id, print).__enter__()
            await anyio.sleep(10)
            assert exchange.told == [EndReason.MAX_AGE]
            assert exchange.told_at is not None
            assert 25 <= exchange.told_at - begun <= 27.01  # age, at most a tick and an interval, drain
            assert ends.seen == [(session.id, EndReason.MAX_AGE)]

    async def test_leaving_within_the_drain_lets_the_next_pass_end_it(self, clock: Clock, ends: Ends) -> None:
        config = SessionConfig(cleanup_interval=1, max_session_age=20, drain_timeout=500)
        async with SessionManager(config, clock=clock, on_close=ends) as manager:
            session = await manager.create_session()
            exchange = Exchange(manager, session.id)
            await anyio.sleep(30)
            exchange.leave()
            await anyio.sleep(1.5)
            assert (exchange.told, ends.seen) == ([], [(session.id, EndReason.MAX_AGE)])

    async def test_a_shutdown_waits_for_the_drain_and_tells_who_is_left(self, ends: Ends) -> None:
        async with SessionManager(CONFIG, on_close=ends) as manager, anyio.create_task_group() as group:
            early = Exchange(manager, (await manager.create_session("early")).id)
            late = Exchange(manager, (await manager.create_session("late")).id)
            begun = anyio.current_time()
            group.start_soon(manager.shutdown)
            await anyio.sleep(2)
            early.leave()
            await anyio.sleep(10)
            assert (early.told, late.told) == ([], [EndReason.SHUTDOWN])
            assert late.told_at == pytest.approx(begun + 5, abs=0.01)
            assert ("late", EndReason.SHUTDOWN) in ends.seen

    async def test_a_shutdown_that_nobody_holds_up_is_not_kept_by_a_hold_that_was_left(self) -> None:
        async with SessionManager(CONFIG) as manager:
            exchange = Exchange(manager, (await manager.create_session()).id)
            begun = anyio.current_time()
            async with anyio.create_task_group() as group:
                group.start_soon(manager.shutdown)
                await anyio.sleep(1)
                exchange.leave()
            assert anyio.current_time() == pytest.approx(begun + 1, abs=0.01)

    async def test_a_shutdown_ends_in_time_although_a_holder_stays_and_leaving_later_does_nothing(
        self, ends: Ends
    ) -> None:
        async with SessionManager(CONFIG, on_close=ends) as manager:
            session = await manager.create_session()
            exchange = Exchange(manager, session.id, lingers=True)
            begun = anyio.current_time()
            await manager.shutdown()
            assert anyio.current_time() - begun == pytest.approx(5 + 3, abs=0.01)  # the drain, and close_timeout
            assert (exchange.told, ends.seen) == ([EndReason.SHUTDOWN], [(session.id, EndReason.SHUTDOWN)])
            before = manager.get_metrics()
            exchange.leave()
            assert manager.get_metrics().leased == before.leased == 0
            assert (before.total_cleaned, before.currently_active) == (1, 0)


class TestTheOneWhoEndsIt:
    async def test_the_holder_who_closes_is_not_told_and_goes_on_after_the_hook(self, ends: Ends) -> None:
        told: list[EndReason] = []
        async with SessionManager(CONFIG, on_close=ends) as manager:
            session = await manager.create_session()
            with manager.hold(session.id, told.append):
                begun = anyio.current_time()
                assert await manager.close_session(session.id)
                assert anyio.current_time() == pytest.approx(begun, abs=0.01)
                assert ends.seen == [(session.id, EndReason.CLOSED)]
        assert told == []

    async def test_a_child_task_of_the_holder_counts_as_the_holder(self) -> None:
        told: list[EndReason] = []
        async with SessionManager(CONFIG) as manager:
            session = await manager.create_session()
            with manager.hold(session.id, told.append):
                async with anyio.create_task_group() as group:
                    group.start_soon(manager.close_session, session.id)
        assert told == []

    async def test_others_are_told_and_cancelled_when_a_holder_closes(self) -> None:
        async def lease() -> None:
            with pytest.raises(SessionNotFound):
                async with manager.lease(session.id):
                    await anyio.sleep_forever()

        told: list[EndReason] = []
        async with SessionManager(CONFIG) as manager, anyio.create_task_group() as group:
            session = await manager.create_session()
            group.start_soon(lease)
            exchange = Exchange(manager, session.id)
            await settle()
            with manager.hold(session.id, told.append):
                assert await manager.close_session(session.id)
            assert (told, exchange.told) == ([], [EndReason.CLOSED])

    async def test_a_holder_is_told_when_one_with_a_lease_on_the_session_closes_it(self) -> None:
        async with SessionManager(CONFIG) as manager:
            session = await manager.create_session()
            exchange = Exchange(manager, session.id)
            async with manager.lease(session.id):
                assert await manager.close_session(session.id)
                await anyio.sleep(1)  # not cancelled
            assert exchange.told == [EndReason.CLOSED]

    async def test_a_hold_that_was_left_protects_nobody(self) -> None:
        async with SessionManager(CONFIG) as manager:
            session = await manager.create_session()
            with manager.hold(session.id, print):
                pass
            exchange = Exchange(manager, session.id)
            await manager.close_session(session.id)
            assert exchange.told == [EndReason.CLOSED]

    async def test_a_task_whose_holds_other_tasks_leave_keeps_the_last_one_at_most(self, clock: Clock) -> None:
        def holds() -> int:
            gc.collect()
            return sum(isinstance(one, Hold) for one in gc.get_objects())

        async with SessionManager(CONFIG, clock=clock) as manager:
            session = await manager.create_session()
            before = holds()
            for _ in range(100):
                hold = manager.hold(session.id, print)
                hold.__enter__()
                Context().run(hold.__exit__, None, None, None)
            assert holds() - before == 1
            assert manager.get_metrics().leased == 0


class TestCallbacksThatMisbehave:
    async def test_a_callback_that_raises_is_logged_and_everything_else_goes_on(
        self, ends: Ends, caplog: pytest.LogCaptureFixture
    ) -> None:
        def explode(reason: EndReason) -> None:
            raise RuntimeError("mine")

        async with SessionManager(CONFIG, on_close=ends) as manager:
            session = await manager.create_session()
            hold = manager.hold(session.id, explode)
            Context().run(hold.__enter__)
            exchange = Exchange(manager, session.id)
            await manager.close_session(session.id)  # after close_timeout, since the first holder stays
            assert exchange.told == [EndReason.CLOSED]
            assert ends.seen == [(session.id, EndReason.CLOSED)]
            hold.__exit__(None, None, None)
            stats = manager.get_metrics()
        assert (stats.closing, stats.leased, stats.currently_active) == (0, 0, 0)
        [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert "on_end" in record.message
        assert session.id not in caplog.text

    async def test_a_cancellation_that_a_callback_raises_is_an_error_of_the_callback(
        self, ends: Ends, caplog: pytest.LogCaptureFixture
    ) -> None:
        def ask_a_cancelled_future(reason: EndReason) -> None:
            raise asyncio.CancelledError

        async with SessionManager(CONFIG, on_close=ends) as manager:
            session = await manager.create_session()
            Context().run(manager.hold(session.id, ask_a_cancelled_future).__enter__)
            assert await manager.close_session(session.id)
        assert ends.seen == [(session.id, EndReason.CLOSED)]
        assert "on_end" in caplog.text

    async def test_a_keyboard_interrupt_in_a_callback_is_raised_and_the_session_ends_all_the_same(
        self, ends: Ends
    ) -> None:
        def interrupt(reason: EndReason) -> None:
            raise KeyboardInterrupt

        async with SessionManager(CONFIG, on_close=ends) as manager:
            session = await manager.create_session()
            Context().run(manager.hold(session.id, interrupt).__enter__)
            with pytest.raises(KeyboardInterrupt):
                await manager.close_session(session.id)
            await anyio.sleep(3.1)
            assert ends.seen == [(session.id, EndReason.CLOSED)]

    async def test_what_ends_the_program_in_one_callback_keeps_no_other_from_being_told(self, ends: Ends) -> None:
        told: list[int] = []

        def exit_program(reason: EndReason) -> None:
            raise SystemExit(3)

        async with SessionManager(CONFIG, on_close=ends) as manager:
            session = await manager.create_session()
            holds = [manager.hold(session.id, exit_program), manager.hold(session.id, lambda _: told.append(1))]
            for hold in (*holds, manager.hold(session.id, lambda _: told.append(2))):
                Context().run(hold.__enter__)
            with pytest.raises(SystemExit):
                await manager.close_session(session.id)
            assert told == [1, 2]
            await anyio.sleep(3.1)
            assert ends.seen == [(session.id, EndReason.CLOSED)]

    @pytest.mark.parametrize("act", [SessionManager.touch, SessionManager.get], ids=["touch", "get"])
    async def test_a_callback_may_use_the_manager_and_sees_no_ended_session(
        self, act: Callable[[SessionManager, str], Session | None]
    ) -> None:
        seen: list[Session | None] = []

        def use(reason: EndReason) -> None:
            seen.append(act(manager, session.id))
            seen.append(act(manager, other.id))
            with manager.pin(other.id):
                other.fail("too")

        async with SessionManager(CONFIG) as manager:
            session, other = await manager.create_session(), await manager.create_session()
            Context().run(manager.hold(session.id, use).__enter__)
            await manager.close_session(session.id)  # after close_timeout, since the holder stays
            assert seen == [None, other]
            assert other.end_reason is EndReason.FAILED
