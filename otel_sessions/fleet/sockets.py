"""Passes one WebSocket on to a peer, message by message, until one side closes. asyncio only.

The peer's client is the `websockets` library. Each side's close is passed on with its code and its reason.
"""

import asyncio
import dataclasses
import ssl
from contextlib import suppress
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Response
from websockets.typing import Subprotocol

from otel_sessions.asgi import Receive, Send
from otel_sessions.matchers import Headers, Scope, pairs_of

from .addresses import Address
from .crossings import Crossing
from .requests import towards_client, towards_peer
from .signing import HEADER, Proof, Word

_NO_STATUS, _ABNORMAL, _INTERNAL_ERROR, _NO_TLS, _GOING_AWAY = 1005, 1006, 1011, 1015, 1001
"""RFC 6455, section 7.4.1. The codes 1005, 1006 and 1015 are never sent."""
_OWN: Final = frozenset({b"host", b"content-length"})
_PING_SECONDS: Final = 20.0
_MOST_BYTES: Final = 16 * 1024 * 1024
_FAREWELL_SECONDS: Final = 1.0


async def pass_on(
    address: Address,
    tls: ssl.SSLContext | None,
    crossing: Crossing,
    scope: Scope,
    target: bytes,
    signed: bytes,
    proof: Proof,
    receive: Receive,
    send: Send,
) -> Headers | None:
    """Pass a WebSocket on. Return None when the owner has served it, else the headers of another answer.

    Raises `OSError` and `WebSocketException` if the handshake fails otherwise, or if this side ends the exchange
    before the handshake is answered.
    """
    try:
        async with asyncio.timeout(None) as waiting:
            crossing.when_ended(lambda: waiting.reschedule(0.0))
            behind = await _connect(address, tls, scope, target, signed)
        crossing.when_ended(behind.transport.abort)
    except InvalidStatus as error:
        crossing.when_ended(_nothing)
        refusal = error.response
        if not _is_owner(proof, refusal):
            return _head_of(refusal)
        await _deny(send, refusal)
        return None
    assert behind.response is not None
    if not _is_owner(proof, behind.response):
        behind.transport.abort()
        return _head_of(behind.response)
    await _Relay(behind, receive, send).run(behind.response)
    return None


def _nothing() -> None:
    """There is no connection any more that could be closed."""


class _Relay:
    """Relays messages until one side closes, then closes the other side."""

    def __init__(self, behind: ClientConnection, receive: Receive, send: Send) -> None:
        self._behind = behind
        self._receive = receive
        self._send = send
        self._has_left = False
        """Whether the client has closed."""

    async def run(self, answer: Response) -> None:
        answered = [pair for pair in towards_client(_head_of(answer)) if not _is_own(pair[0])]
        behind, outward = self._behind, None
        try:
            await self._receive()  # the handshake
            await self._send({"type": "websocket.accept", "subprotocol": behind.subprotocol, "headers": answered})
            outward = asyncio.create_task(self._outward())
            await self._inward()
        finally:
            if outward is not None:
                outward.cancel()
            with suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL_SECONDS):
                    await behind.close(_GOING_AWAY)
            behind.transport.abort()

    async def _outward(self) -> None:
        """Pass the client's messages to the peer until the client leaves."""
        behind = self._behind
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._has_left = True
                await behind.close(_sendable(message.get("code") or _NO_STATUS), str(message.get("reason") or ""))
                return
            text = message.get("text")
            try:
                await behind.send(text if text is not None else message["bytes"])
            except ConnectionClosed:
                return  # `_inward` sees the end, too, and tells the client

    async def _inward(self) -> None:
        """Pass the peer's messages to the client until the peer closes. Close with the same code and reason."""
        behind = self._behind
        try:
            async for data in behind:
                kind = "text" if isinstance(data, str) else "bytes"
                await self._send({"type": "websocket.send", kind: data})
        except ConnectionClosed:
            pass  # not closed in order: `close_code` says so
        if self._has_left:
            return
        code = behind.close_code if behind.close_code is not None else _ABNORMAL
        with suppress(OSError):  # the client has closed, too
            closing = {"type": "websocket.close", "code": _sendable(code), "reason": behind.close_reason or ""}
            await self._send(closing)


def _sendable(code: int) -> int:
    """Return a code that may be sent. Codes for no code, a broken connection and failed TLS are replaced."""
    return {_NO_STATUS: 1000, _ABNORMAL: _INTERNAL_ERROR, _NO_TLS: _INTERNAL_ERROR}.get(code, code)


def _is_owner(proof: Proof, answer: Response) -> bool:
    said = proof.said_in(_head_of(answer))
    return said is not None and said[0] is Word.OWNER


def _head_of(answer: Response) -> Headers:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.raw_items()]


def _is_own(name: bytes) -> bool:
    """Return whether each handshake sets a header by itself."""
    return name in _OWN or name.startswith(b"sec-websocket-")


async def _deny(send: Send, refusal: Response) -> None:
    """Refuse a handshake with the owner's answer."""
    headers = [pair for pair in towards_client(_head_of(refusal)) if pair[0] != b"content-length"]
    await send({"type": "websocket.http.response.start", "status": refusal.status_code, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": bytes(refusal.body or b"")})


class _Connect(connect):
    """A handshake at exactly the target that the client wrote. A redirect is not followed."""

    def __init__(self, uri: str, target: str, **settings: Any) -> None:
        super().__init__(uri, **settings)
        self.ws_uri = dataclasses.replace(self.ws_uri, path=target)

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def _connect(
    address: Address, tls: ssl.SSLContext | None, scope: Scope, target: bytes, signed: bytes
) -> ClientConnection:
    pairs = pairs_of(scope)
    host = next((value for name, value in pairs if name == b"host"), b"localhost").decode("latin-1")
    kept = [
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in towards_peer(pairs) if not _is_own(name)
    ]
    where: dict[str, Any] = {"host": address.host, "port": address.port}
    if address.socket is not None:
        where = {"unix": True, "path": address.socket}
    if address.is_tls:
        where |= {"ssl": tls, "server_hostname": address.host}
    return await _Connect(
        f"{'wss' if address.is_tls else 'ws'}://{host}",
        target.decode("latin-1"),
        additional_headers=[*kept, (HEADER.decode("ascii"), signed.decode("ascii"))],
        user_agent_header=None,
        subprotocols=[Subprotocol(name) for name in scope.get("subprotocols") or []] or None,
        compression=None,
        open_timeout=None,  # the watch over the peer ends a handshake that stands still
        close_timeout=_FAREWELL_SECONDS,
        ping_interval=_PING_SECONDS,
        ping_timeout=None,  # the pong waits behind all data that the peer has not read yet
        max_size=_MOST_BYTES,
        max_queue=1,
        proxy=None,
        **where,
    )
