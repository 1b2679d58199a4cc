"""What type checkers say of the ASGI parts inside frameworks. Nothing runs this file.

`make check` reads it with mypy, and tests/docs/test_types.py with pyright too.
"""
# ruff: noqa: ARG005  # as people write it

from typing import Any, assert_type

import asgiref.typing
import litestar
import litestar.types
import starlette.types
import uvicorn
from fastapi import FastAPI
from fastapi import Request as FastRequest
from fastmcp import FastMCP
from litestar import Litestar
from litestar.middleware import DefineMiddleware
from mcp.server.mcpserver import MCPServer
from quart import Quart, request, websocket
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.routing import Mount
from starlette.websockets import WebSocket

from otel_sessions import Session, SessionManager
from otel_sessions.asgi import (
    ASGIApp,
    EndInApp,
    Receive,
    RunManager,
    Scope,
    Send,
    SessionLeaseMiddleware,
    lifespan,
    session_of,
)
from otel_sessions.matchers import CookieMatcher, McpMatcher


class Basket:
    pass


manager = SessionManager[Basket]()


def make(scope: Scope) -> Basket:
    return Basket()


def make_for_starlette(scope: starlette.types.Scope) -> Basket:
    return Basket()


async def by_hand(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": (await receive())["type"]})


async def by_starlette(
    scope: starlette.types.Scope, receive: starlette.types.Receive, send: starlette.types.Send
) -> None:
    await send(await receive())


async def by_asgiref(
    scope: asgiref.typing.Scope, receive: asgiref.typing.ASGIReceiveCallable, send: asgiref.typing.ASGISendCallable
) -> None:
    await receive()


def the_middleware_is_added_to_frameworks() -> None:
    app = Starlette(
        middleware=[
            Middleware(SessionLeaseMiddleware, manager=SessionManager[Basket](), data=lambda scope: Basket()),
            Middleware(SessionLeaseMiddleware, manager=SessionManager(), matcher=CookieMatcher()),
            Middleware(SessionLeaseMiddleware, manager, McpMatcher(), data=make),
        ]
    )
    app.add_middleware(SessionLeaseMiddleware, manager=manager, data=lambda scope: Basket())
    app.add_middleware(SessionLeaseMiddleware, manager=manager, matcher=CookieMatcher(), data=make, skip=["/healthz"])
    api = FastAPI(middleware=[Middleware(SessionLeaseMiddleware, manager=manager, data=lambda scope: Basket())])
    api.add_middleware(SessionLeaseMiddleware, manager=manager, data=make_for_starlette, private=True)
    Litestar(middleware=[DefineMiddleware(SessionLeaseMiddleware, manager=manager, data=lambda scope: Basket())])
    quart = Quart(__name__)
    quart.asgi_app = SessionLeaseMiddleware(quart.asgi_app, manager, data=make)  # type: ignore[method-assign]
    quart.asgi_app = RunManager(quart.asgi_app, manager)  # type: ignore[method-assign]


def the_middleware_wraps_every_app() -> None:
    apps: list[ASGIApp] = [Starlette(), FastAPI(), Litestar(), Quart(__name__), by_hand, by_starlette, by_asgiref]
    for app in apps:
        SessionLeaseMiddleware(app, manager, client=lambda scope: scope["client"][0], data=make)
    SessionLeaseMiddleware(Starlette(), manager)
    SessionLeaseMiddleware(FastAPI(), manager)
    SessionLeaseMiddleware(Litestar(), manager)
    SessionLeaseMiddleware(Quart(__name__), manager)
    SessionLeaseMiddleware(by_asgiref, manager)
    RunManager(Litestar(), manager)
    RunManager(Quart(__name__), manager)
    EndInApp(Litestar(), by_starlette)


def what_wraps_an_app_is_an_app_for_all() -> None:
    leased = SessionLeaseMiddleware(by_hand, manager)
    ours: ASGIApp = RunManager(leased, manager)
    for_starlette: starlette.types.ASGIApp = RunManager(leased, manager)
    for_asgiref: asgiref.typing.ASGIApplication = leased
    for_litestar: litestar.types.ASGIApp = leased
    uvicorn.run(leased)
    uvicorn.run(ours)
    uvicorn.run(for_asgiref)
    Starlette(routes=[Mount("/a", leased), Mount("/b", ours), Mount("/c", for_starlette)])
    SessionLeaseMiddleware(for_litestar, manager)


def lifespans_fit_frameworks() -> None:
    fast = FastMCP("notes").http_app()
    sdk = MCPServer("notes").streamable_http_app()
    Starlette(lifespan=lifespan(manager))
    Starlette(lifespan=lifespan(manager, sdk.router.lifespan_context))
    FastAPI(lifespan=lifespan(manager))
    FastAPI(lifespan=lifespan(manager, then=fast.lifespan))
    Litestar(lifespan=[lifespan(manager)])


def hooks_fit_a_manager() -> None:
    ending = EndInApp(by_hand)
    SessionManager(on_close=ending.end)
    typed: SessionManager[Basket] = SessionManager(on_close=ending.end)
    SessionLeaseMiddleware(ending, typed, McpMatcher(), data=make, on_stray=ending.end_stray)


def sessions_of_requests_are_typed(
    plain: Request,
    fast: FastRequest,
    socket: WebSocket,
    connection: HTTPConnection,
    of_litestar: litestar.Request[Any, Any, Any],
    socket_of_litestar: litestar.WebSocket[Any, Any, Any],
    scope_of_litestar: litestar.types.Scope,
    scope_of_asgiref: asgiref.typing.Scope,
    scope: Scope,
) -> None:
    assert_type(session_of(plain), Session[Any] | None)
    assert_type(session_of(plain, Basket), Session[Basket] | None)
    session: Session[Basket] | None = session_of(plain.scope)
    assert_type(session_of(fast, Basket), Session[Basket] | None)
    assert_type(session_of(socket, Basket), Session[Basket] | None)
    assert_type(session_of(connection, Basket), Session[Basket] | None)
    assert_type(session_of(of_litestar, Basket), Session[Basket] | None)
    assert_type(session_of(of_litestar.scope, Basket), Session[Basket] | None)
    assert_type(session_of(socket_of_litestar, Basket), Session[Basket] | None)
    assert_type(session_of(scope_of_litestar, Basket), Session[Basket] | None)
    assert_type(session_of(scope_of_asgiref, Basket), Session[Basket] | None)
    assert_type(session_of(scope, Basket), Session[Basket] | None)
    assert_type(session_of(request, Basket), Session[Basket] | None)
    assert_type(session_of(request.scope, Basket), Session[Basket] | None)
    assert_type(session_of(websocket, Basket), Session[Basket] | None)
    assert session is not None
