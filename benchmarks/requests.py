"""The smallest HTTP request of an ASGI app, so that what is around the app shows: a receive, a start and a body."""

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


def request_of(session_id: str) -> Scope:
    """Return the scope of a request that names a session, as a server makes it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"127.0.0.1:8080"),
            (b"user-agent", b"bench"),
            (b"accept", b"*/*"),
            (b"x-session-id", session_id.encode()),
        ],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8080),
    }


async def bare_app(scope: Scope, receive: Callable[[], Awaitable[Message]], send: Callable[..., Any]) -> None:  # noqa: ARG001
    """Read the request and answer it."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


class Server:
    """Passes requests to an app, and counts the answers with status 200."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.answered = 0

    async def serve(self, requests: Sequence[Scope]) -> None:
        app, send = self._app, self._send
        for scope in requests:
            await app(scope, _receive, send)

    async def _send(self, message: Message) -> None:
        if message.get("status") == 200:
            self.answered += 1
