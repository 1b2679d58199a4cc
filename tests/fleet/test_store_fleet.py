"""Processes that share one cap and one set of books, in virtual time on a real store."""

import anyio
import pytest

from tests.fleet.host import hosting
from tests.fleet.processes import LEASE, Orphans, Wire, balance, books, new_fleet
from tests.fleet.valkey import Server

pytestmark = pytest.mark.anyio


async def test_a_session_is_in_the_store_when_it_is_registered(server: Server) -> None:
    async with hosting(new_fleet(Wire(server))) as host:
        session = await host.open()
        assert session is not None
        assert host.visible == 1
        assert books(server)["active"] == 1
        host.close(session.id)
        await anyio.sleep(1)
        assert books(server) == {"created": 1, "closed": 1, "active": 0}


async def test_who_leaves_leaves_nothing(server: Server) -> None:
    async with hosting(new_fleet(Wire(server))) as host:
        await host.open()
        await host.leave()
    assert books(server) == {"created": 1, "shutdown": 1, "active": 0}


async def test_sum_of_sessions_stays_within_cap(server: Server) -> None:
    async with hosting(new_fleet(Wire(server))) as one, hosting(new_fleet(Wire(server))) as other:
        for _ in range(100):
            for host in (one, other):
                await host.open()
                assert one.taken + other.taken <= 8
            await anyio.sleep(0.3)
        assert one.taken + other.taken == 8
        assert balance(server)


async def test_dead_process_is_cleaned(server: Server) -> None:
    orphans = Orphans()
    async with hosting(new_fleet(Wire(server), on_orphan=orphans)) as survivor:
        async with hosting(new_fleet(Wire(server), describe=lambda session: session.id.encode())) as dead:
            session = await dead.open()
        await anyio.sleep(3 * LEASE)
        assert [orphan.blob for orphan in orphans.seen] == [session.id.encode()]
        assert 10 < orphans.seen[0].age < 30
        assert books(server) == {"created": 1, "orphaned": 1, "active": 0}
        state = survivor.fleet.state()
        assert state.totals is not None


@pytest.mark.parametrize("outage", ["open", "closed"])
async def test_cut_off(server: Server, outage: str) -> None:
    wire = Wire(server)
    async with hosting(new_fleet(wire, outage=outage)) as host:
        await host.open()
        wire.is_cut = True
        await anyio.sleep(2 * LEASE)
        assert host.visible == (1 if outage == "open" else 0)
        wire.is_cut = False
        await anyio.sleep(LEASE)
        assert host.visible == 1
        assert host.ended == []
