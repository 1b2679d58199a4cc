"""What a process does with an exchange that another process has passed on to it.

Only an exchange that a process of the fleet has signed is served, and only in the session that it names. It is never
passed on again. To the app it is as if it had come from the client itself. Each answer says, signed, who gave it. So
does the answer for an app that fails: the answer of a server is not signed, and a session that lives would look lost.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Final

from otel_sessions._core.events import Event
from otel_sessions.asgi import ASGIApp, Message, Receive, Send
from otel_sessions.asgi._elsewhere import FORWARDED, Serve
from otel_sessions.asgi._leaving import LEAVING, Leaving
from otel_sessions.asgi._repeated import REPEATED, Repeated, RepeatedAnswer
from otel_sessions.matchers import Headers, Scope, pairs_of

from .questions import ITSELF
from .signing import ANYONE, HEADER, REFUSED, Passage, Proof, Secrets, Word, named
from .targets import target_of

_STARTS: Final = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
_LEAVES: Final = frozenset({"http.disconnect", "websocket.disconnect"})
_DENIAL: Final = "websocket.http.response"
_SIGNED: Final = "otel_sessions.fleet.signed"
"""In a scope: what stands around the app signs its answers already."""
_POLICY_VIOLATION, _INTERNAL_ERROR = 1008, 1011
"""RFC 6455, section 7.4.1."""

_logger = logging.getLogger("otel_sessions")


def is_forwarded(scope: Scope) -> bool:
    """Return whether a request has the header of a forwarded request, signed or not."""
    for name, _ in pairs_of(scope):  # noqa: SIM110  # a generator costs twice as much
        if name == HEADER:
            return True
    return False


def as_of_client(scope: Scope, *, has_header: bool) -> None:
    """Make a request one that comes from a client: the header is taken out, and `is_forwarded` is False."""
    if has_header:
        scope["headers"] = [pair for pair in pairs_of(scope) if pair[0] != HEADER]
    scope[FORWARDED] = False


class _Taken:
    """What was found in a head that a peer has passed on: what is signed, and what the client sent for a scope."""

    __slots__ = ("_answered", "_unsigned", "as_it_came", "passage", "proof", "secrets")

    def __init__(self, secrets: Secrets, passage: Passage, proof: Proof, headers: Headers) -> None:
        self.secrets: Final = secrets
        self.passage: Final = passage
        self.proof: Final = proof
        came = {"client": passage.client, "scheme": passage.scheme, "headers": headers, FORWARDED: False}
        self.as_it_came: Final[Mapping[str, object]] = came
        self._unsigned: RepeatedAnswer | None = None
        self._answered: Headers = []

    def answered(self, headers: Headers) -> Headers:
        """Return the headers of an answer, signed. They are signed once if the app gives the same headers again."""
        if not isinstance(headers, RepeatedAnswer):
            return self._signed(headers)
        if headers is not self._unsigned:
            self._unsigned, self._answered = headers, RepeatedAnswer(self._signed(headers))
        return self._answered

    def _signed(self, headers: Headers) -> Headers:
        """Return the headers with a signed word: another answer of this process, or the word of the owner."""
        said = named(headers)
        if said and self.proof.said_in(said) is not None:
            return headers
        others = [pair for pair in headers if pair not in said] if said else headers
        return [*others, (HEADER, self.proof.by_owner)]


def _check(secrets: Secrets, now: float, scope: Scope) -> _Taken | None:
    """Return what is found in the head of an exchange, or None if no process of the fleet has signed it.

    The head is read once if it is repeated.
    """
    repeated: Repeated | None = scope.get(REPEATED)
    known = None if repeated is None else repeated.taken
    if isinstance(known, _Taken) and known.secrets is secrets:
        return known if now <= known.passage.expires else None
    headers = pairs_of(scope)
    values = [value for key, value in headers if key == HEADER]
    checked = secrets.check(values[0], _method(scope), target_of(scope), now) if len(values) == 1 else None
    if checked is None:
        return None
    taken = _Taken(secrets, *checked, [pair for pair in headers if pair[0] != HEADER])
    if repeated is not None:
        repeated.taken = taken
    return taken


AnswerTo = Callable[[bytes], Awaitable[bytes]]
"""Answers the question in a query. Raises `ValueError` for a question that it does not understand."""


def take(
    name: str,
    secrets: Secrets,
    now: float,
    scope: Scope,
    receive: Receive,
    send: Send,
    serve: Serve,
    answer_to: AnswerTo | None = None,
) -> Awaitable[None]:
    """Serve, answer or refuse an exchange that has the header. `name` is the name of this process.

    What it returns raises what `serve` raises, after an answer, and `RuntimeError` if the app gives no answer.
    """
    taken = _check(secrets, now, scope)
    if taken is None:
        _logger.debug(
            "a request with the header of forwarded requests was refused: no peer has signed it",
            extra=Event.PEER_UNSIGNED.extra,
        )
        return _answer(scope, send, HTTPStatus.FORBIDDEN, REFUSED, b"no process of the fleet has signed this request\n")
    owner, session_id = taken.passage.owner, taken.passage.session_id
    if owner == ANYONE:
        return _answer(scope, send, HTTPStatus.OK, taken.proof.answer(Word.PEER, name), b"")
    if owner != name:
        return _disown(taken, scope, send)
    if session_id == ITSELF and answer_to is not None:
        return _answer_question(taken, scope, send, answer_to)
    return _serve_here(taken, scope, receive, send, serve)


async def _serve_here(taken: _Taken, scope: Scope, receive: Receive, send: Send, serve: Serve) -> None:
    """Serve an exchange as it was where the client's request arrived, if its session is here."""
    session_id, came = taken.passage.session_id, {**scope, **taken.as_it_came}
    if _SIGNED in scope:
        is_here = await serve(session_id, came, receive, send) is not False
    else:
        signing = _Signing(taken, scope, receive, send)
        leaving: Leaving | None = scope.get(LEAVING)
        heard = signing.receive if leaving is None else receive
        try:
            is_here = await serve(session_id, came, heard, signing.send) is not False
        except Exception:
            await signing.fail()
            raise
        if is_here and not (signing.is_settled or (leaving is not None and leaving.is_gone)):
            await signing.miss()
    if not is_here:
        await _disown(taken, scope, send)


