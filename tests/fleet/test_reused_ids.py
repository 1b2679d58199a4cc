"""An id that is used again while the store has not answered for the session that had the id before."""

import pytest

from otel_sessions.fleet import scripts
from otel_sessions.fleet.lanes import Lane, News
from otel_sessions.fleet.steps import End, Put, Reclaim, Step, Waiting
from otel_sessions.fleet.store import Keys

KEYS = Keys("f", 2)
EPOCH = 7
FIRST, LATER = Put(ref="aa", nonce=1), Put(ref="aa", nonce=2)
CLOSED = End(ref="aa", reason="closed")


@pytest.mark.parametrize(
    ("step", "answer"),
    [
        (FIRST, [b"0"]),
        (FIRST, [b"9"]),
        (Reclaim(put=FIRST, formers=(6,)), [b"1"]),
        (Reclaim(put=FIRST, formers=(6,)), [b"2"]),
        (Reclaim(put=FIRST, formers=(6,)), [b"9"]),
    ],
    ids=["registered", "taken", "kept", "claimed", "of another"],
)
def test_what_became_of_the_first_session_says_nothing_of_the_later(step: Step, answer: list[bytes]) -> None:
    lane = Lane(KEYS, 0, EPOCH, [step])
    first = lane.call(1)
    lane.add(CLOSED)
    lane.add(LATER)
    assert first is not None
    assert lane.answer(first, [b"OK", *answer]) == []

    end = lane.call(1)
    assert end is not None
    assert end.script is scripts.END
    lane.answer(end, [b"OK"])
    later = lane.call(1)
    assert later is not None
    assert lane.answer(later, [b"OK", b"0"]) == [("aa", News.REGISTERED)]
    assert lane.is_idle()


def test_the_end_of_the_later_session_takes_away_the_later_put() -> None:
    waiting = Waiting([CLOSED, LATER])
    waiting.add_first(FIRST)  # the store forgot it
    waiting.add(CLOSED)

    assert list(waiting) == [FIRST, CLOSED]


def test_an_end_that_is_told_again_does_not_hide_the_end_that_waits() -> None:
    waiting = Waiting([CLOSED])
    waiting.add_first(End(ref="aa", reason="lost"))
    waiting.pop()

    assert waiting.has_end("aa")


def test_an_end_waits_until_it_is_taken() -> None:
    waiting = Waiting([CLOSED, LATER])
    assert waiting.has_end("aa")
    assert waiting.pop() == CLOSED

    assert not waiting.has_end("aa")
    assert waiting.pop() == LATER
