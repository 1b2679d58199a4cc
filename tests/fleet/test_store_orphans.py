"""Sessions of a process that has died, and the hook that ends what they leave behind."""

import anyio
import pytest

from otel_sessions import SessionConfig
from otel_sessions._core.words import OrphanOutcome
from otel_sessions.fleet import Orphan
from tests.fleet.processes import KEYS, LEASE, Orphans, balance, books, create, process
from tests.fleet.valkey import Server
from tests.waiting import until_happened

pytestmark = pytest.mark.anyio


async def test_a_survivor_ends_what_a_dead_process_has_left(server: Server) -> None:
    orphans = Orphans()
    async with process(server, on_orphan=orphans) as survivor:
        async with process(server, describe=lambda session: session.id.encode()) as dead:
            sessions = await create(dead, 3)
            dead.wire.is_cut = True
        await anyio.sleep(3 * LEASE)

        assert {orphan.blob.decode() for orphan in orphans.seen} == {session.id for session in sessions}
        assert {orphan.token for orphan in orphans.seen} == {2}
        assert all(LEASE <= orphan.age <= 2 * LEASE for orphan in orphans.seen)
        assert books(server) == {"created": 3, "orphaned": 3, "active": 0}
        assert survivor.fleet.state().orphans == {OrphanOutcome.CLEANED: 3}
        assert survivor.fleet.state().dead == 0


async def test_without_a_hook_orphans_are_counted_all_the_same(server: Server) -> None:
    async with process(server):
        async with process(server) as dead:
            await create(dead, 3)
            dead.wire.is_cut = True
        await anyio.sleep(3 * LEASE)

    assert books(server) == {"created": 3, "orphaned": 3, "active": 0}


async def test_a_death_is_seen_until_all_is_cleaned(server: Server) -> None:
    async def slow(_: Orphan) -> None:
        await anyio.sleep(4)

    config = SessionConfig(max_sessions=100, max_idle_time=None, max_session_age=None, close_concurrency=1)
    async with process(server, config=config, on_orphan=Orphans(slow)) as survivor:
        async with process(server) as dead:
            await create(dead, 6)
            dead.wire.is_cut = True
        await anyio.sleep(LEASE + 15)
        state = survivor.fleet.state()
        assert state.dead == 1
        assert state.dead_for > 0
        await anyio.sleep(LEASE + 15)

        assert survivor.fleet.state().dead_for == 0


async def _raise(_: Orphan) -> None:
    raise ConnectionError("the upstream is gone")


async def _hang(_: Orphan) -> None:
    await anyio.sleep_forever()


async def _swallow(_: Orphan) -> None:
    with anyio.CancelScope(shield=True):
        try:
            await anyio.sleep(12)
        except anyio.get_cancelled_exc_class():
            await anyio.sleep(12)


@pytest.mark.parametrize("hook", [_raise, _hang, _swallow], ids=["raises", "hangs", "ignores its cancellation"])
async def test_an_orphan_whose_hook_fails_is_settled_all_the_same(
    server: Server, hook: object, caplog: pytest.LogCaptureFixture
) -> None:
    orphans = Orphans(hook)  # type: ignore[arg-type]
    async with process(server, on_orphan=orphans) as survivor:
        async with process(server) as dead:
            await create(dead, 2)
            dead.wire.is_cut = True
        await anyio.sleep(4 * LEASE)

        assert len(orphans.seen) == 2
        assert books(server) == {"created": 2, "orphaned": 2, "active": 0}
        assert survivor.fleet.state().orphans == {OrphanOutcome.FAILED: 2}
    assert caplog.text.count("the hook of an orphan") == 2


async def test_hooks_run_side_by_side_up_to_the_manager_s_limit(server: Server) -> None:
    running = most = 0

    async def busy(_: Orphan) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(1)
        running -= 1

    config = SessionConfig(max_sessions=100, max_idle_time=None, max_session_age=None, close_concurrency=3)
    async with process(server, cap=80, config=config, on_orphan=busy):
        async with process(server, cap=80) as dead:
            await create(dead, 10)
            dead.wire.is_cut = True
        await anyio.sleep(4 * LEASE)

    assert most == 3
    assert books(server) == {"created": 10, "orphaned": 10, "active": 0}


async def test_a_survivor_that_dies_amid_its_hooks_leaves_them_to_the_next(server: Server) -> None:
    async def slow(_: Orphan) -> None:
        await anyio.sleep(4)

    first, second = Orphans(slow), Orphans()
    async with process(server, on_orphan=second) as other:
        async with process(server, on_orphan=first) as survivor, process(server) as dead:
            await create(dead, 2)
            other.wire.is_cut = dead.wire.is_cut = True
            await until_happened(lambda: bool(first.seen))
            survivor.wire.is_cut = True
            other.wire.is_cut = False
        await anyio.sleep(5 * LEASE)

        assert first.seen
        assert {orphan.ref for orphan in second.seen} >= {orphan.ref for orphan in first.seen}
        assert max(orphan.token for orphan in second.seen) == 3
        assert books(server) == {"created": 2, "orphaned": 2, "active": 0}


async def test_an_orphan_that_was_settled_too_late_is_counted_as_another_s(server: Server) -> None:
    async def slow(_: Orphan) -> None:
        await anyio.sleep(4)

    orphans = Orphans(slow)
    async with process(server) as other, process(server, on_orphan=orphans) as survivor:
        async with process(server) as dead:
            await create(dead, 1)
            other.wire.is_cut = dead.wire.is_cut = True
            await until_happened(lambda: bool(orphans.seen))
            survivor.wire.broken = "settle"
            other.wire.is_cut = False
            await anyio.sleep(4 * LEASE)
            survivor.wire.broken = ""
            await anyio.sleep(LEASE)

        assert survivor.fleet.state().orphans == {OrphanOutcome.TAKEN: 1}
        assert balance(server)


async def test_an_orphan_whose_epoch_is_buried_is_counted_as_another_s(server: Server) -> None:
    buried = anyio.Event()

    async def wait(_: Orphan) -> None:
        await buried.wait()

    orphans = Orphans(wait)
    config = SessionConfig(max_sessions=100, max_idle_time=None, max_session_age=None, close_timeout=100)
    async with process(server) as other, process(server, config=config, on_orphan=orphans) as survivor:
        async with process(server) as dead:
            await create(dead, 1)
            other.wire.is_cut = dead.wire.is_cut = True
            await until_happened(lambda: bool(orphans.seen))
            other.wire.is_cut = False
            await anyio.sleep(1)
            for shard in range(2):  # as if another claimer had been quicker
                server.send("DEL", KEYS.claimed(shard, orphans.seen[0].owner), *KEYS.shard(shard))
            await anyio.sleep(2 * LEASE)
            buried.set()
            await anyio.sleep(1)

        assert survivor.fleet.state().orphans == {OrphanOutcome.TAKEN: 1}
