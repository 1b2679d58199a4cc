"""The middleware around apps of others: FastAPI's, the MCP SDK's own, and Starlette's sessions beside ours."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import httpx2
import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.responses import StreamingResponse
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import MCPServer
from sse_starlette.sse import AppStatus
from starlette.middleware.sessions import SessionMiddleware

from otel_sessions import EndReason, Session, SessionConfig, SessionManager
from otel_sessions.asgi import SESSION, SessionLeaseMiddleware
from otel_sessions.matchers import CookieMatcher, McpMatcher
from tests.waiting import PATIENCE

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # FastAPI's and the SDK's own


@pytest.fixture(autouse=True)
def no_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the SDK's streams go on: they end where any server of uvicorn in this process was told to exit before."""
    monkeypatch.setattr(AppStatus, "should_exit", False)


def fastapi_app(manager: SessionManager[dict[str, int]]) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with manager:
            yield

    app = FastAPI(lifespan=lifespan)

    def session_of(request: Request) -> Session[dict[str, int]]:
        session: Session[dict[str, int]] = request.scope[SESSION]
        return session

    @app.get("/count")
    async def count(request: Request, session: Annotated[Any, Depends(session_of)]) -> dict[str, int]:
        session.data["visits"] = session.data.get("visits", 0) + 1
        request.session["theirs"] = request.session.get("theirs", 0) + 1
        return {"ours": session.data["visits"], "theirs": request.session["theirs"]}

    @app.post("/logout")
    async def logout(session: Annotated[Any, Depends(session_of)]) -> bool:
        return await manager.close_session(session.id)

    @app.get("/leased")
    async def leased() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"%d " % manager.get_metrics().leased
            await anyio.lowlevel.checkpoint()
            yield b"%d" % manager.get_metrics().leased

        return StreamingResponse(body())

    app.add_middleware(SessionMiddleware, secret_key="of starlette", session_cookie="theirs")
    return app


async def test_a_fastapi_app_has_our_sessions_beside_starlettes() -> None:
    manager = SessionManager[dict[str, int]](SessionConfig(max_sessions=2))
    app = fastapi_app(manager)
    transport = httpx2.ASGITransport(SessionLeaseMiddleware(app, manager, CookieMatcher(), data=lambda _: {}))
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://here") as ada,
        httpx2.AsyncClient(transport=transport, base_url="http://here") as eve,
        httpx2.AsyncClient(transport=transport, base_url="http://here") as third,
    ):
        counts = [(await client.get("/count")).json() for client in (ada, ada, eve)]
        streamed = (await ada.get("/leased")).text
        refused = await third.get("/count")
        left = (await ada.post("/logout")).json()
        anew = (await ada.get("/count")).json()

        assert counts == [{"ours": 1, "theirs": 1}, {"ours": 2, "theirs": 2}, {"ours": 1, "theirs": 1}]
        assert streamed == "1 1"
        assert refused.status_code == 503
        assert left is True
        assert anew == {"ours": 1, "theirs": 3}
        assert manager.get_metrics().cleaned_by_reason[EndReason.CLOSED] == 1


async def test_the_sdks_own_app_has_its_sessions_counted() -> None:
    server = MCPServer("embedded")

    @server.tool()
    def add(a: int, b: int) -> int:
        return a + b

    app = server.streamable_http_app()
    async with SessionManager[None]() as manager, server.session_manager.run():
        transport = httpx2.ASGITransport(SessionLeaseMiddleware(app, manager, McpMatcher()))
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as http:
            connection = streamable_http_client("http://127.0.0.1:8000/mcp", http_client=http)
            async with Client(connection, mode="legacy") as client:
                total = (await client.call_tool("add", {"a": 2, "b": 3})).content[0]

                assert getattr(total, "text", "") == "5"
                assert len(manager) == 1
        with anyio.fail_after(PATIENCE):  # the SDK's own stream may still be leaving the session
            while not manager.get_metrics().total_cleaned:  # noqa: ASYNC110  # no event tells a test
                await anyio.sleep(0.01)
        assert manager.get_metrics().cleaned_by_reason[EndReason.CLOSED] == 1
