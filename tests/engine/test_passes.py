"""Cleanup passes: when they run, what they end, what they look at, and what they report."""

import asyncio
import logging
from collections import Counter
from typing import Any

import anyio
import pytest
import trio.lowlevel
import trio.testing

from otel_sessions import (
    CleanupReport,
    ConfigError,
    EndReason,
    ManagerClosed,
    Outcome,
    Session,
    SessionConfig,
    SessionManager,
    SessionNotFound,
    TooManySessions,
    Trigger,
)
from tests.doubles import Ends, FaultyClock, SlowHook
from tests.virtual import Clock, VirtualLoop, settle

pytestmark = pytest.mark.anyio


def last_report(manager: SessionManager) -> CleanupReport:
    report = manager.get_metrics().last_cleanup
    assert report is not None
    return report


def reason_of(manager: SessionManager, session: Session) -> EndReason | None:
    """Return the reason that whoever asks for an ended session is told."""
    with pytest.raises(SessionNotFound) as caught:
        manager.pin(session.id).__enter__()
    return caught.value.reason


def cleaned(report: CleanupReport) -> dict[EndReason, int]:
    return {reason: count for reason, count in report.cleaned.items() if count}


def block_the_loop(seconds: float) -> None:
    """Let time pass for the running loop as if this task had computed all the while."""
    if trio.lowlevel.in_trio_run():
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        clock.jump(seconds)
    else:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.advance(seconds)


class TestRhythm:
    @pytest.mark.usefixtures("restless")
    async def test_a_pass_over_few_sessions_is_over_before_the_creator_goes_on_that_it_was_for(
        self, clock: Clock
    ) -> None:
        config = SessionConfig(max_sessions=1, emergency_idle_time=20, cleanup_interval=1000)
        async with SessionManager(config, clock=clock) as manager:
            await manager.create_session()
            await anyio.sleep(20)
            await manager.create_session()

            assert manager.get_metrics().last_cleanup is not None

    async def test_there_is_no_pass_at_the_start_and_then_one_every_interval(self, clock: Clock) -> None:
        async with SessionManager(SessionConfig(cleanup_interval=10), clock=clock) as manager:
            await anyio.sleep(9.5)
            assert manager.get_metrics().cleanup_runs == 0
            assert manager.get_metrics().last_cleanup is None
            await anyio.sleep(1)
            assert manager.get_metrics().cleanup_runs == 1
            await anyio.sleep(10)
            assert manager.get_metrics().cleanup_runs == 2
            await anyio.sleep(100)
            assert manager.get_metrics().cleanup_runs == 12

    async def test_ticks_that_were_missed_are_skipped_and_the_rhythm_stays(self, clock: Clock) -> None:
        async with SessionManager(SessionConfig(cleanup_interval=10), clock=clock) as manager:
            await anyio.sleep(5)
            block_the_loop(50)
            await settle()
            await anyio.sleep(0.5)
            assert manager.get_metrics().cleanup_runs == 1
            await anyio.sleep(4)  # 59.5 to 60 s after the start
            assert manager.get_metrics().cleanup_runs == 1
            await anyio.sleep(1)
            assert manager.get_metrics().cleanup_runs == 2

    async def test_passes_by_hand_do_not_shift_the_rhythm(self, clock: Clock) -> None:
        async with SessionManager(SessionConfig(cleanup_interval=10), clock=clock) as manager:
            await anyio.sleep(9)
            await manager.cleanup_stale_sessions()
            await anyio.sleep(1.5)
            assert manager.get_metrics().cleanup_runs == 2

    async def test_the_next_pass_never_waits_for_hooks(self, clock: Clock, ends: Ends) -> None:
        async def hook(session: Session, reason: EndReason) -> None:
            await ends(session, reason)
            await anyio.sleep(4.5)

        config = SessionConfig(cleanup_interval=1, max_idle_time=10)
        async with SessionManager(config, clock=clock, on_close=hook) as manager:
            first = await manager.create_session()
            await anyio.sleep(2)
            second = await manager.create_session()
            await anyio.sleep(11.5)
            assert [session_id for session_id, _ in ends.seen] == [first.id, second.id]
            assert len(manager) == 2

    @pytest.mark.usefixtures("restless")
    async def test_no_interval_pass_starts_while_the_last_one_still_looks_for_what_is_due(self, clock: Clock) -> None:
        config = SessionConfig(cleanup_interval=1, max_idle_time=10)
        async with SessionManager(config, clock=clock) as manager:
            for _ in range(640):
                await manager.create_session()
            await anyio.sleep(9.5)
            while not manager.get_metrics().total_cleaned:
                block_the_loop(0.125)
                await anyio.lowlevel.checkpoint()
            begun = anyio.current_time()
            runs = manager.get_metrics().cleanup_runs
            while len(manager):
                block_the_loop(0.5)
                await anyio.lowlevel.checkpoint()
            assert anyio.current_time() - begun > 5
            assert manager.get_metrics().cleanup_runs <= runs + 1

    @pytest.mark.usefixtures("restless")
    async def test_a_second_pass_waits_until_the_first_one_has_marked_and_then_runs(self, clock: Clock) -> None:
        reports: list[CleanupReport] = []

        async def clean() -> None:
            reports.append(await manager.cleanup_stale_sessions())

        async with SessionManager(SessionConfig(max_idle_time=10), clock=clock) as manager:
            for _ in range(320):
                await manager.create_session()
            await anyio.sleep(10)
            async with anyio.create_task_group() as group:
                group.start_soon(clean)
                group.start_soon(clean)
        assert sorted(report.total_cleaned for report in reports) == [0, 320]

    async def test_a_pass_lets_the_loop_go_on(self, clock: Clock) -> None:
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await anyio.lowlevel.checkpoint()
                turns += 1

        async with SessionManager(SessionConfig(max_sessions=None, max_idle_time=10), clock=clock) as manager:
            for _ in range(10_000):
                await manager.create_session()
            await anyio.sleep(10)
            async with anyio.create_task_group() as group:
                group.start_soon(count_turns)
                await anyio.lowlevel.checkpoint()
                turns = 0
                await manager.cleanup_stale_sessions()
                assert turns > 5
                group.cancel_scope.cancel()
            assert len(manager) == 0

    async def test_seconds_since_cleanup_run_from_the_start_and_then_from_the_last_pass(self, clock: Clock) -> None:
        async with SessionManager(SessionConfig(cleanup_interval=10), clock=clock) as manager:
            await anyio.sleep(4)
            assert manager.get_metrics().seconds_since_cleanup == pytest.approx(4)
            await manager.cleanup_stale_sessions()
            assert manager.get_metrics().seconds_since_cleanup == pytest.approx(0)
            await anyio.sleep(7)
            assert manager.get_metrics().seconds_since_cleanup == pytest.approx(1)


