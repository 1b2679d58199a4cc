"""The whole proxy, from its sockets to its orderly end.

The manager drains and ends its sessions before the server waits for the remaining connections.
"""

import asyncio
import dataclasses
import json
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import anyio

from otel_sessions._core.clock import since_boot
from otel_sessions._core.events import Event
from otel_sessions._core.exceptions import ConfigError
from otel_sessions._engine.manager import SessionManager
from otel_sessions._program.arguments import Address
from otel_sessions._program.flags import naming
from otel_sessions._program.sockets import address_of, listen_as, written
from otel_sessions.asgi import ASGIApp, Receive, Send
from otel_sessions.asgi._exchange import method_of
from otel_sessions.matchers import AdoptingMatcher, Headers, Scope
from otel_sessions.sinks._jsonlines import JsonLinesSink

from . import fleet_options, options
from ._uvicorn import Server
from .administration import Administration
from .certificate import OF_CLIENTS, OF_PEERS, Certificate, certificate_of
from .door import most_connections
from .farewell import Farewell
from .forward import Forwarder
from .front import Front
from .listeners import open_listeners
from .measured import Measured
from .opening import OpeningTime
from .peer import Peer
from .serving import Limits
from .sessionless import Sessionless
from .settings import Settings
from .upstream import Upstream

if TYPE_CHECKING:
    from otel_sessions.fleet.peers import Peers

_logger = logging.getLogger("otel_sessions.proxy")

SHUTTING_DOWN: Final = "shutting down"
STARTING: Final = "starting"
_MOST_HEALTH: Final = 16
"""How many connections may be open where health is asked for."""


