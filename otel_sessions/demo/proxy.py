"""The proxy: every request runs under a session's lease and is forwarded to the upstream over HTTP.

Each session holds a buffer, so that one that were never cleaned would show in the process's memory. An upstream that
breaks down fails its session. When the manager has shut down, its last reading goes to stdout as one line.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from mmap import mmap
from typing import Final

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from otel_sessions import ConfigError, Session, SessionConfig, SessionManager
from otel_sessions.asgi import SESSION, SessionLeaseMiddleware
from otel_sessions.proxy.otlp import exporting, require_exporters

from .connections import connections
from .limits import BUFFER_BYTES, demo_limits
from .reading import Reading
from .serving import complain, parser, serve

_Buffer = mmap | None


class Proxy:
    """The app, with its manager and its connections to the upstream."""

    def __init__(self, upstream: str, config: SessionConfig) -> None:
        self._manager = SessionManager[_Buffer](config, name="demo")
        self._upstream = connections(upstream, timeout=5.0)
        leased = Starlette(
            routes=[
                Route("/session", self._close, methods=["DELETE"]),
                Route("/{path:path}", self._forward, methods=["GET", "POST"]),
            ]
        )
        self.app: Final[Starlette] = Starlette(
            routes=[Route("/stats", self._stats), Mount("/", SessionLeaseMiddleware(leased, self._manager))],
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        with exporting("otel-sessions-demo"):
            async with self._upstream, self._manager:
                yield
            with suppress(BrokenPipeError):  # the parent is gone
                print(Reading.take(self._manager).to_json(), flush=True)

    async def _stats(self, _request: Request) -> Response:
        return Response(Reading.take(self._manager).to_json(), media_type="application/json")

    async def _close(self, request: Request) -> Response:
        closed = await self._manager.close_session(_session_of(request).id)
        return Response(status_code=204 if closed else 404)

    async def _forward(self, request: Request) -> Response:
        session = _session_of(request)
        if session.data is None:
            session.data = _buffer()
        url = httpx2.URL(path=request.url.path, query=request.url.query.encode())
        try:
            answer = await self._upstream.request(request.method, url, content=await request.body())
        except httpx2.HTTPError as error:
            session.fail(error)
            return Response("the upstream does not answer\n", 502)
        if answer.is_server_error:
            session.fail(f"the upstream answered {answer.status_code}")
            return Response("the upstream broke down\n", 502)
        return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))


def _session_of(request: Request) -> Session[_Buffer]:
    session: Session[_Buffer] = request.scope[SESSION]
    return session


def _buffer() -> mmap:
    """Return memory that is in use at once, and back with the system as soon as nothing refers to it any more."""
    buffer = mmap(-1, BUFFER_BYTES)
    buffer.write(b"\x01" * BUFFER_BYTES)
    return buffer


if __name__ == "__main__":
    arguments = parser("The demo's proxy; OTEL_SESSIONS_* sets its limits, OTEL_EXPORTER_OTLP_ENDPOINT its collector.")
    arguments.add_argument("--upstream", required=True, metavar="URL", help="where requests are forwarded to")
    arguments.add_argument("--clients", type=int, default=300, metavar="N", help="how many clients the cap is made for")
    options = arguments.parse_args()
    try:
        require_exporters()
        limits = demo_limits(options.clients)
    except ConfigError as error:
        complain(error)
    serve(Proxy(options.upstream, limits).app, options)
