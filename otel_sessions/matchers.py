"""Which session an HTTP or WebSocket exchange belongs to, and how its id travels.

A matcher reads what a request says, and writes what an answer says. It keeps nothing and knows no manager. There are
two kinds: an `IssuingMatcher` for ids that the manager makes, and an `AdoptingMatcher` for ids that the app makes. A
matcher of your own subclasses one of them, and gets the usual behaviour for whatever it leaves out.
"""

import json
import math
import re
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final, Protocol, runtime_checkable

from ._core.exceptions import ConfigError, SessionError, SessionNotFound, TooManySessions
from ._http import cookies, set_cookie
from ._http.json_rpc import calls

Scope = MutableMapping[str, Any]
Headers = Sequence[tuple[bytes, bytes]]

MOST_LOOKED_AT: Final = 8192
"""Bytes of a request's body that a matcher may ask for."""
_FIRST_WITHOUT_SESSIONS: Final = b"2026-07-28"
"""The first revision of MCP in which a session id must be ignored."""
_REVISION: Final = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_OLD_TRANSPORT: Final = re.compile(rb"(^|&)session_?id=", re.IGNORECASE)
"""How messages of MCP's HTTP+SSE transport (revision 2024-11-05) name their session: in the query."""
_MCP_ID: Final = b"mcp-session-id"
_ASKED: Final = frozenset({_MCP_ID, b"mcp-protocol-version", b"content-type", b"content-encoding", b"accept"})
_SPELT: Final = b"".join(byte.lower() if byte.isalnum() else b"-" for byte in (bytes([code]) for code in range(256)))
"""Every letter in lower case, every digit, and a hyphen for anything else."""
_INVALID_REQUEST, _SERVER_ERROR = -32600, -32000
"""JSON-RPC 2.0, section 5.1; the SDKs of MCP answer for an unknown session with the former."""


class Opens(StrEnum):
    """Whether a request that is in no session yet may open one."""

    NO = "no"
    YES = "yes"
    BY_BODY = "by_body"
    """The start of its body decides (`AdoptingMatcher.body_opens`)."""
    FOR_EXCHANGE = "for_exchange"
    """Yes, and the session ends with the exchange: its client is told no id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """What a request's head says. The first of `session_ids` that is a live session of this client is the request's
    session. Without one, `opens` says whether a session may begin. If none may, ids that were named are refused."""

    session_ids: tuple[str, ...] = ()
    opens: Opens = Opens.NO


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A whole response, for where the app is not asked."""

    status: int
    headers: Headers
    body: bytes


class _Matcher(Protocol):
    """What both kinds say. `scope` is ASGI's; headers are pairs, and in requests their names are in lower case."""

    request_header: bytes
    """The request header that carries ids, in lower case."""

    def match(self, scope: Scope) -> Match:
        """Return what the head of a request says."""

    def towards_app(self, headers: Headers, session_id: str | None) -> Headers:
        """Return a request's headers with this id, and no other, under the matcher's name; with no id if it is None."""

    def refusal(self, error: SessionError) -> Answer:
        """Return the answer for a session that is unknown (`SessionNotFound`) or that cannot be had."""
        text = "try again later"
        if isinstance(error, SessionNotFound):
            text = "session not found" + (f": it ended ({error.reason})" if error.reason else "")
        return _answer(error, f"{text}\n".encode(), b"text/plain; charset=utf-8")


@runtime_checkable
class IssuingMatcher(_Matcher, Protocol):
    """For ids that the manager makes. The answer that opens a session tells its client the id."""

    renew_after: float | None = None
    """Seconds after which a client that is in its session is told the id again; None for never."""

    def announce(self, session_id: str, scope: Scope, headers: Headers) -> Headers:
        """Return the headers of an answer with the id of its session added."""


