"""Which requests open a session, and which are served without one: DESIGN, sections 7.1, 7.2 and 7.5."""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NewType, Protocol, TypedDict

import anyio
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from starlette.applications import Starlette
from starlette.routing import Mount

from otel_sessions import (
    ConfigError,
    EndReason,
    ManagerClosed,
    RejectionReason,
    Session,
    SessionConfig,
    SessionManager,
    SessionNotFound,
)
from otel_sessions.asgi import (
    SESSION,
    Message,
    Receive,
    Scope,
    Send,
    SessionLeaseMiddleware,
    client_address,
    session_of,
)
from otel_sessions.matchers import (
    AdoptingMatcher,
    CookieMatcher,
    HeaderMatcher,
    Headers,
    IssuingMatcher,
    Match,
    McpMatcher,
    Opens,
    SessionMatcher,
)
from tests.exchanges import INITIALIZE, Client, http, http_body, initializing, posting
from tests.virtual import Clock, settle

pytestmark = pytest.mark.anyio

MATCHERS: tuple[SessionMatcher, ...] = (HeaderMatcher(), CookieMatcher(), McpMatcher())
CONFIG = SessionConfig(max_sessions=2, cleanup_interval=5, max_idle_time=20, max_session_age=60, drain_timeout=1)
MIB = 1024 * 1024


@pytest.fixture
async def manager(clock: Clock) -> AsyncIterator[SessionManager[Any]]:
    async with SessionManager[Any](CONFIG, clock=clock) as manager:
        yield manager


@dataclass
class App:
    """An app that reads what it is sent, answers the same to everybody, and keeps what it was asked."""

    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()
    scopes: list[Scope] = field(default_factory=list)
    sessions: list[Session[Any] | None] = field(default_factory=list)
    received: list[Message] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        self.sessions.append(session_of(scope))
        if scope["type"] == "http":
            self.received.append(message := await receive())
            while message.get("more_body"):
                self.received.append(message := await receive())
            await send({"type": "http.response.start", "status": self.status, "headers": list(self.headers)})
            await send({"type": "http.response.body", "body": b"done"})

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.received)

    def named(self, header: bytes) -> list[bytes]:
        return [value for name, value in self.scopes[-1]["headers"] if name == header]


MADE = ((b"mcp-session-id", b"of-the-app"),)


async def fill(manager: SessionManager[Any]) -> None:
    for name in ("a", "b"):
        await manager.create_session(name, data=None)


MOUNTED = [
    ({"root_path": "/mnt", "path": "/mnt/health"}, True),
    ({"root_path": "/mnt/", "path": "/mnt/health"}, True),
    ({"root_path": "/a/mnt", "path": "/a/mnt/health"}, True),
    ({"root_path": "", "path": "/health"}, True),
    ({"path": "/health"}, True),
    ({"root_path": "/mnt", "path": "/health"}, True),  # a server that leaves the mount out
    ({"root_path": "/mnt", "path": "/mnt/mnt/health"}, False),
    ({"root_path": "/mn", "path": "/mnt/health"}, False),
    ({"root_path": "/health", "path": "/health"}, False),
    ({"root_path": "", "path": "/mnt/health"}, False),
]


