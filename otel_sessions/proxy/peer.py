"""What is remembered of a session of the upstream's, to end it there as its client would.

A client's headers are kept in memory only, for as long as its session lasts, and are never logged or exported.
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
    """What the proxy remembers of an upstream's session: where it began, and the headers that were last taken there."""

    target: bytes = field(repr=False)
    headers: Headers = field(repr=False)
    told: bool = False
    """Whether the upstream knows already that the session is over."""

    def is_at(self, target: bytes) -> bool:
        """Return whether a request went where the session began; elsewhere, nothing is said about it."""
        return target.partition(b"?")[0] == self.target.partition(b"?")[0]

    def note(self, headers: Headers, status: int) -> None:
        """Remember a request's headers, if the upstream has taken them."""
        if status not in _REFUSED:
            self.headers = headers


def credentials(headers: Headers) -> Headers:
    """Return of a request's headers what shows who has sent it, and nothing that is about that one request."""
    return [
        (name, value)
        for name, value in headers
        if name not in _OF_ONE_REQUEST and not name.startswith(_STARTS_OF_ONE_REQUEST)
    ]


def peer_of(scope: Scope) -> Peer | None:
    """Return what is known of the session that a request is in, if the request goes where that began."""
    session = cast("Session[Peer] | None", scope.get(SESSION))
    return session.data if session is not None and session.data.is_at(target_of(scope)) else None


class EndpointMatcher(McpMatcher):
    """MCP of an upstream that may serve more than that: only where a session began is its end said."""

    def ends(self, scope: Scope, status: int) -> bool:
        return super().ends(scope, status) and peer_of(scope) is not None
