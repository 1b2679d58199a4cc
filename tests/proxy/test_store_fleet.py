"""Proxies that share one cap and one set of books in a real Valkey, each a process of its own."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.exchanges import INITIALIZE
from tests.fleet.servers import Program, program, valkey_program

from .conftest import Origin, Proxy, start_origin
from .store_fleets import SHORT, said, start_member, until_counted

pytestmark = pytest.mark.processes

MCP = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
FAREWELL = "--fleet-farewell"
USE = b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}'


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Origin]:
    """An origin of a test's own, which counts the sessions that nobody has ended."""
    with start_origin(tmp_path) as origin:
        yield origin


@pytest.fixture
def store() -> Iterator[Program]:
    with program(valkey_program()) as started:
        yield started


def opening(http: httpx2.Client, proxy: Proxy, target: str = "/mcp", **headers: str) -> httpx2.Response:
    return http.post(f"{proxy.url}{target}", content=INITIALIZE, headers={**MCP, **headers})


def opened(http: httpx2.Client, proxy: Proxy, **headers: str) -> str:
    answer = opening(http, proxy, **headers)
    assert answer.status_code == 200
    return str(answer.headers["mcp-session-id"])


def used(http: httpx2.Client, proxy: Proxy, session_id: str) -> int:
    return http.post(f"{proxy.url}/mcp", content=USE, headers={**MCP, "mcp-session-id": session_id}).status_code


def refused(answer: httpx2.Response) -> bool:
    """Return whether an opening was refused for now, as MCP's clients understand it."""
    return answer.status_code == 503 and int(answer.headers["retry-after"]) > 0 and "error" in answer.json()


def test_a_session_is_served_through_the_other_proxy_and_both_leave_nothing(
    origin: Origin, store: Program, tmp_path: Path, http: httpx2.Client
) -> None:
    with start_member(tmp_path, store, origin.url) as one, start_member(tmp_path, store, origin.url) as other:
        session_id = opened(http, one)
        assert [used(http, proxy, session_id) for proxy in (one, other)] == [200, 200]
        assert http.delete(f"{other.url}/mcp", headers={"mcp-session-id": session_id}).status_code == 204
        one.until_active(0)
        opened(http, other)
        assert origin.counts()["sessions"] == 1
    until_counted(store, created=2, active=0)
    assert origin.counts()["sessions"] == 0


def test_a_survivor_ends_the_sessions_of_a_killed_proxy_at_the_upstream(
    origin: Origin, store: Program, tmp_path: Path, http: httpx2.Client
) -> None:
    with (
        start_member(tmp_path, store, origin.url, FAREWELL, lease=SHORT) as killed,
        start_member(tmp_path, store, origin.url, FAREWELL, lease=SHORT) as survivor,
    ):
        opened(http, killed, authorization="Bearer of the client")
        kept = opened(http, survivor)
        assert b"Bearer" not in store.send("HGETALL", "{f.0}:s") + store.send("HGETALL", "{f.1}:s")
        killed.process.kill()
        origin.until("sessions", 1)
        until_counted(store, orphaned=1, active=1)
        assert used(http, survivor, kept) == 200
        assert "Bearer" not in said(survivor)