class TestFinding:
    async def test_an_interval_pass_ends_what_is_stale_expired_or_failed(self, clock: Clock, ends: Ends) -> None:
        config = SessionConfig(cleanup_interval=10, max_idle_time=100, max_session_age=200)
        async with SessionManager(config, clock=clock, on_close=ends) as manager:
            used, idle, broken = [await manager.create_session() for _ in range(3)]
            await anyio.sleep(50)
            broken.fail("upstream hung up")
            await anyio.sleep(11)
            assert ends.seen == [(broken.id, EndReason.FAILED)]
            used.touch()
            await anyio.sleep(51)
            assert ends.seen[1:] == [(idle.id, EndReason.IDLE_TIMEOUT)]
            for _ in range(10):
                used.touch()
                await anyio.sleep(10)
            assert ends.seen[2:] == [(used.id, EndReason.MAX_AGE)]
            assert manager.get_metrics().cleaned_by_reason == {
                EndReason.IDLE_TIMEOUT: 1,
                EndReason.MAX_AGE: 1,
                EndReason.CLOSED: 0,
                EndReason.FAILED: 1,
                EndReason.EVICTED: 0,
                EndReason.SHUTDOWN: 0,
                EndReason.FENCED: 0,
            }

    @pytest.mark.parametrize("with_hook", [False, True])
    async def test_of_many_that_one_pass_ends_each_goes_once_and_for_its_own_reason(
        self, clock: Clock, ends: Ends, with_hook: bool
    ) -> None:
        config = SessionConfig(cleanup_interval=1000, max_idle_time=100, max_session_age=None)
        async with SessionManager(config, clock=clock, on_close=ends if with_hook else None) as manager:
            expected: dict[Session, EndReason | None] = {}
            for number in range(300):
                old, broken, leased = (number % divisor == 0 for divisor in (2, 3, 7))
                session = await manager.create_session(max_session_age=50 if old else None)
                if broken:
                    session.fail("upstream hung up")
                if leased and not broken:
                    manager.pin(session.id).__enter__()
                expected[session] = (
                    EndReason.FAILED
                    if broken
                    else None
                    if leased
                    else EndReason.MAX_AGE
                    if old
                    else EndReason.IDLE_TIMEOUT
                )
            await anyio.sleep(110)
            report = await manager.cleanup_stale_sessions()

            reasons = Counter(reason for reason in expected.values() if reason)
            assert {session: session.end_reason for session in expected} == expected
            assert cleaned(report) == reasons
            assert cleaned(report) == {r: n for r, n in manager.get_metrics().cleaned_by_reason.items() if n}
            assert len(manager) == 300 - reasons.total() == report.remaining
            assert Counter(ends.seen) == Counter(
                (session.id, reason) for session, reason in expected.items() if reason and with_hook
            )
            for session, reason in expected.items():
                assert reason is None or reason_of(manager, session) is reason

    async def test_a_session_is_ended_at_most_a_tick_and_an_interval_after_it_is_due(self, clock: Clock) -> None:
        config = SessionConfig(cleanup_interval=2, max_idle_time=100)
        async with SessionManager(config, clock=clock) as manager:
            for wait in (0.1, 0.37, 0.5, 0.77, 1.1):
                await manager.create_session()
                await anyio.sleep(99.9)
                assert len(manager) == 1
                await anyio.sleep(0.1 + 2 + 0.2 + 0.01)
                assert len(manager) == 0
                await anyio.sleep(wait)

    async def test_a_failed_session_without_any_limit_is_found(self, clock: Clock) -> None:
        config = SessionConfig(cleanup_interval=1, max_idle_time=None, max_session_age=None)
        async with SessionManager(config, clock=clock) as manager:
            session = await manager.create_session()
            await anyio.sleep(100)
            session.fail("upstream hung up")
            await anyio.sleep(1.5)
            assert session.end_reason is EndReason.FAILED

    async def test_a_session_that_was_touched_while_stale_lives_on(self, clock: Clock) -> None:
        config = SessionConfig(cleanup_interval=10, max_idle_time=11)
        async with SessionManager(config, clock=clock) as manager:
            session = await manager.create_session()
            await anyio.sleep(15)
            assert session.id not in manager
            session.touch()
            await anyio.sleep(6)
            assert session.id in manager

    async def test_a_pass_with_nothing_due_looks_at_no_session(self, clock: Clock) -> None:
        config = SessionConfig(cleanup_interval=10, max_idle_time=100, max_sessions=None)
        async with SessionManager(config, clock=clock) as manager:
            for _ in range(10_000):
                await manager.create_session()
            await anyio.sleep(95)
            assert manager.get_metrics().cleanup_runs == 9
            assert last_report(manager).examined == 0
            await manager.cleanup_stale_sessions()
            assert last_report(manager).examined == 0

    async def test_a_session_in_use_is_looked_at_at_most_once_in_max_idle_time(self, clock: Clock) -> None:
        examined = 0
        config = SessionConfig(cleanup_interval=10, max_idle_time=100)
        async with SessionManager(config, clock=clock) as manager:
            session = await manager.create_session()
            await anyio.sleep(5)
            for _ in range(100):
                for _ in range(10):
                    session.touch()
                    await anyio.sleep(1)
                examined += last_report(manager).examined
            assert manager.get_metrics().cleanup_runs == 100
            assert session.id in manager
            assert 9 <= examined <= 10

    async def test_a_leased_session_is_looked_at_at_most_once_in_max_idle_time(self, clock: Clock) -> None:
        examined = 0
        config = SessionConfig(cleanup_interval=10, max_idle_time=100)
        async with SessionManager(config, clock=clock) as manager:
            session = await manager.create_session()
            await anyio.sleep(5)
            with manager.pin(session.id):
                for _ in range(100):
                    await anyio.sleep(10)
                    examined += last_report(manager).examined
            assert 9 <= examined <= 10

    async def test_an_emergency_pass_counts_each_session_it_looks_at_once(self, clock: Clock) -> None:
        config = SessionConfig(cleanup_interval=1000, max_sessions=10, emergency_idle_time=100)
        async with SessionManager(config, clock=clock) as manager:
            for _ in range(10):
                await manager.create_session()
            await anyio.sleep(100)
            report = await manager.emergency_cleanup()
            assert cleaned(report) == {EndReason.EVICTED: 1}
            assert report.examined == 10

    async def test_a_manual_pass_is_exact_to_the_moment(self, clock: Clock) -> None:
        config = SessionConfig(cleanup_interval=1000, max_idle_time=100)
        async with SessionManager(config, clock=clock) as manager:
            sessions = []
            for _ in range(20):
                sessions.append(await manager.create_session())
                await anyio.sleep(0.0625)
            await anyio.sleep(98.8)
            for _ in range(20):
                due = [session for session in sessions if session.id not in manager and session.end_reason is None]
                assert (await manager.cleanup_stale_sessions()).total_cleaned == len(due)
                assert all(session.end_reason for session in due)
                await anyio.sleep(0.0625)
            assert len(manager) == 0

    async def test_after_a_jump_of_the_clock_forward_everything_due_goes_and_the_manager_lives(
        self, clock: Clock
    ) -> None:
        config = SessionConfig(cleanup_interval=10, max_idle_time=100)
        async with SessionManager(config, clock=clock) as manager:
            await manager.create_session()
            clock.skew += 1_000_000
            await anyio.sleep(10.5)
            assert len(manager) == 0
            await manager.create_session()
            await anyio.sleep(115)
            assert len(manager) == 0
            assert manager.get_metrics().cleanup_errors == 0

    async def test_a_clock_that_is_put_back_stands_still_until_it_has_caught_up(self, clock: Clock) -> None:
        config = SessionConfig(cleanup_interval=10, max_idle_time=100)
        async with SessionManager(config, clock=clock) as manager:
            old = await manager.create_session()
            await anyio.sleep(50)
            assert old.idle_for == pytest.approx(50)
            clock.skew -= 500
            new = await manager.create_session()
            await anyio.sleep(500)
            assert old.id in manager
            assert old.idle_for == pytest.approx(50)
            assert new.idle_for == 0
            await anyio.sleep(60)
            assert old.end_reason is EndReason.IDLE_TIMEOUT
            assert new.id in manager
            await anyio.sleep(50)
            assert new.end_reason is EndReason.IDLE_TIMEOUT
            assert manager.get_metrics().cleanup_errors == 0


