"""A client at its cap with `evict_oldest`: its own longest idle session goes, and nobody else's."""

import gc
import weakref
from functools import partial
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_sessions import (
    EndReason,
    ManagerClosed,
    RejectionReason,
    Session,
    SessionConfig,
    SessionManager,
    TooManySessions,
)
from tests.doubles import Ends, SlowHook
from tests.virtual import BACKENDS, Clock, settle

pytestmark = pytest.mark.anyio


def config(**settings: Any) -> SessionConfig:
    return SessionConfig(**{"max_sessions_per_client": 2, "per_client_at_cap": "evict_oldest", **settings})


async def create(manager: SessionManager, client: str | None, *names: str) -> list[Session]:
    """Make sessions, a second apart."""
    made = []
    for name in names:
        made.append(await manager.create_session(name, client=client))
        await anyio.sleep(1)
    return made


async def refusal(manager: SessionManager, client: str) -> TooManySessions:
    with pytest.raises(TooManySessions) as caught:
        await manager.create_session(client=client)
    return caught.value


async def test_the_longest_idle_session_of_the_client_goes(clock: Clock, ends: Ends) -> None:
    async with SessionManager(config(), clock=clock, on_close=ends) as manager:
        old, used = await create(manager, "ada", "old", "used")
        await create(manager, "bob", "older still, and not ada's")
        old.touch()
        await create(manager, "ada", "new")

        assert used.end_reason is EndReason.EVICTED
        assert ends.seen == [("used", EndReason.EVICTED)]
        assert len(manager) == 3


async def test_without_it_the_client_is_refused(clock: Clock) -> None:
    async with SessionManager(config(per_client_at_cap="refuse"), clock=clock) as manager:
        await create(manager, "ada", "one", "two")
        assert (await refusal(manager, "ada")).reason is RejectionReason.MAX_SESSIONS_PER_CLIENT


async def test_a_leased_session_is_never_evicted(clock: Clock) -> None:
    async with SessionManager(config(), clock=clock) as manager:
        leased, idle = await create(manager, "ada", "leased", "idle")
        with manager.pin(leased.id):
            await create(manager, "ada", "new")
            assert idle.end_reason is EndReason.EVICTED
            with manager.pin("new"):
                error = await refusal(manager, "ada")
        assert (error.limit, error.reason) == (2, RejectionReason.MAX_SESSIONS_PER_CLIENT)
        assert (error.retry_after, leased.end_reason) == (None, None)


async def test_what_is_due_goes_first_and_under_its_own_reason(clock: Clock) -> None:
    async with SessionManager(config(), clock=clock) as manager:
        idle, failed = await create(manager, "ada", "idle", "failed")
        failed.touch()
        failed.fail("the upstream hung up")
        await create(manager, "ada", "new")

        assert (failed.end_reason, idle.end_reason) == (EndReason.FAILED, None)


async def test_the_creator_waits_for_the_hook(clock: Clock) -> None:
    async with SessionManager(config(), clock=clock, on_close=SlowHook(3)) as manager:
        await create(manager, "ada", "one", "two")
        begun = anyio.current_time()
        await manager.create_session(client="ada")

        assert anyio.current_time() == pytest.approx(begun + 3)
        assert manager.get_metrics().cleaned_by_reason[EndReason.EVICTED] == 1


async def test_a_hook_that_hangs_keeps_the_creator_for_close_timeout_and_no_longer(clock: Clock) -> None:
    async with SessionManager(config(close_timeout=2), clock=clock, on_close=SlowHook(1000)) as manager:
        await create(manager, "ada", "one", "two")
        begun = anyio.current_time()
        await manager.create_session("new", client="ada")

        assert anyio.current_time() == pytest.approx(begun + 2, abs=0.02)
        assert "new" in manager


