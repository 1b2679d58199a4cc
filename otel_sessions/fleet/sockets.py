"""Passes one WebSocket on to a peer, message by message, until one side closes. asyncio only.

The peer's client is the `websockets` library. Each side's close is passed on with its code and its reason.
"""

import asyncio
import ssl
from contextlib import suppress
from typing import Any, Final

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Response
from websockets.typing import Subprotocol

from otel_sessions._http.handshake import (
    ABNORMAL,
    FAREWELL_SECONDS,
    GOING_AWAY,
    NO_STATUS,
    SETTINGS,
    Connect,
    head_of,
    is_own,
    sendable,
)
from otel_sessions.asgi import Receive, Send
from otel_sessions.matchers import Headers, Scope, pairs_of

from .addresses import Address
from .requests import Other, Passing, Signed, Way, is_by_owner, refusal_in, towards_client, towards_peer
from .signing import HEADER, Proof

_DENIAL: Final = "websocket.http.response"
"""The extension of ASGI by which a server refuses a handshake with an answer."""
_POLICY_VIOLATION: Final = 1008


async def pass_on(way: Way, passing: Passing) -> Other | None:
    """Pass a WebSocket on. Return None when the owner has served it, else the other answer.

    Raises `OSError` and `WebSocketException` if the handshake fails otherwise, or if this side ends the exchange
    before the handshake is answered.
    """
    crossing, signed = passing.crossing, passing.signed()
    proof = signed.proof
    try:
        async with asyncio.timeout(None) as waiting:
            crossing.when_ended(lambda: waiting.reschedule(0.0))
            behind = await _connect(way.address, way.tls, passing.scope, signed)
        crossing.when_ended(behind.transport.abort)
    except InvalidStatus as error:
        crossing.when_ended(_nothing)
        refusal = error.response
        if not is_by_owner(proof, head_of(refusal)):
            return _other(refusal, proof)
        await _deny(passing, refusal.status_code, head_of(refusal), bytes(refusal.body or b""))
        return None
    assert behind.response is not None
    if not is_by_owner(proof, head_of(behind.response)):
        behind.transport.abort()
        return _other(behind.response, proof)
    status = refusal_in(proof, head_of(behind.response))
    if status is not None:
        behind.transport.abort()
        await _deny(passing, status, (), b"")
        return None
    await _Relay(behind, passing.receive, passing.send).run(behind.response)
    return None


def _other(answer: Response, proof: Proof) -> Other:
    return Other(status=answer.status_code, headers=head_of(answer), proof=proof)


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
        answered = [pair for pair in towards_client(head_of(answer)) if not is_own(pair[0])]
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
                async with asyncio.timeout(FAREWELL_SECONDS):
                    await behind.close(GOING_AWAY)
            behind.transport.abort()

    async def _outward(self) -> None:
        """Pass the client's messages to the peer until the client leaves."""
        behind = self._behind
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._has_left = True
                await behind.close(sendable(message.get("code") or NO_STATUS), str(message.get("reason") or ""))
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
        code = behind.close_code if behind.close_code is not None else ABNORMAL
        with suppress(OSError):  # the client has closed, too
            closing = {"type": "websocket.close", "code": sendable(code), "reason": behind.close_reason or ""}
            await self._send(closing)


async def _deny(passing: Passing, status: int, headers: Headers, body: bytes) -> None:
    """Refuse a handshake as the owner has refused it, as far as the server of this process can."""
    if _DENIAL not in (passing.scope.get("extensions") or {}):
        await passing.send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        return
    kept = [pair for pair in towards_client(headers) if pair[0] != b"content-length"]
    await passing.send({"type": f"{_DENIAL}.start", "status": status, "headers": kept})
    await passing.send({"type": f"{_DENIAL}.body", "body": body})


async def _connect(address: Address, tls: ssl.SSLContext | None, scope: Scope, signed: Signed) -> ClientConnection:
    pairs = pairs_of(scope)
    host = next((value for name, value in pairs if name == b"host"), b"localhost").decode("latin-1")
    kept = [
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in towards_peer(pairs) if not is_own(name)
    ]
    where: dict[str, Any] = {"host": address.host, "port": address.port}
    if address.socket is not None:
        where = {"unix": True, "path": address.socket}
    if address.is_tls:
        where |= {"ssl": tls, "server_hostname": address.host}
    return await Connect(
        f"{'wss' if address.is_tls else 'ws'}://{host}",
        signed.target.decode("latin-1"),
        additional_headers=[*kept, (HEADER.decode("ascii"), signed.value.decode("ascii"))],
        subprotocols=[Subprotocol(name) for name in scope.get("subprotocols") or []] or None,
        open_timeout=None,  # the watch over the peer ends a handshake that stands still
        close_timeout=FAREWELL_SECONDS,
        **SETTINGS,
        **where,
    )
