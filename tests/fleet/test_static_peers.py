"""How a fleet is set up, and how it lives with its manager."""

import os
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from otel_sessions import ConfigError, Here, ManagerClosed, Peer, SessionManager
from otel_sessions.asgi import SessionLeaseMiddleware
from otel_sessions.fleet import StaticPeers
from otel_sessions.matchers import McpMatcher
from tests.exchanges import Client, http

LIST = {"w1": "http://10.0.0.1:8000", "w2": "http://10.0.0.2:8000"}
SECRET = "a secret of the whole fleet"


@pytest.fixture
def asyncio_only() -> str:
    return "asyncio"


def peers(**settings: Any) -> StaticPeers:
    return StaticPeers(**{"peers": LIST, "name": "w1", "secret": SECRET, **settings})


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"peers": None}, "either a list of peers or dns="),
        ({"dns": "http://gateway"}, "either a list of peers or dns="),
        ({"peers": None, "dns": "gateway"}, "takes a URL"),
        ({"peers": {"w1": "10.0.0.1"}}, "takes a URL"),
        ({"peers": {"w.1": "http://x"}}, "1 to 32 letters"),
        ({"peers": None, "dns": "http://x", "name": "w.1"}, "1 to 32 letters"),
        ({"name": None}, "needs name="),
        ({"name": "w3"}, "does not name this process, 'w3'; it names w1, w2"),
        ({"secret": "short"}, "at least 16 bytes"),
        ({"secret": []}, "at least 16 bytes"),
        ({"secret": [SECRET, b"short"]}, "at least 16 bytes"),
        ({"secret": Path("/nowhere/secret")}, "cannot be read"),
        ({"peers": Path("/nowhere/peers")}, "cannot be read"),
        ({"patience": 0.0}, "patience"),
    ],
)
def test_a_setting_that_is_wrong_is_an_error_that_says_so(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        peers(**settings)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_ids_that_are_made_here_name_this_process() -> None:
    async with SessionManager(fleet=peers()) as manager:
        made = await manager.create_session()
        given = await manager.create_session("given")
        async with manager.reserve() as place:
            reserved = place.commit()
        assert [session.id.partition(".")[0] for session in (made, given, reserved)] == ["w1", "given", "w1"]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_locate_says_which_process_an_id_leads_to() -> None:
    async with SessionManager(fleet=peers()) as manager:
        session = await manager.create_session()
        await manager.create_session("of-an-app")
        assert await manager.locate(session.id) == Here()
        assert await manager.locate("w1.of-an-app") == Here()
        assert await manager.locate("w2.x") == Peer(name="w2", address="http://10.0.0.2:8000")
        for unknown in ("w1.x", "w3.x", "x", "", ".x", "w2", "ä.x", "w2 .x", f"{'w' * 33}.x"):
            assert await manager.locate(unknown) is None


@pytest.mark.anyio
async def test_without_a_fleet_an_id_leads_here_or_nowhere() -> None:
    async with SessionManager() as manager:
        session = await manager.create_session()
        assert "." not in session.id
        assert await manager.locate(session.id) == Here()
        assert await manager.locate("w2.x") is None
    with pytest.raises(ManagerClosed):
        await manager.locate(session.id)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_on_trio_a_manager_with_peers_says_that_it_runs_on_asyncio_only() -> None:
    manager = SessionManager(fleet=peers())
    with pytest.raises(ConfigError, match="asyncio only"):
        await manager.__aenter__()
    with pytest.raises(ManagerClosed, match="never entered"):
        await manager.create_session()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_fleet_belongs_to_one_manager_at_a_time() -> None:
    fleet = peers()
    first, second = SessionManager(fleet=fleet), SessionManager(fleet=fleet)
    async with first:
        with pytest.raises(ConfigError, match="belongs to one manager"):
            await second.__aenter__()
        await first.create_session()
    async with second:
        await second.create_session()
    async with first:
        assert len(first) == 0


def test_a_manager_whose_loop_was_closed_may_enter_its_fleet_again() -> None:
    manager = SessionManager(fleet=peers())

    async def enter() -> None:
        await manager.__aenter__()

    anyio.run(enter)
    anyio.run(enter)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_without_its_packages_a_fleet_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "otel_sessions.fleet.links", None)
    with pytest.raises(ConfigError, match=r"pip install 'otel-sessions\[fleet\]'"):
        await SessionManager(fleet=peers()).__aenter__()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_forked_process_has_a_random_name_of_its_own_and_keeps_a_given_one() -> None:
    random = StaticPeers(dns="http://gateway", secret=SECRET)
    given = peers()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, f"{random.name} {given.name}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    names = os.read(reading, 1000).decode().split()
    assert names[0] != random.name
    assert names[1] == given.name == "w1"


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """An app."""