class Proxy:
    """A reverse proxy in this process. The sessions of its clients are bounded and accounted for.

    The proxy answers requests inside the `async with` block. Leaving the block shuts the proxy down in order: the proxy
    accepts no new connections, its manager drains and ends every session, and the connections close.

    ```python
    async with Proxy(Settings(upstream="http://127.0.0.1:9000", listen=("127.0.0.1", 0))) as proxy:
        host, port = proxy.address
        print(f"http://{host}:{port} has {len(proxy.manager)} sessions")
    ```

    - `manager` is the `SessionManager`, which runs inside the block. Use it for statistics, or to end a session.
    - `serve()` is a whole program: it enters the block, and leaves the block on SIGINT, SIGTERM or SIGHUP.

    `listener`, a socket or several, and `health` are listening sockets that replace the addresses in `settings`. The
    proxy closes them.
    `session_data(target, headers)` makes the data of a new session. `target` is the path with the query of the first
    request. `headers` are its headers as the upstream gets them; they are empty if the upstream makes no sessions. A
    proxy runs on asyncio only, and only once.

    Making a proxy raises `ConfigError`, which names the flag, if a file of TLS cannot be used. Entering raises it if an
    address cannot be listened on or the file of records cannot be opened. A second entry raises `RuntimeError`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        listener: socket.socket | Sequence[socket.socket] | None = None,
        health: socket.socket | None = None,
        session_data: Callable[[bytes, Headers], Peer] = Peer,
    ) -> None:
        if settings.workers > 1:
            raise ConfigError("a Proxy is one process; the command `otel-sessions proxy --workers` starts several")
        settings, self._own_socket = _among_peers(settings)
        self.settings: Final = settings
        self._listeners = (listener,) if isinstance(listener, socket.socket) else tuple(listener or ())
        self._health_listener = health
        self._others: Sequence[socket.socket] = ()
        self._upstream = Upstream(settings.upstream, settings.upstream_ca)
        self._certificate = certificate_of(settings.tls_cert, settings.tls_key, OF_CLIENTS)
        self._peer_certificate = certificate_of(settings.peer_tls_cert, settings.peer_tls_key, OF_PEERS)
        farewell = Farewell(self._upstream, settings.sessions.close_timeout) if settings.tells_upstream else None
        self._sink = _sink(settings)
        self._fleet = fleet = _fleet(settings, farewell)
        self.manager: Final[SessionManager[Peer]] = SessionManager(
            settings.sessions,
            name="proxy",
            on_close=None if farewell is None else farewell.to,
            sink=self._sink,
            fleet=fleet,
            clock=since_boot,
        )
        self._forward = method_of(_forwarder(settings, self._upstream))
        self._opening_time = OpeningTime(settings.rules.timeouts.idle_timeout)
        self._sessionless = Sessionless(self._pass_on, settings.matcher)
        front: ASGIApp = Front(settings, self._upstream, self.manager, self._sessionless, session_data, farewell)
        limits = Limits(
            max_header=settings.rules.max_header,
            head_timeout=settings.head_timeout,
            idle_timeout=settings.rules.timeouts.idle_timeout,
        )
        most = settings.max_connections or most_connections()
        self._peers: Server | None = None
        if settings.has_peers:
            from .fellows import ForClients, for_peers

            theirs = for_peers(settings)
            inner = Front(theirs, self._upstream, self.manager, self._sessionless, session_data, farewell)
            larger = dataclasses.replace(limits, max_header=theirs.rules.max_header)
            self._peers = Server(self._for_peers(inner), larger, most, _drain_nothing)
            front = ForClients(front)
        self._measured = Measured(front, settings.rules.trust)
        self._server = Server(self._measured, limits, most, self._drain)
        self._health = Server(self._say_health, limits, _MOST_HEALTH, _drain_nothing)
        self._admin = Administration(settings, self.manager, self._is_stopping) if settings.admin else None
        self._admin_address: Address | None = None
        self._addresses: tuple[Address, ...] | None = None
        self._has_run = False
        self._serving: asyncio.Task[None] | None = None
        self._checked: asyncio.Task[None] | None = None
        self._exits = AsyncExitStack()

    @property
    def address(self) -> tuple[str, int]:
        """The first host and port that the proxy listens on. Raises `RuntimeError` before the block, or without any."""
        for address in self.addresses:
            if not isinstance(address, Path):
                return address
        raise RuntimeError("the proxy listens on Unix sockets only; see its addresses")

    @property
    def addresses(self) -> tuple[Address, ...]:
        """What the proxy listens on: hosts with ports, and `Path`s. Raises `RuntimeError` before the block."""
        if self._addresses is None:
            raise RuntimeError("the proxy does not listen yet; enter its async with block first")
        return self._addresses

    @property
    def admin_address(self) -> Address | None:
        """What the admin API listens on; None without one, and before the block."""
        return self._admin_address

    async def __aenter__(self) -> Self:
        if self._has_run:
            raise RuntimeError("the proxy has run already; make another Proxy")
        async with AsyncExitStack() as exits:
            with anyio.CancelScope() as beginning, self._server.telling(beginning.cancel):
                await self._begin(exits)
            self._has_run = True
            if not beginning.cancelled_caught:
                self._exits = exits.pop_all()
                shown = " and ".join(map(self._written, self.addresses))
                _logger.info("listening on %s, for %s", shown, self.settings.upstream, extra=Event.PROXY_LISTENS.extra)
        return self

    async def _begin(self, exits: AsyncExitStack) -> None:
        for given in filter(None, (*self._listeners, self._health_listener)):
            exits.enter_context(given)
        listeners, health = open_listeners(self.settings, self._listeners, self._health_listener)
        self._addresses = tuple(map(address_of, listeners))
        for opened in filter(None, (*listeners, health)):
            exits.enter_context(opened)
        peers = self._listen_for_peers()
        if peers is not None:
            exits.enter_context(peers)
        if self._own_socket is not None:
            from .own_sockets import remove

            exits.callback(remove, self._own_socket)
        admin = self._listen_for_admin()
        if admin is not None:
            exits.enter_context(admin)
        self._admin_address = None if admin is None else address_of(admin)
        self._begin_health(exits, health)
        exits.enter_context(self._measured)
        await exits.enter_async_context(self._upstream)
        if self._sink is not None:
            with naming(options.EXPORT.flag, str(self.settings.export)):
                await exits.enter_async_context(self._sink)
        await exits.enter_async_context(self.manager)
        self._serving = asyncio.create_task(self._run(listeners, peers, admin))
        self._serving.add_done_callback(lambda _: self._server.ready.set())
        exits.push_async_exit(self._shut_down)
        await self._server.ready.wait()
        if self._serving.done():
            await self._serving

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exits.__aexit__(kind, error, trace)

    async def serve(self) -> None:
        """Serve until SIGINT, SIGTERM or SIGHUP, then shut down in order. A second SIGINT or SIGTERM ends the process.

        Raises what entering the block raises, and the error of a server that fails.
        """
        with self.ended_by_signals():
            async with self:
                await self.wait_closed()

    @contextmanager
    def ended_by_signals(self) -> Iterator[None]:
        """Shut down in order on the first SIGINT, SIGTERM or SIGHUP during this block.

        Enter this block before the proxy's own block, so that the signals are handled before the first request. A
        signal that comes while the proxy starts, as while it waits for the store of a fleet, ends the start: the
        proxy's own block then begins with a proxy that has shut down already. A second SIGINT or SIGTERM ends the
        process at once. SIGHUP is not counted: the first SIGINT or SIGTERM after SIGHUP, or a second SIGHUP, changes
        nothing.
        """
        with self._server.ended_by_signals():
            yield

    async def wait_closed(self) -> None:
        """Wait until the proxy has shut down. Raises the error of a server that has failed."""
        if self._serving is not None:
            await asyncio.shield(self._serving)

    def _written(self, address: Address) -> str:
        has_tls = self._certificate is not None and not isinstance(address, Path)
        return f"{written(address)} (TLS)" if has_tls else written(address)

    def _for_peers(self, app: ASGIApp) -> ASGIApp:
        """Return the app of the peers' own listener."""
        from .fellows import ForPeers

        assert self._fleet is not None
        return ForPeers(app, self._fleet)

    def _listen_for_peers(self) -> socket.socket | None:
        if self._own_socket is not None:
            from .own_sockets import listen_at

            return listen_at(self._own_socket)
        address = self.settings.peer_listen
        return None if address is None else listen_as(fleet_options.PEER_LISTEN.flag, address)

    def _listen_for_admin(self) -> socket.socket | None:
        return None if self._admin is None else self._admin.listen()

    async def _run(
        self,
        listeners: Sequence[socket.socket],
        peers: socket.socket | None,
        admin: socket.socket | None,
    ) -> None:
        async with asyncio.TaskGroup() as tasks:
            if self._admin is not None and admin is not None:
                tasks.create_task(self._admin.serve_on(admin))
            if self._checked is not None:
                tasks.create_task(_wait_for(self._checked))
            if self._peers is not None and peers is not None:
                tasks.create_task(_serve_with(self._peers, [peers], self._peer_certificate, ()))
            await _serve_with(self._server, listeners, self._certificate, self._others)
            self._health.stop()
            if self._peers is not None:
                self._peers.stop()
            if self._admin is not None:
                self._admin.stop()

    def _begin_health(self, exits: AsyncExitStack, health: socket.socket | None) -> None:
        """Answer health checks from before the manager's start, which may wait for the store of a fleet."""
        if health is not None:
            self._checked = asyncio.create_task(self._health.serve_on([health]))
            exits.push_async_callback(self._end_health, self._checked)

    async def _end_health(self, checked: asyncio.Task[None]) -> None:
        self._health.stop()
        await asyncio.wait([checked])

    async def _shut_down(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._serving is not None
        self._server.stop()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([self._serving])
        if kind is None:  # else the error of the block is raised
            await self._serving

    def _is_stopping(self) -> bool:
        return self._server.stopping

    async def _drain(self) -> None:
        """End all exchanges. An exchange in no session gets as much time as a lease."""
        limits = self.settings.sessions
        drained = time.monotonic() + min(limits.drain_timeout, limits.shutdown_timeout)
        await self.manager.shutdown()
        await self._sessionless.end(max(0.0, drained - time.monotonic()))

    def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """The app behind the middleware."""
        if scope["type"] == "websocket":
            from . import websocket

            return websocket.pass_on(scope, receive, send, self._upstream, self.settings.rules)
        return self._forward(scope, self._opening_time.open(scope, receive), send)

    def health(self) -> dict[str, str | int]:
        """Return what a health check of this process says."""
        stats = self.manager.get_metrics()
        word = "ok" if self._server.ready.is_set() else STARTING
        word = SHUTTING_DOWN if self._server.stopping else word
        return {"status": word, "active": stats.currently_active, "created": stats.total_created}

    async def _health_of_all(self) -> dict[str, str | int]:
        return self.health()

    async def _say_health(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer a health check: 200, or 503 when the proxy starts or shuts down. Only /healthz is not 404."""
        said = await self._health_of_all()
        status = 503 if said["status"] in (SHUTTING_DOWN, STARTING) else 200
        if scope["path"] != "/healthz":
            status, said = 404, {**said, "status": "not found"}
        await say(send, status, said)


async def say(send: Send, status: int, said: Mapping[str, str | int]) -> None:
    """Answer a health check."""
    body = json.dumps(said).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _drain_nothing() -> None:
    pass


async def _wait_for(task: asyncio.Task[None]) -> None:
    await task


async def _serve_with(
    server: Server, listeners: Sequence[socket.socket], certificate: Certificate | None, others: Sequence[socket.socket]
) -> None:
    """Serve on listeners, with TLS if there is a certificate, whose files are watched meanwhile."""
    if certificate is None:
        await server.serve_on(listeners, None, others)
        return
    watching = asyncio.create_task(certificate.watch(), name="otel-sessions certificate")
    try:
        await server.serve_on(listeners, lambda: certificate.context, others)
    finally:
        watching.cancel()


def _among_peers(settings: Settings) -> tuple[Settings, Path | None]:
    """Return the settings as the fleet wants them, and the path of the socket that the proxy chooses itself, if any.

    Without peers, nothing of a fleet is imported.
    """
    if not settings.has_peers:
        return settings, None
    from .fellows import with_hints
    from .own_sockets import with_own_socket

    return with_own_socket(with_hints(settings))


def _fleet(settings: Settings, farewell: Farewell | None) -> "Peers | None":
    if not settings.has_peers:
        return None
    from .fellows import fleet_of

    return fleet_of(settings, farewell)


def _sink(settings: Settings) -> JsonLinesSink[Peer] | None:
    if settings.export is None:
        return None
    return JsonLinesSink(settings.export, max_bytes=settings.export_max_bytes, keep=settings.export_keep)


def _forwarder(settings: Settings, upstream: Upstream) -> Forwarder:
    adopting = settings.matcher if isinstance(settings.matcher, AdoptingMatcher) else None
    return Forwarder(upstream, settings.rules, adopting, 0.0 if adopting is None else settings.sessions.close_timeout)
