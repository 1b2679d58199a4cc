"""One HTTP request or WebSocket, as it passes between server and app: what was said so far, and how it can still end.

Every message of a stream is a touch of the exchange's session; the first one of a plain request is its lease.
"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final, cast

import anyio

from otel_sessions.exceptions import SessionError, SessionNotFound
from otel_sessions.matchers import Answer, Headers, Scope
from otel_sessions.session import Session

Message = MutableMapping[str, object]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

SESSION: Final = "otel_sessions.session"
"""The key of the scope under which the session stands."""

_LAST_WORD_SECONDS: Final = 1.0
_GOING_AWAY, _POLICY_VIOLATION, _TRY_AGAIN_LATER = 1001, 1008, 1013
"""RFC 6455, section 7.4.1, and the registry that it sets up."""


class Exchange:
    """One request. `receive` and `send` are for the app; `on_start` is called with this exchange and the status when an
    answer starts, while `headers` are what it will have and may be changed.

    `on_start` must not hold the exchange itself: it is passed, so that no cycle keeps an ended session in memory until
    the garbage collector comes by.
    """

    starts = "http.response.start"

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.session: Session[Any] | None = None
        self.on_start: Callable[[Exchange, int], None] = _ignore
        self.headers: Headers = []
        self.keeps = False
        """Whether the answer has told the client of a new session."""
        self.ends = False
        """Whether the answer was the end of the session."""
        self._scope = scope
        self._receive = receive
        self._send = send
        self._started = False
        self._over = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message.get("more_body"):
            self._touch()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == self.starts:
            message = self._start(message)
        elif message["type"] == "http.response.body":
            self._over = not message.get("more_body", False)
            if not self._over and not _is_comment(cast("bytes", message.get("body", b""))):
                self._touch()
        await self._send(message)

    async def refuse(self, error: SessionError, answer: Answer) -> None:
        """End the exchange: with `answer` if the app has not started its own, else as well as it can be ended.

        A client that does not read is waited for a second.
        """
        with anyio.move_on_after(_LAST_WORD_SECONDS):
            await self._refuse(error, answer)

    async def _refuse(self, error: SessionError, answer: Answer) -> None:  # noqa: ARG002  # a WebSocket asks
        if not self._started:
            await self._answer("http.response", answer)
        elif not self._over and self._is_event_stream():
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def _start(self, message: Message) -> Message:
        self.headers = list(cast("Iterable[tuple[bytes, bytes]]", message.get("headers", ())))
        self.on_start(self, cast("int", message.get("status", 101)))
        self._started = True
        return {**message, "headers": self.headers}

    def _touch(self) -> None:
        if self.session is not None:
            self.session.touch()

    async def _answer(self, kind: str, answer: Answer) -> None:
        self._started = self._over = True
        await self._send({"type": f"{kind}.start", "status": answer.status, "headers": list(answer.headers)})
        await self._send({"type": f"{kind}.body", "body": answer.body})

    def _is_event_stream(self) -> bool:
        """Return whether a reader takes the end of the body for nothing but the end of the connection."""
        kinds = [value for name, value in self.headers if name.lower() == b"content-type"]
        return any(kind.lower().startswith(b"text/event-stream") for kind in kinds)


class WebSocket(Exchange):
    """One WebSocket: it may end before it is accepted, and is closed rather than left."""

    starts = "websocket.accept"

    async def receive(self) -> Message:
        message = await self._receive()
        self._over = self._over or message["type"] == "websocket.disconnect"
        if message["type"] == "websocket.receive":
            self._touch()
        return message

    async def send(self, message: Message) -> None:
        self._over = self._over or message["type"] in ("websocket.close", "websocket.http.response.start")
        if message["type"] == "websocket.send":
            self._touch()
        await super().send(message)

    async def _refuse(self, error: SessionError, answer: Answer) -> None:
        if self._over:
            return
        if self._started:
            await self._send({"type": "websocket.close", "code": _GOING_AWAY})
        elif "websocket.http.response" in cast("MutableMapping[str, object]", self._scope.get("extensions") or {}):
            await self._answer("websocket.http.response", answer)
        else:
            code = _POLICY_VIOLATION if isinstance(error, SessionNotFound) else _TRY_AGAIN_LATER
            await self._send({"type": "websocket.close", "code": code})


def exchange_of(scope: Scope, receive: Receive, send: Send) -> Exchange:
    return (Exchange if scope["type"] == "http" else WebSocket)(scope, receive, send)


def _ignore(_exchange: Exchange, _status: int) -> None:
    """Take note of nothing: the exchange has no session."""


def _is_comment(chunk: bytes) -> bool:
    """Return whether a part of an event stream is comments only, as a server's pings are, and so no use of it."""
    return chunk.startswith(b":") and all(line[:1] in (b":", b"") for line in chunk.splitlines())
