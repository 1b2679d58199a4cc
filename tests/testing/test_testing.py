"""What embedders use in their own tests: clocks, virtual time on both loops, and the fixtures."""

import asyncio
import math
import runpy
import socket
import sys
import threading
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from otel_sessions import EndReason, Session, SessionConfig, SessionManager, testing
from otel_sessions.testing import LoopClock, ManualClock, VirtualLoop, run_in_virtual_time, virtual_time
from tests.doubles import Ends, SlowHook

pytest_plugins = ["pytester"]

pytestmark = pytest.mark.anyio
HOUR = 3600.0
LOOPS = ["asyncio", "trio"]
on_both_loops = pytest.mark.parametrize("backend", LOOPS)
not_forward = pytest.mark.parametrize("seconds", [-1.0, -math.inf, math.inf, math.nan])

CONFTEST = """
import pytest
from otel_sessions.testing import LoopClock, virtual_time

pytest_plugins = ["otel_sessions.testing"]

@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return virtual_time(request.param)
"""


class TestManualClock:
    async def test_a_session_is_stale_as_soon_as_the_clock_has_moved_far_enough(self, anyio_backend: object) -> None:
        clock = ManualClock()
        async with SessionManager(SessionConfig(max_idle_time=60), clock=clock) as manager:
            session = await manager.create_session()
            clock.advance(59.5)
            assert manager.get(session.id) is session
            clock.advance(0.5)
            assert manager.get(session.id) is None

    def test_it_stands_still_until_it_is_moved_and_starts_where_it_is_told(self) -> None:
        clock = ManualClock(7.0)
        assert (clock(), clock()) == (7.0, 7.0)
        clock.advance(0)
        assert clock() == 7.0

    @not_forward
    def test_it_moves_forward_only(self, seconds: float) -> None:
        clock = ManualClock()
        with pytest.raises(ValueError, match="forward"):
            clock.advance(seconds)
        assert clock() == 0.0


class TestLoopClock:
    async def test_the_managers_time_is_the_loops_time(self, anyio_backend: object) -> None:
        async with SessionManager(SessionConfig(max_idle_time=HOUR), clock=LoopClock()) as manager:
            session = await manager.create_session()
            await anyio.sleep(HOUR - 1)
            assert manager.get(session.id) is session
            await anyio.sleep(1)
            assert manager.get(session.id) is None

    @on_both_loops
    def test_one_made_outside_a_loop_follows_the_loop_that_first_reads_it(self, backend: str) -> None:
        manager = SessionManager(SessionConfig(max_idle_time=HOUR), clock=LoopClock())

        async def story() -> bool:
            async with manager:
                session = await manager.create_session()
                await anyio.sleep(HOUR)
                return session.id in manager

        assert run_in_virtual_time(story, backend=backend) is False

    @on_both_loops
    def test_one_that_is_told_so_follows_the_next_loop(self, backend: str) -> None:
        clock = LoopClock()

        async def story() -> float:
            clock.follow_running_loop()
            before = clock()
            await anyio.sleep(HOUR)
            return clock() - before

        assert [run_in_virtual_time(story, backend=one) for one in (backend, *LOOPS)] == [pytest.approx(HOUR)] * 3

    async def test_it_is_read_on_another_thread(self, anyio_backend: object) -> None:
        clock = LoopClock()
        assert await anyio.to_thread.run_sync(clock) == pytest.approx(anyio.current_time())

    async def test_a_skew_lets_the_managers_time_jump_and_the_loops_time_stay(self, anyio_backend: object) -> None:
        clock = LoopClock()
        before = anyio.current_time()
        clock.skew = HOUR
        assert clock() - anyio.current_time() == pytest.approx(HOUR)
        assert anyio.current_time() == pytest.approx(before)

    def test_without_a_loop_it_says_what_to_do(self) -> None:
        clock = LoopClock()
        for read in (clock, clock.follow_running_loop):
            with pytest.raises(RuntimeError, match="inside a loop"):
                read()