async def test_who_has_waited_for_close_timeout_is_refused(clock: Clock) -> None:
    settings = config(close_timeout=2, close_concurrency=1)
    async with SessionManager(settings, clock=clock, on_close=SlowHook(1.5)) as manager:
        [other] = await create(manager, None, "other")
        await create(manager, "ada", "one", "two")
        async with anyio.create_task_group() as group:
            group.start_soon(manager.close_session, other.id)
            await settle()
            begun = anyio.current_time()
            error = await refusal(manager, "ada")
            assert anyio.current_time() == pytest.approx(begun + 2, abs=0.02)
        assert error.reason is RejectionReason.MAX_SESSIONS_PER_CLIENT
        await anyio.sleep(5)
        await manager.create_session(client="ada")
        assert manager.get_metrics().waiting == 0


async def test_each_creator_has_a_place_of_its_own_first_come_first_served(clock: Clock) -> None:
    done: list[str] = []
    async with SessionManager(config(close_concurrency=1), clock=clock, on_close=SlowHook(1)) as manager:
        await create(manager, "ada", "one", "two")

        async def make(name: str) -> None:
            try:
                await manager.create_session(name, client="ada")
                done.append(name)
            except TooManySessions:
                done.append(f"{name} refused")

        async with anyio.create_task_group() as group:
            for name in ("first", "second", "third"):
                group.start_soon(make, name)
                await settle()
            assert manager.get_metrics().waiting == 2
        assert done == ["third refused", "first", "second"]
        assert {"first", "second"} == {session_id for session_id in ("one", "two", *done) if session_id in manager}


async def test_a_session_that_is_closing_anyway_makes_room_and_spares_the_others(clock: Clock) -> None:
    async with SessionManager(config(), clock=clock, on_close=SlowHook(1)) as manager:
        closing, kept = await create(manager, "ada", "closing", "kept")
        async with anyio.create_task_group() as group:
            group.start_soon(manager.close_session, closing.id)
            await settle()
            await manager.create_session("new", client="ada")
        assert kept.end_reason is None
        assert manager.get_metrics().cleaned_by_reason[EndReason.EVICTED] == 0


async def test_the_place_goes_to_the_client_although_others_wait_at_the_whole_cap(clock: Clock) -> None:
    settings = config(max_sessions=3, emergency_idle_time=None, emergency_session_age=None)
    async with SessionManager(settings, clock=clock, on_close=SlowHook(2)) as manager:
        [other] = await create(manager, None, "other")
        await create(manager, "ada", "one", "two")
        async with anyio.create_task_group() as group:
            group.start_soon(manager.close_session, other.id)
            await settle()
            group.start_soon(manager.create_session, "stranger")
            await settle()
            await manager.create_session("new", client="ada")
        assert "stranger" in manager
        assert "one" not in manager
        assert len(manager) == 3


async def test_strangers_do_not_count_on_a_place_that_is_meant_for_a_client(clock: Clock) -> None:
    settings = config(max_sessions=3, emergency_idle_time=None, emergency_session_age=None)
    async with SessionManager(settings, clock=clock, on_close=SlowHook(2)) as manager:
        await create(manager, None, "other")
        await create(manager, "ada", "one", "two")
        async with anyio.create_task_group() as group:
            group.start_soon(partial(manager.create_session, "new", client="ada"))
            await settle()
            begun = anyio.current_time()
            with pytest.raises(TooManySessions) as caught:
                await manager.create_session("stranger")
            assert anyio.current_time() == begun
        assert caught.value.reason is RejectionReason.MAX_SESSIONS
        assert "new" in manager


async def test_a_hook_that_creates_is_refused_since_it_may_wait_for_no_other(clock: Clock) -> None:
    errors: list[Exception] = []

    async def create_again(session: Session[None], reason: EndReason) -> None:
        try:
            await manager.create_session(client="ada")
        except TooManySessions as error:
            errors.append(error)

    manager = SessionManager(config(), clock=clock, on_close=create_again)
    async with manager:
        first, _ = await create(manager, "ada", "one", "two")
        await manager.close_session(first.id)
        assert len(errors) == 1


