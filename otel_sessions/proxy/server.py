"""Runs the proxy: from its sockets to its orderly end.

On the first signal it stops accepting, the manager drains and ends its sessions, and only then does the server wait for
what is left of its connections; the other way round, open streams would hold it up until they are cut. A second signal
ends the process at once.
"""

import asyncio
import json
import logging
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from types import FrameType
from typing import Final

import httpx2
import uvicorn

from otel_sessions.asgi import Receive, Send, SessionLeaseMiddleware
from otel_sessions.exceptions import ManagerClosed
from otel_sessions.manager import SessionManager
from otel_sessions.matchers import Scope, header
from otel_sessions.session import Session
from otel_sessions.words import EndReason

from . import websocket
from .forward import Forwarder, Peer, target_of
from .headers import peer
from .otlp import exporting
from .rules import Timeouts
from .settings import Settings
from .upstream import Upstream

_logger = logging.getLogger("otel_sessions.proxy")

_KEEP_ALIVE: Final = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""Seconds of silence, seconds between probes, probes: a peer that is gone is found within a minute."""
_LAST_SECONDS: Final = 1
"""How long connections may take to close once their sessions have ended."""


def run(settings: Settings) -> int:
    """Serve until SIGINT or SIGTERM; return 0. Raises `OSError` where an address cannot be listened on."""
    _log_to_stderr(settings.log_format)
    listener = listen(settings.listen)
    health = None if settings.health is None else listen(settings.health)
    with exporting("otel-sessions-proxy"):
        asyncio.run(_serve(settings, listener, health))
    return 0


def listen(address: tuple[str, int]) -> socket.socket:
    """Return a listening socket whose connections send at once, and are probed when they are silent."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    listener = socket.create_server(address, family=family, backlog=2048)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # asyncio sets it on sockets of its own making only; without it a body waits 40 ms for the head's acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in _KEEP_ALIVE.items():  # inherited by what is accepted, where the system has them
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return listener


async def _serve(settings: Settings, listener: socket.socket, health: socket.socket | None) -> None:
    async with Upstream(settings.upstream) as upstream:
        manager = SessionManager[Peer](
            settings.sessions, name="proxy", on_close=_take_leave(upstream) if settings.tells_upstream else None
        )
        async with manager:
            server = _Server(_config(_app(settings, upstream, manager), settings.rules.max_header), manager)
            host, port = listener.getsockname()[:2]
            _logger.info("listening on %s:%d, for %s", host, port, settings.upstream)
            if health is None:
                await server.serve(sockets=[listener])
            else:
                async with asyncio.TaskGroup() as tasks:
                    beside = _Beside(_config(_health(manager), settings.rules.max_header))
                    tasks.create_task(beside.serve(sockets=[health]))
                    await server.serve(sockets=[listener])
                    beside.should_exit = True


def _app(settings: Settings, upstream: Upstream, manager: SessionManager[Peer]) -> SessionLeaseMiddleware:
    forwarder = Forwarder(upstream, settings.rules)
    owner = None if settings.owner_header is None else settings.owner_header.lower().encode("latin-1")
    trust = settings.rules.trust

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await websocket.pass_on(scope, receive, send, upstream, settings.rules)
        else:
            await forwarder(scope, receive, send)

    def client(scope: Scope) -> str | None:
        if owner is not None:
            return header(scope, owner) if trust.includes(peer(scope) or "") else None
        return trust.client(scope)

    def data(scope: Scope) -> Peer:
        return Peer(target_of(scope), settings.rules.headers(scope, upstream.host))

    return SessionLeaseMiddleware(app, manager, settings.matcher, client=client, data=data, private=owner is not None)


def _take_leave(upstream: Upstream) -> Callable[[Session[Peer], EndReason], Awaitable[None]]:
    """Return a close hook that ends the upstream's session, with the credentials of ours."""

    async def take_leave(session: Session[Peer], _reason: EndReason) -> None:
        if session.data.told:
            return
        headers = [*session.data.credentials, (b"mcp-session-id", session.id.encode("latin-1"))]
        timeouts = Timeouts(connect=5.0, idle=5.0)  # the manager's close_timeout is shorter, or cuts this off
        async with upstream.ask("DELETE", session.data.target, headers, None, timeouts) as response:
            gone_or_unable = (httpx2.codes.NOT_FOUND, httpx2.codes.METHOD_NOT_ALLOWED)
            if response.status_code >= httpx2.codes.BAD_REQUEST and response.status_code not in gone_or_unable:
                raise RuntimeError(f"the upstream answered {response.status_code} to the end of a session")

    return take_leave


def _health(manager: SessionManager[Peer]) -> Callable[[Scope, Receive, Send], object]:
    """Return an app that says whether new sessions are taken: 200, or 503 while shutting down."""

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        stats = manager.get_metrics()
        status, word = 200, "ok"
        try:
            manager.reserve()
        except ManagerClosed:
            status, word = 503, "closed"
        if scope["path"] != "/healthz":
            status, word = 404, "not found"
        body = json.dumps({"status": word, "active": stats.currently_active, "created": stats.total_created}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def _config(app: object, max_header: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # uvicorn's scopes are typed dicts, ours is any mapping
        http="h11",  # strict about framing, and counts the bytes of a head
        ws="websockets-sansio",
        ws_per_message_deflate=False,  # a slow reader's kilobytes would be megabytes here, inflated
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=max_header,
        timeout_graceful_shutdown=_LAST_SECONDS,
        timeout_keep_alive=75,
    )


class _Server(uvicorn.Server):
    """uvicorn, but the manager is shut down before connections are waited for."""

    def __init__(self, config: uvicorn.Config, manager: SessionManager[Peer]) -> None:
        super().__init__(config)
        self._manager = manager

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await self._manager.shutdown()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            os._exit(128 + sig)
        super().handle_exit(sig, frame)
        self._captured_signals.clear()  # it has done what it is for; the process ends with status 0


class _Beside(uvicorn.Server):
    """A second server in the same process, which leaves the signals to the first."""

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        await self._serve(sockets)


class _JsonLines(logging.Formatter):
    """A line a record, as JSON, for whoever collects the logs of containers."""

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said)


def _log_to_stderr(log_format: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.INFO)
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_JsonLines() if log_format == "json" else text)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
