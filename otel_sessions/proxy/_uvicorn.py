"""All that leans on uvicorn's insides, but for WebSockets: the server, its configuration, and its log.

Where uvicorn changes one of the names used here, `tests/proxy/test_uvicorn.py` fails and says which one. A client's
WebSocket is in `client_socket`, which the first handshake imports: a proxy without WebSockets has no memory for them.
"""

import asyncio
import logging
import os
import signal
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Final, cast

import uvicorn

from otel_sessions._program.signals import hangups
from otel_sessions.asgi import ASGIApp

from .connection import Connection
from .door import Door
from .serving import Limits, Serving
from .tls import Tls

if TYPE_CHECKING:
    from .client_socket import WebSocket

_LAST_SECONDS: Final = 1
"""How long connections may take to close once their exchanges have ended."""
REFUSED_HANDSHAKE: Final = "ASGI callable returned without completing handshake."
"""What uvicorn logs as an error when an app refuses a WebSocket, as an app may."""


class Server(uvicorn.Server):
    """uvicorn on sockets that listen already; it leaves signals alone but within `ended_by_signals`.

    Connections of HTTP are our own; uvicorn speaks WebSocket. When it is stopped it accepts no more, waits for `drain`,
    which ends the exchanges, and only then for connections; the other way round, open streams would hold it up until
    they are cut. Once `ready` is set, requests are answered. At most `most` connections are open at a time.
    """

    def __init__(self, app: ASGIApp, limits: Limits, most: int, drain: Callable[[], Awaitable[None]]) -> None:
        super().__init__(_config(app))
        self.ready: Final = asyncio.Event()
        self._most = most
        self._drain = drain
        self._door: Door | None = None
        self._tls: Tls | None = None
        self._others: Sequence[socket.socket] = ()
        self._told_to_end = False
        self._when_told: Callable[[], object] | None = None
        self._serving = Serving(
            app=app,
            limits=limits,
            upgrade=self._upgrade,
            connections=cast("set[object]", self.server_state.connections),
            tasks=self.server_state.tasks,
        )

    async def serve_on(
        self,
        listeners: Sequence[socket.socket],
        tls: Callable[[], ssl.SSLContext] | None = None,
        others: Sequence[socket.socket] = (),
    ) -> None:
        """Serve until `stop` or a signal, and then in order to the end. With `tls`, TCP listeners speak TLS only.

        `others` are listeners of other workers, which are helped if connections wait there.
        """
        self._others = others
        if tls is not None:
            self._tls = Tls(tls, self._serving.limits.head_timeout)
        await self._serve(list(listeners))

    def stop(self) -> None:
        self.should_exit = True

    @property
    def stopping(self) -> bool:
        return self.should_exit

    @contextmanager
    def ended_by_signals(self) -> Iterator[None]:
        """Stop on the first SIGINT, SIGTERM or SIGHUP in the block, and end the process on a second SIGINT or SIGTERM.

        SIGHUP is left alone if it is ignored already, as under nohup. Once handled it stays ignored, because a terminal
        that closes sends two, and records may still be written.
        """
        with self.capture_signals():
            if threading.current_thread() is threading.main_thread():
                for hangup in hangups():
                    signal.signal(hangup, self._handle_hangup)
            yield

    @contextmanager
    def telling(self, of_the_end: Callable[[], None]) -> Iterator[None]:
        """Call `of_the_end` on this loop if a signal stops the server in the block, or has stopped it before."""
        self._when_told = partial(asyncio.get_running_loop().call_soon_threadsafe, of_the_end)
        if self.should_exit:
            of_the_end()
        try:
            yield
        finally:
            self._when_told = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])
        connections = self._serving.connections
        self._door = Door(
            sockets or [],
            make=lambda: Connection(self._serving),
            count=lambda: len(connections),
            make_room=self._serving.make_room,
            most=self._most,
            tls=self._tls,
            others=self._others,
        )
        self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002  # the door closes them
        if self._door is not None:
            self._door.close()
        for connection in list(self._serving.connections):
            if isinstance(connection, Connection):  # closes it as soon as nothing is under way
                connection.shutdown()
        await self._drain()
        await super().shutdown([])
        for left in list(self._serving.connections):
            cast("Connection | WebSocket", left).transport.abort()

    def _upgrade(self) -> "WebSocket":
        from .client_socket import WebSocket

        return WebSocket(self.config, self.server_state, self._serving.limits)

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
            if self._when_told is not None:
                self._when_told()
            self._captured_signals.clear()  # it has done what it is for; the process ends with status 0


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        interface="asgi3",  # uvicorn takes a method for something else
        http=Connection,  # not used, but not imported either: the door makes connections, and they make WebSockets
        ws="none",
        ws_per_message_deflate=False,  # a slow reader's kilobytes would be megabytes here, inflated
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_LAST_SECONDS,
    )


def quieten() -> None:
    """Keep uvicorn's log to warnings that say that something is wrong."""
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_is_no_refused_handshake)


def _is_no_refused_handshake(record: logging.LogRecord) -> bool:
    return record.msg != REFUSED_HANDSHAKE
