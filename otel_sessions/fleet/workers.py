"""Peers that are the workers of one machine, and find each other in a folder.

The server of the app starts them, on one port that they share. So each worker has a Unix socket of its own, and runs
the whole app for what peers pass on: what stands around the sessions, as authentication, runs at the owner, too.
"""

import os
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from otel_sessions._core.exceptions import ConfigError
from otel_sessions._engine.owners import Peer
from otel_sessions.asgi import ASGIApp, Receive, Send
from otel_sessions.matchers import Scope, pairs_of

from .addresses import read_address
from .folder import Folder
from .peers import NEEDS_EXTRA, Ask, Peers
from .questions import is_question
from .targets import prefix_of

if TYPE_CHECKING:
    from .listener import Listener

_PREFIX: Final = b"otel-sessions-prefix"
"""The header that says which prefix the server of the first worker adds to every path (`uvicorn --root-path`)."""


class WorkerPeers(Peers):
    """The workers of one machine, as `uvicorn --workers 4`, gunicorn and hypercorn start them.

        fleet = WorkerPeers("/run/my-app")
        manager = SessionManager(fleet=fleet)
        app = FastAPI(lifespan=lifespan(manager))
        app.add_middleware(SessionLeaseMiddleware, manager=manager, matcher=CookieMatcher())

    `folder` is the same for all workers, and for no other app. It is made if it is missing, for this user only (0700).
    It holds the secret that the workers share, and one Unix socket (0600) for each worker. A worker that starts removes
    the sockets of workers that are gone. Each worker has a random name, also after a fork.

    The whole app takes what peers pass on: the app to which `lifespan` or `RunManager` belongs, else the app that has
    the middleware. `patience` is in seconds: a peer must take a connection, or give a sign of life, within this time.
    Runs on asyncio only, and needs the extra `fleet`.

    Raises `ConfigError` if the folder cannot be used, or if other users may open it.
    """

    def __init__(self, folder: str | os.PathLike[str], *, patience: float = 5.0) -> None:
        self._folder = Folder(Path(folder))
        read_address(f"unix:{self._folder.secret}")  # raises for a path that no address can have
        super().__init__(_InFolder(self._folder), name=None, secret=self._folder.secret, patience=patience)
        self._listener: Listener | None = None
        self._part: ASGIApp | None = None
        self._whole: ASGIApp | None = None
        self._state: Mapping[str, object] = {}

    def start_anew_after_fork(self) -> None:
        super().start_anew_after_fork()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.forget()

    def enter(self) -> None:
        """Begin with a run of the manager. Raises as the `enter` of every fleet, and if the worker cannot listen."""
        super().enter()
        try:
            from .listener import Listener

            self._listener = Listener(self._folder.listen(self.name), self._take)
        except ModuleNotFoundError as error:
            self.leave()
            raise ConfigError(NEEDS_EXTRA.format(error)) from error
        except ConfigError:
            self.leave()
            raise

    def leave(self) -> None:
        listener, self._listener = self._listener, None
        self._whole = None
        if listener is not None:
            self._folder.remove(self.name)
            listener.close()
        super().leave()

    def serve_part(self, app: ASGIApp) -> None:
        """Take what peers pass on by the part of the app that begins with the middleware, unless the whole is known."""
        self._part = app

    def serve_whole(self, app: ASGIApp, state: Mapping[str, object]) -> None:
        """Take what peers pass on by the whole app. The first one that a run is told counts: it is the outermost."""
        if self._whole is None:
            self._whole, self._state = app, state

    def forward(self, peer: Peer, session_id: str, scope: Scope, receive: Receive, send: Send) -> Awaitable[bool]:
        """Pass an exchange on, as every fleet, with the prefix that the server has added to its path."""
        headers = [pair for pair in pairs_of(scope) if pair[0] != _PREFIX]
        if prefix := prefix_of(scope):
            headers.append((_PREFIX, prefix))
        return super().forward(peer, session_id, {**scope, "headers": headers}, receive, send)

    async def _take(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app of the worker's own listener."""
        app = self._whole or self._part
        if app is None or is_question(scope) or not self.is_forwarded(scope):
            await self.take_question(scope, receive, send)
        else:
            at_the_server = {**_as_at_the_server(scope), "state": dict(self._state)}
            await self._serve_whole(app, at_the_server, receive, send)


class _InFolder:
    """The workers whose sockets are in a folder."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def open(self, ask: Ask) -> None:
        pass

    def close(self) -> None:
        pass

    async def find(self, name: str) -> Peer | None:
        address = self._folder.address_of(name)
        return None if address is None else Peer(name=name, address=address)

    async def find_again(self, name: str) -> Peer | None:
        return await self.find(name)

    async def everyone(self) -> Mapping[str, Peer | None]:
        return {name: await self.find(name) for name in self._folder.names()}


def _as_at_the_server(scope: Scope) -> Scope:
    """Return the scope as the server of the app makes it, which adds its prefix to every path."""
    headers = pairs_of(scope)
    prefix = dict(headers).get(_PREFIX, b"")
    if not prefix:
        return scope
    root = unquote(prefix)
    return {
        **scope,
        "root_path": root,
        "path": root + scope["path"],
        "raw_path": prefix + scope["raw_path"],
        "headers": [pair for pair in headers if pair[0] != _PREFIX],
    }
