"""A server for a proxy to stand in front of: it tells what it was asked, streams, stalls, and keeps sessions."""

import asyncio
import json
import os
import sys
import uuid
from collections.abc import AsyncIterator, Mapping

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

SESSIONS: dict[str, str] = {}
COUNTS = {"streams": 0, "waiting": 0, "sockets": 0, "farewells": 0, "held": 0}
RELEASED: list[asyncio.Event] = []


async def asked(request: Request) -> Response:
    """Say what has come in, headers in their order."""
    body = await request.body()
    return JSONResponse(
        {
            "method": request.method,
            "path": request.scope["raw_path"].decode(),
            "query": request.url.query,
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers.raw],
            "body": body.decode("latin-1"),
        },
        headers={"x-answer": "yes", "connection": "x-private", "x-private": "hop"},
    )


async def count(request: Request) -> Response:
    """Read a body without keeping it; return its size."""
    size = 0
    async for part in request.stream():
        size += len(part)
    return JSONResponse({"size": size})


async def large(request: Request) -> Response:
    parts, part = int(request.query_params["mib"]) * 16, b"x" * 65536

    async def body() -> AsyncIterator[bytes]:
        for _ in range(parts):
            yield part

    return StreamingResponse(body(), media_type="application/octet-stream")


async def events(request: Request, headers: Mapping[str, str] | None = None) -> Response:
    async def body() -> AsyncIterator[bytes]:
        COUNTS["streams"] += 1
        try:
            number = 0
            while True:
                number += 1
                yield f"id: {number}\nretry: 5\ndata: {number}\n\n".encode()
                await asyncio.sleep(0.05)
        finally:
            COUNTS["streams"] -= 1

    return StreamingResponse(body(), headers=headers, media_type="text/event-stream")


async def halting(request: Request) -> Response:
    """Be held between two events, or pause, and pause in the midst of one."""

    async def body() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        await (hold() if "held" in request.query_params else asyncio.sleep(1))
        yield b"data: 2"
        await asyncio.sleep(1)
        yield b" goes on\n\n"

    return StreamingResponse(body(), media_type="text/event-stream")


async def silent(request: Request) -> Response:
    """Begin a stream of events and say nothing."""

    async def body() -> AsyncIterator[bytes]:
        await asyncio.sleep(3600)
        yield b""

    return StreamingResponse(body(), media_type="text/event-stream")


async def never(request: Request) -> Response:
    """Await the client's end before there is so much as a head."""
    COUNTS["waiting"] += 1
    try:
        while (await request.receive())["type"] != "http.disconnect":
            pass
    finally:
        COUNTS["waiting"] -= 1
    return Response(status_code=204)


async def hold() -> None:
    """Wait until a test says that it may go on."""
    released = asyncio.Event()
    RELEASED.append(released)
    COUNTS["held"] += 1
    try:
        await released.wait()
    finally:
        COUNTS["held"] -= 1


async def release(request: Request) -> Response:
    """Let everybody go on who is held now."""
    for released in RELEASED:
        released.set()
    RELEASED.clear()
    return Response(status_code=204)


async def held(request: Request) -> Response:
    await hold()
    return Response("at last")


async def gone(request: Request) -> Response:
    return Response(status_code=404)


async def sized_events(request: Request) -> Response:
    """Tell the length of a stream of events before, and pause in it."""

    async def body() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        await asyncio.sleep(1)
        yield b"data: 2\n\n"

    return StreamingResponse(body(), headers={"content-length": "18"}, media_type="text/event-stream")


async def breaks(request: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        yield b"half"
        os._exit(1)

    return StreamingResponse(body(), headers={"content-length": "1000"})


async def mcp(request: Request) -> Response:
    """What the Streamable HTTP of MCP does with sessions, without its messages."""
    await request.body()
    named = request.headers.get("mcp-session-id")
    made = request.query_params.get("id")
    COUNTS["farewells"] += request.method == "DELETE"
    if request.method == "POST" and (named is None or made):
        if "held" in request.query_params:
            await hold()
        await asyncio.sleep(float(request.query_params.get("seconds", "0")))
        session_id = made or uuid.uuid4().hex
        SESSIONS[session_id] = request.headers.get("authorization", "")
        status = int(request.query_params.get("status", "200"))
        headers = {"mcp-session-id": session_id}
        if "stream" in request.query_params:
            return await events(request, headers)
        return JSONResponse({"result": "initialized"}, status, headers=headers)
    if named not in SESSIONS:
        return JSONResponse({"error": "the origin knows no such session"}, 404)
    if request.method == "DELETE":
        if request.headers.get("authorization", "") != SESSIONS[named]:
            return Response(status_code=401)
        del SESSIONS[named]
        return Response(status_code=204)
    if request.method == "GET":
        return await events(request)
    return JSONResponse({"result": "used"})


async def counts(request: Request) -> Response:
    return JSONResponse({**COUNTS, "sessions": len(SESSIONS)})


async def echo(socket: WebSocket) -> None:
    if denied := socket.headers.get("x-deny"):
        headers = {"location": "http://elsewhere.example/echo", "x-why": "tea"}
        await socket.send_denial_response(Response("no coffee", int(denied), headers))
        return
    if "path" in socket.query_params:
        await socket.accept(headers=[(b"x-path", socket.scope["raw_path"])])
        await socket.close()
        return
    await socket.accept(subprotocol=next(iter(socket.scope["subprotocols"]), None))
    COUNTS["sockets"] += 1
    try:
        while (message := await socket.receive())["type"] == "websocket.receive":
            if message.get("text") == "close 4001":
                await socket.close(4001, "as asked")
                return
            if message.get("text") == "headers":
                await socket.send_json(socket.headers.items())
                continue
            await socket.send({**message, "type": "websocket.send"})
    finally:
        COUNTS["sockets"] -= 1


app = Starlette(
    routes=[
        Route("/count", count, methods=["POST", "PUT"]),
        Route("/large", large),
        Route("/events", events),
        Route("/halting", halting),
        Route("/silent", silent),
        Route("/never", never, methods=["GET", "POST"]),
        Route("/held", held),
        Route("/release", release, methods=["POST"]),
        Route("/gone", gone),
        Route("/sized-events", sized_events),
        Route("/breaks", breaks),
        Route("/mcp", mcp, methods=["GET", "POST", "DELETE"]),
        Route("/counts", counts),
        WebSocketRoute("/echo{rest:path}", echo),
        Route("/{path:path}", asked, methods=["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"]),
    ]
)

if __name__ == "__main__":
    sys.stdout.write(json.dumps({"pid": os.getpid()}) + "\n")
    uvicorn.run(
        app,
        **{"port": int(sys.argv[1])} if sys.argv[1].isdecimal() else {"uds": sys.argv[1]},
        log_level="warning",
        ws="websockets-sansio",
        timeout_keep_alive=60,
        ssl_certfile=sys.argv[2] if len(sys.argv) > 2 else None,
    )
