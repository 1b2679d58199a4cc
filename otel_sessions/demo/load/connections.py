"""Connections over the loopback, kept and reused, past any proxy that the environment may name."""

import ssl

import httpx2

_KEPT_SECONDS = 30.0
"""Less than a server keeps them (`serving`), so that no request meets a connection that is just being dropped."""
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Given because the usual one, which nothing here uses, takes its time to load certificates."""


def connections(url: str, *, timeout: float = 10.0, most: int = 32) -> httpx2.AsyncClient:
    """Return a client with a pool of at most `most` connections to one address; `timeout` in seconds, for each step."""
    return httpx2.AsyncClient(
        base_url=url,
        timeout=timeout,
        verify=_NO_TLS,
        trust_env=False,
        limits=httpx2.Limits(max_connections=most, keepalive_expiry=_KEPT_SECONDS),
    )
