"""Serves apps of the documentation, asks each what its page is about, and prints what came of it, a line each.

Use: `python -m tests.docs.serve NAME FILE [NAME FILE ...]`.
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


def client_of(app: ASGIApp, **headers: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=BASE, headers=headers)


async def two_visits(module: ModuleType) -> list[Any]:
    """Ask for the root twice; any answer that is no error will do."""
    async with serving(module.app), client_of(module.app) as client:
        return [(await client.get("/")).raise_for_status().text for _ in range(2)]


async def two_requests(module: ModuleType) -> list[Any]:
    async with serving(module.app), client_of(module.app) as client:
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


class McpClient:
    """Speaks MCP's Streamable HTTP as far as two calls need it."""

    def __init__(self, app: ASGIApp, prefix: str = "", token: str | None = None) -> None:
        own = {} if token is None else {"authorization": f"Bearer {token}"}
        self.http = client_of(app, accept="application/json, text/event-stream", **own)
        self._path = f"{prefix}/mcp"

    async def post(self, method: str, params: dict[str, Any], **number: int) -> httpx2.Response:
        message = {"jsonrpc": "2.0", "method": method, "params": params, **number}
        return await self.http.post(self._path, json=message)

    async def begin(self) -> str:
        about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        began = (await self.post("initialize", about, id=0)).raise_for_status()
        session_id = began.headers["mcp-session-id"]
        self.http.headers |= {"mcp-session-id": session_id, "mcp-protocol-version": "2025-06-18"}
        (await self.post("notifications/initialized", {})).raise_for_status()
        return session_id

    async def add(self, a: int, b: int) -> str:
        answer = (
            await self.post("tools/call", {"name": "add", "arguments": {"a": a, "b": b}}, id=a)
        ).raise_for_status()
        (line,) = [line for line in answer.text.splitlines() if line.startswith("data: {")]
        text: str = json.loads(line[6:])["result"]["content"][0]["text"]
        return text


async def two_calls(module: ModuleType, prefix: str = "") -> list[Any]:
    async with serving(module.app):
        client = McpClient(module.app, prefix)
        await client.begin()
        return [await client.add(a, 1) for a in (1, 2)]


async def two_calls_below_tools(module: ModuleType) -> list[Any]:
    return await two_calls(module, "/tools")


async def two_calls_among_users(module: ModuleType) -> list[Any]:
    """Call as the owner of a session, and ask for it without a token and as somebody else; end it in the app, too."""
    async with serving(module.app):
        ada, eve, nobody = (McpClient(module.app, token=token) for token in ("token-of-ada", "token-of-eve", None))
        session_id = await ada.begin()
        refused = []
        for other in (nobody, eve):
            other.http.headers["mcp-session-id"] = session_id
            refused.append((await other.post("tools/list", {}, id=9)).status_code)
        answers: list[Any] = [await ada.add(a, 1) for a in (1, 2)]
        theirs = module.ending._app.session_manager._server_instances
        held = len(theirs)
        await module.manager.close_session(session_id)
        return [*answers, *refused, held, len(theirs)]


async def two_requests_by_aiohttp(module: ModuleType) -> list[Any]:
    jar = aiohttp.CookieJar(unsafe=True)  # cookies of addresses, too
    server = aiohttp.test_utils.TestServer(module.app)
    async with aiohttp.test_utils.TestClient(server, cookie_jar=jar) as client:
        return [await (await client.get("/", params={"item": item})).json() for item in ("apple", "pear")]


WAYS: dict[str, Callable[[ModuleType], Coroutine[Any, Any, list[Any]]]] = {
    "how-to/starlette:1": two_requests,
    "how-to/fastapi:1": two_requests,
    "how-to/litestar:1": two_requests,
    "how-to/quart:1": two_requests,
    "how-to/django:1": two_requests,
    "how-to/django:2": two_websockets,
    "how-to/mcp:1": two_calls,
    "how-to/mcp:2": two_calls_below_tools,
    "how-to/mcp:3": two_calls_among_users,
    "how-to/mcp:4": two_calls_among_users,
    "how-to/migrate-from-the-mcp-sdk:1": two_calls,
    "how-to/aiohttp:1": two_requests_by_aiohttp,
}
"""How an app is asked that has more to show than two visits."""


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


async def serve(name: str, module: ModuleType) -> dict[str, Any]:
    """Return the app's answers, and what is true of its manager then."""
    answers = await WAYS.get(name, two_visits)(module)
    try:
        await module.manager.cleanup_stale_sessions()
        runs = True
    except ManagerClosed:
        runs = False
    stats = module.manager.get_metrics()
    said = {"answers": answers, "runs": runs, "created": stats.total_created}
    return said | {"active": stats.currently_active, "errors": stats.cleanup_errors}


if __name__ == "__main__":
    for name, file in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        print(json.dumps(asyncio.run(serve(name, load(Path(file))))))  # noqa: T201  # its one use