async def test_a_reservation_takes_the_longest_idles_place_too(clock: Clock) -> None:
    async with SessionManager(config(), clock=clock) as manager:
        one, two = await create(manager, "ada", "one", "two")
        async with manager.reserve(client="ada"):
            assert one.end_reason is EndReason.EVICTED
            assert manager.get_metrics().reserved == 1
        async with manager.reserve(client="ada"):
            pass
        assert two.end_reason is None


async def test_a_place_that_is_given_back_goes_to_a_creator_of_the_same_client(clock: Clock) -> None:
    async with SessionManager(config(), clock=clock, on_close=SlowHook(3)) as manager:
        await create(manager, "ada", "one")
        begun = anyio.current_time()
        async with anyio.create_task_group() as group:
            async with manager.reserve(client="ada"):
                group.start_soon(partial(manager.create_session, "new", client="ada"))
                await settle()
                assert "new" not in manager
            await settle()
        assert anyio.current_time() == pytest.approx(begun, abs=0.5)


async def test_a_commit_for_a_client_at_its_cap_evicts_nobody(clock: Clock) -> None:
    async with SessionManager(config(), clock=clock) as manager:
        one, two = await create(manager, "ada", "one", "two")
        async with manager.reserve() as place:
            with pytest.raises(TooManySessions):
                place.commit(client="ada")
        assert (one.end_reason, two.end_reason) == (None, None)


async def test_a_creator_that_is_cancelled_leaves_nothing_behind(clock: Clock) -> None:
    async with SessionManager(config(), clock=clock, on_close=SlowHook(3)) as manager:
        await create(manager, "ada", "one", "two")
        with anyio.move_on_after(1):
            await manager.create_session(client="ada")
        stats = manager.get_metrics()
        assert (stats.waiting, stats.reserved) == (0, 0)
        await anyio.sleep(3)
        await create(manager, "ada", "new")
        assert "two" in manager


async def test_who_waits_is_told_when_the_manager_shuts_down(clock: Clock) -> None:
    errors: list[Exception] = []
    async with SessionManager(config(), clock=clock, on_close=SlowHook(3)) as manager:
        await create(manager, "ada", "one", "two")

        async def make() -> None:
            try:
                await manager.create_session(client="ada")
            except ManagerClosed as error:
                errors.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(make)
            await settle()
            group.start_soon(manager.shutdown)
    assert len(errors) == 1
    stats = manager.get_metrics()
    assert (stats.waiting, stats.rejected[RejectionReason.SHUTDOWN]) == (0, 1)


async def test_a_client_who_has_nothing_is_forgotten(clock: Clock) -> None:
    class Name(str):
        __slots__ = ("__weakref__",)

    async with SessionManager(config(max_sessions_per_client=1), clock=clock, on_close=SlowHook(1)) as manager:
        names = [Name(f"client {number}") for number in range(20)]
        for name in names:
            await manager.create_session(client=name)
            session = await manager.create_session(client=name)
            await manager.close_session(session.id)
        seen = [weakref.ref(name) for name in names]
        del names, name, session
        gc.collect()
        assert not any(ref() for ref in seen)


@settings(max_examples=50)
@given(clients=st.lists(st.sampled_from("abc"), min_size=1, max_size=30))
def test_a_client_keeps_its_latest_sessions_whatever_others_do(clients: list[str]) -> None:
    async def main() -> None:
        clock = Clock()
        clock.follow_running_loop()
        async with SessionManager(config(max_sessions=None), clock=clock) as manager:
            for number, client in enumerate(clients):
                await create(manager, client, str(number))
            for client in set(clients):
                own = [str(number) for number, one in enumerate(clients) if one == client]
                assert [name for name in own if name in manager] == own[-2:]

    anyio.run(main, backend="asyncio", backend_options=BACKENDS["asyncio"]())