class TestOwnLimits:
    async def test_the_limits_of_a_pass_stand_for_the_configured_ones(self, clock: Clock) -> None:
        config = SessionConfig(cleanup_interval=1000, max_idle_time=500, max_session_age=900)
        async with SessionManager(config, clock=clock) as manager:
            await manager.create_session()
            await anyio.sleep(60)
            await manager.create_session()
            await anyio.sleep(40)

            assert cleaned(await manager.cleanup_stale_sessions(max_idle_time=101)) == {}
            assert cleaned(await manager.cleanup_stale_sessions(max_idle_time=100)) == {EndReason.IDLE_TIMEOUT: 1}
            assert cleaned(await manager.cleanup_stale_sessions(max_session_age=41)) == {}
            assert cleaned(await manager.cleanup_stale_sessions(max_session_age=40)) == {EndReason.MAX_AGE: 1}

    async def test_they_do_not_touch_sessions_with_limits_of_their_own(self, clock: Clock) -> None:
        config = SessionConfig(cleanup_interval=1000, max_idle_time=500, max_session_age=900)
        async with SessionManager(config, clock=clock) as manager:
            calm = await manager.create_session(max_idle_time=400)
            steady = await manager.create_session(max_session_age=None)
            await anyio.sleep(100)

            report = await manager.cleanup_stale_sessions(max_idle_time=50, max_session_age=None)
            assert cleaned(report) == {EndReason.IDLE_TIMEOUT: 1}
            assert steady.end_reason is EndReason.IDLE_TIMEOUT
            report = await manager.cleanup_stale_sessions(max_idle_time=50, max_session_age=50)
            assert cleaned(report) == {EndReason.MAX_AGE: 1}
            assert calm.end_reason is EndReason.MAX_AGE

    async def test_none_switches_a_limit_off_for_the_pass(self, clock: Clock) -> None:
        config = SessionConfig(cleanup_interval=1000, max_idle_time=50, max_session_age=50)
        async with SessionManager(config, clock=clock) as manager:
            session = await manager.create_session()
            await anyio.sleep(60)
            report = await manager.cleanup_stale_sessions(max_idle_time=None, max_session_age=None)
            assert cleaned(report) == {}
            assert report.examined == 1
            session.fail("upstream hung up")
            report = await manager.cleanup_stale_sessions(max_idle_time=None, max_session_age=None)
            assert cleaned(report) == {EndReason.FAILED: 1}

    async def test_a_leased_session_is_exempt_from_the_idle_limit_of_a_pass(self, clock: Clock) -> None:
        async with SessionManager(SessionConfig(cleanup_interval=1000), clock=clock) as manager:
            session = await manager.create_session()
            with manager.pin(session.id):
                await anyio.sleep(60)
                assert cleaned(await manager.cleanup_stale_sessions(max_idle_time=1)) == {}

    @pytest.mark.parametrize("wrong", [{"max_idle_time": 0}, {"max_session_age": "60"}, {"max_idle_time": True}])
    async def test_a_wrong_limit_is_an_error_and_no_run(self, wrong: dict[str, Any]) -> None:
        async with SessionManager() as manager:
            with pytest.raises(ConfigError):
                await manager.cleanup_stale_sessions(**wrong)
            with pytest.raises(ConfigError):
                await manager.preview_cleanup(**wrong)
            assert manager.get_metrics().cleanup_runs == 0


