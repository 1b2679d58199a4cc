"""Requests that arrive at another process than the owner of their session, over real sockets."""

from typing import Any

import pytest

from otel_sessions import Here, Peer
from otel_sessions.asgi import SESSION, Receive, Send
from otel_sessions.matchers import HeaderMatcher

from .apps import fleet_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def counting(name: str) -> Any:
    """An app that says which process it is, and how many messages the session has had."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        session = scope[SESSION]
        count = None if session is None else session.metadata.message_count
        body = f"{name} {count}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    return app


async def test_a_request_at_the_wrong_process_is_answered_by_the_owner_of_its_session() -> None:
    async with fleet_of(counting, HeaderMatcher) as fleet:
        opened = await fleet["w1"].http.get("/")
        session_id = opened.headers["x-session-id"]
        assert session_id.startswith("w1.")
        answer = await fleet["w2"].http.get("/", headers={"x-session-id": session_id})
        assert answer.text == "w1 2"
        assert len(fleet["w2"].manager) == 0
        assert await fleet["w1"].manager.locate(session_id) == Here()
        assert await fleet["w2"].manager.locate(session_id) == Peer(name="w1", address=fleet["w1"].url)