class TestNothingToDoWithSessions:
    """Requests that have nothing to do with sessions."""

    @pytest.mark.parametrize("matcher", [CookieMatcher(), HeaderMatcher()])
    async def test_a_preflight_opens_nothing_and_is_served_at_the_cap(
        self, manager: SessionManager[Any], matcher: IssuingMatcher
    ) -> None:
        await fill(manager)
        app = App()

        client = await Client(http("OPTIONS", origin="https://elsewhere")).go(
            SessionLeaseMiddleware(app, manager, matcher)
        )

        assert client.status == 200
        assert app.sessions == [None]
        assert client.headers(b"set-cookie") + client.headers(b"x-session-id") == []
        assert manager.get_metrics().total_created == 2

    async def test_a_preflight_with_an_unknown_id_is_served_all_the_same(self, manager: SessionManager[Any]) -> None:
        app = App()

        client = await Client(http("OPTIONS", x_session_id="nobody")).go(SessionLeaseMiddleware(app, manager))

        assert client.status == 200
        assert app.named(b"x-session-id") == []

    @pytest.mark.parametrize(
        ("skip", "path", "skipped"),
        [
            (["/healthz"], "/healthz", True),
            ("/healthz", "/healthz", True),
            (["/healthz"], "/healthz/", False),
            (["/healthz"], "/a/healthz", False),
            (["/static/*"], "/static/css/a.css", True),
            (["/static/*"], "/static", False),
            (["*.ico"], "/a/favicon.ico", True),
            (["/a.c"], "/abc", False),
            (["/x", "/metrics*"], "/metrics?", True),
            (["/a\n*"], "/a\nb", True),
            (lambda scope: scope["method"] == "GET", "/anything", True),
            ((), "/healthz", False),
        ],
    )
    async def test_what_skip_names_is_in_no_session_and_served_at_the_cap(
        self, manager: SessionManager[Any], skip: Any, path: str, skipped: bool
    ) -> None:
        await fill(manager)
        app = App()

        client = await Client({**http(), "path": path}).go(
            SessionLeaseMiddleware(app, manager, CookieMatcher(), skip=skip)
        )

        assert client.status == (200 if skipped else 503)
        assert app.sessions == ([None] if skipped else [])

    async def test_a_skipped_request_with_a_live_id_neither_touches_nor_shows_it(
        self, manager: SessionManager[Any]
    ) -> None:
        await fill(manager)
        app = App()

        await Client(http(cookie="otel-session=a; b=1")).go(
            SessionLeaseMiddleware(app, manager, CookieMatcher(), skip="/mcp")
        )

        session = manager.get("a")
        assert session is not None
        assert session.metadata.message_count == 0
        assert app.named(b"cookie") == [b"b=1"]

    @pytest.mark.parametrize(("where", "skipped"), MOUNTED)
    async def test_under_a_mount_skip_names_paths_as_the_mounted_apps_routes_do(
        self, manager: SessionManager[Any], where: Scope, skipped: bool
    ) -> None:
        await Client({**http(), **where}).go(SessionLeaseMiddleware(App(), manager, CookieMatcher(), skip="/health"))

        assert len(manager) == (0 if skipped else 1)

    @pytest.mark.parametrize(("where", "matches"), MOUNTED)
    def test_under_a_mount_sse_path_is_a_path_as_the_mounted_apps_routes_have_it(
        self, where: Scope, matches: bool
    ) -> None:
        match = McpMatcher(sse_path="/health").match({**http(), **where})

        assert match.opens is (Opens.FOR_EXCHANGE if matches else Opens.NO)

    async def test_the_root_of_a_mount_is_a_slash(self, manager: SessionManager[Any]) -> None:
        scope = {**http(), "root_path": "/mnt", "path": "/mnt"}

        await Client(scope).go(SessionLeaseMiddleware(App(), manager, CookieMatcher(), skip="/"))

        assert len(manager) == 0

    async def test_in_a_mount_of_starlettes_skip_is_relative_to_the_mount(self, manager: SessionManager[Any]) -> None:
        inner = SessionLeaseMiddleware(App(), manager, CookieMatcher(), skip=["/health"])
        app = Starlette(routes=[Mount("/outer", routes=[Mount("/inner", app=inner)])])

        await Client({**http(), "path": "/outer/inner/health", "query_string": b""}).go(app)
        assert len(manager) == 0
        await Client({**http(), "path": "/outer/inner/health/x", "query_string": b""}).go(app)
        assert len(manager) == 1

    @pytest.mark.parametrize("skip", ["healthz", ["/a", "b"], [""], [1], b"/x"])
    def test_a_path_that_can_match_nothing_is_refused(self, skip: Any) -> None:
        with pytest.raises(ConfigError, match="skip takes paths that begin with"):
            SessionLeaseMiddleware(App(), SessionManager(), skip=skip)

    async def test_a_skipped_websocket_passes_with_no_session(self, manager: SessionManager[Any]) -> None:
        app = App()

        await Client({**http(), "type": "websocket"}).go(SessionLeaseMiddleware(app, manager, skip="/m*"))

        assert app.sessions == [None]


class TestOpeningsOfMcp:
    """Only an initialize opens a session of MCP."""

    @pytest.mark.parametrize(
        "body",
        [
            b'{"client_name":"x"}',
            b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}',
            b'{"params":{"method":"initialize"}}',
            b"",
            b"no JSON",
        ],
    )
    async def test_a_post_that_is_no_initialize_is_served_at_the_cap_and_takes_no_place(
        self, manager: SessionManager[Any], body: bytes
    ) -> None:
        await fill(manager)
        app = App()

        client = await Client(posting(), [http_body(body)]).go(SessionLeaseMiddleware(app, manager, McpMatcher()))

        assert client.status == 200
        assert app.sessions == [None]
        assert app.body == body
        assert manager.get_metrics().rejected[RejectionReason.MAX_SESSIONS] == 0

    async def test_an_initialize_in_many_parts_opens_and_all_parts_reach_the_app_unchanged(
        self,
        manager: SessionManager[Any],
    ) -> None:
        app = App(headers=MADE)
        parts = [http_body(INITIALIZE[i : i + 1], more=i + 1 < len(INITIALIZE)) for i in range(len(INITIALIZE))]

        await Client(posting(), [*parts]).go(SessionLeaseMiddleware(app, manager, McpMatcher()))

        assert app.received == parts
        assert "of-the-app" in manager

    @pytest.mark.parametrize("encoding", ["gzip", "br", "Identity"])
    async def test_a_coded_body_may_open_since_nothing_tells_that_it_does_not(
        self, manager: SessionManager[Any], encoding: str
    ) -> None:
        app = App(headers=MADE)
        body = INITIALIZE if encoding == "Identity" else b"\x1f\x8b..."

        await Client(posting(content_encoding=encoding), [http_body(body)]).go(
            SessionLeaseMiddleware(app, manager, McpMatcher())
        )

        assert "of-the-app" in manager

    @pytest.mark.parametrize(("padding", "opened"), [(8_000, True), (9_000, True), (2 * MIB, True), (7_000, True)])
    async def test_of_a_large_message_only_the_start_is_looked_at(
        self, manager: SessionManager[Any], padding: int, opened: bool
    ) -> None:
        app = App(headers=MADE)
        body = b'{"params":{"pad":"%s"},"method":"initialize"}' % (b"x" * padding)

        await Client(posting(), [http_body(body)]).go(SessionLeaseMiddleware(app, manager, McpMatcher()))

        assert ("of-the-app" in manager) is opened
        assert app.body == body

    async def test_a_large_message_whose_start_says_its_method_takes_no_place(
        self, manager: SessionManager[Any]
    ) -> None:
        await fill(manager)
        body = b'{"method":"tools/call","params":{"pad":"%s"}}' % (b"x" * MIB)
        parts = [http_body(body[i : i + 65536], more=i + 65536 < len(body)) for i in range(0, len(body), 65536)]
        app = App()

        client = await Client(posting(), [*parts]).go(SessionLeaseMiddleware(app, manager, McpMatcher()))

        assert client.status == 200
        assert app.received == parts

    async def test_a_body_of_empty_parts_is_not_looked_at_for_ever(self, manager: SessionManager[Any]) -> None:
        await fill(manager)
        parts = [http_body(b"", more=True) for _ in range(5_000)]

        client = Client(posting(), [*parts])
        await client.go(SessionLeaseMiddleware(App(), manager, McpMatcher()))

        assert client.status == 503  # undecided: it may open, and there is no place
        assert len(client.says) > 3_000

    async def test_a_client_that_leaves_amid_its_body_takes_no_place_and_the_app_hears_of_it(
        self,
        manager: SessionManager[Any],
    ) -> None:
        await fill(manager)
        app = App()
        says = [http_body(b'{"jsonrpc"', more=True), {"type": "http.disconnect"}]

        await Client(posting(), [*says]).go(SessionLeaseMiddleware(app, manager, McpMatcher()))

        assert app.received == says
        assert manager.get_metrics().rejected[RejectionReason.MAX_SESSIONS] == 0

    @given(
        body=st.sampled_from([INITIALIZE, b'{"method":"ping"}', b'{"a":"' + b"x" * 9_000 + b'"}', b"[1", b"\xff"]),
        cuts=st.lists(st.integers(0, 9_100), max_size=6),
    )
    @settings(max_examples=60)
    def test_wherever_a_body_is_cut_the_app_gets_all_of_it_and_the_same_decision_is_made(
        self, body: bytes, cuts: list[int]
    ) -> None:
        ends = sorted({min(cut, len(body)) for cut in cuts} | {len(body)})
        parts = [
            http_body(body[start:end], more=end < len(body)) for start, end in zip([0, *ends[:-1]], ends, strict=True)
        ]
        app = App()

        async def serve() -> bool:
            async with SessionManager[Any](SessionConfig(max_sessions=1)) as manager:
                await manager.create_session(data=None)
                client = await Client(posting(), [*parts]).go(SessionLeaseMiddleware(app, manager, McpMatcher()))
                return client.status == 503

        may_open = anyio.run(serve)

        assert may_open is (body == INITIALIZE or len(body) > 9_000)
        assert may_open or app.body == body


