"""The way to the server behind: connections that are kept and reused, and one request over them.

Below the client's conveniences on purpose: no header, cookie, redirect or decoding of its own slips in.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle
from typing import Final, Self

import anyio
import httpx2

from otel_sessions._program.sockets import WATCHFUL
from otel_sessions.matchers import Headers

from .rules import Timeouts

_LAST_STATUS: Final = 599
_POOLS: Final = 4
_KEPT: Final = 25
"""How many idle connections each pool keeps."""
_KEPT_SECONDS: Final = 4.0
"""Less than servers usually keep an idle connection (uvicorn 5 s), so that a request seldom meets one that closes."""


class Upstream:
    """One server, by its URL.

    A pool looks at each of its connections for each request. So there are a few small ones, used in turn, and a stream
    of events, which holds its connection for as long as it lasts, stands in none of them.
    """

    def __init__(self, url: str) -> None:
        self.url: Final = httpx2.URL(url)
        tls = self.url.scheme == "https"  # else the usual context would load certificates that nobody asks for
        self._tls = ssl.create_default_context() if tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._pools = [self._connections() for _ in range(_POOLS)]
        self._turns = cycle(self._pools)

    @property
    def host(self) -> bytes:
        """The `Host` that this server knows itself by."""
        return self.url.netloc

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        for pool in self._pools:
            await pool.aclose()

    @asynccontextmanager
    async def ask(
        self,
        method: str,
        target: bytes,
        headers: Headers,
        content: AsyncIterator[bytes] | None,
        timeouts: Timeouts,
        *,
        awaiting: anyio.CancelScope | None = None,
        fresh: bool = False,
    ) -> AsyncIterator[httpx2.Response]:
        """Send a request to `target`, a path with its query, and yield the answer as soon as its head is there.

        The target goes out as it is written. A stream of events may then be silent for as long as it likes. Raises
        httpx2's errors; `ReadTimeout`, too, when `awaiting` is cancelled, in which the head is awaited. Leaving the
        block before the body's end gives the connection up. A `fresh` request goes over a new connection of its own, as
        a stream of events does.
        """
        limits = {
            "connect": timeouts.connect_timeout,
            "read": timeouts.idle_timeout,
            "write": timeouts.idle_timeout,
            "pool": None,
        }
        request = httpx2.Request(
            method,
            self.url,
            headers=list(headers),
            content=content,
            extensions={"timeout": limits, "target": self.url.raw_path.rstrip(b"/") + target},
        )
        if content is None and not any(name.lower() == b"content-length" for name, _ in headers):
            request.headers.pop("content-length", None)  # a request without a body is none of an empty one
        alone = fresh or timeouts.idle_timeout is None
        connections = self._connections() if alone else next(self._turns)
        try:
            response = None
            with awaiting or anyio.CancelScope():
                response = await connections.handle_async_request(request)
            if response is None:
                raise httpx2.ReadTimeout("the head was awaited for long enough")
            if response.status_code > _LAST_STATUS:
                raise httpx2.RemoteProtocolError(f"{response.status_code} is no status")
            if response.headers.get("content-type", "").lower().startswith("text/event-stream"):
                limits["read"] = None
            try:
                yield response
            finally:
                await response.aclose()
        finally:
            if alone:
                await connections.aclose()

    def _connections(self) -> httpx2.AsyncHTTPTransport:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=_KEPT, keepalive_expiry=_KEPT_SECONDS)
        return httpx2.AsyncHTTPTransport(verify=self._tls, trust_env=False, limits=limits, socket_options=WATCHFUL)
