"""The upstream: a toy server of MCP's Streamable HTTP that takes a moment to answer.

The server knows only the sessions that it has opened. An `initialize` opens a session, and a DELETE ends the session.
Every other message needs a session, and gets 404 without one.
"""

import argparse
import random
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from otel_sessions._program.arguments import ADDRESS, argument
from otel_sessions._program.otlp import exporting
from otel_sessions.demo.load.mcp import HEADER, PATH, REVISION

from .serving import add_descriptor, serve

_WORK_SECONDS: Final = (0.002, 0.02)


class Upstream:
    """The app, and the ids of its sessions."""

    def __init__(self) -> None:
        self._sessions: set[str] = set()
        self.app: Final[Starlette] = Starlette(
            lifespan=_exporting,
            routes=[
                Route("/healthz", _health),
                Route(PATH, self._answer, methods=["POST"]),
                Route(PATH, self._end, methods=["DELETE"]),
            ],
        )

    async def _answer(self, request: Request) -> Response:
        try:
            message = await request.json()
        except ClientDisconnect:  # the proxy was stopped
            return Response()
        await anyio.sleep(random.uniform(*_WORK_SECONDS))
        if message["method"] == "initialize":
            return self._open(message["id"])
        if request.headers.get(HEADER) not in self._sessions:
            return _not_found(message.get("id"))
        if "id" not in message:
            return Response(status_code=202)  # a notification
        return _result(message["id"], {"content": [{"type": "text", "text": "done"}]})

    async def _end(self, request: Request) -> Response:
        session_id = request.headers.get(HEADER)
        if session_id not in self._sessions:
            return _not_found(None)
        self._sessions.remove(session_id)
        return Response(status_code=204)

    def _open(self, number: int) -> Response:
        session_id = secrets.token_urlsafe(16)
        self._sessions.add(session_id)
        said = {
            "protocolVersion": REVISION,
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "toy", "version": "1"},
        }
        answer = _result(number, said)
        answer.headers[HEADER] = session_id
        return answer


async def _health(_request: Request) -> Response:
    return PlainTextResponse("ok\n")


def _result(number: int, result: object) -> Response:
    return JSONResponse({"jsonrpc": "2.0", "id": number, "result": result})


def _not_found(number: int | None) -> Response:
    error = {"code": -32600, "message": "Session not found"}
    return JSONResponse({"jsonrpc": "2.0", "id": number, "error": error}, 404)


@asynccontextmanager
async def _exporting(_app: Starlette) -> AsyncIterator[None]:
    with exporting("otel-sessions-upstream"):
        yield


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="A toy upstream that speaks a little MCP.")
    parser.add_argument(
        "--listen",
        type=argument(ADDRESS),
        default=("127.0.0.1", 8080),
        metavar="HOST:PORT",
        help="the address to listen on (default: 127.0.0.1:8080)",
    )
    add_descriptor(parser)
    return parser


if __name__ == "__main__":
    serve(Upstream().app, _parser().parse_args())
