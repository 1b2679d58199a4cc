"""A process and a store that does not answer, forgets, or has counted the process as dead."""

import gc

import anyio
import anyio.lowlevel
import pytest

from otel_sessions import EndReason, ManagerClosed, Session, SessionNotFound, StoreUnavailable, TooManySessions
from otel_sessions._core.words import Resync
from otel_sessions.fleet.contact import Contact
from otel_sessions.fleet.scripts import LEAVE, MEMBERS
from otel_sessions.fleet.store import Call
from tests.fleet.processes import (
    KEYS,
    LEASE,
    Process,
    Wire,
    balance,
    books,
    create,
    new_process,
    process,
    store_time,
)
from tests.fleet.valkey import Server
from tests.virtual import Clock, VirtualLoop, settle
from tests.waiting import until_happened

pytestmark = pytest.mark.anyio


async def test_open_serves_what_it_has_and_makes_sessions_within_its_grant(server: Server) -> None:
    async with process(server, cap=40) as one:
        sessions = await create(one, 1)
        one.wire.is_cut = True
        await anyio.sleep(10 * LEASE)
        grant = one.fleet.grant
        sessions += await create(one, grant - 1)
        with pytest.raises(TooManySessions):
            await create(one, 1)
        assert one.visible(*sessions) == grant > 1
        assert books(server)["active"] == 1
        one.wire.is_cut = False
        await anyio.sleep(LEASE)

        assert one.visible(*sessions) == grant
        assert books(server) == {"created": grant, "active": grant}
        assert one.ends.seen == []


async def test_closed_serves_nothing_after_its_lease_and_makes_no_session(server: Server) -> None:
    async with process(server, outage="closed") as one:
        [session] = await create(one, 1)
        one.wire.is_cut = True
        await anyio.sleep(5)
        assert one.visible(session) == 1
        with pytest.raises(StoreUnavailable):
            await create(one, 1)
        await anyio.sleep(LEASE)
        with pytest.raises(TooManySessions):
            await create(one, 1)
        assert one.visible(session) == 0
        one.wire.is_cut = False
        await anyio.sleep(LEASE)

        assert one.visible(session) == 1
        assert balance(server)


@pytest.mark.parametrize("outage", ["open", "closed"])
async def test_a_creator_waits_for_a_silent_store_no_longer_than_a_call_may_take(server: Server, outage: str) -> None:
    async with process(server, outage=outage) as one:
        one.wire.is_silent = True
        begun = anyio.current_time()
        if outage == "open":
            await create(one, 1)
        else:
            with pytest.raises(StoreUnavailable):
                await create(one, 1)
        assert anyio.current_time() - begun <= LEASE / 3
        begun = anyio.current_time()
        if outage == "open":
            await create(one, 1)
        assert anyio.current_time() == begun
        one.wire.is_silent = False
        await anyio.sleep(2 * LEASE)

        assert balance(server)
        assert books(server)["active"] == len(one.manager)


async def test_a_store_that_is_down_at_the_start_leaves_a_share(server: Server) -> None:
    one = new_process(server, start_share=2)
    one.wire.is_cut = True
    async with one.manager:
        sessions = await create(one, 2)
        with pytest.raises(TooManySessions):
            await create(one, 1)
        assert one.visible(*sessions) == 2
        one.wire.is_cut = False
        await anyio.sleep(LEASE)

        assert one.visible(*sessions) == 2
        assert books(server) == {"created": 2, "active": 2}


@pytest.mark.parametrize("outage", ["open", "closed"])
async def test_without_a_share_nothing_is_made_before_the_store_answers(server: Server, outage: str) -> None:
    one = new_process(server, outage=outage)
    one.wire.is_silent = True
    begun = anyio.current_time()
    async with one.manager:
        assert anyio.current_time() - begun <= LEASE / 3
        with pytest.raises(TooManySessions):
            await create(one, 1)
        one.wire.is_silent = False
        await anyio.sleep(LEASE)

        await create(one, 1)


