"""A machine that was suspended: its clock has run on, and it has done nothing meanwhile."""

import anyio
import pytest

from otel_sessions import EndReason, SessionConfig, SessionNotFound, TooManySessions
from otel_sessions.fleet.scripts import LEAVE, MEMBERS
from tests.fleet.processes import KEYS, LEASE, Orphans, Process, balance, books, create, process, store_time
from tests.fleet.valkey import Server
from tests.waiting import until_happened

pytestmark = pytest.mark.anyio


def reasons(process: Process) -> list[EndReason]:
    return [reason for _, reason in process.ends.seen]


@pytest.mark.parametrize("outage", ["open", "closed"])
async def test_after_a_suspension_nothing_is_served_or_made_until_the_store_has_answered(
    server: Server, outage: str
) -> None:
    async with process(server, outage=outage) as one:
        [session, other] = await create(one, 2)
        one.clock.skew += LEASE

        assert one.visible(session, other) == 0
        with pytest.raises(TooManySessions):
            await one.manager.create_session()
        with pytest.raises(SessionNotFound):
            await one.manager.lease(session.id).__aenter__()
        await until_happened(lambda: one.visible(session, other) == 2)
        await create(one, 1)
        assert balance(server)
    assert reasons(one) == [EndReason.SHUTDOWN] * 3


async def test_a_suspension_within_the_lease_hides_nothing(server: Server) -> None:
    async with process(server) as one:
        [session] = await create(one, 1)
        one.clock.skew += LEASE / 2

        assert one.visible(session) == 1
        await create(one, 1)


async def test_a_suspended_process_serves_nothing_after_others_have_claimed_it(server: Server) -> None:
    hook = Orphans()
    async with process(server, outage="closed") as one, process(server, on_orphan=hook) as other:
        sessions = await create(one, 2)
        one.wire.is_silent = True  # a suspended machine sends nothing
        one.clock.skew += 2 * LEASE
        members = server.run(MEMBERS, KEYS.fleet, (), store_time())
        epochs = {members[at]: int(members[at + 2]) for at in range(2, len(members), 3)}
        server.run(LEAVE, KEYS.fleet, (epochs[one.fleet.name.encode()],), store_time())
        await until_happened(lambda: len(hook.seen) == 2)
        assert one.visible(*sessions) == 0

        one.wire.is_silent = False
        await until_happened(lambda: len(one.ends.seen) == 2)
        assert reasons(one) == [EndReason.FENCED] * 2
        await until_happened(lambda: books(server)["orphaned"] == 2 and books(server)["active"] == 0)
        await anyio.sleep(LEASE)
        assert (one.fleet.grant > 0, other.visible()) == (True, 0)
    assert balance(server)
    assert [orphan.token for orphan in hook.seen] == [2, 2]


async def test_what_is_due_after_a_suspension_ends_as_due_and_is_counted_so(server: Server) -> None:
    config = SessionConfig(max_idle_time=60, cleanup_interval=10)
    async with process(server, config=config) as one:
        await create(one, 2)
        one.clock.skew += 3600
        await until_happened(lambda: books(server)["idle_timeout"] == 2)
        assert len(one.manager) == 0
    assert balance(server)
