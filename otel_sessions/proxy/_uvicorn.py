"""All that leans on uvicorn's insides: a client's connection, the server, its configuration, and its log.

Where uvicorn changes one of the names used here, `tests/proxy/test_uvicorn.py` fails and says which one.
"""

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from otel_sessions._program.signals import hangups
from otel_sessions.asgi import ASGIApp

_LAST_SECONDS: Final = 1
"""How long connections may take to close once their exchanges have ended."""
_MOST_EARLY: Final = 65536
"""Bytes of requests that may wait for their turn."""
REFUSED_HANDSHAKE: Final = "ASGI callable returned without completing handshake."
"""What uvicorn logs as an error when an app refuses a WebSocket, as an app may."""


class Connection(H11Protocol):
    """A client's connection, on which nothing that comes early hides that the client is gone.

    uvicorn stops reading when a second request comes before the first is answered, and so does not hear of a hang-up; a
    stream can last for a day. Here it reads on while an answer is under way, and what has come early waits for its
    turn.
    """

    _early = b""

    def data_received(self, data: bytes) -> None:
        if not self._is_answering():
            super().data_received(data)
        elif len(self._early) + len(data) <= _MOST_EARLY:
            self._early += data
        else:
            self.transport.abort()  # nobody has so much to ask before there is an answer

    def handle_events(self) -> None:
        super().handle_events()
        if self._is_answering():
            self.flow.resume_reading()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._early and not self.transport.is_closing():
            early, self._early = self._early, b""
            self.data_received(early)

    def _is_answering(self) -> bool:
        """Return whether a request is here as a whole, and its answer is not."""
        return self.conn.their_state is h11.DONE and not self.cycle.response_complete


class Server(uvicorn.Server):
    """uvicorn on a socket that listens already; it leaves signals alone but within `ended_by_signals`.

    When it is stopped it accepts no more, waits for `drain`, which ends the exchanges, and only then for connections;
    the other way round, open streams would hold it up until they are cut. Once `ready` is set, requests are answered.
    """

    def __init__(self, app: ASGIApp, max_header: int, drain: Callable[[], Awaitable[None]]) -> None:
        super().__init__(_config(app, max_header))
        self.ready: Final = asyncio.Event()
        self._drain = drain
        self._told_to_end = False

    async def serve_on(self, listener: socket.socket) -> None:
        """Serve until `stop` or a signal, and then in order to the end."""
        await self._serve([listener])

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

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):  # closes it as soon as nothing is under way
                connection.shutdown()
        await self._drain()
        await super().shutdown(sockets)

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


def _config(app: ASGIApp, max_header: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        interface="asgi3",  # uvicorn takes a method for something else
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


def quieten() -> None:
    """Keep uvicorn's log to warnings that say that something is wrong."""
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_is_no_refused_handshake)


def _is_no_refused_handshake(record: logging.LogRecord) -> bool:
    return record.msg != REFUSED_HANDSHAKE
