"""Matchers, and the middleware under each of them, against apps that answer as their protocols do."""

import gc
import json
import weakref
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_sessions import (
    EndReason,
    ManagerClosed,
    Session,
    SessionConfig,
    SessionManager,
    SessionNotFound,
    TooManySessions,
)
from otel_sessions.asgi import SESSION, Message, Receive, Scope, Send, SessionLeaseMiddleware
from otel_sessions.matchers import (
    CookieMatcher,
    HeaderMatcher,
    Match,
    McpMatcher,
    Opens,
    SessionMatcher,
    header,
    headers_of,
    pairs_of,
)
from tests.exchanges import INITIALIZE, Client, http, http_body, initializing, posting
from tests.virtual import Clock, settle

pytestmark = pytest.mark.anyio

SPELLINGS = (b"mcp-session-id", b"mcp_session_id", b"mcp.session-id")
SENT = st.tuples(st.sampled_from([*SPELLINGS, b"content-length", b"host"]), st.sampled_from([b"1", b"own", b"other"]))
CONFIG = SessionConfig(max_sessions=2, cleanup_interval=5, max_idle_time=20, max_session_age=60, drain_timeout=1)
SSE = (b"content-type", b"text/event-stream; charset=utf-8")


@pytest.fixture
async def manager(clock: Clock) -> AsyncIterator[SessionManager[object]]:
    async with SessionManager[object](CONFIG, clock=clock) as manager:
        yield manager


@dataclass
class Answering:
    """An app that answers the same to everybody, and keeps what it was asked."""

    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()
    chunks: tuple[bytes, ...] = (b"done",)
    forever: bool = False
    scopes: list[Scope] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        await send({"type": "http.response.start", "status": self.status, "headers": list(self.headers)})
        for chunk in self.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if self.forever:
            await anyio.sleep_forever()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def mcp(manager: SessionManager[object], app: Answering, **settings: Any) -> SessionLeaseMiddleware:
    return SessionLeaseMiddleware(app, manager, McpMatcher(), **settings)


INITIALIZED = Answering(headers=((b"mcp-session-id", b"of-the-upstream"),))


async def close_own(manager: SessionManager[object]) -> None:
    assert await manager.close_session("of-the-upstream")


