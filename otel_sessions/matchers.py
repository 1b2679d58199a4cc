"""Which session an HTTP or WebSocket exchange belongs to, and how its id travels.

A matcher reads a request and changes the headers of the answer. A matcher has no state and knows no manager. There are
two kinds: an `IssuingMatcher` for ids that the manager makes, and an `AdoptingMatcher` for ids that the app makes. Your
own matcher subclasses one of them, and inherits the usual behaviour of the methods that it does not define.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Final, NamedTuple, Protocol, runtime_checkable

from ._core import exceptions
from ._core.exceptions import ConfigError, SessionError, SessionNotFound, TooManySessions
from ._http import cookies, set_cookie
from ._http.headers import Headers as Headers
from ._http.headers import Scope as Scope
from ._http.headers import header as header
from ._http.headers import headers_of as headers_of
from ._http.headers import pairs_of as pairs_of
from ._http.headers import path_of as path_of
from ._http.headers import spelt as spelt
from ._http.json_rpc import calls

MOST_LOOKED_AT: Final = 8192
"""The largest part of a request's body, in bytes, that a matcher may ask for."""
_FIRST_WITHOUT_SESSIONS: Final = b"2026-07-28"
"""The first revision of MCP in which a session id must be ignored."""
_REVISION: Final = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_OLD_TRANSPORT: Final = re.compile(rb"(^|&)session_?id=", re.IGNORECASE)
"""Messages of MCP's HTTP+SSE transport (revision 2024-11-05) name their session in the query."""
_MCP_ID: Final = b"mcp-session-id"
_MCP_ID_SIZE: Final = len(_MCP_ID)
_ASKED: Final = frozenset({b"mcp-protocol-version", b"content-type", b"content-encoding"})
_INVALID_REQUEST, _SERVER_ERROR = -32600, -32000
"""JSON-RPC 2.0, section 5.1. The SDKs of MCP answer -32600 for an unknown session."""


class Opens(StrEnum):
    """Whether a request that is in no session yet may open one."""

    NO = "no"
    YES = "yes"
    BY_BODY = "by_body"
    """The start of the request's body decides (`AdoptingMatcher.body_opens`)."""
    FOR_EXCHANGE = "for_exchange"
    """Yes, and the session ends with the exchange. Its client gets no id."""


# On Python 3.11, a member of an enum costs as much as a call.
_NO, _YES, _BY_BODY = Opens.NO, Opens.YES, Opens.BY_BODY
_WITH_RETRY_AFTER: Final = (TooManySessions, exceptions.PeerUnavailable, exceptions.StoreUnavailable)
_NOT_FOUND: Final = int(HTTPStatus.NOT_FOUND)


class Match(NamedTuple):
    """What the head of a request says about its session. Made by keywords.

    The request is in the first of `session_ids` that names a live session of this client. If no id does, `opens` says
    whether the request may open a session. If it may not, a request that names an id is refused.
    """

    session_ids: tuple[str, ...] = ()
    opens: Opens = _NO


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A whole response, for a request that does not reach the app."""

    status: int
    headers: Headers
    body: bytes


class _Matcher(Protocol):
    """What both kinds of matcher do. `scope` is an ASGI scope. The names of a request's headers are in lower case."""

    request_header: bytes
    """The request header that carries ids, in lower case."""

    def match(self, scope: Scope) -> Match:
        """Return what the head of a request says about its session."""

    def towards_app(self, headers: Headers, session_id: str | None) -> Headers:
        """Return a request's headers with exactly this id under the matcher's name, or with no id for None."""

    def refusal(self, error: SessionError) -> Answer:
        """Return the answer for an unknown session (`SessionNotFound`), or for a session that cannot be opened now."""
        text = "no session can be opened now; try again later"
        if isinstance(error, SessionNotFound):
            text = "session not found" + (f": it ended ({error.reason})" if error.reason else "")
        return _answer(error, f"{text}\n".encode(), b"text/plain; charset=utf-8")