LIMITS: list[dict[str, Any]] = [
    {},
    {"max_idle_time": 60},
    {"max_idle_time": None},
    {"max_session_age": 60},
    {"max_session_age": None},
    {"max_idle_time": 60, "max_session_age": None},
    {"max_idle_time": None, "max_session_age": 60},
    {"max_idle_time": 1000, "max_session_age": 110},
]


class TestPreview:
    @pytest.mark.parametrize("limits", LIMITS, ids=repr)
    async def test_a_pass_does_what_its_preview_said(self, clock: Clock, limits: dict[str, Any]) -> None:
        config = SessionConfig(cleanup_interval=10_000, max_idle_time=100, max_session_age=150, drain_timeout=1)
        async with SessionManager(config, clock=clock) as manager:
            sessions = [await manager.create_session() for _ in range(4)]
            await anyio.sleep(50)
            sessions += [await manager.create_session() for _ in range(4)]
            own = (None, 70, 115)
            sessions += [await manager.create_session(max_idle_time=idle, max_session_age=50) for idle in own]
            sessions += [await manager.create_session(max_idle_time=50, max_session_age=age) for age in own]
            await anyio.sleep(40)
            for session in sessions[::2]:
                session.touch()
            await anyio.sleep(70)
            sessions[1].fail("upstream hung up")
            leased = sessions[6]
            with manager.pin(leased.id):
                preview = await manager.preview_cleanup(**limits)
                assert len(manager) == len(sessions)
                report = await manager.cleanup_stale_sessions(**limits)

            assert preview.cleaned == report.cleaned
            assert preview.remaining == report.remaining == len(manager)
            assert preview.trigger is report.trigger is Trigger.MANUAL
            assert preview.outcome is Outcome.SUCCESS
            assert report.total_cleaned > 0

    async def test_a_preview_is_no_run(self, clock: Clock, ends: Ends) -> None:
        config = SessionConfig(cleanup_interval=1000, max_idle_time=10)
        async with SessionManager(config, clock=clock, on_close=ends) as manager:
            await manager.create_session()
            await anyio.sleep(10)
            preview = await manager.preview_cleanup()
            assert cleaned(preview) == {EndReason.IDLE_TIMEOUT: 1}
            assert (preview.examined, preview.remaining, preview.hook_errors) == (1, 0, 0)
            stats = manager.get_metrics()
            assert stats.cleanup_runs == 0
            assert stats.last_cleanup is None
            assert stats.seconds_since_cleanup == pytest.approx(10)
            assert ends.seen == []
            assert len(manager) == 1


