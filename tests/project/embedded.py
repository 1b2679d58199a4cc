"""Serves one snippet of docs/embedding.md, asks it twice, and prints what came of it.

Use: `python -m tests.project.embedded NAME FILE`.

Each snippet gets a process of its own, because Django can be configured only once in each.
"""

import asyncio
import importlib.util
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import aiohttp.test_utils
import httpx2

from otel_sessions import ManagerClosed
from otel_sessions.asgi import ASGIApp, Message, Scope

BASE = "http://127.0.0.1:8000"
WAIT_SECONDS = 100.0
"""Longer than anything takes on a machine that is busy; only what never comes takes as long."""


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[None]:
    """Be a server that has its lifespan protocol on."""
    events: asyncio.Queue[Message] = asyncio.Queue()
    answers: asyncio.Queue[Message] = asyncio.Queue()
    task = asyncio.ensure_future(app({"type": "lifespan", "asgi": {}, "state": {}}, events.get, answers.put))
    for stage in ("startup", "shutdown"):
        await events.put({"type": f"lifespan.{stage}"})
        answer = await asyncio.wait_for(answers.get(), WAIT_SECONDS)
        assert answer["type"] == f"lifespan.{stage}.complete", answer
        if stage == "startup":
            yield
    await asyncio.wait_for(task, WAIT_SECONDS)


async def two_requests(module: ModuleType) -> list[Any]:
    transport = httpx2.ASGITransport(module.app)
    async with serving(module.app), httpx2.AsyncClient(transport=transport, base_url=BASE) as client:
        answers = [await client.get("/", params={"item": item}) for item in ("apple", "pear")]
    return [answer.raise_for_status().json() for answer in answers]


class Socket:
    """One WebSocket of a client that sends a text, reads one, and leaves."""

    def __init__(self, text: str, cookie: bytes) -> None:
        self._says: list[Message] = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": text}]
        self._left = asyncio.Event()
        self._sent: asyncio.Queue[Message] = asyncio.Queue()
        headers = [(b"host", b"127.0.0.1"), *([(b"cookie", cookie)] if cookie else [])]
        self._scope: Scope = {"type": "websocket", "path": "/", "raw_path": b"/", "headers": headers, "asgi": {}}
        self._scope |= {"query_string": b"", "root_path": "", "scheme": "ws", "client": ("127.0.0.1", 9)}

    async def talk(self, app: ASGIApp) -> tuple[Message, Message]:
        """Return how the app accepted, and what it said then."""
        task = asyncio.ensure_future(app(self._scope, self._receive, self._sent.put))
        accepted, answer = [await asyncio.wait_for(self._sent.get(), WAIT_SECONDS) for _ in range(2)]
        self._left.set()
        await asyncio.wait_for(task, WAIT_SECONDS)
        return accepted, answer

    async def _receive(self) -> Message:
        if self._says:
            return self._says.pop(0)
        await self._left.wait()
        return {"type": "websocket.disconnect", "code": 1000}


async def two_websockets(module: ModuleType) -> list[Any]:
    async with serving(module.app):
        accepted, first = await Socket('"apple"', b"").talk(module.app)
        cookie = dict(accepted["headers"])[b"set-cookie"].partition(b";")[0]
        _, second = await Socket('"pear"', cookie).talk(module.app)
    return [json.loads(answer["text"]) for answer in (first, second)]


async def two_calls(module: ModuleType, prefix: str = "") -> list[Any]:
    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    headers = {"accept": "application/json, text/event-stream"}
    transport = httpx2.ASGITransport(module.app)
    async with serving(module.app), httpx2.AsyncClient(transport=transport, base_url=BASE, headers=headers) as client:

        async def call(method: str, params: dict[str, Any], **number: int) -> httpx2.Response:
            message = {"jsonrpc": "2.0", "method": method, "params": params, **number}
            return (await client.post(f"{prefix}/mcp", json=message)).raise_for_status()

        began = await call("initialize", about, id=0)
        client.headers |= {"mcp-session-id": began.headers["mcp-session-id"], "mcp-protocol-version": "2025-06-18"}
        await call("notifications/initialized", {})
        answers = [await call("tools/call", {"name": "add", "arguments": {"a": a, "b": 1}}, id=a) for a in (1, 2)]
    lines = [line for answer in answers for line in answer.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line[6:])["result"]["content"][0]["text"] for line in lines]


async def two_calls_below_tools(module: ModuleType) -> list[Any]:
    return await two_calls(module, "/tools")


async def two_requests_by_aiohttp(module: ModuleType) -> list[Any]:
    jar = aiohttp.CookieJar(unsafe=True)  # cookies of addresses, too
    server = aiohttp.test_utils.TestServer(module.app)
    async with aiohttp.test_utils.TestClient(server, cookie_jar=jar) as client:
        return [await (await client.get("/", params={"item": item})).json() for item in ("apple", "pear")]


async def two_lines(module: ModuleType) -> list[Any]:
    with aiohttp.test_utils.get_unused_port_socket("127.0.0.1") as socket:
        port = socket.getsockname()[1]
    serving = asyncio.ensure_future(module.serve(port=port))
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            break
        except ConnectionRefusedError:
            await asyncio.sleep(0.01)
    answers = []
    for item in (b"apple\n", b"pear\n"):
        writer.write(item)
        answers.append((await asyncio.wait_for(reader.readline(), WAIT_SECONDS)).decode())
    serving.cancel()
    await asyncio.wait([serving], timeout=WAIT_SECONDS)
    assert await asyncio.wait_for(reader.read(), WAIT_SECONDS) == b""  # it has hung up
    writer.close()
    return answers


WAYS: dict[str, Callable[[ModuleType], Coroutine[Any, Any, list[Any]]]] = {
    "Channels": two_websockets,
    "MCP SDK": two_calls,
    "FastMCP": two_calls_below_tools,
    "aiohttp, by hand": two_requests_by_aiohttp,
    "asyncio, by hand": two_lines,
}


async def main(name: str, path: Path) -> None:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    answers = await WAYS.get(name, two_requests)(module)
    try:
        await module.manager.cleanup_stale_sessions()
        runs = True
    except ManagerClosed:
        runs = False
    stats = module.manager.get_metrics()
    said = {"answers": answers, "runs": runs, "created": stats.total_created, "active": stats.currently_active}
    sys.stdout.write(json.dumps(said | {"errors": stats.cleanup_errors}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
