"""The WebSocket towards the upstream, which reads and holds a bounded number of frames at a time.

What has come waits in slices until the client has taken the messages before it, and until the upstream has taken the
pongs. Nothing more is read from the upstream meanwhile. The fragments of a message are joined as they come: a message
costs its bytes, however many fragments it has. `tests/proxy/test_uvicorn.py` names what this uses of `websockets`.

An upstream that takes nothing of what is written has `idle_timeout` seconds. An upstream that has sent its close has
`close_timeout` seconds to end the connection.
"""

import asyncio
import re
from typing import Any, Final

from websockets.asyncio.client import ClientConnection
from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.protocol import Event

from otel_sessions._http.deadline import Deadline

from .slices import Slices

_INTERIM: Final = re.compile(rb"HTTP/1\.1 1(?!01)[0-9][0-9]")
_STATUS_END: Final = len(b"HTTP/1.1 101")
_MOST_INTERIM: Final = 65536
"""Bytes of heads with status 1xx before the answer to a handshake."""


class UpstreamSocket(ClientConnection):
    """A connection that `websockets` makes, with its reading in slices."""

    def __init__(self, *args: Any, idle_timeout: float | None, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._idle_timeout = idle_timeout
        self._writing = Deadline(self.loop, self._check_writing)
        self._ending = Deadline(self.loop, self._break_off)
        self._unwritten = 0
        self._slices = Slices(self.loop, self._takes_more, super().data_received, self._has_read)
        self._opcode = Opcode.TEXT
        self._message = bytearray()
        self._dropped = 0
        self._is_held = False
        self._is_reading = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.recv_messages.pause = self._hold
        self.recv_messages.resume = self._let_go

    def data_received(self, data: bytes) -> None:
        self._slices.waiting.extend(data)
        if self.response is not None or self._is_past_interim():
            self._slices.go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._slices.waiting.clear()
        self._writing.close()
        self._ending.close()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._writing.set(None)
        self._slices.go_on_soon()

    def process_event(self, event: Event) -> None:
        """Give on what is no part of a message, and each message as one frame once it is whole."""
        self._slices.frames += 1
        if not isinstance(event, Frame) or event.opcode not in DATA_OPCODES:
            super().process_event(event)
            if self.protocol.close_rcvd is not None:
                self._ending.set(self.close_timeout)
            return
        if event.opcode is not Opcode.CONT:
            self._opcode = event.opcode
        self._message += event.data
        if event.fin:
            data, self._message = bytes(self._message), bytearray()
            super().process_event(Frame(self._opcode, data))

    def _is_past_interim(self) -> bool:
        """Drop heads with status 1xx but 101 (RFC 9110, 15.2), and return whether the answer itself has begun."""
        coming = self._slices.waiting
        while len(coming) >= _STATUS_END:
            if not _INTERIM.match(coming):
                return True
            end = coming.find(b"\r\n\r\n")
            if end < 0:
                break
            self._dropped += end
            del coming[: end + 4]
        if self._dropped + len(coming) > _MOST_INTERIM:
            self.transport.abort()
        return False

    def _hold(self) -> None:
        self._is_held = True

    def _let_go(self) -> None:
        self._is_held = False
        self._slices.go_on_soon()

    def _takes_more(self) -> bool:
        return not self._is_held and not self.paused

    def _has_read(self) -> None:
        self._read_on(not self._slices.waiting and not self._is_held)

    def _read_on(self, reads: bool) -> None:
        if reads is self._is_reading or self.transport.is_closing():
            return
        self._is_reading = reads
        if reads:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    # Deadlines

    def _watch_writing(self) -> None:
        self._unwritten = self.transport.get_write_buffer_size()
        self._writing.set(self._idle_timeout)

    def _check_writing(self) -> None:
        """Break off, unless the upstream has taken some of what waits for it."""
        if self.transport.get_write_buffer_size() < self._unwritten:
            self._watch_writing()
        else:
            self._break_off()

    def _break_off(self) -> None:
        self.transport.abort()
