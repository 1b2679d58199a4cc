"""A manager is entered again, is called from another loop, or loses its loop: its books go on, and nothing is lost."""

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any

import anyio
import anyio.from_thread
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from otel_sessions import EndReason, ManagerClosed, Session, SessionConfig, SessionManager, SessionNotFound
from tests.doubles import Ends, SlowHook, hang
from tests.programs import let_others_run, run, run_on_a_loop_that_dies
from tests.signals import Signals
from tests.virtual import BACKENDS, Clock, settle

CONFIG = SessionConfig(max_sessions=3, cleanup_interval=10.0, max_idle_time=None, max_session_age=None)

other_loops = pytest.mark.parametrize("first", list(BACKENDS))


async def live_and_end(manager: SessionManager[None], sessions: int = 1) -> None:
    async with manager:
        for number in range(sessions):
            await manager.create_session(str(number))


class Data:
    """What an embedder keeps with a session."""


Use = Callable[[SessionManager[Data], str], AbstractContextManager[Session[Data]]]


def hold(manager: SessionManager[Data], session_id: str) -> AbstractContextManager[Session[Data]]:
    return manager.hold(session_id, lambda _: None)


class TestEnteringAgain:
    """A manager that has ended is entered again."""

    @other_loops
    def test_a_manager_may_be_entered_again_on_either_loop(
        self, first: str, anyio_backend: tuple[str, dict[str, Any]], ends: Ends
    ) -> None:
        manager = SessionManager(CONFIG, on_close=ends)
        for backend in ((first, BACKENDS[first]()), anyio_backend):
            run(backend, lambda: live_and_end(manager, 2))

        stats = manager.get_metrics()
        assert (stats.total_created, stats.total_cleaned, stats.currently_active) == (4, 4, 0)
        assert sorted(ends.seen) == [("0", EndReason.SHUTDOWN)] * 2 + [("1", EndReason.SHUTDOWN)] * 2

    @pytest.mark.anyio
    async def test_it_starts_empty_and_its_books_go_on(self, clock: Clock) -> None:
        manager = SessionManager(CONFIG, clock=clock)
        await live_and_end(manager, 3)
        before = manager.get_metrics()
        async with manager:
            assert len(manager) == 0
            assert manager.get("0") is None
            await manager.create_session("0")
            stats = manager.get_metrics()
            assert (stats.total_created, stats.currently_active, stats.peak_active) == (4, 1, 3)
            assert (stats.cleanup_runs, stats.last_cleanup) == (before.cleanup_runs, before.last_cleanup)
            assert stats.seconds_since_cleanup == pytest.approx(0, abs=0.5)
        assert manager.get_metrics().cleanup_runs == before.cleanup_runs + 1

    @pytest.mark.anyio
    async def test_its_passes_and_limits_work_as_the_first_time(self, clock: Clock, ends: Ends) -> None:
        manager = SessionManager(SessionConfig(cleanup_interval=10, max_idle_time=20), on_close=ends, clock=clock)
        await live_and_end(manager)
        await anyio.sleep(500)
        async with manager:
            session = await manager.create_session("idle")
            await anyio.sleep(31)
            assert session.end_reason is EndReason.IDLE_TIMEOUT
            with pytest.raises(SessionNotFound), manager.pin("0"):
                pass

    @pytest.mark.anyio
    async def test_what_is_held_over_the_end_changes_nothing_in_the_next_run(self, clock: Clock) -> None:
        manager = SessionManager(CONFIG, clock=clock)
        async with manager:
            session = await manager.create_session()
            pin = manager.pin(session.id)
            pin.__enter__()
            place = manager.reserve()
            await place.__aenter__()
            late = manager.reserve()
            await manager.shutdown()
        async with manager:
            assert manager.get_metrics().reserved == 0
            others = [await manager.create_session() for _ in range(3)]
            with manager.pin(others[0].id):
                pin.__exit__(None, None, None)
                place.give_back()
                assert manager.get_metrics().leased == 1
            for old in (place.commit, lambda: late.__aenter__().send(None)):
                with pytest.raises((ManagerClosed, RuntimeError)):
                    old()
            stats = manager.get_metrics()
            assert (stats.currently_active, stats.reserved, stats.leased) == (3, 0, 0)

    @pytest.mark.anyio
    async def test_a_manager_that_is_shutting_down_is_not_entered(self, clock: Clock) -> None:
        slow = SlowHook(3)
        manager = SessionManager(CONFIG, on_close=slow, clock=clock)
        async with manager, anyio.create_task_group() as group:
            await manager.create_session()
            group.start_soon(manager.shutdown)
            await settle()
            with pytest.raises(ManagerClosed, match="runs already"):
                await manager.__aenter__()
        await live_and_end(manager)

    @pytest.mark.anyio
    async def test_a_clock_that_fails_at_an_entry_is_told_and_the_next_entry_works(self, clock: Clock) -> None:
        broken = True

        def now() -> float:
            if broken:
                raise OSError("no time today")
            return clock()

        manager = SessionManager(CONFIG, clock=now)
        with pytest.raises(OSError, match="no time"):
            await manager.__aenter__()
        with pytest.raises(ManagerClosed):
            await manager.create_session()
        broken = False
        await live_and_end(manager)
        assert manager.get_metrics().total_cleaned == 1

    @pytest.mark.anyio
    async def test_an_entry_is_no_second_registration_and_counters_never_fall(
        self, signals: Signals, clock: Clock
    ) -> None:
        manager = signals.manager(CONFIG, clock=clock)
        created: list[float] = []
        for _ in range(3):
            async with manager:
                await manager.create_session()
                await manager.cleanup_stale_sessions()
                export = signals.export()
                assert export.is_balanced
                assert export.sums("session.active") == {"default": 1}
                assert export.sums("session.limit") == {"default": 3}
                created.append(export.value("session.created"))
            export = signals.export()
            assert export.sums("session.active") == export.sums("session.limit") == {"default": 0}
            assert export.sums("session.cleaned") == export.sums("session.created")
        assert created == [1, 2, 3]
        assert signals.export().value("cleanup.runs", trigger="manual", outcome="success") == 3

    @pytest.mark.anyio
    async def test_a_pass_that_was_cut_off_does_not_hide_that_the_next_run_is_late(
        self, signals: Signals, clock: Clock
    ) -> None:

        manager = signals.manager(CONFIG, on_close=hang, clock=clock)
        async with anyio.create_task_group() as group, manager:
            (await manager.create_session()).fail("the upstream hung up")
            group.start_soon(manager.cleanup_stale_sessions)
            await settle()
        async with manager:
            await settle()
            clock.skew += 25
            assert signals.export().sums("cleanup.overdue")["default"] > 0

    @pytest.mark.anyio
    async def test_a_manager_that_has_ended_may_be_entered_again_within_its_first_block(self) -> None:
        manager = SessionManager(CONFIG)
        async with manager:
            await manager.create_session()
            await manager.shutdown()
            async with manager:
                await manager.create_session()
            assert manager.get_metrics().total_cleaned == 2

    def test_a_manager_of_a_module_serves_one_test_client_after_the_other(self) -> None:
        manager = SessionManager(CONFIG)

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            async with manager:
                yield

        async def create(request: Request) -> JSONResponse:
            await manager.create_session()
            return JSONResponse(manager.get_metrics().as_dict())

        app = Starlette(routes=[Route("/", create)], lifespan=lifespan)
        for created in (1, 2, 3):
            with TestClient(app) as client:
                stats = client.get("/").json()
                assert (stats["total_created"], stats["currently_active"]) == (created, 1)
        assert manager.get_metrics().cleaned_by_reason[EndReason.SHUTDOWN] == 3


