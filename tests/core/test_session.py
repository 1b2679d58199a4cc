import dataclasses
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from otel_sessions import (
    UNSET,
    ConfigError,
    EndReason,
    Session,
    SessionConfig,
    SessionManager,
    SessionMetadata,
    SessionNotFound,
    SessionState,
)
from tests.virtual import Clock

pytestmark = pytest.mark.anyio

CONFIG = SessionConfig(max_idle_time=100.0, max_session_age=1000.0, cleanup_interval=10_000.0)


@pytest.fixture
async def manager(clock: Clock) -> AsyncIterator[SessionManager[None]]:
    async with SessionManager(CONFIG, clock=clock) as manager:
        yield manager


@pytest.fixture
async def session(manager: SessionManager[None]) -> Session[None]:
    return await manager.create_session("s3cret", client="10.0.0.7")


class Hold:
    """A close hook that stays until `released`."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.released = anyio.Event()

    async def __call__(self, session: Session[Any], reason: EndReason) -> None:
        self.begun.set()
        await self.released.wait()


class TestAtTheStart:
    async def test_a_session_keeps_what_it_was_made_with(self, clock: Clock) -> None:
        upstream = object()
        async with SessionManager[object](CONFIG, clock=clock) as manager:
            session = await manager.create_session("an id", data=upstream, client="10.0.0.7")

        assert (session.id, session.data, session.client) == ("an id", upstream, "10.0.0.7")

    async def test_an_id_that_is_made_here_is_long_and_used_once(self, manager: SessionManager[None]) -> None:
        ids = {(await manager.create_session()).id for _ in range(100)}

        assert [len(session_id) for session_id in ids] == [43] * 100

    async def test_a_new_session_is_active_idle_for_nothing_and_without_age(self, session: Session[None]) -> None:
        assert (session.state, session.idle_for, session.age) == (SessionState.ACTIVE, 0.0, 0.0)

    async def test_a_new_session_has_no_failure_and_no_end_reason(self, session: Session[None]) -> None:
        assert (session.failure, session.end_reason) == (None, None)

    async def test_data_may_be_replaced(self, clock: Clock) -> None:
        async with SessionManager[str](CONFIG, clock=clock) as manager:
            session = await manager.create_session(data="connecting")
            session.data = "connected"

            assert manager.get(session.id) is session
            assert session.data == "connected"

    async def test_a_manager_shows_its_name_and_how_many_sessions_it_has(self, clock: Clock) -> None:
        async with SessionManager(CONFIG, name="proxy", clock=clock) as manager:
            await manager.create_session("s3cret")

            assert repr(manager) == "<SessionManager 'proxy' 1 sessions>"

    async def test_sessions_are_compared_by_identity(self, manager: SessionManager[None]) -> None:
        first, second = await manager.create_session(), await manager.create_session()

        assert len({first, second, first}) == 2


class TestMetadata:
    async def test_metadata_of_a_new_session_shows_the_wall_clock_in_utc(self, session: Session[None]) -> None:
        created_at = session.metadata.created_at

        assert created_at.tzinfo is UTC
        assert abs(datetime.now(UTC) - created_at) < timedelta(seconds=30)

    async def test_metadata_of_a_new_session_is_all_beginning(self, session: Session[None]) -> None:
        metadata = session.metadata

        assert metadata == SessionMetadata(
            created_at=metadata.created_at,
            last_activity=metadata.created_at,
            message_count=0,
            state=SessionState.ACTIVE,
        )

    async def test_last_activity_follows_the_monotonic_clock(self, session: Session[None]) -> None:
        await anyio.sleep(5)
        session.touch()

        metadata = session.metadata
        seconds = (metadata.last_activity - metadata.created_at).total_seconds()
        assert seconds == pytest.approx(5, abs=1e-4)

    async def test_created_at_does_not_follow_a_wall_clock_that_is_set(
        self, session: Session[None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = session.metadata
        monkeypatch.setattr(time, "time", lambda: 0.0)

        assert session.metadata == before

    async def test_a_session_that_is_made_after_the_wall_clock_was_set_shows_the_new_time(
        self, manager: SessionManager[None], session: Session[None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(time, "time", lambda: 86400.0)

        later = await manager.create_session()

        assert later.metadata.created_at == datetime(1970, 1, 2, tzinfo=UTC)

    async def test_metadata_is_frozen(self, session: Session[None]) -> None:
        metadata = session.metadata

        with pytest.raises(dataclasses.FrozenInstanceError):
            metadata.message_count = 5  # type: ignore[misc]

    async def test_metadata_that_was_taken_does_not_change(self, session: Session[None]) -> None:
        metadata = session.metadata
        await anyio.sleep(5)
        session.touch()

        assert (metadata.message_count, metadata.last_activity) == (0, metadata.created_at)


class TestTouching:
    async def test_a_touch_counts_one_message(self, session: Session[None]) -> None:
        session.touch()
        session.touch()

        assert session.metadata.message_count == 2

    async def test_a_touch_starts_the_idle_time_anew(self, session: Session[None]) -> None:
        await anyio.sleep(99)
        session.touch()
        await anyio.sleep(3)

        assert session.idle_for == pytest.approx(3)

    async def test_noted_activity_starts_the_idle_time_anew_and_counts_no_message(self, session: Session[None]) -> None:
        await anyio.sleep(60)

        session.note_activity()

        assert session.idle_for == 0.0
        assert session.metadata.message_count == 0

    async def test_a_touch_leaves_the_age_alone(self, session: Session[None]) -> None:
        await anyio.sleep(99)
        session.touch()

        assert session.age == pytest.approx(99)

    async def test_a_touch_revives_a_stale_session_that_no_pass_has_ended(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        await anyio.sleep(100)
        assert manager.get(session.id) is None

        session.touch()

        assert manager.get(session.id) is session

    async def test_a_touch_does_not_bring_back_an_expired_session(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        await anyio.sleep(1000)
        session.touch()

        assert manager.get(session.id) is None

    async def test_a_touch_does_not_bring_back_a_failed_session(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        session.fail("upstream hung up")
        session.touch()

        assert manager.get(session.id) is None
        assert session.state is SessionState.FAILED

    async def test_a_touch_does_not_bring_back_an_ended_session(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        await manager.close_session(session.id)
        session.touch()

        assert manager.get(session.id) is None
        assert (session.state, session.end_reason) == (SessionState.CLOSED, EndReason.CLOSED)

    async def test_a_touch_does_not_stop_the_end_of_a_failed_session(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        session.fail("upstream hung up")
        session.touch()

        report = await manager.cleanup_stale_sessions()

        assert report.cleaned[EndReason.FAILED] == 1

    async def test_a_touch_changes_nothing_visible_about_an_ended_session(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        await anyio.sleep(7)
        await manager.close_session(session.id)
        before = (session.metadata, session.idle_for, session.age, session.is_stale(7))
        await anyio.sleep(7)

        session.touch()

        assert (session.metadata, session.idle_for, session.age, session.is_stale(7)) == before


class TestStaleness:
    async def test_a_session_is_stale_from_the_very_moment_of_its_limit(self, session: Session[None]) -> None:
        await anyio.sleep(64)  # a power of two, so that no rounding is in the way

        assert session.is_stale(64)
        assert not session.is_stale(64.001)

    async def test_a_leased_session_is_not_stale(self, manager: SessionManager[None], session: Session[None]) -> None:
        with manager.pin(session.id):
            await anyio.sleep(500)

            assert not session.is_stale(1)

    async def test_a_leased_session_is_idle_for_nothing(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        with manager.pin(session.id):
            await anyio.sleep(500)

            assert session.idle_for == 0.0

    async def test_idle_time_runs_from_the_end_of_a_lease(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        with manager.pin(session.id):
            await anyio.sleep(500)
        await anyio.sleep(3)

        assert session.idle_for == pytest.approx(3)

    async def test_age_runs_through_leases(self, manager: SessionManager[None], session: Session[None]) -> None:
        with manager.pin(session.id):
            await anyio.sleep(500)

        assert session.age == pytest.approx(500)

    async def test_idle_time_and_age_are_not_negative_when_the_clock_goes_back(
        self, session: Session[None], clock: Clock
    ) -> None:
        clock.skew -= 50

        assert (session.idle_for, session.age) == (0.0, 0.0)

    async def test_age_stands_still_after_the_end(self, manager: SessionManager[None], session: Session[None]) -> None:
        await anyio.sleep(7)
        await manager.close_session(session.id)
        await anyio.sleep(500)

        assert session.age == pytest.approx(7)

    async def test_idle_time_stands_still_after_the_end(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        await anyio.sleep(7)
        await manager.close_session(session.id)
        await anyio.sleep(500)

        assert session.idle_for == pytest.approx(7)

    async def test_age_stands_still_from_the_closing_mark_on(self, clock: Clock) -> None:
        hold = Hold()
        async with SessionManager(CONFIG, on_close=hold, clock=clock) as manager, anyio.create_task_group() as tasks:
            session = await manager.create_session()
            await anyio.sleep(7)
            tasks.start_soon(manager.close_session, session.id)
            await hold.begun.wait()
            await anyio.sleep(2)

            assert session.age == pytest.approx(7)
            hold.released.set()

    async def test_age_goes_on_after_a_failure_until_the_end(self, session: Session[None]) -> None:
        session.fail("upstream hung up")
        await anyio.sleep(7)

        assert session.age == pytest.approx(7)


class TestFailing:
    async def test_a_failed_session_keeps_what_it_was_told(self, session: Session[None]) -> None:
        error = ConnectionResetError("upstream")
        session.fail(error)

        assert session.failure is error

    async def test_a_failed_session_has_no_end_reason_before_a_pass(self, session: Session[None]) -> None:
        session.fail("upstream hung up")

        assert (session.state, session.end_reason) == (SessionState.FAILED, None)

    async def test_the_first_failure_stays(self, session: Session[None]) -> None:
        session.fail("first")
        session.fail("second")

        assert session.failure == "first"

    async def test_an_empty_text_is_a_failure_too(self, session: Session[None]) -> None:
        session.fail("")

        assert (session.state, session.failure) == (SessionState.FAILED, "")

    async def test_a_failed_session_is_hidden_at_once(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        session.fail("upstream hung up")

        assert session.id not in manager
        assert len(manager) == 1

    async def test_the_next_pass_ends_a_failed_session_as_failed(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        session.fail("upstream hung up")
        await manager.cleanup_stale_sessions()

        assert (session.state, session.end_reason) == (SessionState.FAILED, EndReason.FAILED)

    async def test_a_session_that_fails_under_a_lease_ends_after_it(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        with manager.pin(session.id):
            session.fail("upstream hung up")
            during = await manager.cleanup_stale_sessions()
        after = await manager.cleanup_stale_sessions()

        assert (during.cleaned[EndReason.FAILED], after.cleaned[EndReason.FAILED]) == (0, 1)

    async def test_a_failure_after_the_end_changes_nothing(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        await manager.close_session(session.id)
        session.fail("too late")

        assert (session.state, session.failure, session.end_reason) == (SessionState.CLOSED, None, EndReason.CLOSED)

    async def test_failed_comes_before_max_age_and_idle_timeout(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        session.fail("upstream hung up")
        await anyio.sleep(2000)

        with pytest.raises(SessionNotFound) as caught:
            manager.pin(session.id).__enter__()
        assert caught.value.reason is EndReason.FAILED

    async def test_max_age_comes_before_idle_timeout(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        await anyio.sleep(2000)

        with pytest.raises(SessionNotFound) as caught:
            manager.pin(session.id).__enter__()
        assert caught.value.reason is EndReason.MAX_AGE


class TestTheEnd:
    async def test_a_session_is_closing_while_its_hook_runs(self, clock: Clock) -> None:
        hold = Hold()
        async with SessionManager(CONFIG, on_close=hold, clock=clock) as manager, anyio.create_task_group() as tasks:
            session = await manager.create_session()
            tasks.start_soon(manager.close_session, session.id)
            await hold.begun.wait()

            assert (session.state, session.end_reason) == (SessionState.CLOSING, EndReason.CLOSED)
            hold.released.set()

    async def test_a_failed_session_is_closing_while_its_hook_runs(self, clock: Clock) -> None:
        hold = Hold()
        async with SessionManager(CONFIG, on_close=hold, clock=clock) as manager, anyio.create_task_group() as tasks:
            session = await manager.create_session()
            session.fail("upstream hung up")
            tasks.start_soon(manager.cleanup_stale_sessions)
            await hold.begun.wait()

            assert session.state is SessionState.CLOSING
            hold.released.set()

    async def test_a_session_that_was_closed_by_hand_is_closed(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        await manager.close_session(session.id)

        assert (session.state, session.metadata.state) == (SessionState.CLOSED, SessionState.CLOSED)

    async def test_a_session_that_idled_out_is_closed(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        await anyio.sleep(100)
        await manager.cleanup_stale_sessions()

        assert (session.state, session.end_reason) == (SessionState.CLOSED, EndReason.IDLE_TIMEOUT)

    async def test_a_session_outlives_its_manager_as_closed(self, clock: Clock) -> None:
        async with SessionManager(CONFIG, clock=clock) as manager:
            session = await manager.create_session()

        assert (session.state, session.end_reason) == (SessionState.CLOSED, EndReason.SHUTDOWN)


class TestItsOwnLimits:
    async def test_a_session_may_idle_for_longer_than_the_others(self, manager: SessionManager[None]) -> None:
        session = await manager.create_session(max_idle_time=500)
        await anyio.sleep(499)

        assert session.id in manager

    async def test_a_session_may_live_for_less_than_the_others(self, manager: SessionManager[None]) -> None:
        session = await manager.create_session(max_session_age=50)
        await anyio.sleep(50)
        await manager.cleanup_stale_sessions()

        assert session.end_reason is EndReason.MAX_AGE

    async def test_a_session_whose_limits_are_off_is_never_due(self, manager: SessionManager[None]) -> None:
        session = await manager.create_session(max_idle_time=None, max_session_age=None)
        await anyio.sleep(80_000)
        await manager.cleanup_stale_sessions()

        assert manager.get(session.id) is session

    async def test_a_limit_that_is_unset_is_the_configured_one(self, manager: SessionManager[None]) -> None:
        session = await manager.create_session(max_idle_time=UNSET, max_session_age=UNSET)
        await anyio.sleep(100)

        assert session.id not in manager

    @pytest.mark.parametrize("limit", ["max_idle_time", "max_session_age"])
    @pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), True, "10", "off"])
    async def test_a_wrong_limit_of_its_own_makes_no_session(
        self, manager: SessionManager[None], limit: str, value: object
    ) -> None:
        limits: dict[str, Any] = {limit: value}

        with pytest.raises(ConfigError, match=f"^{limit} takes "):
            await manager.create_session(**limits)
        assert (len(manager), manager.get_metrics().reserved) == (0, 0)

    async def test_a_pass_with_limits_of_its_own_spares_sessions_with_theirs(
        self, manager: SessionManager[None]
    ) -> None:
        own = await manager.create_session(max_idle_time=90, max_session_age=900)
        other = await manager.create_session()
        await anyio.sleep(10)

        await manager.cleanup_stale_sessions(max_idle_time=5, max_session_age=5)

        assert (own.end_reason, other.end_reason) == (None, EndReason.MAX_AGE)

    async def test_a_pass_with_a_limit_off_spares_what_only_that_limit_ends(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        await anyio.sleep(500)
        report = await manager.cleanup_stale_sessions(max_session_age=None, max_idle_time=501)

        assert report.total_cleaned == 0

    async def test_a_limit_that_is_off_has_no_emergency_value(self, clock: Clock) -> None:
        config = SessionConfig(max_sessions=1, emergency_idle_time=10, emergency_session_age=10)
        async with SessionManager(config, clock=clock) as manager:
            session = await manager.create_session(max_idle_time=None, max_session_age=None)
            await anyio.sleep(1000)
            await manager.emergency_cleanup()

            assert session.end_reason is None

    async def test_a_limit_of_its_own_has_the_emergency_value_too(self, clock: Clock) -> None:
        config = SessionConfig(max_sessions=1, emergency_idle_time=10, emergency_session_age=None)
        async with SessionManager(config, clock=clock) as manager:
            session = await manager.create_session(max_idle_time=5000, max_session_age=5000)
            await anyio.sleep(10)
            await manager.emergency_cleanup()

            assert session.end_reason is EndReason.EVICTED

    async def test_an_emergency_limit_above_the_normal_one_acts_as_the_normal_one(self, clock: Clock) -> None:
        config = SessionConfig(max_sessions=1, max_idle_time=10, emergency_idle_time=500, cleanup_interval=10_000)
        async with SessionManager(config, clock=clock) as manager:
            session = await manager.create_session()
            await anyio.sleep(10)
            await manager.emergency_cleanup()

            assert session.end_reason is EndReason.IDLE_TIMEOUT


class TestWhatItShows:
    async def test_the_repr_shows_the_hash_and_the_state(self, session: Session[None]) -> None:
        # printf s3cret | b2sum -l 64
        assert repr(session) == "<Session 256de8280e909a01 active>"

    async def test_the_repr_shows_neither_the_id_nor_the_client(self, session: Session[None]) -> None:
        session.fail("upstream hung up")

        assert not any(secret in repr(session) for secret in ["s3cret", "10.0.0.7", "hung"])
