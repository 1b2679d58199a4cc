"""The admin API over `ValkeyFleet`: any process answers for all, over real sockets and a real store."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import anyio
import httpx2
import pytest

from otel_sessions import SessionConfig, SessionManager, fingerprint
from otel_sessions.admin import admin_app
from otel_sessions.asgi import Receive, Scope, Send, SessionLeaseMiddleware
from otel_sessions.matchers import HeaderMatcher
from tests.fleet.apps import free_socket, served, url_of
from tests.fleet.member import fleet
from tests.fleet.real import balance, books
from tests.fleet.servers import Program
from tests.waiting import PATIENCE, until_happened

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.processes,
    pytest.mark.usefixtures("garbage"),
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),  # coredis, where it cannot connect
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),  # on trio no process asks another
]

TOKEN = "the-token"
LEASE = 6.0
CONFIG = SessionConfig(max_idle_time=600, max_sessions=50)


async def say_nothing(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
async def managers(valkey: Program) -> AsyncIterator[list[SessionManager[None]]]:
    """Two processes, each with a server for the other."""
    async with AsyncExitStack() as exits:
        entered = []
        for listener in (free_socket(), free_socket()):
            shared = fleet(valkey.url, address=url_of(listener), lease=LEASE)
            manager = SessionManager[None](CONFIG, name="gateway", fleet=shared)
            await exits.enter_async_context(manager)
            await exits.enter_async_context(
                served(SessionLeaseMiddleware(say_nothing, manager, HeaderMatcher("x-session")), listener)
            )
            entered.append(manager)
        yield entered


@pytest.fixture
async def admin(managers: list[SessionManager[None]]) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the first process's API."""
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(admin_app(managers[0], token=TOKEN)),
        base_url="http://admin.test",
        headers={"authorization": f"Bearer {TOKEN}"},
        timeout=PATIENCE,
    ) as client:
        with anyio.fail_after(PATIENCE):
            while True:
                if len((await client.get("/v1/stats")).json()["processes"]) == 2:
                    break
                await anyio.sleep(0.05)
        yield client


async def fill(managers: list[SessionManager[None]]) -> dict[str, str]:
    """Return the names of the processes by the fingerprints of their sessions: two sessions each."""
    made = [await manager.create_session(client="ada") for manager in managers for _ in range(2)]
    return {fingerprint(session.id): session.id.partition(".")[0] for session in made}


def reached(said: dict[str, Any]) -> list[bool]:
    return [one["reached"] for one in said["processes"]]


async def test_any_process_lists_and_counts_the_sessions_of_all(
    managers: list[SessionManager[None]], admin: httpx2.AsyncClient
) -> None:
    owners = await fill(managers)
    page = (await admin.get("/v1/sessions")).json()
    assert {one["fingerprint"]: one["process"] for one in page["sessions"]} == owners
    stats = (await admin.get("/v1/stats")).json()
    assert (stats["total_created"], stats["currently_active"], reached(stats)) == (4, 4, [True, True])
    for one, owner in owners.items():
        assert (await admin.get(f"/v1/sessions/{one}")).json()["process"] == owner


async def test_any_process_ends_the_sessions_of_all_and_the_store_counts_them(
    managers: list[SessionManager[None]], admin: httpx2.AsyncClient, valkey: Program
) -> None:
    owners = await fill(managers)
    elsewhere = next(one for one, owner in owners.items() if managers[1].fleet.name == owner)  # type: ignore[union-attr]
    assert (await admin.delete(f"/v1/sessions/{elsewhere}")).json()["ended"] == 1
    assert (await admin.delete("/v1/sessions?client=ada")).json()["ended"] == 3
    await until_happened(lambda: books(valkey) == {"created": 4, "closed": 4, "active": 0})


async def test_a_pass_runs_in_all_processes(
    managers: list[SessionManager[None]], admin: httpx2.AsyncClient, valkey: Program
) -> None:
    await fill(managers)
    await anyio.sleep(0.05)
    report = (await admin.post("/v1/cleanup", json={"max_idle_time": 0.01})).json()
    assert (report["total_cleaned"], report["outcome"], reached(report)) == (4, "success", [True, True])
    await until_happened(lambda: books(valkey) == {"created": 4, "idle_timeout": 4, "active": 0})


async def test_while_the_store_stands_still_the_known_processes_answer(
    managers: list[SessionManager[None]], admin: httpx2.AsyncClient, valkey: Program
) -> None:
    await fill(managers)
    valkey.pause()
    try:
        stats = (await admin.get("/v1/stats")).json()
        assert (stats["currently_active"], reached(stats)) == (4, [True, True])
    finally:
        valkey.go_on()
    await until_happened(lambda: balance(valkey))


async def test_the_settings_are_shown_and_the_cap_of_a_fleet_is_not_changed_by_hand(
    managers: list[SessionManager[None]], admin: httpx2.AsyncClient
) -> None:
    shown = (await admin.get("/v1/config")).json()
    assert [one["max_sessions"] for one in shown["processes"]] == [50, 50]
    refused = await admin.patch("/v1/config", json={"max_sessions": 7})
    assert refused.status_code == 409
    assert [manager.max_sessions for manager in managers] == [50, 50]
