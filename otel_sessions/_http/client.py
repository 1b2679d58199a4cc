"""The client towards one upstream: HTTP/1.1, and as strict about answers as RFC 9112 allows. asyncio only.

It sends what it is given and returns what comes: no redirects, cookies, decoding, proxies or upgrades. The states of a
connection, on the way of a call over it:

                 connect                    head()
    (nothing) ─────────────▶ open ─────────────────────▶ asking ◀──┐ head 1xx
        ▲                      ▲                           │   └───┘
        │ connect              │                           │ head
        │                      │ taken, silent             ▼
        │                    kept ◀──── whole, clean ── answering ──┐ read()
        │                      │                           │   ▲    │
        │                      │                           │   └────┘
        │                      │ a byte, an end,           │ close() too early, hung up, late,
        │                      │ its time is up            │ no HTTP, whole but not clean
        │                      ▼                           ▼
        └──── retry ───────── over ◀───────────────────────┘

Whole and clean: the request is sent, the answer has come, nothing came after it, and the upstream keeps the connection.
Retry: a kept connection ended before the first byte of the answer, and the request is idempotent and still held whole.
A request and its answer pass at the same time: `asking` and `answering` send what is left of the body.

    UpstreamError
    ├── CannotConnect   no connection, not in time, or no TLS
    ├── TimedOut        the upstream did not go on in time
    ├── HungUp          the connection ended before the answer did
    ├── BadAnswer       what the upstream said is no HTTP, or too large
    └── CallClosed      the call was closed by this side while it was awaited
"""

import asyncio
import math
import ssl
from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

from .connection import CallClosed, Connection, HungUp, Sink, TimedOut
from .messages import Answer, BadAnswer, Head, UpstreamError
from .requests import Headers, Outline, Request

__all__ = [
    "BadAnswer",
    "Call",
    "CallClosed",
    "CallLimits",
    "CannotConnect",
    "Client",
    "Head",
    "Headers",
    "HungUp",
    "Origin",
    "Outline",
    "Sink",
    "TimedOut",
    "UpstreamError",
    "reason_of",
]

_TLS_GOODBYE_SECONDS: Final = 1.0
_MOST_KEPT: Final = 100


class CannotConnect(UpstreamError):
    """There is no connection to the upstream."""