@runtime_checkable
class IssuingMatcher(_Matcher, Protocol):
    """For ids that the manager makes. The answer that opens a session announces the id to the client."""

    renew_after: float | None = None
    """Seconds after which an answer in the session announces the id again. None means never."""

    def announce(self, session_id: str, scope: Scope, headers: Headers) -> Headers:
        """Return the headers of an answer, with the id of the session added."""


@runtime_checkable
class AdoptingMatcher(_Matcher, Protocol):
    """For ids that the app makes. The app's answer names the id of the session that it has opened."""

    hint: bool = False
    """Whether ids get a hint on their way to the client, for a manager with a fleet. `announce` must write them."""

    def body_opens(self, start: bytes, complete: bool) -> bool | None:  # noqa: ARG002  # the usual answer
        """Return whether a request with this body may open a session, or None if `start` does not tell yet.

        Called only for `Opens.BY_BODY`. `start` has at most `MOST_LOOKED_AT` bytes. `complete` is True if `start` is
        the whole body. If the result stays None, a request without an id may open a session, and the answer decides. A
        request with an unknown id is then refused, so that its client learns that the session has ended.
        """
        return True

    def id_in_answer(self, headers: Headers) -> str | None:
        """Return the id of the session that an answer names, for any status, or None."""

    def establishes(self, status: int) -> bool:
        """Return whether an answer of this status opens a session under the id that it names. Usually 101 and 2xx."""
        return status == HTTPStatus.SWITCHING_PROTOCOLS or 200 <= status < 300

    def ends(self, scope: Scope, status: int) -> bool:  # noqa: ARG002  # the usual answer
        """Return whether an answer of this status ends the session of the request. Usually no answer does."""
        return False

    def announce(self, session_id: str, scope: Scope, headers: Headers) -> Headers:  # noqa: ARG002  # the usual answer
        """Return the headers of the answer that has opened a session, as the client gets them."""
        return headers

    def withhold(self, headers: Headers) -> Headers:
        """Return the headers of an answer without the session id that the app names."""


SessionMatcher = IssuingMatcher | AdoptingMatcher


class HeaderMatcher(IssuingMatcher):
    """Ids in a header of requests; the answer that opens a session has the same header. An unknown id is 404.

    Raises `ConfigError` if no header can have this name.
    """

    def __init__(self, name: str = "x-session-id") -> None:
        if not set_cookie.is_token(name):
            raise ConfigError(f"the name of a header takes letters, digits and !#$%&'*+-.^_`|~, not {name!r}")
        self.name: Final = name.lower()
        self.request_header = self.name.encode("latin-1")

    def match(self, scope: Scope) -> Match:
        name = self.request_header
        named = _each_once([value.decode("latin-1") for key, value in pairs_of(scope) if key == name and value])
        return Match(named, _NO) if named else Match((), _YES)  # keywords would cost as much as all the rest

    def announce(self, session_id: str, scope: Scope, headers: Headers) -> Headers:  # noqa: ARG002
        """Replace the app's values of the header by the id."""
        return [(self.request_header, session_id.encode("latin-1")), *_without(headers, self.request_header)]

    def towards_app(self, headers: Headers, session_id: str | None) -> Headers:
        return _with_only(headers, self.request_header, session_id)


