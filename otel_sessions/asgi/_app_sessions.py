"""Ends the app's own session when the manager's session of the same id ends.

The app gets a DELETE through ASGI, as if the client had sent it. No HTTP client is needed. The address of a session is
the address of the request that opened the session. It is remembered until the session ends.
"""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import anyio

from otel_sessions._core.events import Event
from otel_sessions._core.session import Session
from otel_sessions._core.words import EndReason
from otel_sessions.matchers import Headers

from ._exchange import ASGIApp, Message, Receive, Send
from ._roles import SESSION

_ADDRESS: Final = (
    *("asgi", "http_version", "scheme", "server", "client", "path", "raw_path", "query_string", "root_path"),
    *("app_root_path", "app", "user", "auth"),
)
"""The keys of the opening request's scope that the DELETE repeats. `user` and `auth` come from Starlette's
authentication: the MCP SDK ends a session only for the user that opened the session."""

_TOLD: Final = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.GONE,
    HTTPStatus.NOT_IMPLEMENTED,
)
"""The answers, besides 2xx, that settle a DELETE: the session is gone, or the app ends no session on request (MCP
2025-11-25, Transports, Session Management; RFC 9110, section 15)."""

_logger = logging.getLogger("otel_sessions")


def is_told(status: int) -> bool:
    """Return whether an answer of this status settles the DELETE for a session."""
    return HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES or status in _TOLD


class EndInApp:
    """Wraps an MCP app that makes its own session ids, and ends the app's sessions when the manager's sessions end.

        ending = EndInApp(mcp_app)
        manager = SessionManager(on_close=ending.end)
        app = SessionLeaseMiddleware(ending, manager, McpMatcher(), on_stray=ending.end_stray)

    If `app` has authentication, `inside` is the app behind it, and gets the DELETE. The DELETE has the path, the Host
    and the user of the request that opened the session. `headers` are added to the DELETE, and may replace the Host. An
    app that requires `mcp-protocol-version` gets it this way. `header` is the name of the header that carries the id.

    The DELETE has the `state` of the app's lifespan. If no lifespan passes through this object, as under a mount, the
    DELETE has the `state` with which the opening request arrived, without what the app added to it.

    The latest `limit` sessions are remembered. A warning is logged once if there are more. `end` and
    `end_stray` free the memory of a session, so both must be in use. The app must run until the manager has shut down:
    see `lifespan` and `RunManager`.
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
        """By session id, oldest first. None if the client has ended the session in the app."""
        self._state: Any = None
        """The state of the app's lifespan, or None if no lifespan passed through this object."""
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
        """End a session in the app, unless the client has ended it there. For `SessionManager(on_close=...)`.

        Does nothing if the app has not announced the session: sessions of MCP's older transport, for example. Raises
        `RuntimeError` if the app refuses the DELETE, or if no request came through this object. Raises what the app
        raises.
        """
        if not self._serves:
            raise RuntimeError("no request came through EndInApp; serve the EndInApp instead of the app that it wraps")
        address = self._addresses.pop(session.id, None)
        if address is not None:
            await self._delete(session.id, address)

    async def end_stray(self, session_id: str, scope: Any) -> None:
        """End a session that the app has announced, but that the manager does not have. For `on_stray=`.

        `scope` is the request whose answer announced the session. Raises `RuntimeError` if the app refuses the DELETE.
        Raises what the app raises.
        """
        address = self._addresses.pop(session_id, None)
        await self._delete(session_id, self._address(scope) if address is None else address)

    def _note(self, scope: Any, address: dict[str, Any], start: Any) -> None:
        """Remember what an answer says: the app has made a session, or the client has ended a session."""
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
                _logger.warning(
                    "the app has more than %d open sessions; EndInApp cannot end the oldest ones: raise its limit",
                    self._limit,
                    extra=Event.APP_SESSIONS_UNTRACKED.extra,
                )

    async def _delete(self, session_id: str, address: dict[str, Any]) -> None:
        headers = [*address["headers"], (self._header, session_id.encode("latin-1"))]
        state = _state_in(address if self._state is None else {"state": self._state})
        asking = _Delete({**address, **state, "type": "http", "method": "DELETE", "headers": headers})
        status = await asking.go(self._app if self._inside is None else self._inside)
        if status is None:
            raise RuntimeError("the app did not answer the DELETE for a session")
        if not is_told(status):
            raise RuntimeError(f"the app answered {status} to the DELETE for a session")

    def _address(self, scope: Any) -> dict[str, Any]:
        """Return the part of a request's scope to which a DELETE for its session must go."""
        address = {key: scope[key] for key in _ADDRESS if key in scope}
        address |= {"scheme": str(scope["scheme"]).replace("ws", "http")} if "scheme" in scope else {}
        address |= _state_in(scope) if self._state is None else {}
        ours = {name for name, _ in self._headers}
        host = [(name, value) for name, value in scope["headers"] if name == b"host" and name not in ours]
        return {**address, SESSION: None, "headers": [*host, *self._headers]}

    def _ids(self, headers: Headers) -> list[str]:
        return [value.decode("latin-1") for name, value in headers if name.lower() == self._header and value]


def _state_in(scope: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a scope's state, as a server gives it to one request. Later additions are not in the copy."""
    return {"state": dict(scope["state"])} if scope.get("state") is not None else {}


class _Delete:
    """A request without a body, as an app sees it. `go` returns the status of the answer."""

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
        await self._over.wait()  # as a client that waits for the answer
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        elif not message.get("more_body", False):
            self._over.set()