class TestVirtualTime:
    @on_both_loops
    def test_a_year_of_passes_is_over_before_anybody_waits(self, backend: str) -> None:
        async def story() -> int:
            config = SessionConfig(cleanup_interval=HOUR)
            async with SessionManager(config, clock=LoopClock()) as manager:
                await anyio.sleep(365 * 24 * HOUR + 1)
                return manager.get_metrics().cleanup_runs

        assert run_in_virtual_time(story, backend=backend) == 365 * 24

    @on_both_loops
    def test_a_timer_is_on_time_after_twenty_years(self, backend: str) -> None:
        async def story() -> float:
            before = anyio.current_time()
            for seconds in (20 * 365 * 24 * HOUR, 0.1, 0.3):
                await anyio.sleep(seconds)
            return anyio.current_time() - before

        assert run_in_virtual_time(story, backend=backend) == pytest.approx(20 * 365 * 24 * HOUR + 0.4, abs=1e-3, rel=0)

    @on_both_loops
    def test_the_background_task_ends_a_session_that_nobody_asks_for(self, backend: str) -> None:
        async def story() -> tuple[list[EndReason], int]:
            ends = Ends()
            config = SessionConfig(max_idle_time=HOUR, cleanup_interval=60)
            async with SessionManager(config, on_close=ends, clock=LoopClock()) as manager:
                await manager.create_session()
                await anyio.sleep(HOUR + 120)
                return [reason for _, reason in ends.seen], len(manager)

        assert run_in_virtual_time(story, backend=backend) == ([EndReason.IDLE_TIMEOUT], 0)

    @on_both_loops
    def test_a_hook_that_sleeps_takes_its_virtual_seconds(self, backend: str) -> None:
        async def story() -> float:
            ends = Ends()
            config = SessionConfig(close_timeout=5)
            async with SessionManager(config, on_close=SlowHook(4, ends), clock=LoopClock()) as manager:
                session = await manager.create_session()
                before = anyio.current_time()
                await manager.close_session(session.id)
                assert ends.seen == [(session.id, EndReason.CLOSED)]
                return anyio.current_time() - before

        assert run_in_virtual_time(story, backend=backend) == pytest.approx(4)

    @on_both_loops
    def test_a_hook_that_sleeps_for_too_long_is_cut_off_and_counted(self, backend: str) -> None:
        async def story() -> int:
            async with SessionManager(on_close=SlowHook(HOUR), clock=LoopClock()) as manager:
                await manager.create_session()
            return manager.get_metrics().cleanup_errors

        assert run_in_virtual_time(story, backend=backend) == 1

    @on_both_loops
    def test_a_session_that_is_left_open_ends_when_the_block_is_left(self, backend: str) -> None:
        async def story() -> tuple[int, int]:
            async with SessionManager(clock=LoopClock()) as manager:
                await manager.create_session()
            stats = manager.get_metrics()
            return stats.cleaned_by_reason[EndReason.SHUTDOWN], stats.currently_active

        assert run_in_virtual_time(story, backend=backend) == (1, 0)

    @on_both_loops
    def test_what_the_function_raises_comes_out(self, backend: str) -> None:
        async def story() -> None:
            await anyio.sleep(HOUR)
            raise LookupError("after an hour")

        with pytest.raises(LookupError, match="after an hour"):
            run_in_virtual_time(story, backend=backend)

    @pytest.mark.parametrize("backend", ["curio", ""])
    def test_another_backend_is_refused_with_the_two_that_there_are(self, backend: str) -> None:
        with pytest.raises(ValueError, match="'asyncio' or 'trio'"):
            virtual_time(backend)

    def test_each_run_has_a_clock_of_its_own(self) -> None:
        assert virtual_time("trio")[1]["clock"] is not virtual_time("trio")[1]["clock"]


class TestVirtualLoop:
    def test_what_is_ready_comes_before_the_next_timer(self) -> None:
        async def story() -> float:
            loop = asyncio.get_running_loop()
            here, there = socket.socketpair()
            with here, there:
                here.setblocking(False)
                loop.call_soon(there.send, b"ready")
                before = loop.time()
                async with asyncio.timeout(HOUR):
                    assert await loop.sock_recv(here, 5) == b"ready"
                return loop.time() - before

        assert run_in_virtual_time(story) == 0.0

    def test_without_a_timer_it_waits_for_another_thread(self) -> None:
        async def story() -> str:
            loop = asyncio.get_running_loop()
            answer: asyncio.Future[str] = loop.create_future()
            threading.Thread(target=loop.call_soon_threadsafe, args=(answer.set_result, "done")).start()
            return await answer

        assert run_in_virtual_time(story) == "done"

    def test_advancing_it_makes_timers_late_as_a_busy_loop_does(self) -> None:
        async def story() -> float:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            before = loop.time()
            timer = asyncio.create_task(asyncio.sleep(1))
            await asyncio.sleep(0)
            loop.advance(HOUR)
            await timer
            return loop.time() - before

        assert run_in_virtual_time(story) == HOUR

    @not_forward
    def test_its_time_moves_forward_only(self, seconds: float) -> None:
        loop = VirtualLoop()
        before = loop.time()
        with pytest.raises(ValueError, match="forward"):
            loop.advance(seconds)
        assert loop.time() == before
        loop.close()


