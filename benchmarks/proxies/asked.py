"""What the proxies are asked for: the four workloads, each as a request."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from json import dumps
from typing import Final


class Workload(StrEnum):
    POST = "POST of 200 bytes"
    GET = "GET of 16 KiB"
    EVENT = "event of a stream"
    CALL = "MCP tools/call"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request: ASCII only, so that its characters are its bytes."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""

    def to(self, path: str) -> "Request":
        return replace(self, path=path)

    def having(self, headers: Mapping[str, str]) -> "Request":
        """Return the request with these headers, too."""
        return replace(self, headers={**self.headers, **headers})


IN_SESSION, NO_SESSION = "/mcp/in-session", "/mcp/no-session"
"""Two paths of the origin, equally long. The proxy skips the second path; all else of two requests is the same."""
LARGE, EVENTS, TOOLS = "/large", "/events", "/tools"

_JSON: Final = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
_PROTOCOL: Final = {"mcp-protocol-version": "2025-06-18"}


def _call(tool: str, **arguments: object) -> str:
    params = {"name": tool, "arguments": arguments}
    return dumps({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params})


def initialize(path: str) -> Request:
    """Return the request that opens an MCP session."""
    client = {"name": "benchmark", "version": "1"}
    params = {"protocolVersion": _PROTOCOL["mcp-protocol-version"], "capabilities": {}, "clientInfo": client}
    body = dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})
    return Request(method="POST", path=path, headers=_JSON, body=body)


def post() -> Request:
    """Return a POST with a body of 200 bytes."""
    bare = len(_call("search", query=""))
    body = _call("search", query="x" * (200 - bare))
    return Request(method="POST", path=IN_SESSION, headers={**_JSON, **_PROTOCOL}, body=body)


def get() -> Request:
    """Return a GET, which the origin answers with 16 KiB."""
    return Request(method="GET", path=LARGE, headers={"accept": "*/*"})


def events() -> Request:
    """Return a GET, which the origin answers with a stream of events."""
    return Request(method="GET", path=EVENTS, headers={"accept": "text/event-stream"})


def call(tool: str = "add") -> Request:
    """Return a call of the MCP server's tool, whose result is `SUM`. Some proxies give the tool another name."""
    return Request(method="POST", path=TOOLS, headers={**_JSON, **_PROTOCOL}, body=_call(tool, one=40, other=2))


SUM: Final = "42"