@runtime_checkable
class AdoptingMatcher(_Matcher, Protocol):
    """For ids that the app makes. The app's answer names the id of the session that it has opened."""

    def body_opens(self, start: bytes, complete: bool) -> bool | None:  # noqa: ARG002  # the usual answer
        """Return whether a request with such a body may open a session, None if `start` does not tell yet.

        Asked for `Opens.BY_BODY` alone. `start` has at most `MOST_LOOKED_AT` bytes; `complete` says that they are the
        whole body. A request that stays undecided may open if it names no id: then the answer decides. With an id that
        is unknown, it is refused, so that its client learns that its session has ended.
        """
        return True

    def id_in_answer(self, headers: Headers) -> str | None:
        """Return the id of the session that an answer names, whatever its status, or None."""

    def establishes(self, status: int) -> bool:
        """Return whether an answer of this status makes a session of the id that it names, if the request may open."""
        return status == HTTPStatus.SWITCHING_PROTOCOLS or 200 <= status < 300

    def ends(self, scope: Scope, status: int) -> bool:  # noqa: ARG002  # the usual answer
        """Return whether an answer to a request ends its session, which stands in `scope`."""
        return False

    def announce(self, session_id: str, scope: Scope, headers: Headers) -> Headers:  # noqa: ARG002  # the usual answer
        """Return the headers of the answer that has opened a session as its client gets them."""
        return headers

    def withhold(self, headers: Headers) -> Headers:
        """Return the headers of an answer without the id of a session that the client is not in."""


SessionMatcher = IssuingMatcher | AdoptingMatcher


class HeaderMatcher(IssuingMatcher):
    """Ids in a header of one's own, of requests and, when new, of answers. An unknown id is 404.

    Raises `ConfigError` for a name that no header can have.
    """

    def __init__(self, name: str = "x-session-id") -> None:
        if not set_cookie.is_token(name):
            raise ConfigError(f"the name of a header takes letters, digits and !#$%&'*+-.^_`|~, not {name!r}")
        self.name: Final = name.lower()
        self.request_header = self.name.encode("latin-1")

    def match(self, scope: Scope) -> Match:
        named = _ids_in(pairs_of(scope), self.request_header)
        return Match(session_ids=named) if named else Match(opens=Opens.YES)

    def announce(self, session_id: str, scope: Scope, headers: Headers) -> Headers:  # noqa: ARG002
        """Put the id in place of what the app says under that name."""
        return [(self.request_header, session_id.encode("latin-1")), *_without(headers, self.request_header)]

    def towards_app(self, headers: Headers, session_id: str | None) -> Headers:
        return _with_only(headers, self.request_header, session_id)


class CookieMatcher(IssuingMatcher):
    """Ids in a cookie, for the browser's session: HttpOnly, with SameSite, and never the client's own choice.

    An unknown or ended id is replaced by a new one. `max_age` is in seconds; a cookie in use is sent again after half
    of that. Without `max_age` the cookie lasts as long as the browser does. `secure` None means: Secure if the request
    came over TLS; behind a proxy that ends TLS, say True. A cookie that browsers take only with Secure always has it:
    one named `__Host-…`, `__Secure-…` or `__Http-…`, one with SameSite=None, and one that is `partitioned`.

    Raises `ConfigError` for what browsers would reject (RFC 6265bis, sections 4.1 and 5.7): `secure=False` for such a
    cookie, `__Host-` with a `domain` or another path than `/`, a `domain` that is an address, a name of more than 3840
    bytes, a path of more than 1024, and text that no cookie can carry. Raises it for values of a wrong type, too.
    """

    request_header = b"cookie"

    def __init__(
        self,
        name: str = "otel-session",
        *,
        secure: bool | None = None,
        same_site: str = "Lax",
        path: str = "/",
        domain: str | None = None,
        max_age: int | None = None,
        partitioned: bool = False,
    ) -> None:
        self.name: Final = name
        self._rest = set_cookie.attributes(
            name=name, same_site=same_site, path=path, domain=domain, max_age=max_age, partitioned=partitioned
        )
        self._secure = set_cookie.always_secure(name=name, same_site=same_site, partitioned=partitioned, secure=secure)
        self._name = name.encode("latin-1")
        self.renew_after = set_cookie.renewal(max_age)

    def match(self, scope: Scope) -> Match:
        found = [value.decode("latin-1") for value in cookies.values(pairs_of(scope), self._name)]
        return Match(session_ids=_each_once(found), opens=Opens.YES)

    def announce(self, session_id: str, scope: Scope, headers: Headers) -> Headers:
        secure = scope.get("scheme") in ("https", "wss") if self._secure is None else self._secure
        cookie = f"{self.name}={session_id}{self._rest}{'; Secure' if secure else ''}"
        others = [pair for pair in headers if not cookies.sets(pair, self._name)]
        return [*others, (b"set-cookie", cookie.encode("latin-1"))]

    def towards_app(self, headers: Headers, session_id: str | None) -> Headers:
        return cookies.only(headers, self._name, None if session_id is None else session_id.encode("latin-1"))