LATE_METHOD = b'{"jsonrpc":"2.0","id":1,"params":{"pad":"%s"},"method":"tools/call"}' % (b"x" * 9_000)


class TestNamedIdsOfMcp:
    """Ids that a request of MCP names."""

    async def test_an_initialize_with_an_ended_id_loses_that_id_and_opens(self, manager: SessionManager[Any]) -> None:
        await manager.create_session("ended", data=None)
        await manager.close_session("ended")
        app = App(headers=MADE)

        client = await initializing(mcp_session_id="ended").go(SessionLeaseMiddleware(app, manager, McpMatcher()))

        assert client.headers(b"mcp-session-id") == [b"of-the-app"]
        assert app.named(b"mcp-session-id") == []
        assert "of-the-app" in manager

    async def test_an_initialize_with_a_live_id_stays_in_that_session(self, manager: SessionManager[Any]) -> None:
        session = await manager.create_session("live", data=None)
        app = App()

        await initializing(mcp_session_id="live").go(SessionLeaseMiddleware(app, manager, McpMatcher()))

        assert app.sessions == [session]
        assert manager.get_metrics().total_created == 1

    async def test_an_initialize_with_anothers_id_opens_a_session_of_its_own(
        self, manager: SessionManager[Any]
    ) -> None:
        await manager.create_session("adas", data=None, client="ada")
        app = App(headers=MADE)

        await initializing(mcp_session_id="adas").go(
            SessionLeaseMiddleware(app, manager, McpMatcher(), client=lambda _: "eve", private=True)
        )

        assert app.named(b"mcp-session-id") == []
        assert manager.get_metrics().total_created == 2

    @pytest.mark.parametrize("method", ["tools/list", "notifications/initialized"])
    async def test_any_other_message_with_an_ended_id_is_404_and_says_why(
        self, manager: SessionManager[Any], method: str
    ) -> None:
        await manager.create_session("ended", data=None, max_idle_time=1)
        await anyio.sleep(2)
        await manager.cleanup_stale_sessions()
        app = App()
        says = [http_body(json.dumps({"method": method}).encode())]

        client = await Client(posting(mcp_session_id="ended"), says).go(
            SessionLeaseMiddleware(app, manager, McpMatcher())
        )

        assert client.status == 404
        assert json.loads(client.body)["error"]["data"] == {"end_reason": "idle_timeout"}
        assert app.scopes == []

    @pytest.mark.parametrize("full", [False, True])
    @pytest.mark.parametrize(
        ("headers", "body"),
        [
            ({}, LATE_METHOD),
            ({}, LATE_METHOD.replace(b"tools/call", b"initialize")),
            ({}, b'{"params":' + b"[" * 9_000),
            ({"content_encoding": "gzip"}, b"\x1f\x8b"),
            ({"content_encoding": "br"}, INITIALIZE),
        ],
    )
    async def test_an_undecided_message_with_an_unknown_id_is_404_and_takes_no_place(
        self, manager: SessionManager[Any], headers: dict[str, str], body: bytes, full: bool
    ) -> None:
        if full:
            await fill(manager)
        app = App(400)

        client = await Client(posting(mcp_session_id="unknown", **headers), [http_body(body)]).go(
            SessionLeaseMiddleware(app, manager, McpMatcher())
        )

        assert client.status == 404
        assert app.scopes == []
        assert manager.get_metrics().rejected[RejectionReason.MAX_SESSIONS] == 0

    @pytest.mark.parametrize("headers", [{}, {"content_encoding": "gzip"}])
    async def test_an_undecided_message_with_a_live_id_is_in_that_session(
        self, manager: SessionManager[Any], headers: dict[str, str]
    ) -> None:
        session = await manager.create_session("live", data=None)
        app = App()

        await Client(posting(mcp_session_id="live", **headers), [http_body(LATE_METHOD)]).go(
            SessionLeaseMiddleware(app, manager, McpMatcher())
        )

        assert app.sessions == [session]

    async def test_a_handshake_whose_body_would_decide_is_refused_with_an_unknown_id(
        self, manager: SessionManager[Any]
    ) -> None:
        class ByBody(McpMatcher):
            def match(self, scope: Scope) -> Match:
                return Match(session_ids=("unknown",), opens=Opens.BY_BODY)

        scope = {**http(), "type": "websocket", "extensions": {"websocket.http.response": {}}}

        client = await Client(scope).go(SessionLeaseMiddleware(App(), manager, ByBody()))

        assert client.status == 404

    async def test_a_404_in_plain_text_says_why_too(self, manager: SessionManager[Any]) -> None:
        await manager.create_session("ended", data=None)
        await manager.close_session("ended")

        client = await Client(http(x_session_id="ended")).go(SessionLeaseMiddleware(App(), manager))

        assert client.body == b"session not found: it ended (closed)\n"

    async def test_of_another_clients_session_nothing_is_said(self, manager: SessionManager[Any]) -> None:
        await manager.create_session("adas", data=None, client="ada")
        app = SessionLeaseMiddleware(App(), manager, client=lambda _: "eve", private=True)

        client = await Client(http(x_session_id="adas")).go(app)

        assert (client.status, client.body) == (404, b"session not found\n")

    @pytest.mark.parametrize("matcher", [HeaderMatcher(), McpMatcher()])
    async def test_of_several_header_lines_a_live_id_wins_and_is_the_only_one_that_passes(
        self, manager: SessionManager[Any], matcher: HeaderMatcher | McpMatcher
    ) -> None:
        session = await manager.create_session("live", data=None)
        scope, name = http("GET"), matcher.request_header
        scope["headers"] = [(name, b"stale"), (name.replace(b"-", b"_"), b"forged"), (name, b"live"), (name, b"")]
        app = App()

        await Client(scope).go(SessionLeaseMiddleware(app, manager, matcher))

        assert app.sessions == [session]
        assert app.scopes[0]["headers"] == [(name, b"live")]

    @pytest.mark.parametrize("matcher", [HeaderMatcher(), HeaderMatcher("x_session.id"), McpMatcher()])
    @pytest.mark.parametrize("mark", [b"_", b".", b"~", b"-"])
    async def test_no_other_spelling_of_the_header_brings_an_id_to_the_app(
        self, manager: SessionManager[Any], matcher: HeaderMatcher | McpMatcher, mark: bytes
    ) -> None:
        await manager.create_session("live", data=None)
        name = matcher.request_header
        spelling = name.replace(b"-", mark).replace(b"_", mark).replace(b".", mark)
        forged = [] if spelling == name else [(spelling, b"forged")]
        app = App()

        await Client({**http(), "headers": [*forged, (name, b"live"), (b"x-other", b"1")]}).go(
            SessionLeaseMiddleware(app, manager, matcher)
        )
        await Client({**http(), "headers": [*forged, (b"x-other", b"1")]}).go(
            SessionLeaseMiddleware(app, manager, matcher)
        )

        assert [value for scope in app.scopes for _, value in scope["headers"]].count(b"forged") == 0
        assert app.named(b"x-other") == [b"1"]

    async def test_a_live_cookie_wins_over_a_stale_one_in_front_of_it(self, manager: SessionManager[Any]) -> None:
        session = await manager.create_session("live", data=None)
        app = App()

        client = await Client(http(cookie="otel-session=stale; otel-session=live")).go(
            SessionLeaseMiddleware(app, manager, CookieMatcher())
        )

        assert app.sessions == [session]
        assert app.named(b"cookie") == [b"otel-session=live"]
        assert client.headers(b"set-cookie") == []

    async def test_a_stale_cookie_never_reaches_the_app(self, manager: SessionManager[Any]) -> None:
        app = App()

        client = await Client(http(cookie="otel-session=stale; a=1")).go(
            SessionLeaseMiddleware(app, manager, CookieMatcher())
        )

        assert client.status == 200
        assert b"stale" not in app.named(b"cookie")[0]
        assert app.named(b"cookie")[0].startswith(b"a=1; otel-session=")


