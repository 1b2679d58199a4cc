"""Which process has a session: by the hint, by what is remembered, or by a question to the store."""

import anyio
import pytest

from otel_sessions import Here, Peer, PeerUnavailable, StoreUnavailable
from otel_sessions._core.ids import hinted
from otel_sessions._core.words import LookupOutcome
from otel_sessions.fleet.members import Members
from tests.fleet.processes import KEYS, LEASE, SECRET, Process, create, new_process, process
from tests.fleet.valkey import Server
from tests.waiting import until_happened

pytestmark = pytest.mark.anyio

ADDRESS = "http://10.0.0.1:9001"


def peer(of: Process) -> Peer:
    return Peer(name=of.fleet.name, address=ADDRESS)


async def test_an_id_that_was_made_by_a_peer_leads_to_it_without_a_trip(server: Server) -> None:
    async with process(server) as one, process(server) as other:
        [session] = await create(one, 1)
        await anyio.sleep(LEASE)
        other.wire.is_cut = True
        await anyio.sleep(LEASE)

        assert await other.manager.locate(session.id) == peer(one)
        assert await one.manager.locate(session.id) == Here()
        assert other.wire.calls["look"] == 0
        assert other.fleet.state().lookups == {LookupOutcome.HINT: 1}


async def test_a_hint_that_names_a_process_which_has_just_joined_leads_to_it(server: Server) -> None:
    async with process(server) as one:
        await anyio.sleep(LEASE)
        async with process(server) as other:
            await other.manager.create_session("upstream-1")
            seen_by_client = hinted(other.fleet.name, "upstream-1")

            assert await one.manager.locate(seen_by_client) == peer(other)
            assert one.fleet.state().lookups == {LookupOutcome.NONE: 1, LookupOutcome.HINT: 1}
            assert await one.manager.locate(seen_by_client) == peer(other)
            assert one.wire.calls["look"] == 1


async def test_many_unknown_hints_at_once_ask_for_the_members_once_or_twice(server: Server) -> None:
    async with process(server) as one:
        await anyio.sleep(LEASE)
        before = one.wire.calls["members"]
        found: list[object] = []

        async def locate(number: int) -> None:
            found.append(await one.manager.locate(f"w{number}.gone"))

        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(locate, number)

        assert found == [None] * 50
        assert 1 <= one.wire.calls["members"] - before <= 2


async def test_an_unknown_hint_leads_nowhere_for_sure_only_while_the_store_answers(server: Server) -> None:
    async with process(server) as one:
        one.wire.broken = "members"
        with pytest.raises(PeerUnavailable):
            await one.manager.locate("unknown.id")


async def test_an_id_without_a_hint_is_looked_for_and_the_answer_remembered_for_a_beat(server: Server) -> None:
    async with process(server) as one, process(server) as other:
        await one.manager.create_session("upstream-1")
        for _ in range(3):
            assert await other.manager.locate("upstream-1") == peer(one)
        assert other.wire.calls["look"] == 1
        await anyio.sleep(LEASE / 3)
        assert await other.manager.locate("upstream-1") == peer(one)

        assert other.wire.calls["look"] == 2
        assert other.fleet.state().lookups == {LookupOutcome.FOUND: 2, LookupOutcome.CACHE: 2}


@pytest.mark.parametrize("session_id", ["unknown", "unknown.id", "a b.c"])
async def test_an_unknown_id_leads_nowhere_and_is_not_remembered(server: Server, session_id: str) -> None:
    async with process(server) as one:
        for _ in range(2):
            assert await one.manager.locate(session_id) is None

        assert one.fleet.state().lookups == {LookupOutcome.NONE: 2}


async def test_an_id_with_the_hint_of_this_process_is_not_looked_for(server: Server) -> None:
    async with process(server) as one:
        assert await one.manager.locate(f"{one.fleet.name}.gone") is None
        assert await one.fleet.locate_again(f"{one.fleet.name}.gone", peer(one)) is None

        assert one.wire.calls["look"] == 0


async def test_an_id_with_a_dot_of_its_own_is_found(server: Server) -> None:
    async with process(server) as one, process(server) as other:
        await one.manager.create_session("up.stream")

        assert await other.manager.locate("up.stream") == peer(one)


async def test_the_session_of_a_process_that_is_gone_leads_nowhere(server: Server) -> None:
    async with process(server) as other:
        async with process(server) as one:
            await one.manager.create_session("upstream-1")
            await one.manager.create_session("upstream-2")
            assert await other.manager.locate("upstream-1") == peer(one)
            one.wire.is_cut = True
        await anyio.sleep(LEASE)
        await until_happened(lambda: other.fleet.state().living == 1)

        assert await other.manager.locate("upstream-2") is None


async def test_a_fresh_look_never_leads_to_the_wrong_process_again(server: Server) -> None:
    async with process(server) as one, process(server) as other, process(server) as third:
        session = await one.manager.create_session("upstream-1")
        assert await third.manager.locate("upstream-1") == peer(one)
        assert await third.fleet.locate_again("upstream-1", peer(one)) is None
        await one.manager.close_session(session.id)
        await other.manager.create_session("upstream-1")

        assert await third.fleet.locate_again("upstream-1", peer(one)) == peer(other)


