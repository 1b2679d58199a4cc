"""Passes WebSockets on to the upstream and back, message by message.

Whichever side closes, the other one is closed with the same code; one that vanishes is found by pings. A handshake that
the upstream refuses is refused with its status.
"""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final, cast

import anyio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from otel_sessions.asgi import Message, Receive, Send
from otel_sessions.matchers import Headers, Scope

from .forward import target_of
from .headers import end_to_end
from .rules import Rules
from .upstream import Upstream

_logger = logging.getLogger("otel_sessions.proxy")

_NO_STATUS, _ABNORMAL, _INTERNAL_ERROR, _GOING_AWAY = 1005, 1006, 1011, 1001
"""RFC 6455, section 7.4.1; the first two are never sent."""
_HANDSHAKE: Final = (b"sec-websocket-", b"host", b"content-length", b"upgrade", b"connection")
"""How the headers start that each connection has of its own."""
_PING_SECONDS: Final = 20.0
_FAREWELL_SECONDS: Final = 1.0
_MOST_BYTES: Final = 16 * 1024 * 1024


async def pass_on(scope: Scope, receive: Receive, send: Send, upstream: Upstream, rules: Rules) -> None:
    """Relay one WebSocket for as long as it lasts."""
    assert (await receive())["type"] == "websocket.connect"
    refused = rules.refusal(scope)
    if refused is not None:
        await _deny(scope, send, refused[0], ())
        return
    try:
        behind = await _connect(scope, upstream, rules)
    except InvalidStatus as error:
        status = HTTPStatus(error.response.status_code)
        await _deny(scope, send, status if status >= HTTPStatus.BAD_REQUEST else HTTPStatus.BAD_GATEWAY, ())
        return
    except (OSError, TimeoutError, InvalidHandshake, WebSocketException) as error:
        _logger.warning("the upstream takes no WebSocket: %s", type(error).__name__)
        await _deny(scope, send, HTTPStatus.BAD_GATEWAY, ())
        return
    try:
        await send({"type": "websocket.accept", "subprotocol": behind.subprotocol, "headers": _answered(behind)})
        async with anyio.create_task_group() as ways:
            ways.start_soon(_outward, receive, behind, ways.cancel_scope)
            await _inward(behind, send)
            ways.cancel_scope.cancel()
    finally:
        with anyio.move_on_after(_FAREWELL_SECONDS, shield=True):  # the upstream is told, however this ended
            await behind.close(_GOING_AWAY)
        behind.transport.abort()  # it does not read, or has closed already


async def _connect(scope: Scope, upstream: Upstream, rules: Rules) -> ClientConnection:
    url = upstream.url.copy_with(scheme={"http": "ws", "https": "wss"}[upstream.url.scheme])
    headers = rules.headers(scope, upstream.host)
    host = next(value for name, value in headers if name == b"host")
    own = [
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in headers if not name.startswith(_HANDSHAKE)
    ]
    target = target_of(scope).decode("latin-1")
    return await connect(
        f"{url.scheme}://{host.decode('latin-1')}{url.path.rstrip('/')}{target}",
        host=upstream.url.host,
        server_hostname=upstream.url.host if url.scheme == "wss" else None,
        port=upstream.url.port or {"ws": 80, "wss": 443}[url.scheme],
        additional_headers=own,
        user_agent_header=None,
        subprotocols=[Subprotocol(name) for name in cast("list[str]", scope.get("subprotocols") or [])] or None,
        compression=None,
        open_timeout=rules.timeouts.connect,
        close_timeout=rules.timeouts.connect,
        ping_interval=_PING_SECONDS,
        ping_timeout=_PING_SECONDS,
        max_size=_MOST_BYTES,
        max_queue=1,
        proxy=None,
    )


async def _outward(receive: Receive, behind: ClientConnection, ways: anyio.CancelScope) -> None:
    """Pass the client's messages on until it leaves."""
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            code = cast("int", message.get("code", _NO_STATUS))
            await behind.close(_sendable(code), str(message.get("reason") or ""))
            ways.cancel()
            return
        text = cast("str | None", message.get("text"))
        try:
            await behind.send(text if text is not None else cast("bytes", message["bytes"]))
        except ConnectionClosed:
            return  # `_inward` sees it, too, and tells the client


async def _inward(behind: ClientConnection, send: Send) -> None:
    """Pass the upstream's messages back until it closes, and close in its words."""
    try:
        async for data in behind:
            await send({"type": "websocket.send", **({"text": data} if isinstance(data, str) else {"bytes": data})})
    except ConnectionClosed:
        pass  # it has not been closed in order; the code says so
    code = behind.close_code if behind.close_code is not None else _ABNORMAL
    closed: Message = {"type": "websocket.close", "code": _sendable(code), "reason": behind.close_reason or ""}
    await send(closed)


def _sendable(code: int) -> int:
    """Return a code that may be sent: one that says that there was none, or that the connection broke, may not."""
    return {_NO_STATUS: 1000, _ABNORMAL: _INTERNAL_ERROR, 1015: _INTERNAL_ERROR}.get(code, code)


def _answered(behind: ClientConnection) -> Headers:
    assert behind.response is not None
    raw = [
        (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in behind.response.headers.raw_items()
    ]
    return [(name, value) for name, value in end_to_end(raw) if not name.startswith(_HANDSHAKE)]


async def _deny(scope: Scope, send: Send, status: HTTPStatus, headers: Headers) -> None:
    """Refuse before the handshake is over: with the status where the server can say it, else by closing."""
    if "websocket.http.response" in cast("Mapping[str, object]", scope.get("extensions") or {}):
        await send({"type": "websocket.http.response.start", "status": int(status), "headers": list(headers)})
        await send({"type": "websocket.http.response.body", "body": b""})
    else:
        await send({"type": "websocket.close", "code": 1013 if status >= 500 else 1008})
