"""The data of a session at the upstream. With it, the proxy can end the session there as the client would.

The client's headers are kept in memory only, as long as the session lasts. They are never logged or exported.
"""

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, cast

from otel_sessions._core.session import Session
from otel_sessions.asgi import SESSION
from otel_sessions.matchers import Headers, McpMatcher, Scope

from .rules import target_of

MCP_ID: Final = McpMatcher.request_header
_STARTS_OF_ONE_REQUEST: Final = (b"accept", b"content-", b"if-")
_OF_ONE_REQUEST: Final = frozenset(
    {
        *(b"expect", b"range", b"last-event-id", b"traceparent", b"tracestate", b"baggage"),
        *(b"mcp-method", b"mcp-name", MCP_ID),
    }
)
_REFUSED: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


@dataclass(slots=True)
class Peer:
    """A session at the upstream: the path and query of its first request, and the headers that were last accepted."""

    target: bytes = field(repr=False)
    headers: Headers = field(repr=False)
    told: bool = False
    """Whether the upstream already knows that the session is over."""

    def is_at(self, target: bytes) -> bool:
        """Return whether a request goes to the path where the session began. Other paths say nothing about it."""
        return target.partition(b"?")[0] == self.target.partition(b"?")[0]

    def note(self, headers: Headers, status: int) -> None:
        """Remember a request's headers, unless the upstream has refused its credentials (401 and 403)."""
        if status not in _REFUSED:
            self.headers = headers


def credentials(headers: Headers) -> Headers:
    """Return the headers that say who has sent a request, without the headers that describe only this request."""
    return [
        (name, value)
        for name, value in headers
        if name not in _OF_ONE_REQUEST and not name.startswith(_STARTS_OF_ONE_REQUEST)
    ]


def peer_of(scope: Scope) -> Peer | None:
    """Return the data of a request's session, or None if the request goes to another path than the first request."""
    session = cast("Session[Peer] | None", scope.get(SESSION))
    return session.data if session is not None and session.data.is_at(target_of(scope)) else None


class EndpointMatcher(McpMatcher):
    """MCP at one path of an upstream that may serve more. Only an answer at this path can end a session."""

    def ends(self, scope: Scope, status: int) -> bool:
        return super().ends(scope, status) and peer_of(scope) is not None
