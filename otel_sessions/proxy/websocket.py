"""Passes WebSockets on to the upstream and back, message by message.

When one side closes, the other side is closed with the same code. Pings find a side that has vanished. If the upstream
refuses a handshake, the client gets the upstream's answer.
"""

import logging
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any, cast

import anyio
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.http11 import Response
from websockets.typing import Subprotocol

from otel_sessions._core.events import Event
from otel_sessions._http import handshake
from otel_sessions._http.client import reason_of
from otel_sessions._http.handshake import (
    ABNORMAL,
    FAREWELL_SECONDS,
    GOING_AWAY,
    NO_STATUS,
    SETTINGS,
    Connect,
    is_own,
    sendable,
)
from otel_sessions._program.sockets import WATCHFUL
from otel_sessions.asgi import Message, Receive, Send
from otel_sessions.matchers import Headers, Scope

from .forward import PLAIN, deny
from .headers import end_to_end
from .rules import Rules, target_of
from .upstream import Upstream
from .upstream_socket import UpstreamSocket

_logger = logging.getLogger("otel_sessions.proxy")


async def pass_on(scope: Scope, receive: Receive, send: Send, upstream: Upstream, rules: Rules) -> None:
    """Relay one WebSocket for as long as it lasts."""
    await receive()
    try:
        behind = await _connect(scope, upstream, rules)
    except InvalidStatus as error:
        said = error.response
        kept = [(name, value) for name, value in _head_of(said) if name != b"content-length"]
        await deny(send, said.status_code, kept, bytes(said.body))
        return
    except (OSError, WebSocketException) as error:
        why = reason_of(error) if isinstance(error, OSError) else type(error).__name__
        _logger.warning("the WebSocket handshake with the upstream failed: %s", why, extra=Event.UPSTREAM_FAILED.extra)
        status = HTTPStatus.GATEWAY_TIMEOUT if isinstance(error, TimeoutError) else HTTPStatus.BAD_GATEWAY
        await deny(send, status, PLAIN, b"the WebSocket handshake with the upstream failed\n")
        return
    try:
        await send({"type": "websocket.accept", "subprotocol": behind.subprotocol, "headers": _answered(behind)})
        async with anyio.create_task_group() as ways:
            ways.start_soon(_outward, receive, behind, ways.cancel_scope)
            await _inward(behind, send)
            ways.cancel_scope.cancel()
    finally:
        with anyio.move_on_after(FAREWELL_SECONDS, shield=True):  # close at the upstream, also when cancelled
            await behind.close(GOING_AWAY)
        behind.transport.abort()  # the upstream does not read, or has closed already


async def _connect(scope: Scope, upstream: Upstream, rules: Rules) -> ClientConnection:
    scheme = "ws" if upstream.tls is None else "wss"
    headers = rules.headers(scope, upstream.host)
    host = next(value for name, value in headers if name == b"host")
    own = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers if not is_own(name)]
    target = upstream.path + target_of(scope)
    behind = await Connect(
        f"{scheme}://{host.decode('latin-1')}",
        target.decode("latin-1"),
        **_place(upstream),
        additional_headers=own,
        subprotocols=[Subprotocol(name) for name in cast("list[str]", scope.get("subprotocols") or [])] or None,
        open_timeout=rules.timeouts.connect_timeout,
        close_timeout=rules.timeouts.connect_timeout,
        **SETTINGS,
        create_connection=partial(UpstreamSocket, idle_timeout=rules.timeouts.idle_timeout),
    )
    for option in WATCHFUL if upstream.unix is None else ():
        behind.transport.get_extra_info("socket").setsockopt(*option)
    return behind


def _place(upstream: Upstream) -> dict[str, Any]:
    """Return where the upstream listens, as websockets takes it."""
    if upstream.unix is not None:
        return {"unix": True, "path": str(upstream.unix)}
    name = None if upstream.tls is None else upstream.hostname
    return {"host": upstream.hostname, "port": upstream.port, "ssl": upstream.tls, "server_hostname": name}


async def _outward(receive: Receive, behind: ClientConnection, ways: anyio.CancelScope) -> None:
    """Pass the client's messages to the upstream until the client leaves."""
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            code = cast("int", message.get("code", NO_STATUS))
            await behind.close(sendable(code), str(message.get("reason") or ""))
            ways.cancel()
            return
        text = cast("str | None", message.get("text"))
        try:
            await behind.send(text if text is not None else cast("bytes", message["bytes"]))
        except ConnectionClosed:
            return  # `_inward` sees the end, too, and tells the client


async def _inward(behind: ClientConnection, send: Send) -> None:
    """Pass the upstream's messages to the client until the upstream closes. Close with the same code and reason."""
    try:
        async for data in behind:
            await send({"type": "websocket.send", **({"text": data} if isinstance(data, str) else {"bytes": data})})
    except ConnectionClosed:
        pass  # not closed in order: `close_code` says so
    except OSError:
        await anyio.sleep(FAREWELL_SECONDS)  # the client is gone: `_outward` gets its code, and ends this task
        return
    code = behind.close_code if behind.close_code is not None else ABNORMAL
    closed: Message = {"type": "websocket.close", "code": sendable(code), "reason": behind.close_reason or ""}
    with suppress(OSError):  # the client has closed, too
        await send(closed)


def _answered(behind: ClientConnection) -> Headers:
    assert behind.response is not None
    return [(name, value) for name, value in _head_of(behind.response) if not is_own(name)]


def _head_of(response: Response) -> Headers:
    return end_to_end(handshake.head_of(response))
