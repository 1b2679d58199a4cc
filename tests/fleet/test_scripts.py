"""What each script answers, and what it refuses. The time is an argument."""

from typing import Any

import pytest

from otel_sessions.fleet import scripts
from otel_sessions.fleet.scripts import Script
from otel_sessions.fleet.store import Argument, Keys, Value, session_ref, text
from tests.fleet.valkey import Server

KEYS = Keys("f", 4)
LEASE = 15_000
NOW = 1_700_000_000_000
LATER = NOW + LEASE
SPAN = 10_000
HOUR = 3_600_000


class Calls:
    """Calls the scripts by hand. Times are milliseconds after `NOW`."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def fleet(self, script: Script, *args: Argument, after: int = 0) -> list[Value]:
        return self._server.run(script, KEYS.fleet, args, NOW + after)

    def join(self, process: str, number: int = 1, used: int = 0, *, cap: int = 6, after: int = 0) -> int:
        answer = self.fleet(scripts.JOIN, process, number, "http://a", used, cap, 4, LEASE, 123, 1, after=after)
        return int(answer[1])

    def beat(self, epoch: int, number: int, want: int = 0, used: int = 0, refused: int = 0, after: int = 0) -> Any:
        return self.fleet(scripts.BEAT, epoch, number, want, used, refused, LEASE, after=after)

    def put(self, epoch: int, lane: int, *sessions: Argument, after: int = 0) -> list[Value]:
        keys = (*KEYS.shard(0), KEYS.owned(0, epoch))
        return self._server.run(scripts.PUT, keys, (epoch, lane, LATER, *sessions), NOW + after)

    def end(self, epoch: int, lane: int, *sessions: Argument) -> list[Value]:
        keys = (*KEYS.shard(0), KEYS.owned(0, epoch))
        return self._server.run(scripts.END, keys, (epoch, lane, *sessions), NOW)

    def claim(self, dead: int, most: int = 100, after: int = 0) -> list[Value]:
        keys = (*KEYS.shard(0), KEYS.owned(0, dead), KEYS.claimed(0, dead))
        return self._server.run(scripts.CLAIM, keys, (dead, most, SPAN), NOW + after)

    def settle(self, dead: int, *sessions: Argument) -> list[Value]:
        keys = (*KEYS.shard(0), KEYS.claimed(0, dead), KEYS.settled(0))
        return self._server.run(scripts.SETTLE, keys, (dead, *sessions), NOW)

    def reclaim(self, epoch: int, lane: int, former: int, *sessions: Argument, after: int = 0) -> list[Value]:
        """Each session is an id and a nonce."""
        keys = (*KEYS.shard(0), KEYS.owned(0, epoch), KEYS.owned(0, former), KEYS.settled(0))
        return self._server.run(scripts.RECLAIM, keys, (epoch, lane, LATER, former, *sessions), NOW + after)

    def look(self, ref: str) -> list[Value]:
        return self._server.run(scripts.LOOK, KEYS.shard(0), (ref,), NOW)

    def audit(self, epoch: int, after: int = 0) -> list[Value]:
        return self._server.run(scripts.AUDIT, (*KEYS.shard(0), KEYS.settled(0)), (epoch,), NOW + after)

    def books(self) -> list[Value]:
        answer = self.audit(0)
        return answer[5 + int(answer[4]) :]


@pytest.fixture
def calls(server: Server) -> Calls:
    return Calls(server)


def test_a_repeated_join_gets_the_same_answer(calls: Calls) -> None:
    epoch = calls.join("a")

    assert calls.join("a", after=500) == epoch


def test_a_process_that_joins_anew_gets_a_larger_epoch_and_its_former_one_is_dead(calls: Calls) -> None:
    first = calls.join("a")
    second = calls.join("a", 2)

    assert second > first
    assert calls.beat(first, 1) == [b"FENCED"]
    assert calls.beat(second, 1)[5:] == [1, 0, 1, 1, str(first).encode()]


def test_a_late_copy_of_an_earlier_join_changes_nothing(calls: Calls) -> None:
    calls.join("a")
    second = calls.join("a", 2)
    late = calls.fleet(scripts.JOIN, "a", 1, "http://a", 0, 6, 4, LEASE, 123, 1)

    assert late == [b"OLD"]
    assert calls.beat(second, 1)[0] == b"OK"


@pytest.mark.parametrize(
    ("shards", "number", "answer"), [(8, 1, [b"SHARDS", b"4"]), (4, 2, [b"FORMAT", b"1"])], ids=["shards", "format"]
)
def test_a_process_that_wants_other_data_is_refused(
    calls: Calls, shards: int, number: int, answer: list[Value]
) -> None:
    calls.join("a")

    assert calls.fleet(scripts.JOIN, "b", 1, "http://b", 0, 6, shards, LEASE, 1, number) == answer


def test_epochs_grow_over_a_store_that_forgot_all(calls: Calls, server: Server) -> None:
    first = calls.join("a")
    server.send("FLUSHALL")

    assert calls.join("b", after=1) > first


def test_the_sum_of_the_grants_never_passes_the_cap(calls: Calls) -> None:
    one, other = calls.join("a"), calls.join("b")
    grants = [calls.beat(epoch, number, want=6, used=0)[1] for number in range(1, 9) for epoch in (one, other)]

    assert grants[-1] + grants[-2] == 6


def test_a_late_beat_does_not_shrink_the_grant(calls: Calls) -> None:
    epoch = calls.join("a")
    calls.beat(epoch, 2, want=4, used=4)

    assert calls.beat(epoch, 1, want=1) == [b"OLD"]
    assert calls.beat(epoch, 3, want=4, used=4)[1] == 4


def test_whoever_is_refused_puts_the_others_under_pressure_for_a_lease(calls: Calls) -> None:
    one, other = calls.join("a"), calls.join("b")
    calls.beat(one, 1, refused=1)

    assert calls.beat(other, 1, after=1)[4] == 1
    assert calls.beat(other, 2, after=LEASE)[4] == 0


def test_whoever_is_refused_and_gets_a_free_place_puts_nobody_under_pressure(calls: Calls) -> None:
    epoch = calls.join("a")

    assert calls.beat(epoch, 1, want=1, refused=1)[4] == 0


def test_a_process_that_stops_beating_is_dead_after_its_lease(calls: Calls) -> None:
    one, other = calls.join("a"), calls.join("b")
    dead = [calls.beat(other, number, after=number * 5000)[9:] for number in range(1, 5)]

    assert dead == [[], [], [], [str(one).encode()]]


def test_after_the_store_was_away_nobody_is_declared_dead_for_a_lease(calls: Calls) -> None:
    one, other = calls.join("a"), calls.join("b")
    calls.beat(one, 1)
    calls.beat(other, 1)

    assert calls.beat(other, 2, after=60_000)[9:] == []
    assert calls.beat(one, 2, after=61_000)[0] == b"OK"


def test_a_lone_survivor_that_is_slow_declares_others_dead_at_its_fourth_beat(calls: Calls) -> None:
    one, other = calls.join("a"), calls.join("b")
    dead = [calls.beat(other, number, after=number * 20_000)[9:] for number in range(1, 6)]

    assert dead == [[str(one).encode()]] * 5 or dead[4] == [str(one).encode()]


def test_a_fleet_that_forgot_grants_for_a_lease_what_is_in_use(calls: Calls) -> None:
    one = calls.join("a", used=2)
    calls.beat(one, 1, want=6, used=2)

    assert calls.beat(one, 2, want=6, used=2, after=1000)[1] == 2
    assert calls.beat(one, 3, want=6, used=2, after=LEASE)[1] > 2


def test_a_living_epoch_is_not_buried(calls: Calls) -> None:
    epoch = calls.join("a")

    assert calls.fleet(scripts.BURY, epoch) == [b"LIVING"]
    assert calls.beat(epoch, 1)[0] == b"OK"


def test_a_grant_is_free_once_the_last_epoch_of_a_process_is_buried(calls: Calls) -> None:
    first = calls.join("a")
    calls.beat(first, 1, want=6, used=6)
    second = calls.join("a", 2)
    other = calls.join("b")

    calls.fleet(scripts.BURY, first)
    calls.fleet(scripts.BURY, first)
    assert calls.beat(other, 1, want=3)[1] == 0
    calls.fleet(scripts.LEAVE, second)
    calls.fleet(scripts.BURY, second)
    assert calls.beat(other, 2, want=3)[1] == 3


def test_a_process_whose_sessions_are_more_than_is_free_gets_what_is_free(calls: Calls) -> None:
    epoch = calls.join("a", used=9)

    assert calls.beat(epoch, 1, want=9, used=9)[1] == 6


def test_a_grant_stays_as_it_is_while_a_former_epoch_is_not_buried(calls: Calls) -> None:
    first = calls.join("a")
    calls.beat(first, 1, want=6, used=6)
    second = calls.join("a", 2)

    assert calls.beat(second, 1)[1] == 6
    calls.fleet(scripts.BURY, first)
    assert calls.beat(second, 2)[1] == 0


def test_only_an_owner_that_the_fleet_does_not_know_is_suspected(calls: Calls) -> None:
    living = calls.join("a")
    calls.fleet(scripts.SUSPECT, LEASE, living, 77, 77, after=-LEASE)

    assert calls.beat(living, 1)[9:] == [b"77"]
    calls.fleet(scripts.BURY, 77)
    assert calls.beat(living, 2)[9:] == []


def test_a_suspected_owner_is_dead_a_lease_later_since_it_may_serve_till_then(calls: Calls) -> None:
    living = calls.join("a")
    calls.fleet(scripts.SUSPECT, LEASE, 77)
    calls.fleet(scripts.SUSPECT, LEASE, 77, after=LEASE - 1)
    dead = [calls.beat(living, number, after=number * 4999)[9:] for number in range(1, 5)]

    assert dead == [[], [], [], [b"77"]]


def test_members_are_the_living_with_their_addresses(calls: Calls) -> None:
    one, other = calls.join("a"), calls.join("b")
    calls.fleet(scripts.LEAVE, other)

    assert calls.fleet(scripts.MEMBERS)[2:] == [b"a", b"http://a", str(one).encode()]


def test_a_put_repeats_and_names_the_owner_of_an_id_that_is_taken(calls: Calls) -> None:
    assert calls.put(1, 1, "aa", 5, "x", "bb", 6, "") == [b"OK", b"0", b"0"]
    assert calls.put(1, 1, "aa", 5, "x", "bb", 6, "") == [b"OK", b"0", b"0"]
    assert calls.put(2, 1, "aa", 7, "y") == [b"OK", b"1"]
    assert calls.put(1, 2, "aa", 8, "z") == [b"OK", b"1"]
    assert calls.books() == [b"created", b"2"]


def test_late_copies_change_nothing(calls: Calls) -> None:
    calls.put(1, 1, "aa", 5, "")
    calls.end(1, 2, "aa", "closed")

    assert calls.put(1, 1, "aa", 5, "") == [b"OLD"]
    assert calls.end(1, 1, "aa", "closed") == [b"OLD"]
    assert calls.reclaim(1, 1, 9, "aa", 5) == [b"OLD"]
    assert calls.put(1, 3, "aa", 5, "", after=LEASE + 1) == [b"LATE"]
    assert calls.reclaim(1, 3, 9, "aa", 5, after=LEASE + 1) == [b"LATE"]
    assert calls.books() == [b"created", b"1", b"closed", b"1"]


def test_an_end_counts_once_and_the_owner_s_only(calls: Calls) -> None:
    calls.put(1, 1, "aa", 5, "")

    assert calls.end(2, 1, "aa", "closed") == [b"OK", 0]
    assert calls.end(1, 2, "aa", "closed", "zz", "closed") == [b"OK", 1]
    assert calls.end(1, 2, "aa", "closed", "zz", "closed") == [b"OK", 0]


def test_an_end_that_comes_after_the_fence_is_gone_brings_no_owner_back(calls: Calls) -> None:
    calls.put(1, 1, "aa", 5, "")

    assert calls.end(7, 2, "bb", "closed") == [b"OK", 0]
    assert calls.audit(1)[4:6] == [1, b"1"]


def test_a_look_tells_the_owner_and_the_turn(calls: Calls) -> None:
    calls.put(1, 1, "aa", 5, "")

    assert calls.look("aa") == [b"OK", b"1", 1]
    assert calls.look("zz") == [b"NONE"]


def test_from_its_first_claim_on_a_dead_owner_changes_nothing(calls: Calls) -> None:
    calls.put(1, 1, "aa", 5, "x\ny \x00", "bb", 6, "")
    first = calls.claim(1, 1)

    assert first[1] == 2
    assert len(first) == 7
    assert calls.put(1, 2, "cc", 7, "") == [b"FENCED"]
    assert calls.end(1, 2, "aa", "closed") == [b"FENCED"]
    assert {text(calls.claim(1)[2]), text(first[2])} == {"aa", "bb"}


def test_a_claim_that_ran_out_goes_to_the_next_with_a_higher_token(calls: Calls) -> None:
    calls.put(1, 1, "aa", 5, "x\x00\n ")

    assert calls.claim(1)[2:4] == [b"aa", 2]
    assert calls.claim(1, after=SPAN)[1:] == [1]
    assert calls.claim(1, after=SPAN + 1)[2:] == [b"aa", 3, str(NOW).encode(), b"5", b"x\x00\n "]
    assert calls.settle(1, "aa", 2, 5) == [b"OK", 0]
    assert calls.settle(1, "aa", 3, 5) == [b"OK", 1]
    assert calls.books() == [b"created", b"1", b"orphaned", b"1"]


def test_an_owner_is_forgotten_once_nothing_is_left_of_it(calls: Calls) -> None:
    calls.put(1, 1, "aa", 5, "")
    calls.claim(1)
    calls.settle(1, "aa", 2, 5)

    assert calls.claim(1) == [b"OK", 0]
    assert calls.settle(1, "aa", 2, 5) == [b"OK", 0]
    assert calls.reclaim(2, 1, 1, "aa", 5) == [b"OK", b"2"]
    assert calls.audit(3)[3:6] == [0, 1, b"2"]


def test_a_settlement_of_another_owner_s_session_does_nothing(calls: Calls) -> None:
    calls.put(1, 1, "aa", 5, "")
    calls.claim(1)

    assert calls.settle(2, "aa", 2, 5) == [b"OK", 0]


def test_a_reclaim_takes_over_what_nobody_has_claimed(calls: Calls) -> None:
    calls.put(1, 1, "aa", 5, "", "bb", 6, "")
    calls.put(3, 1, "dd", 7, "")
    claimed = calls.claim(1, 1)[2:]
    kept = ("bb", 6) if claimed[0] == b"aa" else ("aa", 5)

    answer = calls.reclaim(2, 1, 1, claimed[0], claimed[3], *kept, "cc", 8, "dd", 7)
    assert answer == [b"OK", b"2", b"1", b"0", b"3"]
    assert calls.reclaim(2, 1, 1, *kept) == [b"OK", b"1"]
    assert calls.audit(2)[1] == b"1"


def test_a_reclaim_tells_what_the_store_forgot_from_what_others_ended(calls: Calls) -> None:
    calls.put(1, 1, "aa", 5, "")
    calls.claim(1)
    calls.settle(1, "aa", 2, 5)

    assert calls.reclaim(2, 1, 1, "aa", 5, "bb", 6, "aa", 7) == [b"OK", b"2", b"0", b"0"]


def test_a_hook_that_ran_before_the_store_forgot_counts_once_it_is_told(calls: Calls, server: Server) -> None:
    calls.put(1, 1, "aa", 5, "", "bb", 6, "")
    calls.claim(1)
    server.send("FLUSHALL")

    assert calls.reclaim(2, 1, 1, "aa", 5) == [b"OK", b"0"]
    assert calls.settle(1, "aa", 2, 5) == [b"OK", 0]
    assert calls.reclaim(2, 2, 1, "aa", 5, "bb", 6) == [b"OK", b"2", b"0"]


def test_an_audit_tells_an_owner_that_it_is_fenced(calls: Calls) -> None:
    calls.put(1, 1, "aa", 5, "")
    assert calls.audit(1)[0] == b"OK"
    calls.claim(1, 0)

    assert calls.audit(1) == [b"FENCED"]


def test_that_a_hook_has_run_is_known_for_an_hour(calls: Calls) -> None:
    calls.settle(1, *(word for nonce in range(250) for word in ("aa", 2, nonce)))
    calls.audit(3, after=HOUR - 1)
    assert calls.reclaim(2, 1, 1, "aa", 0, "aa", 249) == [b"OK", b"2", b"2"]

    for _ in range(3):
        calls.audit(3, after=HOUR)
    assert calls.reclaim(2, 1, 1, "aa", 0, "aa", 249) == [b"OK", b"0", b"0"]


def test_pages_hold_every_session_of_an_owner(calls: Calls, server: Server) -> None:
    for lane in range(10):
        calls.put(1, lane, *(word for ref in range(100) for word in (f"{lane}-{ref}", lane * 100 + ref, "")))
    keys, cursor, found = (*KEYS.shard(0), KEYS.owned(0, 1)), 0, dict[str, int]()
    while True:
        _, following, *page = server.run(scripts.PAGE, keys, (1, cursor), NOW)
        assert len(page) <= 2 * scripts.MOST
        found |= {text(ref): int(nonce) for ref, nonce in zip(page[::2], page[1::2], strict=True)}
        if (cursor := int(following)) == 0:
            break

    assert sorted(found.values()) == list(range(1000))


def test_the_time_is_the_server_s_own_if_none_is_given(calls: Calls, server: Server) -> None:
    answer = server.run(scripts.JOIN, KEYS.fleet, ("a", 1, "http://a", 0, 6, 4, LEASE, 7, 1), 0)

    assert int(answer[1]) > 1_600_000_000_000_000


def test_a_session_s_ref_needs_the_secret_of_whatever_length() -> None:
    refs = {session_ref("id", secret) for secret in (b"", b"a" * 64, b"a" * 65, b"a" * 66)}

    assert len(refs) == 4
    assert all(len(ref) == 32 for ref in refs)
    assert {KEYS.shard_of(ref) for ref in refs} <= set(range(4))