class CookieMatcher(IssuingMatcher):
    """Ids in a cookie for browsers: HttpOnly, with SameSite, and never chosen by the client.

    An unknown or ended id is replaced by a new id. `max_age` is in seconds. A cookie in use is sent again after half of
    this time. Without `max_age`, the cookie lasts until the browser is closed. With `secure=None`, the cookie is Secure
    if the request came over TLS; behind a proxy that ends TLS, use True. Some cookies are always Secure, since browsers
    reject them otherwise: names that begin with `__Host-`, `__Secure-` or `__Http-`, SameSite=None, and `partitioned`.

    Raises `ConfigError` for a cookie that browsers would reject (RFC 6265bis, sections 4.1 and 5.7). These are:
    `secure=False` for a cookie that must be Secure, `__Host-` with a `domain` or another path than `/`, a `domain` that
    is an address, a name of more than 3840 bytes, a path of more than 1024 bytes, and text that no cookie can carry.
    Raises `ConfigError` for values of a wrong type, too.
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
        return Match(_each_once(found), _YES)

    def announce(self, session_id: str, scope: Scope, headers: Headers) -> Headers:
        secure = scope.get("scheme") in ("https", "wss") if self._secure is None else self._secure
        cookie = f"{self.name}={session_id}{self._rest}{'; Secure' if secure else ''}"
        others = [pair for pair in headers if not cookies.sets(pair, self._name)]
        return [*others, (b"set-cookie", cookie.encode("latin-1"))]

    def towards_app(self, headers: Headers, session_id: str | None) -> Headers:
        return cookies.only(headers, self._name, None if session_id is None else session_id.encode("latin-1"))


class McpMatcher(AdoptingMatcher):
    """MCP's Streamable HTTP transport, in the revisions that have sessions.

    The app makes the id, and its answer to `initialize` names the id in `Mcp-Session-Id`. Only an `initialize` opens a
    session. If the start of a message does not tell its method, the app's answer decides; but such a message with an
    unknown id is 404. A DELETE that the app accepts ends the session, and so does a 404 of the app, on any path. If the
    app serves more than MCP, override `ends`. Requests of revision 2026-07-28, which has no sessions, pass without an
    id.

    Requests of MCP's older HTTP+SSE transport pass, too. With `sse_path`, a GET of this path is a session as long as
    its stream lasts, so the cap and the limits hold for these clients, too. Under a mount, the path begins after the
    mount, as the routes of the mounted app do. A message of the older transport names its session in the query, and
    does not accept an event stream. A message that accepts an event stream is Streamable HTTP, whatever its query says.

    With `hint` and a manager with a `fleet`, clients get the app's id with the name of this process in front, as `w1.`.
    The app sees its own id. An id without its hint works only in the process that has its session.

    Raises `ConfigError` if `sse_path` does not begin with `/`.
    """

    request_header = _MCP_ID

    def __init__(self, *, sse_path: str | None = None, hint: bool = False) -> None:
        if sse_path is not None and not str(sse_path).startswith("/"):
            raise ConfigError(f"sse_path takes a path that begins with /, not {sse_path!r}")
        self.sse_path: Final = sse_path
        self.hint = hint

    def match(self, scope: Scope) -> Match:
        said, ids = _said(pairs_of(scope))
        revision = said.get(b"mcp-protocol-version", b"")
        if revision >= _FIRST_WITHOUT_SESSIONS and _REVISION.fullmatch(revision):
            return Match()
        named = _each_once(ids)
        if scope.get("method") == "POST":
            opens = _opening_of_post(scope, said)
            return Match(named, _NO if named and opens is _YES else opens)
        if not named and scope.get("method") == "GET" and path_of(scope) == self.sse_path:
            return Match(opens=Opens.FOR_EXCHANGE)
        return Match(named, _NO)

    def body_opens(self, start: bytes, complete: bool) -> bool | None:
        return calls(start, "initialize", complete=complete)

    def id_in_answer(self, headers: Headers) -> str | None:
        for name, value in headers:
            if len(name) == _MCP_ID_SIZE and name.lower() == _MCP_ID:
                return value.decode("latin-1") or None
        return None

    def ends(self, scope: Scope, status: int) -> bool:
        return status == _NOT_FOUND or (scope.get("method") == "DELETE" and 200 <= status < 300)

    def announce(self, session_id: str, scope: Scope, headers: Headers) -> Headers:  # noqa: ARG002
        """Name the session's id exactly once, even if the app has named several ids."""
        return [*_without(headers, _MCP_ID), (_MCP_ID, session_id.encode("latin-1"))]

    def withhold(self, headers: Headers) -> Headers:
        return _without(headers, _MCP_ID)

    def towards_app(self, headers: Headers, session_id: str | None) -> Headers:
        return _with_only(headers, _MCP_ID, session_id)

    def refusal(self, error: SessionError) -> Answer:
        """Return an answer in JSON-RPC. For an ended session, `data` has the end reason if it is still known."""
        said: dict[str, object] = {
            "code": _SERVER_ERROR,
            "message": "No session can be opened now; try again later",
        }
        if isinstance(error, SessionNotFound):
            said = {"code": _INVALID_REQUEST, "message": "Session not found"}
            said |= {"data": {"end_reason": error.reason}} if error.reason else {}
        body = {"jsonrpc": "2.0", "id": None, "error": said}
        return _answer(error, json.dumps(body, separators=(",", ":")).encode(), b"application/json")


