"""The address that a process of a fleet with a store chooses for itself: wrong ones, and the life of its listener."""

import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from otel_sessions import ConfigError, Peer, SessionManager
from otel_sessions.asgi import SessionLeaseMiddleware
from otel_sessions.fleet import ValkeyFleet
from otel_sessions.matchers import HeaderMatcher
from tests.fleet.apps import free_socket, served
from tests.fleet.member import fleet
from tests.fleet.servers import Program
from tests.waiting import PATIENCE

pytestmark = [pytest.mark.anyio, pytest.mark.processes, pytest.mark.usefixtures("garbage")]

NOWHERE = "valkey://127.0.0.1:1"
CALM: dict[str, Any] = {"lease": 60.0, "patience": PATIENCE}
"""A fleet in which nobody is dead because the machine is busy."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "own"


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("auto:", "takes a folder"),
        ("automatic", "address of a process"),
        ("auto:/has space", "address of a process"),
        (f"auto:/{'x' * 100}", "too long"),
        (f"auto:{__file__}", "cannot be used"),
        (f"auto:{Path(__file__).parent}", "must belong to the user"),
        ("https://10.0.0.7:0", "no TLS"),
        ("http://10.0.0.7:0/mcp", "no path"),
        ("http://0.0.0.0:0", "where others reach it"),
        ("http://[::]:0", "where others reach it"),
        ("http://0.0.0.0:9001", "where others reach it"),
        ("http://:0", "address of a process"),
        ("http://a:b@10.0.0.7:0", "address of a process"),
        ("http://10.0.0.7:0?x=1", "address of a process"),
        ("ftp://10.0.0.7:0", "address of a process"),
        ("http://10.0.0.7:70000", "address of a process"),
        ("http://[::1:0", "address of a process"),
    ],
)
def test_an_address_that_others_cannot_reach_is_refused_at_once(address: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        fleet(NOWHERE, address=address)


@pytest.mark.parametrize("address", ["http://gateway:9001", "http://gateway:0", "http://10.0.0.7", "unix:/run/s"])
def test_an_address_that_others_reach_is_taken_and_not_looked_up(address: str) -> None:
    fleet(NOWHERE, address=address)


@pytest.mark.parametrize("address", ["auto", "auto:{folder}", "unix:{folder}/s"])
def test_a_unix_socket_and_allowed_networks_exclude_each_other(folder: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="allow_peers are networks"):
        fleet(NOWHERE, address=address.format(folder=folder), allow_peers=["10.0.0.0/8"])


def test_a_folder_that_others_may_open_is_refused_at_once(folder: Path) -> None:
    folder.mkdir(mode=0o750)
    with pytest.raises(ConfigError, match="chmod 700 it, or name another folder"):
        fleet(NOWHERE, address=f"auto:{folder}")


@pytest.mark.parametrize(
    ("variable", "expected"), [("/nowhere", "/nowhere/otel-sessions"), (None, "/run/otel-sessions")]
)
def test_without_a_folder_the_sockets_are_in_the_folder_for_running_programs(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, expected: str
) -> None:
    wanted: list[Path] = []

    def refuse(path: Path, **_: object) -> None:
        wanted.append(path)
        raise PermissionError(errno.EACCES, "it is not ours")

    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(Path, "mkdir", refuse)
    if variable is not None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", variable)
    with pytest.raises(ConfigError, match="cannot be used"):
        fleet(NOWHERE, address="auto")
    assert wanted == [Path(expected)]


async def test_each_process_has_a_private_socket_of_its_own_for_as_long_as_it_runs(
    valkey: Program, folder: Path
) -> None:
    one, other = (fleet(valkey.url, address=f"auto:{folder}", **CALM) for _ in range(2))
    async with SessionManager(fleet=one) as here, SessionManager(fleet=other):
        assert names_in(folder) == sorted(f"{each.name}.sock" for each in (one, other))
        assert {path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())} == {0o700, 0o600}
        session = await here.create_session()
        assert await here.locate(session.id) is not None
    assert names_in(folder) == []


@pytest.mark.parametrize(
    "address",
    [
        *("auto:{folder}", "http://127.0.0.1:0"),
        pytest.param("http://[::1]:0", marks=pytest.mark.skipif(not has_ipv6(), reason="this system has no IPv6")),
    ],
)
async def test_a_request_at_the_wrong_process_is_served_where_its_session_is(
    valkey: Program, folder: Path, address: str
) -> None:
    address = address.format(folder=folder)
    async with member(valkey, address) as (owner, at_owner), member(valkey, address) as (elsewhere, at_other):
        session_id = (await at_owner.get("/")).headers["x-session-id"]
        found = await elsewhere.locate(session_id)
        assert isinstance(found, Peer)
        assert found.name == owner.fleet.name
        assert (await at_other.get("/", headers={"x-session-id": session_id})).text == owner.fleet.name
        assert len(elsewhere) == 0


async def test_a_manager_that_is_entered_again_listens_again_under_a_new_name(valkey: Program, folder: Path) -> None:
    one = fleet(valkey.url, address=f"auto:{folder}", **CALM)
    manager: SessionManager[None] = SessionManager(fleet=one)
    names = set()
    for _ in range(2):
        async with manager:
            assert names_in(folder) == [f"{one.name}.sock"]
            names.add(one.name)
    assert len(names) == 2


async def test_the_port_takes_only_what_a_process_of_the_fleet_has_signed(valkey: Program) -> None:
    async with member(valkey, "http://127.0.0.1:0") as (owner, _), member(valkey, "http://127.0.0.1:0") as (other, _):
        session = await owner.create_session()
        found = await other.locate(session.id)
        assert isinstance(found, Peer)
        async with httpx2.AsyncClient(base_url=found.address, trust_env=False, timeout=PATIENCE) as http:
            for headers in ({}, {"otel-sessions-fleet": "x.y"}):
                assert (await http.get("/", headers=headers)).status_code == 403


async def test_a_host_that_is_not_here_is_an_error_that_says_so_and_may_be_tried_again(valkey: Program) -> None:
    manager: SessionManager[None] = SessionManager(fleet=fleet(valkey.url, address="http://192.0.2.1:0"))
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"cannot listen at a free port of 192\.0\.2\.1"):
            await manager.__aenter__()


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_on_trio_a_process_with_a_listener_of_its_own_says_that_it_needs_asyncio(folder: Path) -> None:
    with pytest.raises(ConfigError, match="asyncio only"):
        await SessionManager(fleet=fleet(NOWHERE, address=f"auto:{folder}")).__aenter__()
    assert names_in(folder) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("address", ["auto:{folder}", "http://127.0.0.1:0"])
async def test_a_forked_process_leaves_the_listener_of_its_parent_alone(
    valkey: Program, folder: Path, address: str
) -> None:
    address = address.format(folder=folder)
    async with member(valkey, address) as (owner, at_owner), member(valkey, address) as (_, at_other):
        session_id = (await at_owner.get("/")).headers["x-session-id"]
        reading, writing = os.pipe()
        if not (child := os.fork()):
            one = owner.fleet
            assert isinstance(one, ValkeyFleet)
            one.leave()
            os.write(writing, one.name.encode())
            os._exit(0)
        await anyio.to_thread.run_sync(os.waitpid, child, 0)
        assert os.read(reading, 100).decode() != owner.fleet.name
        assert (await at_other.get("/", headers={"x-session-id": session_id})).text == owner.fleet.name
        os.close(reading)
        os.close(writing)


@asynccontextmanager
async def member(valkey: Program, address: str) -> AsyncIterator[tuple[Any, httpx2.AsyncClient]]:
    """Run a process that answers with its name, and a client that talks to it only."""
    manager: SessionManager[None] = SessionManager(fleet=fleet(valkey.url, address=address, **CALM))

    async def say(_scope: Any, _receive: Any, send: Any) -> None:
        assert manager.fleet is not None
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": manager.fleet.name.encode()})

    async with (
        served(SessionLeaseMiddleware(say, manager, HeaderMatcher()), free_socket()) as url,
        manager,
        httpx2.AsyncClient(base_url=url, trust_env=False, timeout=PATIENCE) as http,
    ):
        yield manager, http
