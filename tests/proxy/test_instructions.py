"""How much the proxy does for a request and for an event, in instructions, which no load on the machine changes."""

import pytest

from .instructions import (
    POST_IN_SESSION,
    POST_OUTSIDE,
    POST_TRACED,
    VALGRIND,
    Kind,
    instructions,
    instructions_of_an_event,
)

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(VALGRIND is None, reason="needs valgrind: apt-get install valgrind"),
]

MOST = 215_000
"""Instructions for a POST of 200 bytes on CPython 3.11. What is added on the way of a request shows here."""
MOST_TRACED = 323_000
"""Instructions if a header has another value in each request, as traces and the ids of requests have."""
MOST_OF_AN_EVENT = 30_300
"""Instructions for an event of a stream in a session that comes by itself."""


@pytest.mark.parametrize(
    ("kind", "most"),
    [(POST_IN_SESSION, MOST), (POST_OUTSIDE, MOST), (POST_TRACED, MOST_TRACED)],
    ids=["in a session", "in no session", "traced"],
)
def test_a_small_post_takes_no_more_instructions_than_it_may(kind: Kind, most: int) -> None:
    assert instructions(kind) <= most


def test_an_event_of_a_stream_takes_no_more_instructions_than_it_may() -> None:
    assert instructions_of_an_event() <= MOST_OF_AN_EVENT
