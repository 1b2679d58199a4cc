"""Runs the proxy: from its sockets to its orderly end.

On the first SIGINT, SIGTERM or SIGHUP it stops accepting. The manager drains and ends its sessions, and only then does
the server wait for what is left of its connections; the other way round, open streams would hold it up until they are
cut. This holds from the line "listening on" on. A second SIGINT or SIGTERM ends the process at once. SIGHUP is not
counted: the first SIGINT or SIGTERM after it, or a second SIGHUP, changes nothing.
"""

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import Any, Final

import uvicorn

from otel_sessions._core.config import SessionConfig
from otel_sessions._core.options import Option
from otel_sessions._engine.manager import SessionManager
from otel_sessions._program.flags import naming
from otel_sessions._program.otlp import exporting
from otel_sessions._program.signals import hangups
from otel_sessions._program.sockets import listen
from otel_sessions.asgi import ASGIApp, Receive, Send
from otel_sessions.matchers import AdoptingMatcher, Headers, Scope
from otel_sessions.sinks._jsonlines import JsonLinesSink

from . import options, websocket
from .connection import Connection
from .farewell import Farewell
from .forward import Forwarder
from .front import Front
from .peer import Peer
from .settings import Settings, unread_variables
from .unleased import Unleased
from .upstream import Upstream

_logger = logging.getLogger("otel_sessions.proxy")

_LAST_SECONDS: Final = 1
"""How long connections may take to close once their exchanges have ended."""


def run(settings: Settings) -> int:
    """Serve until SIGINT, SIGTERM or SIGHUP; return 0.

    Raises `ConfigError`, with the flag, if an address cannot be listened on or the file of `--export` not be opened.
    """
    _log_to_stderr(settings.log_format)
    for warning in unread_variables(os.environ):
        _logger.warning("%s", warning)
    with ExitStack() as stack:
        listener = stack.enter_context(_listen(options.LISTEN, settings.listen))
        health = None if settings.health is None else stack.enter_context(_listen(options.HEALTH, settings.health))
        stack.enter_context(exporting("otel-sessions-proxy"))
        asyncio.run(serve(settings, listener, health))
    return 0


async def serve(
    settings: Settings,
    listener: socket.socket,
    health: socket.socket | None,
    *,
    remember: Callable[[bytes, Headers], Peer] = Peer,
    started: Callable[[SessionManager[Peer]], None] = lambda _: None,
) -> None:
    """Serve on sockets that listen already, until SIGINT, SIGTERM or SIGHUP.

    `remember` makes what a new session carries, from the target and the headers of its first request; `started` is
    given the manager as soon as requests are answered and signals end the server in order.
    """
    async with Upstream(settings.upstream) as upstream:
        farewell = Farewell(upstream, settings.sessions.close_timeout) if settings.tells_upstream else None
        sink = _sink(settings)
        manager = SessionManager[Peer](
            settings.sessions, name="proxy", on_close=None if farewell is None else farewell.to, sink=sink
        )
        async with AsyncExitStack() as stack:
            if sink is not None:
                with naming(options.EXPORT.flag, str(settings.export)):
                    await stack.enter_async_context(sink)
            await stack.enter_async_context(manager)
            unleased = Unleased(_app(settings, upstream), settings.matcher)
            app = Front(settings, upstream, manager, unleased, remember, farewell)

            def ready() -> None:
                _logger.info("listening on %s, for %s", _written(listener.getsockname()[:2]), settings.upstream)
                started(manager)

            server = _Server(_config(app, settings.rules.max_header), settings.sessions, manager, unleased, ready)
            if health is None:
                await server.serve(sockets=[listener])
            else:
                async with asyncio.TaskGroup() as tasks:
                    beside = _Beside(_config(_health(manager, server), settings.rules.max_header))
                    tasks.create_task(beside.serve(sockets=[health]))
                    await server.serve(sockets=[listener])
                    beside.should_exit = True


def _sink(settings: Settings) -> JsonLinesSink[Peer] | None:
    if settings.export is None:
        return None
    return JsonLinesSink(settings.export, max_bytes=settings.export_max_bytes, keep=settings.export_keep)


def _app(settings: Settings, upstream: Upstream) -> ASGIApp:
    """Return the app behind the middleware, which passes everything on."""
    rules, matcher = settings.rules, settings.matcher
    adopting = matcher if isinstance(matcher, AdoptingMatcher) else None
    forwarder = Forwarder(upstream, rules, adopting, 0.0 if adopting is None else settings.sessions.close_timeout)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await websocket.pass_on(scope, receive, send, upstream, rules)
        else:
            await forwarder(scope, receive, send)

    return app


def _health(manager: SessionManager[Peer], server: uvicorn.Server) -> ASGIApp:
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
        http=Connection,  # h11's: strict about framing, and counts the bytes of a head
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
    """uvicorn, but the manager is shut down before connections are waited for.

    Exchanges that are in no session have as long as leases have. `ready` is called when signals are handled and
    requests are answered.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        limits: SessionConfig,
        manager: SessionManager[Peer],
        unleased: Unleased,
        ready: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._ready = ready
        self._limits = limits
        self._manager = manager
        self._unleased = unleased
        self._told_to_end = False

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        drained = time.monotonic() + min(self._limits.drain_timeout, self._limits.shutdown_timeout)
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):  # closes it as soon as nothing is under way
                connection.shutdown()
        await self._manager.shutdown()
        await self._unleased.end(max(0.0, drained - time.monotonic()))
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGHUP too, unless it is ignored already, as under nohup.

        It stays ignored at the end, because a terminal that closes sends two, and records may still be written.
        """
        with super().capture_signals():
            if threading.current_thread() is threading.main_thread():
                for hangup in hangups():
                    signal.signal(hangup, self._handle_hangup)
            yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._told_to_end:
            os._exit(128 + sig)
        self._told_to_end = True
        self._end_in_order(sig, frame)

    def _handle_hangup(self, sig: int, frame: FrameType | None) -> None:
        signal.signal(sig, signal.SIG_IGN)
        self._end_in_order(sig, frame)

    def _end_in_order(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
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
    logging.getLogger("uvicorn.error").addFilter(_is_no_refused_handshake)


def _listen(option: Option[Any], address: tuple[str, int]) -> socket.socket:
    with naming(option.flag, _written(address)):
        return listen(address)


def _written(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_no_refused_handshake(record: logging.LogRecord) -> bool:
    """Return whether a line is worth showing: to uvicorn, an app that refuses a WebSocket has not done its work."""
    return record.msg != "ASGI callable returned without completing handshake."