def calls_of(manager: SessionManager[None]) -> list[Callable[[], Awaitable[Any]]]:
    async def lease() -> None:
        async with manager.lease("0"):
            pass

    async def reserve() -> None:
        async with manager.reserve():
            pass

    return [
        manager.create_session,
        lambda: manager.create_session("0"),
        reserve,
        lease,
        lambda: manager.close_session("0"),
        lambda: manager.close_session("unknown"),
        manager.cleanup_stale_sessions,
        manager.preview_cleanup,
        manager.emergency_cleanup,
        manager.shutdown,
        lambda: manager.__aexit__(None, None, None),
    ]


class TestAnotherLoop:
    """A manager that is used from another loop."""

    @other_loops
    def test_every_async_method_says_that_it_is_called_on_another_loop(
        self, first: str, anyio_backend: tuple[str, dict[str, Any]]
    ) -> None:
        manager = SessionManager(CONFIG)

        async def call_all() -> None:
            for call in calls_of(manager):
                with pytest.raises(RuntimeError, match=r"another event loop.*from_thread"):
                    await call()
            with pytest.raises(ManagerClosed, match="runs already"):
                await manager.__aenter__()
            with manager.pin("0") as session:  # arithmetic only
                session.touch()
            assert manager.get("0") is session

        with anyio.from_thread.start_blocking_portal(first) as portal, portal.wrap_async_context_manager(manager):
            portal.call(manager.create_session, "0")
            run(anyio_backend, call_all)
            stats = manager.get_metrics()
            assert (stats.total_created, stats.currently_active, stats.reserved, stats.leased) == (1, 1, 0, 0)
            assert stats.rejected == dict.fromkeys(stats.rejected, 0)
            assert portal.call(manager.close_session, "0")

    def test_a_call_without_any_loop_says_so_too(self) -> None:
        manager = SessionManager(CONFIG)
        with anyio.from_thread.start_blocking_portal() as portal, portal.wrap_async_context_manager(manager):
            coroutine: Coroutine[Any, Any, Any] = manager.create_session()
            with pytest.raises(RuntimeError, match="another event loop"):
                coroutine.send(None)


