"""An MCP client made with the SDK, of whichever major version is installed: `client.py URL MODE`.

It lists the tools, calls one, waits for a notification over the GET stream, and says as JSON what it got. MODE is
legacy, auto (the newest revision both sides have), or vanish: legacy, and gone without a goodbye.
"""

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio

URL, MODE = sys.argv[1:3]
notified = anyio.Event()


async def handle(message: Any) -> None:
    if "ToolListChanged" in type(getattr(message, "root", message)).__name__:
        notified.set()


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Any, str]]:
    try:
        from mcp import Client
    except ImportError:
        from mcp import ClientSession
        from mcp.client.streamable_http import streamablehttp_client

        async with (
            streamablehttp_client(URL) as (read, write, _),
            ClientSession(read, write, message_handler=handle) as session,
        ):
            answer = await session.initialize()
            yield session, str(answer.protocolVersion)
    else:
        async with Client(URL, mode="auto" if MODE == "auto" else "legacy", message_handler=handle) as client:
            yield client, str(client.protocol_version)


async def main() -> None:
    async with connected() as (client, revision):
        tools = sorted(tool.name for tool in (await client.list_tools()).tools)
        total = (await client.call_tool("add", {"a": 2, "b": 3})).content[0].text
        if MODE != "auto":
            while not notified.is_set():  # the GET stream is opened beside the first request, which may take a while
                await client.call_tool("announce", {})
                with anyio.move_on_after(0.3):
                    await notified.wait()
        sys.stdout.write(json.dumps({"revision": revision, "tools": tools, "sum": total}) + "\n")
        sys.stdout.flush()
        if MODE == "vanish":
            os._exit(0)


anyio.run(main)
