"""Runs the proxy: from its sockets to its orderly end.

On the first signal it stops accepting, the manager drains and ends its sessions, and only then does the server wait for
what is left of its connections; the other way round, open streams would hold it up until they are cut. A second signal
ends the process at once.
"""

import asyncio
import json
import logging
import math
import os
import socket
import sys
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from types import FrameType
from typing import Final

import uvicorn

from otel_sessions.asgi import ASGIApp, Receive, Send, SessionLeaseMiddleware
from otel_sessions.manager import SessionManager
from otel_sessions.matchers import Scope, header
from otel_sessions.sink import JsonLinesSink

from . import websocket
from .farewell import Farewell, Peer
from .forward import Forwarder
from .headers import peer, scheme_of
from .otlp import exporting
from .rules import target_of
from .settings import Settings
from .upstream import Upstream

_logger = logging.getLogger("otel_sessions.proxy")

_PATIENCE: Final = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}
"""Seconds of silence, seconds between probes, probes, and milliseconds in which it must take some of
what waits for it: a peer that is gone, or that reads nothing any more, is found within a minute."""
_LAST_SECONDS: Final = 1
"""How long connections may take at least to close once their sessions have ended."""


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
    for name, value in _PATIENCE.items():  # inherited by what is accepted, where the system has them
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return listener


async def _serve(settings: Settings, listener: socket.socket, health: socket.socket | None) -> None:
    async with Upstream(settings.upstream) as upstream:
        farewell = Farewell(upstream, settings.sessions.close_timeout)
        sink = _sink(settings)
        manager = SessionManager[Peer | None](
            settings.sessions, name="proxy", on_close=farewell.to if settings.tells_upstream else None, sink=sink
        )
        async with sink or nullcontext(), manager:
            app = _app(settings, upstream, manager, farewell)
            server = _Server(_config(app, settings.rules.max_header), manager, settings.sessions.drain_timeout)
            host, port = listener.getsockname()[:2]
            _logger.info("listening on %s:%d, for %s", host, port, settings.upstream)
            if health is None:
                await server.serve(sockets=[listener])
            else:
                async with asyncio.TaskGroup() as tasks:
                    beside = _Beside(_config(_health(manager, server), settings.rules.max_header))
                    tasks.create_task(beside.serve(sockets=[health]))
                    await server.serve(sockets=[listener])
                    beside.should_exit = True


def _sink(settings: Settings) -> JsonLinesSink[Peer | None] | None:
    if settings.export is None:
        return None
    return JsonLinesSink(settings.export, max_bytes=settings.export_max_bytes, keep=settings.export_keep)


def _app(settings: Settings, upstream: Upstream, manager: SessionManager[Peer | None], farewell: Farewell) -> ASGIApp:
    trust, tells = settings.rules.trust, settings.tells_upstream
    owner = None if settings.owner_header is None else settings.owner_header.lower().encode("latin-1")
    forwarder = Forwarder(upstream, settings.rules, settings.matcher, farewell if tells else None)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await websocket.pass_on(scope, receive, send, upstream, settings.rules)
        else:
            await forwarder(scope, receive, send)

    def client(scope: Scope) -> str | None:
        if owner is not None:
            return header(scope, owner) if trust.includes(peer(scope) or "") else None
        return trust.client(scope)

    def data(scope: Scope) -> Peer | None:
        return Peer(target_of(scope), settings.rules.headers(scope, upstream.host)) if tells else None

    leased = SessionLeaseMiddleware(app, manager, settings.matcher, client=client, data=data, private=owner is not None)

    async def front(scope: Scope, receive: Receive, send: Send) -> None:
        scope["scheme"] = scheme_of(scope, trust)
        await leased(scope, receive, send)

    return front


def _health(manager: SessionManager[Peer | None], server: uvicorn.Server) -> ASGIApp:
    """Return an app that says whether new sessions are taken: 200, or 503 from the first signal on."""

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        stats = manager.get_metrics()
        status, word = (503, "shutting down") if server.should_exit else (200, "ok")
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
        timeout_keep_alive=75,
    )


class _Server(uvicorn.Server):
    """uvicorn, but the manager is shut down before connections are waited for.

    Requests that are in no session have as long as leases have.
    """

    def __init__(self, config: uvicorn.Config, manager: SessionManager[Peer | None], drain_timeout: float) -> None:
        super().__init__(config)
        self._manager = manager
        self._drain_timeout = drain_timeout

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        drained = time.monotonic() + self._drain_timeout
        for server in self.servers:
            server.close()
        await self._manager.shutdown()
        self.config.timeout_graceful_shutdown = max(_LAST_SECONDS, math.ceil(drained - time.monotonic()))
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
