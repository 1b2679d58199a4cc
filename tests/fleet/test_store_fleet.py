"""Processes that share one cap and one set of books, in virtual time on a real store."""

from typing import Any

import anyio
import pytest

from otel_sessions import (
    ConfigError,
    EndReason,
    RejectionReason,
    SessionExists,
    TooManySessions,
)
from otel_sessions._core.words import StoreOperation, StoreOutcome
from tests.fleet.processes import LEASE, Process, Wire, balance, books, create, new_fleet, new_process, process
from tests.fleet.valkey import Server
from tests.virtual import settle

pytestmark = pytest.mark.anyio


async def test_a_session_is_in_the_store_before_its_creator_has_it(server: Server) -> None:
    async with process(server) as one:
        [session] = await create(one, 1)

        assert one.visible(session) == 1
        assert books(server)["active"] == 1


async def test_an_end_is_counted_under_its_reason(server: Server) -> None:
    async with process(server) as one:
        [session] = await create(one, 1)
        await one.manager.close_session(session.id)
        await settle()

        assert books(server) == {"created": 1, "closed": 1, "active": 0}


async def test_who_leaves_leaves_nothing_and_frees_its_places_at_once(server: Server) -> None:
    async with process(server) as one:
        async with process(server) as other:
            await create(other, 1)
        assert books(server) == {"created": 1, "shutdown": 1, "active": 0}
        await anyio.sleep(2 * LEASE)

        state = one.fleet.state()
        assert state.totals is not None
        assert (state.dead, state.totals.granted) == (0, one.fleet.grant)


async def test_sessions_that_are_made_at_once_travel_together(server: Server) -> None:
    async with process(server, cap=1000) as one:
        before = one.wire.calls["put"]
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(one.manager.create_session)

        assert one.wire.calls["put"] - before == 2  # one for each shard


async def test_the_sessions_of_all_processes_never_pass_the_cap(server: Server) -> None:
    refused = 0
    async with process(server, cap=8) as one, process(server, cap=8) as other:
        for _ in range(60):
            for each in (one, other):
                try:
                    await each.manager.create_session()
                except TooManySessions as error:
                    refused += 1
                    assert error.reason is RejectionReason.FLEET
                    assert error.retry_after is not None
                    assert error.retry_after <= LEASE / 3
                assert len(one.manager) + len(other.manager) <= 8
            await anyio.sleep(0.4)

        assert len(one.manager) + len(other.manager) == 8
        assert refused == 112
        assert balance(server)


async def test_a_process_that_refused_somebody_gets_the_places_that_others_do_not_use(server: Server) -> None:
    async with process(server, cap=8) as idle, process(server, cap=8) as busy:
        await anyio.sleep(2 * LEASE)
        for _ in range(20):
            while busy.fleet.has_room(len(busy.manager)):
                await create(busy, 1)
            with pytest.raises(TooManySessions):
                await create(busy, 1)
            await anyio.sleep(1)
            if len(busy.manager) == 8:
                break

        assert (len(idle.manager), len(busy.manager)) == (0, 8)


async def test_reservations_stand_on_the_grant_while_it_shrinks(server: Server) -> None:
    async with process(server, cap=4) as one, process(server, cap=4) as other:
        await anyio.sleep(2 * LEASE)
        reserved = one.fleet.grant
        async with anyio.create_task_group() as tasks:
            for _ in range(reserved):
                tasks.start_soon(_reserve_for_a_while, one)
            for _ in range(40):
                await anyio.sleep(1)
                if other.fleet.has_room(len(other.manager)):
                    await create(other, 1)
            assert len(other.manager) == 4 - reserved


async def _reserve_for_a_while(one: Process) -> None:
    async with one.manager.reserve() as place:
        await anyio.sleep(41)
        await place.commit(data=None).registered()


async def test_an_id_that_another_process_has_is_refused(server: Server) -> None:
    async with process(server) as one, process(server) as other:
        await one.manager.create_session("upstream-1")
        with pytest.raises(SessionExists):
            await other.manager.create_session("upstream-1")
        await anyio.sleep(LEASE)

        assert one.visible(*[session for session in [one.manager.get("upstream-1")] if session]) == 1
        assert other.ends.seen == [("upstream-1", EndReason.FENCED)]
        assert books(server) == {"created": 1, "active": 1}


async def test_an_id_that_another_process_has_ends_here_even_if_nobody_waits(server: Server) -> None:
    async with process(server) as one, process(server) as other:
        await one.manager.create_session("upstream-1")
        async with other.manager.reserve() as place:
            place.commit("upstream-1", data=None)
        await anyio.sleep(1)

        assert other.ends.seen == [("upstream-1", EndReason.FENCED)]


