"""What the fault matrix calls lost, counted twice, late and over the cap: from journals that were made up."""

from collections.abc import Mapping

from .journal import Entry, Kind
from .verdict import Verdict, judge

BALANCED = {"created": 1, "closed": 1}


def entries(*lines: str) -> list[Entry]:
    """Return the events of one process. Each takes a nanosecond from the last one."""
    found = []
    for at, line in enumerate(lines):
        kind, session, *detail = line.split()
        found.append(Entry(at=at, kind=Kind(kind), session=session, detail="".join(detail)))
    return found


def judged(*lines: str, books: Mapping[str, int] = BALANCED, cap: int = 9, forgets: bool = False) -> Verdict:
    return judge([entries(*lines)], books, cap=cap, forgets=forgets)


def test_a_session_that_ended_at_its_owner_is_neither_lost_nor_twice() -> None:
    verdict = judged("asked a", "made a", "served a", "ended a closed")
    assert (verdict.lost, verdict.twice, verdict.late, verdict.wrong) == ((), (), (), ())
    assert (verdict.made, verdict.served, verdict.peak, verdict.hooks) == (1, 1, 1, {})


def test_a_session_without_an_end_is_lost() -> None:
    assert judged("asked a", "made a").lost == ("a",)


def test_a_session_that_was_only_fenced_is_lost() -> None:
    assert judged("asked a", "made a", "ended a fenced").lost == ("a",)


def test_a_session_whose_orphan_hook_ran_is_not_lost() -> None:
    verdict = judged("asked a", "made a", "orphan a 1", "orphan a 2", books={"created": 1, "orphaned": 1})
    assert (verdict.lost, verdict.wrong, verdict.hooks) == ((), (), {2: 1})


def test_a_session_that_ended_at_two_owners_is_counted_twice() -> None:
    assert judged("asked a", "made a", "ended a closed", "ended a shutdown").twice == ("a",)


def test_a_session_that_was_served_after_its_hook_is_late() -> None:
    assert len(judged("asked a", "made a", "orphan a 1", "served a", "ended a fenced").late) == 1
    assert judged("asked a", "made a", "served a", "orphan a 1").late == ()


def test_sessions_beyond_the_cap_are_counted_at_their_peak() -> None:
    lines = ("asked a", "asked b", "made a", "made b", "ended a closed", "ended b closed")
    assert judged(*lines, books={"created": 2, "closed": 2}, cap=1).over == 1


def test_a_session_that_ended_before_it_was_acknowledged_takes_no_place() -> None:
    assert judged("asked a", "ended a closed", "made a").peak == 0


def test_books_that_do_not_balance_are_wrong() -> None:
    assert judged("asked a", "made a", "ended a closed", books={"created": 1}).wrong


def test_sessions_that_are_left_in_the_store_are_wrong() -> None:
    assert judged("asked a", "made a", "ended a closed", books={"created": 1, "active": 1}).wrong


def test_a_store_that_counts_an_end_twice_is_wrong() -> None:
    assert judged("asked a", "made a", "ended a closed", books={"created": 2, "closed": 2}).wrong


def test_only_a_store_that_forgets_may_have_counted_too_few_sessions() -> None:
    lines = ("asked a", "made a", "ended a closed")
    assert judged(*lines, books={}).wrong
    assert not judged(*lines, books={}, forgets=True).wrong