@pytest.mark.parametrize("session_id", ["upstream-1", "unknown.id"])
async def test_while_the_store_is_away_nobody_can_say_where_a_session_is(server: Server, session_id: str) -> None:
    async with process(server) as one:
        one.wire.is_cut = True
        with pytest.raises(PeerUnavailable):
            await one.manager.locate(session_id)
        calls = one.wire.calls["look"]
        with pytest.raises(PeerUnavailable):
            await one.manager.locate(session_id)

        assert one.wire.calls["look"] == calls == 1
        assert one.fleet.state().lookups == {LookupOutcome.REFUSED: 2}


async def test_an_owner_that_the_table_of_members_lacks_cannot_be_named_without_it(server: Server) -> None:
    async with process(server) as one:
        one.wire.cut_keys = "{f}:"
        await anyio.sleep(LEASE)
        async with process(server) as other:
            await other.manager.create_session("upstream-1")
            with pytest.raises(PeerUnavailable):
                await one.manager.locate("upstream-1")


async def test_outside_a_run_the_members_cannot_be_read() -> None:
    with pytest.raises(StoreUnavailable):
        await Members(None).read()


async def test_at_most_64_questions_are_under_way(server: Server) -> None:
    refused = 0

    async def locate(number: int) -> None:
        nonlocal refused
        try:
            await one.manager.locate(f"unknown-{number}")
        except PeerUnavailable:
            refused += 1

    async with process(server) as one:
        async with anyio.create_task_group() as tasks:
            for number in range(70):
                tasks.start_soon(locate, number)

        assert refused == 6
        assert one.wire.calls["look"] == 64
        assert await one.manager.locate("unknown") is None


async def test_a_bounded_number_of_answers_is_remembered(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otel_sessions.fleet.lookups._MOST_REMEMBERED", 2)
    async with process(server) as one, process(server) as other:
        for number in range(3):
            await one.manager.create_session(f"upstream-{number}")
            await other.manager.locate(f"upstream-{number}")
        await other.manager.locate("upstream-2")
        assert other.wire.calls["look"] == 3
        await other.manager.locate("upstream-0")

        assert other.wire.calls["look"] == 4


async def test_while_a_secret_is_replaced_sessions_are_found_under_both(server: Server) -> None:
    new = b"fedcba9876543210"
    async with process(server) as one, process(server, secret=[new, SECRET]) as other:
        await one.manager.create_session("upstream-1")
        await other.manager.create_session("upstream-2")

        assert await other.manager.locate("upstream-1") == peer(one)
        assert await one.manager.locate("upstream-2") is None


@pytest.mark.parametrize(
    ("address", "networks", "is_used"),
    [
        ("http://10.0.0.1:9001", ["10.0.0.0/8"], True),
        ("http://10.0.0.1:9001", ["192.168.0.0/16", "::/0"], False),
        ("http://gateway:9001", ["10.0.0.0/8"], False),
        ("unix:/run/gateway.sock", ["10.0.0.0/8"], False),
        ("unix:/run/gateway.sock", None, True),
    ],
)
async def test_only_addresses_in_allowed_networks_are_used(
    server: Server, address: str, networks: list[str] | None, is_used: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with process(server, address=address) as one, process(server, allow_peers=networks) as other:
        await one.manager.create_session("upstream-1")
        await anyio.sleep(LEASE)
        found = await other.manager.locate("upstream-1")

        assert found == (Peer(name=one.fleet.name, address=address) if is_used else None)
    assert caplog.text.count("which is not allowed") == (0 if is_used else 1)


async def test_what_a_stranger_writes_into_the_table_of_members_is_not_used(server: Server) -> None:
    async with process(server) as one:
        for epoch, name, address in ((7, "evil name", ADDRESS), (8, "evil", "http://u:p@10.0.0.1")):
            server.send("HSET", KEYS.fleet[0], f"e:{epoch}", name, f"p:{name}", f"{address} {epoch} 1 0 0 {epoch}")
            server.send("ZADD", KEYS.fleet[1], 2**50, epoch)
        server.send("HINCRBY", KEYS.fleet[3], "version", 1)
        await anyio.sleep(LEASE)

        assert await one.manager.locate("evil.id") is None


async def test_outside_a_run_nothing_is_found(server: Server) -> None:
    one = new_process(server)

    assert await one.fleet.locate("upstream-1") is None
    assert await one.fleet.locate_again("upstream-1", peer(one)) is None


async def test_a_table_of_members_that_cannot_be_read_is_read_at_the_next_beat(server: Server) -> None:
    async with process(server) as one:
        await anyio.sleep(1)
        one.wire.broken = "members"
        async with process(server) as other:
            [session] = await create(other, 1)
            await anyio.sleep(LEASE)
            one.wire.broken = ""
            await anyio.sleep(LEASE)

            assert await one.manager.locate(session.id) == peer(other)
            assert one.fleet.state().lookups == {LookupOutcome.HINT: 1}


@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_on_trio_nothing_is_passed_on(server: Server) -> None:
    async def receive() -> object:
        raise AssertionError

    async def send(_: object) -> None:
        raise AssertionError

    async with process(server) as one, process(server) as other:
        with pytest.raises(PeerUnavailable):
            await one.fleet.forward(peer(other), "id", {"type": "http", "headers": []}, receive, send)
        await one.fleet.wait_quiet()


async def test_the_other_processes_are_known_by_name(server: Server) -> None:
    async with process(server) as one, process(server) as other:
        await anyio.sleep(LEASE)

        assert set(await one.fleet.others()) == {other.fleet.name}
