"""Sessions of an app in the same process end with ours: by its own count, with fakes and with real MCP servers."""

import gc
import json
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import fastmcp
import httpx2
import pytest
from fastmcp.server.auth.providers.jwt import StaticTokenVerifier
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from pydantic import AnyHttpUrl
from starlette.applications import Starlette
from starlette.routing import Mount

from otel_sessions import EndReason, Session, SessionConfig, SessionManager
from otel_sessions.asgi import ASGIApp, EndInApp, Receive, Scope, Send, SessionLeaseMiddleware, lifespan
from otel_sessions.matchers import McpMatcher
from tests.exchanges import Client, http
from tests.virtual import Clock

pytestmark = pytest.mark.anyio

CONFIG = SessionConfig(max_idle_time=20, drain_timeout=1)
ABOUT = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
INITIALIZE = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": ABOUT}
HEADERS = {"accept": "application/json, text/event-stream", "authorization": "Bearer secret"}


@dataclass
class App:
    """An app that announces `makes` and answers with `status`; it keeps every scope, and forgets nothing else."""

    makes: str | None = "one"
    status: int = 200
    asked: list[Scope] = field(default_factory=list)
    user: object = None

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        self.asked.append({**scope})
        if self.user is not None:
            scope["user"] = self.user  # as an authentication middleware of Starlette's does
        headers = [] if self.makes is None else [(b"mcp-session-id", self.makes.encode())]
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    def goodbyes(self) -> list[Scope]:
        return [scope for scope in self.asked if scope["method"] == "DELETE"]


async def session_named(name: str) -> Session[None]:
    async with SessionManager() as manager:
        return await manager.create_session(name)


def opening(path: str = "/mcp", **headers: str) -> Scope:
    return {**http("POST", host="here:80", authorization="secret", **headers), "path": path, "root_path": "/tools"}


async def test_the_app_is_told_where_the_session_began_with_its_host_and_no_credentials() -> None:
    app = App()
    ending = EndInApp(app)
    await Client(opening("/tools/mcp")).go(ending)

    await ending.end(await session_named("one"), EndReason.IDLE_TIMEOUT)

    (goodbye,) = app.goodbyes()
    assert (goodbye["type"], goodbye["path"], goodbye["root_path"]) == ("http", "/tools/mcp", "/tools")
    assert goodbye["headers"] == [(b"host", b"here:80"), (b"mcp-session-id", b"one")]


async def test_the_app_inside_the_authentication_is_told_for_the_user_who_opened() -> None:
    outside, inside = App(user="ada"), App()
    ending = EndInApp(outside, inside)
    await Client(opening()).go(ending)

    await ending.end(await session_named("one"), EndReason.MAX_AGE)

    assert outside.goodbyes() == []
    (goodbye,) = inside.goodbyes()
    assert goodbye["user"] == "ada"


async def test_headers_of_ones_own_go_with_it_and_replace_the_host() -> None:
    app = App()
    ending = EndInApp(app, headers=[(b"Host", b"localhost:9"), (b"mcp-protocol-version", b"2025-11-25")])
    await Client(opening()).go(ending)

    await ending.end(await session_named("one"), EndReason.CLOSED)

    (goodbye,) = app.goodbyes()
    assert goodbye["headers"] == [
        (b"host", b"localhost:9"),
        (b"mcp-protocol-version", b"2025-11-25"),
        (b"mcp-session-id", b"one"),
    ]


@pytest.mark.parametrize("status", [200, 202, 204, 400, 404, 405, 410, 501])
async def test_an_app_that_ends_it_or_cannot_has_been_told(status: int) -> None:
    app = App()
    ending = EndInApp(app)
    await Client(opening()).go(ending)
    app.status = status
    await ending.end(await session_named("one"), EndReason.CLOSED)
    assert len(app.goodbyes()) == 1


@pytest.mark.parametrize("status", [301, 401, 403, 421, 500, 503])
async def test_any_other_answer_is_an_error(status: int) -> None:
    app = App()
    ending = EndInApp(app)
    await Client(opening()).go(ending)
    app.status = status
    with pytest.raises(RuntimeError, match=f"answered {status}"):
        await ending.end(await session_named("one"), EndReason.CLOSED)


async def test_an_app_that_does_not_answer_is_an_error() -> None:
    async def silent(scope: Any, receive: Receive, send: Send) -> None:
        pass

    with pytest.raises(RuntimeError, match="did not answer"):
        await EndInApp(silent).end_stray("one", opening())


async def test_an_app_that_waits_for_its_client_to_leave_sees_it_leave_after_the_answer() -> None:
    seen: list[object] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b"b"})
        seen.append((await receive())["type"])

    await EndInApp(app).end_stray("one", opening())
    assert seen == ["http.disconnect"]


