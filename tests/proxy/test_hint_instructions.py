"""What hints in ids cost a request at the owner of its session: instructions more than without hints."""

from pathlib import Path

import pytest

from tests.processes import HOST, free_port

from . import hinted
from .instructions import POST_IN_SESSION, POST_TRACED, VALGRIND, Kind, instructions, instructions_of

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(VALGRIND is None, reason="needs valgrind: apt-get install valgrind"),
]

MOST_IN_APP = 11_900
"""Instructions on CPython 3.11 in an app whose server remembers no head: an id is read, and written again."""
MOST_IN_PROXY = 5_500
"""Instructions in the proxy, which remembers a head that is repeated. The timers of its listeners are among them."""
MOST_TRACED = 26_000
"""Instructions in the proxy if a header has another value in each request."""


def test_hints_cost_an_app_no_more_instructions_than_they_may() -> None:
    plain, with_hints = (
        instructions_of("tests.proxy.hinted", kind, count=hinted.COUNTED) for kind in ("plain", "hinted")
    )
    assert with_hints - plain <= MOST_IN_APP


@pytest.mark.parametrize(("kind", "most"), [(POST_IN_SESSION, MOST_IN_PROXY), (POST_TRACED, MOST_TRACED)])
def test_hints_cost_the_proxy_no_more_instructions_than_they_may(kind: Kind, most: int, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret of the whole fleet\n")
    peers = ["--peers", f"w1=http://{HOST}:1", "--peers", f"w2=http://{HOST}:2", "--peer-secret-file", str(secret)]
    peers += ["--peer-name", "w1", "--peer-listen", f"{HOST}:{free_port()}"]
    assert instructions(kind, *peers) - instructions(kind) <= most
