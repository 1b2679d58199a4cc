"""How the upstream is told that a session is over: by a DELETE with what the session's client last showed.

What a client shows is kept in memory only, for as long as its session lasts, and is never logged or exported.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

import anyio

from otel_sessions.asgi import SESSION
from otel_sessions.matchers import Headers, McpMatcher, Scope
from otel_sessions.session import Session
from otel_sessions.words import EndReason

from .rules import Timeouts, target_of

if TYPE_CHECKING:  # the settings, and so the command line, are read where httpx2 may be missing
    from .upstream import Upstream

_logger = logging.getLogger("otel_sessions.proxy")

ID: Final = b"mcp-session-id"
_ABOUT_ONE_REQUEST: Final = frozenset(
    {b"accept", b"content-encoding", b"content-length", b"content-type", b"last-event-id", ID}
)
_GONE_OR_UNABLE: Final = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)


@dataclass(slots=True)
class Peer:
    """What the proxy remembers of an upstream's session: where it began, and what its client last showed there."""

    target: bytes = field(repr=False)
    headers: Headers = field(repr=False)
    told: bool = False
    """Whether the upstream knows already that the session is over."""

    def is_at(self, target: bytes) -> bool:
        """Return whether a request went where the session began; elsewhere, nothing is said about it."""
        return target.partition(b"?")[0] == self.target.partition(b"?")[0]


def peer_of(scope: Scope) -> Peer | None:
    """Return what is known of the session that a request is in, if the request goes where that began."""
    session = cast("Session[Peer | None] | None", scope.get(SESSION))
    peer = None if session is None else session.data
    return peer if peer is not None and peer.is_at(target_of(scope)) else None


class EndpointMatcher(McpMatcher):
    """MCP of an upstream that may serve more than that: only where a session began is its end said."""

    def ends(self, scope: Scope, status: int) -> bool:
        return peer_of(scope) is not None and super().ends(scope, status)


class Farewell:
    """Ends sessions of the upstream's."""

    def __init__(self, upstream: "Upstream", seconds: float) -> None:
        self._upstream = upstream
        self._seconds = seconds

    async def to(self, session: Session[Peer | None], _reason: EndReason) -> None:
        """End the upstream's session with ours. Raises what goes wrong; a manager's close hook."""
        peer = session.data
        if peer is not None and not peer.told:
            await self._delete(session.id, peer.target, peer.headers)

    async def to_stray(self, session_id: str, target: bytes, headers: Headers) -> None:
        """End a session that the upstream has just made and that can be none of ours; what goes wrong is logged."""
        with anyio.CancelScope(shield=True):
            try:
                with anyio.fail_after(self._seconds):
                    await self._delete(session_id, target, headers)
            except Exception as error:
                _logger.warning("the upstream keeps a session that nobody counts: %s", type(error).__name__)

    async def _delete(self, session_id: str, target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        credentials = [(name, value) for name, value in headers if name not in _ABOUT_ONE_REQUEST]
        timeouts = Timeouts(connect=self._seconds, idle=self._seconds)
        headers = [*credentials, (ID, session_id.encode("latin-1"))]
        async with self._upstream.ask("DELETE", target, headers, None, timeouts) as response:
            if response.status_code >= HTTPStatus.BAD_REQUEST and response.status_code not in _GONE_OR_UNABLE:
                raise RuntimeError(f"the upstream answered {response.status_code} to the end of a session")
