"""All that leans on uvicorn's insides: the server, its configuration, a client's WebSocket, and its log.

Where uvicorn changes one of the names used here, `tests/proxy/test_uvicorn.py` fails and says which one.
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
from typing import Final, Literal, cast

import uvicorn
from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame
from websockets.http11 import Request

from otel_sessions._http.deadline import Deadline
from otel_sessions._program.signals import hangups
from otel_sessions.asgi import ASGIApp

from .connection import Connection
from .door import Door
from .rules import TARGET
from .serving import Limits, Serving
from .tls import Tls

_LAST_SECONDS: Final = 1
"""How long connections may take to close once their exchanges have ended."""
_SLICE: Final = 256
"""Bytes of frames that are read at once."""
_MOST_SLICES: Final = 64
_MOST_FRAMES: Final = 64
"""How many slices, and how many frames, one turn of the loop reads."""
REFUSED_HANDSHAKE: Final = "ASGI callable returned without completing handshake."
"""What uvicorn logs as an error when an app refuses a WebSocket, as an app may."""


class WebSocket(WebSocketsSansIOProtocol):
    """A client's WebSocket, which reads a bounded number of frames at a time and holds a bounded amount of them.

    What has come waits in slices until the app has taken the messages before it. A client that takes nothing of what is
    written, or does not let its connection close, has `idle_timeout` seconds. So has a client to answer a ping. Time in
    which this side does not read does not count, because the pong may wait behind what has not been read.
    """

    def __init__(self, config: uvicorn.Config, state: ServerState, limits: Limits) -> None:
        super().__init__(config, state, {})
        self._pending = bytearray()
        self._message = bytearray()
        self._frames = 0
        self._is_due = False
        self._may_be_there = False
        self.ping_timeout = self._idle_timeout = limits.idle_timeout
        self._deadline = Deadline(self.loop, self._expired)
        self._unwritten = 0

    def data_received(self, data: bytes) -> None:
        self._may_be_there = True
        self._pending += data
        if not self._is_due:
            self._feed()

    def eof_received(self) -> None:
        super().eof_received()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._deadline.close()
        self._pending.clear()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._deadline.set(None)
        self._soon()

    def shutdown(self) -> None:
        super().shutdown()
        self._watch()

    def send_keepalive_ping(self) -> None:
        self._may_be_there = False
        super().send_keepalive_ping()

    def keepalive_timeout(self) -> None:
        """Close, unless something has come from the client, or this side has not read all the time."""
        if self.ping_timeout is not None and (self._may_be_there or self.read_paused):
            self._may_be_there = False
            self.pong_timer = self.loop.call_later(self.ping_timeout, self.keepalive_timeout)
            return
        super().keepalive_timeout()
        self._watch()

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        self._watch()

    async def receive(self) -> ASGIReceiveEvent:
        message = await self.queue.get()
        if self.queue.empty():
            self._soon()
        return message

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.close":
            self._soon()

    # Frames, in slices

    def _soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            self.loop.call_soon(self._feed)

    def _feed(self) -> None:
        """Read some of what has come; what is left waits for the app, for the client, or for the loop's next turn."""
        self._is_due = False
        self._frames = 0
        for _ in range(_MOST_SLICES):
            if not self._is_ready() or self._frames >= _MOST_FRAMES:
                break
            part = bytes(self._pending[:_SLICE])
            del self._pending[:_SLICE]
            super().data_received(part)
            self._flush()
        if self._is_ready():
            self._soon()
        if self.transport.is_closing():
            self._pending.clear()
            self._watch()
        else:
            self._read_on(not self._pending and (self.queue.empty() or self.close_sent))

    def _is_ready(self) -> bool:
        waits = not self.queue.empty() and not self.close_sent
        return bool(self._pending) and self.writable.is_set() and not waits and not self.transport.is_closing()

    def _flush(self) -> None:
        if output := b"".join(self.conn.data_to_send()):
            self.transport.write(output)

    def _read_on(self, reads: bool) -> None:
        if reads is not self.read_paused:
            return
        self.read_paused = not reads
        if reads:
            self._may_be_there = True
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if not self.handshake_complete:  # else it is refused
            cast("dict[str, object]", self.scope)[TARGET] = event.path.encode("ascii")

    def handle_text(self, event: Frame) -> None:
        self._begin("text", event)

    def handle_bytes(self, event: Frame) -> None:
        self._begin("bytes", event)

    def _begin(self, kind: Literal["text", "bytes"], event: Frame) -> None:
        self.curr_msg_data_type = kind
        self._message.clear()
        self.handle_cont(event)

    def handle_cont(self, event: Frame) -> None:
        self._frames += 1
        self._message += event.data
        if event.fin:
            self.send_receive_event_to_app()

    def handle_ping(self) -> None:
        """Count it; the pongs of a slice are written together."""
        self._frames += 1

    def handle_pong(self, event: Frame) -> None:
        self._frames += 1
        super().handle_pong(event)

    def send_receive_event_to_app(self) -> None:
        """Give the app a message, as a whole. One that is no text ends the connection (RFC 6455, 8.1)."""
        data = bytes(self._message)
        self._message = bytearray()
        if self.close_sent:
            return
        if self.curr_msg_data_type == "bytes":
            self.queue.put_nowait({"type": "websocket.receive", "bytes": data})
            return
        try:
            text = data.decode()
        except UnicodeDecodeError:
            self.conn.send_close(1007)
            self.handle_parser_exception()
            return
        self.queue.put_nowait({"type": "websocket.receive", "text": text})

    # Deadlines

    def _watch(self) -> None:
        self._unwritten = self.transport.get_write_buffer_size()
        self._deadline.set(self._idle_timeout)

    def _expired(self) -> None:
        """Break off, unless the client has taken some of what waits for it."""
        now = self.transport.get_write_buffer_size()
        if 0 < now < self._unwritten or (not now and not self.transport.is_closing()):
            self._watch()
        else:
            self.transport.abort()


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

    def _upgrade(self) -> asyncio.Protocol:
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
        http="httptools",  # not used: connections are our own
        ws="websockets-sansio",
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
