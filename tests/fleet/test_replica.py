"""What one process of a fleet says and sees, step by step, on a real store in virtual time."""

from dataclasses import replace

import pytest

from otel_sessions.fleet import scripts
from otel_sessions.fleet.healing import Healing
from otel_sessions.fleet.lanes import Lane, News
from otel_sessions.fleet.membership import Membership, Refused, Terms
from otel_sessions.fleet.orphans import Claimed, Cleaning
from otel_sessions.fleet.steps import End, Put, Reclaim, Step
from otel_sessions.fleet.store import Keys
from tests.fleet.valkey import Server
from tests.fleet.world import LEASE, SHARED, Process, World

KEYS = Keys("f", 2)
TERMS = Terms(process="a", address="http://a", cap=6)


@pytest.fixture
def world(server: Server) -> World:
    return World(server)


def begin(world: World, *sessions: int) -> list[Process]:
    """Start processes with so many sessions each."""
    for number in sessions:
        world.start()
        live(world)
        for _ in range(number):
            world.open(world.processes[-1], None)
        world.act(world.processes[-1])
    return list(world.processes)


def live(world: World, beats: int = 3) -> None:
    for _ in range(beats):
        world.now += 6000
        for process in world.processes:
            world.act(process)


def visible(world: World, process: Process) -> int:
    return sum(process.replica.is_visible(ref, world.local(process)) for ref in process.replica.refs())


def send_without_answers(world: World, process: Process) -> None:
    """The store does all that the process asks, and the process does not learn of it."""
    world.send(process)
    for flight in list(world.flights):
        world.deliver(flight)
    for flight in list(world.flights):
        world.lose(flight)


def answer_of_fleet_slot(world: World) -> None:
    """Calls to the fleet's slot are answered, and all others are lost."""
    for _ in range(2):
        for flight in list(world.flights):
            if flight.call.keys == KEYS.fleet:
                world.deliver(flight)
            else:
                world.lose(flight)


def test_a_session_is_visible_once_the_store_knows_it(world: World) -> None:
    (process,) = begin(world, 0)
    world.open(process, SHARED[0])
    assert visible(world, process) == 0
    world.act(process)

    assert visible(world, process) == 1


def test_nothing_is_visible_after_the_lease_until_the_next_beat(world: World) -> None:
    (process,) = begin(world, 2)
    world.now += int(LEASE * 1000)
    assert (visible(world, process), process.replica.has_room(world.local(process))) == (0, False)
    live(world, 1)

    assert visible(world, process) == 2


def test_an_id_that_another_process_has_is_taken(world: World) -> None:
    one, other = begin(world, 0, 0)
    for process in (one, other):
        world.open(process, SHARED[0])
        world.act(process)

    assert (len(one.replica), len(other.replica)) == (1, 0)


def test_sessions_of_a_process_that_died_are_ended_by_a_survivor(world: World) -> None:
    dead, _ = begin(world, 2, 1)
    world.crash(dead)

    world.calm_down()


def test_a_process_that_comes_back_keeps_what_nobody_has_claimed(world: World) -> None:
    late, _ = begin(world, 2, 1)
    late.is_paused = True
    live(world, 1)
    late.is_paused = False
    world.server.run(scripts.LEAVE, KEYS.fleet, (late.replica.membership.epoch or 0,), world.now)
    world.act(late)
    live(world)

    assert visible(world, late) == 2
    world.calm_down()


def test_a_process_that_comes_back_loses_what_others_have_claimed(world: World) -> None:
    late, _ = begin(world, 2, 1)
    late.is_paused = True
    live(world, 6)
    late.is_paused = False
    assert visible(world, late) == 0
    live(world)

    assert len(late.replica) == 0
    world.calm_down()


