"""Clocks that misbehave: the last good reading counts, a raising clock costs a pass at most, and no session is lost."""

import math
from collections.abc import Callable

import anyio
import pytest

from otel_sessions import EndReason, Outcome, Session, SessionConfig, SessionManager, TooManySessions
from tests.doubles import Ends, FaultyClock
from tests.signals import Signals

pytestmark = pytest.mark.anyio

CONFIG = SessionConfig(cleanup_interval=10, max_idle_time=20, max_session_age=1000)

READINGS: dict[str, Callable[[float], float]] = {
    "nan": lambda _: math.nan,
    "infinite": lambda _: math.inf,
    "minus infinite": lambda _: -math.inf,
    "beyond all ticks": lambda _: 1.7e308,
    "backwards": lambda now: now - 500,
    "zero": lambda now: 0.0 if now > 0 else -1.0,
}


@pytest.mark.parametrize("reading", READINGS)
async def test_while_a_clock_gives_bad_readings_time_stands_still(faulty_clock: FaultyClock, reading: str) -> None:
    async with SessionManager(CONFIG, clock=faulty_clock) as manager:
        old = await manager.create_session()
        await anyio.sleep(5)
        assert old.idle_for == pytest.approx(5)
        faulty_clock.wrong = READINGS[reading]
        await anyio.sleep(60)
        new = await manager.create_session()
        assert old.idle_for == pytest.approx(5)
        assert (new.idle_for, new.age) == (0, 0)
        old.touch()
        with manager.pin(new.id):
            assert new.metadata.last_activity >= old.metadata.created_at
        assert {old.id, new.id} == {one.id for one in (old, new) if one.id in manager}
        report = await manager.cleanup_stale_sessions()
        assert (report.outcome, report.total_cleaned) == (Outcome.SUCCESS, 0)


@pytest.mark.parametrize("first", [math.nan, math.inf, -math.inf, 1.7e308, -1.7e308])
async def test_a_clock_whose_first_reading_is_bad_starts_no_manager(first: float) -> None:
    readings = [first, 5.0, 7.0]
    manager = SessionManager(CONFIG, clock=lambda: readings.pop(0) if len(readings) > 1 else readings[0])
    with pytest.raises(ValueError, match="has not returned a finite number of seconds yet"):
        await manager.__aenter__()
    async with manager:
        session = await manager.create_session()
        assert 0 <= session.age <= 7


@pytest.mark.parametrize("reading", READINGS)
async def test_once_a_clock_is_well_again_every_session_is_found(
    faulty_clock: FaultyClock, ends: Ends, reading: str
) -> None:
    async with SessionManager(CONFIG, clock=faulty_clock, on_close=ends) as manager:
        sessions = [await manager.create_session()]
        manager.get(sessions[0].id)
        faulty_clock.wrong = READINGS[reading]
        for use in (Session.touch, Session.note_activity, lambda session: session.fail("no use")):
            sessions.append(await manager.create_session())
            use(sessions[-1])
        with manager.pin(sessions[1].id):
            await anyio.sleep(15)
        faulty_clock.mend()
        await anyio.sleep(31)
        assert len(manager) == 0
        assert len(ends.seen) == 4
        assert manager.get_metrics().cleanup_errors == 0


async def test_a_raising_clock_costs_passes_and_no_session(faulty_clock: FaultyClock, ends: Ends) -> None:
    async with SessionManager(CONFIG, clock=faulty_clock, on_close=ends) as manager:
        sessions = [await manager.create_session() for _ in range(5)]
        sessions[0].fail("before")
        pin = manager.pin(sessions[1].id)
        pin.__enter__()
        faulty_clock.break_down()
        sessions[2].fail("while the clock raises")
        sessions[1].fail("while it is leased")
        pin.__exit__(None, None, None)
        await anyio.sleep(45)
        stats = manager.get_metrics()
        assert (len(manager), stats.leased) == (5, 0)
        assert stats.cleanup_errors >= 4
        faulty_clock.mend()
        await anyio.sleep(11)
        assert len(manager) == 0
        reasons = sorted(reason for _, reason in ends.seen)
        assert reasons == sorted([EndReason.FAILED] * 3 + [EndReason.IDLE_TIMEOUT] * 2)