def lost(manager: SessionManager[None]) -> SessionManager[None]:
    """Lose the loop of a manager that holds a session "a"."""

    async def main() -> None:
        await manager.__aenter__()
        await manager.create_session("a")

    run_on_a_loop_that_dies(main)
    return manager


class Left:
    """A manager at work in several tasks, whose loop then dies."""

    def __init__(self, signals: Signals) -> None:
        self.manager = signals.manager(CONFIG, on_close=self._hang)
        self._tasks: list[asyncio.Task[None]] = []

    async def main(self) -> None:
        await self.manager.__aenter__()
        for name in ("closing", "leased", "failed"):
            await self.manager.create_session(name)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(work()) for work in (self._close, self._wait, self._lease, self._clean)]
        await let_others_run()
        assert self.manager.get_metrics().waiting == 1

    async def _hang(self, session: Session[None], reason: EndReason) -> None:
        await asyncio.sleep(1000)

    async def _close(self) -> None:
        await self.manager.close_session("closing")

    async def _wait(self) -> None:
        await self.manager.create_session()

    async def _lease(self) -> None:
        async with self.manager.lease("leased"):
            await asyncio.sleep(1000)

    async def _clean(self) -> None:
        session = self.manager.get("failed")
        assert session is not None
        session.fail("the upstream hung up")
        await self.manager.cleanup_stale_sessions()

    def forget(self) -> None:
        """Let the tasks be collected, which runs what they do at their end."""
        self._tasks.clear()
        gc.collect()


