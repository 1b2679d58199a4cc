"""A process with a listener of its own, where its peers pass exchanges on to it.

The port of an app is not its process's own where several workers share the port. So the process listens once more, at a
place that leads to this process only, and runs the whole app there: what stands around the sessions, as authentication,
runs at the owner, too. What always holds: a listener belongs to one run of a manager, in one process. A forked process
closes its copy, and leaves the place alone.
"""

import socket
import ssl
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import unquote

from otel_sessions._core.exceptions import ConfigError
from otel_sessions._engine.owners import Peer
from otel_sessions.asgi import ASGIApp, Receive, Send
from otel_sessions.matchers import Scope, pairs_of

from .peers import NEEDS_EXTRA, Directory, Peers, Secret
from .questions import is_question
from .targets import prefix_of

if TYPE_CHECKING:
    from .listener import Listener

_PREFIX: Final = b"otel-sessions-prefix"
"""The header that says which prefix the server of the first process adds to every path (`uvicorn --root-path`)."""


class Place(Protocol):
    """Where a process may listen."""

    def listen(self, name: str) -> socket.socket:
        """Return the listening socket of the process of this name. Raises `ConfigError`."""

    def address_of(self, name: str) -> str:
        """Return the address of the process of this name, which listens here."""

    def remove(self, name: str) -> None:
        """Remove what is left of a listener that is about to close."""


class ListeningPeers(Peers):
    """A process and its peers, as `Peers`, with a listener at `place`. Without a place it has none."""

    def __init__(
        self,
        directory: Directory,
        place: Place | None,
        *,
        name: str | None,
        secret: Secret,
        patience: float = 5.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(directory, name=name, secret=secret, patience=patience, tls=tls)
        self._place = place
        if place is not None:
            self.runs_on_asyncio_only = True
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
        """Begin with a run of the manager. Raises as the `enter` of every fleet, and if the process cannot listen."""
        super().enter()
        self._name = self._name_of_run()
        if self._place is not None:
            try:
                self._listener = self._listen(self._place)
            except ConfigError:
                self.leave()
                raise

    def _name_of_run(self) -> str:
        """Return the name of this process in the run that begins."""
        return self._name

    def _listen(self, place: Place) -> "Listener":
        try:
            from .listener import Listener
        except ModuleNotFoundError as error:
            raise ConfigError(NEEDS_EXTRA.format(error)) from error
        return Listener(place.listen(self.name), self._take)

    def leave(self) -> None:
        listener, self._listener = self._listener, None
        self._whole = None
        if listener is not None:
            assert self._place is not None
            self._place.remove(self.name)
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
        """Pass an exchange on, as every fleet. To another listener of its own it takes the server's prefix along."""
        if self._place is None:
            return super().forward(peer, session_id, scope, receive, send)
        headers = [pair for pair in pairs_of(scope) if pair[0] != _PREFIX]
        if prefix := prefix_of(scope):
            headers.append((_PREFIX, prefix))
        return super().forward(peer, session_id, {**scope, "headers": headers}, receive, send)

    async def _take(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app of the process's own listener."""
        app = self._whole or self._part
        if app is None or is_question(scope) or not self.is_forwarded(scope):
            await self.take_question(scope, receive, send)
        else:
            at_the_server = {**_as_at_the_server(scope), "state": dict(self._state)}
            await self._serve_whole(app, at_the_server, receive, send)


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