def test_a_lane_that_is_refused_ends_the_sight_at_once(world: World) -> None:
    (process,) = begin(world, 1)
    epoch = process.replica.membership.epoch or 0
    for shard in range(KEYS.shards):
        keys = (*KEYS.shard(shard), KEYS.owned(shard, epoch), KEYS.claimed(shard, epoch))
        world.server.run(scripts.CLAIM, keys, (epoch, 0, 1000), world.now)
    world.end(process, 0)
    world.act(process)

    assert process.replica.membership.epoch != epoch


def test_a_store_that_forgot_all_gets_all_sessions_again(world: World) -> None:
    one, other = begin(world, 2, 1)
    world.empty()
    world.reconnect()
    live(world, 4)

    assert visible(world, one) + visible(world, other) == 3
    world.calm_down()


def test_a_store_that_went_back_is_mended_under_the_remembered_reasons(world: World) -> None:
    (process,) = begin(world, 3)
    world.open(process, SHARED[0])
    world.act(process)
    world.save()
    world.end(process, 0)
    world.open(process, SHARED[1])
    live(world, 1)
    world.roll_back()
    world.reconnect()
    live(world, 3)

    books = [lane.books for lane in process.replica._lanes]
    assert sum(book.get("closed", 0) for book in books) == 1
    world.calm_down()


def test_an_id_that_came_back_with_the_store_is_ended_before_it_is_used_again(world: World) -> None:
    (process,) = begin(world, 0)
    world.open(process, SHARED[0])
    world.act(process)
    world.save()
    world.end(process, 0)
    world.act(process)
    world.roll_back()
    world.reconnect()
    world.open(process, SHARED[0])
    process.replica._lanes[KEYS.shard_of(SHARED[0])]._healing.is_wanted = False
    world.act(process)

    assert visible(world, process) == 1
    world.calm_down()


def test_owners_that_the_store_forgot_are_found_and_cleaned(world: World) -> None:
    lost, other = begin(world, 2, 1)
    world.crash(lost)
    world.server.send("DEL", *KEYS.fleet)
    world.save()
    world.roll_back()
    world.reconnect()
    live(world, 3)
    assert other.orphans == []

    world.calm_down()


def test_what_was_in_doubt_when_a_process_was_fenced_is_found_out(world: World) -> None:
    (process,) = begin(world, 1)
    live(world)
    world.open(process, SHARED[0])
    world.open(process, SHARED[1])
    for _ in range(2):
        send_without_answers(world, process)
        epoch = process.replica.membership.epoch or 0
        world.server.run(scripts.LEAVE, KEYS.fleet, (epoch,), world.now)
        world.now += 6000
        while process.replica.membership.epoch in (epoch, None):
            world.send(process)
            answer_of_fleet_slot(world)
        world.send(process)
        answer_of_fleet_slot(world)
    world.calm_down()

    assert len(process.replica) == 3


def test_an_answer_after_the_process_has_given_up_says_nothing(world: World) -> None:
    (process,) = begin(world, 0)
    world.open(process, SHARED[0])
    world.send(process)
    for flight in list(world.flights):
        world.deliver(flight)
        world.give_up(flight)
    for flight in list(world.flights):
        world.deliver(flight)
    assert visible(world, process) == 0

    world.calm_down()


def test_whoever_leaves_is_dead_at_once(world: World) -> None:
    (process,) = begin(world, 1)
    call = process.replica.membership.leave()
    assert call is not None
    world.server.run(call.script, call.keys, call.args, world.now)

    assert process.replica.membership.leave() is None
    assert visible(world, process) == 0


def test_a_process_gives_back_what_it_does_not_use_under_pressure(world: World) -> None:
    one, other = begin(world, 0, 0)
    live(world, 6)
    for _ in range(4):
        world.open(other, None)
        world.open(other, None)
        live(world, 1)
    live(world, 2)

    assert one.replica.membership.grant == 0


def test_a_fleet_with_other_data_is_refused_with_what_it_has() -> None:
    membership = Membership(TERMS, KEYS, lambda: 1)
    call = membership.call(0, refused=False, now=0.0)

    with pytest.raises(Refused, match="the fleet's shards is 16"):
        membership.answer(call, [b"SHARDS", b"16"])


