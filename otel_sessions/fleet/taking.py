"""What a process does with an exchange that another process has passed on to it.

Only an exchange that a process of the fleet has signed is served, and only in the session that it names. It is never
passed on again. To the app it is as if it had come from the client itself. Each answer says, signed, who gave it. So
does the answer for an app that fails: the answer of a server is not signed, and a session that lives would look lost.
"""

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Final

from otel_sessions._core.events import Event
from otel_sessions.asgi import ASGIApp, Message, Receive, Send
from otel_sessions.asgi._elsewhere import FORWARDED, Serve
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
    known: bool | None = scope.get(FORWARDED)
    if known is None:
        headers = scope["headers"]
        known = scope[FORWARDED] = HEADER in dict(headers if type(headers) is list else pairs_of(scope))
    return known


def as_of_client(scope: Scope, *, has_header: bool) -> None:
    """Make a request one that comes from a client: the header is taken out, and `is_forwarded` is False."""
    if has_header:
        scope["headers"] = [pair for pair in pairs_of(scope) if pair[0] != HEADER]
    scope[FORWARDED] = False


def _check(secrets: Secrets, now: float, scope: Scope) -> tuple[Passage, Proof] | None:
    """Return what the header of an exchange says, or None if no process of the fleet has signed it."""
    values = [value for key, value in pairs_of(scope) if key == HEADER]
    return secrets.check(values[0], _method(scope), target_of(scope), now) if len(values) == 1 else None


AnswerTo = Callable[[bytes], Awaitable[bytes]]
"""Answers the question in a query. Raises `ValueError` for a question that it does not understand."""


async def take(
    name: str,
    secrets: Secrets,
    now: float,
    scope: Scope,
    receive: Receive,
    send: Send,
    serve: Serve,
    answer_to: AnswerTo | None = None,
) -> None:
    """Serve, answer or refuse an exchange that has the header. `name` is the name of this process.

    Raises what `serve` raises, after an answer, and `RuntimeError` if the app gives no answer.
    """
    checked = _check(secrets, now, scope)
    if checked is None:
        _logger.debug(
            "a request with the header of forwarded requests was refused: no peer has signed it",
            extra=Event.PEER_UNSIGNED.extra,
        )
        await _answer(scope, send, HTTPStatus.FORBIDDEN, REFUSED, b"no process of the fleet has signed this request\n")
        return
    passage, proof = checked
    if passage.owner == ANYONE:
        await _answer(scope, send, HTTPStatus.OK, proof.answer(Word.PEER, name), b"")
        return
    if passage.owner == name and passage.session_id == ITSELF and answer_to is not None:
        if await _answer_question(scope, send, proof, answer_to):
            return
    elif passage.owner == name:
        served = partial(serve, passage.session_id, _as_it_came(scope, passage))
        if await (served(receive, send) if _SIGNED in scope else _answer_signed(proof, scope, receive, send, served)):
            return
    said = proof.answer(Word.NOT_OWNER)
    await _answer(scope, send, HTTPStatus.MISDIRECTED_REQUEST, said, b"this process does not have the session\n")


async def _answer_question(scope: Scope, send: Send, proof: Proof, answer_to: AnswerTo) -> bool:
    """Answer a question about this process. Return False if it is not understood: the asker may be newer."""
    try:
        said = await answer_to(bytes(scope["query_string"]))
    except (ValueError, TypeError):
        return False
    await _answer(scope, send, HTTPStatus.OK, proof.answer(Word.OWNER), said)
    return True


def _as_it_came(scope: Scope, passage: Passage) -> Scope:
    """Return the scope as it was where the client's request arrived."""
    client = None if passage.client is None else list(passage.client)
    headers = [pair for pair in pairs_of(scope) if pair[0] != HEADER]
    return {**scope, "client": client, "scheme": passage.scheme, "headers": headers, FORWARDED: False}


async def serve_whole(secrets: Secrets, now: float, scope: Scope, receive: Receive, send: Send, app: ASGIApp) -> None:
    """Serve an exchange by a whole app, whose middleware takes it. What stands around the middleware may answer, too.

    Raises what the app raises, and `RuntimeError` if it gives no answer.
    """
    checked = _check(secrets, now, scope)
    if checked is None:
        await app(scope, receive, send)  # the middleware refuses it
        return

    async def serve(receive: Receive, send: Send) -> bool:
        await app({**scope, _SIGNED: True}, receive, send)
        return True

    await _answer_signed(checked[1], scope, receive, send, serve)


async def _answer_signed(
    proof: Proof, scope: Scope, receive: Receive, send: Send, serve: Callable[[Receive, Send], Awaitable[bool]]
) -> bool:
    """Let `serve` answer, and say in the answer that this process owns the session. Return what `serve` returns.

    If `serve` raises before it has answered, the answer is 500, and the error is raised for the log of the server.
    Raises `RuntimeError` if `serve` returns True without an answer. A task that is cancelled sends nothing more.
    """
    signing = _Signing(proof, scope, receive, send)
    try:
        served = await serve(signing.receive, signing.send)
    except Exception:
        await signing.fail()
        raise
    if served and not signing.is_settled:
        await signing.fail()
        raise RuntimeError("the app has returned without an answer to a request that a peer has passed on")
    return served


class _Signing:
    """Both ways of an exchange. Its answer says that this process owns the session: the app cannot say so itself."""

    __slots__ = ("_proof", "_receive", "_scope", "_send", "is_settled")

    def __init__(self, proof: Proof, scope: Scope, receive: Receive, send: Send) -> None:
        self._proof = proof
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

    async def send(self, message: Message) -> None:
        if not self.is_settled:
            kind = message["type"]
            if kind in _STARTS:
                self.is_settled = True
                message = {**message, "headers": self._signed(message.get("headers") or ())}
            elif kind == "websocket.close":
                self.is_settled = True
                # ASGI: a close before the handshake is accepted is a 403, which a server would not sign.
                if _can_deny(self._scope):
                    await self._say(HTTPStatus.FORBIDDEN)
                    return
                await self._accept_denied(HTTPStatus.FORBIDDEN)
        await self._send(message)

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
        said = self._proof.answer(Word.OWNER, str(int(status)))
        await self._send({"type": "websocket.accept", "subprotocol": None, "headers": [(HEADER, said)]})

    async def _say(self, status: HTTPStatus) -> None:
        self.is_settled = True
        await _answer(self._scope, self._send, status, self._proof.answer(Word.OWNER), f"{status.phrase}\n".encode())

    def _signed(self, headers: Headers) -> Headers:
        """Return the headers with a signed word: another answer of this process, or the word of the owner."""
        said = named(headers)
        if said and self._proof.said_in(said) is not None:
            return headers
        others = [pair for pair in headers if pair not in said] if said else headers
        return [*others, (HEADER, self._proof.answer(Word.OWNER))]


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
