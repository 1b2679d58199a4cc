"""Many MCP clients at once, half of them the SDK's and half of them FastMCP's: `crowd.py URL CLIENTS CALLS`.

Each request goes over a connection of its own. All clients are connected before the first one calls a tool. It says as
JSON how many clients there were, which answers were right, and what went wrong. The clients' own warnings go to stderr.
"""

import json
import logging
import os
import sys
from typing import Any

import anyio
import anyio.lowlevel
import fastmcp
import httpx2
import mcp
from fastmcp.client.transports import StreamableHttpTransport
from mcp.client.streamable_http import streamable_http_client

logging.basicConfig(format="%(asctime)s %(name)s %(message)s")
URL, CLIENTS, CALLS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
said: dict[str, Any] = {"clients": 0, "right": 0, "wrong": 0, "errors": []}
connected = 0
all_connected = anyio.Event()


def without_affinity(**settings: Any) -> httpx2.AsyncClient:
    settings = {"follow_redirects": True, "timeout": httpx2.Timeout(100.0), "trust_env": False, **settings}
    return httpx2.AsyncClient(limits=httpx2.Limits(max_keepalive_connections=0), **settings)


async def use(client: Any, number: int) -> None:
    global connected
    connected += 1
    if connected == CLIENTS:
        all_connected.set()
    await all_connected.wait()
    for call in range(CALLS):
        answer = await client.call_tool("add", {"a": number, "b": call})
        said["right" if answer.content[0].text == str(number + call) else "wrong"] += 1
    said["clients"] += 1


async def live(number: int) -> None:
    try:
        if number % 2:
            transport = StreamableHttpTransport(URL, httpx_client_factory=without_affinity)
            async with fastmcp.Client(transport, mode="legacy") as client:
                await use(client, number)
        else:
            async with (
                without_affinity() as http,
                mcp.Client(streamable_http_client(URL, http_client=http), mode="legacy") as client,
            ):
                await use(client, number)
    except Exception as error:
        said["errors"].append(repr(error))
        all_connected.set()


async def main() -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(CLIENTS):
            tasks.start_soon(live, number)
            await anyio.lowlevel.checkpoint()


anyio.run(main)
sys.stdout.write(json.dumps(said) + "\n")
sys.stdout.flush()
os._exit(0)