def test_an_answer_to_another_call_says_nothing() -> None:
    membership = Membership(TERMS, KEYS, lambda: 1)
    call = membership.call(0, refused=False, now=0.0)
    membership.answer(membership.call(0, refused=False, now=0.0), [b"OK", b"7"])
    membership.answer(call, [b"OK", b"8"])
    assert membership.epoch == 7

    lane = Lane(KEYS, 0, 7, [Put(ref="aa", nonce=1)])
    first, second = lane.call(1), lane.call(1)
    assert first is not None
    assert second is not None
    assert lane.answer(first, [b"OK", b"0"]) == []
    assert lane.answer(second, [b"OK", b"0"]) == [("aa", News.REGISTERED)]

    cleaning = Cleaning(KEYS, 7, start=0, span=1)
    old, new = cleaning.call(1), cleaning.call(1)
    assert old is not None
    assert new is not None
    assert cleaning.answer(old, [b"OK", 0]) == []


def test_a_lane_sends_one_kind_of_step_at_a_time_in_order() -> None:
    one, other = Put(ref="aa", nonce=1), Put(ref="bb", nonce=2)
    steps: list[Step] = [
        one,
        other,
        End(ref="cc", reason="closed"),
        *(Reclaim(put=one, formers=(former,)) for former in (5, 5, 6)),
    ]
    lane, kinds = Lane(KEYS, 0, 7, steps), []
    while (call := lane.call(1)) is not None:
        kinds.append(call.script)
        answers = {scripts.PUT: [0, 0], scripts.END: [1]}
        lane.answer(call, [b"OK", *answers.get(call.script, [1] * len(call.args[4::2]))])

    assert kinds == [scripts.PUT, scripts.END, scripts.RECLAIM, scripts.RECLAIM]
    assert lane.is_idle()


def test_a_session_under_an_earlier_epoch_is_reclaimed_from_there() -> None:
    put = Put(ref="aa", nonce=1)
    lane = Lane(KEYS, 0, 9, [Reclaim(put=put, formers=(8, 7))])
    call = lane.call(1)
    assert call is not None
    lane.answer(call, [b"OK", b"7"])

    assert lane.steps_for_successor() == [Reclaim(put=put, formers=(7, 8))]
    again = lane.call(1)
    assert lane.steps_for_successor() == [Reclaim(put=put, formers=(9, 7, 8))]
    lane.check()
    assert again is not None
    assert lane.answer(again, [b"OK", b"1"]) == [("aa", News.REGISTERED)]


def test_only_the_last_reasons_are_remembered() -> None:
    healing = Healing(KEYS, 0, 7)
    for number in range(2000):
        healing.remember(str(number), "closed")
    healing.start()
    healing.call()
    healing.answer([b"OK", b"2", b"1", 2, 0], {})
    differences = healing.answer([b"OK", b"0", b"0", b"1", b"1999", b"2"], {})

    assert differences.left_over == [("0", "lost"), ("1999", "closed")]


def test_a_settlement_that_was_not_answered_is_repeated() -> None:
    cleaning = Cleaning(KEYS, 7, start=0, span=1)
    claim = cleaning.call(1)
    assert claim is not None
    (claimed,) = cleaning.answer(claim, [b"OK", 1, b"aa", 2, b"1", b"5", b""])
    assert isinstance(claimed, Claimed)
    cleaning.settle(claimed)
    first, second = cleaning.call(1), cleaning.call(1)

    assert first is not None
    assert second is not None
    assert (first.script, first.args) == (second.script, second.args) == (scripts.SETTLE, (7, "aa", 2, 5))


def test_a_put_that_came_too_late_is_repeated_under_its_number_with_the_next_deadline() -> None:
    lane = Lane(KEYS, 0, 7, [Put(ref="aa", nonce=1)])
    late = lane.call(1)
    assert late is not None
    assert lane.answer(late, [b"LATE"]) == []
    call = lane.call(2)

    assert call is not None
    assert call.args == (7, 1, 2, "aa", 1, b"")