class TestFixtures:
    """The fixtures, in the tests of an embedder."""

    @pytest.fixture
    def suite(self, pytester: pytest.Pytester) -> pytest.Pytester:
        pytester.makeconftest(CONFTEST)
        return pytester

    def run(self, suite: pytest.Pytester, tests: str, **outcomes: int) -> pytest.RunResult:
        suite.makepyfile(tests)
        result = suite.runpytest_inprocess("-W", "error", "-p", "no:cacheprovider")
        result.assert_outcomes(**outcomes)
        return result

    def test_a_manager_runs_in_virtual_time_on_both_loops(self, suite: pytest.Pytester) -> None:
        tests = """
            import anyio, pytest

            @pytest.mark.anyio
            async def test_an_idle_session_ends(session_manager, session_clock):
                session = await session_manager.create_session()
                before = session_clock()
                await anyio.sleep(3700)
                assert session_clock() - before == pytest.approx(3700)
                assert session_manager.get_metrics().total_cleaned == 1
        """
        self.run(suite, tests, passed=2)

    def test_each_test_has_a_manager_of_its_own_and_may_leave_sessions_open(self, suite: pytest.Pytester) -> None:
        tests = """
            import pytest
            seen = []

            @pytest.mark.anyio
            @pytest.mark.parametrize("time", [1, 2])
            async def test_a_session_is_left_open(session_manager, time):
                await session_manager.create_session()
                assert len(session_manager) == 1
                seen.append(session_manager)

            def test_all_of_them_have_ended():
                assert [manager.get_metrics().cleaned_by_reason["shutdown"] for manager in seen] == [1] * 4
        """
        self.run(suite, tests, passed=5)

    def test_a_manager_that_the_embedder_makes_takes_the_place_of_the_default(self, suite: pytest.Pytester) -> None:
        tests = """
            import pytest
            from otel_sessions import SessionManager

            @pytest.fixture
            def new_session_manager(session_clock):
                return SessionManager[str](name="mine", clock=session_clock)

            @pytest.mark.anyio
            async def test_it_is_mine(session_manager):
                assert session_manager.name == "mine"
                assert (await session_manager.create_session(data="upstream")).data == "upstream"
        """
        self.run(suite, tests, passed=2)

    def test_a_hook_that_fails_in_the_shutdown_is_an_error_of_the_test(self, suite: pytest.Pytester) -> None:
        tests = """
            import pytest
            from otel_sessions import SessionManager

            async def fail(session, reason):
                raise ConnectionError("the upstream is gone")

            @pytest.fixture
            def new_session_manager(session_clock):
                return SessionManager(on_close=fail, clock=session_clock)

            @pytest.mark.anyio
            async def test_a_session_is_left_open(session_manager):
                await session_manager.create_session()

            @pytest.mark.anyio
            async def test_a_failure_within_the_test_is_for_the_test_to_judge(session_manager):
                session = await session_manager.create_session()
                await session_manager.close_session(session.id)
                assert session_manager.get_metrics().cleanup_errors == 1
        """
        result = self.run(suite, tests, passed=4, errors=2)
        result.stdout.fnmatch_lines(["*1 hooks or sinks failed when the test's manager shut down*"])

    def test_they_can_be_imported_one_by_one_and_serve_a_test_without_async(self, pytester: pytest.Pytester) -> None:
        tests = """
            from otel_sessions.testing import new_session_manager, session_clock, session_manager

            def test_it_runs(session_manager):
                assert len(session_manager) == 0
                session_manager.pin
        """
        self.run(pytester, tests, passed=2)  # anyio's own parameters: both loops, in real time

    def test_tests_that_do_not_ask_for_them_are_left_as_they_are(self, pytester: pytest.Pytester) -> None:
        tests = """
            import asyncio, pytest
            pytest_plugins = ["otel_sessions.testing"]

            @pytest.mark.anyio
            async def test_time_is_real(anyio_backend_name):
                if anyio_backend_name == "asyncio":
                    assert type(asyncio.get_running_loop()).__name__ != "VirtualLoop"
        """
        self.run(pytester, tests, passed=2)


def test_without_pytest_the_clocks_are_there_and_the_fixtures_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytest", None)
    names = runpy.run_path(str(Path(testing.__file__)))
    assert set(names["__all__"]) < set(testing.__all__)
    assert set(names["__all__"]) <= set(names)
    assert "session_manager" not in names


def test_every_name_that_it_offers_is_there() -> None:
    assert [name for name in testing.__all__ if not hasattr(testing, name)] == []


async def hang_up(session: Session[str], reason: EndReason) -> None:
    """Stand for a hook of an embedder, so that a checker of types sees one."""


async def test_a_manager_of_a_type_takes_any_of_the_clocks(anyio_backend: object) -> None:
    for clock in (ManualClock(), LoopClock()):
        async with SessionManager[str](on_close=hang_up, clock=clock) as manager:
            await manager.create_session(data="upstream")
        assert manager.get_metrics().total_cleaned == 1