async def test_a_long_outage_leaves_nothing_of_the_sessions_that_lived_in_it(server: Server) -> None:
    async with process(server) as one:
        [kept] = await create(one, 1)
        one.wire.is_cut = True
        await anyio.sleep(2)
        for _ in range(50):
            [session] = await create(one, 1)
            await one.manager.close_session(session.id)
        one.wire.is_cut = False
        await anyio.sleep(LEASE)

        assert one.visible(kept) == 1
        assert books(server)["created"] <= 3  # a call to each shard was under way
        assert balance(server)


async def test_a_process_that_stood_still_serves_nothing_until_it_knows(server: Server) -> None:
    async with process(server) as one:
        [session] = await create(one, 1)
        one.wire.is_silent = True
        one.clock.skew += LEASE
        await anyio.sleep(LEASE / 3 - 1)  # its next call is still under way
        assert one.visible(session) == 0
        one.wire.is_silent = False
        await anyio.sleep(LEASE)

        assert one.visible(session) == 1


async def test_a_call_during_which_the_process_stood_still_says_nothing_of_the_store(server: Server) -> None:
    wire, clock = Wire(server), Clock()
    contact = Contact(wire, clock, 5.0, lambda *_: None)
    wire.is_silent = True
    call = Call(script=MEMBERS, keys=KEYS.fleet, args=())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_expect_silence, contact, call)
        await settle()
        clock.skew += 30
    assert contact.is_whole

    await _expect_silence(contact, call)
    assert contact.is_silent(KEYS.fleet[0])


async def _expect_silence(contact: Contact, call: Call) -> None:
    with pytest.raises(StoreUnavailable, match="no answer in 5 s"):
        await contact.ask(call)


async def test_a_session_that_ends_while_it_waits_for_the_store_is_gone(server: Server) -> None:
    async with process(server) as one:
        one.wire.is_silent = True
        async with one.manager.reserve() as place:
            session = place.commit(data=None)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_expect_loss, one, session)
            await settle()
            one.manager._store.sessions[session.id].fail("the upstream hung up")
            await one.manager.cleanup_stale_sessions()
        one.fleet.gone(session, EndReason.FAILED)  # once more: nothing happens
        with pytest.raises(SessionNotFound):
            await one.fleet.registered(session)


async def _expect_loss(one: Process, session: Session[None]) -> None:
    with pytest.raises(SessionNotFound):
        await one.fleet.registered(session)


async def test_whoever_waits_when_the_run_ends_is_told(server: Server) -> None:
    one = new_process(server)
    async with one.manager:
        one.wire.is_silent = True
        async with one.manager.reserve() as place:
            session = place.commit(data=None)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_expect_loss, one, session)
            await settle()
            one.fleet.leave()


async def test_a_process_that_leaves_asks_for_nothing_more(server: Server) -> None:
    one = new_process(server)
    async with one.manager:
        await create(one, 1)
        one.wire.unanswered = "leave"
    beats = one.wire.calls["join"]

    assert beats == 1


async def test_an_answer_for_a_session_that_is_gone_says_nothing(server: Server) -> None:
    async with process(server) as one:
        async with one.manager.reserve() as place:
            session = place.commit("upstream-1", data=None)
        await anyio.lowlevel.checkpoint()
        session.fail("the upstream hung up")
        await one.manager.cleanup_stale_sessions()
        await anyio.sleep(1)

        assert balance(server)
        assert books(server)["active"] == 0


def test_a_loop_that_dies_leaves_its_process_to_the_others(server: Server) -> None:
    one: list[Process] = []

    async def main() -> None:
        one.append(new_process(server))
        await one[0].manager.__aenter__()
        await create(one[0], 1)

    loop = VirtualLoop()
    loop.run_until_complete(main())
    loop.close()
    with pytest.raises(ManagerClosed):
        one[0].manager.reserve()

    assert one[0].fleet.grant == 0


