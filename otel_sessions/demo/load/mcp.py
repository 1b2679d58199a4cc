"""The protocol between the virtual clients and the toy upstream: a small part of MCP's Streamable HTTP.

Connections over the loopback are kept and reused. A proxy that the environment names is not used.
"""

import ssl
from collections.abc import Mapping
from typing import Final

import httpx2

PATH: Final = "/mcp"
HEADER: Final = "mcp-session-id"
REVISION: Final = "2025-11-25"
KEPT_SECONDS = 30.0
"""Shorter than a server keeps a connection (`serving`), so that no request meets a connection that is just closing."""
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Replaces the default context, which loads certificates slowly. Nothing here uses TLS."""

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
    """Return the headers of a message in a session, or of a message that opens a session if `session_id` is None."""
    headers = {"accept": "application/json, text/event-stream"}
    return headers if session_id is None else headers | {HEADER: session_id, "mcp-protocol-version": REVISION}


def connections(url: str, *, timeout: float = 10.0, most: int = 32) -> httpx2.AsyncClient:
    """Return a client with a pool of at most `most` connections to one address. `timeout` is in seconds, per step."""
    return httpx2.AsyncClient(
        base_url=url,
        timeout=timeout,
        verify=NO_TLS,
        trust_env=False,
        limits=httpx2.Limits(max_connections=most, keepalive_expiry=KEPT_SECONDS),
    )
