"""A server that gets the same head again says so, and its matcher is asked once for as long as nothing changes."""

from typing import Any

import pytest

from otel_sessions import SessionManager
from otel_sessions.asgi import Receive, Scope, Send, SessionLeaseMiddleware
from otel_sessions.asgi._repeated import REPEATED, Repeated, RepeatedAnswer
from otel_sessions.asgi._roles import ENDS
from otel_sessions.matchers import HeaderMatcher, Headers, Match, McpMatcher
from tests.exchanges import Client, http

pytestmark = pytest.mark.anyio


class Counting(HeaderMatcher):
    """Counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def match(self, scope: Scope) -> Match:
        self.asked += 1
        return super().match(scope)

    def towards_app(self, headers: Headers, session_id: str | None) -> Headers:
        self.asked += 1
        return super().towards_app(headers, session_id)


async def answer(scope: Any, receive: Receive, send: Send) -> None:
    named = [value for name, value in scope["headers"] if name == b"x-session-id"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"seen", b",".join(named))]})
    await send({"type": "http.response.body", "body": b""})


async def test_a_head_that_is_repeated_is_matched_once() -> None:
    matcher = Counting()
    async with SessionManager[None]() as manager:
        app = SessionLeaseMiddleware(answer, manager, matcher)
        session = await manager.create_session()
        repeated = Repeated()
        for _ in range(3):
            scope = {**http(x_session_id=session.id), REPEATED: repeated}
            client = await Client(scope).go(app)
            assert client.headers(b"seen") == [session.id.encode()]
        assert (matcher.asked, session.metadata.message_count) == (2, 3)


async def test_a_repeated_head_whose_session_is_another_one_shows_the_other_one() -> None:
    async with SessionManager[None]() as manager:
        app = SessionLeaseMiddleware(answer, manager, HeaderMatcher())
        repeated, seen = Repeated(), []
        for _ in range(2):  # each opens a session
            client = await Client({**http(), REPEATED: repeated}).go(app)
            assert client.headers(b"seen") == client.headers(b"x-session-id")
            seen += client.headers(b"seen")
        assert len(set(seen)) == 2


async def test_a_repeated_head_whose_session_has_ended_is_404() -> None:
    async with SessionManager[None]() as manager:
        app = SessionLeaseMiddleware(answer, manager, HeaderMatcher())
        session = await manager.create_session()
        scope = {**http(x_session_id=session.id), REPEATED: Repeated()}
        assert (await Client(dict(scope)).go(app)).status == 200
        await manager.close_session(session.id)
        assert (await Client(dict(scope)).go(app)).status == 404


class Asked(McpMatcher):
    """Counts for how many answers it is asked for an id."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def id_in_answer(self, headers: Headers) -> str | None:
        self.asked += 1
        return super().id_in_answer(headers)


@pytest.mark.parametrize("kind", [b"text/event-stream", b"application/json"])
async def test_an_answer_that_is_repeated_is_looked_at_once_and_counts_as_before(kind: bytes) -> None:
    headers = RepeatedAnswer([(b"content-type", kind)])

    async def stream(_scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    matcher = Asked()
    async with SessionManager[None]() as manager:
        app = SessionLeaseMiddleware(stream, manager, matcher)
        session = await manager.create_session("s1")
        for _ in range(2):
            await Client(http(mcp_session_id="s1")).go(app)
        events = 1 if kind == b"text/event-stream" else 0
        assert (matcher.asked, session.metadata.message_count) == (1, 2 * (1 + events))


@pytest.mark.parametrize("ends", [True, False])
async def test_a_matcher_is_not_asked_again_whether_an_answer_ends_its_session(ends: bool) -> None:
    async def app(scope: Any, _receive: Receive, send: Send) -> None:
        scope[ENDS] = ends
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with SessionManager[None]() as manager:
        await manager.create_session("s1")
        await Client(http(mcp_session_id="s1")).go(SessionLeaseMiddleware(app, manager, McpMatcher()))
        assert len(manager) == (0 if ends else 1)