class McpMatcher(AdoptingMatcher):
    """The Streamable HTTP of MCP, in the revisions that have sessions.

    The app makes the id and names it in `Mcp-Session-Id` of its answer to `initialize`. Nothing but an `initialize`
    opens a session. If nothing tells whether a message is an `initialize`, the app's answer decides; but such a message
    with an unknown id is 404. A DELETE that the app accepts ends the session, and so does the app's own 404, on any
    path: an app that serves more than MCP overrides `ends`. Requests of revision 2026-07-28, which has no sessions,
    pass without any id.

    Requests of MCP's older HTTP+SSE transport pass as well. With `sse_path` a GET of that path is a session for as long
    as its stream lasts, so that the cap and the limits hold for these clients, too. Under a mount, paths begin behind
    the mount, as the mounted app's own routes do. A message of the older transport names its session in the query, and
    does not accept an event stream. A message that does accept one is Streamable HTTP, whatever its query says.

    Raises `ConfigError` for an `sse_path` that does not begin with `/`.
    """

    request_header = _MCP_ID

    def __init__(self, *, sse_path: str | None = None) -> None:
        if sse_path is not None and not str(sse_path).startswith("/"):
            raise ConfigError(f"sse_path takes a path that begins with /, not {sse_path!r}")
        self.sse_path: Final = sse_path

    def match(self, scope: Scope) -> Match:
        asked = [pair for pair in pairs_of(scope) if pair[0] in _ASKED]
        said = dict(reversed(asked))  # of several lines, the first
        revision = said.get(b"mcp-protocol-version", b"")
        if revision >= _FIRST_WITHOUT_SESSIONS and _REVISION.fullmatch(revision):
            return Match()
        named = _ids_in(asked, _MCP_ID)
        if scope.get("method") == "POST":
            opens = _opening_of_post(scope, said, asked)
            return Match(session_ids=named, opens=Opens.NO if named and opens is Opens.YES else opens)
        if not named and scope.get("method") == "GET" and path_of(scope) == self.sse_path:
            return Match(opens=Opens.FOR_EXCHANGE)
        return Match(session_ids=named)

    def body_opens(self, start: bytes, complete: bool) -> bool | None:
        return calls(start, "initialize", complete=complete)

    def id_in_answer(self, headers: Headers) -> str | None:
        found = [value.decode("latin-1") for name, value in headers if name.lower() == _MCP_ID]
        return found[0] if found and found[0] else None

    def ends(self, scope: Scope, status: int) -> bool:
        return status == HTTPStatus.NOT_FOUND or (scope.get("method") == "DELETE" and 200 <= status < 300)

    def announce(self, session_id: str, scope: Scope, headers: Headers) -> Headers:  # noqa: ARG002
        """Name the session's id once, whatever the app has named besides."""
        return [*_without(headers, _MCP_ID), (_MCP_ID, session_id.encode("latin-1"))]

    def withhold(self, headers: Headers) -> Headers:
        return _without(headers, _MCP_ID)

    def towards_app(self, headers: Headers, session_id: str | None) -> Headers:
        return _with_only(headers, _MCP_ID, session_id)

    def refusal(self, error: SessionError) -> Answer:
        """Answer in JSON-RPC; for a session that has ended, `data` says why, if that is still known."""
        said: dict[str, object] = {
            "code": _SERVER_ERROR,
            "message": "No session can be had at the moment; try again later",
        }
        if isinstance(error, SessionNotFound):
            said = {"code": _INVALID_REQUEST, "message": "Session not found"}
            said |= {"data": {"end_reason": error.reason}} if error.reason else {}
        body = {"jsonrpc": "2.0", "id": None, "error": said}
        return _answer(error, json.dumps(body, separators=(",", ":")).encode(), b"application/json")


