"""A balancer that knows nothing of sessions: each request goes to any replica that is there.

So two of three requests arrive at a replica that does not have their session, and the replica passes them on.
"""

import random
from typing import Final

import httpx2

from otel_sessions.demo.load.mcp import KEPT_SECONDS, NO_TLS


class Balancer(httpx2.AsyncBaseTransport):
    """Sends each request to one of `urls`, which may change meanwhile. It tries another one if nobody listens there."""

    def __init__(self, urls: set[str]) -> None:
        self._urls: Final = urls
        self._transport: Final = httpx2.AsyncHTTPTransport(
            verify=NO_TLS, trust_env=False, limits=httpx2.Limits(max_connections=32, keepalive_expiry=KEPT_SECONDS)
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        failure: httpx2.ConnectError | None = None
        for url in random.sample(sorted(self._urls), len(self._urls)):
            place = httpx2.URL(url)
            request.url = request.url.copy_with(host=place.host, port=place.port)
            try:
                return await self._transport.handle_async_request(request)
            except httpx2.ConnectError as error:
                failure = error
        raise failure or httpx2.ConnectError("no replica is there")

    async def aclose(self) -> None:
        await self._transport.aclose()


def balanced(urls: set[str]) -> httpx2.AsyncClient:
    """Return a client whose requests go to any of `urls`."""
    return httpx2.AsyncClient(base_url="http://fleet.invalid", timeout=10.0, transport=Balancer(urls), trust_env=False)
