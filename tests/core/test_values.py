"""What the package returns can be pickled, copied, written as JSON and returned from a route."""

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient

from otel_sessions import (
    UNSET,
    CleanupReport,
    EndReason,
    RecentEnd,
    Record,
    SessionConfig,
    SessionManager,
    SessionPage,
    SessionStats,
    fingerprint,
)
from tests.doubles import SlowHook, fail
from tests.virtual import Clock, settle

pytestmark = pytest.mark.anyio

COPIES: list[Callable[[Any], Any]] = [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))]  # noqa: S301  # pickled here


@pytest.fixture
async def stats(clock: Clock) -> SessionStats:
    """A manager's statistics after a pass that ended a session, whose hook failed."""
    async with SessionManager(SessionConfig(max_idle_time=10), on_close=fail, clock=clock) as manager:
        await manager.create_session()
        await anyio.sleep(10)
        await manager.cleanup_stale_sessions()
        await manager.create_session()
        return manager.get_metrics()


@pytest.fixture
def report(stats: SessionStats) -> CleanupReport:
    assert stats.last_cleanup is not None
    return stats.last_cleanup


@pytest.mark.parametrize("make", COPIES)
async def test_statistics_and_reports_can_be_pickled_and_copied(
    stats: SessionStats, make: Callable[[Any], Any]
) -> None:
    copied = make(stats)

    assert copied == stats
    assert copied.last_cleanup == stats.last_cleanup
    assert all(isinstance(reason, EndReason) for reason in copied.cleaned_by_reason)


@pytest.mark.parametrize("make", COPIES)
async def test_every_other_value_can_be_pickled_and_copied(make: Callable[[Any], Any]) -> None:
    async with SessionManager() as manager:
        session = await manager.create_session()
        page = manager.sessions()
        await manager.close_session(session.id)
    values = [SessionConfig(max_sessions=7), session.metadata, Record.of(session, EndReason.CLOSED), EndReason.CLOSED]
    values += [page, page.sessions[0], page.sessions[0].limits, manager.recent_ends()[0], manager.recent_ends()]

    assert [make(value) for value in values] == values
    assert make(UNSET) is UNSET


@pytest.mark.parametrize("make", COPIES)
async def test_a_copy_is_as_frozen_as_the_original(stats: SessionStats, make: Callable[[Any], Any]) -> None:
    counts: Any = make(stats).cleaned_by_reason
    changes: list[Callable[[], Any]] = [
        lambda: counts.update(closed=1),
        lambda: counts.pop(EndReason.CLOSED),
        lambda: counts.setdefault("other", 1),
        lambda: counts.__ior__({"other": 1}),
        lambda: counts.__delitem__(EndReason.CLOSED),
        counts.popitem,
        counts.clear,
    ]
    for change in changes:
        with pytest.raises(TypeError, match="do not change"):
            change()
    assert counts == stats.cleaned_by_reason


async def test_statistics_as_a_dict_are_ready_for_json(stats: SessionStats) -> None:
    written = stats.as_dict()

    assert json.loads(json.dumps(written, allow_nan=False)) == written
    assert written["total_created"] == 2
    assert written["cleaned_by_reason"] == {**dict.fromkeys([*EndReason], 0), "idle_timeout": 1}
    assert set(written) == set(asdict(stats))


async def test_a_report_as_a_dict_has_its_sum_and_plain_words(report: CleanupReport) -> None:
    written = report.as_dict()

    assert written == {
        "trigger": "manual",
        "outcome": "partial",
        "examined": 1,
        "cleaned": {**dict.fromkeys([*EndReason], 0), "idle_timeout": 1},
        "total_cleaned": 1,
        "hook_errors": 1,
        "remaining": 0,
        "duration": report.duration,
    }
    assert {type(word) for word in (written["trigger"], written["outcome"], *written["cleaned"])} == {str}  # type: ignore[misc]


async def test_a_page_and_the_recent_ends_as_dicts_are_ready_for_json() -> None:
    async with SessionManager() as manager:
        await manager.create_session("ended")
        await manager.close_session("ended")
        await manager.create_session()
        page, [end] = manager.sessions(), manager.recent_ends()

    for written in (page.as_dict(), end.as_dict()):
        assert json.loads(json.dumps(written, allow_nan=False)) == written
    assert page.as_dict()["sessions"] == [page.sessions[0].as_dict()]
    assert end.as_dict()["ended_at"] == end.ended_at.isoformat()


async def test_the_last_cleanup_is_nested_in_the_statistics_as_a_dict(stats: SessionStats) -> None:
    assert stats.last_cleanup is not None
    assert stats.as_dict()["last_cleanup"] == stats.last_cleanup.as_dict()


def test_without_a_cleanup_the_dict_has_none() -> None:
    assert SessionManager().get_metrics().as_dict()["last_cleanup"] is None


async def test_the_creators_that_wait_at_the_cap_are_in_the_statistics(clock: Clock) -> None:
    slow = SlowHook(2)
    settings = SessionConfig(max_sessions=1, emergency_idle_time=1)
    async with SessionManager(settings, on_close=slow, clock=clock) as manager:
        await manager.create_session()
        await anyio.sleep(1)
        async with anyio.create_task_group() as group:
            group.start_soon(manager.create_session)
            await settle()
            assert manager.get_metrics().waiting == 1
        assert manager.get_metrics().waiting == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_fastapi_route_returns_statistics_and_reports(anyio_backend: str) -> None:
    app, manager = FastAPI(), SessionManager()

    @app.get("/typed")
    async def typed() -> SessionStats:
        return manager.get_metrics()

    @app.get("/untyped", response_model=None)
    async def untyped() -> SessionStats:
        return manager.get_metrics()

    @app.get("/as_dict")
    async def as_dict() -> dict[str, object]:
        return manager.get_metrics().as_dict()

    @app.get("/report")
    async def report() -> CleanupReport:
        return await manager.cleanup_stale_sessions()

    @app.get("/sessions")
    async def sessions() -> SessionPage:
        return manager.sessions()

    @app.get("/recent")
    async def recent() -> tuple[RecentEnd, ...]:
        return manager.recent_ends()

    async with manager, AsyncClient(transport=ASGITransport(app), base_url="http://x") as client:
        await manager.create_session("ended")
        await manager.close_session("ended")
        [end] = (await client.get("/recent")).json()
        assert (end["fingerprint"], end["reason"]) == (fingerprint("ended"), "closed")
        session = await manager.create_session()
        [listed] = (await client.get("/sessions")).json()["sessions"]
        assert listed["fingerprint"] == fingerprint(session.id)
        assert listed["limits"] == {"max_idle_time": 3600.0, "max_session_age": 86400.0}
        assert (await client.get("/report")).json()["remaining"] == 1
        for path in ("/typed", "/untyped", "/as_dict"):
            answer = await client.get(path)
            assert answer.status_code == 200
            assert answer.json()["total_created"] == 2
            assert answer.json()["last_cleanup"]["trigger"] == "manual"
            assert answer.json()["cleaned_by_reason"]["closed"] == 1
