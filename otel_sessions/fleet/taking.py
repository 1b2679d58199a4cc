"""What a process does with an exchange that another process has passed on to it.

Only an exchange that a process of the fleet has signed is served, and only in the session that it names. It is never
passed on again. To the app it is as if it had come from the client itself. Each answer says, signed, who gave it.
"""

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from otel_sessions._core.events import Event
from otel_sessions.asgi import Message, Receive, Send
from otel_sessions.asgi._elsewhere import Serve
from otel_sessions.matchers import Headers, Scope, pairs_of

from .questions import ITSELF
from .signing import ANYONE, HEADER, REFUSED, Passage, Proof, Secrets, Word
from .targets import target_of

_STARTS: Final = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
_POLICY_VIOLATION: Final = 1008
"""RFC 6455, section 7.4.1."""

_logger = logging.getLogger("otel_sessions")


def is_forwarded(scope: Scope) -> bool:
    """Return whether a request has the header of a forwarded request, signed or not."""
    return HEADER in [name for name, _ in scope["headers"]]


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
    """Serve, answer or refuse an exchange that has the header. `name` is the name of this process."""
    values = [value for key, value in pairs_of(scope) if key == HEADER]
    checked = secrets.check(values[0], _method(scope), target_of(scope), now) if len(values) == 1 else None
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
    elif passage.owner == name and await serve(
        passage.session_id, _as_it_came(scope, passage), receive, _signed_send(send, proof)
    ):
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
    return {**scope, "client": client, "scheme": passage.scheme, "headers": headers}


def _signed_send(send: Send, proof: Proof) -> Send:
    """Return a `send` that says, in the answer, that this process owns the session. The app cannot say so itself."""
    said = (HEADER, proof.answer(Word.OWNER))

    async def signed(message: Message) -> None:
        if message["type"] in _STARTS:
            others = [pair for pair in message.get("headers") or () if pair[0].lower() != HEADER]
            message = {**message, "headers": [*others, said]}
        await send(message)

    return signed


async def _answer(scope: Scope, send: Send, status: HTTPStatus, said: bytes, body: bytes) -> None:
    headers: Headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (HEADER, said),
    ]
    kind = "http.response"
    if scope["type"] == "websocket":
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
            return
        kind = "websocket.http.response"
    await send({"type": f"{kind}.start", "status": int(status), "headers": headers})
    await send({"type": f"{kind}.body", "body": body})


def _method(scope: Scope) -> str:
    """Return the method of a request. The handshake of a WebSocket is a GET (RFC 6455, section 4.1)."""
    return str(scope.get("method", "GET"))