OLD_MESSAGE = {**posting(), "path": "/messages/", "query_string": b"session_id=0123"}


class Stream:
    """The event stream of the older transport, open until it is released."""

    def __init__(self, status: int = 200) -> None:
        self.released = anyio.Event()
        self._status = status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": self._status, "headers": headers})
        await send({"type": "http.response.body", "body": b"event: endpoint\ndata: /messages/\n\n", "more_body": True})
        await self.released.wait()
        await send({"type": "http.response.body", "body": b""})


class TestOlderTransportOfMcp:
    """The older transport of MCP, where a stream is a session."""

    @pytest.mark.parametrize("query", [b"session_id=0123", b"a=1&sessionId=x", b"sessionid=x"])
    async def test_messages_of_the_older_transport_pass_at_the_cap(
        self, manager: SessionManager[Any], query: bytes
    ) -> None:
        await fill(manager)
        app = App(202)

        client = await Client({**OLD_MESSAGE, "query_string": query}, [http_body(INITIALIZE)]).go(
            SessionLeaseMiddleware(app, manager, McpMatcher())
        )

        assert client.status == 202
        assert app.body == INITIALIZE

    @pytest.mark.parametrize("accept", ["application/json, text/event-stream", "Text/Event-Stream;q=0.5"])
    @pytest.mark.parametrize("query", [b"session_id=0123", b"a=1&sessionId=x", b"sessionid="])
    async def test_a_query_of_the_older_transport_lets_no_initialize_past_the_cap(
        self, manager: SessionManager[Any], query: bytes, accept: str
    ) -> None:
        await fill(manager)
        app = App(headers=MADE)
        client = initializing(accept=accept)
        client.scope["query_string"] = query

        await client.go(SessionLeaseMiddleware(app, manager, McpMatcher()))

        assert client.status == 503
        assert app.scopes == []

    async def test_a_query_of_the_older_transport_keeps_no_session_from_being_counted(
        self, manager: SessionManager[Any]
    ) -> None:
        client = initializing(accept="application/json, text/event-stream")
        client.scope["query_string"] = b"sessionId=x"

        await client.go(SessionLeaseMiddleware(App(headers=MADE), manager, McpMatcher()))

        assert "of-the-app" in manager

    async def test_what_a_message_of_the_older_transport_opens_is_logged_once_where_nobody_ends_it(
        self, manager: SessionManager[Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        app = SessionLeaseMiddleware(App(headers=MADE), manager, McpMatcher())

        clients = [await Client({**OLD_MESSAGE}, [http_body(INITIALIZE)]).go(app) for _ in range(3)]

        assert [client.headers(b"mcp-session-id") for client in clients] == [[], [], []]
        assert caplog.text.count("the app holds session") == 1
        assert "on_stray=" in caplog.text
        assert "of-the-app" not in caplog.text

    async def test_with_sse_path_a_stream_is_a_session_for_as_long_as_it_lasts(
        self, manager: SessionManager[Any]
    ) -> None:
        stream = Stream()
        app = SessionLeaseMiddleware(stream, manager, McpMatcher(sse_path="/mcp"))
        client = Client(http("GET"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.go, app)
            await anyio.sleep(30)  # past max_idle_time
            assert (len(manager), manager.get_metrics().leased) == (1, 1)
            stream.released.set()

        assert len(manager) == 0
        assert manager.get_metrics().cleaned_by_reason[EndReason.CLOSED] == 1
        assert client.headers(b"mcp-session-id") == []

    async def test_with_sse_path_the_cap_and_the_age_hold_for_streams(self, manager: SessionManager[Any]) -> None:
        app = SessionLeaseMiddleware(Stream(), manager, McpMatcher(sse_path="/mcp"))
        clients = [Client(http("GET")) for _ in range(3)]

        async with anyio.create_task_group() as tasks:
            for client in clients:
                tasks.start_soon(client.go, app)

        assert sorted(str(client.status) for client in clients) == ["200", "200", "503"]
        assert manager.get_metrics().cleaned_by_reason[EndReason.MAX_AGE] == 2
        ends = [client.sent[-1] for client in clients if client.status == 200]
        assert ends == [{"type": "http.response.body", "body": b"", "more_body": False}] * 2

    async def test_without_sse_path_a_stream_passes_uncounted(self, manager: SessionManager[Any]) -> None:
        stream = Stream()
        stream.released.set()

        await Client(http("GET")).go(SessionLeaseMiddleware(stream, manager, McpMatcher()))

        assert manager.get_metrics().total_created == 0

    def test_a_wrong_sse_path_is_named(self) -> None:
        with pytest.raises(ConfigError, match="sse_path takes a path that begins with /, not 'sse'"):
            McpMatcher(sse_path="sse")

    async def test_an_answer_that_repeats_the_id_stays_out_of_shared_caches(self, manager: SessionManager[Any]) -> None:
        await manager.create_session("of-the-app", data=None)
        app = App(headers=(*MADE, (b"cache-control", b"public, max-age=60")))

        client = await Client(http("GET", mcp_session_id="of-the-app")).go(
            SessionLeaseMiddleware(app, manager, McpMatcher())
        )

        assert client.headers(b"cache-control") == [b"max-age=60, private"]


@dataclass
class Strays:
    """What `on_stray` was told."""

    seen: list[tuple[str, object]] = field(default_factory=list)
    error: Exception | None = None

    async def __call__(self, session_id: str, scope: Scope) -> None:
        self.seen.append((session_id, scope["path"]))
        if self.error is not None:
            raise self.error


class TestStrays:
    """No session is left in the app that is none here."""

    @pytest.mark.parametrize("status", [400, 406, 404, 500, 302])
    async def test_a_session_that_is_named_in_a_refusal_is_ended_and_its_client_is_told_no_id(
        self, manager: SessionManager[Any], status: int
    ) -> None:
        strays = Strays()
        app = App(status, MADE)

        client = await initializing().go(SessionLeaseMiddleware(app, manager, McpMatcher(), on_stray=strays))

        assert client.status == status
        assert client.headers(b"mcp-session-id") == []
        assert strays.seen == [("of-the-app", "/mcp")]
        assert (len(manager), manager.get_metrics().reserved) == (0, 0)

    @pytest.mark.parametrize("status", [200, 302, 400, 404])
    @pytest.mark.parametrize("session_id", [None, "live"])
    async def test_a_session_that_is_named_in_the_refusal_of_a_handshake_is_ended(
        self, manager: SessionManager[Any], status: int, session_id: str | None
    ) -> None:
        await manager.create_session("live", data=None)
        strays = Strays()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            said = ((b"x-a", b"1"), *MADE)
            await send({"type": "websocket.http.response.start", "status": status, "headers": said})
            await send({"type": "websocket.http.response.body", "body": b"no"})

        scope = {**http(**({} if session_id is None else {"mcp_session_id": session_id})), "type": "websocket"}
        client = await Client(scope).go(SessionLeaseMiddleware(app, manager, McpMatcher(), on_stray=strays))

        assert client.status == status
        assert client.sent[0]["headers"] == [(b"x-a", b"1")]
        assert strays.seen == [("of-the-app", "/mcp")]

    @pytest.mark.parametrize("status", [200, 302])
    async def test_the_refusal_of_a_handshake_opens_no_session_whatever_its_status(
        self, manager: SessionManager[Any], status: int
    ) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "websocket.http.response.start", "status": status, "headers": []})
            await send({"type": "websocket.http.response.body", "body": b"no"})

        client = await Client({**http(), "type": "websocket"}).go(SessionLeaseMiddleware(app, manager, CookieMatcher()))

        assert client.headers(b"set-cookie") == []
        assert len(manager) == 0

    async def test_a_session_that_is_named_where_none_may_open_is_ended(self, manager: SessionManager[Any]) -> None:
        strays = Strays()
        scope = http("POST", mcp_protocol_version="2026-07-28")

        client = await Client(scope).go(
            SessionLeaseMiddleware(App(headers=MADE), manager, McpMatcher(), on_stray=strays)
        )

        assert client.headers(b"mcp-session-id") == []
        assert strays.seen == [("of-the-app", "/mcp")]

    @pytest.mark.parametrize("settings", [{"skip": "/mcp"}, {"matcher": McpMatcher(sse_path="/mcp")}])
    async def test_a_session_that_is_named_where_nobody_looks_for_one_is_ended(
        self, manager: SessionManager[Any], settings: dict[str, Any]
    ) -> None:
        strays = Strays()
        matcher = settings.pop("matcher", McpMatcher())

        client = await Client(http("GET")).go(
            SessionLeaseMiddleware(App(headers=MADE), manager, matcher, on_stray=strays, **settings)
        )

        assert client.headers(b"mcp-session-id") == []
        assert strays.seen == [("of-the-app", "/mcp")]
        assert len(manager) == 0

    async def test_a_second_session_that_is_named_in_a_session_is_ended(self, manager: SessionManager[Any]) -> None:
        await manager.create_session("s", data=None)
        strays = Strays()

        client = await Client(http("GET", mcp_session_id="s")).go(
            SessionLeaseMiddleware(App(headers=MADE), manager, McpMatcher(), on_stray=strays)
        )

        assert client.headers(b"mcp-session-id") == []
        assert strays.seen == [("of-the-app", "/mcp")]

    @pytest.mark.parametrize("status", [200, 400])
    async def test_a_live_session_is_no_stray_wherever_it_is_named(
        self, manager: SessionManager[Any], status: int
    ) -> None:
        await manager.create_session("of-the-app", data=None)
        strays = Strays()
        app = SessionLeaseMiddleware(App(status, MADE), manager, McpMatcher(), on_stray=strays)

        await initializing().go(app)
        own = await Client(http("GET", mcp_session_id="of-the-app")).go(app)

        assert own.headers(b"mcp-session-id") == [b"of-the-app"]
        assert strays.seen == []

    async def test_a_session_that_the_app_makes_during_the_shutdown_is_ended(
        self, manager: SessionManager[Any]
    ) -> None:
        strays = Strays()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await manager.shutdown()
            await App(headers=MADE)(scope, receive, send)

        client = await initializing().go(SessionLeaseMiddleware(app, manager, McpMatcher(), on_stray=strays))

        assert client.status == 503
        assert strays.seen == [("of-the-app", "/mcp")]

    async def test_a_session_whose_client_has_left_before_the_answer_is_ended(
        self, manager: SessionManager[Any]
    ) -> None:
        strays = Strays()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1)
            await App(headers=MADE)(scope, receive, send)

        with anyio.move_on_after(0.5):
            await initializing().go(SessionLeaseMiddleware(app, manager, McpMatcher(), on_stray=strays))

        assert strays.seen == [("of-the-app", "/mcp")]
        assert len(manager) == 0

    async def test_a_stray_that_cannot_be_ended_is_logged_without_its_id(
        self, manager: SessionManager[Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        strays = Strays(error=OSError("the app is gone"))

        client = await initializing().go(SessionLeaseMiddleware(App(400, MADE), manager, McpMatcher(), on_stray=strays))

        assert client.status == 400
        assert "the app may still hold session" in caplog.text
        assert "of-the-app" not in caplog.text


NAMED = {"x_session_id": "s", "cookie": "otel-session=s", "mcp_session_id": "s"}


class TestManagerThatDoesNotRun:
    """A manager that does not run is loud."""

    @pytest.mark.parametrize(
        ("matcher", "kind", "headers"),
        [
            *((matcher, "http", headers) for matcher in MATCHERS for headers in ({}, NAMED)),
            *((matcher, "websocket", NAMED) for matcher in MATCHERS),
            (HeaderMatcher(), "websocket", {}),
            (CookieMatcher(), "websocket", {}),
        ],
    )
    async def test_a_manager_that_was_never_entered_is_loud_and_says_what_to_do(
        self, matcher: SessionMatcher, kind: str, headers: dict[str, str]
    ) -> None:
        client = initializing(**headers)
        client.scope["type"] = kind

        with pytest.raises(ManagerClosed, match="async with"):
            await client.go(SessionLeaseMiddleware(App(), SessionManager(), matcher))

        assert client.sent == []

    async def test_what_needs_no_session_is_served_though_the_manager_was_never_entered(self) -> None:
        client = await Client(http("OPTIONS")).go(SessionLeaseMiddleware(App(), SessionManager(), CookieMatcher()))

        assert client.status == 200

    @pytest.mark.parametrize("matcher", MATCHERS)
    async def test_a_manager_that_has_ended_answers_503(
        self, manager: SessionManager[Any], matcher: SessionMatcher
    ) -> None:
        await manager.shutdown()

        assert (await initializing().go(SessionLeaseMiddleware(App(), manager, matcher))).status == 503


class TestPrivateSessions:
    """Sessions that belong to one client."""

    @pytest.mark.parametrize(
        "client",
        [
            *("203.0.113.7", "203.0.113.7:80", "2001:db8::/64", "[2001:db8::1]:80", "::ffff:10.0.0.1", "fe80::1%eth0"),
            *("::ffff:10.0.0.1:80", "203.0.113.7, 10.0.0.1", "203.0.113.7,10.0.0.1", "unknown, 10.0.0.1"),
            *("for=192.0.2.43", 'For="[2001:db8:cafe::17]:4711"', "for=192.0.2.43;proto=http;by=203.0.113.43"),
            *("for=unknown", "proto=https; for=_hidden", '"203.0.113.7"'),
        ],
    )
    async def test_private_refuses_a_client_that_is_an_address(self, manager: SessionManager[Any], client: str) -> None:
        app = SessionLeaseMiddleware(App(), manager, CookieMatcher(), client=lambda _: client, private=True)

        with pytest.raises(ConfigError, match="private=True takes a client= that names one user"):
            await Client(http()).go(app)

    @pytest.mark.parametrize("client", ["ada", "ada@10.0.0.1", "cn=Ada Lovelace,ou=10", "1.2.3", "forward", "12:30"])
    async def test_private_takes_any_text_that_names_no_address(
        self, manager: SessionManager[Any], client: str
    ) -> None:
        app = SessionLeaseMiddleware(App(), manager, CookieMatcher(), client=lambda _: client, private=True)

        await Client(http()).go(app)

        assert len(manager) == 1

    @pytest.mark.parametrize("private", [False, True])
    @pytest.mark.parametrize("client", [("10.0.0.1", 80), 7, b"ada"])
    async def test_a_client_that_is_no_text_is_refused_by_its_type(
        self, manager: SessionManager[Any], client: Any, private: bool
    ) -> None:
        app = SessionLeaseMiddleware(App(), manager, CookieMatcher(), client=lambda _: client, private=private)

        with pytest.raises(
            ConfigError, match=f"client takes a function that returns a str or None, not {type(client).__name__}"
        ):
            await Client(http()).go(app)

    def test_private_refuses_clients_that_are_always_addresses_when_it_is_made(self) -> None:
        with pytest.raises(ConfigError, match="private=True takes a client= that names one user"):
            SessionLeaseMiddleware(App(), SessionManager(), client=client_address(), private=True)


class ByPath(IssuingMatcher):
    """Sessions named by the path, which lasts no longer than its exchange."""

    request_header = b"x-unused"

    def match(self, scope: Scope) -> Match:
        return Match(session_ids=(scope["path"],), opens=Opens.FOR_EXCHANGE)

    def announce(self, session_id: str, scope: Scope, headers: Headers) -> Headers:
        raise AssertionError("such a session's client is told no id")

    def towards_app(self, headers: Headers, session_id: str | None) -> Headers:
        return headers


class Adopting(AdoptingMatcher):
    """Ids in a header of the app's, whose every request may open."""

    request_header = b"x-mine"

    def match(self, scope: Scope) -> Match:
        return Match(opens=Opens.BY_BODY)

    def towards_app(self, headers: Headers, session_id: str | None) -> Headers:
        return headers

    def id_in_answer(self, headers: Headers) -> str | None:
        return dict(headers)[b"x-mine"].decode()

    def withhold(self, headers: Headers) -> Headers:
        return []


async def async_function(scope: Scope) -> str:
    return "x"


class AsyncCall:
    async def __call__(self, scope: Scope) -> str:
        return "x"


async def async_generator(scope: Scope) -> AsyncIterator[str]:
    yield "x"


ASYNC = [async_function, AsyncCall(), AsyncCall().__call__, async_generator, partial(async_function)]


class TestOwnMatchers:
    """Matchers that an embedder writes."""

    async def test_a_websocket_that_is_closed_already_is_not_refused(
        self,
        manager: SessionManager[Any],
    ) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "websocket.close"})
            await manager.shutdown()

        client = await Client({**http(), "type": "websocket"}).go(SessionLeaseMiddleware(app, manager))

        assert client.kinds == ["websocket.close"]

    async def test_a_matcher_of_ones_own_leaves_the_rest_to_the_protocol(self, manager: SessionManager[Any]) -> None:
        app = App()

        client = await Client(http()).go(SessionLeaseMiddleware(app, manager, ByPath()))

        assert client.status == 200
        assert isinstance(app.sessions[0], Session)
        assert len(manager) == 0

    async def test_an_adopting_matcher_of_ones_own_leaves_the_rest_to_the_protocol(
        self, manager: SessionManager[Any]
    ) -> None:
        matcher = Adopting()

        client = await Client(http()).go(SessionLeaseMiddleware(App(headers=((b"x-mine", b"s"),)), manager, matcher))

        assert client.headers(b"x-mine") == [b"s"]
        assert "s" in manager
        assert not matcher.ends(http(), 404)

    async def test_a_handshake_whose_body_would_decide_may_open_and_nothing_of_it_is_lost(
        self,
        manager: SessionManager[Any],
    ) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert (await receive())["type"] == "websocket.connect"
            assert manager.get_metrics().reserved == 1
            await send({"type": "websocket.close"})

        client = Client({**http(), "type": "websocket"}, [{"type": "websocket.connect"}])
        await client.go(SessionLeaseMiddleware(app, manager, Adopting()))

        assert client.kinds == ["websocket.close"]
        assert manager.get_metrics().reserved == 0

    async def test_an_adopting_matcher_of_ones_own_may_open_on_a_websocket(self, manager: SessionManager[Any]) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "websocket.accept", "headers": [(b"x-mine", b"s")]})

        client = await Client({**http(), "type": "websocket"}).go(SessionLeaseMiddleware(app, manager, Adopting()))

        assert client.headers(b"x-mine") == [b"s"]
        assert "s" in manager

    @pytest.mark.parametrize("key", ["client", "data", "skip"])
    @pytest.mark.parametrize("function", ASYNC)
    def test_an_async_function_whose_result_is_needed_at_once_is_refused(self, key: str, function: object) -> None:
        settings: dict[str, Any] = {key: function}

        with pytest.raises(ConfigError, match=f"{key} takes a plain function, not an async one"):
            SessionLeaseMiddleware(App(), SessionManager(), **settings)

    @pytest.mark.parametrize("matcher", [HeaderMatcher(), McpMatcher()])
    async def test_data_that_is_a_coroutine_is_refused_and_leaves_no_session(
        self, manager: SessionManager[Any], matcher: SessionMatcher
    ) -> None:
        app = SessionLeaseMiddleware(App(headers=MADE), manager, matcher, data=lambda scope: async_function(scope))

        with pytest.raises(ConfigError, match="data takes a function that returns the data, not a coroutine"):
            await initializing().go(app)

        assert (len(manager), manager.get_metrics().reserved) == (0, 0)

    @pytest.mark.parametrize("matcher", [HeaderMatcher(), McpMatcher()])
    @pytest.mark.parametrize("error", [ConfigError("of data"), SessionNotFound("another"), KeyError("of data")])
    async def test_what_data_raises_is_raised_as_it_is_and_leaves_no_session(
        self, manager: SessionManager[Any], matcher: SessionMatcher, error: Exception
    ) -> None:
        def fail(scope: Scope) -> None:
            raise error

        with pytest.raises(type(error)) as caught:
            await initializing().go(SessionLeaseMiddleware(App(headers=MADE), manager, matcher, data=fail))

        assert caught.value is error
        assert (len(manager), manager.get_metrics().reserved) == (0, 0)

    @pytest.mark.parametrize("data", [dict, list, lambda scope: scope, partial(dict, a=1)])
    def test_anything_else_that_can_be_called_makes_data(self, data: Any) -> None:
        SessionLeaseMiddleware(App(), SessionManager(), data=data)

    def test_what_is_no_matcher_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="matcher takes an IssuingMatcher or an AdoptingMatcher"):
            SessionLeaseMiddleware(App(), SessionManager(), object())  # type: ignore[arg-type]

    @pytest.mark.parametrize("name", ["", "a b", "naïve", "x:y"])
    def test_a_header_that_cannot_be_is_refused(self, name: str) -> None:
        with pytest.raises(ConfigError, match="the name of a header takes"):
            HeaderMatcher(name)


