"""Who may come in: the first step of each request to the admin API.

A request passes with the right token, from a page of this host or from no page, for a host that is allowed. Nothing of
a refused request is read. `/livez` and `/readyz` are open, as Kubernetes needs them: its probes have no token, and
name the address of the pod as their host. The files of the page hold no data and need no token. They count with refused
requests, so that nobody without the token slows those who have it. Rates, bodies and requests under way are bounded.
"""

import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import anyio
from fastapi.responses import JSONResponse

from otel_sessions.asgi import ASGIApp, Message, Receive, Send
from otel_sessions.matchers import Scope

from ._page import PATHS
from ._problems import problem

MOST_BODY: Final = 16384
"""Bytes of a request's body."""
BODY_SECONDS: Final = 10.0
"""How long a body may take."""
MOST_AT_ONCE: Final = 16
"""Requests that may be under way together."""
_PER_SECOND: Final = 50.0
_BURST: Final = 100.0
"""Requests with the right token: so many a second, and so many at once after a pause. Refused tokens count apart."""
OPEN: Final = ("/livez", "/readyz")

_MISDIRECTED: Final = "the admin API is not served under this host; use an allowed host, or add it to the allowed hosts"
_FOREIGN: Final = "pages of other hosts may not use the admin API; send no Origin, or use a page of this host"
_NO_TOKEN: Final = "send the admin token: Authorization: Bearer TOKEN"  # noqa: S105  # this says how
_TOO_MANY: Final = "there are too many requests; send them more slowly"
_BUSY: Final = "too many requests are under way; wait until some are answered"
_TOO_LARGE: Final = f"the body has more than {MOST_BODY} bytes; no request needs as many"
_LATE: Final = "the body did not come in time; send the request again"


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """Who may come in. Without a token, everybody may who names an allowed host. Without hosts, every host will do."""

    token: str | None
    allowed_hosts: frozenset[str] | None

    def refusal(self, scope: Scope) -> JSONResponse | None:
        """Return why a request may not come in, or None. Reads the head of the request only."""
        if (refusal := self.refusal_of_host(scope)) is not None:
            return refusal
        if self.token is not None and not _is_right(_only(scope, b"authorization"), self.token):
            return problem(HTTPStatus.UNAUTHORIZED, _NO_TOKEN, {"www-authenticate": "Bearer"})
        return None

    def refusal_of_host(self, scope: Scope) -> JSONResponse | None:
        """Return what is wrong with the request's host or the host of its page, or None."""
        host = _only(scope, b"host")
        if self.allowed_hosts is not None and _name_of(host) not in self.allowed_hosts:
            return problem(HTTPStatus.MISDIRECTED_REQUEST, _MISDIRECTED)
        if _has(scope, b"origin") and not _is_same(_only(scope, b"origin"), host):
            return problem(HTTPStatus.FORBIDDEN, _FOREIGN)
        return None


class Rate:
    """So many a second, and so many at once after a pause."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left = _BURST
        self._at = clock()

    def allows(self) -> bool:
        """Take one, if one is left."""
        now = self._clock()
        self._left = min(_BURST, self._left + max(0.0, now - self._at) * _PER_SECOND)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Gate:
    """The middleware in front of the routes."""

    def __init__(self, app: ASGIApp, access: Access, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._access = access
        self._rate = Rate(clock)
        self._refused = Rate(clock)
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _path_of(scope) in OPEN:
            await self._app(scope, receive, send)
            return
        if _path_of(scope) in PATHS:
            await (self._refusal_of_page(scope) or self._app)(scope, receive, send)
            return
        if (refusal := self._refusal(scope)) is not None:
            await refusal(scope, receive, send)
            return
        self._under_way += 1
        try:
            body = await _body(receive)
            if isinstance(body, JSONResponse):
                await body(scope, receive, send)
            else:
                await self._app(scope, _again(body, receive), send)
        finally:
            self._under_way -= 1

    def _refusal_of_page(self, scope: Scope) -> JSONResponse | None:
        refusal = self._access.refusal_of_host(scope)
        return refusal if self._refused.allows() else _slow_down()

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        if (refusal := self._access.refusal(scope)) is not None:
            return refusal if self._refused.allows() else _slow_down()
        if not self._rate.allows():
            return _slow_down()
        if self._under_way >= MOST_AT_ONCE:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, _BUSY, {"retry-after": "1"})
        return None


def _slow_down() -> JSONResponse:
    return problem(HTTPStatus.TOO_MANY_REQUESTS, _TOO_MANY, {"retry-after": "1"})


async def _body(receive: Receive) -> bytes | JSONResponse:
    """Return a request's whole body, or the answer to a body that is too large or too late."""
    body = bytearray()
    with anyio.move_on_after(BODY_SECONDS):
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > MOST_BODY:
                return problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE, {"connection": "close"})
            if not message.get("more_body", False):
                return bytes(body)
    return problem(HTTPStatus.REQUEST_TIMEOUT, _LATE, {"connection": "close"})


def _again(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body, and then what `receive` gives."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        message: Message = {"type": "http.request", "body": body, "more_body": False}
        if given:
            message = await receive()
        given = True
        return message

    return receive_again


def _path_of(scope: Scope) -> str:
    """Return the path behind the mount of the app."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(root) if path.startswith(f"{root}/") else path


def _has(scope: Scope, name: bytes) -> bool:
    return any(key.lower() == name for key, _ in scope["headers"])


def _only(scope: Scope, name: bytes) -> str:
    """Return the value of a header that was sent exactly once, else an empty text."""
    values = [value for key, value in scope["headers"] if key.lower() == name]
    return str(values[0].decode("latin-1")) if len(values) == 1 else ""


def _name_of(host: str) -> str | None:
    """Return the name in a Host without its port, or None."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _is_same(origin: str, host: str) -> bool:
    """Return whether a page's origin is the host that the request is for."""
    scheme, _, authority = origin.partition("://")
    return scheme in ("http", "https") and authority != "" and authority.lower() == host.lower()


def _is_right(authorization: str, token: str) -> bool:
    """Compare in constant time, whatever the lengths are."""
    scheme, _, given = authorization.partition(" ")
    right = hmac.compare_digest(sha256(given.strip().encode()).digest(), sha256(token.encode()).digest())
    return right and scheme.lower() == "bearer"
