"""One HTTP request or WebSocket between server and app: which messages have passed, and how it can still end.

An exchange knows the protocol, and notes activity on the session of its `role`. The role (`_roles`) decides what an
answer means for the session. The exchange asks the role once, when the answer starts, and tells the role when the start
has been sent.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from math import inf
from types import MethodType
from typing import Any, Final, TypeVar

import anyio

from otel_sessions._core.exceptions import SessionError, SessionNotFound
from otel_sessions.matchers import MOST_LOOKED_AT, Answer, Scope

from ._direct import DIRECT, Way
from ._events import Events
from ._repeated import events_in
from ._roles import Outside, Role

# Frameworks pass their own typed dicts. Only Any is compatible with them in both directions.
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
ASGIApp = Callable[[Any, Receive, Send], Awaitable[None]]
BODY_FOLLOWS: Final = "otel_sessions.body_follows"
"""In the message that starts an answer: whether the next message is sent at once, without a wait in between."""
_T = TypeVar("_T")

_LAST_WORD_SECONDS: Final = 1.0
_MOST_PARTS: Final = 1024
"""The largest number of parts of a body that are kept while the body is examined."""
_FIRST_LOOK: Final = 256
"""Bytes of an unfinished body before the first look. Each further look waits for twice as many bytes."""
_LEAST_REFUSAL: Final = 400
_GOING_AWAY, _POLICY_VIOLATION, _TRY_AGAIN_LATER = 1001, 1008, 1013
"""RFC 6455, section 7.4.1, and the IANA registry of close codes."""

BodyOpens = Callable[[bytes, bool], bool | None]
"""Returns whether a request may open a session, from the start of its body and whether this is the whole body."""
Looking = Callable[[Scope, Receive], Receive]
"""Returns the `receive` by which the start of a body is read, before the request is known to open a session."""


_OUTSIDE: Final = Outside()


class Exchange:
    """One request. The app gets `receive` and `send`.

    A stream is ended if nothing has passed in either direction for `idle_timeout` seconds. An answer with a
    Content-Length is not a stream. Work of the app after its answer is not cut short.
    """

    __slots__ = (
        *("_events", "_has_left", "_idle_timeout", "_looked_at", "_now", "_over", "_receive", "_scope", "_send"),
        *("_silence", "_started", "_streams"),
        "role",
    )
    starts = "http.response.start"

    def __init__(self, scope: Scope, receive: Receive, send: Send, idle_timeout: float | None = None) -> None:
        self.role: Role = _OUTSIDE
        self._scope = scope
        self._receive = receive
        self._send = send
        self._idle_timeout = idle_timeout
        self._silence: anyio.CancelScope | None = None
        self._now: Callable[[], float] = anyio.current_time
        self._looked_at: list[Message] | None = None
        self._has_left = False
        """Whether the client is known to have left."""
        self._started = False
        self._over = False
        self._streams = False
        """Whether an answer without a Content-Length has started."""
        self._events: Events | None = None

    def run(self, app: Callable[[Scope, Receive, Send], Awaitable[_T]], scope: Scope) -> Awaitable[_T | None]:
        """Run the app to its end, or until the exchange has been silent for too long. Return what the app returns."""
        if self._idle_timeout is None:
            return app(scope, self.receive, self.send)
        return self._run_watched(app, scope)

    async def _run_watched(self, app: Callable[[Scope, Receive, Send], Awaitable[_T]], scope: Scope) -> _T | None:
        returned: _T | None = None
        with anyio.CancelScope() as self._silence:
            returned = await app(scope, self.receive, self.send)
        if self._silence.cancelled_caught:
            with anyio.move_on_after(_LAST_WORD_SECONDS):  # the client may have stopped reading
                await self._hang_up()
        return returned

    async def body_opens(self, opens: BodyOpens, looking: Looking) -> bool | None:
        """Return whether the request may open a session by its body, or None if the first 8 KiB do not tell.

        The app still gets all parts that were read. If the client has left, the result is False.
        """
        start, complete, next_look, parts = b"", False, _FIRST_LOOK, 0
        looked_at = self._looked_at = self._looked_at or []
        receive = looking(self._scope, self._receive)
        while not complete and len(start) < MOST_LOOKED_AT and parts < _MOST_PARTS:
            if parts == len(looked_at):
                looked_at.append(await receive())
            message, parts = looked_at[parts], parts + 1
            if message["type"] != "http.request":
                return False
            start += message.get("body", b"")[: MOST_LOOKED_AT + 1 - len(start)]
            complete = not message.get("more_body", False) and len(start) <= MOST_LOOKED_AT
            if complete or len(start) >= next_look:
                next_look = 2 * len(start)
                decided = opens(start[:MOST_LOOKED_AT], complete)
                if decided is not None:
                    return decided
        return None

    def wait_before_start(self, ready: Callable[[], Awaitable[None]]) -> None:
        """Await `ready` before the start of the answer is sent. If it raises, no answer has started."""
        send = self._send

        async def wait_and_send(message: Message) -> None:
            if message["type"] == self.starts:
                self._send = send
                events, self._started, self._events = self._events, False, None
                await ready()
                self._started, self._events = True, events
            await send(message)

        self._send = wait_and_send

    def put_back(self, messages: list[Message]) -> None:
        """Let `receive` return messages again, which it has returned already."""
        self._looked_at = [*messages, *(self._looked_at or ())]

    async def receive(self) -> Message:
        message: Message = self._looked_at.pop(0) if self._looked_at else await self._receive()
        if message.get("more_body"):
            self._note_activity()
        elif message["type"] == "http.disconnect":
            self._has_left = True
        return message

    def send(self, message: Message) -> Awaitable[None]:
        kind = message["type"]
        if kind == self.starts:
            answer_sent = self.role.answer_sent
            if answer_sent is None:
                return self._send(self._start(message))
            return self._send_start(message, answer_sent)
        if kind == "http.response.body":
            self._over = not message.get("more_body", False)
            self._note_part(message.get("body") or b"")
            if self._over:
                self._expect_more()
        elif kind == DIRECT:
            self._note_directly(message["way"])
        return self._send(message)

    async def _send_start(self, message: Message, answer_sent: Callable[[], None]) -> None:
        await self._send(self._start(message))
        if not self._has_left:  # servers accept messages that they cannot send any more
            answer_sent()

    async def refuse(self, error: SessionError, answer: Answer) -> None:
        """End the exchange: with `answer` if the app has not started an answer, else as well as possible.

        A client that does not read delays the end by at most a second.
        """
        with anyio.move_on_after(_LAST_WORD_SECONDS):
            if self._started:
                await self._hang_up()
            elif not self._over:
                await self._answer_instead(error, answer)

    async def _answer_instead(self, error: SessionError, answer: Answer) -> None:  # noqa: ARG002  # a WebSocket asks
        await self._answer("http.response", answer)

    async def _hang_up(self) -> None:
        """End an answer that has started: an event stream in order. Any other answer stays incomplete."""
        if not self._over and self._events is not None:
            self._over = True
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def _start(self, message: Message) -> Message:
        said = message.get("headers", ())
        said = said if isinstance(said, list) else list(said)
        headers = self.role.answer_starts(message.get("status", 101), said)
        self._started = True
        self._events = events_in(headers)
        if self._idle_timeout is not None:
            self._streams = not any(name.lower() == b"content-length" for name, _ in headers)
            self._expect_more()
        return message if headers is said else {**message, "headers": headers}

    def _note_part(self, body: bytes) -> None:
        """Note a part of an answer. A part of an event stream is a message, unless it has only comments."""
        if self._events is None:
            if not self._over:
                self._note_activity()
        elif self._events.has_more_than_comments(bytes(body)):
            self._note_message()

    def _note_directly(self, way: Way) -> None:
        """Note the parts of an answer that do not come by `send`, if there is anything to note."""
        if self._idle_timeout is not None or self.role.session is not None:
            self._now = way.now
            way.notes.append(self._note_part)

    def _note_activity(self) -> None:
        self._expect_more()
        if self.role.session is not None:
            self.role.session.note_activity()

    def _note_message(self) -> None:
        self._expect_more()
        if self.role.session is not None:
            self.role.session.touch()

    def _expect_more(self) -> None:
        """Start the time of silence again, or stop it if the exchange is over."""
        if self._silence is not None and self._idle_timeout is not None and self._streams:
            self._silence.deadline = inf if self._over else self._now() + self._idle_timeout

    async def _answer(self, kind: str, answer: Answer) -> None:
        self._started = self._over = True
        await self._send({"type": f"{kind}.start", "status": answer.status, "headers": list(answer.headers)})
        await self._send({"type": f"{kind}.body", "body": answer.body})


class WebSocket(Exchange):
    """One WebSocket. It may end before it is accepted, and is closed in order."""

    __slots__ = ()
    starts = "websocket.accept"

    async def receive(self) -> Message:
        message: Message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._has_left = self._over = True
            self._expect_more()
        if message["type"] == "websocket.receive":
            self._note_message()
        return message

    def send(self, message: Message) -> Awaitable[None]:
        if message["type"] in ("websocket.close", "websocket.http.response.start"):
            self._over = True
            self._expect_more()
        if message["type"] == "websocket.http.response.start":
            message = self._deny(message)
        if message["type"] == "websocket.send":
            self._note_message()
        return super().send(message)

    def _deny(self, message: Message) -> Message:
        """Note that the app refuses the handshake. The role sees at least status 400, whatever the app's status is."""
        said = message.get("headers", ())
        said = said if isinstance(said, list) else list(said)
        headers = self.role.answer_starts(max(message.get("status", 403), _LEAST_REFUSAL), said)
        return message if headers is said else {**message, "headers": headers}

    async def _hang_up(self) -> None:
        if not self._over:
            self._over = True
            await self._send({"type": "websocket.close", "code": _GOING_AWAY})

    async def _answer_instead(self, error: SessionError, answer: Answer) -> None:
        if "websocket.http.response" in (self._scope.get("extensions") or {}):
            await self._answer("websocket.http.response", answer)
        else:
            code = _POLICY_VIOLATION if isinstance(error, SessionNotFound) else _TRY_AGAIN_LATER
            await self._send({"type": "websocket.close", "code": code})


def method_of(app: ASGIApp) -> ASGIApp:
    """Return what is called at the least cost: of an object whose class defines `__call__`, the method itself."""
    call = getattr(app, "__call__", None)  # noqa: B004  # the method of a callable object
    return call if isinstance(call, MethodType) else app


def look_freely(_scope: Scope, receive: Receive) -> Receive:
    """Look at a body however long it takes: the server has deadlines of its own."""
    return receive


def exchange_of(scope: Scope, receive: Receive, send: Send, idle_timeout: float | None = None) -> Exchange:
    if scope["type"] == "http":
        return Exchange(scope, receive, send, idle_timeout)
    return WebSocket(scope, receive, send, idle_timeout)