def header(scope: Scope, name: bytes) -> str | None:
    """Return the first value of a request's header, None if the request has no such header."""
    for key, value in pairs_of(scope):
        if key == name:
            return value.decode("latin-1")
    return None


def headers_of(scope: Scope, name: bytes) -> list[str]:
    """Return every value of a request's header."""
    return [value.decode("latin-1") for key, value in pairs_of(scope) if key == name]


def path_of(scope: Scope) -> str:
    """Return a request's path as the app's own routes see it: without the mount (`root_path`), and at least `/`.

    Some servers leave the mount out of `path`; then the path is whole already.
    """
    path, mount = str(scope.get("path", "")), str(scope.get("root_path") or "").rstrip("/")
    if mount and (path == mount or path.startswith(mount + "/")):
        path = path[len(mount) :]
    return path or "/"


def pairs_of(scope: Scope) -> Headers:
    """Return a request's headers, names in lower case."""
    headers: Headers = scope["headers"]
    if not isinstance(headers, (list, tuple)):  # any iterable may stand there, and is read more than once
        headers = scope["headers"] = list(headers)
    return headers


def spelt(name: bytes) -> bytes:
    """Return a header's name as an app may read it: in lower case, and with a hyphen for each mark.

    CGI, and so WSGI, puts an underscore for a hyphen (RFC 3875, section 4.1.18). Some servers put one for every mark.
    """
    return name.translate(_SPELT)


def _ids_in(headers: Headers, name: bytes) -> tuple[str, ...]:
    """Return the ids in a request's header, each once, in the order of its lines."""
    found = [value.decode("latin-1") for key, value in headers if key == name and value]
    return _each_once(found)


def _each_once(found: list[str]) -> tuple[str, ...]:
    return tuple(found) if len(found) < 2 else tuple(dict.fromkeys(found))


def _opening_of_post(scope: Scope, said: Mapping[bytes, bytes], asked: Headers) -> Opens:
    """Return whether a POST may open a session of MCP: a coded body cannot be looked at, so its answer decides."""
    if not said.get(b"content-type", b"").lower().startswith(b"application/json"):
        return Opens.NO
    query = scope.get("query_string")
    if query and _OLD_TRANSPORT.search(query) and not _accepts_events(asked):
        return Opens.NO
    coded = said.get(b"content-encoding", b"identity").lower() not in (b"", b"identity")
    return Opens.YES if coded else Opens.BY_BODY


def _accepts_events(headers: Headers) -> bool:
    """Return whether a POST names event streams in `Accept`, as each of Streamable HTTP has to (MCP 2025-03-26)."""
    return any(b"text/event-stream" in value.lower() for name, value in headers if name == b"accept")


def _without(headers: Headers, name: bytes) -> list[tuple[bytes, bytes]]:
    return [pair for pair in headers if pair[0].lower() != name]


def _with_only(headers: Headers, name: bytes, session_id: str | None) -> Headers:
    """Return a request's headers with this one value of a header, or without that header if it is None.

    To some apps an underscore in a header's name is a hyphen, and so are other marks: all spellings go.
    """
    own = None if session_id is None else session_id.encode("latin-1")
    size, bare = len(name), spelt(name)
    there = [pair for pair in headers if len(pair[0]) == size and spelt(pair[0]) == bare]
    if there == ([] if own is None else [(name, own)]):
        return headers
    others = [pair for pair in headers if len(pair[0]) != size or spelt(pair[0]) != bare]
    return others if own is None else [*others, (name, own)]


def _answer(error: SessionError, body: bytes, kind: bytes) -> Answer:
    """Return 404 for an unknown session, else 503, with `Retry-After` (RFC 9110, 10.2.3) if the wait is known.

    A cache may keep a 404 (RFC 9110, 15.5.5), and give it to clients whose sessions are live: so there is `no-store`.
    """
    status = HTTPStatus.NOT_FOUND if isinstance(error, SessionNotFound) else HTTPStatus.SERVICE_UNAVAILABLE
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
    if isinstance(error, TooManySessions) and error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after))))
    return Answer(status=status, headers=headers, body=body)