@pytest.mark.parametrize(("script", "seconds"), [("put", 1.0), ("beat", LEASE / 3 + 0.5)])
def test_after_a_loop_that_died_amid_a_call_the_manager_runs_again(server: Server, script: str, seconds: float) -> None:
    """Nothing of the call is left: neither a task nor a cancel scope speaks up when it is collected."""
    one: list[Process] = []

    async def die() -> None:
        one.append(new_process(server))
        await one[0].manager.__aenter__()
        await create(one[0], 1)
        one[0].wire.unanswered = script
        async with one[0].manager.reserve() as place:
            place.commit("upstream-1", data=None)
        await anyio.sleep(seconds)
        one[0].wire.unanswered = ""

    async def live() -> None:
        one[0].clock.follow_running_loop()
        async with one[0].manager:
            await create(one[0], 1)
            await until_happened(lambda: books(server)["orphaned"] > 0 and books(server)["active"] == 1)

    for story in (die, live):
        loop = VirtualLoop()
        loop.run_until_complete(story())
        loop.close()
        gc.collect()
    one.clear()
    gc.collect()

    assert balance(server)
    assert books(server)["active"] == 0


async def test_a_process_that_was_counted_as_dead_keeps_what_nobody_has_claimed(server: Server) -> None:
    async with process(server) as one:
        sessions = await create(one, 3)
        members = server.run(MEMBERS, KEYS.fleet, (), store_time())
        server.run(LEAVE, KEYS.fleet, (int(members[4]),), store_time())
        await anyio.sleep(LEASE)

        assert one.visible(*sessions) == 3
        assert one.fleet.state().fenced == 1
        assert one.ends.seen == []
        assert balance(server)


async def test_a_process_that_was_counted_as_dead_drops_what_others_have_claimed(server: Server) -> None:
    async with process(server) as one, process(server) as other:
        sessions = await create(one, 2)
        one.wire.is_cut = True
        await anyio.sleep(3 * LEASE)
        assert one.visible(*sessions) == 2
        one.wire.is_cut = False
        await anyio.sleep(2 * LEASE)

        assert sorted(one.ends.seen) == sorted((session.id, EndReason.FENCED) for session in sessions)
        assert books(server) == {"created": 2, "orphaned": 2, "active": 0}
        await create(one, 1)
        assert other.fleet.state().fenced == 0


async def test_a_session_that_may_never_have_reached_the_store_ends_in_full(server: Server) -> None:
    async with process(server) as one, process(server) as other:
        one.wire.is_deaf = True
        [session] = await create(one, 1)
        assert books(server)["active"] == 1
        one.wire.is_cut = True
        await anyio.sleep(3 * LEASE)
        one.wire.is_deaf = one.wire.is_cut = False
        await anyio.sleep(LEASE)

        assert one.ends.seen == [(session.id, EndReason.FAILED)]
        assert sum(other.fleet.state().orphans.values()) == 1


async def test_a_store_that_forgot_all_is_told_all_again(server: Server) -> None:
    async with process(server) as one, process(server) as other:
        sessions = await create(one, 3), await create(other, 1)
        await one.manager.close_session(sessions[0][0].id)
        await anyio.sleep(2 * LEASE)
        server.send("FLUSHALL")
        await anyio.sleep(2 * LEASE)

        assert one.visible(*sessions[0]) == 2
        assert other.visible(*sessions[1]) == 1
        assert books(server) == {"created": 3, "active": 3}
        assert one.ends.seen == [(sessions[0][0].id, EndReason.CLOSED)]
        assert one.fleet.state().resets > 0
        assert one.fleet.state().resyncs[Resync.PUT] == 2


async def test_a_store_that_went_back_is_mended_when_the_connection_is_back(server: Server) -> None:
    async with process(server) as one:
        first, second = await create(one, 2)
        dump = server.save()
        await one.manager.close_session(first.id)
        [third] = await create(one, 1)
        await settle()
        server.restore(dump)
        one.wire.lost()
        await anyio.sleep(1)

        assert one.visible(second, third) == 2
        assert books(server) == {"created": 3, "closed": 1, "active": 2}
        assert one.fleet.state().resyncs == {Resync.PUT: 1, Resync.ENDED: 1}


