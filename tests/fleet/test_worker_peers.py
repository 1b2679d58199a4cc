"""How a worker is set up in its folder, and how it lives with its manager."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from otel_sessions import ConfigError, Here, Peer, Session, SessionManager
from otel_sessions.asgi import RunManager, SessionLeaseMiddleware
from otel_sessions.fleet import WorkerPeers
from otel_sessions.matchers import HeaderMatcher
from tests.fleet.apps import free_socket, served
from tests.waiting import PATIENCE

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "workers"


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def sockets_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".sock")


async def say(scope: Any, receive: Any, send: Any) -> None:
    """Answer with what the scope says of the path, the prefix, the state and the user."""
    session: Session[Any] | None = scope["otel_sessions.session"]
    text = f"{scope['path']} {scope.get('root_path')} {scope.get('state')} {scope.get('user')} {session is not None}"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})


def with_user(app: Any) -> Any:
    """An app around the app, as one that authenticates."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "user": "ada"}, receive, send)

    return wrapped


def guarded(app: Any) -> Any:
    """An app around the app that answers or fails by itself, as a limit of rates and a handler of errors do."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/limited":
            await send({"type": "http.response.start", "status": 429, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
        elif scope["path"] == "/broken":
            raise EOFError
        elif scope["path"] == "/handled":
            try:
                await app({**scope, "path": "/raise"}, receive, send)
            except ZeroDivisionError:
                await send({"type": "http.response.start", "status": 507, "headers": [(b"content-length", b"0")]})
                await send({"type": "http.response.body", "body": b""})
        else:
            await app(scope, receive, send)

    return wrapped


async def dividing(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/raise":
        raise ZeroDivisionError
    await say(scope, receive, send)


@contextlib.asynccontextmanager
async def worker(folder: Path, *, prefix: str = "") -> AsyncIterator[tuple[SessionManager[None], httpx2.AsyncClient]]:
    """Run a worker, and a client that talks to it only. `prefix` is what its server adds to every path."""
    manager = SessionManager(fleet=WorkerPeers(folder, patience=PATIENCE))
    app = SessionLeaseMiddleware(say, manager, HeaderMatcher())

    async def behind_prefix(scope: Any, receive: Any, send: Any) -> None:
        added = {"root_path": prefix, "path": prefix + scope["path"], "raw_path": prefix.encode() + scope["raw_path"]}
        await app({**scope, **added} if prefix else scope, receive, send)

    async with contextlib.AsyncExitStack() as exits:
        url = await exits.enter_async_context(served(behind_prefix, free_socket()))
        await exits.enter_async_context(manager)
        http = httpx2.AsyncClient(base_url=url, trust_env=False, timeout=PATIENCE)
        yield manager, await exits.enter_async_context(http)


async def test_the_folder_and_what_is_in_it_are_open_to_this_user_only(folder: Path) -> None:
    async with SessionManager(fleet=WorkerPeers(folder)):
        (name,) = sockets_in(folder)
        assert [mode(path) for path in (folder, folder / "secret", folder / name)] == [0o700, 0o600, 0o600]
    assert sockets_in(folder) == []


async def test_workers_of_a_folder_share_a_secret_and_know_each_others_names(folder: Path) -> None:
    one, other = WorkerPeers(folder), WorkerPeers(folder)
    assert one.name != other.name
    async with SessionManager(fleet=one) as here, SessionManager(fleet=other) as there:
        session = await there.create_session()
        assert session.id.partition(".")[0] == other.name
        assert await there.locate(session.id) == Here()
        found = await here.locate(session.id)
        assert found == Peer(name=other.name, address=f"unix:{folder / other.name}.sock")
        assert await here.locate("nobody.x") is None
    assert len({path.name for path in folder.iterdir()} - {"secret"}) == 0


async def test_a_request_at_the_wrong_worker_is_served_by_the_owner(folder: Path) -> None:
    async with worker(folder) as (owner, at_owner), worker(folder) as (_, elsewhere):
        session_id = (await at_owner.get("/a%20b?x=1")).headers["x-session-id"]
        for http in (at_owner, elsewhere):
            answer = await http.get("/a%20b?x=1", headers={"x-session-id": session_id})
            assert answer.text.startswith("/a b ")
            assert answer.text.endswith("None True")
        assert owner.get_metrics().total_created == 1


async def test_a_prefix_that_the_server_adds_is_there_at_the_owner_too(folder: Path) -> None:
    async with worker(folder, prefix="/api") as (_, at_owner), worker(folder, prefix="/api") as (_, elsewhere):
        session_id = (await at_owner.get("/a")).headers["x-session-id"]
        forged = {"x-session-id": session_id, "otel-sessions-prefix": "/forged"}
        answer = await elsewhere.get("/a", headers=forged)
        assert answer.text.startswith("/api/a /api ")


async def test_what_stands_around_the_sessions_runs_at_the_owner_too(folder: Path) -> None:
    manager = SessionManager(fleet=WorkerPeers(folder, patience=PATIENCE))
    app = RunManager(with_user(SessionLeaseMiddleware(say, manager, HeaderMatcher())), manager)
    ready, over = asyncio.Event(), asyncio.Event()
    sent: list[str] = []

    async def receive() -> dict[str, str]:
        if not sent:
            return {"type": "lifespan.startup"}
        await over.wait()
        return {"type": "lifespan.shutdown"}

    async def send(message: Any) -> None:
        sent.append(message["type"])
        ready.set()

    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {"pool": 1}}
    living = asyncio.create_task(app(scope, receive, send))
    await ready.wait()
    assert sent == ["lifespan.startup.complete"]
    session = await manager.create_session()
    async with worker(folder) as (_, elsewhere):
        answer = await elsewhere.get("/a", headers={"x-session-id": session.id})
        assert answer.text == "/a  {'pool': 1} ada True"
    over.set()
    await living


@pytest.mark.parametrize(("path", "status"), [("/limited", 429), ("/broken", 500), ("/handled", 507), ("/raise", 500)])
async def test_what_the_app_around_the_sessions_answers_is_the_answer_of_the_owner(
    folder: Path, path: str, status: int
) -> None:
    fleet = WorkerPeers(folder, patience=PATIENCE)
    manager = SessionManager(fleet=fleet)
    fleet.serve_whole(guarded(SessionLeaseMiddleware(dividing, manager, HeaderMatcher())), {})
    async with manager, worker(folder) as (_, elsewhere):
        session = await manager.create_session()
        headers = {"x-session-id": session.id}
        assert (await elsewhere.get(path, headers=headers)).status_code == status
        assert (await elsewhere.get("/", headers=headers)).status_code == 200
        assert (await elsewhere.get("/", headers={"x-session-id": f"{fleet.name}.x"})).status_code == 404


async def test_a_worker_without_an_app_has_no_session_for_its_peers(folder: Path) -> None:
    async with SessionManager(fleet=WorkerPeers(folder)) as owner, worker(folder) as (_, elsewhere):
        session = await owner.create_session()
        answer = await elsewhere.get("/a", headers={"x-session-id": session.id})
        assert answer.status_code == 404


@pytest.mark.parametrize("headers", [{}, {"otel-sessions-fleet": "x"}, {"otel-sessions-fleet": "x.y"}])
async def test_the_socket_of_a_worker_takes_only_what_a_peer_has_signed(folder: Path, headers: dict[str, str]) -> None:
    async with worker(folder):
        transport = httpx2.AsyncHTTPTransport(uds=str(folder / sockets_in(folder)[0]))
        async with httpx2.AsyncClient(transport=transport, base_url="http://x", timeout=PATIENCE) as http:
            assert (await http.get("/a", headers=headers)).status_code == 403


async def test_sockets_of_dead_workers_and_old_leftovers_go_when_a_worker_starts(folder: Path) -> None:
    WorkerPeers(folder)
    for name in ("dead.sock", "dead.new", "young.new"):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(folder / name))
    os.utime(folder / "dead.new", (0, 0))
    with socket.socket(socket.AF_UNIX) as full:
        full.bind(str(folder / "stopped.sock"))
        full.listen(0)
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(str(folder / "stopped.sock"))
            async with SessionManager(fleet=WorkerPeers(folder)):
                left_over = {path.name for path in folder.iterdir()}
    assert left_over >= {"young.new", "stopped.sock"}
    assert not left_over & {"dead.sock", "dead.new"}


async def test_a_manager_may_be_entered_again_and_each_run_has_a_socket(folder: Path) -> None:
    manager = SessionManager(fleet=WorkerPeers(folder))
    for _ in range(2):
        async with manager:
            assert len(sockets_in(folder)) == 1
        assert sockets_in(folder) == []


async def test_a_worker_that_cannot_listen_says_so_and_may_try_again(folder: Path) -> None:
    manager = SessionManager(fleet=WorkerPeers(folder))
    moved = folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(ConfigError, match="the worker cannot listen"):
        await manager.__aenter__()
    moved.rename(folder)
    async with manager:
        assert len(sockets_in(folder)) == 1


async def test_without_the_server_that_it_needs_the_error_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "otel_sessions.fleet.listener", raising=False)
    manager = SessionManager(fleet=WorkerPeers(folder))
    with pytest.raises(ConfigError, match=r"pip install 'otel-sessions\[fleet\]'"):
        await manager.__aenter__()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_a_forked_process_has_another_name_and_leaves_its_parents_socket_alone(folder: Path) -> None:
    fleet = WorkerPeers(folder)
    async with SessionManager(fleet=fleet) as manager:
        before, name = sockets_in(folder), fleet.name
        reading, writing = os.pipe()
        if not (child := os.fork()):
            fleet.leave()
            os.write(writing, fleet.name.encode())
            os._exit(0)
        await anyio.to_thread.run_sync(os.waitpid, child, 0)
        assert os.read(reading, 100).decode() != name
        assert sockets_in(folder) == before
        async with worker(folder) as (_, http):
            session = await manager.create_session()
            assert (await http.get("/a", headers={"x-session-id": session.id})).status_code == 404
    os.close(reading)
    os.close(writing)


async def test_what_a_fork_starts_anew_has_closed_its_copy_of_the_listener(folder: Path) -> None:
    fleet = WorkerPeers(folder)
    manager = SessionManager(fleet=fleet)
    async with manager:
        before, name = sockets_in(folder), fleet.name
        fleet.start_anew_after_fork()
        assert fleet.name != name
        assert sockets_in(folder) == before
    async with SessionManager(fleet=WorkerPeers(folder)):
        assert sockets_in(folder) != before


async def test_a_worker_that_ends_before_it_listens_leaves_nothing(folder: Path) -> None:
    fleet = WorkerPeers(folder)
    fleet.start_anew_after_fork()
    fleet.enter()
    fleet.leave()
    assert sockets_in(folder) == []


async def test_a_worker_that_ends_closes_the_connections_that_its_peers_keep(folder: Path) -> None:
    async with worker(folder) as (_, elsewhere):
        async with worker(folder) as (_, at_owner):
            session_id = (await at_owner.get("/a")).headers["x-session-id"]
            assert (await elsewhere.get("/a", headers={"x-session-id": session_id})).status_code == 200
        assert (await elsewhere.get("/a", headers={"x-session-id": session_id})).status_code == 404


@pytest.mark.parametrize("spoilt", ["folder", "secret", "is a file", "secret is a folder"])
async def test_a_folder_that_others_may_open_or_that_is_none_is_an_error(folder: Path, spoilt: str) -> None:
    if spoilt == "is a file":
        folder.write_text("")
    else:
        WorkerPeers(folder)
    if spoilt == "folder":
        folder.chmod(0o750)
    elif spoilt == "secret":
        (folder / "secret").chmod(0o640)
    elif spoilt == "secret is a folder":
        (folder / "secret").unlink()
        (folder / "secret").mkdir(0o700)
    with pytest.raises(ConfigError, match=r"must belong to the user|cannot be used"):
        WorkerPeers(folder)


async def test_a_folder_whose_path_no_address_can_have_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="address of a process"):
        WorkerPeers(tmp_path / "with space")


async def test_a_folder_whose_path_is_too_long_for_a_socket_is_an_error_that_says_so(tmp_path: Path) -> None:
    manager = SessionManager(fleet=WorkerPeers(tmp_path / ("x" * 200)))
    with pytest.raises(ConfigError, match="cannot listen"):
        await manager.__aenter__()


async def test_an_exchange_of_another_protocol_passes_to_the_app(folder: Path) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    scope = {"type": "mail"}
    middleware: Any = SessionLeaseMiddleware(app, SessionManager(fleet=WorkerPeers(folder)), HeaderMatcher())
    await middleware(scope, None, None)
    assert seen == [scope]
