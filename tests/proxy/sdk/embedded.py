"""An MCP server of the SDK's, of whichever major version is installed, in one process with a manager.

Four rounds of five clients each call `initialize`, are never seen again, and expire. Prints how many sessions the
manager and the SDK hold then: `embedded.py`, or `embedded.py bare` for a manager that does not tell the SDK.
"""

import json
import sys

import anyio
import httpx2
from server import server

from otel_sessions import SessionConfig, SessionManager
from otel_sessions.asgi import EndInApp, SessionLeaseMiddleware, lifespan
from otel_sessions.matchers import McpMatcher

ABOUT = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
INITIALIZE = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": ABOUT}
HEADERS = {"accept": "application/json, text/event-stream"}


async def main(tells: bool) -> None:
    mcp_app = server.streamable_http_app()
    ending = EndInApp(mcp_app)
    now = 0.0
    manager = SessionManager(SessionConfig(max_idle_time=20), on_close=ending.end if tells else None, clock=lambda: now)
    app = SessionLeaseMiddleware(ending, manager, McpMatcher(), on_stray=ending.end_stray)
    client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://127.0.0.1:8000", headers=HEADERS)
    async with lifespan(manager, mcp_app.router.lifespan_context)(mcp_app), client:
        for _round in range(4):
            for _client in range(5):
                (await client.post("/mcp", json=INITIALIZE)).raise_for_status()
            now += 30
            await manager.cleanup_stale_sessions()
        held = {"ours": len(manager), "theirs": len(server.session_manager._server_instances)}
    stats = manager.get_metrics()
    sys.stdout.write(json.dumps(held | {"created": stats.total_created, "errors": stats.cleanup_errors}))


anyio.run(main, "bare" not in sys.argv)