async def test_a_session_that_its_client_has_ended_is_not_ended_again() -> None:
    app = App()
    ending = EndInApp(app)
    await Client(opening()).go(ending)
    await Client({**opening(mcp_session_id="one"), "method": "DELETE"}).go(ending)

    await ending.end(await session_named("one"), EndReason.CLOSED)

    assert len(app.goodbyes()) == 1  # the client's own


@pytest.mark.parametrize(("status", "path"), [(405, "/mcp"), (404, "/mcp"), (204, "/files/3")])
async def test_a_session_that_was_not_surely_ended_by_its_client_is_ended(status: int, path: str) -> None:
    app = App()
    ending = EndInApp(app)
    await Client(opening()).go(ending)
    app.status = status
    await Client({**opening(path, mcp_session_id="one"), "method": "DELETE"}).go(ending)

    await ending.end(await session_named("one"), EndReason.CLOSED)

    assert len(app.goodbyes()) == 2


async def test_a_later_answer_that_repeats_the_id_does_not_move_the_session() -> None:
    app = App()
    ending = EndInApp(app)
    await Client(opening()).go(ending)
    await Client(opening("/other", mcp_session_id="one")).go(ending)
    await ending.end(await session_named("one"), EndReason.CLOSED)
    assert app.goodbyes()[0]["path"] == "/mcp"


async def test_a_session_that_the_app_has_not_made_needs_no_goodbye() -> None:
    app = App()
    ending = EndInApp(app)
    await Client(opening()).go(ending)
    await ending.end(await session_named("ours"), EndReason.CLOSED)
    assert app.goodbyes() == []


async def test_an_app_that_is_served_past_it_is_loud() -> None:
    with pytest.raises(RuntimeError, match="serve the EndInApp instead of the app"):
        await EndInApp(App()).end(await session_named("one"), EndReason.CLOSED)


async def test_the_memory_is_bounded_and_a_warning_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    app = App()
    ending = EndInApp(app, limit=2)
    for name in ("one", "two", "three", "four"):
        app.makes = name
        await Client(opening()).go(ending)

    for name in ("one", "two", "three", "four"):
        await ending.end(await session_named(name), EndReason.CLOSED)

    assert [scope["headers"][1:] for scope in app.goodbyes()] == [
        [(b"mcp-session-id", b"three")],
        [(b"mcp-session-id", b"four")],
    ]
    assert [record.message for record in caplog.records] == [
        "the app has more than 2 open sessions; EndInApp cannot end the oldest ones: raise its limit"
    ]


async def test_two_apps_behind_one_router_are_each_told_of_their_own() -> None:
    one, two = App(), App(makes="two")
    ending = EndInApp(Starlette(routes=[Mount("/one", one), Mount("/two", two)]))
    await Client({**opening("/one/mcp"), "root_path": ""}).go(ending)
    await Client({**opening("/two/mcp"), "root_path": ""}).go(ending)

    for name in ("one", "two"):
        await ending.end(await session_named(name), EndReason.MAX_AGE)

    assert [goodbye["path"] for goodbye in one.goodbyes()] == ["/one/mcp"]
    assert [goodbye["path"] for goodbye in two.goodbyes()] == ["/two/mcp"]


async def test_a_stray_is_ended_for_its_user_and_then_forgotten() -> None:
    outside, inside = App(user="ada", status=406), App()
    ending = EndInApp(outside, inside)
    await Client(opening()).go(ending)

    await ending.end_stray("one", opening())

    await ending.end(await session_named("one"), EndReason.CLOSED)
    assert [goodbye["user"] for goodbye in inside.goodbyes()] == ["ada"]


class Kept:
    """What an app leaves in the state of its request."""


