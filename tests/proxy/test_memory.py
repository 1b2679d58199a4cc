"""Sessions that clients open and abandon leave the proxy's resident memory flat."""

import http.client
from contextlib import closing

import psutil
import pytest

from tests.processes import HOST
from tests.waiting import NEVER, PATIENCE

from .conftest import Origin, Proxy, StartProxy

pytestmark = pytest.mark.processes

FIRST, ALL = 2_000, 10_000
INITIALIZE = b'{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}'
JSON = {"content-type": "application/json"}
MIB = 1024 * 1024
ALLOWED = 6 * MIB
"""For the allocator. A kilobyte that each session leaves behind would be 8 MiB."""
BY_IDLENESS = ("--max-idle-time", "0.5", "--cleanup-interval", "0.5", "--max-sessions", str(ALL))
BY_THE_CAP = (
    *("--max-sessions", "200", "--per-client-at-cap", "evict_oldest", "--max-sessions-per-client", "100"),
    *("--max-idle-time", NEVER),
)


def resident(proxy: Proxy) -> int:
    return int(psutil.Process(proxy.process.process.pid).memory_info().rss)


def open_sessions(proxy: Proxy, path: str, header: str, numbers: range) -> None:
    """Open sessions over one connection, each with headers of its own, and use none of them again."""
    port = int(proxy.url.rsplit(":", 1)[1])
    with closing(http.client.HTTPConnection(HOST, port, timeout=PATIENCE)) as client:
        for number in numbers:
            client.request("POST", path, INITIALIZE, {**JSON, "authorization": f"Bearer {number:0200}"})
            answer = client.getresponse()
            answer.read()
            assert (answer.status, bool(answer.headers[header])) == (200, True)


@pytest.mark.parametrize("matcher", ["header:x-session-id", "mcp"])
@pytest.mark.parametrize(
    ("limits", "left"), [(BY_IDLENESS, 0), (BY_THE_CAP, 100)], ids=["the idle limit", "the cap of their client"]
)
def test_sessions_that_are_abandoned_leave_memory_flat(
    start: StartProxy, origin: Origin, matcher: str, limits: tuple[str, ...], left: int
) -> None:
    path, header = ("/mcp", "mcp-session-id") if matcher == "mcp" else ("/count", "x-session-id")
    with start("--matcher", matcher, *limits) as proxy:
        open_sessions(proxy, path, header, range(FIRST))
        proxy.until_active(left)
        after_the_first = resident(proxy)
        open_sessions(proxy, path, header, range(FIRST, ALL))
        proxy.until_active(left)
        after_all = resident(proxy)
        created = proxy.said_of_itself()["created"]

    assert created == ALL
    assert after_all - after_the_first < ALLOWED
    origin.until("sessions", 0)
