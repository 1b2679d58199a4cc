"""How much the proxy does for a request, counted in instructions, which no load on the machine changes."""

import pytest

from .instructions import POST_IN_SESSION, POST_OUTSIDE, VALGRIND, Kind, instructions

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(VALGRIND is None, reason="needs valgrind: apt-get install valgrind"),
]

MOST = 350_000
"""Instructions for a POST of 200 bytes on CPython 3.11. What is added on the way of a request shows here."""


@pytest.mark.parametrize("kind", [POST_IN_SESSION, POST_OUTSIDE], ids=["in a session", "in no session"])
def test_a_small_post_takes_no_more_instructions_than_it_may(kind: Kind) -> None:
    assert instructions(kind) <= MOST