@pytest.mark.parametrize("breaks_after", range(8))
async def test_a_clock_that_breaks_at_any_reading_of_a_pass_leaves_no_session_unfiled(
    faulty_clock: FaultyClock, breaks_after: int
) -> None:
    left = breaks_after

    def breaking(now: float) -> float:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError("no time today")
        return now

    async with SessionManager(SessionConfig(max_sessions=None, max_idle_time=20), clock=faulty_clock) as manager:
        sessions = [await manager.create_session() for _ in range(100)]
        for session in sessions[::3]:
            session.fail("the upstream hung up")
        await anyio.sleep(15)
        for session in sessions[::5]:
            session.touch()
        await anyio.sleep(10)
        faulty_clock.wrong = breaking
        for clean in (manager.cleanup_stale_sessions, manager.emergency_cleanup, manager.preview_cleanup):
            try:
                await clean()
            except OSError:
                continue
        faulty_clock.mend()
        await manager.cleanup_stale_sessions()
        assert all((session.id in manager) == (session.end_reason is None) for session in sessions)
        await anyio.sleep(1000)
        assert len(manager) == 0


async def test_a_session_that_drains_while_the_clock_raises_is_ended_once_it_does_not(
    faulty_clock: FaultyClock,
) -> None:
    config = SessionConfig(cleanup_interval=10, max_session_age=15, drain_timeout=5)
    async with SessionManager(config, clock=faulty_clock) as manager:
        session = await manager.create_session()
        with manager.pin(session.id):
            await anyio.sleep(22)
            faulty_clock.break_down()
            await anyio.sleep(20)
            assert session.end_reason is None
            faulty_clock.mend()
            await anyio.sleep(6)
            assert session.end_reason is EndReason.MAX_AGE


async def test_a_creator_meets_a_raising_clock_and_takes_nothing(faulty_clock: FaultyClock) -> None:
    config = SessionConfig(max_sessions=2, max_sessions_per_client=1, per_client_at_cap="evict_oldest")
    async with SessionManager(config, clock=faulty_clock) as manager:
        await manager.create_session(client="ada")
        for full in (False, True):
            faulty_clock.break_down()
            for client in ("ada", "bob", None):
                with pytest.raises(OSError, match="no time"):
                    await manager.create_session(client=client)
            stats = manager.get_metrics()
            assert (stats.reserved, stats.waiting, stats.currently_active) == (0, 0, 1 + full)
            assert stats.rejected == dict.fromkeys(stats.rejected, 0)
            faulty_clock.mend()
            if not full:
                await manager.create_session(client="bob")
        with pytest.raises(TooManySessions):
            await manager.create_session()


async def test_statistics_are_there_although_the_clock_raises(faulty_clock: FaultyClock) -> None:
    async with SessionManager(CONFIG, clock=faulty_clock) as manager:
        await anyio.sleep(3)
        assert manager.get_metrics().seconds_since_cleanup == pytest.approx(3)
        faulty_clock.break_down()
        await anyio.sleep(1)
        assert manager.get_metrics().seconds_since_cleanup == pytest.approx(3)


async def test_a_shutdown_ends_every_session_although_the_clock_raises(
    faulty_clock: FaultyClock, signals: Signals
) -> None:
    manager = signals.manager(CONFIG, clock=faulty_clock)
    async with manager:
        session = await manager.create_session()
        await anyio.sleep(7)
        assert session.age == pytest.approx(7)
        faulty_clock.break_down()
    assert manager.get_metrics().cleaned_by_reason[EndReason.SHUTDOWN] == 1
    assert session.age == pytest.approx(7)
    assert signals.export().is_balanced


@pytest.mark.parametrize("reading", ["nan", "infinite", "beyond all ticks"])
async def test_a_clock_without_one_good_reading_is_refused_at_the_entry(
    faulty_clock: FaultyClock, reading: str
) -> None:
    faulty_clock.wrong = READINGS[reading]
    manager = SessionManager(CONFIG, clock=faulty_clock)
    with pytest.raises(ValueError, match="has not returned a finite number of seconds yet"):
        await manager.__aenter__()
    assert len(manager) == 0
    faulty_clock.mend()
    async with manager:
        await manager.create_session()


async def test_a_limit_too_small_for_the_clock_keeps_no_pass_from_its_end(faulty_clock: FaultyClock) -> None:
    config = SessionConfig(cleanup_interval=10, max_idle_time=5, max_session_age=None)
    async with SessionManager(config, clock=faulty_clock) as manager:
        sessions = [await manager.create_session() for _ in range(100)]
        pins = [manager.pin(session.id) for session in sessions]
        for pin in pins:
            pin.__enter__()
        faulty_clock.skew = 1e17  # there, the next moment is 16 seconds later
        await anyio.sleep(11)
        assert len(manager) == 100
        for pin in pins:
            pin.__exit__(None, None, None)
        faulty_clock.skew = 2e17
        await anyio.sleep(11)
        assert len(manager) == 0