class TestMcp:
    """Ids that MCP servers make."""

    async def test_an_upstreams_answer_to_initialize_makes_the_session_under_the_upstreams_id(
        self,
        manager: SessionManager[object],
    ) -> None:
        client = await initializing().go(mcp(manager, INITIALIZED))

        assert client.headers(b"mcp-session-id") == [b"of-the-upstream"]
        assert "of-the-upstream" in manager
        assert manager.get_metrics().reserved == 0
        assert manager.get_metrics().leased == 0

    @pytest.mark.parametrize("app", [Answering(), Answering(400, ((b"mcp-session-id", b"x"),)), Answering(500)])
    async def test_an_answer_that_establishes_nothing_leaves_no_session_and_no_place(
        self, manager: SessionManager[object], app: Answering
    ) -> None:
        client = await initializing().go(mcp(manager, app))

        assert client.status == app.status
        assert manager.get_metrics().total_created == 0
        assert manager.get_metrics().reserved == 0

    async def test_an_app_that_raises_before_its_answer_leaves_no_place_and_its_error_is_its_own(
        self,
        manager: SessionManager[object],
    ) -> None:
        async def broken(scope: Scope, receive: Receive, send: Send) -> None:
            raise OSError("upstream")

        with pytest.raises(OSError, match="upstream"):
            await initializing().go(SessionLeaseMiddleware(broken, manager, McpMatcher()))

        assert manager.get_metrics().reserved == 0
        assert manager.get_metrics().total_created == 0

    @pytest.mark.parametrize(
        "error", [TooManySessions(1), ManagerClosed("another manager"), SessionNotFound("another")]
    )
    async def test_the_apps_own_errors_of_these_kinds_stay_its_own(
        self, manager: SessionManager[object], error: Exception
    ) -> None:
        async def failing(scope: Scope, receive: Receive, send: Send) -> None:
            raise error

        with pytest.raises(type(error)) as caught:
            await initializing().go(SessionLeaseMiddleware(failing, manager, McpMatcher()))

        assert caught.value is error

    async def test_the_session_is_leased_while_the_answer_that_made_it_goes_on(
        self, manager: SessionManager[object]
    ) -> None:
        app = Answering(headers=(SSE, *INITIALIZED.headers), forever=True)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(initializing().go, mcp(manager, app))
            await settle()
            assert manager.get_metrics().leased == 1
            tasks.cancel_scope.cancel()

        assert manager.get_metrics().leased == 0
        assert len(manager) == 1

    async def test_a_session_closed_under_the_answer_that_made_it_ends_the_stream(
        self,
        manager: SessionManager[object],
    ) -> None:
        client = initializing()
        app = Answering(headers=(SSE, *INITIALIZED.headers), chunks=(b"data: 1\n\n",), forever=True)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.go, mcp(manager, app))
            await settle()
            assert await manager.close_session("of-the-upstream")

        assert client.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}

    @pytest.mark.parametrize("task", ["the app's own", "a child of the app", "the one that the app is a child of"])
    async def test_an_app_that_ends_its_own_session_in_its_opening_exchange_goes_on(
        self, manager: SessionManager[object], task: str
    ) -> None:
        ended: list[float] = []

        async def logout() -> None:
            began = anyio.current_time()
            await close_own(manager)
            ended.append(anyio.current_time() - began)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            start: Message = {"type": "http.response.start", "status": 200, "headers": [SSE, *INITIALIZED.headers]}
            told, over = anyio.Event(), anyio.Event()

            async def say(message: Message) -> None:
                await send(message)

            async def child() -> None:
                await told.wait()
                await logout()
                over.set()

            async with anyio.create_task_group() as tasks:
                if task == "a child of the app":
                    tasks.start_soon(child)
                if task == "the one that the app is a child of":
                    tasks.start_soon(say, start)
                    await settle()
                    await logout()
                else:
                    await send(start)
                    told.set()
                    await (over.wait() if task == "a child of the app" else logout())
            await send({"type": "http.response.body", "body": b"done", "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        client = await initializing().go(SessionLeaseMiddleware(app, manager, McpMatcher()))

        assert client.body == b"done"
        assert ended == [0]  # nobody was waited for
        assert len(manager) == 0
        assert manager.get_metrics().leased == 0

    async def test_an_app_that_ends_its_own_session_still_has_its_close_hook_called_once(self, clock: Clock) -> None:
        hooks: list[EndReason] = []

        async def on_close(session: Session[object], reason: EndReason) -> None:
            hooks.append(reason)

        manager = SessionManager[object](CONFIG, clock=clock, on_close=on_close)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": [SSE, *INITIALIZED.headers]})
            await close_own(manager)
            await send({"type": "http.response.body", "body": b"done"})

        async with manager:
            client = await initializing().go(SessionLeaseMiddleware(app, manager, McpMatcher()))

        assert client.body == b"done"
        assert hooks == [EndReason.CLOSED]

    async def test_a_task_that_outlives_the_opening_exchange_is_a_stranger_to_later_ones(
        self,
        manager: SessionManager[object],
    ) -> None:
        go = anyio.Event()
        apps = Answering(headers=(SSE, *INITIALIZED.headers), forever=True)

        async with anyio.create_task_group() as tasks:

            async def later() -> None:
                await go.wait()
                await close_own(manager)

            async def app(scope: Scope, receive: Receive, send: Send) -> None:
                if scope["method"] == "POST":
                    tasks.start_soon(later)
                    await Answering(headers=INITIALIZED.headers)(scope, receive, send)
                else:
                    await apps(scope, receive, send)

            leased = SessionLeaseMiddleware(app, manager, McpMatcher())
            await initializing().go(leased)
            stream = Client(http("GET", mcp_session_id="of-the-upstream"))
            tasks.start_soon(stream.go, leased)
            await settle()
            go.set()

        assert stream.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}

    async def test_at_the_cap_an_opening_is_refused_in_json_rpc_before_the_app_is_asked(
        self,
        manager: SessionManager[object],
    ) -> None:
        for name in ("a", "b"):
            await manager.create_session(name, data=None)
        app = Answering()

        client = await initializing().go(mcp(manager, app))

        assert client.status == 503
        assert client.headers(b"retry-after") == [b"5"]
        assert client.headers(b"content-type") == [b"application/json"]
        assert json.loads(client.body)["error"]["code"] == -32000
        assert app.scopes == []

    async def test_an_answer_without_an_id_gives_the_place_back_while_it_goes_on(
        self, manager: SessionManager[object]
    ) -> None:
        app = Answering(headers=(SSE,), forever=True)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(initializing().go, mcp(manager, app))
            await settle()

            assert app.scopes[0][SESSION] is None
            assert manager.get_metrics().reserved == 0
            tasks.cancel_scope.cancel()

    async def test_the_session_stands_in_the_scope_as_soon_as_the_app_has_answered(
        self, manager: SessionManager[object]
    ) -> None:
        app = Answering(headers=((b"mcp-session-id", b"s"),))

        await initializing().go(mcp(manager, app))

        assert app.scopes[0][SESSION] is manager.get("s")

    async def test_a_matcher_may_ask_the_session_whether_an_answer_ends_it(
        self, manager: SessionManager[object]
    ) -> None:
        class Persistent(McpMatcher):
            def ends(self, scope: Scope, status: int) -> bool:
                session = scope[SESSION]
                assert isinstance(session, Session)
                return bool(session.data != "keep" and super().ends(scope, status))

        for name in ("keep", "lose"):
            await manager.create_session(name, data=name)
            app = SessionLeaseMiddleware(Answering(404), manager, Persistent())
            await Client(http("GET", mcp_session_id=name)).go(app)

        assert "keep" in manager
        assert "lose" not in manager

    async def test_an_unknown_id_is_answered_as_the_sdks_do(self, manager: SessionManager[object]) -> None:
        app = Answering()

        client = await Client(http("POST", mcp_session_id="nobody")).go(mcp(manager, app))

        assert client.status == 404
        assert json.loads(client.body) == {
            "jsonrpc": "2.0",
            "id": None,
            "error": {"code": -32600, "message": "Session not found"},
        }
        assert app.scopes == []

    async def test_a_delete_that_the_upstream_accepts_ends_the_session_and_a_second_one_is_404(
        self,
        manager: SessionManager[object],
    ) -> None:
        await manager.create_session("s", data=None)
        app = mcp(manager, Answering(204))

        first = await Client(http("DELETE", mcp_session_id="s")).go(app)
        second = await Client(http("DELETE", mcp_session_id="s")).go(app)

        assert (first.status, second.status) == (204, 404)
        assert manager.get_metrics().cleaned_by_reason[EndReason.CLOSED] == 1

    async def test_a_delete_that_the_upstream_refuses_keeps_the_session(self, manager: SessionManager[object]) -> None:
        await manager.create_session("s", data=None)

        await Client(http("DELETE", mcp_session_id="s")).go(mcp(manager, Answering(405)))

        assert "s" in manager

    async def test_the_upstreams_own_404_ends_the_session_and_passes_as_it_is(
        self, manager: SessionManager[object]
    ) -> None:
        await manager.create_session("s", data=None)

        client = await Client(http("POST", mcp_session_id="s")).go(mcp(manager, Answering(404, chunks=(b"gone",))))

        assert (client.status, client.body) == (404, b"gone")
        assert "s" not in manager

    @pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
    async def test_a_request_of_the_revision_without_sessions_passes_without_any_id(
        self, manager: SessionManager[object], method: str
    ) -> None:
        app = Answering(headers=((b"mcp-session-id", b"ignored"),))
        scope = http(method, mcp_protocol_version="2026-07-28", mcp_session_id="nobody")

        client = await Client(scope).go(mcp(manager, app))

        assert client.status == 200
        assert client.headers(b"mcp-session-id") == []
        assert app.scopes == [{**scope, SESSION: None, "headers": [(b"mcp-protocol-version", b"2026-07-28")]}]
        assert manager.get_metrics().total_created == 0

    async def test_a_get_without_an_id_is_the_upstreams_to_answer(self, manager: SessionManager[object]) -> None:
        for name in ("a", "b"):
            await manager.create_session(name, data=None)

        client = await Client(http("GET")).go(mcp(manager, Answering(400)))

        assert client.status == 400

    async def test_an_id_that_the_upstream_gives_twice_is_no_answer(self, manager: SessionManager[object]) -> None:
        await manager.create_session("of-the-upstream", data=None)

        client = await initializing().go(mcp(manager, INITIALIZED))

        assert client.status == 503
        assert client.headers(b"mcp-session-id") == []
        assert len(manager) == 1
        assert manager.get_metrics().reserved == 0


class Buffer:
    """What a session holds, and what memory is lost with if it stays."""


class TestLeasesAndStreams:
    """How long a request or a stream holds its session."""

    async def test_an_event_stream_ends_when_its_session_is_ended_by_force(
        self, manager: SessionManager[object]
    ) -> None:
        await manager.create_session("s", data=None)
        client = Client(http("GET", mcp_session_id="s"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.go, mcp(manager, Answering(headers=(SSE,), forever=True)))
            await settle()
            await manager.close_session("s")

        assert client.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}

    async def test_a_client_that_reads_nothing_does_not_keep_its_exchange_after_the_end(
        self,
        manager: SessionManager[object],
    ) -> None:
        class Deaf(Client):
            async def send(self, message: Message) -> None:
                await super().send(message)
                if len(self.sent) > 1:
                    await anyio.sleep_forever()

        await manager.create_session("s", data=None)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Deaf(http("GET", mcp_session_id="s")).go, mcp(manager, Answering(headers=(SSE,))))
            await settle()
            await manager.close_session("s")
        assert manager.get_metrics().currently_active == 0

    async def test_any_other_response_stays_incomplete_so_that_nobody_takes_it_for_whole(
        self,
        manager: SessionManager[object],
    ) -> None:
        await manager.create_session("s", data=None)
        client = Client(http("GET", mcp_session_id="s"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.go, mcp(manager, Answering(chunks=(b"half",), forever=True)))
            await settle()
            await manager.close_session("s")

        assert client.sent[-1]["more_body"]

    async def test_an_open_stream_is_never_idle_and_each_part_is_a_touch_but_comments_are_not(
        self,
        manager: SessionManager[object],
    ) -> None:
        session = await manager.create_session("s", data=None)
        chunks = (b"data: 1\n\n", b": ping\n\n", b"data: 2\n\n", b": ping\r\n\r\n")

        async with anyio.create_task_group() as tasks:
            app = mcp(manager, Answering(headers=(SSE,), chunks=chunks, forever=True))
            tasks.start_soon(Client(http("GET", mcp_session_id="s")).go, app)
            await anyio.sleep(50)
            assert manager.get("s") is session
            tasks.cancel_scope.cancel()

        assert session.metadata.message_count == 3  # the lease, and two events

    async def test_each_message_of_a_websocket_is_a_touch(self, manager: SessionManager[object]) -> None:
        session = await manager.create_session("s", data=None)

        async def echo(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            while (message := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": message["text"]})

        says: list[Message] = [
            {"type": "websocket.connect"},
            {"type": "websocket.receive", "text": "hello"},
            {"type": "websocket.disconnect"},
        ]
        client = Client({**http(x_session_id="s"), "type": "websocket"}, says)

        await client.go(SessionLeaseMiddleware(echo, manager))

        assert session.metadata.message_count == 3

    @pytest.mark.parametrize(
        ("matcher", "scope"),
        [
            (HeaderMatcher(), http()),
            (CookieMatcher(), http()),
            (McpMatcher(), posting()),
            (McpMatcher(sse_path="/mcp"), http()),
            (HeaderMatcher(), http(x_session_id="of-the-upstream")),
            (McpMatcher(), http("DELETE", mcp_session_id="of-the-upstream")),
        ],
    )
    @pytest.mark.parametrize("fails", [False, True])
    async def test_a_session_that_has_ended_is_freed_without_the_garbage_collector(
        self, manager: SessionManager[object], matcher: SessionMatcher, scope: Scope, fails: bool
    ) -> None:
        buffers: list[weakref.ref[Buffer]] = []

        def make(_: Scope) -> Buffer:
            buffer = Buffer()
            buffers.append(weakref.ref(buffer))
            return buffer

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await INITIALIZED(scope, receive, send)
            INITIALIZED.scopes.clear()
            if fails:
                raise OSError("upstream")

        gc.collect()
        gc.disable()
        try:
            if "id" in str(scope["headers"]):
                await manager.create_session("of-the-upstream", data=make(scope))
            with suppress(OSError):
                await Client(scope, [http_body(INITIALIZE)]).go(
                    SessionLeaseMiddleware(app, manager, matcher, data=make)
                )
            await anyio.sleep(1)
            await manager.cleanup_stale_sessions(max_idle_time=0.5)

            assert len(manager) == 0
            assert [buffer() for buffer in buffers] == [None]
        finally:
            gc.enable()


def principal(scope: Scope) -> str | None:
    headers = scope["headers"]
    assert isinstance(headers, list)
    return next((value.decode() for name, value in headers if name == b"x-user"), None)


class TestDataAndClients:
    """The data and the client of a session that a request opens."""

    async def test_a_new_session_gets_its_data_and_its_client_from_the_scope(
        self, manager: SessionManager[object]
    ) -> None:
        app = mcp(manager, INITIALIZED, data=lambda scope: scope["path"], client=lambda scope: str(scope["scheme"]))

        await initializing().go(app)

        session = manager.get("of-the-upstream")
        assert session is not None
        assert (session.data, session.client) == ("/mcp", "http")

    async def test_a_private_session_is_404_for_another_principal_and_not_touched(
        self,
        manager: SessionManager[object],
    ) -> None:
        session = await manager.create_session("s", data=None, client="ada")
        app = mcp(manager, Answering(), client=principal, private=True)

        others = [await Client(http("POST", mcp_session_id="s", **who)).go(app) for who in ({"x_user": "eve"}, {})]
        touched = session.metadata.message_count
        own = await Client(http("POST", mcp_session_id="s", x_user="ada")).go(app)

        assert [client.status for client in others] == [404, 404]
        assert touched == 0
        assert own.status == 200

    async def test_a_private_cookie_of_another_principal_gives_a_session_of_ones_own(
        self,
        manager: SessionManager[object],
    ) -> None:
        await manager.create_session("s", data=None, client="ada")
        app = SessionLeaseMiddleware(Answering(), manager, CookieMatcher(), client=principal, private=True)

        client = await Client(http(cookie="otel-session=s", x_user="eve")).go(app)

        (cookie,) = client.headers(b"set-cookie")
        assert not cookie.startswith(b"otel-session=s;")
        assert len(manager) == 2


class TestCookies:
    """Ids that travel in cookies."""

    async def test_a_request_without_a_cookie_gets_one_beside_the_apps_own(
        self, manager: SessionManager[object]
    ) -> None:
        app = SessionLeaseMiddleware(Answering(headers=((b"set-cookie", b"theme=dark"),)), manager, CookieMatcher())

        client = await Client(http()).go(app)

        theirs, ours = client.headers(b"set-cookie")
        name, _, rest = ours.partition(b"=")
        session_id, _, attributes = rest.partition(b"; ")
        assert theirs == b"theme=dark"
        assert (name, attributes) == (b"otel-session", b"Path=/; HttpOnly; SameSite=Lax")
        assert session_id.decode() in manager

    @pytest.mark.parametrize(
        ("matcher", "scheme", "secure"),
        [
            (CookieMatcher(), "https", True),
            (CookieMatcher(), "http", False),
            (CookieMatcher(secure=True), "http", True),
            (CookieMatcher(secure=False), "https", False),
        ],
    )
    async def test_a_cookie_is_secure_over_tls_or_where_that_is_said(
        self, manager: SessionManager[object], matcher: CookieMatcher, scheme: str, secure: bool
    ) -> None:
        client = await Client(http(scheme=scheme)).go(SessionLeaseMiddleware(Answering(), manager, matcher))

        assert client.headers(b"set-cookie")[0].endswith(b"; Secure") == secure

    async def test_a_clients_own_value_never_becomes_a_session(self, manager: SessionManager[object]) -> None:
        client = await Client(http(cookie="otel-session=chosen-by-the-attacker")).go(
            SessionLeaseMiddleware(Answering(), manager, CookieMatcher())
        )

        assert client.status == 200
        assert b"chosen-by-the-attacker" not in client.headers(b"set-cookie")[0]
        assert "chosen-by-the-attacker" not in manager

    async def test_a_cookie_is_found_among_others_and_gets_no_second_one(self, manager: SessionManager[object]) -> None:
        await manager.create_session("s", data=None)
        app = Answering()

        client = await Client(http(cookie="a=1; otel-session=s ;b=2")).go(
            SessionLeaseMiddleware(app, manager, CookieMatcher())
        )

        assert client.headers(b"set-cookie") == []
        assert app.scopes[0][SESSION] is manager.get("s")

    def test_cookies_may_come_in_several_headers(self) -> None:
        scope = http()
        scope["headers"] = [(b"cookie", b"a=1; otel-session="), (b"cookie", b"otel-session=s")]

        assert CookieMatcher().match(scope) == Match(session_ids=("s",), opens=Opens.YES)

    async def test_an_answer_that_refuses_leaves_no_session_and_sets_no_cookie(
        self, manager: SessionManager[object]
    ) -> None:
        client = await Client(http()).go(SessionLeaseMiddleware(Answering(401), manager, CookieMatcher()))

        assert client.headers(b"set-cookie") == []
        assert len(manager) == 0

    def test_a_wrong_same_site_is_named(self) -> None:
        with pytest.raises(ValueError, match="same_site takes Lax, Strict or None, not 'lax'"):
            CookieMatcher(same_site="lax")


class TestWebSocketsThatAreRefused:
    """A WebSocket that the app does not accept."""

    async def test_a_websocket_is_refused_with_an_answer_where_the_server_can_do_that(
        self,
        manager: SessionManager[object],
    ) -> None:
        scope = {**http(x_session_id="nobody"), "type": "websocket", "extensions": {"websocket.http.response": {}}}

        client = await Client(scope).go(SessionLeaseMiddleware(Answering(), manager))

        assert [message["type"] for message in client.sent] == [
            "websocket.http.response.start",
            "websocket.http.response.body",
        ]
        assert client.status == 404


class TestReadingAScope:
    """What is read from the scope of a request."""

    def test_headers_are_read_by_name(self) -> None:
        scope = http()
        scope["headers"] = iter([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")])
        pairs_of(scope)

        assert (header(scope, b"a"), header(scope, b"c")) == ("1", None)
        assert headers_of(scope, b"a") == ["1", "3"]


MATCHERS: list[SessionMatcher] = [HeaderMatcher(), CookieMatcher(), McpMatcher()]


class TestMatchersOfAllKinds:
    """What holds for every matcher."""

    @pytest.mark.parametrize("matcher", MATCHERS, ids=lambda matcher: type(matcher).__name__)
    def test_no_refusal_shows_an_id_or_stays_in_a_cache(self, matcher: SessionMatcher) -> None:
        for error in (SessionNotFound("secret"), TooManySessions(1, 2.5), ManagerClosed("secret")):
            answer = matcher.refusal(error)
            assert b"secret" not in answer.body
            assert (b"content-length", b"%d" % len(answer.body)) in answer.headers
            assert (b"cache-control", b"no-store") in answer.headers

    @pytest.mark.parametrize(
        ("scope", "match"),
        [
            (http("GET", mcp_session_id="s", mcp_protocol_version="2025-11-25"), Match(session_ids=("s",))),
            (posting(mcp_session_id="s"), Match(session_ids=("s",), opens=Opens.BY_BODY)),
            (posting(mcp_protocol_version="2025-06-18"), Match(opens=Opens.BY_BODY)),
            (http("POST", content_type="Application/JSON; charset=utf-8"), Match(opens=Opens.BY_BODY)),
            (posting(content_encoding="gzip"), Match(opens=Opens.YES)),
            (http("POST"), Match()),
            (http("POST", content_type="multipart/form-data"), Match()),
            (http("GET", content_type="application/json"), Match()),
            (posting(mcp_session_id="s", mcp_protocol_version="2027-01-01"), Match()),
        ],
    )
    def test_the_revision_and_the_kind_of_a_request_decide_whether_there_are_sessions(
        self, scope: Scope, match: Match
    ) -> None:
        assert McpMatcher().match(scope) == match


@given(sent=st.lists(SENT, max_size=5), session_id=st.sampled_from(["own", None]))
def test_an_app_gets_exactly_one_id_and_all_other_headers_in_their_order(
    sent: list[tuple[bytes, bytes]], session_id: str | None
) -> None:
    got = McpMatcher().towards_app(sent, session_id)
    assert [pair for pair in got if pair[0] in SPELLINGS] == [(SPELLINGS[0], b"own")] * (session_id is not None)
    assert [pair for pair in got if pair[0] not in SPELLINGS] == [pair for pair in sent if pair[0] not in SPELLINGS]
    assert (got is sent) is (got == sent)


def test_an_app_gets_its_id_where_the_client_has_sent_it_with_a_hint() -> None:
    sent = [(b"host", b"h"), (b"mcp-session-id", b"w1.x"), (b"content-length", b"0")]
    got = McpMatcher().towards_app(sent, "x")
    assert got == [(b"host", b"h"), (b"mcp-session-id", b"x"), (b"content-length", b"0")]
    assert sent[1] == (b"mcp-session-id", b"w1.x")


class Compared(bytes):
    """A header's value that counts how often it is compared."""

    times = 0
    __hash__ = bytes.__hash__

    def __eq__(self, other: object) -> bool:
        Compared.times += 1
        return bytes(self) == other


def test_many_spellings_of_an_ids_name_cost_no_more_than_one_look_at_each() -> None:
    lines = 3000
    headers = [(b"mcp_session_id", Compared(b"%d" % number)) for number in range(lines)]
    for own in (None, "own"):
        Compared.times = 0
        assert McpMatcher().towards_app(headers, own) == ([] if own is None else [(b"mcp-session-id", b"own")])
        assert Compared.times <= lines
