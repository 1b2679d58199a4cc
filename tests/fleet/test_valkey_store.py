import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
import trustme

from otel_sessions import ConfigError, StoreUnavailable
from otel_sessions.fleet.scripts import LOOK, Script
from otel_sessions.fleet.store import Keys
from otel_sessions.fleet.valkey import ValkeyStore
from tests.fleet.servers import Program, cluster, program, redis_program, sentinels, tls_by, valkey_program
from tests.proxy.certificates import trusting
from tests.waiting import PATIENCE

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.processes,
    pytest.mark.usefixtures("garbage"),
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),  # coredis, where it cannot connect
    pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"]),  # real servers need real time
]

KEYS = Keys("f", 16)
REF = "0" * 32
LONG = 60.0
"""A time limit in seconds that no call of a sound store reaches."""
SHORT = 0.3


@asynccontextmanager
async def serving(store: ValkeyStore) -> AsyncIterator[ValkeyStore]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.serve)
        yield store
        tasks.cancel_scope.cancel()


async def look(store: ValkeyStore, shard: int = 0) -> Sequence[bytes | int]:
    return await store.run(LOOK, KEYS.shard(shard), (REF,))


async def everywhere(store: ValkeyStore) -> None:
    for shard in range(16):
        await look(store, shard)


async def eventually(attempt: Callable[[], Awaitable[Sequence[bytes | int]]]) -> Sequence[bytes | int]:
    with anyio.fail_after(PATIENCE):
        while True:
            try:
                return await attempt()
            except StoreUnavailable:
                await anyio.sleep(0.05)


async def why_refused(store: ValkeyStore) -> str:
    async with serving(store):
        with pytest.raises(StoreUnavailable) as caught:
            await look(store)
    return str(caught.value)


