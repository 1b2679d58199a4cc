"""An MCP server made with the SDK, of whichever major version is installed: `server.py PORT`.

GET /sessions says how many sessions it has. Each tool answers for its own session, and `announce` also sends a
notification that belongs to no request, so that it goes over the GET stream.
"""

import sys
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse

try:
    from mcp.server.mcpserver import Context, MCPServer

    NEW = True
except ImportError:
    from mcp.server.fastmcp import Context
    from mcp.server.fastmcp import FastMCP as MCPServer

    NEW = False


class Events:
    """What was sent, by number, for clients that come back for the rest."""

    def __init__(self) -> None:
        self._sent: list[tuple[str, Any]] = []

    async def store_event(self, stream_id: str, message: Any) -> str:
        self._sent.append((stream_id, message))
        return str(len(self._sent))

    async def replay_events_after(self, last_event_id: str, send_callback: Any) -> str | None:
        from mcp.server.streamable_http import EventMessage

        number = int(last_event_id)
        stream_id = self._sent[number - 1][0]
        for later, (of, message) in enumerate(self._sent[number:], start=number + 1):
            if of == stream_id and message is not None:
                await send_callback(EventMessage(message, str(later)))
        return stream_id


server = MCPServer("origin") if NEW else MCPServer("origin", event_store=Events())


@server.tool()
def add(a: int, b: int) -> int:
    """Return the sum."""
    return a + b


@server.tool()
async def announce(ctx: Context) -> str:
    """Tell the client that the tools have changed, though they have not."""
    await ctx.session.send_tool_list_changed()
    return "announced"


@server.custom_route("/sessions", methods=["GET"])
async def sessions(_request: Request) -> JSONResponse:
    return JSONResponse({"sessions": len(server.session_manager._server_instances)})


if __name__ == "__main__":
    app = server.streamable_http_app(event_store=Events()) if NEW else server.streamable_http_app()
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", timeout_keep_alive=60)