class TestReports:
    async def test_a_report_tells_what_the_pass_did(self, clock: Clock, ends: Ends) -> None:
        config = SessionConfig(cleanup_interval=1000, max_idle_time=10)
        async with SessionManager(config, clock=clock, on_close=ends) as manager:
            for _ in range(3):
                await manager.create_session()
            await anyio.sleep(10)
            await manager.create_session()

            report = await manager.cleanup_stale_sessions()
            assert report.trigger is Trigger.MANUAL
            assert report.outcome is Outcome.SUCCESS
            assert report.examined == 3
            assert set(report.cleaned) == set(EndReason)
            assert cleaned(report) == {EndReason.IDLE_TIMEOUT: 3}
            assert (report.hook_errors, report.remaining) == (0, 1)
            assert report.duration > 0
            assert len(ends.seen) == 3
            assert manager.get_metrics().last_cleanup is report

    async def test_sessions_whose_hook_failed_are_cleaned_all_the_same_and_make_the_pass_partial(
        self, clock: Clock
    ) -> None:
        async def hook(session: Session, reason: EndReason) -> None:
            if session.id == "bad":
                raise ConnectionError("the upstream is gone")

        config = SessionConfig(cleanup_interval=1000, max_idle_time=10)
        async with SessionManager(config, clock=clock, on_close=hook) as manager:
            for session_id in ("bad", "good"):
                await manager.create_session(session_id)
            await anyio.sleep(10)
            report = await manager.cleanup_stale_sessions()
            assert report.outcome is Outcome.PARTIAL
            assert report.hook_errors == 1
            assert report.total_cleaned == 2
            assert manager.get_metrics().cleanup_errors == 1

    async def test_a_cancelled_pass_says_so_and_its_hooks_go_on(self, clock: Clock, ends: Ends) -> None:
        async def hook(session: Session, reason: EndReason) -> None:
            await anyio.sleep(2)
            await ends(session, reason)
            raise ConnectionError("the upstream is gone")

        config = SessionConfig(cleanup_interval=1000, max_idle_time=10)
        async with SessionManager(config, clock=clock, on_close=hook) as manager:
            session = await manager.create_session()
            await anyio.sleep(10)
            with anyio.move_on_after(1):
                await manager.cleanup_stale_sessions()
            assert last_report(manager).outcome is Outcome.CANCELLED
            assert cleaned(last_report(manager)) == {EndReason.IDLE_TIMEOUT: 1}
            assert ends.seen == []
            await anyio.sleep(2)
            assert ends.seen == [(session.id, EndReason.IDLE_TIMEOUT)]
            assert manager.get_metrics().cleanup_errors == 1
            assert manager.get_metrics().cleanup_runs == 1

    @pytest.mark.usefixtures("restless")
    async def test_a_pass_that_is_cancelled_while_it_looks_leaves_the_rest_to_the_next(self, clock: Clock) -> None:
        config = SessionConfig(cleanup_interval=1000, max_idle_time=10)
        async with SessionManager(config, clock=clock) as manager:
            for _ in range(320):
                await manager.create_session()
            await anyio.sleep(10)

            async with anyio.create_task_group() as group:
                group.start_soon(manager.cleanup_stale_sessions)
                while len(manager) == 320:
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
            first = last_report(manager)
            assert first.outcome is Outcome.CANCELLED
            assert 0 < first.total_cleaned < 320

            second = await manager.cleanup_stale_sessions()
            assert first.total_cleaned + second.total_cleaned == 320

    async def test_a_pass_waits_only_for_the_hooks_of_what_it_ended_itself(self, clock: Clock) -> None:
        hook = SlowHook(3)
        config = SessionConfig(cleanup_interval=1000, max_idle_time=10)
        async with SessionManager(config, clock=clock, on_close=hook) as manager, anyio.create_task_group() as group:
            session = await manager.create_session()
            group.start_soon(manager.close_session, session.id)
            await settle()
            begun = anyio.current_time()
            report = await manager.cleanup_stale_sessions()
            assert anyio.current_time() == begun
            assert report.remaining == 1