def reason_of(error: OSError | UnicodeError) -> str:
    """Return why there is no connection: the kind of the error, and of TLS its reason, which has no secrets."""
    kind = type(error).__name__
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{kind}, {error.verify_message.rstrip('.')}"
    return f"{kind}, {error.reason}" if isinstance(error, ssl.SSLError) else kind


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where the upstream listens: at a host and a port, or at the Unix socket `path`.

    With `tls`, the certificate must be `server_name`'s, or the host's where that is empty. `options` are set on TCP
    sockets, as `setsockopt` takes them.
    """

    host: str = ""
    port: int = 0
    path: str | None = None
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    server_name: str = ""
    options: Sequence[tuple[int, int, int]] = ()

    async def connect(self) -> Connection:
        """Return a new connection. Raises `OSError` or `UnicodeError`."""
        loop = asyncio.get_running_loop()
        tls: dict[str, Any] = {}
        if self.tls is not None:
            name = self.server_name or self.host
            tls = {"ssl": self.tls, "server_hostname": name, "ssl_shutdown_timeout": _TLS_GOODBYE_SECONDS}
        if self.path is not None:
            _, connection = await loop.create_unix_connection(Connection, self.path, **tls)
            return connection
        transport, connection = await loop.create_connection(Connection, self.host, self.port, **tls)
        try:
            for option in self.options:
                transport.get_extra_info("socket").setsockopt(*option)
        except OSError:
            connection.close()
            raise
        return connection


@dataclass(frozen=True, kw_only=True, slots=True)
class CallLimits:
    """How long a call waits, in seconds, and how many bytes of a head it takes; None is as long as it takes.

    `head_timeout` runs from the end of the request until the head of the final answer is whole; how long the parts of a
    body may take is for the body to say. `write_timeout` is for each time that the upstream takes nothing of the body.
    """

    connect_timeout: float
    head_timeout: float | None
    write_timeout: float | None
    max_head: int = 102_400


class Client:
    """Makes calls to one upstream, over connections that are kept for a few seconds and used again."""

    def __init__(self, origin: Origin, *, max_kept: int = _MOST_KEPT) -> None:
        self._origin = origin
        self._kept = _Kept(max_kept)

    def call(
        self,
        method: bytes,
        target: bytes,
        headers: Headers,
        body: bytes | AsyncIterable[bytes] | None = None,
        *,
        limits: CallLimits,
    ) -> "Call":
        """Return a call of this request; nothing is sent before its `head`.

        The target and the headers go out as they are. The body is whole bytes, or parts that are sent as they come. The
        body is as long as a Content-Length among the headers says; parts without one are sent chunked. Raises
        `ValueError` for what would not be exactly one request.
        """
        return self.repeat(Outline(method, target, headers), body, limits=limits)

    def repeat(
        self,
        outline: Outline,
        body: bytes | AsyncIterable[bytes] | None = None,
        *,
        limits: CallLimits,
        seal: bytes = b"",
    ) -> "Call":
        """Return a call of a request whose outline is checked already, as `call` does.

        `seal` is how the head of the answer should end: with this line, and the empty line. A head that is known but
        for this line is not read again, and then does not have the line.
        """
        return Call(self._origin, self._kept, Request(outline, body), limits, seal)

    def close(self) -> None:
        """Close the connections that are kept, and keep no more. Calls go on until each is closed."""
        self._kept.close()


class Call:
    """One request and its answer: `head` once, then `read` until there is nothing more, and always `close`.

    Leaving its `with` block closes it. `close` may come at any time, also while a task waits in `head` or `read`.
    """

    __slots__ = (
        *("_answer", "_connecting", "_connection", "_is_closed", "_kept", "_limits", "_origin", "_request", "_sender"),
    )

    def __init__(self, origin: Origin, kept: "_Kept", request: Request, limits: CallLimits, seal: bytes = b"") -> None:
        self._origin = origin
        self._kept = kept
        self._request = request
        self._limits = limits
        self._answer = Answer(to_head=request.is_head, max_head=limits.max_head, seal=seal)
        self._connection: Connection | None = None
        self._connecting: asyncio.Timeout | None = None
        self._sender: asyncio.Task[None] | None = None
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if not self._is_closed:
            self.close()

    async def head(self) -> Head:
        """Send the request, and return the head of its answer as soon as that is there, heads with status 1xx skipped.

        Parts of the body are sent by a task of the call's own, which ends with the answer. What the body raises is
        raised here or by `read`. Raises `UpstreamError`.
        """
        connection = self._kept.take()
        if connection is not None:
            await self._ask(connection)
            if self._answer.head is not None:
                return self._answer.head
            if not self._may_ask_again(connection):
                raise self._trouble(connection)
        connection = await self._connect()
        await self._ask(connection)
        if self._answer.head is None:
            raise self._trouble(connection)
        return self._answer.head

    async def read(self, idle_timeout: float | None) -> bytes:
        """Return what has come of the body since the last time, or wait for it; `b""` is the end of the answer.

        Raises `UpstreamError`; `TimedOut` if the upstream is silent for `idle_timeout` seconds, None for never.
        """
        answer, connection = self._answer, self._connection
        if connection is not None and not answer.is_readable():
            await connection.progress(idle_timeout)
        if not answer.is_readable():
            raise self._trouble(connection)
        body = answer.take()
        if connection is not None:
            self._go_on(connection)
        return body

    def rest(self) -> bytes | None:
        """Return what is left of the body if all of it has come, else None. There is no `read` after it."""
        if not self._answer.whole:
            return None
        body = self._answer.take()
        self.close()
        return body

    @property
    def has_head(self) -> bool:
        """Whether the head of the answer has come."""
        return self._answer.head is not None

    @property
    def is_sealed(self) -> bool:
        """Whether the answer has the seal of `Client.repeat`, which is not among the headers then."""
        return self._answer.is_sealed

    async def pour(self, sink: Sink) -> None:
        """Give the body to `sink`, part by part as it comes, until `sink` returns that it takes no more, or the end.

        `sink` is not called from a task. It is called once more behind that if more of the body is here. Raises what
        `sink` raises, and `UpstreamError`.
        """
        answer, connection = self._answer, self._connection
        if connection is not None and not answer.is_readable():
            await connection.pour(sink)
        if not answer.is_readable() and (connection is None or connection.error is not None):
            raise self._trouble(connection)
        if answer.buffered:
            sink(answer.take())
        if connection is not None:
            self._go_on(connection)

    @property
    def is_over(self) -> bool:
        """Whether `read` has returned all of the body, and will return `b""`."""
        return self._answer.whole and not self._answer.buffered

    def close(self) -> None:
        """End the call: its connection is kept if both messages are over, else given up. It may come more than once."""
        self._is_closed = True
        if self._connecting is not None and not self._connecting.expired():
            self._connecting.reschedule(0.0)
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._sender is not None:
            self._sender.cancel()
        if self._answer.whole and self._request.is_sent and connection.rest():
            self._kept.keep(connection, self._answer.kept_seconds)
        else:
            self._answer.take()  # and so nobody reads on
            connection.fail(CallClosed("the call was closed"))

    def _ask(self, connection: Connection) -> "asyncio.Future[None]":
        """Send the request, and return what is awaited until its answer has a head or the connection is over."""
        if self._is_closed:
            connection.close()
            raise CallClosed("the call was closed")
        self._connection = connection
        connection.ask(self._answer, self._request.pieces)
        if self._request.parts is not None:
            self._sender = asyncio.create_task(self._send(connection, self._request.parts))
        return connection.progress(self._limits.head_timeout if self._request.is_sent else None)

    def _may_ask_again(self, kept: Connection) -> bool:
        """Return whether the request may be sent once more, because a kept connection has just ended."""
        request = self._request
        is_repeatable = request.parts is None and request.is_idempotent
        return is_repeatable and isinstance(kept.error, HungUp) and not (self._answer.begun or self._is_closed)

    def _go_on(self, connection: Connection) -> None:
        if self._answer.whole:
            self.close()
        else:
            connection.resume()

    async def _send(self, connection: Connection, parts: AsyncIterable[bytes]) -> None:
        seconds = self._limits.write_timeout
        try:
            async for part in parts:
                await connection.write(seconds, *self._request.frame(part))
            await connection.write(seconds, *self._request.last())
            if self._answer.head is None:
                connection.limit(self._limits.head_timeout)
        except Exception as error:
            connection.fail(error)

    async def _connect(self) -> Connection:
        seconds = self._limits.connect_timeout
        try:
            async with asyncio.timeout(seconds) as self._connecting:
                connection = await self._origin.connect()
        except TimeoutError:
            if self._is_closed:
                raise CallClosed("the call was closed") from None
            raise CannotConnect(f"the upstream was not connected within {seconds:g} s") from None
        except (OSError, UnicodeError) as error:
            raise CannotConnect(f"the upstream cannot be connected: {reason_of(error)}") from error
        finally:
            self._connecting = None
        return connection

    @staticmethod
    def _trouble(connection: Connection | None) -> Exception:
        """Return why there is no more of an answer that is not whole."""
        error = None if connection is None else connection.error
        return CallClosed("the call was closed") if error is None else error


class _Kept:
    """The connections that wait for another request: a bounded number, each for a few seconds at most."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: list[tuple[float, Connection]] = []
        self._timer: asyncio.TimerHandle | None = None

    def take(self) -> Connection | None:
        """Return the connection that was used last, if one is usable; those that are not are closed."""
        now = asyncio.get_running_loop().time()
        while self._kept:
            until, connection = self._kept.pop()
            if now < until and connection.may_be_used():
                return connection
            connection.close()
        return None

    def keep(self, connection: Connection, seconds: float) -> None:
        """Keep a connection for so many seconds, or close it if there is no place or no time for it."""
        now = asyncio.get_running_loop().time()
        if len(self._kept) >= self._most:
            self._sweep(now)
        if seconds <= 0 or len(self._kept) >= self._most:
            connection.close()
            return
        self._kept.append((now + seconds, connection))
        if self._timer is None or self._timer.when() > now + seconds:
            self._look_at(now + seconds)

    def close(self) -> None:
        self._most = 0
        self._sweep(math.inf)
        if self._timer is not None:
            self._timer.cancel()

    def _look_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(when, self._look)

    def _look(self) -> None:
        """Close what has been kept for long enough, and look again when the next is due."""
        self._timer = None
        self._sweep(asyncio.get_running_loop().time())
        if self._kept:
            self._look_at(min(until for until, _ in self._kept))

    def _sweep(self, now: float) -> None:
        kept, self._kept = self._kept, []
        for until, connection in kept:
            if now < until and connection.error is None:
                self._kept.append((until, connection))
            else:
                connection.close()
