"""What the proxy passes on, and how long it waits. Pure."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from otel_sessions.matchers import Scope, header, headers_of, pairs_of

from .headers import Trust

_BAD_FRAMING: Final = "a request with both Content-Length and Transfer-Encoding is refused"
_BAD_TARGET: Final = "a request for anything but a path is refused"


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """Seconds to connect, and to wait for the next part of an answer; None for as long as it takes."""

    connect: float
    idle: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What is passed on and how: with the upstream's own Host or the client's; at most `max_body` and
    `max_header` bytes a request."""

    trust: Trust
    timeouts: Timeouts
    rewrites_host: bool = False
    allowed_hosts: frozenset[str] = frozenset()
    allowed_origins: frozenset[str] = frozenset()
    max_body: int | None = None
    max_header: int = 65536
    comment_after: float | None = None
    """After how many seconds of silence a stream of events gets a comment; None for never."""

    def refusal(self, scope: Scope) -> tuple[HTTPStatus, str] | None:
        """Return why a request is not passed on, or None.

        Where the Host is replaced, the upstream cannot tell a foreign one any more, so that is done here.
        """
        if header(scope, b"content-length") is not None and header(scope, b"transfer-encoding") is not None:
            return HTTPStatus.BAD_REQUEST, _BAD_FRAMING
        if not str(scope["path"]).startswith("/"):
            return HTTPStatus.BAD_REQUEST, _BAD_TARGET
        if sum(len(name) + len(value) for name, value in pairs_of(scope)) > self.max_header:
            return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request's head is larger than this proxy passes on"
        if not self.rewrites_host:
            return None
        if (header(scope, b"host") or "") not in self.allowed_hosts:
            return HTTPStatus.MISDIRECTED_REQUEST, "this proxy does not serve that host"
        if not self.allowed_origins.issuperset(headers_of(scope, b"origin")):
            return HTTPStatus.FORBIDDEN, "requests from that origin are refused"
        return None
