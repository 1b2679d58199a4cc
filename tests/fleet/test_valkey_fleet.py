"""`ValkeyFleet` on a real Valkey, in real time: in this process, and in processes that are killed and paused."""

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
import httpx2
import pytest

from otel_sessions import ConfigError, Peer, SessionManager, StoreUnavailable, TooManySessions
from otel_sessions.asgi import SessionLeaseMiddleware
from otel_sessions.fleet import Orphan
from otel_sessions.matchers import CookieMatcher
from tests.fleet.apps import free_socket, served, url_of
from tests.fleet.member import fleet
from tests.fleet.processes import books
from tests.fleet.servers import Program
from tests.fleet.valkey import Server
from tests.waiting import PATIENCE, until_happened

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.processes,
    pytest.mark.usefixtures("garbage"),
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),  # coredis, where it cannot connect
]


CALM = 6.0
"""Seconds; a lease of which a third, the time limit of a call, is enough on a machine that is busy."""


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Real servers need real time."""
    backend: str = request.param
    return backend


@contextmanager
def looking(valkey: Program) -> Iterator[Server]:
    server = Server(valkey.path)
    try:
        yield server
    finally:
        server.close()


class Member:
    """A process of its own, and what it has printed."""

    def __init__(self, url: str, sessions: int, backend: str) -> None:
        command = [sys.executable, "-m", "tests.fleet.member", url, str(sessions), backend]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.visible = 0
        self.served: list[float] = []
        """When it has last served sessions: times of the wall clock."""
        self.ended = Counter[str]()
        self.has_made = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, *rest = line.split()
            if word == "made":
                self.has_made = True
            elif word == "ended":
                self.ended[rest[0]] += 1
            else:
                self.visible = int(rest[0])
                if self.visible:
                    self.served.append(float(rest[1]))


@asynccontextmanager
async def member(valkey: Program, sessions: int, backend: str) -> AsyncIterator[Member]:
    started = Member(valkey.url, sessions, backend)
    try:
        await until_happened(lambda: started.has_made)
        yield started
    finally:
        started.close()


async def test_two_processes_find_each_other_s_sessions_and_leave_nothing(valkey: Program) -> None:
    async with (
        SessionManager(fleet=fleet(valkey.url, lease=CALM)) as one,
        SessionManager(fleet=fleet(valkey.url, lease=CALM)) as other,
    ):
        session = await one.create_session()
        await other.create_session("upstream-1")
        found = await other.locate(session.id)
        assert isinstance(found, Peer)
        assert found.address == "http://127.0.0.1:1"
        assert isinstance(await one.locate("upstream-1"), Peer)
    with looking(valkey) as server:
        assert books(server) == {"created": 2, "shutdown": 2, "active": 0}


async def test_sessions_of_a_killed_process_are_ended_by_a_survivor(valkey: Program, anyio_backend: str) -> None:
    orphans: list[Orphan] = []

    async def end(orphan: Orphan) -> None:
        orphans.append(orphan)

    async with (
        SessionManager(fleet=fleet(valkey.url, on_orphan=end)),
        member(valkey, 20, anyio_backend) as killed,
    ):
        killed.signal(signal.SIGKILL)
        with looking(valkey) as server:
            await until_happened(lambda: books(server)["orphaned"] == 20)
            assert books(server)["active"] == 0
    assert len({orphan.blob for orphan in orphans}) == 20


async def test_a_paused_process_serves_nothing_after_its_sessions_were_claimed(
    valkey: Program, anyio_backend: str
) -> None:
    claimed: list[float] = []

    async def end(_: Orphan) -> None:
        claimed.append(time.time())

    async with (
        SessionManager(fleet=fleet(valkey.url, on_orphan=end)),
        member(valkey, 20, anyio_backend) as paused,
    ):
        paused.signal(signal.SIGSTOP)
        await until_happened(lambda: len(claimed) == 20)
        paused.signal(signal.SIGCONT)
        await until_happened(lambda: paused.ended.total() == 20)

        assert paused.ended == {"fenced": 20}
        assert max(paused.served) < min(claimed)


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_request_at_the_wrong_process_is_answered_by_the_owner(valkey: Program) -> None:
    async def app(scope: dict[str, object], receive: object, send: Callable[[object], object]) -> None:
        body = str(scope["app_name"]).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[misc]
        await send({"type": "http.response.body", "body": body})  # type: ignore[misc]

    def named(name: str) -> object:
        async def wrapped(scope: dict[str, object], receive: object, send: Callable[[object], object]) -> None:
            await app({**scope, "app_name": name}, receive, send)

        return wrapped

    sockets = [free_socket(), free_socket()]
    managers = [SessionManager(fleet=fleet(valkey.url, address=url_of(each))) for each in sockets]
    apps = [
        SessionLeaseMiddleware(named(name), manager, CookieMatcher())  # type: ignore[arg-type]
        for name, manager in zip(("one", "other"), managers, strict=True)
    ]
    async with (
        managers[0],
        managers[1],
        served(apps[0], sockets[0]) as one,
        served(apps[1], sockets[1]) as other,
        httpx2.AsyncClient(timeout=PATIENCE) as client,
    ):
        first = await client.get(one)
        second = await client.get(other, headers={"cookie": first.headers["set-cookie"].partition(";")[0]})

        assert (first.text, second.text) == ("one", "one")


async def test_a_store_that_is_paused_holds_neither_a_request_nor_the_exit(
    valkey: Program, caplog: pytest.LogCaptureFixture
) -> None:
    async with SessionManager(fleet=fleet(valkey.url, lease=CALM)) as manager:
        session = await manager.create_session()
        valkey.pause()
        await anyio.sleep(CALM)
        await until_happened(lambda: "does not answer" in caplog.text)
        assert manager.get(session.id) is session
        await manager.create_session()
    valkey.go_on()


async def test_closed_and_without_a_store_nothing_is_made(valkey: Program) -> None:
    valkey.kill()
    async with SessionManager(fleet=fleet(valkey.url, outage="closed")) as manager:
        with pytest.raises((TooManySessions, StoreUnavailable)):
            await manager.create_session()


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_url_that_is_wrong_is_refused_when_the_fleet_is_made() -> None:
    with pytest.raises(ConfigError):
        fleet("http://store:6379")


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "otel_sessions.fleet.valkey", None)
    with pytest.raises(ConfigError, match="pip install"):
        fleet("valkey://store:6379")


async def test_a_server_that_evicts_keys_is_refused_at_the_entry(valkey: Program) -> None:
    valkey.send("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with pytest.raises(ConfigError, match="noeviction"):
        async with SessionManager(fleet=fleet(valkey.url)):
            pass