async def test_an_id_can_be_used_again_after_its_end(server: Server) -> None:
    async with process(server) as one, process(server) as other:
        for each in (one, other, one):
            session = await each.manager.create_session("upstream-1")
            await each.manager.close_session(session.id)
            await settle()

        assert books(server) == {"created": 3, "closed": 3, "active": 0}


async def test_a_second_run_is_another_process(server: Server) -> None:
    one = new_process(server)
    names = []
    for _ in range(2):
        async with one.manager:
            names.append(one.fleet.name)
            assert (await create(one, 1))[0].id.startswith(f"{one.fleet.name}.")
            assert one.fleet.state().living == 1

    assert len(set(names)) == 2
    assert (one.fleet.grant, one.fleet.has_room(0)) == (0, False)
    assert books(server) == {"created": 2, "shutdown": 2, "active": 0}


async def test_a_forked_process_begins_without_a_run(server: Server) -> None:
    async with process(server) as one:
        [session] = await create(one, 1)
        name = one.fleet.name
        one.fleet.start_anew_after_fork()

        assert one.fleet.name != name
        assert not one.fleet.is_visible(session)
        assert one.fleet.grant == 0
        assert one.fleet.state().lease == 0


async def test_a_process_that_does_not_fit_cannot_begin(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async with process(server):
        with pytest.raises(ConfigError, match="the fleet's shards is 2"):
            async with process(server, shards=4):
                pass

    assert "this process cannot join: the fleet's shards is 2" in caplog.text


async def test_a_store_that_cannot_be_used_ends_the_entry(server: Server) -> None:
    one = new_process(server)
    one.wire.is_cut = True
    one.wire.refusal = ConfigError("the server evicts keys")
    with pytest.raises(ConfigError, match="the server evicts keys"):
        async with one.manager:
            pass


async def test_a_process_that_stops_fitting_makes_no_session_until_it_fits_again(server: Server) -> None:
    async with process(server) as one:
        server.send("FLUSHALL")
        server.send("HSET", "{f}:g", "shards", 4, "format", 1)
        await anyio.sleep(2 * LEASE)
        with pytest.raises(TooManySessions):
            await create(one, 1)
        server.send("FLUSHALL")
        await anyio.sleep(2 * LEASE)

        await create(one, 1)


@pytest.mark.parametrize(
    ("describe", "blobs"),
    [
        (lambda session: session.id.encode(), {"upstream-1", "upstream-2"}),
        (lambda _: b"x" * 513, {""}),
        (lambda _: "text", {""}),
        (lambda _: 1 / 0, {""}),
    ],
    ids=["fits", "too long", "no bytes", "raises"],
)
async def test_what_describe_returns_is_kept_in_the_store(
    server: Server, describe: object, blobs: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with process(server, describe=describe) as one:
        await one.manager.create_session("upstream-1")
        await one.manager.create_session("upstream-2")
        records = [text for shard in range(2) for text in server.all().get(f"{{f.{shard}}}:s", [])[1::2]]

    assert {record.split(" ", 4)[4] for record in records} == blobs
    assert caplog.text.count("is registered with an empty blob") == (1 if blobs == {""} else 0)


async def test_each_call_to_the_store_is_measured(server: Server) -> None:
    called: list[tuple[StoreOperation, StoreOutcome, float]] = []
    async with process(server) as one:
        one.fleet.measure(lambda *about: called.append(about))
        await create(one, 1)
        one.wire.is_silent = True
        await anyio.sleep(12)

    assert (StoreOperation.PUT, StoreOutcome.ANSWERED, 0.0) in called
    assert (StoreOperation.BEAT, StoreOutcome.UNAVAILABLE, LEASE / 3) in called


async def test_the_state_tells_of_this_process_and_of_the_whole_fleet(server: Server) -> None:
    async with process(server, cap=8) as one, process(server, cap=8) as other:
        sessions = await create(one, 2) + await create(other, 1)
        await one.manager.close_session(sessions[0].id)
        await anyio.sleep(2 * LEASE)
        state = one.fleet.state()

        assert (state.living, state.dead, state.dead_for, state.lease) == (2, 0, 0.0, LEASE)
        assert 8 < state.remaining <= 13.5
        assert state.totals is not None
        assert (state.totals.created, state.totals.ended, state.totals.active) == (3, {"closed": 1}, 2)
        assert (state.totals.limit, state.totals.granted) == (8, one.fleet.grant + other.fleet.grant)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a b"},
        {"address": "10.0.0.1"},
        {"lease": 0.0},
        {"outage": "half"},
        {"max_sessions": 0},
        {"start_share": -1},
        {"shards": True},
        {"allow_peers": ["10.0.0.1/8"]},
    ],
    ids=str,
)
def test_a_setting_that_is_wrong_is_refused(server: Server, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        new_fleet(Wire(server), **wrong)
