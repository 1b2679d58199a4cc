"""A client's WebSocket, which reads and holds a bounded number of frames at a time.

It leans on uvicorn's insides: `tests/proxy/test_uvicorn.py` names what it uses. It is imported at the first handshake,
which takes the loop some 15 ms of processor time, once.
"""

import asyncio
from typing import Literal, cast

import uvicorn
from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame
from websockets.http11 import Request

from otel_sessions._http.deadline import Deadline

from .rules import TARGET
from .serving import Limits
from .slices import Slices


class WebSocket(WebSocketsSansIOProtocol):
    """A client's WebSocket, which reads a bounded number of frames at a time and holds a bounded amount of them.

    What has come waits in slices until the app has taken the messages before it. A client that takes nothing of what is
    written, or does not let its connection close, has `idle_timeout` seconds. So has a client to answer a ping. Time in
    which this side does not read does not count, because the pong may wait behind what has not been read.
    """

    def __init__(self, config: uvicorn.Config, state: ServerState, limits: Limits) -> None:
        super().__init__(config, state, {})
        self._slices = Slices(self.loop, self._takes_more, self._read, self._has_read)
        self._message = bytearray()
        self._may_be_there = False
        self.ping_timeout = self._idle_timeout = limits.idle_timeout
        self._deadline = Deadline(self.loop, self._expired)
        self._unwritten = 0

    def begin(self, head: bytes) -> None:
        """Read the client's handshake, which is a whole head. What comes behind the head waits for the app's answer."""
        self._read(head)
        if not self.handshake_initiated:
            self.transport.close()  # `websockets` has refused a handshake that it cannot read
        self._has_read()

    def data_received(self, data: bytes) -> None:
        self._may_be_there = True
        self._slices.waiting.extend(data)
        self._slices.go_on()

    def eof_received(self) -> None:
        super().eof_received()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._deadline.close()
        self._slices.waiting.clear()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._deadline.set(None)
        self._slices.go_on_soon()

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
            self._slices.go_on_soon()
        return message

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] in ("websocket.accept", "websocket.close"):
            self._slices.go_on_soon()

    # Frames, in slices

    def _takes_more(self) -> bool:
        """Return whether the app has accepted, and taken all messages, and the client what is written."""
        waits = not self.queue.empty() and not self.close_sent
        is_open = self.handshake_complete and not self.transport.is_closing()
        return is_open and self.writable.is_set() and not waits

    def _read(self, part: bytes) -> None:
        """Read a slice. The messages in front of a malformed frame count, wherever the bytes were cut."""
        self.conn.receive_data(part)
        self.handle_events()
        if self.conn.parser_exc is not None and not self.transport.is_closing():
            self.handle_parser_exception()
        self._flush()

    def _has_read(self) -> None:
        if self.transport.is_closing():
            self._slices.waiting.clear()
            self._watch()
        else:
            self._read_on(not self._slices.waiting and (self.queue.empty() or self.close_sent))

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
        self._slices.frames += 1
        self._message += event.data
        if event.fin:
            self.send_receive_event_to_app()

    def handle_ping(self) -> None:
        """Count it; the pongs of a slice are written together."""
        self._slices.frames += 1

    def handle_pong(self, event: Frame) -> None:
        self._slices.frames += 1
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
            if self.conn.close_sent is None:  # else a close was right behind the message
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
