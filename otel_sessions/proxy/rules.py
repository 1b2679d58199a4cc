"""What the proxy passes on, and how long it waits. Pure."""

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Final, cast

from otel_sessions.matchers import Scope, header, headers_of, pairs_of, spelt

from .headers import Trust, towards_upstream
from .shape import KEPT, Shape, shape_in

Refusal = tuple[HTTPStatus, str]
"""Why a request is not passed on, for its client."""
TOO_LARGE: Final = (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request is larger than this proxy passes on")
TARGET: Final = "otel_sessions.proxy.target"
"""Where a scope has the request's target as its client wrote it."""
STALLED: Final = (HTTPStatus.REQUEST_TIMEOUT, "the request did not come in time")
_BAD_HOST: Final = "a request without a good Host is refused"
_LONGEST_KEPT: Final = 255
"""Characters of a Host whose verdict is kept."""
_PORT: Final = "[0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}"
_HOST: Final = re.compile(rf"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:({_PORT}|65[0-4][0-9]{{2}}|655[0-3][0-9]))?")
_AMBIGUOUS: Final = "the header {} is repeated, is spelt with another mark for a hyphen, or is listed in Connection"
_DECISIVE: Final = frozenset({b"mcp-protocol-version"})
_BAD_TARGET: Final = "a request for anything but a path is refused"
_BAD_PATH: Final = "a path with . or .. in it is refused"
_DOTS: Final = re.compile(rb"(^|[/\\]|%2f|%5c)(\.|%2e){1,2}([/\\;]|%2f|%5c|$)", re.IGNORECASE)
"""A part of a path that leads elsewhere, in every way in which a server may read it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """Seconds to connect, and to wait for the next part of an answer; None for as long as it takes."""

    connect_timeout: float
    idle_timeout: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What is passed on and how: with the upstream's own Host or the client's, and at most `max_body` bytes of a body.

    A connection reads at most `max_header` bytes of a head.
    """

    trust: Trust
    timeouts: Timeouts
    rewrite_host: bool = False
    allow_host: frozenset[str] = frozenset()
    allow_origin: frozenset[str] = frozenset()
    max_body: int | None = None
    max_header: int = 65536
    comment_after: float | None = None
    """After how many seconds of silence a stream of events gets a comment; None for never."""

    def headers(self, scope: Scope, own_host: bytes) -> list[tuple[bytes, bytes]]:
        """Return a request's headers as the upstream gets them, which knows itself by `own_host`."""
        own = self.rewrite_host or has_no_host(scope)
        return towards_upstream(scope, self.trust, own_host if own else None)

    def _malformed(self, scope: Scope) -> Refusal | None:
        if scope.get("method") == "TRACE":
            return HTTPStatus.METHOD_NOT_ALLOWED, "TRACE is refused"
        headers, shape = pairs_of(scope), shape_in(scope)
        host = shape.first(headers, b"host")
        if not _is_host((host or b"").decode("latin-1")) and not (host is None and has_no_host(scope)):
            return HTTPStatus.BAD_REQUEST, _BAD_HOST
        ambiguous = _ambiguous(shape, self.trust.words)
        if ambiguous is not None:
            return HTTPStatus.BAD_REQUEST, _AMBIGUOUS.format(ambiguous)
        target = target_of(scope)
        if not target.startswith(b"/") or b"#" in target:
            return HTTPStatus.BAD_REQUEST, _BAD_TARGET
        path = target.partition(b"?")[0]
        if (b"." in path or b"%" in path) and _DOTS.search(path):
            return HTTPStatus.BAD_REQUEST, _BAD_PATH
        if self.max_body is not None and _told_length(shape.first(headers, b"content-length")) > self.max_body:
            return TOO_LARGE
        return None

    def refusal(self, scope: Scope) -> Refusal | None:
        """Return why a request is not passed on, or None.

        Where the Host is replaced, the upstream cannot tell a foreign one any more, so that is done here.
        """
        malformed = self._malformed(scope)
        if malformed is not None:
            return malformed
        if not self.rewrite_host:
            return None
        if (header(scope, b"host") or "").lower() not in self.allow_host and not has_no_host(scope):
            return HTTPStatus.MISDIRECTED_REQUEST, "this proxy does not serve that host"
        if not self.allow_origin.issuperset(headers_of(scope, b"origin")):
            return HTTPStatus.FORBIDDEN, "requests from that origin are refused"
        return None


def _is_host(text: str) -> bool:
    return _is_host_again(text) if len(text) <= _LONGEST_KEPT else _reads_as_host(text)


def _reads_as_host(text: str) -> bool:
    if not _HOST.fullmatch(text):
        return False
    if not text.startswith("["):
        return True
    try:
        return bool(ipaddress.IPv6Address(text[1:].partition("]")[0]))
    except ValueError:
        return False


_is_host_again = lru_cache(256)(_reads_as_host)


@lru_cache(KEPT)
def _ambiguous(shape: Shape, words: frozenset[bytes]) -> str | None:
    """Return the name of a header of which this proxy and the upstream may read different values, or None.

    Such headers decide which session a request is in, and who owns the session.
    """
    spellings = [spelt(name) for name in shape.names]
    for name in sorted(_DECISIVE | words):
        is_once = spellings.count(name) == 1 and name in shape.names and name not in shape.tokens
        if name in spellings and not is_once:
            return name.decode("latin-1")
    return None


def _told_length(told: bytes | None) -> int:
    return int(told) if told is not None and told.isdigit() else 0


def has_no_host(scope: Scope) -> bool:
    """Return whether a request names no host, as HTTP/1.0 allows; no browser sends such a request."""
    return scope.get("http_version") == "1.0" and header(scope, b"host") is None


def target_of(scope: Scope) -> bytes:
    """Return the path and the query as the client wrote them."""
    written: bytes | None = scope.get(TARGET)
    if written is not None:
        return written
    path = cast("bytes", scope.get("raw_path") or str(scope["path"]).encode())
    query = cast("bytes", scope.get("query_string", b""))
    return path + (b"?" + query if query else b"")