def test_a_matcher_without_hints_in_an_app_that_makes_ids_says_what_to_use() -> None:
    with pytest.raises(ConfigError, match=r"McpMatcher\(hint=True\)"):
        SessionLeaseMiddleware(nothing, SessionManager(fleet=peers()), McpMatcher())


def test_a_fleet_that_passes_nothing_on_is_no_fleet_for_the_middleware() -> None:
    class Other:
        name = "w1"

    manager: SessionManager[None] = SessionManager(fleet=Other())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"fleet of otel_sessions\.fleet"):
        SessionLeaseMiddleware(nothing, manager)


@pytest.mark.anyio
async def test_hints_without_a_fleet_change_nothing() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"mcp-session-id", b"x.y")]})
        await send({"type": "http.response.body", "body": b""})

    async with SessionManager() as manager:
        client = Client(http("POST", content_type="application/json"))
        client.says = [{"type": "http.request", "body": b'{"jsonrpc":"2.0","id":0,"method":"initialize"}'}]
        await client.go(SessionLeaseMiddleware(app, manager, McpMatcher(hint=True)))
        assert client.headers(b"mcp-session-id") == [b"x.y"]
        assert "x.y" in manager


class Looking:
    """A fleet that finds a session without a hint in its id."""

    name = "w1"
    needs_hints = False

    def enter(self) -> None: ...

    def leave(self) -> None: ...

    async def wait_quiet(self) -> None: ...

    async def locate(self, session_id: str) -> None: ...

    async def locate_again(self, session_id: str, wrong: Peer) -> None: ...

    async def forward(self, peer: Any, session_id: str, scope: Any, receive: Any, send: Any) -> bool:
        return False

    def is_forwarded(self, scope: Any) -> bool:
        return False

    async def take(self, scope: Any, receive: Any, send: Any, serve: Any) -> None: ...


def test_a_fleet_that_needs_no_hints_takes_a_matcher_without_them() -> None:
    SessionLeaseMiddleware(nothing, SessionManager(fleet=Looking()), McpMatcher())


@pytest.mark.anyio
async def test_before_its_manager_runs_a_fleet_waits_for_nothing_and_may_be_left() -> None:
    fleet = peers()
    fleet.leave()
    await fleet.wait_quiet()


def test_the_public_names_of_fleets_are_in_order() -> None:
    from otel_sessions import fleet

    assert set(fleet.__all__) <= set(dir(fleet))
    with pytest.raises(AttributeError, match="no attribute 'Absent'"):
        fleet.Absent  # noqa: B018


def test_what_a_forked_process_begins_anew_is_its_random_name_alone() -> None:
    random, given = StaticPeers(dns="http://gateway", secret=SECRET), peers()
    before = random.name
    random.start_anew_after_fork()
    given.start_anew_after_fork()
    assert random.name != before
    assert given.name == "w1"


@pytest.mark.anyio
async def test_a_fleet_without_signals_runs_with_its_manager() -> None:
    async with SessionManager(fleet=Looking()) as manager:
        session = await manager.create_session()
        assert session.id in manager


def test_the_secrets_of_a_fleet_are_those_that_its_file_has_now(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("the secret of last year\n")
    fleet = StaticPeers({"w1": "http://h:1"}, name="w1", secret=file)
    assert len(fleet.current_secrets().keys) == 1
    assert (
        fleet.current_secrets().keys
        == StaticPeers({"w1": "http://h:1"}, name="w1", secret="the secret of last year").current_secrets().keys
    )
