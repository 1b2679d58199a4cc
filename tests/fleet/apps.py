"""Processes of a fleet, all in one event loop: each with a manager, an app, and a server on a real socket."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import uvicorn

from otel_sessions import SessionConfig, SessionManager
from otel_sessions.asgi import ASGIApp, SessionLeaseMiddleware
from otel_sessions.fleet import StaticPeers
from otel_sessions.matchers import SessionMatcher
from tests.waiting import PATIENCE

HOST = "127.0.0.1"
SECRET = "a secret of the whole fleet"


def free_socket() -> socket.socket:
    listener = socket.socket()
    listener.bind((HOST, 0))
    return listener


def url_of(listener: socket.socket) -> str:
    return f"http://{HOST}:{listener.getsockname()[1]}"


class _Server(uvicorn.Server):
    """A server that says when it has started."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@contextlib.asynccontextmanager
async def served(app: ASGIApp, listener: socket.socket) -> AsyncIterator[str]:
    """Serve an app on a socket that is bound already, inside the block."""
    config = uvicorn.Config(app, lifespan="off", log_config=None, ws="websockets-sansio", timeout_graceful_shutdown=1)
    server = _Server(config)
    listener.listen()
    serving = asyncio.create_task(server._serve([listener]))
    try:
        await server.ready.wait()
        yield url_of(listener)
    finally:
        server.should_exit = True
        await serving
        listener.close()


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process of a fleet, and a client that talks to it only."""

    name: str
    url: str
    fleet: StaticPeers
    manager: SessionManager[Any]
    http: httpx2.AsyncClient


Fleet = dict[str, Process]


@contextlib.asynccontextmanager
async def fleet_of(
    make_app: Callable[[str], ASGIApp],
    make_matcher: Callable[[], SessionMatcher],
    names: tuple[str, ...] = ("w1", "w2"),
    *,
    secrets: Mapping[str, Any] | None = None,
    addresses: Mapping[str, str] | None = None,
    patience: float = PATIENCE,
    config: SessionConfig | None = None,
    reporting: Mapping[str, Any] | None = None,
    around: Callable[[str, ASGIApp], ASGIApp] = lambda _, app: app,
    **settings: Any,
) -> AsyncIterator[Fleet]:
    """Run a process for each name. `addresses` are where the processes believe others to be, if not where they are.

    `reporting` has the providers of all managers. `around` wraps the whole app of each process.
    """
    listeners = {name: free_socket() for name in names}
    listed = {**{name: url_of(listener) for name, listener in listeners.items()}, **(addresses or {})}
    async with contextlib.AsyncExitStack() as exits:
        fleet: Fleet = {}
        for name, listener in listeners.items():
            peers = StaticPeers(listed, name=name, secret=(secrets or {}).get(name, SECRET), patience=patience)
            manager: SessionManager[Any] = SessionManager(config, name=name, fleet=peers, **(reporting or {}))
            app = SessionLeaseMiddleware(make_app(name), manager, make_matcher(), **settings)
            url = await exits.enter_async_context(served(around(name, app), listener))
            await exits.enter_async_context(manager)
            http = httpx2.AsyncClient(base_url=url, trust_env=False, timeout=PATIENCE)
            await exits.enter_async_context(http)
            fleet[name] = Process(name=name, url=url, fleet=peers, manager=manager, http=http)
        yield fleet


def replace(file: Path, text: str) -> None:
    """Replace a file as a careful program does; the new file is another one, whatever the clock says."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)