class TestTrouble:
    async def test_a_pass_that_breaks_is_reported_as_an_error_and_the_next_one_runs(
        self, faulty_clock: FaultyClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        config = SessionConfig(cleanup_interval=10, max_idle_time=15)
        async with SessionManager(config, clock=faulty_clock) as manager:
            await manager.create_session()
            await anyio.sleep(19)
            faulty_clock.break_down()
            await anyio.sleep(2)
            faulty_clock.mend()
            stats = manager.get_metrics()
            assert last_report(manager).outcome is Outcome.ERROR
            assert stats.cleanup_runs == 2
            assert stats.cleanup_errors >= 1
            assert len(manager) == 1

            await anyio.sleep(10)
            assert last_report(manager).outcome is Outcome.SUCCESS
            assert len(manager) == 0
        assert "a cleanup pass (interval) was aborted" in caplog.text
        caplog.clear()

    @pytest.mark.parametrize("reading", range(5))
    async def test_a_session_is_not_lost_if_a_pass_breaks_on_it(self, faulty_clock: FaultyClock, reading: int) -> None:
        config = SessionConfig(cleanup_interval=10, max_idle_time=15)
        async with SessionManager(config, clock=faulty_clock) as manager:
            session = await manager.create_session()
            await anyio.sleep(19)
            faulty_clock.break_down(good_readings=reading)
            await anyio.sleep(2)
            faulty_clock.mend()
            await anyio.sleep(10)
            assert session.end_reason is EndReason.IDLE_TIMEOUT
            assert len(manager) == 0

    async def test_a_pass_by_hand_that_breaks_returns_its_report(self, faulty_clock: FaultyClock) -> None:
        async with SessionManager(clock=faulty_clock) as manager:
            await settle()
            faulty_clock.break_down()
            report = await manager.cleanup_stale_sessions()
            faulty_clock.mend()
            assert report.outcome is Outcome.ERROR
            assert manager.get_metrics().cleanup_errors == 1

    async def test_an_emergency_pass_that_breaks_leaves_nobody_waiting(self, faulty_clock: FaultyClock) -> None:
        async with SessionManager(SessionConfig(max_sessions=1), clock=faulty_clock) as manager:
            await manager.create_session()
            faulty_clock.break_down(good_readings=1)  # the creator itself reads it once
            with pytest.raises(TooManySessions):
                await manager.create_session()
            faulty_clock.mend()
            assert last_report(manager).outcome is Outcome.ERROR
            assert manager.get_metrics().reserved == 0

    async def test_a_drain_ends_although_the_clock_breaks_for_a_moment(self, faulty_clock: FaultyClock) -> None:
        config = SessionConfig(cleanup_interval=10, max_session_age=15, drain_timeout=5)
        async with SessionManager(config, clock=faulty_clock) as manager:
            first = await manager.create_session()
            await anyio.sleep(10)
            second = await manager.create_session()
            with manager.pin(first.id), manager.pin(second.id):
                await anyio.sleep(14.5)
                faulty_clock.break_down()
                await anyio.sleep(1)
                faulty_clock.mend()
                await anyio.sleep(14)
                assert first.end_reason is second.end_reason is EndReason.MAX_AGE

    async def test_passes_and_previews_need_a_running_manager(self) -> None:
        manager = SessionManager()
        calls = (manager.cleanup_stale_sessions, manager.preview_cleanup, manager.emergency_cleanup)
        for call in calls:
            with pytest.raises(ManagerClosed):
                await call()
        async with manager:
            pass
        for call in calls:
            with pytest.raises(ManagerClosed):
                await call()

    async def test_nothing_is_logged_about_passes_that_go_well(
        self, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        config = SessionConfig(cleanup_interval=1, max_idle_time=10)
        async with SessionManager(config, clock=clock) as manager:
            await manager.create_session()
            await anyio.sleep(60)
        assert not caplog.records


async def test_an_interval_too_short_to_be_meant_neither_fails_nor_starves_the_loop(clock: Clock) -> None:
    async with SessionManager(SessionConfig(cleanup_interval=5e-324, max_idle_time=1), clock=clock) as manager:
        session = await manager.create_session()
        await anyio.sleep(1.5)
        assert session.end_reason is EndReason.IDLE_TIMEOUT
        assert manager.get_metrics().cleanup_runs <= 1500


async def test_an_interval_pass_runs_once_even_if_the_loop_wakes_a_little_early(clock: Clock) -> None:
    for _ in range(1801):
        await anyio.sleep(0.01)  # the sum is a little less than the next whole second
    async with SessionManager(SessionConfig(cleanup_interval=60.0), clock=clock) as manager:
        await anyio.sleep(130)

        assert manager.get_metrics().cleanup_runs == 2
