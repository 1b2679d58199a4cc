"""Sessions are listed and ended by people: pages, cursors, fingerprints, clients, and what ended lately."""

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import anyio
import anyio.to_thread
import pytest

from otel_sessions import (
    ConfigError,
    EndReason,
    ManagerClosed,
    Session,
    SessionConfig,
    SessionInfo,
    SessionLimits,
    SessionManager,
    SessionPage,
    SessionState,
    fingerprint,
)
from otel_sessions._core.listing import Wanted
from otel_sessions._engine import directory
from tests.doubles import SlowHook
from tests.virtual import Clock

pytestmark = pytest.mark.anyio

UNBOUNDED = SessionConfig(max_sessions=None, max_idle_time=None, max_session_age=None)


def names(page: SessionPage) -> list[str]:
    return [info.fingerprint for info in page.sessions]


def prints(*ids: str) -> list[str]:
    return [fingerprint(one) for one in ids]


async def test_a_session_is_described_without_its_id_and_its_data(clock: Clock) -> None:
    async with SessionManager[str](clock=clock) as manager:
        session = await manager.create_session("secret", data="private", client="ada", max_idle_time=None)
        await anyio.sleep(5)
        session.touch()
        await anyio.sleep(2)
        [info] = manager.sessions().sessions

        assert info == SessionInfo(
            fingerprint=fingerprint("secret"),
            client="ada",
            state=SessionState.ACTIVE,
            leases=0,
            created_at=session.metadata.created_at,
            last_activity=session.metadata.created_at + timedelta(seconds=5),
            idle_for=2.0,
            age=7.0,
            message_count=1,
            limits=SessionLimits(max_idle_time=None, max_session_age=86400.0),
        )
        assert "secret" not in repr(info) + str(info.as_dict())
        assert "private" not in repr(info) + str(info.as_dict())


async def test_a_leased_session_is_listed_with_its_leases_and_is_not_idle(clock: Clock) -> None:
    async with SessionManager(clock=clock) as manager:
        await manager.create_session("a")
        with manager.pin("a"), manager.pin("a"):
            await anyio.sleep(5)
            [info] = manager.sessions().sessions

    assert (info.leases, info.idle_for, info.age) == (2, 0.0, 5.0)


async def test_pages_come_oldest_first_and_the_last_has_no_next() -> None:
    async with SessionManager() as manager:
        for name in "abcde":
            await manager.create_session(name)
        first = manager.sessions(limit=2)
        second = manager.sessions(limit=2, after=first.next)
        third = manager.sessions(limit=2, after=second.next)

        assert [names(page) for page in (first, second, third)] == [prints(*"ab"), prints(*"cd"), prints("e")]
        assert third.next is None
        assert manager.sessions(limit=5).next is None


async def test_a_cursor_stays_valid_when_its_session_has_ended() -> None:
    async with SessionManager() as manager:
        for name in "abcd":
            await manager.create_session(name)
        first = manager.sessions(limit=2)
        for name in "abc":
            await manager.close_session(name)
        await manager.create_session("e")

        assert names(manager.sessions(after=first.next)) == prints("d", "e")


async def test_an_empty_manager_has_one_empty_page() -> None:
    async with SessionManager() as manager:
        assert manager.sessions() == SessionPage(sessions=(), next=None)


async def test_sessions_are_chosen_by_client_state_idle_time_and_age(clock: Clock) -> None:
    async with SessionManager(SessionConfig(cleanup_interval=600), clock=clock) as manager:
        await manager.create_session("old", client="ada")
        await anyio.sleep(60)
        failed = await manager.create_session("failed", client="bob")
        failed.fail("broken")
        await manager.create_session("new", client="ada")
        manager.touch("old")
        await anyio.sleep(5)
        manager.touch("new")

        assert names(manager.sessions(client="ada")) == prints("old", "new")
        assert names(manager.sessions(client="eve")) == []
        assert names(manager.sessions(state="failed")) == prints("failed")
        assert names(manager.sessions(state=SessionState.ACTIVE)) == prints("old", "new")
        assert names(manager.sessions(older_than=65)) == prints("old")
        assert names(manager.sessions(older_than=65.5)) == []
        assert names(manager.sessions(idle_for=5)) == prints("old", "failed")
        assert names(manager.sessions(idle_for=0, older_than=0)) == prints("old", "failed", "new")
        assert names(manager.sessions(client="ada", idle_for=1)) == prints("old")


async def test_a_closing_session_is_listed_until_its_hook_has_ended(clock: Clock) -> None:
    async with SessionManager(clock=clock, on_close=SlowHook(3)) as manager, anyio.create_task_group() as tasks:
        await manager.create_session("a")
        tasks.start_soon(manager.close_session, "a")
        await anyio.sleep(1)

        assert names(manager.sessions(state="closing")) == prints("a")
        assert names(manager.sessions()) == prints("a")
        assert len(manager.sessions().sessions) == len(manager)

        await anyio.sleep(3)

        assert manager.sessions().sessions == ()


