"""Which session an HTTP or WebSocket exchange belongs to, and how its id travels.

A matcher reads what a request says and writes what an answer says; it keeps nothing and knows no manager. Ids are made
by the manager and told to the client (`mints`), or made by the app and found in its answer.
"""

import json
import math
import re
from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol, cast

from .exceptions import SessionError, SessionNotFound, TooManySessions

Scope = MutableMapping[str, object]
Headers = Sequence[tuple[bytes, bytes]]

_FIRST_WITHOUT_SESSIONS: Final = "2026-07-28"
"""The first revision of MCP in which a session id must be ignored."""
_REVISION: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_INVALID_REQUEST, _SERVER_ERROR = -32600, -32000
"""JSON-RPC 2.0, section 5.1; the SDKs of MCP answer for an unknown session with the former."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """What a request says: `session_id` names its session; `opens` that one may begin if that is not there, or none is
    named. With neither, the exchange has nothing to do with sessions."""

    session_id: str | None = None
    opens: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A whole response, for where the app is not asked."""

    status: int
    headers: Headers
    body: bytes


class SessionMatcher(Protocol):
    """What a middleware asks about each exchange. `scope` is ASGI's, headers are pairs with names in lower case."""

    mints: bool
    """Whether new ids are made by the manager, for `announce`, or by the app, for `established`."""

    def match(self, scope: Scope) -> Match:
        """Return which session the request is about."""

    def announce(self, session_id: str, scope: Scope, headers: Headers) -> Headers:
        """Return the headers of an answer with a new id added."""

    def established(self, status: int, headers: Headers) -> str | None:
        """Return the id of the session that an answer has established, or None."""

    def ends(self, scope: Scope, status: int) -> bool:
        """Return whether an answer to a request of a session, which stands in `scope`, ends that session."""

    def refusal(self, error: SessionError) -> Answer:
        """Return the answer for a session that is unknown (`SessionNotFound`) or that cannot be had."""


class _Minting:
    """What the matchers share whose ids are made by the manager."""

    mints = True

    def established(self, status: int, headers: Headers) -> str | None:  # noqa: ARG002  # the app makes no ids
        return None

    def ends(self, scope: Scope, status: int) -> bool:  # noqa: ARG002  # the app ends its sessions by itself
        return False

    def refusal(self, error: SessionError) -> Answer:
        text = b"no such session\n" if isinstance(error, SessionNotFound) else b"try again later\n"
        return _answer(error, text, b"text/plain; charset=utf-8")


class HeaderMatcher(_Minting):
    """Ids in a header of one's own, of requests and, when new, of answers. An unknown id is 404."""

    def __init__(self, name: str = "x-session-id") -> None:
        self.name: Final = name.lower()
        self._name = self.name.encode("latin-1")

    def match(self, scope: Scope) -> Match:
        named = header(scope, self._name)
        return Match(opens=True) if named is None else Match(session_id=named)

    def announce(self, session_id: str, scope: Scope, headers: Headers) -> Headers:  # noqa: ARG002
        """Put the id in place of what the app says under that name."""
        others = [(name, value) for name, value in headers if name.lower() != self._name]
        return [(self._name, session_id.encode("latin-1")), *others]


class CookieMatcher(_Minting):
    """Ids in a cookie, HttpOnly and SameSite; for the browser's session, and never the client's own choice.

    An unknown or ended id is replaced by a new one. `secure` None means: where the request came over TLS; behind a
    proxy that ends TLS, say True. `same_site` is Lax, Strict or None (as in RFC 6265bis, section 5.6.7).
    """

    def __init__(
        self, name: str = "otel-session", *, secure: bool | None = None, same_site: str = "Lax", path: str = "/"
    ) -> None:
        if same_site not in ("Lax", "Strict", "None"):
            raise ValueError(f"same_site takes Lax, Strict or None, not {same_site!r}")
        self.name: Final = name
        self._secure = secure
        self._rest = f"; Path={path}; HttpOnly; SameSite={same_site}"

    def match(self, scope: Scope) -> Match:
        return Match(session_id=self._named(scope), opens=True)

    def announce(self, session_id: str, scope: Scope, headers: Headers) -> Headers:
        secure = scope.get("scheme") in ("https", "wss") if self._secure is None else self._secure
        cookie = f"{self.name}={session_id}{self._rest}{'; Secure' if secure else ''}"
        return [*headers, (b"set-cookie", cookie.encode("latin-1"))]

    def _named(self, scope: Scope) -> str | None:
        for line in headers_of(scope, b"cookie"):
            for pair in line.split(";"):
                name, _, value = pair.strip().partition("=")
                if name == self.name and value:
                    return value
        return None


class McpMatcher:
    """The Streamable HTTP of MCP, in the revisions that have sessions.

    The upstream makes the id, in `Mcp-Session-Id` of its answer to `initialize`, and so to a POST of JSON without one;
    a DELETE that it accepts ends the session, and so does its own 404. Requests of revision 2026-07-28, which has no
    sessions, pass untouched, whatever id they carry: the app must ignore it.
    """

    mints = False

    def match(self, scope: Scope) -> Match:
        revision = header(scope, b"mcp-protocol-version") or ""
        if _REVISION.fullmatch(revision) and revision >= _FIRST_WITHOUT_SESSIONS:
            return Match()
        named = header(scope, b"mcp-session-id")
        if named is not None:
            return Match(session_id=named)
        kind = (header(scope, b"content-type") or "").lower()
        return Match(opens=scope.get("method") == "POST" and kind.startswith("application/json"))

    def announce(self, session_id: str, scope: Scope, headers: Headers) -> Headers:  # noqa: ARG002  # the app does
        return headers

    def established(self, status: int, headers: Headers) -> str | None:
        if not 200 <= status < 300:
            return None
        found = [value.decode("latin-1") for name, value in headers if name.lower() == b"mcp-session-id"]
        return found[0] if found and found[0] else None

    def ends(self, scope: Scope, status: int) -> bool:
        return status == HTTPStatus.NOT_FOUND or (scope.get("method") == "DELETE" and 200 <= status < 300)

    def refusal(self, error: SessionError) -> Answer:
        unknown = isinstance(error, SessionNotFound)
        code = _INVALID_REQUEST if unknown else _SERVER_ERROR
        message = "Session not found" if unknown else "No session can be had at the moment; try again later"
        body = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}}
        return _answer(error, json.dumps(body, separators=(",", ":")).encode(), b"application/json")


def header(scope: Scope, name: bytes) -> str | None:
    """Return the first value of a request's header, None if it has none."""
    for key, value in pairs_of(scope):
        if key == name:
            return value.decode("latin-1")
    return None


def headers_of(scope: Scope, name: bytes) -> list[str]:
    """Return every value of a request's header."""
    return [value.decode("latin-1") for key, value in pairs_of(scope) if key == name]


def pairs_of(scope: Scope) -> Iterable[tuple[bytes, bytes]]:
    """Return a request's headers, names in lower case."""
    return cast("Iterable[tuple[bytes, bytes]]", scope["headers"])


def _answer(error: SessionError, body: bytes, kind: bytes) -> Answer:
    """Return 404 for an unknown session, else 503, with `Retry-After` (RFC 9110, 10.2.3) where the wait is known."""
    status = HTTPStatus.NOT_FOUND if isinstance(error, SessionNotFound) else HTTPStatus.SERVICE_UNAVAILABLE
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    if isinstance(error, TooManySessions) and error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after))))
    return Answer(status=status, headers=headers, body=body)
