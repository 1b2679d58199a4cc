"""The way to the server behind: connections that are kept and reused, and one request over them.

Below the client's conveniences on purpose: no header, cookie, redirect or decoding of its own slips in.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Self

import httpx2

from otel_sessions.matchers import Headers

from .rules import Timeouts

_KEPT: Final = 100
_KEPT_SECONDS: Final = 4.0
"""Less than servers usually keep an idle connection (uvicorn 5 s), so that a request seldom meets one that closes."""


class Upstream:
    """One server, by its URL. A stream holds a connection of its own, so only the sessions limit their number."""

    def __init__(self, url: str) -> None:
        self.url: Final = httpx2.URL(url)
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=_KEPT, keepalive_expiry=_KEPT_SECONDS)
        verify: ssl.SSLContext | bool = self.url.scheme == "https"
        if not verify:  # the usual one takes its time to load certificates that nobody asks for
            verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._transport = httpx2.AsyncHTTPTransport(verify=verify, trust_env=False, limits=limits)

    @property
    def host(self) -> bytes:
        """The `Host` that this server knows itself by."""
        return self.url.netloc

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._transport.__aexit__()

    @asynccontextmanager
    async def ask(
        self,
        method: str,
        target: bytes,
        headers: Headers,
        content: AsyncIterator[bytes] | None,
        timeouts: Timeouts,
    ) -> AsyncIterator[httpx2.Response]:
        """Send a request to `target`, a path with its query, and yield the answer as soon as its head is there.

        Raises httpx2's errors. Leaving the block before the body's end gives the connection up.
        """
        limits = {"connect": timeouts.connect, "read": timeouts.idle, "write": timeouts.idle, "pool": None}
        request = httpx2.Request(
            method,
            self.url.copy_with(raw_path=self.url.raw_path.rstrip(b"/") + target),
            headers=list(headers),
            content=content,
            extensions={"timeout": limits},
        )
        if content is None and not any(name.lower() == b"content-length" for name, _ in headers):
            request.headers.pop("content-length", None)  # a request without a body is none of an empty one
        response = await self._transport.handle_async_request(request)
        try:
            yield response
        finally:
            await response.aclose()
