"""A program that serves requests in one process, `plain` or `hinted`, for a tool that counts instructions.

For each line on stdin it serves `COUNTED` requests, and writes a line once they are answered. Each request has a head
of its own, as under a server that remembers none.
"""

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Final

from otel_sessions import SessionManager
from otel_sessions.asgi import ASGIApp, SessionLeaseMiddleware
from otel_sessions.fleet import StaticPeers
from otel_sessions.matchers import McpMatcher

COUNTED: Final = 1000
_BEFORE: Final = 3000
"""How many requests come first, to fill caches and free lists."""
_ID: Final = "5f1d4a3c-8e0b-4f4f-9d53-0c2f7b7a6e11"

Message = dict[str, Any]


async def _app(_scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Message], Awaitable[None]]) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b"{}"})


def _scope(session_id: str) -> Message:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/mcp",
        "headers": [
            (b"host", b"127.0.0.1:8080"),
            (b"accept", b"application/json, text/event-stream"),
            (b"content-type", b"application/json"),
            (b"mcp-session-id", session_id.encode()),
            (b"mcp-protocol-version", b"2025-06-18"),
        ],
        "client": ("127.0.0.1", 50000),
    }


async def _receive() -> Message:
    return {"type": "http.request", "body": b"{}", "more_body": False}


async def _send(message: Message) -> None:
    assert message.get("status", 200) == 200


async def _serve(app: ASGIApp, session_id: str, count: int) -> None:
    for _ in range(count):
        await app(_scope(session_id), _receive, _send)


async def main() -> None:
    fleet = StaticPeers({"w1": "http://127.0.0.1:1", "w2": "http://127.0.0.1:2"}, name="w1", secret="x" * 32)
    alone, among = SessionManager[None](clock=monotonic), SessionManager[None](clock=monotonic, fleet=fleet)
    manager, matcher, session_id = {
        "plain": (alone, McpMatcher(), _ID),
        "hinted": (among, McpMatcher(hint=True), f"w1.{_ID}"),
    }[sys.argv[1]]
    async with manager:
        await manager.create_session(_ID, data=None)
        app = SessionLeaseMiddleware(_app, manager, matcher)
        await _serve(app, session_id, _BEFORE)
        gc.collect()
        gc.disable()  # a collection looks at all objects, whoever made them
        print("ready", flush=True)  # noqa: T201
        for _ in sys.stdin:  # nothing else is to be done meanwhile
            await _serve(app, session_id, COUNTED)
            print("served", flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main())
