"""As much of MCP's Streamable HTTP as the virtual clients and the toy upstream speak with each other."""

from collections.abc import Mapping
from typing import Final

PATH: Final = "/mcp"
HEADER: Final = "mcp-session-id"
REVISION: Final = "2025-11-25"

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
