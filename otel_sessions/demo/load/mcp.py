"""What the virtual clients and the toy upstream speak with each other: a little of MCP's Streamable HTTP.

Connections over the loopback are kept and reused, past any proxy that the environment may name.
"""

import ssl
from collections.abc import Mapping
from typing import Final

import httpx2

PATH: Final = "/mcp"
HEADER: Final = "mcp-session-id"
REVISION: Final = "2025-11-25"
_KEPT_SECONDS = 30.0
"""Less than a server keeps them (`serving`), so that no request meets a connection that is just being dropped."""
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Given because the usual one, which nothing here uses, takes its time to load certificates."""

OPENING: Final[Mapping[str, object]] = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": REVISION,
        "capabilities": {},
        "clientInfo": {"name": "otel-sessions-demo", "version": "1"},
    },
}
OPENED: Final[Mapping[str, object]] = {"jsonrpc": "2.0", "method": "notifications/initialized"}
CALL: Final[Mapping[str, object]] = {
    "jsonrpc": "2.0",
    "id": 2,
    "method": "tools/call",
    "params": {"name": "work", "arguments": {}},
}


def headers_of(session_id: str | None) -> dict[str, str]:
    """Return the headers of a message: of the session's, or of one that opens one if that is None."""
    headers = {"accept": "application/json, text/event-stream"}
    return headers if session_id is None else headers | {HEADER: session_id, "mcp-protocol-version": REVISION}


def connections(url: str, *, timeout: float = 10.0, most: int = 32) -> httpx2.AsyncClient:
    """Return a client with a pool of at most `most` connections to one address; `timeout` in seconds, for each step."""
    return httpx2.AsyncClient(
        base_url=url,
        timeout=timeout,
        verify=_NO_TLS,
        trust_env=False,
        limits=httpx2.Limits(max_connections=most, keepalive_expiry=_KEPT_SECONDS),
    )
