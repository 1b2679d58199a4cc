"""The data of a session at the upstream. With it, the proxy can end the session there as the client would.

The client's headers are kept in memory only, as long as the session lasts. They are never logged or exported.
"""

from functools import lru_cache
from http import HTTPStatus
from typing import Final

from otel_sessions._core.session import Session
from otel_sessions.asgi import SESSION
from otel_sessions.matchers import Headers, McpMatcher, Scope

from .rules import target_of
from .shape import KEPT, Changes, with_changes

MCP_ID: Final = McpMatcher.request_header
_STARTS_OF_ONE_REQUEST: Final = (b"accept", b"content-", b"if-")
_OF_ONE_REQUEST: Final = frozenset(
    {
        *(b"expect", b"range", b"last-event-id", b"traceparent", b"tracestate", b"baggage"),
        *(b"x-request-id", b"x-correlation-id", b"mcp-method", b"mcp-name", MCP_ID),
    }
)
_MOST_BYTES: Final = 1024
"""Bytes of names in a list that is remembered. Longer lists would fill memory."""
_REFUSED: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


class Peer:
    """A session at the upstream: the path and query of its first request, and the headers that were last accepted.

    Of the headers, only the `credentials` are kept, as bytes: at most as many as the head of a request may have.
    """

    __slots__ = ("_kept", "_mark", "target", "told")

    def __init__(self, target: bytes, headers: Headers) -> None:
        self.target: Final = target
        self.told = False
        """Whether the upstream already knows that the session is over."""
        self._mark = _mark_of(headers)
        self._kept = _kept(headers)

    @property
    def headers(self) -> Headers:
        """The headers that show who the client is, as the upstream last accepted them."""
        lines = self._kept.split(b"\n") if self._kept else []
        return [(name, value) for name, _, value in (line.partition(b":") for line in lines)]

    def is_at(self, target: bytes) -> bool:
        """Return whether a request goes to the path where the session began. Other paths say nothing about it."""
        return target == self.target or target.partition(b"?")[0] == self.target.partition(b"?")[0]

    def note(self, headers: Headers, status: int) -> None:
        """Remember a request's headers, unless the upstream has refused its credentials (401 and 403)."""
        mark = headers.mark if type(headers) is Marked else _mark_of(headers)
        if mark != self._mark and status not in _REFUSED:  # mostly, a client shows what it has shown before
            self._mark = mark
            self._kept = _kept(headers)

    def __repr__(self) -> str:
        return "<Peer>"  # without what its client has shown


def credentials(headers: Headers) -> Headers:
    """Return the headers that say who has sent a request, without the headers that describe only this request."""
    names = tuple([name for name, _ in headers])
    lines = _shown_again(names) if len(b"".join(names)) <= _MOST_BYTES else _shown(names)
    return [headers[line] for line in lines]


def _shown(names: tuple[bytes, ...]) -> tuple[int, ...]:
    """Return which lines say who has sent a request, by the names of all lines."""
    return tuple(
        line
        for line, name in enumerate(names)
        if name not in _OF_ONE_REQUEST and not name.startswith(_STARTS_OF_ONE_REQUEST)
    )


_shown_again = lru_cache(KEPT)(_shown)


class Marked(list[tuple[bytes, bytes]]):
    """Headers that nobody changes, and that are noted again and again: their mark is found once."""

    __slots__ = ("mark",)

    def __init__(self, headers: Headers, mark: int | None = None) -> None:
        list.__init__(self, headers)
        self.mark: Final = hash(tuple(credentials(headers))) if mark is None else mark

    def changed(self, changes: Changes) -> "Marked":
        """Return the headers with other values in some lines. Mostly these describe the request, and not its sender."""
        describes = all(name in _OF_ONE_REQUEST for name, _ in changes)
        return Marked(with_changes(self, changes), self.mark if describes else None)


def _mark_of(headers: Headers) -> int:
    """Return what is the same for the same credentials, and mostly differs for others."""
    return hash(tuple(credentials(headers)))


def _kept(headers: Headers) -> bytes:
    return b"\n".join(b"%b:%b" % pair for pair in credentials(headers))


def peer_of(scope: Scope) -> Peer | None:
    """Return the data of a request's session, or None if the request goes to another path than the first request."""
    session: Session[Peer] | None = scope.get(SESSION)
    if session is None:
        return None
    peer = session.data
    return peer if peer.is_at(target_of(scope)) else None


class EndpointMatcher(McpMatcher):
    """MCP at one path of an upstream that may serve more. Only an answer at this path can end a session."""

    def ends(self, scope: Scope, status: int) -> bool:
        return McpMatcher.ends(self, scope, status) and peer_of(scope) is not None