@pytest.mark.parametrize(
    "keywords",
    [
        {"limit": 0},
        {"limit": 1001},
        {"limit": True},
        {"limit": "10"},
        {"state": "closed"},
        {"state": "dead"},
        {"state": 3},
        {"idle_for": -1},
        {"idle_for": "5m"},
        {"older_than": float("nan")},
        {"after": ""},
        {"after": "rubbish"},
    ],
    ids=str,
)
async def test_a_wrong_keyword_of_a_list_is_named(keywords: dict[str, Any]) -> None:
    async with SessionManager() as manager:
        await manager.create_session()
        with pytest.raises(ConfigError, match=next(iter(keywords))):
            manager.sessions(**keywords)


async def test_a_cursor_of_an_earlier_run_says_that_the_list_begins_again() -> None:
    manager = SessionManager()
    async with manager:
        await manager.create_session()
        await manager.create_session()
        after = manager.sessions(limit=1).next
    async with manager:
        with pytest.raises(ConfigError, match="list again from the start"):
            manager.sessions(after=after)


async def test_a_list_needs_a_running_manager_on_its_own_loop() -> None:
    manager = SessionManager()
    with pytest.raises(ManagerClosed):
        manager.sessions()
    async with manager:
        with pytest.raises(RuntimeError):
            await anyio.to_thread.run_sync(manager.sessions)
    with pytest.raises(ManagerClosed):
        manager.sessions()


