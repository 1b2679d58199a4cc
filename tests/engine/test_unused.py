"""`max_unused_time`: a session that nobody has used since its opening is stale sooner than others."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from otel_sessions import UNSET, EndReason, RejectionReason, Session, SessionConfig, SessionManager, SessionNotFound
from otel_sessions._core.limits import Limit
from tests.virtual import Clock

pytestmark = pytest.mark.anyio


def config(**settings: Any) -> SessionConfig:
    return SessionConfig(**{"cleanup_interval": 10, "max_idle_time": 100, "max_unused_time": 20, **settings})


def lease_once(manager: SessionManager, session: Session) -> None:
    with manager.pin(session.id):
        pass


def lease_twice(manager: SessionManager, session: Session) -> None:
    lease_once(manager, session)
    lease_once(manager, session)


def lease_within_a_lease(manager: SessionManager, session: Session) -> None:
    with manager.pin(session.id), manager.pin(session.id):
        pass


def touch(manager: SessionManager, session: Session) -> None:
    session.touch()


def lease_and_touch(manager: SessionManager, session: Session) -> None:
    with manager.pin(session.id):
        session.touch()


def touch_and_lease(manager: SessionManager, session: Session) -> None:
    session.touch()
    lease_once(manager, session)


def lease_and_note_activity(manager: SessionManager, session: Session) -> None:
    with manager.pin(session.id):
        session.note_activity()


def leave_alone(manager: SessionManager, session: Session) -> None:
    pass


Use = Callable[[SessionManager, Session], None]
USES: list[Use] = [lease_twice, lease_within_a_lease, touch, lease_and_touch, touch_and_lease]
NO_USES: list[Use] = [leave_alone, lease_once, lease_and_note_activity]


@pytest.mark.parametrize("use", NO_USES)
async def test_an_unused_session_is_stale_after_so_long(clock: Clock, use: Use) -> None:
    async with SessionManager(config(), clock=clock) as manager:
        session = await manager.create_session()
        use(manager, session)
        await anyio.sleep(19.9)
        assert session.id in manager
        await anyio.sleep(0.1)
        assert session.id not in manager
        with pytest.raises(SessionNotFound) as caught, manager.pin(session.id):
            pass
        assert caught.value.reason is EndReason.IDLE_TIMEOUT


@pytest.mark.parametrize("use", NO_USES)
async def test_an_interval_pass_ends_it_in_time(clock: Clock, use: Use) -> None:
    async with SessionManager(config(), clock=clock) as manager:
        session = await manager.create_session()
        use(manager, session)
        await anyio.sleep(31)
        assert session.end_reason is EndReason.IDLE_TIMEOUT
        assert manager.get_metrics().cleaned_by_reason[EndReason.IDLE_TIMEOUT] == 1


@pytest.mark.parametrize("use", USES)
async def test_a_second_lease_or_a_touch_lifts_the_limit(clock: Clock, use: Use) -> None:
    async with SessionManager(config(), clock=clock) as manager:
        session = await manager.create_session()
        use(manager, session)
        await anyio.sleep(99)
        assert session.id in manager
        assert session.end_reason is None
        await anyio.sleep(12)
        assert session.end_reason is EndReason.IDLE_TIMEOUT


async def test_it_runs_from_the_end_of_the_opening_lease(clock: Clock) -> None:
    async with SessionManager(config(), clock=clock) as manager:
        session = await manager.create_session()
        async with manager.lease(session.id):
            await anyio.sleep(65)
        await anyio.sleep(15)
        assert session.id in manager
        await anyio.sleep(16)
        assert session.end_reason is EndReason.IDLE_TIMEOUT


@pytest.mark.parametrize("use", [*NO_USES, *USES])
async def test_messages_are_counted_as_without_the_limit(clock: Clock, use: Use) -> None:
    counts = []
    for settings in (config(), config(max_unused_time=None)):
        async with SessionManager(settings, clock=clock) as manager:
            session = await manager.create_session()
            use(manager, session)
            counts += [session.metadata.message_count]
        counts += [session.metadata.message_count]
    assert len(set(counts)) == 1
    assert {type(count) for count in counts} == {int}


async def test_a_lower_idle_limit_stays_the_limit(clock: Clock) -> None:
    async with SessionManager(config(max_unused_time=500), clock=clock) as manager:
        session = await manager.create_session()
        await anyio.sleep(100)
        assert session.id not in manager


@pytest.mark.parametrize("own", [1000.0, None])
async def test_a_session_with_an_idle_limit_of_its_own_is_unused_all_the_same(clock: Clock, own: float | None) -> None:
    async with SessionManager(config(), clock=clock) as manager:
        unused = await manager.create_session(max_idle_time=own)
        used = await manager.create_session(max_idle_time=own)
        used.touch()
        await anyio.sleep(31)
        assert (unused.end_reason, used.end_reason) == (EndReason.IDLE_TIMEOUT, None)


@pytest.mark.parametrize("idle", [UNSET, 1000.0, None])
async def test_a_preview_and_a_pass_with_limits_of_their_own_find_it(clock: Clock, idle: Limit) -> None:
    async with SessionManager(config(cleanup_interval=1000), clock=clock) as manager:
        await manager.create_session()
        used = await manager.create_session()
        used.touch()
        await anyio.sleep(20)
        preview = await manager.preview_cleanup(max_idle_time=idle)
        report = await manager.cleanup_stale_sessions(max_idle_time=idle)
        assert preview.cleaned == report.cleaned
        assert report.cleaned[EndReason.IDLE_TIMEOUT] == report.total_cleaned == 1
        assert used.end_reason is None


async def test_an_emergency_pass_ends_it_as_due_and_evicts_nobody_for_it(clock: Clock) -> None:
    settings = config(max_sessions=2, cleanup_interval=1000, emergency_idle_time=5)
    async with SessionManager(settings, clock=clock) as manager:
        used, unused = await manager.create_session(), await manager.create_session()
        await anyio.sleep(20)
        used.touch()
        await manager.create_session()
        assert unused.end_reason is EndReason.IDLE_TIMEOUT
        assert used.end_reason is None
        assert manager.get_metrics().rejected[RejectionReason.MAX_SESSIONS] == 0


async def test_a_refusal_knows_when_an_unused_session_goes(clock: Clock) -> None:
    from otel_sessions import TooManySessions

    settings = config(max_sessions=1, cleanup_interval=1000, emergency_idle_time=None, emergency_session_age=None)
    async with SessionManager(settings, clock=clock) as manager:
        await manager.create_session()
        await anyio.sleep(5)
        with pytest.raises(TooManySessions) as caught:
            await manager.create_session()
        assert caught.value.retry_after == pytest.approx(15)


async def test_what_was_unused_is_filed_anew_once_it_is_used_and_found_later(clock: Clock) -> None:
    async with SessionManager(config(), clock=clock) as manager:
        session = await manager.create_session()
        await anyio.sleep(15)
        session.touch()
        await anyio.sleep(80)
        session.touch()
        await anyio.sleep(95)
        assert session.id in manager
        await anyio.sleep(16)
        assert session.end_reason is EndReason.IDLE_TIMEOUT