def test_the_hook_of_an_orphan_may_end_after_its_epoch_is_buried(world: World) -> None:
    dead, survivor = begin(world, 1, 0)
    world.crash(dead)
    while not survivor.orphans:
        live(world, 1)
    (claimed,) = survivor.orphans
    world.calm_down()

    survivor.replica.settle(claimed)
    assert survivor.replica.calls(world.local(survivor)) == []


def test_a_question_waits_for_the_answer_to_a_write() -> None:
    lane = Lane(KEYS, 0, 7, [Put(ref="aa", nonce=1)])
    put = lane.call(1)
    lane.check()
    assert put is not None
    assert lane.answer(put, [b"OK", b"0"]) == [("aa", News.REGISTERED)]
    audit = lane.call(1)

    assert audit is not None
    assert audit.script is scripts.AUDIT


def test_a_survivor_waits_for_what_others_have_claimed() -> None:
    cleaning = Cleaning(KEYS, 7, start=1, span=1)
    for _ in range(2):
        call = cleaning.call(1)
        assert call is not None
        cleaning.answer(call, [b"OK", 1])
    assert cleaning.call(1) is None
    cleaning.wake()

    assert cleaning.call(1) is not None


def test_terms_can_be_changed_for_another_process() -> None:
    assert replace(TERMS, process="b").lease == 15.0


def test_a_death_that_the_store_forgot_is_cleaned_only_once_it_is_named_again(world: World) -> None:
    late, survivor = begin(world, 2, 0)
    world.save()
    late.is_paused = True
    while str(late.replica.membership.epoch) not in world._table(KEYS.fleet[2]):
        world.now += 6000
        world.send(survivor)
        for flight in list(world.flights):
            if flight.call.keys == KEYS.fleet:
                world.deliver(flight)
        answer_of_fleet_slot(world)  # no claim arrives
    world.roll_back()
    world.reconnect()
    late.is_paused = False
    world.act(survivor)
    world.act(late)

    world.check()
    assert survivor.orphans == []
    world.calm_down()


def test_an_answer_to_a_beat_says_nothing_once_a_lane_was_refused(world: World) -> None:
    (process,) = begin(world, 0)
    member = process.replica.membership
    epoch = member.epoch or 0
    beat = member.call(0, refused=False, now=world.local(process))
    answer = world.server.run(beat.script, beat.keys, beat.args, world.now)
    member.give_up()
    member.answer(beat, answer)

    assert epoch
    assert not member.is_living(world.local(process))
    world.open(process, None)
    assert visible(world, process) == 0


def test_a_refusal_of_an_epoch_that_is_given_up_says_nothing(world: World) -> None:
    (process,) = begin(world, 2)
    epoch, joins = process.replica.membership.epoch or 0, process.replica.membership.joins
    for shard in range(KEYS.shards):
        keys = (*KEYS.shard(shard), KEYS.owned(shard, epoch), KEYS.claimed(shard, epoch))
        world.server.run(scripts.CLAIM, keys, (epoch, 0, 1000), world.now)
    for _ in range(2):
        world.end(process, 0)
    world.send(process)
    for _ in range(2):
        for flight in list(world.flights):
            world.deliver(flight)

    assert process.replica.membership.joins == joins + 1
    world.calm_down()


def test_an_end_whose_answer_was_lost_is_not_put_again() -> None:
    lane = Lane(KEYS, 0, 9, [Reclaim(put=Put(ref="aa", nonce=1), formers=(8,)), End(ref="aa", reason="closed")])
    reclaim = lane.call(1)
    assert reclaim is not None
    assert lane.answer(reclaim, [b"OK", b"0"]) == []
    call = lane.call(1)

    assert call is not None
    assert call.script is scripts.END
