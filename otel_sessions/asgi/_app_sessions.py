"""Sessions that the app behind keeps are ended in the app when they end here.

The app is told by a DELETE that looks like one of the client's and arrives through ASGI: no HTTP client is needed.
Where a session lives is remembered from the answer that announced it, until the session ends.
"""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import anyio

from otel_sessions._core.session import Session
from otel_sessions._core.words import EndReason
from otel_sessions.matchers import Headers

from ._exchange import ASGIApp, Message, Receive, Send
from ._roles import SESSION

_ADDRESS: Final = (
    *("asgi", "http_version", "scheme", "server", "client", "path", "raw_path", "query_string", "root_path"),
    *("app_root_path", "app", "user", "auth"),
)
"""What of an opening request's scope the DELETE repeats. Starlette's authentication leaves `user` and `auth` there, and
the MCP SDK ends a session for the user only who opened it."""

_TOLD: Final = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.GONE,
    HTTPStatus.NOT_IMPLEMENTED,
)
"""Besides 2xx, the answers after which nothing is left to be done: the session is gone, or the app ends none on request
(MCP 2025-11-25, Transports, Session Management; RFC 9110, section 15)."""

_logger = logging.getLogger("otel_sessions")


def is_told(status: int) -> bool:
    """Return whether an answer of this status to the end of a session leaves nothing to be done."""
    return HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES or status in _TOLD


class EndInApp:
    """Wraps an MCP app that makes its own session ids, and ends the app's sessions when ours end.

        ending = EndInApp(mcp_app)
        manager = SessionManager(on_close=ending.end)
        app = SessionLeaseMiddleware(ending, manager, McpMatcher(), on_stray=ending.end_stray)

    `inside` is the app behind the authentication of `app`, if it has one: it gets the DELETE, with the path, the Host
    and the user of the request that opened the session. `headers` are added, or replace the Host; an app that insists
    on `mcp-protocol-version` gets it so. `header` names the header that carries the id.

    The DELETE has the `state` of the app's lifespan. Where no lifespan comes by, as under a mount, it has the `state`
    with which the opening request arrived. What the app adds to the state of a request is not kept.

    At most `limit` sessions are remembered, the youngest; a warning says when that is too few. `end` and `end_stray`
    give the memory back, so both must be called. The app must run until the manager has shut down: see `lifespan` and
    `RunManager`.
    """

    def __init__(
        self,
        app: ASGIApp,
        inside: ASGIApp | None = None,
        *,
        headers: Headers = (),
        header: str = "mcp-session-id",
        limit: int = 100_000,
    ) -> None:
        self._app = app
        self._inside = inside
        self._headers = [(name.lower(), value) for name, value in headers]
        self._header = header.lower().encode("latin-1")
        self._limit = limit
        self._addresses: dict[str, dict[str, Any] | None] = {}
        """By session id, oldest first; None where the client has ended the session by itself."""
        self._state: Any = None
        """What the app's lifespan leaves for its requests; None where no lifespan came by."""
        self._serves = False
        self._is_full = False

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                self._state = scope.get("state")
            await self._app(scope, receive, send)
            return
        self._serves = True
        address = self._address(scope)

        async def note(message: Any) -> None:
            if message["type"] == "http.response.start":
                self._note(scope, address, message)
            await send(message)

        await self._app(scope, receive, note)

    async def end(self, session: Session[Any], reason: EndReason) -> None:  # noqa: ARG002  # a close hook's signature
        """End a session in the app, unless its client has; a manager's close hook.

        Does nothing for a session that the app has not announced, as the sessions of MCP's older transport. Raises
        `RuntimeError` if the app refuses, and if the app is served past this object; and what the app raises.
        """
        if not self._serves:
            raise RuntimeError("no request came through EndInApp; put the EndInApp in place of the app that it wraps")
        address = self._addresses.pop(session.id, None)
        if address is not None:
            await self._delete(session.id, address)

    async def end_stray(self, session_id: str, scope: Any) -> None:
        """End a session that the app announced in its answer to `scope`, and that could become no session here.

        Raises `RuntimeError` if the app refuses, and what the app raises.
        """
        address = self._addresses.pop(session_id, None)
        await self._delete(session_id, self._address(scope) if address is None else address)

    def _note(self, scope: Any, address: dict[str, Any], start: Any) -> None:
        """Remember what an answer says of sessions: the app has made one, or the client has ended one."""
        named = self._ids(scope["headers"])
        for session_id in self._ids(start.get("headers", ()))[:1]:
            if session_id not in named:
                self._remember(
                    session_id, address if self._inside is None else {**self._address(scope), **_state_in(address)}
                )
        if scope["method"] == "DELETE" and HTTPStatus.OK <= start["status"] < HTTPStatus.MULTIPLE_CHOICES:
            for session_id in named:
                known = self._addresses.get(session_id)
                if known is not None and known["path"] == address["path"]:
                    self._addresses[session_id] = None

    def _remember(self, session_id: str, address: dict[str, Any]) -> None:
        self._addresses.pop(session_id, None)
        self._addresses[session_id] = address
        if len(self._addresses) > self._limit:
            del self._addresses[next(iter(self._addresses))]
            if not self._is_full:
                self._is_full = True
                _logger.warning("more than %d sessions of the app are open; the oldest stay in the app", self._limit)

    async def _delete(self, session_id: str, address: dict[str, Any]) -> None:
        headers = [*address["headers"], (self._header, session_id.encode("latin-1"))]
        state = _state_in(address if self._state is None else {"state": self._state})
        asking = _Delete({**address, **state, "type": "http", "method": "DELETE", "headers": headers})
        status = await asking.go(self._app if self._inside is None else self._inside)
        if status is None:
            raise RuntimeError("the app did not answer to the end of a session")
        if not is_told(status):
            raise RuntimeError(f"the app answered {status} to the end of a session")

    def _address(self, scope: Any) -> dict[str, Any]:
        """Return the part of a request's scope that says where its session lives."""
        address = {key: scope[key] for key in _ADDRESS if key in scope}
        address |= {"scheme": str(scope["scheme"]).replace("ws", "http")} if "scheme" in scope else {}
        address |= _state_in(scope) if self._state is None else {}
        ours = {name for name, _ in self._headers}
        host = [(name, value) for name, value in scope["headers"] if name == b"host" and name not in ours]
        return {**address, SESSION: None, "headers": [*host, *self._headers]}

    def _ids(self, headers: Headers) -> list[str]:
        return [value.decode("latin-1") for name, value in headers if name.lower() == self._header and value]


def _state_in(scope: Mapping[str, Any]) -> dict[str, Any]:
    """Return a scope's state as a server gives it to one request: a copy, which keeps nothing that is added later."""
    return {"state": dict(scope["state"])} if scope.get("state") is not None else {}


class _Delete:
    """A request without a body, as an app sees it, and the status of its answer."""

    def __init__(self, scope: dict[str, Any]) -> None:
        self._scope = scope
        self._asked = False
        self._over = anyio.Event()
        self._status: int | None = None

    async def go(self, app: ASGIApp) -> int | None:
        await app(self._scope, self._receive, self._send)
        return self._status

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._over.wait()  # a client that waits for its answer
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        elif not message.get("more_body", False):
            self._over.set()