def _each_once(found: list[str]) -> tuple[str, ...]:
    return tuple(found) if len(found) < 2 else tuple(dict.fromkeys(found))


def _said(headers: Headers) -> tuple[dict[bytes, bytes], list[str]]:
    """Return the first value of each header that MCP's matcher asks for, and all ids, in one look at the headers."""
    said: dict[bytes, bytes] = {}
    ids: list[str] = []
    for name, value in headers:
        if name in _ASKED:
            said.setdefault(name, value)
        elif name == _MCP_ID and value:
            ids.append(value.decode("latin-1"))
    return said, ids


def _opening_of_post(scope: Scope, said: Mapping[bytes, bytes]) -> Opens:
    """Return whether a POST may open a session of MCP. A coded body cannot be read, so the answer decides."""
    if not said.get(b"content-type", b"").lower().startswith(b"application/json"):
        return _NO
    query = scope.get("query_string")
    if query and _OLD_TRANSPORT.search(query) and not _accepts_events(pairs_of(scope)):
        return _NO
    coded = said.get(b"content-encoding", b"identity").lower() not in (b"", b"identity")
    return _YES if coded else _BY_BODY


def _accepts_events(headers: Headers) -> bool:
    """Return whether `Accept` names event streams. Each POST of Streamable HTTP has to (MCP 2025-03-26)."""
    return any(b"text/event-stream" in value.lower() for name, value in headers if name == b"accept")


def _without(headers: Headers, name: bytes) -> list[tuple[bytes, bytes]]:
    return [pair for pair in headers if pair[0].lower() != name]


def _with_only(headers: Headers, name: bytes, session_id: str | None) -> Headers:
    """Return a request's headers with exactly this value of a header, or without the header if the value is None.

    All spellings of its name are removed, since some apps read an underscore or another mark as a hyphen.
    """
    size, own = len(name), [] if session_id is None else [(name, session_id.encode("latin-1"))]
    there = [pair for pair in headers if len(pair[0]) == size]
    if len(there) != 1 or there[0][0] != name:  # else the only name of this length is the name itself
        there = [pair for pair in there if spelt(pair[0]) == spelt(name)]
    if there == own:
        return headers
    if own and len(there) == 1 and there[0][0] == name:  # then the names keep their order
        others = list(headers)
        others[others.index(there[0])] = own[0]
        return others
    return [*(pair for pair in headers if len(pair[0]) != size or spelt(pair[0]) != spelt(name)), *own]


def _answer(error: SessionError, body: bytes, kind: bytes) -> Answer:
    """Return 404 for an unknown session, else 503, with `Retry-After` (RFC 9110, 10.2.3) if the wait is known.

    The answer has `no-store`: a cache may keep a 404 (RFC 9110, 15.5.5) and give it to clients with live sessions.
    """
    status = HTTPStatus.NOT_FOUND if isinstance(error, SessionNotFound) else HTTPStatus.SERVICE_UNAVAILABLE
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
    if isinstance(error, _WITH_RETRY_AFTER) and error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after))))
    return Answer(status=status, headers=headers, body=body)