class Basket(TypedDict):
    items: list[str]


class Sized(Protocol):
    size: int


class TestWhatTheAppIsTold:
    """What the app is told of the session."""

    async def test_session_of_reads_requests_and_scopes(self, manager: SessionManager[Any]) -> None:
        class Request:
            def __init__(self, scope: Scope) -> None:
                self.scope = scope

        session = await manager.create_session("s", data="basket")
        inside = {**http(), SESSION: session}

        assert session_of(inside) is session
        assert session_of(Request(inside)) is session
        assert session_of(inside, str) is session
        assert session_of({**http(), SESSION: None}, str) is None
        with pytest.raises(TypeError, match="the session's data is str, not int"):
            session_of(inside, int)
        with pytest.raises(LookupError, match="did not come through a SessionLeaseMiddleware"):
            session_of(http())

    @pytest.mark.parametrize("data_type", [list[str], list, Sequence[str], Sequence, list[str] | None, object])
    async def test_session_of_takes_generic_types_by_their_class(
        self, manager: SessionManager[Any], data_type: Any
    ) -> None:
        session = await manager.create_session(data=["a"])

        assert session_of({SESSION: session}, data_type) is session

    @pytest.mark.parametrize(("data_type", "name"), [(dict[str, int], "dict"), (Basket, "Basket"), (tuple, "tuple")])
    async def test_session_of_says_which_type_the_data_has(
        self, manager: SessionManager[Any], data_type: type[object], name: str
    ) -> None:
        session = await manager.create_session(data=["a"])

        with pytest.raises(TypeError, match=f"the session's data is list, not {name}"):
            session_of({SESSION: session}, data_type)

    async def test_session_of_takes_a_typed_dict_for_a_dict(self, manager: SessionManager[Any]) -> None:
        session = await manager.create_session(data=Basket(items=[]))

        assert session_of({SESSION: session}, Basket) is session

    @pytest.mark.parametrize("wrong", [Sized, NewType("UserId", int), Literal[5], "int", 5])
    @pytest.mark.parametrize("data", [None, 5])
    async def test_session_of_refuses_what_is_no_class_with_and_without_a_session(
        self, manager: SessionManager[Any], wrong: Any, data: object
    ) -> None:
        session = None if data is None else await manager.create_session(data=data)

        with pytest.raises(TypeError, match="data_type takes a class or a generic type, not"):
            session_of({SESSION: session}, wrong)

    async def test_an_app_that_reads_nothing_is_asked_for_nothing(self, manager: SessionManager[Any]) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await settle()

        client = Client(posting(mcp_session_id="nobody"), [http_body(INITIALIZE)])
        await client.go(SessionLeaseMiddleware(app, manager, McpMatcher()))

        assert client.sent == []
        assert manager.get_metrics().reserved == 0