class TestLoopThatIsClosed:
    """A manager whose loop is closed while it runs."""

    def test_a_manager_whose_loop_was_closed_has_ended(self, signals: Signals) -> None:
        manager = signals.manager(CONFIG)
        kept: list[Session[None]] = []

        async def main() -> None:
            await manager.__aenter__()
            kept.append(await manager.create_session())
            kept.append(await manager.create_session())
            manager.pin(kept[0].id).__enter__()
            await manager.reserve().__aenter__()
            await let_others_run()

        run_on_a_loop_that_dies(main)
        for _ in range(2):  # before anything else is asked of it, and after
            stats, export = manager.get_metrics(), signals.export()
            assert len(manager) == 0
            assert (stats.total_created, stats.currently_active, stats.leased, stats.reserved) == (2, 0, 0, 0)
            assert stats.cleaned_by_reason[EndReason.SHUTDOWN] == 2
            assert export.is_balanced
            assert export.not_zero("session.cleaned") == {"shutdown": 2}
            assert export.sums("session.limit") == export.sums("session.reserved") == {"default": 0}
            with pytest.raises(ManagerClosed) as caught:
                asyncio.run(manager.create_session())
            assert caught.value.entered
        assert [session.end_reason for session in kept] == [EndReason.SHUTDOWN] * 2
        assert manager.get(kept[1].id) is None

    @pytest.mark.parametrize("use", [SessionManager.pin, hold])
    def test_a_lease_that_is_left_after_its_loop_was_closed_keeps_no_session(self, use: Use) -> None:
        manager = SessionManager[Data](CONFIG)
        lease = use(manager, "an id")

        async def main() -> weakref.ref[Data]:
            await manager.__aenter__()
            data = Data()
            await manager.create_session("an id", data=data)
            lease.__enter__()
            return weakref.ref(data)

        kept = run_on_a_loop_that_dies(main)
        with pytest.raises(ManagerClosed):
            manager.reserve()
        lease.__exit__(None, None, None)
        gc.collect()

        assert kept() is None

    @pytest.mark.parametrize("use", [SessionManager.pin, hold])
    def test_a_session_whose_loop_was_closed_under_its_lease_is_leased_no_more(self, use: Use) -> None:
        manager = SessionManager[Data](CONFIG)

        async def main() -> Session[Data]:
            await manager.__aenter__()
            session = await manager.create_session("an id", data=Data())
            use(manager, "an id").__enter__()
            return session

        session = run_on_a_loop_that_dies(main)
        assert not session.is_stale(0)
        with pytest.raises(ManagerClosed):
            manager.reserve()

        assert session.is_stale(0)

    @pytest.mark.parametrize("kind", ["pin", "hold", "lease", "reserve"])
    def test_a_manager_whose_loop_was_closed_hands_out_no_lease(self, kind: str) -> None:
        manager = lost(SessionManager(CONFIG))

        async def main() -> None:
            if kind == "pin":
                manager.pin("a").__enter__()
            elif kind == "hold":
                manager.hold("a", print).__enter__()
            elif kind == "lease":
                await manager.lease("a").__aenter__()
            else:
                await manager.reserve().__aenter__()

        with pytest.raises(ManagerClosed):
            asyncio.run(main())

    def test_a_block_that_its_loop_left_open_does_not_end_the_next_run_when_it_is_collected(self) -> None:
        manager = SessionManager(CONFIG)
        blocks: list[Coroutine[Any, Any, None]] = []

        async def block() -> None:
            async with manager:
                await asyncio.sleep(3600)

        async def first() -> None:
            blocks.append(block())
            blocks[0].send(None)  # as a task would, but without one that the loop keeps

        async def second() -> None:
            async with manager:
                await manager.create_session("b")
                blocks.pop().close()  # as the garbage collector does
                await asyncio.sleep(0)
                await manager.create_session("c")

        run_on_a_loop_that_dies(first)
        asyncio.run(second())

        assert manager.get_metrics().total_created == 2

    def test_a_collected_block_that_raises_something_else_does_not_end_the_next_run(self) -> None:
        manager = SessionManager(CONFIG)
        blocks: list[Coroutine[Any, Any, None]] = []

        async def block() -> None:
            async with manager:
                try:
                    await asyncio.sleep(3600)
                except GeneratorExit:
                    raise OSError("cannot say goodbye") from None

        async def first() -> None:
            blocks.append(block())
            blocks[0].send(None)

        async def second() -> None:
            async with manager:
                with pytest.raises(OSError, match="goodbye"):
                    blocks.pop().close()
                await asyncio.sleep(0)
                await manager.create_session()

        run_on_a_loop_that_dies(first)
        asyncio.run(second())

        assert manager.get_metrics().total_created == 1

    @pytest.mark.anyio
    async def test_a_block_that_is_left_by_an_async_generators_end_shuts_the_manager_down(self) -> None:
        manager = SessionManager(CONFIG)

        async def fixture() -> AsyncIterator[None]:
            async with manager:
                await manager.create_session()
                yield

        generator = fixture()
        await anext(generator)
        await generator.aclose()  # type: ignore[attr-defined]  # it is an async generator

        assert manager.get_metrics().cleaned_by_reason[EndReason.SHUTDOWN] == 1

    def test_the_next_run_goes_by_the_clock_as_it_is_then(self, signals: Signals) -> None:
        now = [1000.0]
        manager = SessionManager(CONFIG, clock=lambda: now[0], meter_provider=signals.meter_provider)

        async def main() -> float:
            async with manager:
                await asyncio.sleep(0)
                return float(signals.export().sums("cleanup.overdue")["default"])

        first = asyncio.run(main())
        now[0] = 0.0
        assert (first, asyncio.run(main())) == (0.0, 0.0)

    def test_an_entry_that_fails_by_its_clock_leaves_the_manager_as_it_was(self) -> None:
        works = [True]

        def clock() -> float:
            if not works[0]:
                raise OSError("clock")
            return 5.0

        manager = SessionManager(CONFIG, clock=clock)
        asyncio.run(live_and_end(manager))
        works[0] = False

        with pytest.raises(OSError, match="clock"):
            asyncio.run(live_and_end(manager))

        assert manager.get_metrics().total_created == 1

    def test_a_manager_whose_loop_was_closed_may_be_shut_down_and_left(self, signals: Signals) -> None:
        leaves: list[Callable[[SessionManager[None]], Any]] = [
            lambda manager: manager.shutdown(),
            lambda manager: manager.__aexit__(None, None, None),
        ]
        for leave in leaves:
            manager = signals.manager(CONFIG)

            async def main(manager: SessionManager[None] = manager) -> None:
                await manager.__aenter__()
                await manager.create_session()

            run_on_a_loop_that_dies(main)
            asyncio.run(leave(manager))
            assert manager.get_metrics().cleaned_by_reason[EndReason.SHUTDOWN] == 1

    def test_a_manager_whose_loop_was_closed_may_be_entered_again(
        self, signals: Signals, anyio_backend: tuple[str, dict[str, Any]], ends: Ends
    ) -> None:
        manager = signals.manager(CONFIG, on_close=ends)

        async def main() -> None:
            await manager.__aenter__()
            for number in range(3):
                await manager.create_session(str(number))
            await let_others_run()

        run_on_a_loop_that_dies(main)
        run(anyio_backend, lambda: live_and_end(manager, 3))
        gc.collect()

        export = signals.export()
        assert export.value("session.created") == 6
        assert export.not_zero("session.cleaned") == {"shutdown": 6}
        assert len(ends.seen) == 3
        assert manager.get_metrics().peak_active == 3

    def test_what_a_closed_loop_leaves_behind_changes_nothing_in_the_next_run(
        self, signals: Signals, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.CRITICAL)
        left = Left(signals)
        manager = left.manager

        async def again() -> None:
            async with manager:
                await manager.create_session()
                left.forget()
                await let_others_run()
                stats = manager.get_metrics()
                assert (stats.total_created, stats.total_cleaned, stats.currently_active) == (4, 3, 1)
                assert (stats.leased, stats.reserved, stats.waiting, stats.closing) == (0, 0, 0, 0)
                await manager.create_session()
                await manager.create_session()

        run_on_a_loop_that_dies(left.main)
        run(("asyncio", BACKENDS["asyncio"]()), again)
        export = signals.export()
        assert export.is_balanced
        assert export.value("session.created") == 6

    def test_statistics_of_a_lost_manager_may_be_asked_on_any_thread(self, signals: Signals) -> None:
        manager = signals.manager(CONFIG)

        async def main() -> None:
            await manager.__aenter__()
            await manager.create_session()

        run_on_a_loop_that_dies(main)
        seen: list[int] = []
        thread = threading.Thread(target=lambda: seen.append(manager.get_metrics().currently_active))
        thread.start()
        thread.join()
        assert seen == [0]