class Looks:
    """Counts the sessions that a list looks at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        accepts = Wanted.accepts

        def counted(wanted: Wanted, session: Session[Any]) -> bool:
            self.count += 1
            return accepts(wanted, session)

        monkeypatch.setattr(Wanted, "accepts", counted)


@pytest.mark.no_cover  # the same lines again and again
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_one_page_looks_at_a_thousand_of_100000_sessions_wherever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async with SessionManager(UNBOUNDED) as manager:
        for number in range(100_000):
            await manager.create_session(str(number), client="rare" if number % 9973 == 0 else "usual")
        looks, found, after, pages = Looks(monkeypatch), list[str](), None, 0
        while pages == 0 or after is not None:
            before = looks.count
            page = manager.sessions(client="rare", after=after, limit=1000)
            assert looks.count - before <= 1000
            found += names(page)
            after, pages = page.next, pages + 1

        assert found == prints(*(str(number) for number in range(0, 100_000, 9973)))
        assert pages == 100


@pytest.mark.no_cover
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_each_survivor_of_100000_under_churn_is_seen_exactly_once() -> None:
    async with SessionManager(UNBOUNDED) as manager:
        for number in range(100_000):
            await manager.create_session(str(number))
        numbers, seen = count(100_000), list[str]()
        ending = iter([str(n) for n in range(0, 100_000, 3)] + [str(n) for n in range(1, 100_000, 3)])
        page = manager.sessions(limit=1000)
        seen += names(page)
        while page.next is not None:
            page = manager.sessions(limit=1000, after=page.next)
            seen += names(page)
            for _ in range(500):
                await manager.close_session(next(ending, ""))
                if len(seen) < 90_000:
                    await manager.create_session(str(next(numbers)))
        gone = set(ending)
        survivors = [n for n in range(100_000) if n % 3 == 2 or str(n) in gone]

        assert len(seen) == len(set(seen))
        assert set(prints(*map(str, survivors))) <= set(seen)


async def test_a_session_is_ended_by_its_fingerprint() -> None:
    async with SessionManager() as manager:
        await manager.create_session("a")
        await manager.create_session("b")

        assert await manager.close_session(fingerprint=fingerprint("b"))
        assert not await manager.close_session(fingerprint=fingerprint("b"))
        assert not await manager.close_session(fingerprint="rubbish")
        assert names(manager.sessions()) == prints("a")
        assert manager.get_metrics().cleaned_by_reason[EndReason.CLOSED] == 1


async def test_a_closing_session_is_not_ended_again_by_its_fingerprint(clock: Clock) -> None:
    async with SessionManager(clock=clock, on_close=SlowHook(3)) as manager, anyio.create_task_group() as tasks:
        await manager.create_session("a")
        tasks.start_soon(manager.close_session, "a")
        await anyio.sleep(1)

        assert not await manager.close_session(fingerprint=fingerprint("a"))


@pytest.mark.parametrize("both", [{}, {"session_id": "a", "fingerprint": "b"}], ids=["none", "both"])
async def test_a_session_to_end_is_named_in_exactly_one_way(both: dict[str, Any]) -> None:
    async with SessionManager() as manager:
        with pytest.raises(TypeError, match="one of both"):
            await manager.close_session(**both)


async def test_a_session_is_found_by_its_fingerprint() -> None:
    async with SessionManager() as manager:
        await manager.create_session("a", client="ada")
        found = await manager.find(fingerprint("a"))

        assert found is not None
        assert found.client == "ada"
        assert await manager.find("rubbish") is None


async def test_all_sessions_of_a_client_are_ended_and_no_others() -> None:
    reasons: list[EndReason] = []

    async def on_close(session: Session, reason: EndReason) -> None:
        reasons.append(reason)

    async with SessionManager(UNBOUNDED, on_close=on_close) as manager:
        for number in range(1500):
            await manager.create_session(client=["ada", "bob", None][number % 3])
        ended = await manager.close_client("ada")

        assert ended == len(reasons) == 500
        assert set(reasons) == {EndReason.CLOSED}
        assert await manager.close_client("ada") == 0
        assert {info.client for info in manager.sessions(limit=1000).sessions} == {"bob", None}


async def test_a_due_session_of_a_closed_client_counts_for_its_due_reason(clock: Clock) -> None:
    async with SessionManager(SessionConfig(max_idle_time=10, cleanup_interval=600), clock=clock) as manager:
        await manager.create_session(client="ada")
        await anyio.sleep(20)

        assert await manager.close_client("ada") == 1
        assert manager.get_metrics().cleaned_by_reason[EndReason.IDLE_TIMEOUT] == 1


async def test_a_search_lets_the_loop_go_on_and_skips_what_comes_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "LEAF", 2)
    async with SessionManager(UNBOUNDED) as manager, anyio.create_task_group() as tasks:
        for number in range(10):
            await manager.create_session(str(number), client="ada")

        async def come_and_go() -> None:
            await manager.close_session("9")
            for _ in range(100):
                await manager.create_session(client="ada")
                await anyio.lowlevel.checkpoint()

        tasks.start_soon(come_and_go)

        assert await manager.close_client("ada") == 9
        assert len(manager) > 0


async def test_a_client_to_log_out_is_a_text() -> None:
    async with SessionManager() as manager:
        await manager.create_session()
        with pytest.raises(TypeError, match="a client is a str"):
            await manager.close_client(None)  # type: ignore[arg-type]
        assert len(manager) == 1


async def test_a_hook_may_log_its_own_client_out() -> None:
    counts: list[int] = []

    async def on_close(session: Session, reason: EndReason) -> None:
        assert session.client is not None
        counts.append(await manager.close_client(session.client))

    async with SessionManager(on_close=on_close) as manager:
        for _ in range(3):
            await manager.create_session(client="ada")
        await manager.close_session(fingerprint=names(manager.sessions())[0])
        await anyio.wait_all_tasks_blocked()

        assert sum(counts) == 2
        assert len(manager) == 0


async def test_the_sessions_that_ended_lately_come_latest_first(clock: Clock) -> None:
    config = SessionConfig(max_idle_time=10, cleanup_interval=5)
    manager = SessionManager(config, clock=clock)
    assert manager.recent_ends() == ()
    async with manager:
        session = await manager.create_session("stale")
        created = session.metadata.created_at
        await anyio.sleep(20)
        await manager.create_session("by hand")
        await manager.close_session("by hand")
        ends = manager.recent_ends()
        assert [(end.fingerprint, end.reason) for end in ends] == [
            (fingerprint("by hand"), EndReason.CLOSED),
            (fingerprint("stale"), EndReason.IDLE_TIMEOUT),
        ]
        assert timedelta(seconds=10) <= ends[1].ended_at - created <= timedelta(seconds=16)
        assert ends[0].ended_at.tzinfo is UTC
        await manager.create_session("at the end")

    assert [end.reason for end in manager.recent_ends(1)] == [EndReason.SHUTDOWN]


async def test_a_hundred_ends_are_remembered() -> None:
    async with SessionManager() as manager:
        for number in range(150):
            await manager.create_session(str(number))
            await manager.close_session(str(number))

        assert [end.fingerprint for end in manager.recent_ends()] == prints(*(str(n) for n in range(149, 49, -1)))
        assert len(manager.recent_ends(7)) == 7
        assert len(manager.recent_ends(7000)) == 100
        with pytest.raises(ConfigError, match="limit"):
            manager.recent_ends(0)


async def test_the_list_answers_while_the_manager_drains(clock: Clock) -> None:
    async with SessionManager(SessionConfig(drain_timeout=5), clock=clock) as manager:
        await manager.create_session("a")
        async with anyio.create_task_group() as tasks:
            with manager.pin("a"):
                tasks.start_soon(manager.shutdown)
                await anyio.sleep(1)

                assert names(manager.sessions()) == prints("a")
                assert await manager.find(fingerprint("a")) is not None


def test_times_are_written_as_people_and_programs_read_them() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    info = SessionInfo(
        fingerprint="f" * 16,
        client=None,
        state=SessionState.ACTIVE,
        leases=0,
        created_at=at,
        last_activity=at,
        idle_for=0.5,
        age=1.0,
        message_count=2,
        limits=SessionLimits(max_idle_time=3.0, max_session_age=None),
    )

    assert SessionPage(sessions=(info,), next="x").as_dict() == {
        "sessions": [
            {
                "fingerprint": "f" * 16,
                "client": None,
                "state": "active",
                "leases": 0,
                "created_at": "2026-01-02T03:04:05+00:00",
                "last_activity": "2026-01-02T03:04:05+00:00",
                "idle_for": 0.5,
                "age": 1.0,
                "message_count": 2,
                "limits": {"max_idle_time": 3.0, "max_session_age": None},
            }
        ],
        "next": "x",
    }
