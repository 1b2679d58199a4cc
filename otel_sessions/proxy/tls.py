"""TLS between a client's transport and its protocol, the same on every event loop.

```text
                 handshake over                close(), write_eof()
  HANDSHAKE ──────────────────────▶ OPEN ──────────────────────────▶ SAID ALL   what still comes is dropped
      │ no TLS, late, given up       │ the client's end, no TLS
      └──────────────┬───────────────┘
                     ▼
                   over
```

The protocol hears of a connection once its handshake is over. The loops have TLS of their own, but it does not tell how
much of what was written the client has taken, cannot end one direction, and takes 256 KiB a connection on asyncio's
loop. Here nothing is held but what OpenSSL has not yet been asked for.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

from otel_sessions._core.events import Event

from .notes import Notes

_RECORD: Final = 16384
"""No record holds more bytes (RFC 8446, section 5.1)."""
_AT_A_STRETCH: Final = 512
"""How many records are read before others have their turn."""


_logger = logging.getLogger("otel_sessions.proxy")


class Tls:
    """What the TLS connections of a server share.

    `context` returns what the next handshake uses. A handshake may take `timeout` seconds.
    """

    def __init__(self, context: Callable[[], ssl.SSLContext], timeout: float) -> None:
        self.context: Final = context
        self.timeout: Final = timeout
        self.under_way: Final[set[Secured]] = set()
        self._failures = Notes(_write_failed, seconds=60.0)

    @property
    def handshakes(self) -> int:
        """How many handshakes are under way."""
        return len(self.under_way)

    def failed(self, why: str) -> None:
        """Count a handshake that has failed. A client that leaves before it has said anything is not counted."""
        self._failures.note(f"the last one: {why}")

    def give_up(self) -> None:
        """End the handshakes that are under way."""
        for one in list(self.under_way):
            one.abort()


class Secured(asyncio.Transport, asyncio.Protocol):
    """A protocol for the transport `below`, and the transport of the protocol that `make` makes."""

    _below: asyncio.Transport
    _timer: asyncio.TimerHandle

    def __init__(self, tls: Tls, make: Callable[[], asyncio.Protocol]) -> None:
        super().__init__()
        self._tls = tls
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._context = tls.context()
        self._ssl = self._context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._protocol: asyncio.Protocol | None = None
        self._is_reading = True
        self._is_due = False
        self._has_said_all = False

    # What the transport below says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._below = cast("asyncio.Transport", transport)
        self._tls.under_way.add(self)
        self._timer = self._loop.call_later(self._tls.timeout, self._late)

    def data_received(self, data: bytes) -> None:
        if self._has_said_all:
            return
        self._incoming.write(data)
        if self._protocol is None:
            self._shake_hands()
        if self._protocol is not None:
            self._read(self._protocol)

    def eof_received(self) -> None:
        """Hear that the client has gone without a word of TLS. A request's own framing tells whether it is whole."""
        if self._protocol is not None:
            self._protocol.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._timer.cancel()
        self._tls.under_way.discard(self)
        self._has_said_all = True
        if self._protocol is not None:
            self._protocol.connection_lost(error)

    def pause_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.resume_writing()

    # The handshake

    def _shake_hands(self) -> None:
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._has_said_all = True
            self._flush()  # an alert, which says why
            self._tls.failed(error.reason or type(error).__name__)
            self._below.close()
        else:
            self._timer.cancel()
            self._flush()
            self._tls.under_way.discard(self)
            self._protocol = self._make()
            self._protocol.connection_made(self)

    def _late(self) -> None:
        if not self._has_said_all:
            self._tls.failed(f"it took longer than {self._tls.timeout:g} s")
        self._below.abort()

    # What the client says

    def _read(self, protocol: asyncio.Protocol) -> None:
        """Give the protocol what has come, in one piece, or what a bounded number of records of it hold."""
        if self._is_due or not self._is_reading:
            return
        parts: list[bytes] = []
        try:
            is_over = self._take(parts)
        except ssl.SSLError:
            self._below.abort()
            return
        self._flush()
        if parts:
            protocol.data_received(b"".join(parts))
        if is_over and self.is_reading() and not self._has_said_all and self._protocol is not None:
            self._protocol.eof_received()
            self.close()

    def _take(self, parts: list[bytes]) -> bool:
        """Read records, and return whether the client has said that it says no more. Raises `ssl.SSLError`."""
        for _ in range(_AT_A_STRETCH):
            try:
                part = self._ssl.read(_RECORD)
            except ssl.SSLWantReadError:
                return False
            if not part:
                return True
            parts.append(part)
        self._soon()
        return False

    def _soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._below.pause_reading()
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._is_due = False
        if self._has_said_all:
            self._below.resume_reading()  # what still comes is dropped
        elif self._is_reading and self._protocol is not None:
            self._below.resume_reading()
            self._read(self._protocol)

    def pause_reading(self) -> None:
        self._is_reading = False
        self._below.pause_reading()

    def resume_reading(self) -> None:
        if not self._is_reading:
            self._is_reading = True
            self._soon()

    def is_reading(self) -> bool:
        return self._is_reading

    # What is said to the client

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._has_said_all or self._below.is_closing():
            return
        left = memoryview(data)
        try:
            while left:
                left = left[self._ssl.write(left) :]
        except ssl.SSLError:
            self._below.abort()
        else:
            self._flush()

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self._below.write(data)

    def _say_goodbye(self) -> None:
        """Tell the client that this was all, so that it can tell an end from a cut (RFC 8446, section 6.1)."""
        if not self._has_said_all:
            self._has_said_all = True
            with suppress(ssl.SSLError):  # the client's own goodbye, which has not come, is not waited for
                self._ssl.unwrap()
            self._flush()
            self._below.resume_reading()  # what still comes is dropped

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._say_goodbye()
        self._below.write_eof()

    def close(self) -> None:
        self._say_goodbye()
        self._below.close()

    def abort(self) -> None:
        self._below.abort()

    def is_closing(self) -> bool:
        return self._below.is_closing()

    def get_write_buffer_size(self) -> int:
        return self._below.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._below.set_write_buffer_limits(high, low)

    # Who is above and below

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self if self._protocol is None else self._protocol

    def get_extra_info(self, name: str, default: object = None) -> Any:
        if name == "sslcontext":
            return self._context
        return self._ssl if name == "ssl_object" else self._below.get_extra_info(name, default)


def _write_failed(count: int, why: str) -> None:
    _logger.info("TLS handshakes failed: %d; %s", count, why, extra=Event.TLS_FAILED.extra)