async def test_an_exit_does_not_wait_for_a_store_that_is_away(server: Server) -> None:
    one = new_process(server)
    async with one.manager:
        await create(one, 2)
        one.wire.is_cut = True
        await anyio.sleep(LEASE)
        begun = anyio.current_time()
    assert anyio.current_time() == begun


async def test_an_exit_waits_for_a_store_that_falls_silent_for_two_calls_at_most(server: Server) -> None:
    one = new_process(server)
    async with one.manager:
        await create(one, 2)
        one.wire.is_silent = True
        begun = anyio.current_time()
    assert anyio.current_time() - begun <= 2 * LEASE / 3


async def test_an_exit_at_once_leaves_a_store_that_never_answered(server: Server) -> None:
    one = new_process(server)
    one.wire.is_cut = True
    async with one.manager:
        pass
    assert one.wire.calls["leave"] == 0


@pytest.mark.parametrize("start_share", [0, 5])
async def test_who_gives_up_the_wait_for_the_first_answer_of_the_store_leaves_at_once(
    server: Server, start_share: int
) -> None:
    one = new_process(server, start_share=start_share)
    one.wire.is_silent = True
    begun = anyio.current_time()
    with anyio.move_on_after(1) as patience:
        await one.manager.__aenter__()
    assert patience.cancelled_caught
    assert anyio.current_time() - begun == 1
    one.wire.is_silent = False
    async with one.manager:
        await create(one, 1)


async def test_an_answer_that_makes_no_sense_is_logged_and_asked_again(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with process(server) as one:
        one.wire.nonsense = True
        await anyio.sleep(LEASE)
        one.wire.nonsense = False
        await anyio.sleep(LEASE)
        await create(one, 1)

    assert "a step of the fleet failed" in caplog.text


async def test_an_error_of_the_client_is_as_no_answer(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async with process(server) as one:
        [session] = await create(one, 1)
        one.wire.error = RuntimeError("the client is broken")
        await anyio.sleep(2 * LEASE)
        assert one.visible(session) == 1
        one.wire.error = None
        await anyio.sleep(LEASE)

    assert "the store of the fleet does not answer: the client is broken" in caplog.text
    assert caplog.text.count("does not answer") == 1


async def test_each_reason_of_a_silence_is_logged_once(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "otel_sessions")
    async with process(server) as one:
        for outage in range(2):
            for reason in ("nobody listens", "the password is wrong", "nobody listens", *map(str, range(20))):
                one.wire.error = StoreUnavailable(reason)
                await anyio.sleep(LEASE)
            one.wire.error = None
            await anyio.sleep(LEASE)
            said = [record.getMessage() for record in caplog.records if "the store of the fleet" in record.message]
            assert said[:3] == [
                "the store of the fleet does not answer: nobody listens",
                "the store of the fleet is still silent: the password is wrong",
                "the store of the fleet is still silent: 0",
            ]
            assert (len(said), said[-1]) == (9, "the store of the fleet answers again"), outage
            caplog.clear()


async def test_a_clock_that_fails_does_not_end_the_work(server: Server) -> None:
    async with process(server) as one:
        clock = one.manager._clock
        one.clock.skew = float("nan")
        await anyio.sleep(LEASE)
        one.clock.skew = 0.0
        await anyio.sleep(LEASE)
        assert clock is one.clock

        await create(one, 1)


async def test_one_part_of_the_store_may_be_away(server: Server) -> None:
    async with process(server, cap=40) as one:
        one.wire.cut_keys = "{f.0}"
        sessions = await create(one, 10)
        await anyio.sleep(3 * LEASE)
        assert one.visible(*sessions) == 10
        assert 0 < books(server)["active"] < 10
        one.wire.cut_keys = ""
        await anyio.sleep(2)

        assert books(server)["active"] == 10
