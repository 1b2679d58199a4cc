"""The upstream: a toy service behind the proxy that takes a moment to answer, and breaks down when asked to."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from otel_sessions.proxy.otlp import exporting

from .serving import parser, serve

_WORK_SECONDS = (0.002, 0.02)


async def _work(_request: Request) -> PlainTextResponse:
    await anyio.sleep(random.uniform(*_WORK_SECONDS))
    return PlainTextResponse("done\n")


async def _fail(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("broken\n", 500)


@asynccontextmanager
async def _exporting(_app: Starlette) -> AsyncIterator[None]:
    with exporting("otel-sessions-upstream"):
        yield


app = Starlette(
    lifespan=_exporting, routes=[Route("/fail", _fail), Route("/{path:path}", _work, methods=["GET", "POST"])]
)

if __name__ == "__main__":
    serve(app, parser("A toy upstream.").parse_args())