def _disown(taken: _Taken, scope: Scope, send: Send) -> Awaitable[None]:
    said = taken.proof.answer(Word.NOT_OWNER)
    return _answer(scope, send, HTTPStatus.MISDIRECTED_REQUEST, said, b"this process does not have the session\n")


async def _answer_question(taken: _Taken, scope: Scope, send: Send, answer_to: AnswerTo) -> None:
    """Answer a question about this process. Disown it if it is not understood: the asker may be newer."""
    try:
        said = await answer_to(bytes(scope["query_string"]))
    except (ValueError, TypeError):
        await _disown(taken, scope, send)
    else:
        await _answer(scope, send, HTTPStatus.OK, taken.proof.by_owner, said)


async def serve_whole(secrets: Secrets, now: float, scope: Scope, receive: Receive, send: Send, app: ASGIApp) -> None:
    """Serve an exchange by a whole app, whose middleware takes it. What stands around the middleware may answer, too.

    Raises what the app raises, and `RuntimeError` if it gives no answer.
    """
    taken = _check(secrets, now, scope)
    if taken is None:
        await app(scope, receive, send)  # the middleware refuses it
        return
    signing = _Signing(taken, scope, receive, send)
    try:
        await app({**scope, _SIGNED: True}, signing.receive, signing.send)
    except Exception:
        await signing.fail()
        raise
    if not signing.is_settled:
        await signing.miss()


class _Signing:
    """Both ways of an exchange. Its answer says that this process owns the session: the app cannot say so itself.

    An app that fails before it has answered gets an answer, too. A task that is cancelled sends nothing more.
    """

    __slots__ = ("_receive", "_scope", "_send", "_taken", "is_settled")

    def __init__(self, taken: _Taken, scope: Scope, receive: Receive, send: Send) -> None:
        self._taken = taken
        self._scope = scope
        self._receive = receive
        self._send = send
        self.is_settled = False
        """Whether an answer has begun, or the client has left."""

    async def receive(self) -> Message:
        message: Message = await self._receive()
        if message["type"] in _LEAVES:
            self.is_settled = True
        return message

    def send(self, message: Message) -> Awaitable[None]:
        if not self.is_settled:
            kind = message["type"]
            if kind in _STARTS:
                self.is_settled = True
                message = {**message, "headers": self._taken.answered(message.get("headers") or [])}
            elif kind == "websocket.close":
                return self._close(message)
        return self._send(message)

    async def _close(self, message: Message) -> None:
        """Refuse a handshake. ASGI: a close before it is accepted is a 403, which a server would not sign."""
        self.is_settled = True
        if _can_deny(self._scope):
            await self._say(HTTPStatus.FORBIDDEN)
            return
        await self._accept_denied(HTTPStatus.FORBIDDEN)
        await self._send(message)

    async def miss(self) -> None:
        """Answer in place of an app that has returned without an answer. Raises `RuntimeError`, for the log."""
        await self.fail()
        raise RuntimeError("the app has returned without an answer to a request that a peer has passed on")

    async def fail(self) -> None:
        """Answer in place of an app that has not answered."""
        if self.is_settled:
            return
        if self._scope["type"] == "http" or _can_deny(self._scope):
            await self._say(HTTPStatus.INTERNAL_SERVER_ERROR)
            return
        await self._accept_denied(HTTPStatus.INTERNAL_SERVER_ERROR)
        await self._send({"type": "websocket.close", "code": _INTERNAL_ERROR})

    async def _accept_denied(self, status: HTTPStatus) -> None:
        """Accept a handshake that is to be closed at once: only so can this server tell the peer that it is refused."""
        self.is_settled = True
        said = self._taken.proof.answer(Word.OWNER, str(int(status)))
        await self._send({"type": "websocket.accept", "subprotocol": None, "headers": [(HEADER, said)]})

    async def _say(self, status: HTTPStatus) -> None:
        self.is_settled = True
        said = self._taken.proof.answer(Word.OWNER)
        await _answer(self._scope, self._send, status, said, f"{status.phrase}\n".encode())


async def _answer(scope: Scope, send: Send, status: HTTPStatus, said: bytes, body: bytes) -> None:
    headers: Headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (HEADER, said),
    ]
    kind = "http.response"
    if scope["type"] == "websocket":
        if not _can_deny(scope):
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
            return
        kind = _DENIAL
    await send({"type": f"{kind}.start", "status": int(status), "headers": headers})
    await send({"type": f"{kind}.body", "body": body})


def _can_deny(scope: Scope) -> bool:
    """Return whether the server of a WebSocket can refuse its handshake with an answer."""
    return _DENIAL in (scope.get("extensions") or {})


def _method(scope: Scope) -> str:
    """Return the method of a request. The handshake of a WebSocket is a GET (RFC 6455, section 4.1)."""
    return str(scope.get("method", "GET"))
