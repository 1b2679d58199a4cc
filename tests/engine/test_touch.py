"""`SessionManager.touch`: look-up and activity in one step, by the rule of `get`."""

from collections.abc import Awaitable, Callable

import anyio
import pytest

from otel_sessions import EndReason, Session, SessionConfig, SessionManager
from tests.doubles import CountingClock
from tests.virtual import Clock

pytestmark = pytest.mark.anyio

CONFIG = SessionConfig(cleanup_interval=1000, max_idle_time=10, max_session_age=100)

Change = Callable[[SessionManager, Session], Awaitable[object]]


async def leave_alone(manager: SessionManager, session: Session) -> None:
    pass


async def idle_just_in_time(manager: SessionManager, session: Session) -> None:
    await anyio.sleep(9.5)


async def idle_too_long(manager: SessionManager, session: Session) -> None:
    await anyio.sleep(10)


async def lease_for_long(manager: SessionManager, session: Session) -> None:
    manager.pin(session.id).__enter__()
    await anyio.sleep(50)


async def grow_too_old(manager: SessionManager, session: Session) -> None:
    manager.pin(session.id).__enter__()
    await anyio.sleep(100)


async def drain(manager: SessionManager, session: Session) -> None:
    await grow_too_old(manager, session)
    await manager.cleanup_stale_sessions()


async def fail(manager: SessionManager, session: Session) -> None:
    session.fail("upstream hung up")


async def close(manager: SessionManager, session: Session) -> None:
    await manager.close_session(session.id)


async def shut_down(manager: SessionManager, session: Session) -> None:
    await manager.shutdown()


@pytest.mark.parametrize(
    ("change", "there"),
    [
        (leave_alone, True),
        (idle_just_in_time, True),
        (lease_for_long, True),
        (idle_too_long, False),
        (grow_too_old, False),
        (drain, False),
        (fail, False),
        (close, False),
        (shut_down, False),
    ],
)
async def test_touch_finds_what_get_finds(change: Change, there: bool, clock: Clock) -> None:
    async with SessionManager(CONFIG, clock=clock) as manager:
        session = await manager.create_session()
        await change(manager, session)
        got = manager.get(session.id)
        assert (got is session) == there
        assert manager.touch(session.id) is got


async def test_touch_finds_a_session_again_and_again_past_the_limit_it_was_filed_under(clock: Clock) -> None:
    async with SessionManager(CONFIG, clock=clock) as manager:
        session = await manager.create_session()
        for _ in range(10):
            await anyio.sleep(9)
            assert manager.touch(session.id) is session
        await anyio.sleep(10)
        assert manager.touch(session.id) is None


async def test_touch_starts_idle_time_anew_and_counts_one(clock: Clock) -> None:
    async with SessionManager(CONFIG, clock=clock) as manager:
        session = await manager.create_session()
        await anyio.sleep(9)
        manager.touch(session.id)
        assert (session.idle_for, session.metadata.message_count) == (0, 1)
        await anyio.sleep(9)
        assert session.id in manager


@pytest.mark.parametrize("change", [idle_too_long, grow_too_old, fail, close])
async def test_a_touch_that_finds_nothing_changes_nothing(change: Change, clock: Clock) -> None:
    async with SessionManager(CONFIG, clock=clock) as manager:
        session = await manager.create_session()
        await change(manager, session)
        before = session.metadata
        await anyio.sleep(1)
        assert manager.touch(session.id) is None
        assert session.metadata == before


async def test_a_stale_session_that_was_touched_in_vain_ends_as_idle(clock: Clock) -> None:
    async with SessionManager(CONFIG, clock=clock) as manager:
        session = await manager.create_session()
        await idle_too_long(manager, session)
        manager.touch(session.id)
        assert (await manager.cleanup_stale_sessions()).cleaned[EndReason.IDLE_TIMEOUT] == 1


async def test_touch_of_an_unknown_id_is_none_inside_the_block_before_it_and_after() -> None:
    manager = SessionManager()
    assert manager.touch("nobody") is None
    async with manager:
        session = await manager.create_session()
        assert manager.touch("nobody") is None
    assert manager.touch(session.id) is None


async def test_touch_reads_the_clock_once() -> None:
    clock = CountingClock()
    async with SessionManager(clock=clock) as manager:
        session = await manager.create_session()
        before = clock.readings
        manager.touch(session.id)
        assert clock.readings == before + 1