async def stateful(scope: Any, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        scope["state"]["pool"] = "of the lifespan"
        return
    seen.append(dict(scope["state"]))
    scope["state"]["kept"] = left = Kept()
    kept.append(weakref.ref(left))
    await App()(scope, receive, send)


seen: list[dict[str, Any]] = []
kept: list["weakref.ref[Kept]"] = []


class TestState:
    """What the state of a scope shows of the session."""

    @pytest.mark.parametrize("with_lifespan", [True, False])
    @pytest.mark.parametrize("separate", [True, False])
    async def test_the_app_gets_its_lifespans_state_and_what_a_request_left_is_not_kept(
        self, with_lifespan: bool, separate: bool
    ) -> None:
        seen.clear()
        kept.clear()
        ending = EndInApp(stateful, stateful if separate else None)
        state: dict[str, Any] = {} if with_lifespan else {"pool": "of the lifespan"}
        if with_lifespan:
            await Client({"type": "lifespan", "state": state}).go(ending)

        await Client({**opening(), "state": dict(state)}).go(ending)
        gc.collect()
        assert kept[0]() is None

        await ending.end(await session_named("one"), EndReason.CLOSED)

        assert seen == [{"pool": "of the lifespan"}] * 2
        assert state == {"pool": "of the lifespan"}

    async def test_a_stray_of_a_websocket_is_ended_over_http(self) -> None:
        app = App()

        await EndInApp(app).end_stray("one", {**http(scheme="wss"), "type": "websocket"})

        (goodbye,) = app.goodbyes()
        assert (goodbye["type"], goodbye["scheme"]) == ("http", "https")

    async def test_websockets_and_lifespans_pass(self) -> None:
        seen: list[object] = []

        async def app(scope: Any, receive: Receive, send: Send) -> None:
            seen.append(scope["type"])

        for kind in ("websocket", "lifespan"):
            await EndInApp(app)({"type": kind}, Client({}).receive, Client({}).send)
        assert seen == ["websocket", "lifespan"]

    async def test_what_an_app_announces_in_a_refusal_is_ended_in_the_app(self) -> None:
        app = App(status=406)
        ending = EndInApp(app)
        async with SessionManager(on_close=ending.end) as manager:
            leased = SessionLeaseMiddleware(ending, manager, McpMatcher(), on_stray=ending.end_stray)
            body = json.dumps(INITIALIZE).encode()
            scope = opening(content_type="application/json")
            await Client(scope, [{"type": "http.request", "body": body}]).go(leased)
            assert len(manager) == 0
        assert [goodbye["headers"][-1] for goodbye in app.goodbyes()] == [(b"mcp-session-id", b"one")]


class Verifier:
    async def verify_token(self, token: str) -> AccessToken | None:
        return AccessToken(token=token, client_id="ada", scopes=[]) if token == "secret" else None


Made = tuple[Starlette, ASGIApp | None, Callable[[], StreamableHTTPSessionManager]]


def sdk() -> Made:
    server = MCPServer("notes")
    return server.streamable_http_app(), None, lambda: server.session_manager


def sdk_with_authentication() -> Made:
    here = AnyHttpUrl("http://127.0.0.1:8000")
    settings = AuthSettings(issuer_url=here, resource_server_url=here, validate_token_resource=False)
    server = MCPServer("notes", auth=settings, token_verifier=Verifier())
    app = server.streamable_http_app()
    return app, server.session_manager.handle_request, lambda: server.session_manager


def fast() -> Made:
    app = fastmcp.FastMCP("notes").http_app()
    return app, None, lambda: endpoint(app).session_manager


def fast_with_authentication() -> Made:
    verifier = StaticTokenVerifier({"secret": {"client_id": "ada", "scopes": []}})
    app = fastmcp.FastMCP("notes", auth=verifier).http_app()
    return app, endpoint(app).app, lambda: endpoint(app).app.session_manager


def endpoint(app: Starlette) -> Any:
    (route,) = [route for route in app.routes if getattr(route, "path", None) == "/mcp"]
    return getattr(route, "endpoint", None)


class TestRealMcpServers:
    """The middleware in front of real MCP servers."""

    @pytest.mark.parametrize("make", [sdk, sdk_with_authentication, fast, fast_with_authentication])
    @pytest.mark.parametrize("prefix", ["", "/tools"])
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    async def test_abandoned_sessions_leave_nothing_in_the_app(
        self, clock: Clock, make: Callable[[], Made], prefix: str
    ) -> None:
        mcp_app, inside, counted = make()
        ending = EndInApp(mcp_app, inside)
        manager: SessionManager[None] = SessionManager(CONFIG, clock=clock, on_close=ending.end)
        leased = SessionLeaseMiddleware(ending, manager, McpMatcher(), on_stray=ending.end_stray)
        app = Starlette(routes=[Mount(prefix, leased)], lifespan=lifespan(manager, mcp_app.router.lifespan_context))
        http = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app), base_url=f"http://127.0.0.1:8000{prefix}", headers=HEADERS
        )
        async with app.router.lifespan_context(app), http:
            for _round in range(4):
                for _client in range(5):
                    answer = await http.post("/mcp", json=INITIALIZE)
                    assert answer.status_code == 200
                assert (len(manager), len(counted()._server_instances)) == (5, 5)
                clock.skew += 30
                report = await manager.cleanup_stale_sessions()
                assert (report.total_cleaned, report.hook_errors) == (5, 0)
                assert (len(manager), len(counted()._server_instances)) == (0, 0)
            await http.post("/mcp", json=INITIALIZE)
        assert manager.get_metrics().cleanup_errors == 0