@pytest.fixture(scope="module", params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[Program]:
    with program(valkey_program() if request.param == "valkey" else redis_program()) as running:
        yield running


@pytest.fixture
def own() -> Iterator[Program]:
    """A server that a test may stop, pause and configure."""
    with program(valkey_program()) as running:
        yield running


async def test_a_script_is_loaded_on_first_use_and_answers(server: Program) -> None:
    server.send("SCRIPT", "FLUSH")
    async with serving(ValkeyStore(server.url, time_limit=LONG)) as store:
        assert await look(store) == [b"NONE"]
        assert await look(store) == [b"NONE"]


async def test_a_unix_socket_works_as_a_port_does(server: Program) -> None:
    async with serving(ValkeyStore(f"unix://{server.path}", time_limit=LONG)) as store:
        assert await look(store) == [b"NONE"]


async def test_a_store_that_is_down_is_unavailable_at_once_and_serves_later(own: Program) -> None:
    own.kill()
    async with serving(ValkeyStore(own.url, time_limit=LONG)) as store:
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await look(store)
        own.start()
        assert await eventually(lambda: look(store)) == [b"NONE"]


async def test_a_call_without_a_task_that_serves_is_refused_in_time(own: Program) -> None:
    with pytest.raises(StoreUnavailable, match=r"within 0\.3 s"):
        await look(ValkeyStore(own.url, time_limit=SHORT))


async def test_a_server_that_stands_still_is_unavailable_in_time_and_answers_later(own: Program) -> None:
    async with serving(ValkeyStore(own.url, time_limit=SHORT)) as store:
        await eventually(lambda: look(store))
        own.pause()
        with pytest.raises(StoreUnavailable):
            await look(store)
        own.go_on()
        assert await eventually(lambda: look(store)) == [b"NONE"]


async def test_a_server_that_restarts_loads_scripts_again_and_the_loss_is_told(own: Program) -> None:
    lost: list[None] = []
    async with serving(ValkeyStore(own.url, time_limit=LONG, on_lost=lambda: lost.append(None))) as store:
        await look(store)
        assert lost == []
        own.kill()
        own.start()
        assert await eventually(lambda: look(store)) == [b"NONE"]
    assert lost


async def test_callers_that_are_cancelled_take_nothing_away(own: Program) -> None:
    async with serving(ValkeyStore(own.url, time_limit=LONG)) as store:
        await look(store)
        for _ in range(200):
            with anyio.move_on_after(0):
                await look(store)
        assert await eventually(lambda: look(store)) == [b"NONE"]


async def test_a_store_that_stands_still_takes_a_bounded_number_of_calls(own: Program) -> None:
    async with serving(ValkeyStore(own.url, time_limit=LONG)) as store, anyio.create_task_group() as callers:
        await look(store)
        own.pause()
        for _ in range(256):
            callers.start_soon(look, store)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(StoreUnavailable, match="too many calls"):
            await look(store)
        own.go_on()


async def test_a_store_can_be_served_again(own: Program) -> None:
    store = ValkeyStore(own.url, time_limit=LONG)
    for _ in range(2):
        async with serving(store):
            assert await look(store) == [b"NONE"]


async def test_a_wrong_password_is_named_but_never_shown(own: Program) -> None:
    own.send("CONFIG", "SET", "requirepass", "right")
    store = ValkeyStore(f"valkey://:wrong-one@127.0.0.1:{own.port}", time_limit=LONG)
    text = await why_refused(store)
    assert "password" in text
    assert "wrong-one" not in text + repr(store)


async def test_the_right_password_user_and_database_are_used(own: Program) -> None:
    own.send("ACL", "SETUSER", "fleet", "on", ">a:b@c", "~*", "+@all")
    async with serving(ValkeyStore(f"valkey://fleet:a%3Ab%40c@127.0.0.1:{own.port}/3", time_limit=LONG)) as store:
        await look(store)
        assert b" db=3 " in own.send("CLIENT", "LIST")


async def test_a_user_who_may_not_read_settings_can_still_serve(own: Program, caplog: pytest.LogCaptureFixture) -> None:
    own.send("ACL", "SETUSER", "fleet", "on", ">p", "~*", "+@scripting", "+@hash", "+time", "+hello")
    with caplog.at_level(logging.INFO, "otel_sessions"):
        async with serving(ValkeyStore(f"valkey://fleet:p@127.0.0.1:{own.port}", time_limit=LONG)) as store:
            assert await look(store) == [b"NONE"]
    assert [record.levelname for record in caplog.records if "not all of its settings" in record.message] == ["INFO"]


async def test_a_user_who_may_not_run_scripts_is_told_what_is_missing(own: Program) -> None:
    own.send("ACL", "SETUSER", "fleet", "on", ">p", "~*", "+info", "+hello", "+config")
    assert "EVALSHA" in await why_refused(ValkeyStore(f"valkey://fleet:p@127.0.0.1:{own.port}", time_limit=LONG))


async def test_a_server_that_evicts_is_refused_until_it_does_no_longer(own: Program) -> None:
    own.send("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    store = ValkeyStore(own.url, time_limit=LONG)
    async with serving(store):
        with pytest.raises(StoreUnavailable, match="set maxmemory-policy to noeviction"):
            await look(store)
        assert isinstance(store.refusal, ConfigError)
        own.send("CONFIG", "SET", "maxmemory-policy", "noeviction")
        assert await eventually(lambda: look(store)) == [b"NONE"]
        assert store.refusal is None


async def test_a_replica_is_named_as_what_it_is(own: Program) -> None:
    own.send("REPLICAOF", "127.0.0.1", 1)
    write = Script(name="write", source="redis.call('SET', KEYS[1], 1) return {}")
    async with serving(ValkeyStore(own.url, time_limit=LONG)) as store:
        with pytest.raises(StoreUnavailable, match="replica"):
            await store.run(write, ("k",), ())


async def test_a_full_store_is_named_as_full(own: Program) -> None:
    own.send("CONFIG", "SET", "maxmemory", 1)
    write = Script(name="write", source="redis.call('SET', KEYS[1], 1) return {}")
    async with serving(ValkeyStore(own.url, time_limit=LONG)) as store:
        with pytest.raises(StoreUnavailable, match="full"):
            await store.run(write, ("k",), ())


async def test_replicas_without_a_guard_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    with sentinels(valkey_program()) as watched, caplog.at_level(logging.INFO, "otel_sessions"):
        async with serving(ValkeyStore(watched.primary.url, time_limit=LONG)) as store:
            await look(store)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "min-replicas-to-write" in caplog.records[0].message
    assert "keeps nothing on disk" in caplog.records[1].message


async def test_sentinels_lead_to_the_new_primary() -> None:
    with sentinels(valkey_program()) as watched:
        async with serving(ValkeyStore(watched.url, sentinel="main", time_limit=5.0)) as store:
            assert await look(store) == [b"NONE"]
            watched.primary.kill()
            assert await eventually(lambda: look(store)) == [b"NONE"]


async def test_a_name_that_no_sentinel_knows_is_unavailable() -> None:
    with sentinels(valkey_program()) as watched:
        assert "Sentinel" in await why_refused(ValkeyStore(watched.url, sentinel="other", time_limit=LONG))


async def test_a_cluster_serves_all_shards_and_goes_on_after_a_master_is_killed() -> None:
    with cluster(valkey_program(), masters=3, replicas=3) as nodes:
        async with serving(ValkeyStore(nodes[1].url, cluster=True, time_limit=5.0)) as store:
            for shard in range(16):
                assert await look(store, shard) == [b"NONE"]
            nodes[0].kill()
            for shard in range(16):
                assert await eventually(lambda shard=shard: look(store, shard)) == [b"NONE"]  # type: ignore[misc]


async def test_a_node_of_a_cluster_asks_for_the_setting_cluster() -> None:
    with cluster(valkey_program(), masters=3, replicas=0) as nodes:
        async with serving(ValkeyStore(nodes[0].url, time_limit=LONG)) as store:
            with pytest.raises(StoreUnavailable, match="give cluster"):
                await everywhere(store)


async def test_tls_is_spoken_by_the_context_given(tmp_path: Path) -> None:
    authority = trustme.CA()
    with program(redis_program(), tls=tls_by(authority, tmp_path)) as server:
        async with serving(ValkeyStore(server.url, tls=trusting(authority), time_limit=LONG)) as store:
            assert await look(store) == [b"NONE"]
        assert "certificate is refused" in await why_refused(ValkeyStore(server.url, time_limit=LONG))
