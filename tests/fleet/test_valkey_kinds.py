"""`ValkeyFleet` over Sentinels and a Cluster, in real time: the books balance after a failover and a moved slot."""

from collections.abc import Sequence

import pytest

from otel_sessions import Peer, SessionManager
from tests.fleet.member import fleet
from tests.fleet.processes import KEYS
from tests.fleet.real import balance, books, move_slot, owner_of
from tests.fleet.servers import Program, cluster, sentinels, valkey_program
from tests.waiting import until_happened

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.processes,
    pytest.mark.usefixtures("garbage"),
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),  # coredis, where it cannot connect
]

LEASE = 4.0
"""Seconds. A third of it, the time limit of a call, is enough on a machine that is busy."""


async def begin(one: SessionManager[None], other: SessionManager[None]) -> None:
    """Each process makes sessions, finds those of the other, and ends one."""
    session, *_ = [await one.create_session() for _ in range(5)]
    found = await other.create_session()
    assert isinstance(await other.locate(session.id), Peer)
    assert isinstance(await one.locate(found.id), Peer)
    await one.close_session(session.id)


async def go_on(servers: Sequence[Program], *managers: SessionManager[None]) -> None:
    """Each process makes one more session. The store has them all, and the books balance."""
    for manager in managers:
        await manager.create_session()
    await until_happened(lambda: books(*servers)["active"] == sum(map(len, managers)))
    await until_happened(lambda: balance(*servers))


@pytest.mark.parametrize("anyio_backend", ["trio"])  # real servers need real time
async def test_the_books_balance_after_sentinels_have_named_another_primary() -> None:
    with sentinels(valkey_program()) as watched:

        def new() -> SessionManager[None]:
            return SessionManager(fleet=fleet(watched.url, sentinel="main", lease=LEASE))

        async with new() as one, new() as other:
            await begin(one, other)
            servers = (watched.replica,)
            await until_happened(lambda: books(*servers)["closed"] == 1 and books(*servers)["active"] == 5)
            watched.primary.kill()
            await until_happened(lambda: b"role:master" in watched.replica.send("INFO", "replication"))
            await go_on(servers, one, other)
            assert (len(one), len(other)) == (5, 2)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_books_balance_after_a_master_was_killed_and_a_slot_moved() -> None:
    with cluster(valkey_program(), masters=3, replicas=3) as nodes:
        urls = f"valkey://{','.join(f'127.0.0.1:{node.port}' for node in nodes)}"
        shard = KEYS.shard(0)[0]
        async with (
            SessionManager(fleet=fleet(urls, cluster=True, lease=LEASE)) as one,
            SessionManager(fleet=fleet(urls, cluster=True, lease=LEASE)) as other,
        ):
            await begin(one, other)
            source = owner_of(shard, nodes[:3])
            target = nodes[(nodes.index(source) + 1) % 3]
            move_slot(shard, source, target, nodes[:3])
            await go_on(nodes, one, other)

            replica = nodes[nodes.index(target) + 3]
            target.kill()
            await until_happened(lambda: b"role:master" in replica.send("INFO", "replication"))
            nodes.remove(target)
            await go_on(nodes, one, other)
